//! Labels as records spell them, and the order of their classes.

use crate::error::Error;
use crate::files::Place;

/// More classes than this are taken for a mistake in the labels, not allocated.
pub(super) const MAX_CLASSES: usize = 1 << 20;

/// Orders the names of classes that nothing lists: as numbers if all are whole numbers, else by
/// name. (torchvision's `ImageFolder` orders numbers as texts: 0, 1, 10, 2.)
pub(crate) fn order(names: &mut [String]) {
    let number = |name: &String| name.parse::<u64>();
    match names.iter().all(|name| number(name).is_ok()) {
        // `7` and `07` are two names of one number.
        true => names.sort_by_cached_key(|name| (number(name).ok(), name.clone())),
        false => names.sort_unstable(),
    }
}

/// A record whose label is still a text.
pub(crate) struct Labelled<A> {
    /// Where its image is.
    pub at: A,
    /// The label, as the record spells it.
    pub label: String,
    /// Where the label is written.
    pub place: Place,
}

/// Refuses labels that are all numbers, but not all whole ones.
pub(super) fn no_fractions(labels: &[(&str, &Place)]) -> Result<(), Error> {
    let is_number = |(text, _): &(&str, &Place)| text.parse::<f64>().is_ok();
    let is_whole = |(text, _): &(&str, &Place)| text.parse::<u64>().is_ok();
    match labels.iter().find(|label| !is_whole(label)) {
        Some((text, place)) if labels.iter().all(is_number) => Err(fraction(place, text)),
        _ => Ok(()),
    }
}

/// The error of a label that is a number, but not a whole one.
pub(crate) fn fraction(place: impl ToString, label: &str) -> Error {
    let hint = match whole_number(label) {
        Some(number) => format!("write `{number}`"),
        None => "it is a quantity, not a class".into(),
    };
    let got = format!("`{label}`: {hint}, or list it in `names` if it is the name of a class");
    Error::record(place, "a label that is a whole number or a name", got)
}

/// The whole number that a label such as `3.0` spells as a fraction.
pub(super) fn whole_number(label: &str) -> Option<u64> {
    let number: f64 = label.parse().ok()?;
    let whole = number.fract() == 0.0 && (0.0..MAX_CLASSES as f64).contains(&number);
    (whole && label.parse::<u64>().is_err()).then_some(number as u64)
}
