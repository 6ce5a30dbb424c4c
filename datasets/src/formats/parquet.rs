//! Parquet shards as the Hugging Face hub holds them: a column of images, a struct of `bytes` and
//! `path`, and a column of labels, whose names are in the schema's metadata.
//!
//! A page is the least that can be decompressed alone. At open the labels are read, and of the
//! images the pages' headers; an image is then found in its page, and the pages last used are kept,
//! up to 256 MiB of them. So shuffled reading of a larger set decompresses a page an image. That is
//! nothing where pages are not compressed, as the datasets library writes images, and a millisecond
//! or two at pyarrow's defaults, where a page is 1,024 small images; a set whose pages are much
//! larger is better written again.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::parquet::column::page::PageReader;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, RowGroupReader};
use ::parquet::file::serialized_reader::SerializedFileReader;
use bytes::Bytes;
use peft_core::Result;
use peft_core::data::{Dataset, DatasetConfig};
use peft_core::error::listed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::files::Place;
use crate::indexed::{Indexed, Item, Source};
use crate::labels::{read_names, resolve};
use crate::shards::{Mapped, expand};
use crate::split::{BySplit, default_validation_fraction, set_aside};

/// Bytes of encoded images in pages that are kept for the next reader.
const KEPT: usize = 256 << 20;

/// Parquet shards of the Hugging Face hub: images and labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parquet {
    /// The folder of the shards.
    pub root: PathBuf,
    /// The shards of the training split: a path below the root, or a pattern in which `*` stands for
    /// any part of a name.
    pub train: String,
    /// The same for the validation split. Without it a part of `train` is set aside.
    #[serde(default)]
    pub validation: Option<String>,
    /// The same for the test split.
    pub test: String,
    /// The column of the images: a struct of `bytes` and `path`, or bytes.
    #[serde(default = "default_image")]
    pub image: String,
    /// The column of the labels: whole numbers or texts.
    #[serde(default = "default_label")]
    pub label: String,
    /// A text file with the names of the classes, one a line. Without it they are in the schema; or
    /// else labels that are all numbers are their own names, and names are sorted.
    #[serde(default)]
    pub names: Option<PathBuf>,
    /// Part of each class of `train` that becomes the validation split where there is none: a number
    /// in (0, 1). Within a class the rows are ordered by the blake3 hash of their index over all
    /// training shards (as a little-endian `u32`); the first ones validate.
    #[serde(default = "default_validation_fraction")]
    pub validation_fraction: f32,
}

fn default_image() -> String {
    "image".into()
}

fn default_label() -> String {
    "label".into()
}

#[typetag::serde(name = "parquet")]
impl DatasetConfig for Parquet {
    fn open(&self) -> Result<Box<dyn Dataset>> {
        Ok(Box::new(self.read()?))
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        [&mut self.root]
            .into_iter()
            .chain(&mut self.names)
            .collect()
    }
}

peft_core::register!(
    Dataset,
    Parquet,
    name: "parquet",
    summary: "parquet shards of images and labels, as the Hugging Face hub holds them",
    reference: "the storage of the datasets library, Lhoest et al., 2021",
    example: "name: parquet\nroot: data/cifar10\ntrain: plain_text/train-*.parquet\n\
              test: plain_text/test-*.parquet\n",
);

/// A row before its label is an index.
struct Row {
    at: At,
    label: String,
    place: Place,
}

impl Parquet {
    fn read(&self) -> Result<Indexed<Shards>, Error> {
        let root = fs_err::canonicalize(&self.root)?;
        let mut shards = Shards::default();
        // The names of the first shard that has some.
        let mut names = None;
        let mut read = |field, pattern: &str| -> Result<Vec<Row>, Error> {
            let mut rows = Vec::new();
            for path in expand(&root, field, pattern)? {
                rows.extend(shards.add(path, self, &mut names)?);
            }
            Ok(rows)
        };
        let rows = BySplit {
            train: read("train", &self.train)?,
            validation: match &self.validation {
                Some(pattern) => read("validation", pattern)?,
                None => Vec::new(),
            },
            test: read("test", &self.test)?,
        };
        if let Some(path) = &self.names {
            names = Some(read_names(path)?);
        }
        let texts = rows.iter().flatten();
        let texts: Vec<_> = texts.map(|row| (row.label.clone(), &row.place)).collect();
        let (classes, labels) = resolve(&texts, names)?;
        let mut labels = labels.into_iter();
        let mut splits = rows.map(|rows| -> Vec<Item<At>> {
            let items = rows.into_iter().zip(&mut labels).map(|(row, label)| Item {
                label,
                group: None,
                at: row.at,
            });
            items.collect()
        });
        if splits.validation.is_empty() {
            let mut indexed: Vec<_> = (0..).zip(splits.train).collect();
            let validation = set_aside(
                &mut indexed,
                self.validation_fraction,
                |(_, item)| item.label,
                |(index, _): &(u32, _)| index.to_le_bytes(),
            )?;
            let items = |indexed: Vec<(u32, Item<At>)>| indexed.into_iter().map(|(_, i)| i);
            splits.train = items(indexed).collect();
            splits.validation = items(validation).collect();
        }
        Ok(Indexed::new(classes, splits, shards))
    }
}

/// Where an image lies.
#[derive(Debug, Clone, Copy)]
struct At {
    shard: usize,
    /// In the whole shard, from 0.
    row: usize,
}

/// The mapped shards and the pages last used.
#[derive(Default)]
struct Shards {
    shards: Vec<Shard>,
    kept: Mutex<VecDeque<Kept>>,
}

/// The images of a page; none where the row has none.
type Images = Arc<Vec<Option<ByteArray>>>;

/// A page that was used.
struct Kept {
    shard: usize,
    page: usize,
    images: Images,
    /// Of all images.
    bytes: usize,
}

struct Shard {
    path: PathBuf,
    reader: SerializedFileReader<Bytes>,
    /// The leaf column of the images' bytes.
    column: usize,
    pages: Vec<Page>,
}

/// Rows that are decompressed together.
#[derive(Debug, Clone, Copy)]
struct Page {
    group: usize,
    /// In the row group, and in the whole shard.
    row_in_group: usize,
    row: usize,
    rows: usize,
}

impl Shards {
    /// Maps one more shard, reads its labels and finds its pages; notes the names of the classes.
    fn add(
        &mut self,
        path: PathBuf,
        config: &Parquet,
        names: &mut Option<Vec<String>>,
    ) -> Result<Vec<Row>, Error> {
        if self.shards.iter().any(|known| known.path == path) {
            let expected = "shards that belong to one split";
            return Err(Error::layout(path, expected, "one that belongs to two"));
        }
        let damaged = |error: ParquetError| {
            Error::layout(&path, "a complete parquet file", error.to_string())
        };
        let content = Bytes::from_owner(Mapped::open(&path)?);
        let reader = SerializedFileReader::new(content).map_err(damaged)?;
        let image = [format!("{}.bytes", config.image), config.image.clone()];
        let column = leaf(&reader, &path, &image)?;
        let labels = leaf(&reader, &path, std::slice::from_ref(&config.label))?;

        let own = class_names(&reader, &config.label);
        match (own, &mut *names) {
            (Some(own), Some(names)) if own != *names => {
                let expected = format!(
                    "the class names of the shards before ({})",
                    listed(names, 10)
                );
                return Err(Error::layout(path, expected, listed(&own, 10)));
            }
            (own, names @ None) => *names = own,
            _ => {}
        }

        let shard = self.shards.len();
        let first = Place::first(&path, "row");
        let (mut rows, mut pages) = (Vec::new(), Vec::new());
        for group in 0..reader.num_row_groups() {
            let start = rows.len();
            let row_group = reader.get_row_group(group).map_err(damaged)?;
            for label in read_labels(&*row_group, labels).map_err(damaged)? {
                let place = first.at(rows.len());
                let Some(label) = label else {
                    return Err(Error::record(place, "a label", "null"));
                };
                let at = At {
                    shard,
                    row: rows.len(),
                };
                rows.push(Row { at, label, place });
            }
            let headers = row_group.get_column_page_reader(column).map_err(damaged)?;
            let mut row_in_group = 0;
            for page_rows in rows_of_pages(headers).map_err(damaged)? {
                pages.push(Page {
                    group,
                    row_in_group,
                    row: start + row_in_group,
                    rows: page_rows,
                });
                row_in_group += page_rows;
            }
            if row_in_group != rows.len() - start {
                let expected = format!("as many images as labels in row group {group}");
                let got = format!("{row_in_group} images, {} labels", rows.len() - start);
                return Err(Error::layout(path, expected, got));
            }
        }
        if rows.is_empty() {
            return Err(Error::layout(path, "a row an image", "no row"));
        }
        self.shards.push(Shard {
            path,
            reader,
            column,
            pages,
        });
        Ok(rows)
    }

    /// The images of a page, decompressed now or kept from before.
    fn page(&self, shard: usize, page: usize) -> Result<Images, ParquetError> {
        // A thread that panicked has left the pages whole: they are never changed in place.
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = kept();
            let same = |kept: &Kept| (kept.shard, kept.page) == (shard, page);
            if let Some(found) = kept.iter().position(same) {
                let newest = kept.remove(found);
                kept.extend(newest);
                return Ok(kept[kept.len() - 1].images.clone());
            }
        }
        let images = Arc::new(self.shards[shard].decompress(page)?);
        let newest = Kept {
            shard,
            page,
            bytes: images.iter().flatten().map(ByteArray::len).sum(),
            images: images.clone(),
        };
        let mut kept = kept();
        kept.push_back(newest);
        let mut total: usize = kept.iter().map(|kept| kept.bytes).sum();
        while total > KEPT && kept.len() > 1 {
            total -= kept.pop_front().map_or(0, |kept| kept.bytes);
        }
        Ok(images)
    }
}

impl Shard {
    fn decompress(&self, page: usize) -> Result<Vec<Option<ByteArray>>, ParquetError> {
        let Page {
            group,
            row_in_group,
            rows,
            ..
        } = self.pages[page];
        let group = self.reader.get_row_group(group)?;
        let ColumnReader::ByteArrayColumnReader(mut column) =
            group.get_column_reader(self.column)?
        else {
            return Err(ParquetError::General("expected a column of bytes".into()));
        };
        let metadata = group.metadata().column(self.column);
        let levels = metadata.column_descr().max_def_level();
        column.skip_records(row_in_group)?;
        read_values::<ByteArrayType>(&mut column, levels, rows)
    }
}

impl Source for Shards {
    type At = At;

    fn name(&self, at: &At) -> String {
        format!("`{}` row {}", self.shards[at.shard].path.display(), at.row)
    }

    fn bytes(&self, at: &At) -> Result<Cow<'_, [u8]>, Error> {
        let unread = |got: String| Error::record(self.name(at), "the bytes of an image", got);
        let pages = &self.shards[at.shard].pages;
        let page = pages.partition_point(|page| page.row <= at.row) - 1;
        let images = self
            .page(at.shard, page)
            .map_err(|error| unread(error.to_string()))?;
        let image = images.get(at.row - pages[page].row).cloned().flatten();
        image.map_or(Err(unread("null".into())), |image| {
            Ok(image.data().to_vec().into())
        })
    }
}

/// The leaf column of one of these names, of a type that can be it.
fn leaf(
    reader: &SerializedFileReader<Bytes>,
    path: &Path,
    names: &[String],
) -> Result<usize, Error> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let columns = schema.columns();
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

/// The names that the datasets library leaves in the schema's metadata.
fn class_names(reader: &SerializedFileReader<Bytes>, label: &str) -> Option<Vec<String>> {
    let metadata = reader.metadata().file_metadata().key_value_metadata()?;
    let text = metadata
        .iter()
        .find(|entry| entry.key == "huggingface")?
        .value
        .as_ref()?;
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    serde_json::from_value(value["info"]["features"][label]["names"].clone()).ok()
}

/// The rows of each data page; only headers are read.
fn rows_of_pages(mut pages: Box<dyn PageReader>) -> Result<Vec<usize>, ParquetError> {
    let mut rows = Vec::new();
    while let Some(page) = pages.peek_next_page()? {
        // Without repetition a level is a row.
        if !page.is_dict {
            let known = page.num_rows.or(page.num_levels);
            rows.push(known.ok_or_else(|| ParquetError::General("a page without a count".into()))?);
        }
        pages.skip_next_page()?;
    }
    Ok(rows)
}

/// The labels of a row group as texts.
fn read_labels(
    group: &dyn RowGroupReader,
    column: usize,
) -> Result<Vec<Option<String>>, ParquetError> {
    let metadata = group.metadata();
    let levels = metadata.column(column).column_descr().max_def_level();
    let rows = metadata.num_rows() as usize;
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
        _ => {
            return Err(ParquetError::General(
                "labels that are neither whole numbers nor texts".into(),
            ));
        }
    })
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
    while read < rows {
        let (records, ..) =
            reader.read_records(rows - read, Some(&mut levels), None, &mut values)?;
        if records == 0 {
            return Err(ParquetError::EOF(format!("{read} of {rows} rows")));
        }
        read += records;
    }
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

#[cfg(test)]
mod tests {
    use peft_core::data::Split;

    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/data/parquet");

    fn config(train: &str) -> Parquet {
        Parquet {
            root: FOLDER.into(),
            train: train.into(),
            validation: Some("data/validation-*.parquet".into()),
            test: "data/test-*.parquet".into(),
            image: default_image(),
            label: default_label(),
            names: None,
            validation_fraction: default_validation_fraction(),
        }
    }

    fn message(config: &Parquet) -> String {
        config.read().err().unwrap().to_string()
    }

    /// `fixtures/scripts/data.py` made the shards with the datasets library and pyarrow.
    #[test]
    fn every_codec_page_and_encoding_holds_the_same_pictures() {
        let file = fs_err::read(format!("{FOLDER}/../pictures.safetensors")).unwrap();
        let pictures = safetensors::SafeTensors::deserialize(&file).unwrap();
        let pictures = pictures.tensor("train.images").unwrap();
        let pictures: Vec<_> = pictures.data().chunks_exact(9 * 8 * 3).collect();
        for train in [
            "data/train-*",
            "plain.*",
            "gzip_v2.*",
            "zstd_pages.*",
            "lz4_names.*",
            "delta.*",
        ] {
            let data = config(train).read().map_err(|e| e.to_string()).unwrap();
            assert_eq!(data.classes(), ["ant", "bee", "cat"], "{train}");
            assert_eq!(
                Split::ALL.map(|split| data.len(split)),
                [12, 6, 6],
                "{train}"
            );
            // Backwards, so that pages are not met in order.
            for index in (0..12).rev() {
                let sample = data.sample(Split::Train, index).unwrap();
                assert_eq!(sample.image.rgb, pictures[index], "{train} {index}");
                assert_eq!(sample.label, index % 3, "{train} {index}");
            }
        }
        let pages = |train| {
            config(train)
                .read()
                .unwrap_or_else(|e| panic!("{e}"))
                .source
                .shards[0]
                .pages
                .len()
        };
        assert!(pages("zstd_pages.*") > 4);
        assert_eq!(pages("gzip_v2.*"), 3);
    }

    #[test]
    fn a_part_of_train_validates_where_nothing_else_does() {
        let with = Parquet {
            validation: None,
            ..config("data/train-*")
        };
        let data = with.read().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Split::ALL.map(|split| data.len(split)), [9, 3, 6]);
        let whole = config("plain.*").read().unwrap_or_else(|e| panic!("{e}"));
        let sharded = config("data/train-*")
            .read()
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            whole.fingerprint().unwrap(),
            sharded.fingerprint().unwrap(),
            "how rows are packed makes no difference"
        );
    }

    #[test]
    fn a_row_without_an_image_is_named_and_the_others_are_read() {
        let data = config("holed.*").read().unwrap_or_else(|e| panic!("{e}"));
        let message = data.image(Split::Train, 3).unwrap_err().to_string();
        assert!(
            message.ends_with("holed.parquet` row 3: expected the bytes of an image, got null"),
            "{message}"
        );
        assert!((0..12).all(|index| data.image(Split::Train, index).is_ok() == (index != 3)));
        assert!(data.fingerprint().is_ok());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let picture = Parquet {
            image: "picture".into(),
            ..config("plain.*")
        };
        let found = message(&picture);
        let expected =
            "expected a column `picture.bytes` or `picture`, got image.bytes, image.path, label";
        assert!(found.contains(expected), "{found}");
        let found = message(&config("data/test-*"));
        assert!(found.contains("shards that belong to one split"), "{found}");

        let folder = tempfile::tempdir().unwrap();
        let whole = fs_err::read(format!("{FOLDER}/plain.parquet")).unwrap();
        let broken = |bytes: &[u8]| {
            fs_err::write(folder.path().join("train.parquet"), bytes).unwrap();
            let config = Parquet {
                root: folder.path().into(),
                ..config("train.parquet")
            };
            message(&config)
        };
        for bytes in [&b""[..], b"not parquet at all", &whole[..whole.len() / 2]] {
            let message = broken(bytes);
            assert!(
                message.contains("train.parquet`: expected a complete parquet file"),
                "{message}"
            );
        }
    }
}
