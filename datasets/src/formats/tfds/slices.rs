//! Slices of splits, as TensorFlow Datasets writes them: `train[:800]+train[90%:]`.

use std::ops::Range;

/// Consecutive records of a split of the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The split's name in the set.
    pub split: String,
    /// The records, counted over its shards in their order.
    pub records: Range<usize>,
}

/// Whether some record is in both.
pub fn overlap(a: &[Slice], b: &[Slice]) -> bool {
    let meet = |a: &Slice, b: &Slice| {
        a.split == b.split
            && a.records.start.max(b.records.start) < a.records.end.min(b.records.end)
    };
    a.iter().any(|a| b.iter().any(|b| meet(a, b)))
}

/// Reads slices; `count` is the number of records of a split, if the set has it.
///
/// # Errors
/// The text that was expected instead.
pub fn parse(text: &str, count: impl Fn(&str) -> Option<usize>) -> Result<Vec<Slice>, String> {
    text.split('+')
        .map(|part| one(part.trim(), &count))
        .collect()
}

fn one(text: &str, count: impl Fn(&str) -> Option<usize>) -> Result<Slice, String> {
    let form =
        || "splits or slices such as `train[:800]`, `train[10%:90%]`, joined by `+`".to_owned();
    let (name, range) = match text.split_once('[') {
        Some((name, range)) => (name, Some(range.strip_suffix(']').ok_or_else(form)?)),
        None => (text, None),
    };
    let total = count(name).ok_or_else(|| format!("a split of the set, not `{name}`"))?;
    let Some(range) = range else {
        let (split, records) = (name.to_owned(), 0..total);
        return Ok(Slice { split, records });
    };
    let (from, to) = range.split_once(':').ok_or_else(form)?;
    let bound = |text: &str, absent: usize| match text.trim() {
        "" => Ok(absent),
        text => boundary(text, total).ok_or_else(form),
    };
    let (from, to) = (bound(from, 0)?, bound(to, total)?);
    if from > total || to > total || from >= to {
        return Err(format!("at least one of the {total} records of `{name}`"));
    }
    let (split, records) = (name.to_owned(), from..to);
    Ok(Slice { split, records })
}

/// A boundary: a number of records or per cent, from the end if it is negative. A per cent is rounded
/// to the nearest record and halves to the even one, as Python's `round` does.
fn boundary(text: &str, total: usize) -> Option<usize> {
    let (number, per_cent) = match text.strip_suffix('%') {
        Some(number) => (number, true),
        None => (text, false),
    };
    let number: i64 = number.parse().ok()?;
    let records = match per_cent {
        true if number.abs() > 100 => return None,
        true => (number as f64 * total as f64 / 100.0).round_ties_even() as i64,
        false => number,
    };
    let records = match text.starts_with('-') {
        true => total as i64 + records,
        false => records,
    };
    usize::try_from(records).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Result<Vec<(usize, usize)>, String> {
        let count = |name: &str| (name == "train").then_some(50);
        let slices = parse(text, count)?;
        let ends = |slice: &Slice| (slice.records.start, slice.records.end);
        Ok(slices.iter().map(ends).collect())
    }

    #[test]
    fn slices_are_those_of_python() {
        for (text, expected) in [
            ("train", vec![(0, 50)]),
            ("train[:8]", vec![(0, 8)]),
            ("train[-8:]", vec![(42, 50)]),
            ("train[3:-2]", vec![(3, 48)]),
            ("train[:10%] + train[90%:]", vec![(0, 5), (45, 50)]),
            // 0.5 and 1.5 records.
            ("train[1%:3%]", vec![(0, 2)]),
            ("train[-10%:]", vec![(45, 50)]),
        ] {
            assert_eq!(ranges(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_slice_is_refused() {
        for (text, part) in [
            ("valid", "a split of the set, not `valid`"),
            ("train[", "splits or slices"),
            ("train[5]", "splits or slices"),
            ("train[a:b]", "splits or slices"),
            ("train[:101%]", "splits or slices"),
            ("train[:51]", "at least one of the 50"),
            ("train[8:8]", "at least one of the 50"),
            ("train[-51:]", "splits or slices"),
            ("train+", "a split of the set, not ``"),
        ] {
            let message = ranges(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
