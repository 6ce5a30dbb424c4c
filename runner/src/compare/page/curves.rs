//! Learning curves: means over seeds, one chart per data set.

use super::style::style;
use crate::compare::scores::{Scores, Trials};
use crate::compare::statistics::moments::mean;
use crate::report::curves::{Curves, Series};
use crate::report::document::{details, note};
use crate::train::checkpoint::EpochRecord;

/// The charts of one backbone.
pub fn charts(scores: &Scores, backbone: &str) -> String {
    let datasets = scores.results.datasets.iter();
    let charts: String = datasets
        .map(|dataset| chart(scores, backbone, &dataset.label))
        .collect();
    if charts.is_empty() {
        return charts;
    }
    let remark = note(
        "Means over seeds, up to the last epoch that all seeds of a method ran. Where the validation images were \
         trained on, the training loss is shown instead; it includes label smoothing.",
    );
    let body = format!("<div class=\"charts\">\n{charts}</div>\n{remark}");
    details("Learning curves", &body)
}

fn chart(scores: &Scores, backbone: &str, dataset: &str) -> String {
    let methods = scores.methods(backbone).into_iter();
    let trials: Vec<(&str, &Trials)> = methods
        .filter_map(|method| Some((method, scores.at(backbone, method, dataset)?)))
        .collect();
    let score = |record: &EpochRecord| record.score.map(|score| 100.0 * score);
    let loss = |record: &EpochRecord| Some(record.train_loss);
    let validated = of_all(&trials, score);
    // Without a validation split there are no scores by epoch.
    let (series, what) = match validated.iter().any(|(_, points)| !points.is_empty()) {
        true => (validated, "validation score in %"),
        false => (of_all(&trials, loss), "training loss"),
    };
    let epochs = series.iter().filter_map(|(_, points)| points.last());
    let epochs = epochs.fold(1.0, |most: f64, (epoch, _)| most.max(*epoch)) as usize;
    let series = series.into_iter().filter_map(|(name, points)| {
        Some(Series {
            name,
            style: style(scores.results, name)?,
            points,
        })
    });
    let chart = Curves {
        title: &format!("{dataset}: {what}"),
        series: series.collect(),
        selected: None,
        epochs,
    };
    chart.svg()
}

/// Epochs and values.
type Points = Vec<(f64, f64)>;

/// The mean curve of each method.
fn of_all<'a>(
    trials: &[(&'a str, &Trials)],
    value: impl Fn(&EpochRecord) -> Option<f64>,
) -> Vec<(&'a str, Points)> {
    let curve = |trials: &Trials| {
        let histories: Vec<&[EpochRecord]> = trials.done.values().map(|s| &*s.history).collect();
        // Seeds may stop early, and a mean over the rest would jump where one ends.
        let shared = histories.iter().map(|h| h.len()).min().unwrap_or(0);
        let points = (0..shared).filter_map(|epoch| {
            let values = histories.iter().map(|history| value(&history[epoch]));
            let values: Option<Vec<f64>> = values.collect();
            Some(((epoch + 1) as f64, mean(&values?)?))
        });
        points.collect()
    };
    trials
        .iter()
        .map(|(name, trials)| (*name, curve(trials)))
        .collect()
}
