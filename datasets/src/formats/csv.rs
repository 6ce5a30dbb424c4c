//! Tables with a column of paths and one of labels: one file with a split column (Waterbirds'
//! `metadata.csv`), or files for each split (GTSRB's `GT-*.csv`).
//!
//! Each combination of values in the group columns is a group, so that the accuracy in the worst
//! group can be reported: "Distributionally Robust Neural Networks for Group Shifts", Sagawa et
//! al., 2020.

mod table;

use std::collections::BTreeSet;
use std::path::PathBuf;

use peft_core::data::Split;
use peft_core::error::listed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file_format::file_format;
use crate::error::Error;
use crate::files::{File, Files, distinct};
use crate::indexed::{Indexed, Item, Items};
use crate::labels::{Labelled, OnStray, Strays, read_names, resolve};
use crate::split::{BySplit, default_validation_fraction, set_aside, take_part};
use crate::storage::Exif;

peft_core::dataset_config! {
    /// Tables of paths and labels with a header: either `all` with `split`, or `train` and `test`, or `train`
    /// with `test_fraction`.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Csv {
        /// The folder of the tables and images.
        pub root: PathBuf,
        /// The tables of all three splits, which `split` tells apart.
        #[serde(default)]
        pub all: Option<List>,
        /// The column of `all` that says which split a row belongs to.
        #[serde(default)]
        pub split: Option<SplitColumn>,
        /// The tables of the training split.
        #[serde(default)]
        pub train: Option<List>,
        /// The tables of the validation split. Without them, a part of `train` is set aside.
        #[serde(default)]
        pub validation: Option<List>,
        /// The tables of the test split.
        #[serde(default)]
        pub test: Option<List>,
        /// The column of the images' paths.
        pub path: String,
        /// The column of the labels: whole numbers from 0, or names.
        pub label: String,
        /// The columns whose values together form an image's group; by default there are no groups.
        #[serde(default)]
        pub group: Vec<String>,
        /// A text file with the names of the classes, one per line. Without it, labels that are
        /// all whole numbers are their own names, and other labels are sorted.
        #[serde(default)]
        pub names: Option<PathBuf>,
        /// The separator of the columns: one ASCII character.
        #[serde(default = "default_delimiter")]
        pub delimiter: char,
        /// Part of each class of `train` that is set aside where there is no validation split: a number
        /// in (0, 1). The order is that of the blake3 hash of an image's path below the root.
        #[serde(default = "default_validation_fraction")]
        pub validation_fraction: f32,
        /// Part of each class that is set aside for testing, where neither `split` nor `test` say which
        /// images test: a number in (0, 1), in the same order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub test_fraction: Option<f32>,
        /// What becomes of an image without a label, or with a negative one, which marks a label that
        /// is hidden.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unlabelled: OnStray,
        /// What becomes of an image of a class that the training split lacks, where no `names` list it.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unseen: OnStray,
        /// Whether EXIF orientation is applied. By default it is not, as the code
        /// for these tables reads images by Pillow.
        #[serde(default, skip_serializing_if = "Exif::is_ignore")]
        pub exif: Exif,
    }
}

fn default_delimiter() -> char {
    ','
}

/// Tables and the folder of their images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// A path below the root, or a pattern in which `*` stands for any part of a name.
    pub file: String,
    /// The folder below the root to which the paths are relative. Without it, the table's own
    /// folder.
    #[serde(default)]
    pub images: Option<String>,
}

/// A column that names the split of each row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitColumn {
    /// The column's name.
    pub column: String,
    /// Its value for the training split.
    pub train: String,
    /// Its value for the validation split. Without it, a part of `train` is set aside.
    #[serde(default)]
    pub validation: Option<String>,
    /// Its value for the test split.
    pub test: String,
}

file_format! {
    Csv,
    name: "csv",
    paths: [root, names],
    summary: "tables of paths and labels, and optionally groups",
    reference: "the tables of Waterbirds (Sagawa et al., 2020) and of GTSRB (Stallkamp et al., 2012)",
    example: r#"name: csv
root: data/waterbird_complete95_forest2water2
all: {file: metadata.csv}
split: {column: split, train: "0", validation: "1", test: "2"}
path: img_filename
label: y
group: [y, place]
"#,
}

/// A row: its image, the text of its group, and its label.
type Row = Labelled<(File, String)>;

impl Csv {
    fn read(&self) -> Result<Indexed<Files>, Error> {
        let files = Files::below(&self.root)?;
        let rows = match (
            &self.all,
            &self.split,
            &self.train,
            &self.validation,
            &self.test,
        ) {
            (Some(all), Some(split), None, None, None) if self.test_fraction.is_none() => {
                self.divided(&files, all, split)?
            }
            (None, None, Some(train), validation, test)
                if test.is_some() != self.test_fraction.is_some() =>
            {
                let rows = |field, list: &Option<List>| match list {
                    Some(list) => self.rows(&files, field, list),
                    None => Ok(Vec::new()),
                };
                BySplit {
                    train: self.rows(&files, "train", train)?,
                    validation: rows("validation", validation)?,
                    test: rows("test", test)?,
                }
            }
            _ => {
                let expected = "either `all` and `split`, or `train` and either `test` or \
                                `test_fraction`";
                return Err(Error::invalid("all", expected, "another combination"));
            }
        };
        // All three splits together, so that a label has the same class in each.
        let names = self.names.as_deref().map(read_names).transpose()?;
        let strays = Strays {
            unlabelled: self.unlabelled,
            unseen: self.unseen,
        };
        let lacks_validation = rows.validation.is_empty();
        let mut remarks = Vec::new();
        let (classes, rows) = resolve(rows, names, strays, &mut remarks)?;
        let groups = self.groups(&rows);
        let mut splits = rows.map(|rows| -> Vec<Item<File>> {
            let items = rows.into_iter().map(|row| {
                let (file, group) = row.at;
                Item {
                    label: row.label,
                    group: groups.binary_search(&group).ok(),
                    at: file,
                }
            });
            items.collect()
        });
        distinct(&[&splits.train, &splits.validation, &splits.test])?;
        let key = |_, item: &Item<File>| item.at.path.as_bytes().to_vec();
        if let Some(fraction) = self.test_fraction {
            let train = &mut splits.train;
            splits.test = take_part("test_fraction", train, fraction, |item| item.label, key)?;
        }
        if lacks_validation {
            splits.validation = set_aside(
                &mut splits.train,
                self.validation_fraction,
                |item| item.label,
                key,
            )?;
        }
        let mut data = Indexed::new(classes, splits, files);
        data.groups = groups;
        data.exif = self.exif;
        data.remarks.extend(remarks);
        Ok(data)
    }

    /// The groups in the rows, sorted; empty if no column names them.
    fn groups(&self, rows: &Items<(File, String)>) -> Vec<String> {
        if self.group.is_empty() {
            return Vec::new();
        }
        let groups: BTreeSet<&String> = rows.iter().flatten().map(|row| &row.at.1).collect();
        groups.into_iter().cloned().collect()
    }

    /// The rows of `all`, divided by their split column.
    fn divided(
        &self,
        files: &Files,
        all: &List,
        split: &SplitColumn,
    ) -> Result<BySplit<Vec<Row>>, Error> {
        let SplitColumn {
            train,
            validation,
            test,
            ..
        } = split;
        let mut rows = BySplit::<Vec<Row>>::default();
        self.each(files, "all", all, Some(&split.column), |row, value| {
            let of = match value {
                value if value == train => Split::Train,
                value if Some(value) == validation.as_deref() => Split::Validation,
                value if value == test => Split::Test,
                value => {
                    let known: Vec<_> = [train]
                        .into_iter()
                        .chain(validation)
                        .chain([test])
                        .collect();
                    let expected = format!("one of {} in `{}`", listed(&known, 3), split.column);
                    return Err(Error::record(row.place, expected, format!("`{value}`")));
                }
            };
            rows.get_mut(of).push(row);
            Ok(())
        })?;
        for of in [Split::Train, Split::Test] {
            if rows.get(of).is_empty() {
                let expected = format!("a row of the {of} split");
                return Err(Error::layout(
                    files.root().join(&all.file),
                    expected,
                    "none",
                ));
            }
        }
        Ok(rows)
    }

    /// The rows of one split's own tables.
    fn rows(&self, files: &Files, field: &'static str, list: &List) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        self.each(files, field, list, None, |row, _| {
            rows.push(row);
            Ok(())
        })?;
        if rows.is_empty() {
            let path = files.root().join(&list.file);
            return Err(Error::layout(path, "one row per image", "no rows"));
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use peft_core::data::Dataset;
    use tempfile::TempDir;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
        folder
    }

    fn read(files: &[(&str, &str)], yaml: &str) -> Result<Indexed<Files>, String> {
        let folder = folder(files);
        let yaml = format!("root: {}\n{yaml}", folder.path().display());
        let config: Csv = serde_yaml::from_str(&yaml).unwrap();
        config.read().map_err(|error| error.to_string())
    }

    const BIRDS: &str = "all: {file: metadata.csv}
split: {column: split, train: '0', validation: '1', test: '2'}
path: img_filename
label: y
group: [y, place]
";

    fn birds(rows: &str) -> Result<Indexed<Files>, String> {
        let text = format!("img_id,img_filename,y,split,place,place_filename\n{rows}");
        read(&[("metadata.csv", &text)], BIRDS)
    }

    #[test]
    fn a_split_column_and_groups() {
        let data =
            birds("1,\"a, b/1.jpg\",0,0,0,x\n2,2.jpg,1,0,1,x\n3,3.jpg,0,1,1,x\n4,4.jpg,1,2,0,x\n")
                .unwrap();
        assert_eq!(Split::ALL.map(|split| data.len(split)), [2, 1, 1]);
        assert_eq!(&*data.splits.train[0].at.path, "a, b/1.jpg");
        assert_eq!(data.classes(), ["0", "1"]);
        assert_eq!(
            data.groups(),
            ["y=0 place=0", "y=0 place=1", "y=1 place=0", "y=1 place=1"]
        );
        assert_eq!(data.group(Split::Train, 1).unwrap(), Some(3));
        assert_eq!(data.group(Split::Validation, 0).unwrap(), Some(1));
        assert_eq!(data.label(Split::Test, 0).unwrap(), 1);
    }

    #[test]
    fn a_part_of_the_rows_tests_where_nothing_says_which_do() {
        let rows: String = (0..20).map(|n| format!("{n}.jpg,{}\n", n % 2)).collect();
        let table = [("a.csv", format!("file,label\n{rows}"))];
        let table = table.each_ref().map(|(name, text)| (*name, text.as_str()));
        let config = "train: {file: a.csv}\npath: file\nlabel: label\ntest_fraction: 0.2\n";
        let data = read(&table, config).unwrap();
        assert_eq!(Split::ALL.map(|split| data.len(split)), [14, 2, 4]);
        let two = format!("{config}test: {{file: a.csv}}");
        assert!(
            read(&table, &two)
                .unwrap_err()
                .contains("another combination")
        );
    }

    #[test]
    fn tables_for_each_split_beside_their_images() {
        let header = "Filename;Width;ClassId";
        let files = [
            (
                "train/00000/GT-00000.csv",
                format!("{header}\n0.ppm;9;0\n1.ppm;9;0\n"),
            ),
            (
                "train/00001/GT-00001.csv",
                format!("{header}\r\n0.ppm;9;1\r\n"),
            ),
            ("GT-final_test.csv", format!("{header}\n0.ppm;9;1\n")),
        ];
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        let yaml = "train: {file: 'train/*/GT-*.csv'}
test: {file: GT-final_test.csv, images: Final_Test/Images}
path: Filename
label: ClassId
delimiter: ';'
validation_fraction: 0.5
";
        let data = read(&files, yaml).unwrap();
        let paths: Vec<_> = data.splits.iter().flatten().map(|i| &*i.at.path).collect();
        assert_eq!(paths[1], "train/00001/0.ppm");
        assert_eq!(paths[3], "Final_Test/Images/0.ppm");
        assert_eq!(Split::ALL.map(|split| data.len(split)), [2, 1, 1]);
        assert!(data.groups().is_empty());
        assert_eq!(data.group(Split::Test, 0).unwrap(), None);
    }

    #[test]
    fn a_bad_row_is_named() {
        let fine = "1,1.jpg,0,0,0,x\n2,2.jpg,0,1,0,x\n3,3.jpg,0,2,0,x\n";
        assert!(birds(fine).is_ok());
        for (row, parts) in [
            (
                "4,4.jpg,0,7,0,x\n",
                ["line 5", "one of 0, 1, 2 in `split`, got `7`"],
            ),
            (
                "4,4.jpg,0\n",
                ["metadata.csv` line 5", "header has (6), got 3"],
            ),
            ("4,../4.jpg,0,0,0,x\n", ["line 5", "inside the root"]),
            ("4,3.jpg,0,0,0,x\n", ["line 5 and at", "line 4"]),
            ("4,,0,0,0,x\n", ["line 5", "got none"]),
        ] {
            let message = birds(&format!("{fine}{row}")).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        let message = birds("1,1.jpg,0,0,0,x\n").unwrap_err();
        assert!(
            message.contains("a row of the test split, got none"),
            "{message}"
        );
    }

    #[test]
    fn lines_are_counted_as_an_editor_does() {
        let rows = [
            "img_filename,y,split,place",
            "1.jpg,a,0,x",
            "",
            "\"2\n.jpg\",a,1,x",
            "3.jpg,a,2,x",
            "",
            "4.jpg,a,0",
        ];
        for (mark, end) in [
            ("", "\n"),
            ("", "\r\n"),
            ("\u{feff}", "\r\n"),
            ("\u{feff}", "\r"),
        ] {
            let text = |last: &str| {
                let text = [&rows[..6], &[last]].concat().join("\n");
                format!("{mark}{}{end}", text.replace('\n', end))
            };
            let read = |last: &str| read(&[("metadata.csv", &text(last))], BIRDS);
            assert!(read("4.jpg,a,0,y").is_ok());
            for (last, part) in [
                ("4.jpg,a,0", "metadata.csv` line 8: expected as many fields"),
                (
                    "4.jpg,a,7,x",
                    "metadata.csv` line 8: expected one of 0, 1, 2",
                ),
                ("3.jpg,a,0,x", "metadata.csv` line 6"),
                (
                    "4.jpg,-1,0,x",
                    "metadata.csv` line 8: expected the label of a class, got `-1`",
                ),
            ] {
                let message = read(last).unwrap_err();
                assert!(message.contains(part), "{end:?}: {message}");
            }
        }
    }

    #[test]
    fn columns_and_combinations_are_checked() {
        let table = [("a.csv", "file,label\n1.jpg,cat\n")];
        let tables = |train: &str, rest: &str| {
            let yaml =
                format!("train: {{file: {train}}}\ntest: {{file: a.csv}}\nlabel: label\n{rest}");
            read(&table, &yaml).unwrap_err()
        };
        for (message, part) in [
            (
                tables("a.csv", "path: path"),
                "a.csv`: expected a column `path`, got file, label",
            ),
            (
                tables("b.csv", "path: file"),
                "b.csv`: expected a file of `train: b.csv`, got none",
            ),
            (
                tables("a.csv", "path: file\ndelimiter: \u{2192}"),
                "invalid `delimiter`",
            ),
            (
                tables("a.csv", "path: File"),
                "got file, label (did you mean `file`?)",
            ),
            (
                tables("a.csv", "path: file\ndelimiter: ;"),
                "got file,label (set `delimiter` if ',' separates the columns)",
            ),
            (
                read(
                    &[("a.csv", "file,label,label\n1.jpg,0,1\n")],
                    "train: {file: a.csv}\ntest: {file: a.csv}\npath: file\nlabel: label",
                )
                .unwrap_err(),
                "expected a column `label`, got two of that name",
            ),
            (tables("a.csv", "path: file"), "`1.jpg` is listed twice"),
            (
                read(&table, "train: {file: a.csv}\npath: file\nlabel: label").unwrap_err(),
                "or `train` and either `test` or `test_fraction`",
            ),
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
