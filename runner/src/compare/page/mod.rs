//! `report.html` of a comparison: one file without scripts that loads nothing from a network, readable
//! on paper, at phone width, in light and dark. It holds everything; details that few readers need are
//! folded.

mod classes;
mod curves;
mod labels;
mod ranks;
mod scatter;
mod settings;
mod style;
mod table;

use std::fmt::Write;

use super::report::{OnBackbone, Report};
use super::results::Results;
use super::scores::Scores;
use super::tables::table::Table;
use crate::report::document::{escape, page, section};

/// The style of tables and marks, which other pages share.
pub const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn html(report: &Report) -> String {
    let results = report.results;
    let mut body = opening(results);
    for on in &report.backbones {
        body += &section(on.backbone, &of_backbone(&report.scores, on));
    }
    body += &settings::sections(report);
    page(&results.name, STYLE, &body)
}

/// The description of the comparison, and how far it has come.
fn opening(results: &Results) -> String {
    let mut text = String::new();
    for paragraph in results.description.trim().split("\n\n") {
        if !paragraph.is_empty() {
            let _ = writeln!(text, "<p>{}</p>", escape(paragraph));
        }
    }
    let count = |count: usize, what: &str, plural: &str| {
        format!("{count} {}", if count == 1 { what } else { plural })
    };
    let plan = [
        count(results.methods.len(), "method", "methods"),
        count(results.backbones.len(), "backbone", "backbones"),
        count(results.datasets.len(), "data set", "data sets"),
        count(results.seeds.len(), "seed", "seeds"),
    ];
    let _ = writeln!(
        text,
        "<p class=\"note\">{}: {}. With the same seed, all methods share the split, the order of the batches, the \
         initial values of the head and the recipe, except for declared overrides and tuned values.</p>",
        plan.join(", "),
        results.progress()
    );
    text
}

/// Everything about one backbone; empty if no method has a trial on it.
fn of_backbone(scores: &Scores, on: &OnBackbone) -> String {
    let backbone = on.backbone;
    if scores.methods(backbone).is_empty() {
        return String::new();
    }
    let results = scores.results;
    let html = |table: &Table| table::html(table, results);
    [
        format!(
            "<div class=\"tables\">\n{}</div>\n",
            on.accuracy
                .iter()
                .chain(&on.published)
                .map(html)
                .collect::<String>()
        ),
        ranks::diagram(&on.standing, results),
        on.versus.iter().map(html).collect(),
        scatter::plots(scores, backbone),
        html(&on.cost),
        curves::charts(scores, backbone),
        classes::tables(scores, backbone),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::Missing;
    use crate::compare::sample;
    use crate::compare::state::Unfinished;
    use crate::report::document;

    /// The page, checked, and written to the folder that `REPORT_SAMPLES` names, if it is set.
    fn checked(name: &str, results: &Results) -> String {
        let page = html(&Report::of(results));
        if let Ok(folder) = std::env::var("REPORT_SAMPLES") {
            std::fs::write(format!("{folder}/{name}.html"), &page).unwrap();
        }
        document::check(&page);
        page
    }

    #[test]
    fn everything_is_escaped_and_nothing_is_fetched() {
        let page = checked("compare", &sample::results(9, 3));
        for bad in ["<frame>", "<vtab>", "<yaml>", "<i>", "<oh>", "<0>"] {
            assert!(!page.contains(bad), "{bad}");
        }
        assert!(page.contains("mini &lt;vtab&gt; &amp; friends"));
        assert!(page.contains("vp &lt;frame&gt; &amp; &quot;pad&quot;"));
        assert!(page.contains("the loss is not finite &lt;oh&gt; after 412 steps"));
        assert!(page.contains("2/3†"));
        // A large comparison stays readable: the page is bounded, although it covers all 567 trials.
        assert!(page.len() < 3_000_000, "{} bytes", page.len());
    }

    #[test]
    fn a_page_shows_what_its_size_allows() {
        let ranks = "Average ranks over";
        for (datasets, seeds, size) in [
            (1, 1, "1 data set, 1 seed:"),
            (1, 3, "1 data set, 3 seeds:"),
            (2, 1, "2 data sets, 1 seed:"),
            (6, 2, "6 data sets, 2 seeds:"),
        ] {
            let results = sample::results(datasets, seeds);
            let page = checked(&format!("compare-{datasets}-{seeds}"), &results);
            assert!(page.contains(&format!("11 methods, 2 backbones, {size}")));
            let done = format!("{} trials done", results.done.len());
            assert!(page.contains(&done), "{done}");
            // A single seed has no spread, and ranks need several data sets.
            assert_eq!(page.contains("±"), seeds > 1, "{size}");
            assert_eq!(page.contains(ranks), datasets > 1, "{size}");
            assert_eq!(page.contains("There is one data set"), datasets == 1);
            for part in [
                "Against linear-probe",
                "Accuracy and its cost",
                "Learning curves",
            ] {
                assert!(page.contains(part), "{size} {part}");
            }
            // On five data sets the one trial that fails is planned.
            assert_eq!(page.contains("Failed trials"), datasets > 4, "{size}");
        }
    }

    #[test]
    fn a_comparison_that_has_just_begun_has_a_page() {
        let mut results = sample::results(2, 2);
        results.missing = (results.done.drain(3..))
            .map(|summary| Missing {
                cell: summary.cell.unwrap(),
                seed: summary.seed,
                state: Unfinished::Waiting,
            })
            .collect();
        let page = checked("compare-begun", &results);
        assert!(page.contains("3 trials done, 81 waiting"));
        // One method has both seeds on the first data set and one on the second; nothing can be compared.
        assert!(page.contains("(1/2)") && page.contains("– <small>(0/2)</small>"));
        for part in ["Average ranks", "Accuracy and its cost", "Failed trials"] {
            assert!(!page.contains(part), "{part}");
        }
        results
            .missing
            .extend(results.done.drain(..).map(|summary| Missing {
                cell: summary.cell.unwrap(),
                seed: summary.seed,
                state: Unfinished::Running,
            }));
        let page = checked("compare-empty", &results);
        assert!(page.contains("0 trials done, 3 running, 81 waiting"));
        assert!(!page.contains("Learning curves") && !page.contains("<b>"));
    }
}
