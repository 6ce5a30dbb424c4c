//! From what a record says about its class to an index, and the names of the classes.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use peft_core::error::nearest;

use crate::Error;
use crate::files::Place;

/// The most classes that are believed of labels alone.
const MAX_CLASSES: usize = 1 << 20;

/// The names in a text file, one a line.
///
/// # Errors
/// An empty line that is not the last, a name that comes twice, no name at all.
pub(crate) fn read_names(path: &Path) -> Result<Vec<String>, Error> {
    let text = fs_err::read_to_string(path)?;
    let names: Vec<String> = text.trim_end().lines().map(|l| l.trim().into()).collect();
    let first = Place::first(path, "line");
    let mut seen = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        let place = first.at(index + 1);
        if name.is_empty() {
            return Err(Error::record(place, "the name of a class", "an empty line"));
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
            "the names of the classes, one a line",
            "none",
        ));
    }
    Ok(names)
}

/// The classes of `labels`, which are numbers: as many as `names`, where they are given, or one more
/// than the largest.
///
/// # Errors
/// A label beyond the names, by its place.
pub(crate) fn numbered<'a>(
    labels: impl Iterator<Item = (usize, &'a Place)>,
    names: Option<Vec<String>>,
) -> Result<Vec<String>, Error> {
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

/// The classes of `labels`, which are texts, and each label's index.
///
/// With `names`, a label is one of them or an index into them. Without, labels that are all whole
/// numbers count from 0; others are names, sorted.
///
/// # Errors
/// A label that is neither, by its place.
pub(crate) fn resolve<'a>(
    labels: &[(String, &'a Place)],
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
            let distinct: BTreeSet<&String> = labels.iter().map(|(text, _)| text).collect();
            distinct.into_iter().cloned().collect()
        }
    };
    let by_name: HashMap<&str, usize> = names
        .iter()
        .enumerate()
        .map(|(index, name)| (name.as_str(), index))
        .collect();
    let index_of = |(text, place): &(String, &'a Place)| {
        let number = || text.parse().ok().filter(|&label| label < names.len());
        by_name
            .get(text.as_str())
            .copied()
            .or_else(number)
            .ok_or_else(|| {
                let near = nearest(text, by_name.keys().copied());
                let hint = near
                    .map(|near| format!(" (did you mean `{near}`?)"))
                    .unwrap_or_default();
                let expected = format!("one of {} classes, or a number below", names.len());
                Error::record(place, expected, format!("`{text}`{hint}"))
            })
    };
    let indices = labels.iter().map(index_of).collect::<Result<_, _>>()?;
    Ok((names, indices))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(labels: &[&str], names: Option<&[&str]>) -> Result<(String, Vec<usize>), String> {
        let first = Place::first(Path::new("list.csv"), "line");
        let places: Vec<Place> = (0..labels.len()).map(|i| first.at(i + 1)).collect();
        let labels: Vec<_> = labels.iter().map(|l| l.to_string()).zip(&places).collect();
        let names = names.map(|names| names.iter().map(ToString::to_string).collect());
        let resolved = resolve(&labels, names).map_err(|e| e.to_string());
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
            "bad record at `list.csv` line 2: expected one of 2 classes, or a number below, got `2`"
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
    fn names_are_read_one_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classes.txt");
        let read = |text: &str| {
            fs_err::write(&path, text).unwrap();
            read_names(&path).map_err(|e| e.to_string())
        };
        assert_eq!(read("a\nb c\r\n\n").unwrap(), ["a", "b c"]);
        assert!(
            read("a\n\nb\n")
                .unwrap_err()
                .contains("line 2: expected the name of a class")
        );
        assert!(read("a\nb\na").unwrap_err().contains("line 1 and at"));
        assert!(read("\n").unwrap_err().contains("got none"));
    }
}
