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
use crate::indexed::{Indexed, Item, Items, Resolved};
use crate::label_sets::{JOINED, resolve_sets};
use crate::labels::{Labelled, OnStray, Strays, read_names};
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub label: Option<String>,
        /// The character that separates the labels in `label`, where images have several labels; a row
        /// without any shows no class. By default every image has one label.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub separator: Option<char>,
        /// Instead of `label`, a column for each class, where images have several labels: 1 if the image
        /// shows the class, 0 if not. The columns' names are those of the classes.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub one_hot: Vec<String>,
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

/// The columns that hold the labels of a row.
#[derive(Clone, Copy)]
enum LabelColumns<'a> {
    /// One column holds one label, or several with this separator between them.
    One(&'a str, Option<char>),
    /// Each class has a column of its own.
    OneHot(&'a [String]),
}

impl LabelColumns<'_> {
    /// Returns the character between the labels in the text of a row. A row with one label has none.
    fn separator(self) -> Option<char> {
        match self {
            Self::One(_, separator) => separator,
            Self::OneHot(_) => Some(JOINED),
        }
    }
}

impl Csv {
    /// The columns of the labels.
    ///
    /// # Errors
    /// Fields that exclude each other.
    fn label_columns(&self) -> Result<LabelColumns<'_>, Error> {
        if self
            .separator
            .is_some_and(|separator| separator == self.delimiter)
        {
            let expected = "another character than the `delimiter` of the columns";
            return Err(Error::invalid(
                "separator",
                expected,
                format!("{:?}", self.delimiter),
            ));
        }
        let columns = match (&self.label, &self.one_hot[..]) {
            (Some(label), []) => LabelColumns::One(label, self.separator),
            (None, [_, ..]) if self.separator.is_none() && self.names.is_none() => {
                LabelColumns::OneHot(&self.one_hot)
            }
            _ => {
                let expected = "either `label`, a column, or `one_hot`, columns of 0 and 1 whose names are \
                                those of the classes, without `separator` and `names`";
                return Err(Error::invalid("label", expected, "another combination"));
            }
        };
        if columns.separator().is_some() && !self.group.is_empty() {
            let expected = "no columns where images have several labels";
            return Err(Error::invalid("group", expected, listed(&self.group, 5)));
        }
        Ok(columns)
    }

    fn read(&self) -> Result<Indexed<Files>, Error> {
        let files = Files::below(&self.root)?;
        let labels = self.label_columns()?;
        let rows = match (
            &self.all,
            &self.split,
            &self.train,
            &self.validation,
            &self.test,
        ) {
            (Some(all), Some(split), None, None, None) if self.test_fraction.is_none() => {
                self.divided(&files, labels, all, split)?
            }
            (None, None, Some(train), validation, test)
                if test.is_some() != self.test_fraction.is_some() =>
            {
                let rows = |field, list: &Option<List>| match list {
                    Some(list) => self.rows(&files, labels, field, list),
                    None => Ok(Vec::new()),
                };
                BySplit {
                    train: self.rows(&files, labels, "train", train)?,
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
        let names = match self.one_hot.is_empty() {
            true => self.names.as_deref().map(read_names).transpose()?,
            false => Some(self.one_hot.clone()),
        };
        let strays = Strays {
            unlabelled: self.unlabelled,
            unseen: self.unseen,
        };
        let lacks_validation = rows.validation.is_empty();
        let mut remarks = Vec::new();
        let separator = labels.separator();
        let resolved = resolve_sets(rows, separator, names, strays, &mut remarks)?;
        let groups = self.groups(&resolved.splits);
        let splits = resolved.splits.map(|rows| -> Vec<Item<File>> {
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
        let mut resolved = Resolved {
            classes: resolved.classes,
            sets: resolved.sets,
            splits,
        };
        let stratum = resolved.stratum();
        let splits = &mut resolved.splits;
        distinct(&[&splits.train, &splits.validation, &splits.test])?;
        let key = |_, item: &Item<File>| item.at.path.as_bytes().to_vec();
        if let Some(fraction) = self.test_fraction {
            let train = &mut splits.train;
            splits.test = take_part("test_fraction", train, fraction, &stratum, key)?;
        }
        if lacks_validation {
            splits.validation =
                set_aside(&mut splits.train, self.validation_fraction, &stratum, key)?;
        }
        let mut data = Indexed::of(resolved, files);
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
        labels: LabelColumns,
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
        self.each(
            files,
            labels,
            "all",
            all,
            Some(&split.column),
            |row, value| {
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
                        let expected =
                            format!("one of {} in `{}`", listed(&known, 3), split.column);
                        return Err(Error::record(row.place, expected, format!("`{value}`")));
                    }
                };
                rows.get_mut(of).push(row);
                Ok(())
            },
        )?;
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
    fn rows(
        &self,
        files: &Files,
        labels: LabelColumns,
        field: &'static str,
        list: &List,
    ) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        self.each(files, labels, field, list, None, |row, _| {
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
mod tests;
