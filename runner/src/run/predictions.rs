//! `predictions.csv` and `predictions.parquet`: what a finished run says of every image of validation and
//! test.

use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use peft_core::data::{Dataset, Split};

use crate::exit::{Exit, Failure, failure};
use crate::run::folder::RunFolder;
use crate::train::outputs::Outputs;

/// Most classes whose probabilities are columns of the CSV file; the parquet file has those of any number.
const COLUMNS: usize = 100;

/// The columns of the parquet file. Labels and predictions are indices into the `classes` of its metadata,
/// a list in JSON.
const SCHEMA: &str = "message predictions {
    required binary split (STRING);
    required binary image (STRING);
    required int32 label;
    required int32 prediction;
    required group probabilities (LIST) { repeated group list { required float element; } }
}";

/// One image.
struct Prediction<'a> {
    split: Split,
    image: String,
    label: usize,
    /// The most likely class, of equal ones the first.
    class: usize,
    probabilities: &'a [f32],
}

/// Writes both files into the folder of a run.
///
/// # Errors
/// If the disk cannot be written.
pub fn write(
    folder: &RunFolder,
    dataset: &dyn Dataset,
    outputs: &[(Split, Outputs)],
) -> Result<(), Failure> {
    let classes = dataset.classes();
    let all: Vec<Prediction> = outputs
        .iter()
        .flat_map(|(split, outputs)| {
            outputs
                .rows()
                .map(|(place, label, probabilities)| Prediction {
                    split: *split,
                    image: dataset.name(*split, place),
                    label,
                    class: most_likely(probabilities),
                    probabilities,
                })
        })
        .collect();
    let unexpected = |e: String| failure(Exit::Unexpected, format_args!("predictions: {e}"));
    let table = csv(classes, &all).map_err(|e| unexpected(e.to_string()))?;
    folder.write("predictions.csv", &table)?;
    let table = parquet(classes, &all).map_err(|e| unexpected(e.to_string()))?;
    folder.write("predictions.parquet", &table)
}

fn most_likely(probabilities: &[f32]) -> usize {
    let max = probabilities
        .iter()
        .fold(f32::NEG_INFINITY, |m, &p| m.max(p));
    probabilities.iter().position(|&p| p == max).unwrap_or(0)
}

fn csv(classes: &[String], all: &[Prediction]) -> Result<Vec<u8>, csv::Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let columns = if classes.len() <= COLUMNS {
        classes
    } else {
        &[]
    };
    let fixed = ["split", "image", "label", "prediction", "probability"];
    table.write_record(fixed.into_iter().chain(columns.iter().map(String::as_str)))?;
    for one in all {
        let fixed = [
            one.split.to_string(),
            one.image.clone(),
            classes[one.label].clone(),
            classes[one.class].clone(),
            one.probabilities[one.class].to_string(),
        ];
        let probabilities = one.probabilities.iter().take(columns.len());
        table.write_record(fixed.into_iter().chain(probabilities.map(f32::to_string)))?;
    }
    table.into_inner().map_err(|e| e.into_error().into())
}

fn parquet(classes: &[String], all: &[Prediction]) -> Result<Vec<u8>, ParquetError> {
    let names = serde_json::json!(classes).to_string();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_key_value_metadata(Some(vec![KeyValue::new("classes".to_owned(), names)]))
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let mut rows = file.next_row_group()?;
    let texts = |text: &dyn Fn(&Prediction) -> String| -> Vec<ByteArray> {
        all.iter().map(|one| text(one).as_str().into()).collect()
    };
    let numbers = |number: &dyn Fn(&Prediction) -> usize| -> Vec<i32> {
        all.iter().map(|one| number(one) as i32).collect()
    };
    column::<ByteArrayType>(&mut rows, &texts(&|one| one.split.to_string()), None)?;
    column::<ByteArrayType>(&mut rows, &texts(&|one| one.image.clone()), None)?;
    column::<Int32Type>(&mut rows, &numbers(&|one| one.label), None)?;
    column::<Int32Type>(&mut rows, &numbers(&|one| one.class), None)?;
    let probabilities: Vec<f32> = all
        .iter()
        .flat_map(|one| one.probabilities)
        .copied()
        .collect();
    // A level of 0 begins the list of the next image.
    let begins = |at: usize| i16::from(!at.is_multiple_of(classes.len()));
    let levels: Vec<i16> = (0..probabilities.len()).map(begins).collect();
    column::<FloatType>(&mut rows, &probabilities, Some(&levels))?;
    rows.close()?;
    file.into_inner()
}

/// Writes the next column. `levels` say which value of a list column begins a list.
fn column<T: DataType>(
    rows: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column = rows
        .next_column()?
        .ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
    // Every list has values, so that all of them are defined.
    let defined = levels.map(|levels| vec![1; levels.len()]);
    column
        .typed::<T>()
        .write_batch(values, defined.as_deref(), levels)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::FileReader;
    use parquet::file::serialized_reader::SerializedFileReader;
    use parquet::record::RowAccessor;

    use super::*;

    fn predictions<'a>(rows: &'a [[f32; 3]]) -> Vec<Prediction<'a>> {
        let place = rows.iter().enumerate();
        place
            .map(|(place, row)| Prediction {
                split: Split::Test,
                image: format!("some, \"{place}\".png"),
                label: place % 3,
                class: most_likely(row),
                probabilities: row,
            })
            .collect()
    }

    #[test]
    fn both_files_hold_every_image() {
        let classes = ["ant", "bee", "c,at"].map(str::to_owned);
        let rows = [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.125, 0.75, 0.125]];
        let all = predictions(&rows);
        let table = String::from_utf8(csv(&classes, &all).unwrap()).unwrap();
        let mut lines = table.lines();
        assert_eq!(
            lines.next(),
            Some("split,image,label,prediction,probability,ant,bee,\"c,at\"")
        );
        assert_eq!(
            lines.nth(1),
            Some("test,\"some, \"\"1\"\".png\",bee,\"c,at\",0.5,0.25,0.25,0.5")
        );
        let bytes = bytes::Bytes::from(parquet(&classes, &all).unwrap());
        let file = SerializedFileReader::new(bytes).unwrap();
        let metadata = file.metadata().file_metadata();
        let names = &metadata.key_value_metadata().unwrap()[0];
        assert_eq!(names.value.as_deref(), Some(r#"["ant","bee","c,at"]"#));
        let read: Vec<_> = file
            .get_row_iter(None)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(read.len(), 3);
        for ((read, one), row) in read.iter().zip(&all).zip(&rows) {
            assert_eq!(read.get_string(0).unwrap(), "test");
            assert_eq!(*read.get_string(1).unwrap(), one.image);
            assert_eq!(read.get_int(2).unwrap() as usize, one.label);
            assert_eq!(read.get_int(3).unwrap() as usize, one.class);
            let list = read.get_list(4).unwrap();
            let list: Vec<f32> = list
                .elements()
                .iter()
                .map(|field| match field {
                    parquet::record::Field::Float(value) => *value,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(list, row);
        }
    }

    #[test]
    fn many_classes_are_no_columns_of_the_csv_file() {
        let classes: Vec<String> = (0..COLUMNS + 1).map(|i| i.to_string()).collect();
        let table = String::from_utf8(csv(&classes, &[]).unwrap()).unwrap();
        assert_eq!(table, "split,image,label,prediction,probability\n");
    }
}
