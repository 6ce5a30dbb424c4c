//! The standing of the methods on one backbone: the statistics of [`super::statistics`], applied to
//! scores.
//!
//! Only paired scores are compared: those of the seeds that all compared methods have on a data set.

use std::collections::BTreeMap;

use super::scores::Scores;
use super::statistics::intervals::{Bootstrap, Difference, difference};
use super::statistics::moments::mean;
use super::statistics::ranks::{
    Friedman, Record, cliques, critical_difference, friedman, holm, ranks, record, wilcoxon,
};

/// The significance level of the tests.
pub const ALPHA: f64 = 0.05;

/// With fewer data sets than this, every interval and test is weak: a signed-rank test of five
/// differences cannot fall below 0.06.
pub const FEW: usize = 6;

/// The comparison of the methods on one backbone with each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing<'a> {
    /// The ranked methods with their average ranks over data sets, the best first.
    pub ranks: Vec<(&'a str, f64)>,
    /// The data sets that count for the ranks: those on which all ranked methods share a seed.
    pub datasets: Vec<&'a str>,
    /// The methods that are not ranked, because they have scores on less than half of the data sets.
    pub unranked: Vec<&'a str>,
    /// The test whether the methods differ at all; none if there is too little to test.
    pub friedman: Option<Friedman>,
    /// Nemenyi's critical difference of average ranks at [`ALPHA`]; none without the test.
    pub critical: Option<f64>,
    /// Every other method against the baseline; empty without one.
    pub versus: Vec<Versus<'a>>,
}

/// A method against the baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct Versus<'a> {
    /// The method.
    pub method: &'a str,
    /// The number of data sets won, tied and lost.
    pub record: Record,
    /// The mean difference of shares in `[-1, 1]`, with intervals; none with fewer than two units.
    pub difference: Option<Difference>,
    /// The probability by Wilcoxon's signed-rank test over data sets; none with fewer than two.
    pub p: Option<f64>,
    /// The probability after Holm's correction for the number of methods.
    pub corrected: Option<f64>,
}

impl<'a> Standing<'a> {
    /// Compares the methods on `backbone`.
    pub fn of(scores: &Scores<'a>, backbone: &str) -> Self {
        let results = scores.results;
        let datasets = results.datasets.iter().map(|column| column.label.as_str());
        let datasets: Vec<&str> = datasets.collect();
        // The scores by seed, for each method and data set.
        let table: BTreeMap<&str, Vec<BTreeMap<u64, f64>>> = scores
            .methods(backbone)
            .into_iter()
            .map(|method| {
                let at = |dataset: &&str| scores.at(backbone, method, dataset);
                let row = datasets.iter().map(at);
                (
                    method,
                    row.map(|t| t.map(|t| t.scores()).unwrap_or_default())
                        .collect(),
                )
            })
            .collect();
        // Only data sets on which all ranked methods have scores count, so a method with few scores
        // would leave hardly any. Methods with scores on less than half of the data sets are
        // therefore not ranked.
        let covered = |method: &&str| table[method].iter().filter(|s| !s.is_empty()).count();
        let some = |place: &usize| table.values().any(|row| !row[*place].is_empty());
        let any = (0..datasets.len()).filter(some).count();
        let (ranked, unranked): (Vec<&str>, Vec<&str>) = scores
            .methods(backbone)
            .into_iter()
            .partition(|method| 2 * covered(method) >= any.max(1));

        let rows: Vec<(&str, Vec<f64>)> = (datasets.iter().enumerate())
            .filter_map(|(place, dataset)| {
                let row: Vec<_> = ranked.iter().map(|method| &table[method][place]).collect();
                Some((*dataset, shared_means(&row)?))
            })
            .collect();
        let matrix: Vec<Vec<f64>> = rows.iter().map(|(_, row)| row.clone()).collect();
        let average = |method: usize| {
            let of_each = matrix.iter().map(|row| ranks(row)[method]);
            mean(&of_each.collect::<Vec<_>>())
        };
        let mut order: Vec<(&str, f64)> = (ranked.iter().enumerate())
            .filter_map(|(index, method)| Some((*method, average(index)?)))
            .collect();
        // A stable sort: methods with equal ranks stay in the order of the comparison.
        order.sort_by(|a, b| a.1.total_cmp(&b.1));
        let friedman = friedman(&matrix);
        Self {
            critical: friedman
                .as_ref()
                .map(|_| critical_difference(order.len(), rows.len(), ALPHA)),
            friedman,
            datasets: rows.into_iter().map(|(dataset, _)| dataset).collect(),
            versus: match &results.baseline {
                Some(baseline) => versus(baseline, &scores.methods(backbone), &table),
                None => Vec::new(),
            },
            ranks: order,
            unranked,
        }
    }

    /// The average rank of a method; none if it is not ranked.
    pub fn rank(&self, method: &str) -> Option<f64> {
        let found = self.ranks.iter().find(|(name, _)| *name == method);
        found.map(|(_, rank)| *rank)
    }

    /// Whether the methods differ at all, by Iman and Davenport's test at [`ALPHA`].
    pub fn differ(&self) -> bool {
        self.friedman.as_ref().is_some_and(|test| test.f_p < ALPHA)
    }

    /// The groups of methods that the critical difference does not separate, as index ranges into
    /// [`ranks`](Self::ranks).
    pub fn cliques(&self) -> Vec<std::ops::Range<usize>> {
        let ranks: Vec<f64> = self.ranks.iter().map(|(_, rank)| *rank).collect();
        self.critical
            .map_or_else(Vec::new, |critical| cliques(&ranks, critical))
    }
}

/// Returns the mean of each method on a data set over the seeds that all of them have; none if they
/// share no seed.
fn shared_means(scores: &[&BTreeMap<u64, f64>]) -> Option<Vec<f64>> {
    let seeds = scores.first()?.keys();
    let shared: Vec<u64> = seeds
        .filter(|seed| scores.iter().all(|s| s.contains_key(seed)))
        .copied()
        .collect();
    let means = scores.iter().map(|scores| {
        let values: Vec<f64> = shared.iter().map(|seed| scores[seed]).collect();
        mean(&values)
    });
    means.collect()
}

/// Compares all other methods with the baseline.
fn versus<'a>(
    baseline: &str,
    methods: &[&'a str],
    table: &BTreeMap<&str, Vec<BTreeMap<u64, f64>>>,
) -> Vec<Versus<'a>> {
    let Some(base) = table.get(baseline) else {
        return Vec::new();
    };
    let others = methods.iter().filter(|method| **method != baseline);
    let mut all: Vec<Versus> = others
        .map(|method| {
            let pairs = table[method].iter().zip(base);
            let clusters: Vec<Vec<f64>> = pairs
                .map(|(ours, theirs)| {
                    // A pair shares the seed, and with it the split, the order of batches and the
                    // initial head, so that their noise cancels in the difference.
                    let pair = |(seed, score): (&u64, &f64)| Some(score - theirs.get(seed)?);
                    ours.iter().filter_map(pair).collect()
                })
                .collect();
            let means: Vec<f64> = clusters.iter().filter_map(|c| mean(c)).collect();
            Versus {
                method,
                record: record(&means),
                difference: difference(&clusters, &Bootstrap::default()),
                p: (means.len() > 1).then(|| wilcoxon(&means)).flatten(),
                corrected: None,
            }
        })
        .collect();
    // Only the tests that were possible count for Holm's correction.
    let tested: Vec<usize> = (0..all.len()).filter(|i| all[*i].p.is_some()).collect();
    let p: Vec<f64> = tested.iter().filter_map(|i| all[*i].p).collect();
    for (index, corrected) in tested.into_iter().zip(holm(&p)) {
        all[index].corrected = Some(corrected);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::sample;

    #[test]
    fn a_method_with_few_results_does_not_narrow_the_ranking() {
        let mut results = sample::results(6, 2);
        let begun = |s: &crate::run::summary::Summary| {
            s.methods == ["ssf"] && s.cell.as_ref().is_some_and(|c| c.dataset != "flowers")
        };
        results.done.retain(|summary| !begun(summary));
        let standing = Standing::of(&Scores::of(&results), "vit-micro");
        assert_eq!(standing.unranked, ["ssf"]);
        assert_eq!(standing.ranks.len(), 10);
        assert_eq!(standing.datasets.len(), 6);
        assert_eq!(standing.rank("ssf"), None);
        // A single data set of several allows no comparison with the baseline.
        let ssf = standing.versus.iter().find(|v| v.method == "ssf").unwrap();
        assert_eq!((ssf.difference, ssf.p), (None, None));
    }

    #[test]
    fn ranks_use_the_seeds_that_all_methods_have() {
        let mut results = sample::results(6, 3);
        // One seed of one method on one data set is missing, so that it does not count for the others
        // either.
        let lost = |s: &crate::run::summary::Summary| {
            let cell = s.cell.as_ref().unwrap();
            s.seed == 1 && (&*cell.method, &*cell.dataset) == ("lora", "pets")
        };
        results.done.retain(|summary| !lost(summary));
        let scores = Scores::of(&results);
        let of = |method: &str| scores.at("vit-micro", method, "pets").unwrap().scores();
        let (lora, ap) = (of("lora"), of("ap"));
        let shared = shared_means(&[&lora, &ap]).unwrap();
        assert_eq!(shared[1], f64::midpoint(ap[&0], ap[&2]));
        assert_eq!(Standing::of(&scores, "vit-micro").datasets.len(), 6);
        assert_eq!(shared_means(&[&lora, &BTreeMap::new()]), None);
    }
}
