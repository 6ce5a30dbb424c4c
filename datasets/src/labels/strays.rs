//! Labels that name no class to be learned: they are refused, or their images are left out and counted.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use peft_core::data::Split;
use peft_core::error::listed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::labelled::{Labelled, no_fractions, order};
use crate::error::Error;
use crate::split::BySplit;

/// What becomes of images that cannot be used as they are labelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnStray {
    /// The first one is an error.
    #[default]
    Fail,
    /// They are left out, and a remark counts them.
    Skip,
}

impl OnStray {
    pub(crate) fn is_fail(&self) -> bool {
        *self == Self::Fail
    }
}

/// The two kinds of labels that name no class to be learned, and what becomes of their images.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Strays {
    /// A negative number, which marks a label that is hidden or unknown, or no label at all.
    pub unlabelled: OnStray,
    /// A class that validation or test has and that `train` lacks, where nothing lists the classes.
    pub unseen: OnStray,
}

/// Whether a label says that there is none: an empty text, or a negative number.
pub(crate) fn is_hidden(label: &str) -> bool {
    label.is_empty() || label.parse::<f64>().is_ok_and(|number| number < 0.0)
}

/// Takes out the records that name no class to be learned, or refuses the first of them. Without
/// `names`, the classes are those that the training split has.
///
/// # Errors
/// Such a record, with its label, its place and its split, unless `strays` says to leave it out.
pub(crate) fn admit<A>(
    mut records: BySplit<Vec<Labelled<A>>>,
    names: Option<&[String]>,
    strays: Strays,
    remarks: &mut Vec<String>,
) -> Result<BySplit<Vec<Labelled<A>>>, Error> {
    let named: HashSet<&str> = names
        .iter()
        .copied()
        .flatten()
        .map(|name| name.as_str())
        .collect();
    for split in Split::ALL {
        let hidden = |record: &Labelled<A>| {
            is_hidden(&record.label) && !named.contains(record.label.as_str())
        };
        leave_out(
            records.get_mut(split),
            hidden,
            strays.unlabelled,
            |labels| match labels {
                Stray::Record(record) => {
                    let label = shown(&record.label);
                    let got = format!(
                        "{label} in the {split} split, which marks a hidden or missing label; \
                     `unlabelled: skip` leaves such images out"
                    );
                    Err(Error::record(&record.place, "the label of a class", got))
                }
                Stray::Count(count, labels) => {
                    remarks.push(left_out(split, count, "their label is", &labels));
                    Ok(())
                }
            },
        )?;
    }
    if names.is_some() {
        return Ok(records);
    }
    // First, because a fraction in one split and a whole number in another would be two classes.
    let labels = records.iter().flatten();
    let labels: Vec<_> = labels
        .map(|record| (record.label.as_str(), &record.place))
        .collect();
    no_fractions(&labels)?;
    let trained = records
        .train
        .iter()
        .map(|record| key(&record.label).into_owned());
    let classes: HashSet<String> = trained.collect();
    let known = || {
        let mut names: Vec<String> = classes.iter().cloned().collect();
        order(&mut names);
        listed(&names, 10)
    };
    for split in [Split::Validation, Split::Test] {
        let unseen = |record: &Labelled<A>| !classes.contains(&*key(&record.label));
        leave_out(
            records.get_mut(split),
            unseen,
            strays.unseen,
            |labels| match labels {
                Stray::Record(record) => {
                    let expected = format!("a class of `train` ({})", known());
                    let got = format!(
                        "`{}` in the {split} split; list the classes if it is one of them, or leave \
                     such images out by `unseen: skip`",
                        record.label
                    );
                    Err(Error::record(&record.place, expected, got))
                }
                Stray::Count(count, labels) => {
                    let why = "`train` lacks their class,";
                    remarks.push(left_out(split, count, why, &labels));
                    Ok(())
                }
            },
        )?;
    }
    Ok(records)
}

/// The remark about images that are left out.
pub(crate) fn left_out(split: Split, count: usize, why: &str, labels: &[String]) -> String {
    format!(
        "images of {split} that are left out: {count} ({why} {})",
        listed(labels, 10)
    )
}

/// The records that [`leave_out`] reports.
enum Stray<'a, A> {
    /// The first record, which is refused.
    Record(&'a Labelled<A>),
    /// The number of records that were taken out, and their labels.
    Count(usize, Vec<String>),
}

/// Takes out the records that are `stray`, and reports them.
fn leave_out<A>(
    records: &mut Vec<Labelled<A>>,
    stray: impl Fn(&Labelled<A>) -> bool,
    on: OnStray,
    report: impl FnOnce(Stray<A>) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(first) = records.iter().find(|record| stray(record)) else {
        return Ok(());
    };
    if on.is_fail() {
        return report(Stray::Record(first));
    }
    let before = records.len();
    let mut labels = BTreeSet::new();
    records.retain(|record| {
        let stray = stray(record);
        if stray {
            labels.insert(shown(&record.label).into_owned());
        }
        !stray
    });
    report(Stray::Count(
        before - records.len(),
        labels.into_iter().collect(),
    ))
}

/// A label in a message.
fn shown(label: &str) -> Cow<'_, str> {
    match label {
        "" => "none".into(),
        label => format!("`{label}`").into(),
    }
}

/// A label as classes are told apart by it: `07` and `7` are one number.
fn key(label: &str) -> Cow<'_, str> {
    match label.parse::<u64>() {
        Ok(number) => number.to_string().into(),
        Err(_) => label.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::resolve;
    use super::*;
    use crate::files::Place;

    /// The classes, the sizes of the splits, and the remarks.
    type Admitted = (Vec<String>, [usize; 3], Vec<String>);

    /// The labels of three splits, one letter or number per image.
    fn admitted(
        splits: [&str; 3],
        names: Option<&[&str]>,
        on: OnStray,
    ) -> Result<Admitted, String> {
        let first = Place::first(Path::new("list.csv"), "line");
        let records = |text: &str| {
            let labels = text.split(' ').enumerate();
            let record = |(index, label): (usize, &str)| Labelled {
                at: (),
                label: label.to_owned(),
                place: first.at(index + 1),
            };
            labels.map(record).collect::<Vec<_>>()
        };
        let [train, validation, test] = splits.map(records);
        let splits = BySplit {
            train,
            validation,
            test,
        };
        let names = names.map(|names| names.iter().map(ToString::to_string).collect());
        let strays = Strays {
            unlabelled: on,
            unseen: on,
        };
        let mut remarks = Vec::new();
        let (classes, splits) =
            resolve(splits, names, strays, &mut remarks).map_err(|e| e.to_string())?;
        Ok((
            classes,
            Split::ALL.map(|split| splits.get(split).len()),
            remarks,
        ))
    }

    #[test]
    fn hidden_labels_and_unknown_classes_are_errors_or_left_out_and_counted() {
        let names = Some(&["a", "-1"][..]);
        for (splits, names, part) in [
            (
                ["0 1", "0", "1 -1"],
                None,
                "line 2: expected the label of a class, got `-1` in the test",
            ),
            (
                ["0 -100", "0", "1"],
                None,
                "line 2: expected the label of a class, got `-100` in the train",
            ),
            (["a b", "-1", "a"], None, "got `-1` in the validation split"),
            (["a b", "a", ""], None, "got none in the test split"),
            (
                ["0 1", "-1.0", "1"],
                None,
                "got `-1.0` in the validation split",
            ),
            (["a b", "a", "-2"], names, "got `-2` in the test split"),
            (
                ["a b", "a", "c"],
                None,
                "expected a class of `train` (a, b), got `c` in the test split",
            ),
            (
                ["0 2 10", "0", "11"],
                None,
                "expected a class of `train` (0, 2, 10), got `11`",
            ),
        ] {
            let message = admitted(splits, names, OnStray::Fail).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
        let known = admitted(["a a", "a", "-1"], names, OnStray::Fail).unwrap();
        assert_eq!(known.1, [2, 1, 1], "names may be numbers");
        let known = admitted(["7 0", "07", "0"], None, OnStray::Fail).unwrap();
        assert_eq!(known.1, [2, 1, 1]);
        let (classes, sizes, remarks) =
            admitted(["b a -1", "a c", "-1 -1 d"], None, OnStray::Skip).unwrap();
        assert_eq!(classes, ["a", "b"]);
        assert_eq!(sizes, [2, 1, 0]);
        assert_eq!(
            remarks,
            [
                "images of train that are left out: 1 (their label is `-1`)",
                "images of test that are left out: 2 (their label is `-1`)",
                "images of validation that are left out: 1 (`train` lacks their class, `c`)",
                "images of test that are left out: 1 (`train` lacks their class, `d`)",
            ]
        );
    }
}
