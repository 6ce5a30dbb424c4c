//! How the methods stand to each other on one backbone: the statistics of [`super::statistics`], applied.
//!
//! Only what is paired is compared: on a data set, the seeds that all of the compared methods have.

use std::collections::BTreeMap;

use super::scores::Scores;
use super::statistics::{
    Bootstrap, Difference, Friedman, Record, cliques, critical_difference, difference, friedman,
    holm, mean, ranks, record, wilcoxon,
};

/// The level of the tests.
pub const ALPHA: f64 = 0.05;

/// Fewer data sets than this make every interval and test weak: a signed-rank test of five differences
/// cannot fall below 0.06.
pub const FEW: usize = 6;

/// How the methods of one backbone stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing<'a> {
    /// Average ranks, the best first.
    pub ranks: Vec<(&'a str, f64)>,
    /// The data sets that are ranked on: those on which all ranked methods share a seed.
    pub datasets: Vec<&'a str>,
    /// Methods with scores on less than half of the data sets, which are not ranked.
    pub unranked: Vec<&'a str>,
    /// Whether the ranks differ at all.
    pub friedman: Option<Friedman>,
    /// Nemenyi's critical difference at [`ALPHA`], where ranks can be tested.
    pub critical: Option<f64>,
    /// Every other method against the baseline.
    pub versus: Vec<Versus<'a>>,
}

/// A method against the baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct Versus<'a> {
    /// The method.
    pub method: &'a str,
    /// Data sets won, tied and lost.
    pub record: Record,
    /// The mean difference; none with fewer than two units.
    pub difference: Option<Difference>,
    /// Wilcoxon's signed-rank test over data sets; none with fewer than two.
    pub p: Option<f64>,
    /// The same after Holm's correction over all methods.
    pub corrected: Option<f64>,
}

impl<'a> Standing<'a> {
    /// Of the methods on `backbone`.
    pub fn of(scores: &Scores<'a>, backbone: &str) -> Self {
        let results = scores.results;
        let datasets = results.datasets.iter().map(|column| column.label.as_str());
        let datasets: Vec<&str> = datasets.collect();
        // By method and data set: scores by seed.
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

    /// The average rank of a method.
    pub fn rank(&self, method: &str) -> Option<f64> {
        let found = self.ranks.iter().find(|(name, _)| *name == method);
        found.map(|(_, rank)| *rank)
    }

    /// Whether the methods differ at all, by Iman and Davenport's test.
    pub fn differ(&self) -> bool {
        self.friedman.as_ref().is_some_and(|test| test.f_p < ALPHA)
    }

    /// Groups of methods that the critical difference does not separate, as index ranges into the ranks.
    pub fn cliques(&self) -> Vec<std::ops::Range<usize>> {
        let ranks: Vec<f64> = self.ranks.iter().map(|(_, rank)| *rank).collect();
        self.critical
            .map_or_else(Vec::new, |critical| cliques(&ranks, critical))
    }
}

/// The mean of each method on a data set over the seeds that all of them have; none without one.
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

/// All methods but the baseline against it.
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
    fn a_method_that_has_hardly_begun_does_not_narrow_the_ranking() {
        let mut results = sample::results(6, 2);
        let begun = |s: &crate::run::summary::Summary| {
            s.methods == ["ssf"] && s.cell.as_ref().is_some_and(|c| c.dataset != "flowers")
        };
        results.done.retain(|summary| !begun(summary));
        let standing = Standing::of(&Scores::new(&results), "vit-micro");
        assert_eq!(standing.unranked, ["ssf"]);
        assert_eq!(standing.ranks.len(), 10);
        assert_eq!(standing.datasets.len(), 6);
        assert_eq!(standing.rank("ssf"), None);
        // One data set of several is too little to say anything against the baseline.
        let ssf = standing.versus.iter().find(|v| v.method == "ssf").unwrap();
        assert_eq!((ssf.difference, ssf.p), (None, None));
    }

    #[test]
    fn ranks_are_on_seeds_that_all_have() {
        let mut results = sample::results(6, 3);
        // The best seed of one method on one data set is lost; the others' scores of it do not count.
        let lost = |s: &crate::run::summary::Summary| {
            let cell = s.cell.as_ref().unwrap();
            s.seed == 1 && (&*cell.method, &*cell.dataset) == ("lora", "pets")
        };
        results.done.retain(|summary| !lost(summary));
        let scores = Scores::new(&results);
        let of = |method: &str| scores.at("vit-micro", method, "pets").unwrap().scores();
        let (lora, ap) = (of("lora"), of("ap"));
        let shared = shared_means(&[&lora, &ap]).unwrap();
        assert_eq!(shared[1], f64::midpoint(ap[&0], ap[&2]));
        assert_eq!(Standing::of(&scores, "vit-micro").datasets.len(), 6);
        assert_eq!(shared_means(&[&lora, &BTreeMap::new()]), None);
    }
}
