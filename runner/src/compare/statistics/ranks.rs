//! Ranks of methods over data sets, and their tests.

use std::cmp::Ordering;
use std::f64::consts::{PI, SQRT_2};

use statrs::function::beta::beta_reg;
use statrs::function::gamma::gamma_ur;

use super::moments::normal;

/// Scores that differ by no more than this are equal: the order of summation changes the last
/// digits of a mean over seeds.
const EQUAL: f64 = 1e-9;

/// Compares scores; a difference that may come from rounding counts as equality.
pub fn order(a: f64, b: f64) -> Ordering {
    match (a - b).abs() <= EQUAL {
        true => Ordering::Equal,
        false => a.total_cmp(&b),
    }
}

/// Returns the rank of each score: 1 for the largest; equal scores share the mean of their ranks.
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
    /// The number of data sets.
    pub datasets: usize,
    /// Friedman's statistic, corrected for ties.
    pub chi2: f64,
    /// The probability of `chi2` or more under equal methods, by the chi-square distribution.
    pub p: f64,
    /// Iman and Davenport's statistic, which is less conservative; infinite if all data sets agree.
    pub f: f64,
    /// The probability of `f` or more under equal methods, by the F distribution.
    pub f_p: f64,
}

/// Computes Friedman's test over `scores`, with a row per data set and a column per method; none
/// with fewer than two data sets or three methods, or if all scores of every data set are equal.
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
    // The plain statistic assumes distinct ranks; dividing by the correction restores its variance.
    let plain = 12.0 * n / (k * (k + 1.0)) * (squares - k * (k + 1.0).powi(2) / 4.0);
    let most = n * (k - 1.0);
    let chi2 = (plain / correction).clamp(0.0, most);
    let (between, within) = (k - 1.0, (k - 1.0) * (n - 1.0));
    // If all data sets agree, the denominator is zero except for rounding.
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

/// Nemenyi's critical difference: two of `methods` differ at level `alpha` if their average ranks over
/// `datasets` are at least this far apart.
pub fn critical_difference(methods: usize, datasets: usize, alpha: f64) -> f64 {
    let (k, n) = (methods as f64, datasets as f64);
    nemenyi(methods, alpha) * (k * (k + 1.0) / (6.0 * n)).sqrt()
}

/// The quantile of the studentised range of `methods` at infinitely many degrees of freedom, over √2.
pub(super) fn nemenyi(methods: usize, alpha: f64) -> f64 {
    // The probability grows with the width, so bisection finds the quantile. No quantile is near
    // 20.
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
    // Beyond nine standard deviations the density is below the rounding error of the sum.
    const END: i32 = 9 * 64;
    let others = count.saturating_sub(1) as f64;
    let density = |z: f64| {
        let inside = normal(z) - normal(z - width);
        (-z * z / 2.0).exp() * inside.powf(others)
    };
    let sum: f64 = (-END..=END).map(|i| density(f64::from(i) * STEP)).sum();
    count as f64 * sum * STEP / (2.0 * PI).sqrt()
}

/// Returns the groups of at least two methods that the critical difference does not separate, as
/// index ranges into ascending `ranks`. Groups within another group are left out.
pub fn cliques(ranks: &[f64], critical: f64) -> Vec<std::ops::Range<usize>> {
    let mut cliques: Vec<std::ops::Range<usize>> = Vec::new();
    for start in 0..ranks.len() {
        // Ranks ascend, so a group is a run of neighbours, and a later one that is not contained
        // ends later.
        let end = ranks.partition_point(|rank| rank - ranks[start] < critical);
        let contained = cliques.last().is_some_and(|last| last.end >= end);
        if end - start > 1 && !contained {
            cliques.push(start..end);
        }
    }
    cliques
}

/// The number of times that a method was better, equal and worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The number of data sets on which it was better.
    pub wins: usize,
    /// The number of data sets on which it was equal.
    pub ties: usize,
    /// The number of data sets on which it was worse.
    pub losses: usize,
}

/// Counts wins, ties and losses over differences, one per data set.
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

/// Returns the two-sided probability of paired differences by Wilcoxon's signed-rank test, which is
/// exact with ties too. Zeros are left out, as Wilcoxon does; none if nothing is left.
pub fn wilcoxon(differences: &[f64]) -> Option<f64> {
    let left = differences.iter().filter(|d| order(**d, 0.0).is_ne());
    let left: Vec<f64> = left.copied().collect();
    if left.is_empty() {
        return None;
    }
    // The smallest has rank 1. Ranks are doubled, because the mean rank of ties may end in a half.
    let sizes: Vec<f64> = left.iter().map(|d| -d.abs()).collect();
    let doubled = ranks(&sizes).into_iter().map(|rank| (2.0 * rank) as usize);
    let doubled: Vec<usize> = doubled.collect();
    let total: usize = doubled.iter().sum();
    let signed = doubled.iter().zip(&left);
    let positive: usize = signed
        .filter(|(_, d)| **d > 0.0)
        .map(|(rank, _)| rank)
        .sum();
    // The distribution of the sum of positive ranks if every sign is a coin flip.
    let mut shares = vec![0.0; total + 1];
    shares[0] = 1.0;
    for rank in doubled {
        // Downwards, so that each rank is added at most once.
        for sum in (0..=total).rev() {
            let with = if sum >= rank { shares[sum - rank] } else { 0.0 };
            shares[sum] = f64::midpoint(shares[sum], with);
        }
    }
    let tail: f64 = shares[..=positive.min(total - positive)].iter().sum();
    Some((2.0 * tail).min(1.0))
}

/// Corrects the probabilities of several tests by Holm's method; the order stays.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let (mut corrected, mut least) = (vec![0.0; p.len()], 0.0f64);
    for (done, index) in order.into_iter().enumerate() {
        // A larger probability never gets a smaller correction than the one before.
        least = least.max((p.len() - done) as f64 * p[index]).min(1.0);
        corrected[index] = least;
    }
    corrected
}
