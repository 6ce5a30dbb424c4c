//! Label maps: which classes of a checkpoint stand for the classes of a data set.
//!
//! `counts[s][t]` are the training images of target class `t` whose largest logit is source class `s`. The map is greedy:
//! the largest cell first, and its row and column are struck. That is the definition, not the optimal assignment.

use peft_core::params::floats;
use peft_core::random::Generator;
use peft_core::{Head, Model};

use crate::config::head::{HeadConfig, MapKind};
use crate::data::loader::Loader;
use crate::data::random::Pass;
use crate::device::ComputeDevice;
use crate::exit::{Failure, config_error};

/// Counts of images by source class (row) and target class (column).
pub type Counts = Vec<Vec<usize>>;

/// For each target class the source classes that stand for it, in ascending order.
pub type Mapping = Vec<Vec<usize>>;

/// Checks that there are enough source classes.
///
/// # Errors
/// If there are not.
pub fn check(sources: usize, targets: usize, each: usize) -> Result<(), Failure> {
    if each == 0 {
        return Err(config_error("head.sources: expected at least 1, got 0"));
    }
    if targets * each > sources {
        return Err(config_error(format!(
            "head: {targets} target classes with {each} source classes each need {}, and the checkpoint has {sources}",
            targets * each
        )));
    }
    Ok(())
}

/// The greedy map with `each` sources for a target. Of equal cells the one with the lowest source counts,
/// then the one with the lowest target.
pub fn greedy(counts: &Counts, targets: usize, each: usize) -> Mapping {
    let mut mapping = vec![Vec::with_capacity(each); targets];
    let mut free = vec![true; counts.len()];
    for _ in 0..targets * each {
        let mut best: Option<(usize, usize, usize)> = None;
        for (source, row) in counts
            .iter()
            .enumerate()
            .filter(|(source, _)| free[*source])
        {
            let open = row
                .iter()
                .enumerate()
                .filter(|(t, _)| mapping[*t].len() < each);
            for (target, &count) in open {
                if best.is_none_or(|(most, ..)| count > most) {
                    best = Some((count, source, target));
                }
            }
        }
        if let Some((_, source, target)) = best {
            mapping[target].push(source);
            free[source] = false;
        }
    }
    mapping
        .iter_mut()
        .for_each(|sources| sources.sort_unstable());
    mapping
}

/// A map of distinct source classes that are drawn from a seed.
pub fn random(sources: usize, targets: usize, each: usize, seed: u64) -> Mapping {
    let order = Generator::new(seed, "label map").permutation(sources);
    let chosen = order[..targets * each].chunks_exact(each);
    let mut mapping: Mapping = chosen.map(<[_]>::to_vec).collect();
    mapping
        .iter_mut()
        .for_each(|sources| sources.sort_unstable());
    mapping
}

/// The index of the largest value; of equal ones the lowest.
pub fn largest<T: PartialOrd>(values: &[T]) -> usize {
    let mut best = 0;
    for (place, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = place;
        }
    }
    best
}

/// Counts the source classes that a model finds in a loader's images. None if the model has no label map.
///
/// # Errors
/// If an image cannot be read.
pub fn count(
    model: &Model,
    loader: &Loader,
    device: &ComputeDevice,
    compute: burn::tensor::DType,
) -> Result<Option<Counts>, Failure> {
    let Head::Mapped(head) = &model.head else {
        return Ok(None);
    };
    let sources = head.weight.dims()[0];
    let mut counts = vec![vec![0; head.classes()]; sources];
    let all = 0..loader.batches();
    loader.each(all, Pass::Plain, &device.device, |_, batch| {
        let x = batch.x.cast(compute);
        let features = model.features(x, batch.from, None);
        let logits = floats(head.sources(features).into_data());
        let labels = batch.targets.single().unwrap_or_default();
        for (row, target) in logits.chunks_exact(sources).zip(labels) {
            counts[largest(row)][*target] += 1;
        }
        Ok::<_, Failure>(true)
    })?;
    Ok(Some(counts))
}

/// Whether the map is computed anew before an epoch, counted from 0.
pub fn is_due(head: &HeadConfig, epoch: usize) -> bool {
    match head {
        HeadConfig::LabelMapping { kind, every, .. } => match kind {
            MapKind::Random => false,
            MapKind::Frequency => epoch == 0,
            MapKind::Iterative => epoch.is_multiple_of(*every),
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn golden() -> Value {
        serde_json::from_str(include_str!(
            "../../../fixtures/label_mapping/expected.json"
        ))
        .unwrap()
    }

    #[test]
    fn maps_are_the_golden_ones() {
        let golden = golden();
        let counts: Vec<Counts> = serde_json::from_value(golden["counts"].clone()).unwrap();
        let one: Vec<Vec<usize>> = serde_json::from_value(golden["greedy"].clone()).unwrap();
        let two: Vec<Mapping> =
            serde_json::from_value(golden["greedy_two_sources"].clone()).unwrap();
        for (epoch, counts) in counts.iter().enumerate() {
            assert_eq!(greedy(counts, 5, 1).concat(), one[epoch], "epoch {epoch}");
            assert_eq!(greedy(counts, 5, 2), two[epoch], "epoch {epoch}");
        }
    }

    #[test]
    fn the_map_in_force_follows_the_kind() {
        let due = |kind, every| -> Vec<usize> {
            let head = HeadConfig::LabelMapping {
                kind,
                every,
                sources: 1,
            };
            (0..5).filter(|epoch| is_due(&head, *epoch)).collect()
        };
        assert_eq!(due(MapKind::Random, 1), [0usize; 0]);
        assert_eq!(due(MapKind::Frequency, 1), [0]);
        assert_eq!(due(MapKind::Iterative, 1), [0, 1, 2, 3, 4]);
        assert_eq!(due(MapKind::Iterative, 2), [0, 2, 4]);
    }

    #[test]
    fn a_random_map_is_injective_and_follows_its_seed() {
        let map = random(11, 5, 2, 3);
        let distinct: BTreeSet<_> = map.concat().into_iter().collect();
        assert_eq!(distinct.len(), 10);
        assert!(distinct.iter().all(|source| *source < 11));
        assert_eq!(map, random(11, 5, 2, 3));
        assert_ne!(map, random(11, 5, 2, 4));
    }

    #[test]
    fn equal_logits_go_to_the_lowest_class() {
        assert_eq!(largest(&[1.0, 3.0, 3.0]), 1);
        assert!(check(9, 5, 2).is_err() && check(10, 5, 2).is_ok());
    }
}
