//! The names of the classes, and the index of each record's class.
//!
//! Classes are ordered by one rule: as the format lists them, if it does (a `names` file, the
//! schema of a parquet, CIFAR's text file); else as numbers, if all are whole numbers; else by name.

mod labelled;
mod strays;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use peft_core::error::nearest;
use peft_core::files::read_text;
use serde::Deserialize;
use serde::de::{self, Deserializer, Unexpected, Visitor};

pub(crate) use self::labelled::{Labelled, fraction, order};
use self::labelled::{MAX_CLASSES, no_fractions, whole_number};
pub use self::strays::OnStray;
pub(crate) use self::strays::{Strays, admit, is_hidden, left_out};

use crate::error::Error;
use crate::files::Place;
use crate::indexed::{Item, Items};
use crate::split::BySplit;
use crate::text::lines;

/// The names in a text file, one per line.
///
/// # Errors
/// An empty line before the last name, a name that is listed twice, no name at all.
pub(crate) fn read_names(path: &Path) -> Result<Vec<String>, Error> {
    let text = read_text(path)?;
    let names: Vec<String> = lines(text.trim_end()).map(|l| l.trim().into()).collect();
    let first = Place::first(path, "line");
    let mut seen = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        let place = first.at(index + 1);
        if name.is_empty() {
            return Err(Error::record(place, "a class name", "an empty line"));
        }
        if let Some(earlier) = seen.insert(name, index + 1) {
            return Err(Error::Twice {
                image: format!("class `{name}`"),
                first: first.at(earlier).to_string(),
                second: place.to_string(),
            });
        }
    }
    if names.is_empty() {
        return Err(Error::layout(
            path,
            "the names of the classes, one per line",
            "none",
        ));
    }
    Ok(names)
}

/// The classes of labels that are numbers: `names`, if they are given; else as many as the largest
/// label needs, with their numbers as names.
///
/// # Errors
/// A label that has no class, with its place.
pub(crate) fn numbered<'a>(
    labels: impl Iterator<Item = (usize, &'a Place)>,
    names: Option<Vec<String>>,
) -> Result<Vec<String>, Error> {
    // Without names the largest label decides the size of the head; a stray one must not.
    let limit = names.as_ref().map_or(MAX_CLASSES, Vec::len);
    let mut count = 0;
    for (label, place) in labels {
        if label >= limit {
            return Err(Error::record(
                place,
                format!("a label in 0..{limit}"),
                label.to_string(),
            ));
        }
        count = count.max(label + 1);
    }
    Ok(names.unwrap_or_else(|| (0..count).map(|label| label.to_string()).collect()))
}

/// The classes of records in three splits, and the records with the index of theirs.
///
/// # Errors
/// Those of [`admit`] and [`classes_of`].
pub(crate) fn resolve<A>(
    records: BySplit<Vec<Labelled<A>>>,
    names: Option<Vec<String>>,
    strays: Strays,
    remarks: &mut Vec<String>,
) -> Result<(Vec<String>, Items<A>), Error> {
    let records = admit(records, names.as_deref(), strays, remarks)?;
    let labels: Vec<_> = records
        .iter()
        .flatten()
        .map(|record| (record.label.as_str(), &record.place))
        .collect();
    let (classes, labels) = classes_of(&labels, names)?;
    // `map` goes through the splits in the order of `iter`.
    let mut labels = labels.into_iter();
    let splits = records.map(|records| {
        let items = records.into_iter().zip(&mut labels);
        items
            .map(|(record, label)| Item {
                label,
                group: None,
                at: record.at,
            })
            .collect()
    });
    Ok((classes, splits))
}

/// The classes of `labels`, which are texts, and each label's index.
///
/// With `names`, a label is one of them or an index into them. Without, labels that are all whole
/// numbers count from 0; others are names, in their [`order`].
///
/// # Errors
/// A label that is neither, with its place: labels that are all numbers, but not whole ones, are
/// not taken for names.
pub(crate) fn classes_of(
    labels: &[(&str, &Place)],
    names: Option<Vec<String>>,
) -> Result<(Vec<String>, Vec<usize>), Error> {
    let numbers: Option<Vec<usize>> = labels.iter().map(|(text, _)| text.parse().ok()).collect();
    let names = match (names, numbers) {
        (None, Some(numbers)) => {
            let pairs = numbers.iter().zip(labels);
            let names = numbered(pairs.map(|(&n, (_, place))| (n, *place)), None)?;
            return Ok((names, numbers));
        }
        (Some(names), _) => names,
        (None, None) => {
            no_fractions(labels)?;
            let distinct: BTreeSet<&str> = labels.iter().map(|(text, _)| *text).collect();
            let mut names: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
            order(&mut names);
            names
        }
    };
    let by_name: HashMap<&str, usize> = names
        .iter()
        .enumerate()
        .map(|(index, name)| (name.as_str(), index))
        .collect();
    let index_of = |&(text, place): &(&str, &Place)| {
        // A name goes before a number: a class may be called `1` and stand elsewhere.
        let number = || text.parse().ok().filter(|&label| label < names.len());
        let known = by_name.get(text).copied().or_else(number);
        known.ok_or_else(|| {
            let hint = nearest(text, by_name.keys().copied())
                .map(|near| format!(" (did you mean `{near}`?)"))
                .or_else(|| whole_number(text).map(|number| format!(" (write `{number}`)")))
                .unwrap_or_default();
            let expected = format!("one of {0} class names, or an index below {0}", names.len());
            Error::record(place, expected, format!("`{text}`{hint}"))
        })
    };
    let indices = labels.iter().map(index_of).collect::<Result<_, _>>()?;
    Ok((names, indices))
}

/// The id of a class in a list in JSON. A fraction is refused with what to write instead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Id(pub i64);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("i64")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Id, E> {
                Ok(Id(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Id, E> {
                let id = i64::try_from(number);
                id.map(Id)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Id, E> {
                let got = format!("{number:?}");
                let hint = whole_number(&got).map(|number| format!(" (write `{number}`)"));
                let hint = hint.unwrap_or_default();
                Err(E::custom(format!(
                    "expected a whole number, got `{got}`{hint}"
                )))
            }
        }

        deserializer.deserialize_any(Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(labels: &[&str], names: Option<&[&str]>) -> Result<(String, Vec<usize>), String> {
        let first = Place::first(Path::new("list.csv"), "line");
        let places: Vec<Place> = (0..labels.len()).map(|i| first.at(i + 1)).collect();
        let labels: Vec<_> = labels.iter().copied().zip(&places).collect();
        let names = names.map(|names| names.iter().map(ToString::to_string).collect());
        let resolved = classes_of(&labels, names).map_err(|e| e.to_string());
        resolved.map(|(names, indices)| (names.join(" "), indices))
    }

    #[test]
    fn labels_are_numbers_or_names() {
        assert_eq!(
            resolved(&["2", "0"], None),
            Ok(("0 1 2".into(), vec![2, 0]))
        );
        assert_eq!(
            resolved(&["b", "2", "b"], None),
            Ok(("2 b".into(), vec![1, 0, 1]))
        );
        assert_eq!(
            resolved(&["b", "0"], Some(&["a", "b"])),
            Ok(("a b".into(), vec![1, 0]))
        );
        let named = resolved(&["1", "0"], Some(&["1", "0"]));
        assert_eq!(
            named,
            Ok(("1 0".into(), vec![0, 1])),
            "a name comes before a number"
        );
    }

    #[test]
    fn a_label_beyond_the_classes_is_named_with_its_place() {
        let message = resolved(&["ant", "2"], Some(&["ant", "bee"])).unwrap_err();
        assert_eq!(
            message,
            "bad record at `list.csv` line 2: expected one of 2 class names, or an index below 2, \
             got `2`"
        );
        let message = resolved(&["walrsu"], Some(&["walrus", "b"])).unwrap_err();
        assert!(message.contains("did you mean `walrus`?"), "{message}");
        let message = resolved(&["99999999999"], None).unwrap_err();
        assert!(
            message.contains("a label in 0..1048576, got 99999999999"),
            "{message}"
        );
    }

    #[test]
    fn fractions_lead_to_whole_numbers_or_names() {
        for (labels, names, part) in [
            (
                &["0", "1.0"][..],
                None,
                "line 2: expected a label that is a whole number or a name, got `1.0`: write `1`, or",
            ),
            (&["3.0", "2.5"], None, "line 1: expected a label that is"),
            (
                &["2.5"],
                None,
                "got `2.5`: it is a quantity, not a class, or",
            ),
            (&["nan", "1"], None, "line 1: expected a label"),
            (
                &["a", "1.0"],
                Some(&["a", "b"][..]),
                "got `1.0` (write `1`)",
            ),
        ] {
            let message = resolved(labels, names).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(
            resolved(&["v1.0", "2.5"], None),
            Ok(("2.5 v1.0".into(), vec![1, 0])),
            "names"
        );
        let named = resolved(&["1.0", "0.5"], Some(&["0.5", "1.0"]));
        assert_eq!(named, Ok(("0.5 1.0".into(), vec![1, 0])));
    }

    #[test]
    fn names_are_read_one_per_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classes.txt");
        let read = |text: &str| {
            fs_err::write(&path, text).unwrap();
            read_names(&path).map_err(|e| e.to_string())
        };
        assert_eq!(read("a\nb c\r\n\n").unwrap(), ["a", "b c"]);
        assert_eq!(read("\u{feff}a\r\nb\r\n").unwrap(), ["a", "b"]);
        assert_eq!(read("a\rb\r").unwrap(), ["a", "b"]);
        assert!(
            read("a\n\nb\n")
                .unwrap_err()
                .contains("line 2: expected a class name")
        );
        assert!(read("a\nb\na").unwrap_err().contains("line 1 and at"));
        assert!(read("\n").unwrap_err().contains("got none"));
    }
}
