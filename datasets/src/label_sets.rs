//! Records with several labels each, or none: their classes, and the different sets of labels.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::files::Place;
use crate::indexed::{Item, Resolved};
use crate::labels::{Labelled, OnStray, Strays, classes_of, is_hidden, resolve};
use crate::split::BySplit;

/// Joins labels that a record lists one by one in its text: ASCII's unit separator, which names do not have.
pub(crate) const JOINED: char = '\u{1f}';

/// The classes of records in three splits, and the records with the indices of theirs. Where `separator`
/// says how the labels of a record are separated in its text, it may have several; an empty text has none.
///
/// # Errors
/// Those of [`resolve`]; a label that a record has twice, or one of validation or test that `train` lacks
/// where no `names` list it. With several labels per image none may be left out as a stray.
pub(crate) fn resolve_sets<A>(
    records: BySplit<Vec<Labelled<A>>>,
    separator: Option<char>,
    names: Option<Vec<String>>,
    strays: Strays,
    remarks: &mut Vec<String>,
) -> Result<Resolved<A>, Error> {
    let Some(separator) = separator else {
        let (classes, splits) = resolve(records, names, strays, remarks)?;
        let sets = Vec::new();
        return Ok(Resolved {
            classes,
            sets,
            splits,
        });
    };
    for (field, stray) in [("unlabelled", strays.unlabelled), ("unseen", strays.unseen)] {
        if stray != OnStray::Fail {
            let expected = "`fail` where images have several labels: no label means no class";
            return Err(Error::invalid(field, expected, "`skip`"));
        }
    }
    let all = records.map(|records| {
        let records = records.into_iter();
        let apart = records.map(|record| {
            let labels = pieces(&record.label, separator, &record.place)?;
            Ok((record.at, labels, record.place))
        });
        apart.collect::<Result<Vec<_>, Error>>()
    });
    let all = BySplit {
        train: all.train?,
        validation: all.validation?,
        test: all.test?,
    };
    let labels = |records: &[(A, Vec<String>, Place)]| -> Vec<(String, Place)> {
        let each = records.iter().flat_map(|(_, labels, place)| {
            labels.iter().map(|label| (label.clone(), place.clone()))
        });
        each.collect()
    };
    let classes = match names {
        Some(names) => names,
        None => {
            let trained = labels(&all.train);
            let trained: Vec<_> = trained
                .iter()
                .map(|(text, at)| (text.as_str(), at))
                .collect();
            classes_of(&trained, None)?.0
        }
    };
    if classes.is_empty() {
        let expected = "a training image with a label";
        return Err(Error::invalid("label", expected, "none"));
    }
    let mut indices = BTreeMap::new();
    let mut splits = BySplit::<Vec<(A, Vec<usize>)>>::default();
    for (records, items) in [
        (all.train, &mut splits.train),
        (all.validation, &mut splits.validation),
        (all.test, &mut splits.test),
    ] {
        let texts = labels(&records);
        let texts: Vec<_> = texts.iter().map(|(text, at)| (text.as_str(), at)).collect();
        let (_, found) = classes_of(&texts, Some(classes.clone()))?;
        let mut found = found.into_iter();
        for (at, labels, place) in records {
            let mut set: Vec<usize> = found.by_ref().take(labels.len()).collect();
            set.sort_unstable();
            if let Some(twice) = set.windows(2).find(|pair| pair[0] == pair[1]) {
                let got = format!("`{}` twice", classes[twice[0]]);
                return Err(Error::record(place, "each label once", got));
            }
            items.push((at, set.clone()));
            indices.insert(set, 0);
        }
    }
    // Numbered in their own order, which the order of the records does not change.
    for (number, (_, index)) in indices.iter_mut().enumerate() {
        *index = number;
    }
    let splits = splits.map(|items| {
        let items = items.into_iter().map(|(at, set)| Item {
            label: indices[&set],
            group: None,
            at,
        });
        items.collect()
    });
    Ok(Resolved {
        classes,
        sets: indices.into_keys().collect(),
        splits,
    })
}

/// The labels in the text of a record.
fn pieces(text: &str, separator: char, place: &Place) -> Result<Vec<String>, Error> {
    let text = text.trim_matches(|c: char| c.is_whitespace() && c != separator);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    // Blanks may be repeated, as between columns.
    let empty = |piece: &&str| !(separator.is_whitespace() && piece.is_empty());
    let pieces = text.split(separator).map(str::trim).filter(empty);
    let label = |piece: &str| match is_hidden(piece) {
        true => {
            let got = format!("`{piece}`: an image of no class has no label at all");
            Err(Error::record(place, "labels of classes", got))
        }
        false => Ok(piece.to_owned()),
    };
    pieces.map(label).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn resolved(
        train: &[&str],
        test: &[&str],
        separator: char,
        names: Option<&[&str]>,
    ) -> Result<Resolved<()>, String> {
        let first = Place::first(Path::new("list.csv"), "line");
        let records = |labels: &[&str]| {
            let each = labels.iter().enumerate().map(|(i, label)| Labelled {
                at: (),
                label: (*label).to_owned(),
                place: first.at(i + 1),
            });
            each.collect()
        };
        let records = BySplit {
            train: records(train),
            validation: Vec::new(),
            test: records(test),
        };
        let names = names.map(|names| names.iter().map(ToString::to_string).collect());
        let strays = Strays::default();
        resolve_sets(records, Some(separator), names, strays, &mut Vec::new())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn records_have_any_number_of_labels() {
        let found = resolved(&["sky|sea", "", "sea"], &["sea | sky"], '|', None).unwrap();
        assert_eq!(found.classes, ["sea", "sky"]);
        assert_eq!(found.sets, [vec![], vec![0], vec![0, 1]]);
        let of = |items: &[Item<()>]| items.iter().map(|item| item.label).collect::<Vec<_>>();
        assert_eq!(of(&found.splits.train), [2, 0, 1]);
        assert_eq!(of(&found.splits.test), [2]);
        let numbers = resolved(&["3  1", "0"], &["2"], ' ', None).unwrap();
        assert_eq!(numbers.classes, ["0", "1", "2", "3"]);
        assert_eq!(numbers.sets, [vec![0], vec![1, 3], vec![2]]);
    }

    #[test]
    fn bad_labels_are_named_with_their_place() {
        for (train, test, part) in [
            (
                "sea|sea",
                "",
                "line 1: expected each label once, got `sea` twice",
            ),
            ("sea||sky", "", "line 1: expected labels of classes, got ``"),
            ("-1", "", "an image of no class has no label"),
            ("sea", "sae", "got `sae` (did you mean `sea`?)"),
        ] {
            let message = resolved(&[train], &[test], '|', None).err().unwrap();
            assert!(message.contains(part), "{message}");
        }
        let listed = resolved(&["sea"], &["sky"], '|', Some(&["sea", "sky"])).unwrap();
        assert_eq!(listed.sets, [[0], [1]]);
    }
}
