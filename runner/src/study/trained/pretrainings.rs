//! The rule that a verdict in miniature rests on two pretrainings.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Skeleton;
use crate::study::claim::Verdict;

/// The labels of the networks among these whose weights are bundled, of one kind: miniatures.
pub fn bundled<'a>(
    skeletons: impl IntoIterator<Item = &'a Skeleton>,
    cnn: bool,
) -> BTreeSet<&'a str> {
    let own = skeletons.into_iter();
    own.filter(|skeleton| skeleton.bundled && skeleton.is_cnn() == cnn)
        .map(|skeleton| skeleton.label.as_str())
        .collect()
}

/// The verdict on what miniature networks show: one of them may owe it to its pretraining, so that a verdict
/// needs two. Where there is nothing to judge, that stays so.
pub fn pretrained_twice(
    miniatures: &BTreeSet<&str>,
    (verdict, reason): (Verdict, String),
) -> (Verdict, String) {
    match miniatures.first() {
        Some(only) if miniatures.len() == 1 && verdict != Verdict::None => {
            let text = format!(
                "{reason}; in miniature a verdict needs two pretrainings of a backbone, and this is one ({only})"
            );
            (Verdict::Undecided, text)
        }
        _ => (verdict, reason),
    }
}

/// The verdict on what a study of several kinds of networks shows: in miniature each kind needs two
/// pretrainings.
pub fn of_pretrainings(
    skeletons: &BTreeMap<String, Skeleton>,
    judgement: (Verdict, String),
) -> (Verdict, String) {
    let kinds = [true, false];
    kinds.into_iter().fold(judgement, |judgement, cnn| {
        pretrained_twice(&bundled(skeletons.values(), cnn), judgement)
    })
}
