//! Two classifiers on the same images: McNemar's exact test and the bootstrapped difference of their accuracies.
//!
//! Sources: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages" (1947);
//! Dietterich, "Approximate Statistical Tests for Comparing Supervised Classification Learning Algorithms" (1998). The unit
//! is the image: the result concerns these two trained models on such images, not the methods behind them, whose spread
//! over seeds a comparison measures.

use statrs::function::beta::beta_reg;

use super::intervals::{Bootstrap, Difference, difference};

/// Images and the number of times that they are drawn anew.
const RESAMPLES: usize = 5_000;

/// The images on which exactly one of two classifiers is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discordant {
    /// Only the first is right.
    pub first: usize,
    /// Only the second is right.
    pub second: usize,
}

impl Discordant {
    /// The two-sided probability of a split at least as uneven if both were right equally often: a binomial test of the
    /// discordant images against one half. It is 1 without such images.
    pub fn p(self) -> f64 {
        let (fewer, all) = (self.first.min(self.second), self.first + self.second);
        if all == 0 || 2 * fewer == all {
            return 1.0;
        }
        // The probability of at most `k` of `n` is I_{1/2}(n - k, k + 1).
        let tail = beta_reg((all - fewer) as f64, fewer as f64 + 1.0, 0.5);
        (2.0 * tail).min(1.0)
    }
}

/// Counts the discordant images, given whether the first and the second classifier are right on each.
pub fn discordant(right: &[[bool; 2]]) -> Discordant {
    let count = |wanted: [bool; 2]| right.iter().filter(|own| **own == wanted).count();
    Discordant {
        first: count([true, false]),
        second: count([false, true]),
    }
}

/// The accuracy of the first less that of the second with bootstrap intervals over images; none for fewer than two.
pub fn accuracy_difference(right: &[[bool; 2]]) -> Option<Difference> {
    let of_image = |[first, second]: &[bool; 2]| f64::from(*first) - f64::from(*second);
    let bootstrap = Bootstrap {
        resamples: RESAMPLES,
        ..Bootstrap::default()
    };
    difference(&[right.iter().map(of_image).collect()], &bootstrap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_agrees_with_scipy() {
        let text = include_str!("../../../../fixtures/statistics.json");
        let golden: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases = golden["mcnemar"].as_array().unwrap();
        assert_eq!(cases.len(), 8);
        for case in cases {
            let count = |key: &str| case[key].as_u64().unwrap() as usize;
            let (first, second) = (count("first"), count("second"));
            let (p, expected) = (
                Discordant { first, second }.p(),
                case["p"].as_f64().unwrap(),
            );
            assert!((p - expected).abs() <= 1e-10 * expected, "{case}: {p}");
        }
    }

    #[test]
    fn images_are_counted_by_who_is_right() {
        let right = [
            [true, true],
            [true, false],
            [true, false],
            [false, true],
            [false, false],
        ];
        let counts = discordant(&right);
        assert_eq!((counts.first, counts.second), (2, 1));
        let found = accuracy_difference(&right).unwrap();
        assert!((found.mean - 0.2).abs() < 1e-12 && found.units == 5);
        assert!(found.percentile.low < 0.2 && found.percentile.high > 0.2);
        assert_eq!(accuracy_difference(&right[..1]), None);
    }
}
