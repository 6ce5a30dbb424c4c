//! A table: which column has the paths, which the labels, and which the splits.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use csv::{ReaderBuilder, StringRecord, Trim};
use serde_yaml::{Mapping, Value};

use super::seen::{LABELS, Seen, TEST_PART, folders};
use crate::exit::{At, Failure, config_error};

/// Names of columns of splits.
const SPLITS: [&str; 5] = ["split", "subset", "set", "partition", "fold"];

/// Values of such columns for each split.
const TRAIN: [&str; 2] = ["train", "training"];
const VALIDATION: [&str; 4] = ["val", "valid", "validation", "dev"];
const TEST: [&str; 2] = ["test", "testing"];

/// Rows that are looked at; labels and splits repeat within them.
const ROWS: usize = 20_000;

/// Paths that are looked up.
const PATHS: usize = 50;

/// Recognises the columns of a table.
///
/// # Errors
/// If no column has the paths of images that are there, or none repeats as labels do.
pub fn look(path: &Path) -> Result<Seen, Failure> {
    let root = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let root = root.unwrap_or(Path::new("."));
    let text = peft_core::files::read_text(path).map_err(config_error)?;
    let header = text.lines().next().unwrap_or_default();
    let count = |delimiter: &char| header.matches(*delimiter).count();
    let delimiter = [',', ';', '\t', '|'].into_iter().rev().max_by_key(count);
    let delimiter = delimiter.unwrap_or(',');
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter as u8)
        .trim(Trim::All)
        .from_reader(text.as_bytes());
    let names = reader.headers().at(path.display())?.clone();
    let rows: Vec<StringRecord> = (reader.records().take(ROWS))
        .collect::<Result<_, _>>()
        .at(path.display())?;
    let column = |index: usize| {
        rows.iter()
            .map(move |row| row.get(index).unwrap_or_default())
    };
    let file = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    // Paths are often relative to the folder above, from which somebody listed the images.
    let own = fs_err::canonicalize(root).map_err(config_error)?;
    let above = || {
        let above = match root.parent()? {
            empty if empty.as_os_str().is_empty() && root == Path::new(".") => own.parent()?,
            empty if empty.as_os_str().is_empty() => Path::new("."),
            above => above,
        };
        let name = own.file_name()?;
        let (column, images) = paths(above, names.len(), &rows)?;
        let file = format!("{}/{file}", name.to_string_lossy());
        let images = if images.is_empty() {
            ".".to_owned()
        } else {
            images
        };
        Some((above.to_owned(), file, column, images))
    };
    let found = paths(root, names.len(), &rows)
        .map(|(column, images)| (root.to_owned(), file.clone(), column, images))
        .or_else(above);
    let Some((root, file, paths, images)) = found else {
        let got = match absolute(&rows) {
            Some(absolute) => {
                format!("the absolute path {absolute}; write paths below that folder")
            }
            None => names.iter().collect::<Vec<_>>().join(", "),
        };
        return Err(config_error(format_args!(
            "{}: expected a column with paths of images below {}, got {got}",
            path.display(),
            root.display()
        )));
    };
    let root = &root;
    let named = |known: &[&str]| {
        let index = |name: &&str| {
            names
                .iter()
                .position(|column| column.eq_ignore_ascii_case(name))
        };
        known.iter().find_map(index).filter(|index| *index != paths)
    };
    let split = named(&SPLITS);
    // Labels repeat; of several columns that do, the one with the fewest values.
    let repeats = || {
        let others = (0..names.len()).filter(|index| *index != paths && Some(*index) != split);
        let distinct = others.map(|index| (column(index).collect::<BTreeSet<_>>().len(), index));
        let usable = distinct.filter(|(count, _)| *count > 1 && 2 * count <= rows.len());
        usable.min().map(|(_, index)| index)
    };
    // A column for each class: 1 where the image shows it.
    let one_hot: Vec<usize> = match named(&LABELS) {
        Some(_) => Vec::new(),
        None => (0..names.len())
            .filter(|index| *index != paths && Some(*index) != split)
            .filter(|index| column(*index).all(|value| ["0", "1"].contains(&value)))
            .collect(),
    };
    let mut list = Mapping::from_iter([(Value::from("file"), Value::from(file))]);
    if !images.is_empty() {
        list.insert("images".into(), images.into());
    }
    let mut seen =
        Seen::new("a table of paths and labels", "csv", root).with("path", &names[paths]);
    if one_hot.len() > 1 {
        let columns: Vec<Value> = one_hot.iter().map(|index| names[*index].into()).collect();
        seen = seen
            .with("one_hot", columns)
            .remark("columns of 0 and 1 are classes, of which an image may show several");
    } else {
        let label = named(&LABELS).or_else(repeats).ok_or_else(|| {
            config_error(format_args!(
                "{}: expected a column of labels ({}), got {}",
                path.display(),
                LABELS.join(", "),
                names.iter().collect::<Vec<_>>().join(", ")
            ))
        })?;
        seen = seen.with("label", &names[label]);
        if let Some(separator) = separator(column(label)) {
            seen = seen
                .with("separator", separator.to_string())
                .remark(format!("`{separator}` separates the labels of an image"));
        }
    }
    if delimiter != ',' {
        seen = seen.with("delimiter", delimiter.to_string());
    }
    let values: BTreeSet<&str> = split.into_iter().flat_map(column).collect();
    let value = |known: &[&str]| {
        let mut found = values
            .iter()
            .filter(|value| known.contains(&value.to_lowercase().as_str()));
        found.next().map(|value| (*value).to_owned())
    };
    Ok(match (split, value(&TRAIN), value(&VALIDATION), value(&TEST)) {
        (Some(split), Some(train), validation, Some(test)) => {
            let mut column = Mapping::from_iter([
                (Value::from("column"), Value::from(&names[split])),
                ("train".into(), train.into()),
                ("test".into(), test.into()),
            ]);
            if let Some(validation) = validation {
                column.insert("validation".into(), validation.into());
            }
            seen.with("all", list).with("split", column)
        }
        (Some(split), Some(train), Some(validation), None) => {
            let column = Mapping::from_iter([
                (Value::from("column"), Value::from(&names[split])),
                ("train".into(), train.into()),
                ("test".into(), validation.into()),
            ]);
            let remark = "no row tests: those that validate do, and a part of the training rows validates";
            seen.with("all", list).with("split", column).remark(remark)
        }
        _ => seen
            .with("train", list)
            .with("test_fraction", TEST_PART)
            .remark("no column says which rows test: a part of each class is set aside, always the same"),
    })
}

/// An absolute path of a file, if the table has one.
fn absolute(rows: &[StringRecord]) -> Option<&str> {
    let values = rows.iter().take(PATHS).flatten();
    let mut files =
        values.filter(|value| Path::new(value).is_absolute() && Path::new(value).is_file());
    files.next()
}

/// What separates several labels in the values of a column, if anything does. Commas may be parts of names,
/// and blanks often are: they separate labels that repeat in other combinations, or numbers.
fn separator<'a>(values: impl Iterator<Item = &'a str>) -> Option<char> {
    let values: BTreeSet<&str> = values.collect();
    ['|', ';', ',', ' '].into_iter().find(|&separator| {
        let pieces: BTreeSet<&str> = values
            .iter()
            .flat_map(|value| value.split(separator).map(str::trim))
            .filter(|piece| !piece.is_empty())
            .collect();
        let is_number = |piece: &&str| piece.parse::<u64>().is_ok();
        values.iter().any(|value| value.contains(separator))
            && (separator != ',' || pieces.len() < values.len())
            && (separator != ' ' || pieces.iter().all(is_number))
    })
}

/// The column whose values are files, and the folder below `root` that they are relative to.
fn paths(root: &Path, columns: usize, rows: &[StringRecord]) -> Option<(usize, String)> {
    let below = folders(root).unwrap_or_default();
    let below = below
        .iter()
        .filter_map(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
    let places: Vec<String> = std::iter::once(String::new()).chain(below).collect();
    (0..columns)
        .flat_map(|column| places.iter().map(move |place| (column, place)))
        .find(|(column, place)| {
            let folder: PathBuf = root.join(place);
            let mut values = rows
                .iter()
                .take(PATHS)
                .map(|row| row.get(*column).unwrap_or_default());
            let there = |value: &str| {
                let relative = Path::new(value).is_relative();
                !value.is_empty() && relative && folder.join(value).is_file()
            };
            !rows.is_empty() && values.all(there)
        })
        .map(|(column, place)| (column, place.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_told_from_parts_of_names() {
        for (values, expected) in [
            (&["sea|sky", "sky"][..], Some('|')),
            (&["1;2", "", "2"], Some(';')),
            (&["a,b", "a,c", "b,c", "b", "c"], Some(',')),
            (&["Salmon, Atlantic", "Cod, Pacific"], None),
            (&["golden retriever", "poodle"], None),
            (&["3 17", "17"], Some(' ')),
            (&["cat", "dog"], None),
        ] {
            assert_eq!(separator(values.iter().copied()), expected, "{values:?}");
        }
    }
}
