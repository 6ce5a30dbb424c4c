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
use crate::train::multi_label::THRESHOLD;
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

/// The columns of the parquet file of images with several labels.
const SCHEMA_OF_SETS: &str = "message predictions {
    required binary split (STRING);
    required binary image (STRING);
    required group labels (LIST) { repeated group list { required int32 element; } }
    required group predictions (LIST) { repeated group list { required int32 element; } }
    required group probabilities (LIST) { repeated group list { required float element; } }
}";

/// Between the names of several labels in the CSV file.
const BETWEEN: &str = "|";

/// One image.
struct Prediction<'a> {
    split: Split,
    image: String,
    labels: &'a [usize],
    /// The most likely class, of equal ones the first; where images have several labels, all classes that are
    /// likely enough.
    classes: Vec<usize>,
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
    let (classes, many) = (dataset.classes(), dataset.is_multi_label());
    let all: Vec<Prediction> = outputs
        .iter()
        .flat_map(|(split, outputs)| {
            outputs
                .rows()
                .map(|(place, labels, probabilities)| Prediction {
                    split: *split,
                    image: dataset.name(*split, place),
                    labels,
                    classes: predicted(probabilities, many),
                    probabilities,
                })
        })
        .collect();
    let unexpected = |e: String| failure(Exit::Unexpected, format_args!("predictions: {e}"));
    let table = csv(classes, &all, many).map_err(|e| unexpected(e.to_string()))?;
    folder.write("predictions.csv", &table)?;
    let table = parquet(classes, &all, many).map_err(|e| unexpected(e.to_string()))?;
    folder.write("predictions.parquet", &table)
}

/// The most likely class alone, or all that are likely enough where images have several labels.
fn predicted(probabilities: &[f32], many: bool) -> Vec<usize> {
    let all = probabilities.iter().enumerate();
    if many {
        let shown = all.filter(|(_, probability)| **probability >= THRESHOLD);
        return shown.map(|(class, _)| class).collect();
    }
    let max = probabilities
        .iter()
        .fold(f32::NEG_INFINITY, |m, &p| m.max(p));
    vec![probabilities.iter().position(|&p| p == max).unwrap_or(0)]
}

fn csv(classes: &[String], all: &[Prediction], many: bool) -> Result<Vec<u8>, csv::Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let columns = if classes.len() <= COLUMNS {
        classes
    } else {
        &[]
    };
    let fixed: &[&str] = match many {
        false => &["split", "image", "label", "prediction", "probability"],
        true => &["split", "image", "labels", "predictions"],
    };
    let header = fixed.iter().copied();
    table.write_record(header.chain(columns.iter().map(String::as_str)))?;
    for one in all {
        let named = |labels: &[usize]| {
            let names: Vec<&str> = labels.iter().map(|label| &*classes[*label]).collect();
            names.join(BETWEEN)
        };
        let mut fixed = vec![
            one.split.to_string(),
            one.image.clone(),
            named(one.labels),
            named(&one.classes),
        ];
        if let (false, [class]) = (many, &one.classes[..]) {
            fixed.push(one.probabilities[*class].to_string());
        }
        let probabilities = one.probabilities.iter().take(columns.len());
        table.write_record(fixed.into_iter().chain(probabilities.map(f32::to_string)))?;
    }
    table.into_inner().map_err(|e| e.into_error().into())
}

fn parquet(classes: &[String], all: &[Prediction], many: bool) -> Result<Vec<u8>, ParquetError> {
    let names = serde_json::json!(classes).to_string();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_key_value_metadata(Some(vec![KeyValue::new("classes".to_owned(), names)]))
        .build();
    let schema = if many { SCHEMA_OF_SETS } else { SCHEMA };
    let schema = Arc::new(parse_message_type(schema)?);
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let mut rows = file.next_row_group()?;
    let texts = |text: &dyn Fn(&Prediction) -> String| -> Vec<ByteArray> {
        all.iter().map(|one| text(one).as_str().into()).collect()
    };
    column::<ByteArrayType>(&mut rows, &texts(&|one| one.split.to_string()), None)?;
    column::<ByteArrayType>(&mut rows, &texts(&|one| one.image.clone()), None)?;
    let indices = |labels: &[usize]| labels.iter().map(|label| *label as i32).collect::<Vec<_>>();
    for labels in [
        |one: &Prediction| one.labels.to_vec(),
        |one: &Prediction| one.classes.clone(),
    ] {
        let lists: Vec<Vec<i32>> = all.iter().map(|one| indices(&labels(one))).collect();
        match many {
            true => lists_column::<Int32Type>(&mut rows, &lists)?,
            false => column::<Int32Type>(&mut rows, &lists.concat(), None)?,
        }
    }
    let probabilities: Vec<Vec<f32>> = all.iter().map(|one| one.probabilities.to_vec()).collect();
    lists_column::<FloatType>(&mut rows, &probabilities)?;
    rows.close()?;
    file.into_inner()
}

/// Writes the next column, of one list per image.
fn lists_column<T: DataType>(
    rows: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    lists: &[Vec<T::T>],
) -> Result<(), ParquetError> {
    // Whether there is a value, and whether it goes on with the list before. An empty list has an entry too.
    let entries = lists.iter().flat_map(|list| {
        let defined = i16::from(!list.is_empty());
        (0..list.len().max(1)).map(move |place| (defined, i16::from(place > 0)))
    });
    let (defined, repeated): (Vec<i16>, Vec<i16>) = entries.unzip();
    column::<T>(rows, &lists.concat(), Some([&defined, &repeated]))
}

/// Writes the next column. `levels` are those of definition and of repetition, for a column of lists.
fn column<T: DataType>(
    rows: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    levels: Option<[&[i16]; 2]>,
) -> Result<(), ParquetError> {
    let mut column = rows
        .next_column()?
        .ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
    let [defined, repeated] = levels.map_or([None, None], |levels| levels.map(Some));
    column.typed::<T>().write_batch(values, defined, repeated)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::FileReader;
    use parquet::file::serialized_reader::SerializedFileReader;
    use parquet::record::RowAccessor;

    use super::*;

    const LABELS: [[usize; 1]; 3] = [[0], [1], [2]];

    fn predictions<'a>(rows: &'a [[f32; 3]]) -> Vec<Prediction<'a>> {
        let place = rows.iter().enumerate();
        place
            .map(|(place, row)| Prediction {
                split: Split::Test,
                image: format!("some, \"{place}\".png"),
                labels: &LABELS[place % 3],
                classes: predicted(row, false),
                probabilities: row,
            })
            .collect()
    }

    #[test]
    fn both_files_hold_every_image() {
        let classes = ["ant", "bee", "c,at"].map(str::to_owned);
        let rows = [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.125, 0.75, 0.125]];
        let all = predictions(&rows);
        let table = String::from_utf8(csv(&classes, &all, false).unwrap()).unwrap();
        let mut lines = table.lines();
        assert_eq!(
            lines.next(),
            Some("split,image,label,prediction,probability,ant,bee,\"c,at\"")
        );
        assert_eq!(
            lines.nth(1),
            Some("test,\"some, \"\"1\"\".png\",bee,\"c,at\",0.5,0.25,0.25,0.5")
        );
        let bytes = bytes::Bytes::from(parquet(&classes, &all, false).unwrap());
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
            assert_eq!([read.get_int(2).unwrap() as usize], one.labels);
            assert_eq!([read.get_int(3).unwrap() as usize], one.classes[..]);
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
        let table = String::from_utf8(csv(&classes, &[], false).unwrap()).unwrap();
        assert_eq!(table, "split,image,label,prediction,probability\n");
    }

    #[test]
    fn both_files_hold_all_labels_of_an_image() {
        let classes = ["ant", "bee", "cat"].map(str::to_owned);
        let rows = [[0.5f32, 0.25, 0.75], [0.25, 0.25, 0.25], [0.1, 0.9, 0.1]];
        let labels = [vec![0, 1], vec![2], vec![]];
        let place = rows.iter().zip(&labels).enumerate();
        let all: Vec<Prediction> = place
            .map(|(place, (row, labels))| Prediction {
                split: Split::Test,
                image: format!("{place}.png"),
                labels,
                classes: predicted(row, true),
                probabilities: row,
            })
            .collect();
        let table = String::from_utf8(csv(&classes, &all, true).unwrap()).unwrap();
        let expected = "split,image,labels,predictions,ant,bee,cat\n\
                        test,0.png,ant|bee,ant|cat,0.5,0.25,0.75\n\
                        test,1.png,cat,,0.25,0.25,0.25\ntest,2.png,,bee,0.1,0.9,0.1\n";
        assert_eq!(table, expected);
        let bytes = bytes::Bytes::from(parquet(&classes, &all, true).unwrap());
        let file = SerializedFileReader::new(bytes).unwrap();
        let read = file.get_row_iter(None).unwrap().map(Result::unwrap);
        let list = |row: &parquet::record::Row, column: usize| -> Vec<usize> {
            let elements = row.get_list(column).unwrap().elements().iter();
            elements
                .map(|field| match field {
                    parquet::record::Field::Int(value) => *value as usize,
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        let mut count = 0;
        for (row, one) in read.zip(&all) {
            assert_eq!(list(&row, 2), one.labels);
            assert_eq!(list(&row, 3), one.classes);
            assert_eq!(row.get_list(4).unwrap().len(), 3);
            count += 1;
        }
        assert_eq!(count, 3);
    }
}
