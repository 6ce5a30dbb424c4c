//! Each method against the baseline, and the remarks about ranks.

use super::table::{Column, Entry, NONE, Table};
use crate::compare::results::Results;
use crate::compare::standing::{ALPHA, FEW, Standing};
use crate::compare::statistics::intervals::{Bootstrap, Interval};

/// Makes the table of differences from the baseline; none without a baseline.
pub fn versus(results: &Results, standing: &Standing) -> Option<Table> {
    let baseline = results.baseline.as_ref()?;
    if standing.versus.is_empty() {
        return None;
    }
    // With a single data set no test is possible, and columns of dashes would only suggest one.
    let several = standing.versus.iter().any(|v| v.p.is_some());
    let level = 100.0 * Bootstrap::default().level;
    let mut columns = vec![
        Column::number("difference", None),
        Column::number(format!("{level:.0} % BCa"), None),
        Column::number(format!("{level:.0} % percentile"), None),
        Column::number("wins/ties/losses", None),
    ];
    if several {
        columns.push(Column::number("Wilcoxon p", None));
        columns.push(Column::number("Holm p", None));
    }
    let rows = standing.versus.iter().map(|versus| {
        let text = |text: Option<String>| Entry::text(text.unwrap_or_else(|| NONE.to_owned()));
        let difference = versus.difference.as_ref();
        let interval = |interval: Interval| {
            format!(
                "[{:.2}, {:.2}]",
                100.0 * interval.low,
                100.0 * interval.high
            )
        };
        let record = versus.record;
        let mut row = vec![
            text(difference.map(|d| format!("{:+.2}", 100.0 * d.mean))),
            text(difference.map(|d| interval(d.bca))),
            text(difference.map(|d| interval(d.percentile))),
            Entry::text(format!("{}/{}/{}", record.wins, record.ties, record.losses)),
        ];
        if several {
            row.extend([versus.p, versus.corrected].map(|p| text(p.map(probability))));
        }
        (versus.method.to_owned(), row)
    });
    let units = standing.versus.iter().filter_map(|v| v.difference);
    let least = units.map(|difference| difference.units).min();
    let mut notes = vec![format!(
        "In percentage points, paired by seed and averaged over the seeds of a data set. {} Intervals: \
         {} resamples.",
        match results.datasets.len() {
            0 | 1 =>
                "There is one data set, so its seeds are resampled: the result does not extend to another data \
                 set.",
            _ =>
                "Whole data sets are resampled, ranked and counted: seeds of one data set are not \
                 independent evidence.",
        },
        Bootstrap::default().resamples
    )];
    if several {
        notes.push(
            "Wilcoxon: signed-rank test over data sets, exact, two-sided; Holm: corrected for the number \
             of methods."
                .to_owned(),
        );
    }
    if let Some(least) = least.filter(|least| *least < FEW) {
        notes.push(format!(
            "Only {least} units: intervals over so few are too narrow, and a signed-rank test over them cannot \
             reach {ALPHA}."
        ));
    }
    Some(Table {
        title: format!("Against {baseline}"),
        names: "method",
        columns,
        rows: rows.collect(),
        notes,
    })
}

/// Writes a probability; a small one is never shown as zero.
fn probability(p: f64) -> String {
    match p < 0.001 {
        true => "<0.001".to_owned(),
        false => format!("{p:.3}"),
    }
}

/// Makes the remarks about what the ranks cover, and whether they mean anything.
pub fn ranking(standing: &Standing) -> Vec<String> {
    let mut notes = Vec::new();
    if !standing.unranked.is_empty() {
        notes.push(format!(
            "Not ranked, because scores are missing on more than half of the data sets: {}.",
            standing.unranked.join(", ")
        ));
    }
    let count = standing.datasets.len();
    let sets = if count == 1 { "data set" } else { "data sets" };
    let (Some(test), Some(critical)) = (&standing.friedman, standing.critical) else {
        notes.push(format!(
            "Ranks: average over {count} {sets}; too few to test, or all equal."
        ));
        return notes;
    };
    let verdict = match standing.differ() {
        true => "the methods differ; two of them differ if their ranks are at least that far apart",
        false => {
            "the test shows no difference between the methods, so the order of the ranks means nothing"
        }
    };
    notes.push(format!(
        "Ranks: average over {count} {sets} on the seeds that all ranked methods share. Friedman χ² = {:.2}, \
         p {}; Iman and Davenport F = {:.2}, p {}; Nemenyi's critical difference at {ALPHA} is {critical:.2}: \
         {verdict}.",
        test.chi2,
        equation(test.p),
        test.f,
        equation(test.f_p)
    ));
    notes
}

fn equation(p: f64) -> String {
    match p < 0.001 {
        true => "< 0.001".to_owned(),
        false => format!("= {p:.3}"),
    }
}
