//! Accuracy by the number of training images, and how many an accuracy takes.

use std::collections::BTreeMap;

use peft_core::random::Generator;

use crate::compare::statistics::moments::mean;
use crate::study::claim::Verdict;
use crate::study::statistics::SEEDS;
use crate::study::trained::rows::mean_of;

/// The share of the best accuracy that must be reached.
const SHARE: f64 = 0.9;
/// Resamples of the seeds.
const RESAMPLES: usize = 10_000;
/// The share of resamples that decides.
const DECIDES: f64 = 0.95;

/// Test accuracies at one boundary with so many training images, by seed.
#[derive(Clone, Debug, Default)]
pub struct Point {
    pub boundary: usize,
    pub shots: usize,
    pub images: usize,
    pub accuracy: BTreeMap<u64, f64>,
}

/// The accuracy that must be reached.
pub fn target(points: &[Point]) -> Option<f64> {
    let means = points.iter().filter_map(|point| mean_of(&point.accuracy));
    means.reduce(f64::max).map(|best| SHARE * best)
}

/// Images and accuracies at a boundary, in ascending order of images, made monotone by pooling neighbours
/// that fall.
pub fn curve(
    points: &[Point],
    boundary: usize,
    score: impl Fn(&Point) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let own = points.iter().filter(|point| point.boundary == boundary);
    let mut known: Vec<(f64, f64)> = own
        .filter_map(|point| Some((point.images as f64, score(point)?)))
        .collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for (_, accuracy) in &known {
        let mut pool = (*accuracy, 1);
        while let Some(&(before, count)) = pools.last() {
            if before <= pool.0 {
                break;
            }
            let all = count + pool.1;
            pool = (
                (before * count as f64 + pool.0 * pool.1 as f64) / all as f64,
                all,
            );
            pools.pop();
        }
        pools.push(pool);
    }
    let levels = pools
        .iter()
        .flat_map(|(level, count)| std::iter::repeat_n(*level, *count));
    known
        .iter()
        .zip(levels)
        .map(|((images, _), level)| (*images, level))
        .collect()
}

/// The number of images at which a monotone curve reaches an accuracy; none if it never does.
pub fn images_to(curve: &[(f64, f64)], accuracy: f64) -> Option<f64> {
    let after = curve.iter().position(|(_, level)| *level >= accuracy)?;
    let (images, level) = curve[after];
    if level == accuracy {
        return Some(images);
    }
    let Some(&(before, low)) = after.checked_sub(1).and_then(|at| curve.get(at)) else {
        return Some(images);
    };
    let way = (accuracy - low) / (level - low);
    Some(2f64.powf(before.log2() + way * (images.log2() - before.log2())))
}

/// The median of a third of the boundaries, the lower one of two.
fn median(boundaries: &[usize]) -> usize {
    boundaries[(boundaries.len() - 1) / 2]
}

/// The number of images at the median boundary of the shallow third against that of the deep third, over
/// resampled seeds.
pub fn verdict(boundaries: &[usize], points: &[Point], seeds: &[u64]) -> (Verdict, String) {
    let third = (boundaries.len() / 3).max(1);
    let shallow = median(&boundaries[..third]);
    let deep = median(&boundaries[boundaries.len() - third..]);
    let Some(target) = target(points) else {
        return (Verdict::Undecided, "no training finished".to_owned());
    };
    let of = |boundary, score: &dyn Fn(&Point) -> Option<f64>| {
        images_to(&curve(points, boundary, score), target).unwrap_or(f64::INFINITY)
    };
    let whole = |point: &Point| mean_of(&point.accuracy);
    let words = |images: f64| match images.is_finite() {
        true => format!("{images:.0} images"),
        false => "more images than there are".to_owned(),
    };
    let text = format!(
        "to reach {:.2} %, boundary {shallow} needs {} and boundary {deep} {}",
        100.0 * target,
        words(of(shallow, &whole)),
        words(of(deep, &whole))
    );
    if seeds.len() < SEEDS {
        let text = format!(
            "{text}; {} seeds, and a verdict needs at least {SEEDS}",
            seeds.len()
        );
        return (Verdict::Undecided, text);
    }
    let mut generator = Generator::new(0, "samples");
    let (mut fewer, mut more) = (0usize, 0usize);
    for _ in 0..RESAMPLES {
        let drawn: Vec<u64> = seeds
            .iter()
            .map(|_| seeds[generator.below(seeds.len())])
            .collect();
        let score = |point: &Point| {
            let own: Option<Vec<f64>> = drawn
                .iter()
                .map(|seed| point.accuracy.get(seed).copied())
                .collect();
            mean(&own?)
        };
        let (a, b) = (of(shallow, &score), of(deep, &score));
        fewer += usize::from(a < b);
        more += usize::from(a > b);
    }
    let share = |count: usize| count as f64 / RESAMPLES as f64;
    let text = format!(
        "{text}; the shallow one needs fewer in {:.1} % of the resampled seeds and more in {:.1} %",
        100.0 * share(fewer),
        100.0 * share(more)
    );
    let verdict = match (share(fewer) >= DECIDES, share(more) >= DECIDES) {
        (true, _) => Verdict::Holds,
        (_, true) => Verdict::DoesNotHold,
        _ => Verdict::Undecided,
    };
    (verdict, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read_off_a_monotone_curve() {
        let point = |images, accuracy: f64| Point {
            boundary: 1,
            images,
            accuracy: [(0, accuracy)].into(),
            ..Point::default()
        };
        let points = [
            point(10, 0.2),
            point(20, 0.5),
            point(40, 0.4),
            point(80, 0.8),
        ];
        let curve = curve(&points, 1, |point| mean_of(&point.accuracy));
        let levels: Vec<f64> = curve.iter().map(|(_, level)| *level).collect();
        assert_eq!(levels, [0.2, 0.45, 0.45, 0.8]);
        assert_eq!(images_to(&curve, 0.1), Some(10.0));
        assert_eq!(images_to(&curve, 0.8), Some(80.0));
        assert_eq!(images_to(&curve, 0.9), None);
        let halfway = images_to(&curve, 0.625).unwrap();
        assert!((halfway - 3200f64.sqrt()).abs() < 1e-9, "{halfway}");
    }

    #[test]
    fn a_boundary_that_needs_fewer_images_with_every_seed_decides() {
        let grid = |shallow: f64, deep: f64| -> Vec<Point> {
            let point = |boundary, images, level: f64| Point {
                boundary,
                images,
                shots: images,
                accuracy: (0..3)
                    .map(|seed| (seed, level + 0.001 * seed as f64))
                    .collect(),
            };
            vec![
                point(1, 10, shallow),
                point(1, 100, 0.9),
                point(7, 10, deep),
                point(7, 100, 0.9),
            ]
        };
        let of = |shallow, deep| verdict(&[1, 7], &grid(shallow, deep), &[0, 1, 2]).0;
        assert_eq!(of(0.8, 0.3), Verdict::Holds);
        assert_eq!(of(0.3, 0.8), Verdict::DoesNotHold);
        assert_eq!(of(0.5, 0.5), Verdict::Undecided);
        let few = verdict(&[1, 7], &grid(0.8, 0.3), &[0, 1]);
        assert!(few.1.contains("at least 3"), "{}", few.1);
    }
}
