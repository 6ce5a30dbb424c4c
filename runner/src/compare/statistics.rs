//! What a comparison may claim: spread, paired differences with bootstrap intervals, ranks over data
//! sets with the tests that belong to them.
//!
//! **The sampling unit is the data set.** A comparison over several data sets asks what would happen on
//! another data set, so the differences of one data set (one a seed, paired: same split, same order of
//! the batches, same initial head) are averaged first, and it is these averages that are resampled,
//! ranked and tested. Resampling whole clusters and keeping what is in them reproduces the variance of
//! nested data; resampling seeds as well would count the seeds' variance twice (Davison and Hinkley,
//! "Bootstrap Methods and their Application", 1997, section 3.8). Treating seeds as units of their own
//! would narrow every interval by pretending that there were more data sets. Where a comparison has
//! only one data set its seeds are the units, and what is found concerns that data set alone.
//!
//! Sources: Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets" (2006) for ranks,
//! Friedman's test and Nemenyi's critical difference; Iman and Davenport, "Approximations of the
//! critical region of the Friedman statistic" (1980); Benavoli, Corani and Mangili, "Should We Really
//! Use Post-Hoc Tests Based on Mean-Ranks?" (2016) for Wilcoxon's signed-rank test against a baseline,
//! with Holm's correction (1979); Efron, "Better Bootstrap Confidence Intervals" (1987) for BCa.

use std::cmp::Ordering;
use std::f64::consts::{PI, SQRT_2};

use peft_core::random::Generator;
use statrs::function::beta::beta_reg;
use statrs::function::erf::{erfc, erfc_inv};
use statrs::function::gamma::gamma_ur;

/// Scores that agree this well are equal: a mean over seeds depends on the order of its sum.
const EQUAL: f64 = 1e-9;

/// The mean; none of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The sample standard deviation (over `n - 1`); none of fewer than two values.
pub fn deviation(values: &[f64]) -> Option<f64> {
    let (mean, count) = (mean(values)?, values.len());
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (count > 1).then(|| (squares / (count - 1) as f64).sqrt())
}

/// A confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// What a bootstrap does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// How often the units are drawn anew.
    pub resamples: usize,
    /// Coverage of the intervals, in `(0, 1)`.
    pub level: f64,
    /// Of the random numbers.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            resamples: 20_000,
            level: 0.95,
            seed: 0,
        }
    }
}

/// The mean of paired differences, and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The mean over units.
    pub mean: f64,
    /// Quantiles of the resampled means.
    pub percentile: Interval,
    /// The same, corrected for bias and for a variance that depends on the mean.
    pub bca: Interval,
    /// Data sets, or seeds where there is one data set.
    pub units: usize,
    /// Pairs of trials in all.
    pub pairs: usize,
}

/// The mean difference over `clusters`: the paired differences of each data set, one a seed. Of a single
/// data set the seeds are the units. Data sets without a pair do not count; none with fewer than two units.
pub fn difference(clusters: &[Vec<f64>], bootstrap: &Bootstrap) -> Option<Difference> {
    let units = match clusters {
        [only] => only.clone(),
        _ => clusters.iter().filter_map(|c| mean(c)).collect(),
    };
    if units.len() < 2 {
        return None;
    }
    let means = resampled(&units, bootstrap);
    let tail = f64::midpoint(1.0, -bootstrap.level);
    Some(Difference {
        mean: mean(&units)?,
        percentile: Interval {
            low: quantile(&means, tail),
            high: quantile(&means, 1.0 - tail),
        },
        bca: bca(&means, &units, tail),
        units: units.len(),
        pairs: clusters.iter().map(Vec::len).sum(),
    })
}

/// Means of units drawn with replacement, ascending.
fn resampled(units: &[f64], bootstrap: &Bootstrap) -> Vec<f64> {
    let mut generator = Generator::new(bootstrap.seed, "bootstrap");
    let count = units.len();
    let mut draw = |_| {
        let sum: f64 = (0..count).map(|_| units[generator.below(count)]).sum();
        sum / count as f64
    };
    let mut means: Vec<f64> = (0..bootstrap.resamples).map(&mut draw).collect();
    means.sort_by(f64::total_cmp);
    means
}

/// The quantile of ascending values, linear between two of them.
fn quantile(values: &[f64], share: f64) -> f64 {
    let place = share * (values.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(values.len() - 1);
    values[below] + (place - below as f64) * (values[above] - values[below])
}

/// Efron's BCa interval with `tail` outside at each end, from the ascending resampled means: the
/// quantiles are moved by the bias `z0` and the acceleration `a`, a skewness from leaving out one unit
/// at a time.
fn bca(means: &[f64], units: &[f64], tail: f64) -> Interval {
    let (count, estimate) = (units.len() as f64, mean(units).unwrap_or(f64::NAN));
    let (mut squares, mut cubes) = (0.0, 0.0);
    for unit in units {
        // (n - 1) (mean of the leave-one-out means - this one)
        let influence = unit - estimate;
        squares += influence.powi(2);
        cubes += influence.powi(3);
    }
    // All units are equal: there is nothing to resample.
    if squares.sqrt() <= f64::EPSILON * estimate.abs() * count {
        return Interval {
            low: estimate,
            high: estimate,
        };
    }
    let acceleration = cubes / (6.0 * squares.powf(1.5));
    let below = means.partition_point(|mean| *mean < estimate);
    let through = means.partition_point(|mean| *mean <= estimate);
    let bias = normal_quantile((below + through) as f64 / (2 * means.len()) as f64);
    let end = |z: f64| {
        let moved = bias + z;
        quantile(
            means,
            normal(bias + moved / (1.0 - acceleration * moved)).clamp(0.0, 1.0),
        )
    };
    let z = normal_quantile(tail);
    Interval {
        low: end(z),
        high: end(-z),
    }
}

/// The standard normal distribution function.
fn normal(z: f64) -> f64 {
    0.5 * erfc(-z / SQRT_2)
}

/// Its inverse.
fn normal_quantile(share: f64) -> f64 {
    -SQRT_2 * erfc_inv(2.0 * share)
}

/// Compares scores; those that only rounding tells apart are equal.
pub fn order(a: f64, b: f64) -> Ordering {
    match (a - b).abs() <= EQUAL {
        true => Ordering::Equal,
        false => a.total_cmp(&b),
    }
}

/// The rank of each score: 1 for the largest, the mean of their ranks for equal ones.
pub fn ranks(scores: &[f64]) -> Vec<f64> {
    let rank = |score: &f64| {
        let count = |wanted| {
            let matches = scores.iter().filter(|s| order(**s, *score) == wanted);
            matches.count() as f64
        };
        count(Ordering::Greater) + (count(Ordering::Equal) + 1.0) / 2.0
    };
    scores.iter().map(rank).collect()
}

/// Ranks of methods over data sets, and whether they differ at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Friedman {
    /// The average rank of each method.
    pub ranks: Vec<f64>,
    /// Data sets.
    pub datasets: usize,
    /// Friedman's statistic, corrected for ties.
    pub chi2: f64,
    /// Its probability under equal methods, by the chi-square distribution.
    pub p: f64,
    /// Iman and Davenport's statistic, less conservative; infinite where all data sets agree.
    pub f: f64,
    /// Its probability under equal methods, by the F distribution.
    pub f_p: f64,
}

/// Friedman's test over `scores`, a row a data set and a column a method. None with fewer than two
/// data sets or three methods, or where all scores of every data set are equal.
pub fn friedman(scores: &[Vec<f64>]) -> Option<Friedman> {
    let (n, k) = (scores.len() as f64, scores.first()?.len() as f64);
    if n < 2.0 || k < 3.0 {
        return None;
    }
    let rows: Vec<_> = scores.iter().map(|row| ranks(row)).collect();
    let average: Vec<f64> = (0..scores[0].len())
        .map(|method| rows.iter().map(|row| row[method]).sum::<f64>() / n)
        .collect();
    let squares: f64 = average.iter().map(|rank| rank * rank).sum();
    // A group of t equal ranks takes (t³ - t) / 12 from the variance of its row: t² - 1 for each member.
    let ties: f64 = rows
        .iter()
        .flat_map(|row| {
            let group = |rank: &f64| row.iter().filter(|other| *other == rank).count() as f64;
            row.iter().map(move |rank| group(rank).powi(2) - 1.0)
        })
        .sum();
    let correction = 1.0 - ties / (n * k * (k * k - 1.0));
    if correction <= 0.0 {
        return None;
    }
    let plain = 12.0 * n / (k * (k + 1.0)) * (squares - k * (k + 1.0).powi(2) / 4.0);
    let most = n * (k - 1.0);
    let chi2 = (plain / correction).clamp(0.0, most);
    let (between, within) = (k - 1.0, (k - 1.0) * (n - 1.0));
    let f = match most - chi2 > EQUAL * most {
        true => (n - 1.0) * chi2 / (most - chi2),
        false => f64::INFINITY,
    };
    Some(Friedman {
        ranks: average,
        datasets: scores.len(),
        chi2,
        p: gamma_ur(between / 2.0, chi2 / 2.0),
        f,
        f_p: match f.is_finite() {
            true => beta_reg(within / 2.0, between / 2.0, within / (within + between * f)),
            false => 0.0,
        },
    })
}

/// Nemenyi's critical difference: average ranks of `methods` over `datasets` differ at level `alpha` if
/// they are at least so far apart.
pub fn critical_difference(methods: usize, datasets: usize, alpha: f64) -> f64 {
    let (k, n) = (methods as f64, datasets as f64);
    nemenyi(methods, alpha) * (k * (k + 1.0) / (6.0 * n)).sqrt()
}

/// The quantile of the studentised range of `methods` at infinitely many degrees of freedom, over √2.
fn nemenyi(methods: usize, alpha: f64) -> f64 {
    let (mut low, mut high) = (0.0, 20.0);
    while high - low > 1e-13 * high {
        let middle = f64::midpoint(low, high);
        match range(middle, methods) < 1.0 - alpha {
            true => low = middle,
            false => high = middle,
        }
    }
    low / SQRT_2
}

/// The probability that `count` standard normal values lie within `width` of each other:
/// `k ∫ φ(z) (Φ(z) - Φ(z - width))^(k-1) dz`, z being the largest. The trapezoidal rule is exact to
/// rounding on so smooth a function.
fn range(width: f64, count: usize) -> f64 {
    const STEP: f64 = 1.0 / 64.0;
    const END: i32 = 9 * 64;
    let others = count.saturating_sub(1) as f64;
    let density = |z: f64| {
        let inside = normal(z) - normal(z - width);
        (-z * z / 2.0).exp() * inside.powf(others)
    };
    let sum: f64 = (-END..=END).map(|i| density(f64::from(i) * STEP)).sum();
    count as f64 * sum * STEP / (2.0 * PI).sqrt()
}

/// Groups of methods that no critical difference separates, as index ranges into ascending `ranks`;
/// only those that no other contains, and of two methods at least.
pub fn cliques(ranks: &[f64], critical: f64) -> Vec<std::ops::Range<usize>> {
    let mut cliques: Vec<std::ops::Range<usize>> = Vec::new();
    for start in 0..ranks.len() {
        let end = ranks.partition_point(|rank| rank - ranks[start] < critical);
        let contained = cliques.last().is_some_and(|last| last.end >= end);
        if end - start > 1 && !contained {
            cliques.push(start..end);
        }
    }
    cliques
}

/// How often a method was better, equal and worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Better.
    pub wins: usize,
    /// Equal.
    pub ties: usize,
    /// Worse.
    pub losses: usize,
}

/// Counts over differences, one a data set.
pub fn record(differences: &[f64]) -> Record {
    let count = |wanted| {
        let matches = differences.iter().filter(|d| order(**d, 0.0) == wanted);
        matches.count()
    };
    Record {
        wins: count(Ordering::Greater),
        ties: count(Ordering::Equal),
        losses: count(Ordering::Less),
    }
}

/// Wilcoxon's signed-rank test of paired differences, two-sided: the probability under exchangeable
/// signs, exact also with ties. Zeros are left out, as Wilcoxon does; none if nothing is left.
pub fn wilcoxon(differences: &[f64]) -> Option<f64> {
    let left = differences.iter().filter(|d| order(**d, 0.0).is_ne());
    let left: Vec<f64> = left.copied().collect();
    if left.is_empty() {
        return None;
    }
    // The smallest has rank 1; twice the mean rank of ties is whole.
    let sizes: Vec<f64> = left.iter().map(|d| -d.abs()).collect();
    let doubled = ranks(&sizes).into_iter().map(|rank| (2.0 * rank) as usize);
    let doubled: Vec<usize> = doubled.collect();
    let total: usize = doubled.iter().sum();
    let signed = doubled.iter().zip(&left);
    let positive: usize = signed
        .filter(|(_, d)| **d > 0.0)
        .map(|(rank, _)| rank)
        .sum();
    // Of all sums of positive ranks, the shares.
    let mut shares = vec![0.0; total + 1];
    shares[0] = 1.0;
    for rank in doubled {
        for sum in (0..=total).rev() {
            let with = if sum >= rank { shares[sum - rank] } else { 0.0 };
            shares[sum] = f64::midpoint(shares[sum], with);
        }
    }
    let tail: f64 = shares[..=positive.min(total - positive)].iter().sum();
    Some((2.0 * tail).min(1.0))
}

/// Holm's correction of the probabilities of several tests, in their order.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let (mut corrected, mut least) = (vec![0.0; p.len()], 0.0f64);
    for (done, index) in order.into_iter().enumerate() {
        least = least.max((p.len() - done) as f64 * p[index]).min(1.0);
        corrected[index] = least;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// What `fixtures/scripts/statistics.py` wrote.
    #[derive(Deserialize)]
    struct Golden {
        level: f64,
        ranks: Vec<Ranks>,
        moments: Vec<Moments>,
        friedman: Vec<Test>,
        nemenyi: Vec<Nemenyi>,
        wilcoxon: Vec<Signed>,
        bootstrap: Vec<Resampling>,
    }

    #[derive(Deserialize)]
    struct Ranks {
        values: Vec<f64>,
        ranks: Vec<f64>,
    }

    #[derive(Deserialize)]
    struct Moments {
        values: Vec<f64>,
        mean: f64,
        deviation: Option<f64>,
    }

    #[derive(Deserialize)]
    struct Test {
        scores: Vec<Vec<f64>>,
        ranks: Vec<f64>,
        chi2: f64,
        p: f64,
        f: f64,
        f_p: f64,
    }

    #[derive(Deserialize)]
    struct Nemenyi {
        alpha: f64,
        methods: usize,
        q: f64,
    }

    #[derive(Deserialize)]
    struct Signed {
        differences: Vec<f64>,
        p: f64,
    }

    #[derive(Deserialize)]
    struct Resampling {
        values: Vec<f64>,
        distribution: Vec<f64>,
        percentile: [f64; 2],
        bca: [f64; 2],
        wide_percentile: [f64; 2],
        wide_bca: [f64; 2],
        noise: f64,
    }

    fn golden() -> Golden {
        let text = include_str!("../../../fixtures/statistics.json");
        serde_json::from_str(text).unwrap()
    }

    #[track_caller]
    fn close(got: f64, expected: f64, tolerance: f64) {
        let error = (got - expected).abs() / expected.abs().max(f64::MIN_POSITIVE);
        assert!(
            error <= tolerance || got == expected,
            "{got}, expected {expected}"
        );
    }

    #[test]
    fn moments_and_ranks_are_those_of_scipy() {
        for case in golden().moments {
            close(mean(&case.values).unwrap(), case.mean, 1e-14);
            assert_eq!(deviation(&case.values).is_some(), case.deviation.is_some());
            if let Some(expected) = case.deviation {
                close(deviation(&case.values).unwrap(), expected, 1e-14);
            }
        }
        for case in golden().ranks {
            assert_eq!(ranks(&case.values), case.ranks);
        }
        assert_eq!((mean(&[]), deviation(&[])), (None, None));
    }

    #[test]
    fn rounding_breaks_no_tie() {
        let (once, again) = (0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1);
        assert_ne!(once, again);
        assert_eq!(ranks(&[once, again]), [1.5, 1.5]);
        assert_eq!(record(&[once - again]).ties, 1);
    }

    #[test]
    fn friedman_is_that_of_scipy() {
        for case in golden().friedman {
            let test = friedman(&case.scores).unwrap();
            for (got, expected) in test.ranks.iter().zip(&case.ranks) {
                close(*got, *expected, 1e-14);
            }
            close(test.chi2, case.chi2, 1e-11);
            close(test.p, case.p, 1e-10);
            close(test.f, case.f, 1e-10);
            close(test.f_p, case.f_p, 1e-9);
        }
        // Nothing to tell apart, too little to tell it from, and perfect agreement.
        assert_eq!(friedman(&vec![vec![0.5; 3]; 4]), None);
        assert_eq!(friedman(&[vec![0.1, 0.2, 0.3]]), None);
        assert_eq!(friedman(&vec![vec![0.1, 0.2]; 9]), None);
        let agreed = friedman(&vec![vec![0.1, 0.2, 0.3]; 5]).unwrap();
        assert_eq!(
            (agreed.chi2, agreed.f, agreed.f_p),
            (10.0, f64::INFINITY, 0.0)
        );
    }

    #[test]
    fn the_critical_difference_is_that_of_scipy() {
        for case in golden().nemenyi {
            close(nemenyi(case.methods, case.alpha), case.q, 1e-9);
        }
        // Demšar's example: four classifiers over fourteen data sets.
        close(critical_difference(4, 14, 0.05), 1.25, 0.01);
    }

    #[test]
    fn wilcoxon_is_that_of_scipy() {
        for case in golden().wilcoxon {
            close(wilcoxon(&case.differences).unwrap(), case.p, 1e-12);
        }
        assert_eq!(wilcoxon(&[0.0, 0.0]), None);
    }

    #[test]
    fn intervals_are_those_of_scipy() {
        let golden = golden();
        let tail = (1.0 - golden.level) / 2.0;
        for case in golden.bootstrap {
            let mut means = case.distribution;
            means.sort_by(f64::total_cmp);
            let exact = bca(&means, &case.values, tail);
            close(exact.low, case.bca[0], 1e-9);
            close(exact.high, case.bca[1], 1e-9);
            close(quantile(&means, tail), case.percentile[0], 1e-9);
            close(quantile(&means, 1.0 - tail), case.percentile[1], 1e-9);

            // With random numbers of our own.
            let clusters: Vec<_> = case.values.iter().map(|value| vec![*value]).collect();
            let ours = difference(&clusters, &Bootstrap::default()).unwrap();
            let ends = |interval: Interval| [interval.low, interval.high];
            for (got, expected) in [
                (ours.percentile, case.wide_percentile),
                (ours.bca, case.wide_bca),
            ] {
                for (got, expected) in ends(got).into_iter().zip(expected) {
                    assert!(
                        (got - expected).abs() < case.noise,
                        "{got}, expected {expected} within {}",
                        case.noise
                    );
                }
            }
        }
    }

    #[test]
    fn data_sets_are_the_units_however_many_seeds_they_have() {
        let bootstrap = Bootstrap::default();
        let few = [vec![0.1], vec![0.3], vec![0.2], vec![-0.1]];
        let many = few.clone().map(|cluster| cluster.repeat(5));
        let (few, many) = (
            difference(&few, &bootstrap).unwrap(),
            difference(&many, &bootstrap).unwrap(),
        );
        assert_eq!((few.units, few.pairs), (4, 4));
        assert_eq!((many.units, many.pairs), (4, 20));
        close(few.mean, many.mean, 1e-12);
        close(few.bca.low, many.bca.low, 1e-9);
        // Seeds of one of several data sets are no evidence of the others.
        assert_eq!(difference(&[vec![0.1, 0.2, 0.3], vec![]], &bootstrap), None);
        // Of a single one they are all there is.
        let seeds = difference(&[vec![0.1, 0.2, 0.4]], &bootstrap).unwrap();
        assert_eq!((seeds.units, seeds.pairs), (3, 3));
        assert!(seeds.bca.low < seeds.mean && seeds.mean < seeds.bca.high);
        // No spread, no interval to speak of.
        let equal = difference(&vec![vec![0.1]; 5], &bootstrap).unwrap();
        close(equal.bca.low, 0.1, 1e-12);
        close(equal.bca.high, 0.1, 1e-12);
        // The same numbers each time, others under another seed.
        let rough = |seed| Bootstrap {
            resamples: 99,
            seed,
            ..bootstrap
        };
        let clusters = [0.13, 0.37, 0.2, -0.11, 0.08, 0.21].map(|value| vec![value]);
        assert_eq!(
            difference(&clusters, &rough(0)),
            difference(&clusters, &rough(0))
        );
        assert_ne!(
            difference(&clusters, &rough(0)),
            difference(&clusters, &rough(1))
        );
    }

    #[test]
    fn cliques_are_the_largest_groups() {
        let ranks = [1.0, 1.5, 2.6, 4.0, 4.2];
        assert_eq!(cliques(&ranks, 1.2), [0..2, 1..3, 3..5]);
        assert_eq!(
            cliques(&ranks, 10.0).as_slice(),
            std::slice::from_ref(&(0..5))
        );
        assert!(cliques(&ranks, 0.1).is_empty());
        // As far apart as the critical difference is different.
        assert_eq!(cliques(&[1.0, 2.0, 3.0], 1.0).len(), 0);
    }

    #[test]
    fn holm_steps_down() {
        let corrected = holm(&[0.01, 0.04, 0.03, 0.5]);
        for (got, expected) in corrected.iter().zip([0.04, 0.09, 0.09, 0.5]) {
            close(*got, expected, 1e-12);
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }
}
