//! The report of a comparison: all of its statements, computed once. The code that prints it, to a
//! terminal or a file, computes nothing.

use super::results::Results;
use super::scores::Scores;
use super::standing::Standing;
use super::tables::accuracy::accuracy;
use super::tables::choices::{failed, overrides, searches};
use super::tables::cost::cost;
use super::tables::published::published;
use super::tables::table::Table;
use super::tables::versus::versus;

/// Scores, standings and tables of a comparison.
pub struct Report<'a> {
    /// The results that it is made from.
    pub results: &'a Results,
    /// The results by backbone, method and data set.
    pub scores: Scores<'a>,
    /// One section per backbone, in the order of the comparison. A backbone on which nothing is planned
    /// has empty tables.
    pub backbones: Vec<OnBackbone<'a>>,
    /// The settings in which methods declare that they differ; none if there are no such settings.
    pub overrides: Option<Table>,
    /// The searches and their choices; none if nothing was searched for.
    pub searches: Option<Table>,
    /// The failed trials with their errors; none if no trial failed.
    pub failed: Option<Table>,
}

/// The statements of a report about one backbone.
pub struct OnBackbone<'a> {
    /// The label of the backbone.
    pub backbone: &'a str,
    /// Ranks, tests, and each method against the baseline.
    pub standing: Standing<'a>,
    /// Accuracy by data set, by group and over all; one table, or several where there are many data sets.
    pub accuracy: Vec<Table>,
    /// Scores beside published ones; empty if the comparison states none.
    pub published: Vec<Table>,
    /// Parameters, memory and time.
    pub cost: Table,
    /// The differences from the baseline with their intervals; none if there is no baseline.
    pub versus: Option<Table>,
}

/// A heading and the tables below it, as text and Markdown arrange them.
pub struct Part<'a> {
    /// The heading.
    pub heading: &'a str,
    /// The tables.
    pub tables: Vec<&'a Table>,
}

impl<'a> Report<'a> {
    /// Computes the report. The bootstraps (20,000 resamples for each method on each backbone) take
    /// most of the time.
    pub fn of(results: &'a Results) -> Self {
        let scores = Scores::of(results);
        let backbones = results.backbones.iter();
        let backbones = backbones.map(|backbone| OnBackbone::of(&scores, backbone));
        Self {
            results,
            backbones: backbones.collect(),
            scores,
            overrides: overrides(results),
            searches: searches(results),
            failed: failed(results),
        }
    }

    /// The tables under their headings, those of each backbone first; headings without a row are left
    /// out.
    pub fn parts(&self) -> Vec<Part<'_>> {
        let backbones = self.backbones.iter().map(|on| Part {
            heading: on.backbone,
            tables: on.tables(),
        });
        let rest = [&self.overrides, &self.searches, &self.failed];
        let rest = Part {
            heading: "Settings, searches, failures",
            tables: rest.into_iter().flatten().collect(),
        };
        let mut parts: Vec<Part> = backbones.chain([rest]).collect();
        parts.retain(|part| part.tables.iter().any(|table| !table.rows.is_empty()));
        parts
    }
}

impl<'a> OnBackbone<'a> {
    fn of(scores: &Scores<'a>, backbone: &'a str) -> Self {
        let standing = Standing::of(scores, backbone);
        Self {
            backbone,
            accuracy: accuracy(scores, backbone, &standing),
            published: published(scores, backbone),
            cost: cost(scores, backbone),
            versus: versus(scores.results, &standing),
            standing,
        }
    }

    fn tables(&self) -> Vec<&Table> {
        let accuracy = self.accuracy.iter().chain(&self.published);
        accuracy.chain([&self.cost]).chain(&self.versus).collect()
    }
}
