//! The statistics of verdicts: differences that are paired by seed, with Student's interval, and rank
//! correlation. All in double precision.

use statrs::function::beta::{beta_reg, inv_beta_reg};

use crate::compare::statistics::moments::{deviation, mean};
use crate::study::claim::Verdict;

/// The least number of seeds that a verdict rests on.
pub const SEEDS: usize = 3;

/// At most this many seeds are said to be needed.
const MANY: usize = 1000;

/// The probability that Student's `|t|` with `freedom` degrees exceeds `t`.
pub fn student_tail(t: f64, freedom: f64) -> f64 {
    beta_reg(freedom / 2.0, 0.5, freedom / (freedom + t * t))
}

/// The `t` that Student's `|t|` with `freedom` degrees exceeds with probability `share`: the inverse of
/// [`student_tail`].
pub fn student_bound(share: f64, freedom: f64) -> f64 {
    let x = inv_beta_reg(freedom / 2.0, 0.5, share);
    (freedom * (1.0 - x) / x).sqrt()
}

/// The mean of paired differences with its 95 % interval by Student's distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// The mean.
    pub mean: f64,
    /// Their sample standard deviation.
    pub deviation: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
    /// The number of pairs.
    pub pairs: usize,
}

impl Paired {
    /// The interval of at least two differences.
    pub fn of(differences: &[f64]) -> Option<Self> {
        let (mean, deviation) = (mean(differences)?, deviation(differences)?);
        let pairs = differences.len();
        let half = half_width(deviation, pairs);
        Some(Self {
            mean,
            deviation,
            low: mean - half,
            high: mean + half,
            pairs,
        })
    }

    /// The interval in percentage points.
    pub fn points(&self) -> String {
        format!(
            "{:+.2} points, 95 % interval {:+.2} to {:+.2} over {} seeds",
            100.0 * self.mean,
            100.0 * self.low,
            100.0 * self.high,
            self.pairs
        )
    }

    /// The number of seeds with which the interval would leave out 0, if mean and deviation stay as they
    /// are; none if that takes more than a thousand.
    pub fn seeds_to_decide(&self) -> Option<usize> {
        (self.pairs + 1..=MANY).find(|&pairs| half_width(self.deviation, pairs) < self.mean.abs())
    }
}

fn half_width(deviation: f64, pairs: usize) -> f64 {
    let freedom = (pairs - 1) as f64;
    student_bound(0.05, freedom) * deviation / (pairs as f64).sqrt()
}

/// The verdict on "A above B" from differences A - B in shares, paired by seed.
pub fn above(differences: &[f64]) -> (Verdict, String) {
    let Some(paired) = enough(differences) else {
        return too_few(differences.len());
    };
    let text = paired.points();
    match paired {
        Paired { low, .. } if low > 0.0 => (Verdict::Holds, text),
        Paired { high, .. } if high < 0.0 => (Verdict::DoesNotHold, text),
        _ => (Verdict::Undecided, undecided(&paired)),
    }
}

/// The verdict on "A is not below B by more than `margin`, and not below it on average".
pub fn not_below(differences: &[f64], margin: f64) -> (Verdict, String) {
    let Some(paired) = enough(differences) else {
        return too_few(differences.len());
    };
    let text = paired.points();
    match paired {
        Paired { mean, low, .. } if mean >= 0.0 && low > -margin => (Verdict::Holds, text),
        Paired { high, .. } if high < 0.0 => (Verdict::DoesNotHold, text),
        _ => (Verdict::Undecided, undecided(&paired)),
    }
}

fn enough(differences: &[f64]) -> Option<Paired> {
    Paired::of(differences).filter(|paired| paired.pairs >= SEEDS)
}

fn too_few(count: usize) -> (Verdict, String) {
    let text = format!("{count} seeds with both results; a verdict needs at least {SEEDS}");
    (Verdict::Undecided, text)
}

fn undecided(paired: &Paired) -> String {
    let text = paired.points();
    match paired.seeds_to_decide() {
        Some(seeds) => format!("{text}; about {seeds} seeds would decide"),
        None => format!("{text}; more than {MANY} seeds would be needed to tell them apart"),
    }
}

/// Ranks from 1 in ascending order; equal values share the mean of their ranks.
fn ascending_ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count() as f64;
        let equal = values.iter().filter(|other| *other == value).count() as f64;
        below + (equal + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (mean_a, mean_b) = (mean(a).unwrap_or(0.0), mean(b).unwrap_or(0.0));
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| f(a - mean_a, b - mean_b)).sum()
    };
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

/// Up to this many values all orders are counted.
const COUNTED: usize = 8;

/// Spearman's rank correlation of values with their position, and its two-sided p: the share of all
/// orders with as large a correlation for few values, Student's approximation otherwise. None for fewer
/// than three values, or if all are equal.
pub fn spearman(values: &[f64]) -> Option<(f64, f64)> {
    let count = values.len();
    let places: Vec<f64> = (0..count).map(|place| place as f64).collect();
    let ranks = ascending_ranks(values);
    let rho = correlation(&places, &ranks);
    if count < 3 || !rho.is_finite() {
        return None;
    }
    let p = if count <= COUNTED {
        let (mut extreme, mut all) = (0usize, 0usize);
        permutations(&mut ranks.clone(), 0, &mut |order| {
            // A margin against the rounding of equal correlations.
            extreme += usize::from(correlation(&places, order).abs() >= rho.abs() - 1e-9);
            all += 1;
        });
        extreme as f64 / all as f64
    } else {
        let freedom = (count - 2) as f64;
        student_tail(
            rho * (freedom / (1.0 - rho * rho).max(f64::MIN_POSITIVE)).sqrt(),
            freedom,
        )
    };
    Some((rho, p))
}

fn permutations(values: &mut [f64], from: usize, visit: &mut dyn FnMut(&[f64])) {
    if from == values.len() {
        return visit(values);
    }
    for at in from..values.len() {
        values.swap(from, at);
        permutations(values, from + 1, visit);
        values.swap(from, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_bounds_are_those_of_the_tables() {
        for (freedom, bound) in [
            (2.0, 4.302_652_729_911_275),
            (4.0, 2.776_445_105_197_793),
            (30.0, 2.042_272_456_301_238),
        ] {
            let found = student_bound(0.05, freedom);
            assert!((found - bound).abs() < 1e-9, "{freedom}: {found}");
        }
    }

    #[test]
    fn an_interval_decides_or_says_how_many_seeds_would() {
        assert_eq!(above(&[0.02, 0.021, 0.019]).0, Verdict::Holds);
        assert_eq!(above(&[-0.02, -0.021, -0.019]).0, Verdict::DoesNotHold);
        let (verdict, reason) = above(&[0.02, -0.01, 0.02]);
        assert_eq!(verdict, Verdict::Undecided);
        assert!(reason.ends_with("about 15 seeds would decide"), "{reason}");
        let (verdict, reason) = above(&[0.02, 0.02]);
        assert_eq!(verdict, Verdict::Undecided);
        assert!(reason.contains("at least 3"), "{reason}");
    }

    #[test]
    fn a_margin_allows_a_small_loss_but_not_on_average() {
        assert_eq!(not_below(&[0.0, 0.001, 0.0], 0.005).0, Verdict::Holds);
        assert_eq!(
            not_below(&[-0.001, -0.001, -0.001], 0.005).0,
            Verdict::DoesNotHold
        );
        assert_eq!(not_below(&[0.03, -0.02, 0.0], 0.005).0, Verdict::Undecided);
    }

    /// SciPy's `spearmanr` gives rho; the p of few values is counted by hand: 2 of 3! orders.
    #[test]
    fn rank_correlation_is_that_of_scipy() {
        assert_eq!(spearman(&[3.0, 2.0, 1.0]), Some((-1.0, 1.0 / 3.0)));
        let (rho, _) = spearman(&[1.0, 3.0, 2.0, 3.0]).unwrap();
        assert!((rho - 0.632_455_532_033_675_9).abs() < 1e-12, "{rho}");
        let values = [9.0, 8.0, 10.0, 7.0, 6.0, 5.0, 4.0, 2.0, 3.0, 1.0];
        let (rho, p) = spearman(&values).unwrap();
        assert!((rho + 0.951_515_151_515_151_6).abs() < 1e-12, "{rho}");
        assert!((p - 2.279_855e-5).abs() < 1e-8, "{p}");
        assert_eq!(spearman(&[1.0, 1.0, 1.0]), None);
    }
}
