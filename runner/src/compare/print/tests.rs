use super::lines::csv;
use super::markdown::markdown;
use super::text::text;
use crate::compare::report::Report;
use crate::compare::results::{Missing, Results};
use crate::compare::sample;
use crate::compare::state::Unfinished;

/// Writes a sample to the folder that `REPORT_SAMPLES` names, if it is set, for people to look at.
fn keep(name: &str, text: &str) {
    if let Ok(folder) = std::env::var("REPORT_SAMPLES") {
        std::fs::write(format!("{folder}/{name}"), text).unwrap();
    }
}

fn as_text(results: &Results) -> String {
    text(&Report::of(results))
}

fn as_markdown(results: &Results) -> String {
    markdown(&Report::of(results))
}

#[test]
fn one_data_set_is_compared_over_seeds_and_says_so() {
    let results = sample::results(1, 3);
    let text = as_markdown(&results);
    assert!(text.contains("There is one data set"));
    assert!(!text.contains("| mean |") && !text.contains("| rank |"));
    // One seed has no spread.
    let text = as_markdown(&sample::results(1, 1));
    assert!(!text.contains('±') && !text.contains("NaN"));
}

#[test]
fn everything_is_in_the_tables() {
    let results = sample::results(9, 3);
    let (text, markdown) = (as_text(&results), as_markdown(&results));
    keep("results.txt", &text);
    keep("results.md", &markdown);
    for part in [
        "562 trials done, 4 failed, 1 waiting",
        "epoch 3: the loss is not finite <oh> after 412 steps",
        "recipe.optimizer.lr=0.0001",
        "3 grid, 1 failed",
        "Against linear-probe",
        "critical difference",
    ] {
        assert!(markdown.contains(part), "{part}");
        assert!(text.contains(part), "{part}");
    }
    // The rows of a table have as many cells as its head.
    let mut width = None;
    for line in markdown.lines() {
        let cells = line.starts_with('|').then(|| line.matches(" | ").count());
        if let (Some(cells), Some(width)) = (cells, width) {
            assert_eq!(cells, width, "{line}");
        }
        width = cells;
    }
    let searches = markdown.lines().filter(|line| line.contains("3 grid"));
    assert_eq!(searches.count(), 18);
}

#[test]
fn a_comparison_that_has_not_begun_has_tables() {
    let mut results = sample::results(2, 1);
    let place = |summary: crate::run::summary::Summary| Missing {
        cell: summary.cell.unwrap(),
        seed: summary.seed,
        state: Unfinished::Waiting,
    };
    results.missing = results.done.drain(..).map(place).collect();
    for text in [as_text(&results), as_markdown(&results)] {
        assert!(text.contains("0 trials done, 42 waiting"));
        assert!(text.contains("– (0/1)") && !text.contains("NaN"));
    }
    assert_eq!(csv(&results).matches("\nmissing,").count(), 42);
}
