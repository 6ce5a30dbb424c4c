//! Columns of a parquet file: which one holds what, how many rows its pages have, and its values.

use std::fmt::Debug;
use std::path::Path;

use ::parquet::column::page::PageReader;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::{FileReader, RowGroupReader};
use ::parquet::file::serialized_reader::SerializedFileReader;
use bytes::Bytes;
use peft_core::error::listed;

use crate::error::Error;

/// The leaf column with one of these names; not one inside a list, of which a row may have many.
pub(super) fn leaf(
    reader: &SerializedFileReader<Bytes>,
    path: &Path,
    names: &[String],
) -> Result<usize, Error> {
    let columns = reader.metadata().file_metadata().schema_descr().columns();
    let found = names.iter().find_map(|name| {
        columns
            .iter()
            .position(|c| c.path().string() == *name && c.max_rep_level() == 0)
    });
    found.ok_or_else(|| {
        let known: Vec<String> = columns
            .iter()
            .map(|column| column.path().string())
            .collect();
        let expected = format!("a column `{}`", names.join("` or `"));
        Error::layout(path, expected, listed(&known, 12))
    })
}

/// The columns that hold the labels of a shard.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelColumn {
    /// The leaf column with one label per row.
    One(usize),
    /// The leaf column of a list of labels.
    List(usize),
}

/// The column `name` of labels: plain values, or lists of them.
pub(super) fn label_column(
    reader: &SerializedFileReader<Bytes>,
    path: &Path,
    name: &str,
) -> Result<LabelColumn, Error> {
    let columns = reader.metadata().file_metadata().schema_descr().columns();
    let list = columns.iter().position(|column| {
        column
            .path()
            .parts()
            .first()
            .is_some_and(|first| first == name)
            && column.max_rep_level() == 1
    });
    match (leaf(reader, path, &[name.to_owned()]), list) {
        (Ok(column), _) => Ok(LabelColumn::One(column)),
        (Err(_), Some(column)) => Ok(LabelColumn::List(column)),
        (Err(error), None) => Err(error),
    }
}

/// The class names that the datasets library writes into the schema's metadata.
pub(super) fn class_names(
    reader: &SerializedFileReader<Bytes>,
    label: &str,
) -> Option<Vec<String>> {
    let metadata = reader.metadata().file_metadata().key_value_metadata()?;
    let text = metadata
        .iter()
        .find(|entry| entry.key == "huggingface")?
        .value
        .as_ref()?;
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let feature = &value["info"]["features"][label];
    // Those of a list are at its elements, which the library writes in either way.
    let places = [feature, &feature["feature"], &feature[0]];
    let names = places.map(|feature| serde_json::from_value(feature["names"].clone()).ok());
    names.into_iter().flatten().next()
}

/// The number of rows in each data page; only headers are read.
pub(super) fn rows_of_pages(mut pages: Box<dyn PageReader>) -> Result<Vec<usize>, ParquetError> {
    let mut rows = Vec::new();
    while let Some(page) = pages.peek_next_page()? {
        // Version 1 of a page counts levels, not rows; without repetition there is one level per
        // row.
        if !page.is_dict {
            let known = page.num_rows.or(page.num_levels);
            rows.push(known.ok_or_else(|| ParquetError::General("a page without a count".into()))?);
        }
        pages.skip_next_page()?;
    }
    Ok(rows)
}

/// The lists of labels of a row group as texts; `None` where a list, or a label in it, is null.
pub(super) fn read_lists(
    group: &dyn RowGroupReader,
    column: usize,
) -> Result<Vec<Option<Vec<String>>>, ParquetError> {
    let metadata = group.metadata();
    let rows = metadata.num_rows() as usize;
    let described = metadata.column(column).column_descr();
    let schema = metadata.schema_descr();
    let levels = Levels {
        value: described.max_def_level(),
        // Below the level of a value by one if a value may be null.
        null: described
            .self_type()
            .is_optional()
            .then(|| described.max_def_level() - 1),
        null_list: schema.get_column_root(column).is_optional().then_some(0),
    };
    match group.get_column_reader(column)? {
        ColumnReader::Int64ColumnReader(mut reader) => {
            lists(&mut reader, levels, rows, |value| Ok(value.to_string()))
        }
        ColumnReader::Int32ColumnReader(mut reader) => {
            lists(&mut reader, levels, rows, |value| Ok(value.to_string()))
        }
        ColumnReader::ByteArrayColumnReader(mut reader) => {
            lists(&mut reader, levels, rows, |value: ByteArray| {
                Ok(value.as_utf8()?.to_owned())
            })
        }
        _ => Err(ParquetError::General(NO_LABELS.into())),
    }
}

/// The definition levels of a list's elements.
#[derive(Clone, Copy)]
struct Levels {
    /// An element that is there.
    value: i16,
    /// An element that is null, if it may be.
    null: Option<i16>,
    /// A list that is null, if it may be. Other levels are those of empty lists.
    null_list: Option<i16>,
}

/// The next `rows` lists of a column.
fn lists<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    levels: Levels,
    rows: usize,
    text: impl Fn(T::T) -> Result<String, ParquetError>,
) -> Result<Vec<Option<Vec<String>>>, ParquetError> {
    let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    let mut read = 0;
    while read < rows {
        let (records, ..) = reader.read_records(
            rows - read,
            Some(&mut defined),
            Some(&mut repeated),
            &mut values,
        )?;
        if records == 0 {
            return Err(ParquetError::EOF(format!("{read} of {rows} rows")));
        }
        read += records;
    }
    let mut values = values.into_iter();
    let mut lists: Vec<Option<Vec<String>>> = Vec::with_capacity(rows);
    for (level, repeated) in defined.into_iter().zip(repeated) {
        if repeated == 0 {
            lists.push(Some(Vec::new()));
        }
        let Some(list) = lists.last_mut() else {
            return Err(ParquetError::General("a list without a beginning".into()));
        };
        if level == levels.value {
            let value = values.next().map(&text).transpose()?;
            list.iter_mut().for_each(|list| list.extend(value.clone()));
        } else if Some(level) == levels.null || Some(level) == levels.null_list {
            *list = None;
        }
    }
    Ok(lists)
}

/// The labels of a row group as texts.
pub(super) fn read_labels(
    group: &dyn RowGroupReader,
    column: usize,
) -> Result<Vec<Option<String>>, ParquetError> {
    let levels = max_level(group.metadata().column(column));
    let rows = group.metadata().num_rows() as usize;
    Ok(match group.get_column_reader(column)? {
        ColumnReader::Int64ColumnReader(mut reader) => {
            texts(read_values(&mut reader, levels, rows)?)
        }
        ColumnReader::Int32ColumnReader(mut reader) => {
            texts(read_values(&mut reader, levels, rows)?)
        }
        ColumnReader::BoolColumnReader(mut reader) => {
            let flags = read_values(&mut reader, levels, rows)?;
            texts(flags.into_iter().map(|flag| flag.map(u8::from)).collect())
        }
        ColumnReader::ByteArrayColumnReader(mut reader) => {
            let values = read_values(&mut reader, levels, rows)?.into_iter();
            let text = |value: ByteArray| Ok(value.as_utf8()?.to_owned());
            values
                .map(|value| value.map(text).transpose())
                .collect::<Result<_, ParquetError>>()?
        }
        // Fractions are refused later, with the row.
        ColumnReader::DoubleColumnReader(mut reader) => {
            fractions(read_values(&mut reader, levels, rows)?)
        }
        ColumnReader::FloatColumnReader(mut reader) => {
            fractions(read_values(&mut reader, levels, rows)?)
        }
        _ => {
            return Err(ParquetError::General(NO_LABELS.into()));
        }
    })
}

/// `rows` images of a row group from row `first` on, encoded; `None` where a row has no image.
pub(super) fn read_images(
    group: &dyn RowGroupReader,
    column: usize,
    first: usize,
    rows: usize,
) -> Result<Vec<Option<ByteArray>>, ParquetError> {
    let levels = max_level(group.metadata().column(column));
    let ColumnReader::ByteArrayColumnReader(mut reader) = group.get_column_reader(column)? else {
        return Err(ParquetError::General("expected a column of bytes".into()));
    };
    reader.skip_records(first)?;
    read_values::<ByteArrayType>(&mut reader, levels, rows)
}

/// The definition level of a value that is not null.
fn max_level(column: &ColumnChunkMetaData) -> i16 {
    column.column_descr().max_def_level()
}

/// The message about a column of another type.
pub(super) const NO_LABELS: &str = "labels that are neither whole numbers nor texts";

/// The texts of fractions, which keep their point: `1.0`.
fn fractions<T: Debug>(values: Vec<Option<T>>) -> Vec<Option<String>> {
    values
        .into_iter()
        .map(|value| value.map(|value| format!("{value:?}")))
        .collect()
}

fn texts<T: ToString>(values: Vec<Option<T>>) -> Vec<Option<String>> {
    values
        .into_iter()
        .map(|value| value.map(|value| value.to_string()))
        .collect()
}

/// The next `rows` values of a column, with its nulls.
fn read_values<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    max_level: i16,
    rows: usize,
) -> Result<Vec<Option<T::T>>, ParquetError> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let mut read = 0;
    // A call stops at the end of a page.
    while read < rows {
        let (records, ..) =
            reader.read_records(rows - read, Some(&mut levels), None, &mut values)?;
        if records == 0 {
            return Err(ParquetError::EOF(format!("{read} of {rows} rows")));
        }
        read += records;
    }
    // A column that cannot be null has no levels.
    if max_level == 0 {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    let value = |level: i16| {
        if level == max_level {
            values.next()
        } else {
            None
        }
    };
    Ok(levels.into_iter().map(value).collect())
}
