use serde::Deserialize;

use super::intervals::{Bootstrap, Interval, bca, difference, quantile};
use super::moments::{deviation, mean};
use super::ranks::{
    cliques, critical_difference, friedman, holm, nemenyi, ranks, record, wilcoxon,
};

/// Golden values, written by `fixtures/scripts/statistics.py` with SciPy.
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
    let text = include_str!("../../../../fixtures/statistics.json");
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
fn moments_and_ranks_match_scipy() {
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
fn rounding_does_not_break_ties() {
    let (once, again) = (0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1);
    assert_ne!(once, again);
    assert_eq!(ranks(&[once, again]), [1.5, 1.5]);
    assert_eq!(record(&[once - again]).ties, 1);
}

#[test]
fn friedman_matches_scipy() {
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
    // Equal scores, too few data sets, too few methods, and perfect agreement.
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
fn the_critical_difference_matches_scipy() {
    for case in golden().nemenyi {
        close(nemenyi(case.methods, case.alpha), case.q, 1e-9);
    }
    // Demšar's example: four classifiers over fourteen data sets.
    close(critical_difference(4, 14, 0.05), 1.25, 0.01);
}

#[test]
fn wilcoxon_matches_scipy() {
    for case in golden().wilcoxon {
        close(wilcoxon(&case.differences).unwrap(), case.p, 1e-12);
    }
    assert_eq!(wilcoxon(&[0.0, 0.0]), None);
}

#[test]
fn intervals_match_scipy() {
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

        // The whole bootstrap, with our random numbers, agrees within the noise of resampling.
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
    // Several seeds of one data set say nothing about the others.
    assert_eq!(difference(&[vec![0.1, 0.2, 0.3], vec![]], &bootstrap), None);
    // With a single data set, its seeds are the units.
    let seeds = difference(&[vec![0.1, 0.2, 0.4]], &bootstrap).unwrap();
    assert_eq!((seeds.units, seeds.pairs), (3, 3));
    assert!(seeds.bca.low < seeds.mean && seeds.mean < seeds.bca.high);
    // Without spread the interval is a point.
    let equal = difference(&vec![vec![0.1]; 5], &bootstrap).unwrap();
    close(equal.bca.low, 0.1, 1e-12);
    close(equal.bca.high, 0.1, 1e-12);
    // The resamples follow the seed.
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
    // A distance equal to the critical difference separates.
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
