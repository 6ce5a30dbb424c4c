//! The tables of a comparison: built once, written as text for a terminal, as Markdown and (by
//! [`super::page`]) as HTML; and one line a trial for other programs.
//!
//! Nothing is averaged in silence. A mean over fewer trials than planned says over how many, a mean over
//! data sets of which one has no score is not given, and neither is marked as the best.

mod accuracy;
mod choices;
mod cost;
mod lines;
mod versus;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement};

use super::Results;
use super::scores::{Mean, Scores, Trials};
use super::standing::Standing;
use super::statistics::order;

pub use accuracy::{accuracy, overall};
pub use choices::{Search, failed, overrides, searches, settings};
pub use cost::cost;
pub use lines::{csv, jsonl};
pub use versus::{ranking, versus};

/// A table with a name for each row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What is above.
    pub title: String,
    /// What the names are.
    pub names: &'static str,
    /// The other columns.
    pub columns: Vec<Column>,
    /// A name, and an entry for each column.
    pub rows: Vec<(String, Vec<Entry>)>,
    /// What is below.
    pub notes: Vec<String>,
}

/// The head of a column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Which of its entries is the best one.
    pub better: Option<Better>,
    /// Whether it holds words.
    pub words: bool,
}

/// Which of two numbers is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// The larger one.
    More,
    /// The smaller one.
    Less,
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// What it says.
    pub text: String,
    /// How far it spreads.
    pub spread: Option<String>,
    /// What it is over, where something lacks.
    pub over: Option<String>,
    /// The number, where it may be the best one.
    pub rival: Option<f64>,
    /// Whether it is.
    pub best: bool,
}

/// What has no value.
pub const NONE: &str = "–";

impl Column {
    /// Of numbers, the best of which is marked.
    pub fn number(name: impl Into<String>, better: impl Into<Option<Better>>) -> Self {
        Self {
            name: name.into(),
            better: better.into(),
            words: false,
        }
    }

    /// Of words.
    pub fn words(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            better: None,
            words: true,
        }
    }
}

impl Entry {
    /// Only a text.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// A number that may be the best one.
    pub fn number(value: f64, text: impl Into<String>) -> Self {
        Self {
            rival: Some(value),
            ..Self::text(text)
        }
    }

    /// Nothing, because of `of` things only `count` are there.
    pub fn lacking(count: usize, of: usize) -> Self {
        Self {
            over: Some(format!("{count}/{of}")),
            ..Self::text(NONE)
        }
    }

    /// A mean of shares in percent.
    pub fn percent(mean: &Mean, failed: bool) -> Self {
        let dagger = if failed { FAILED } else { "" };
        let (count, planned) = (mean.count, mean.planned);
        Self {
            text: format!("{:.1}", 100.0 * mean.mean),
            spread: mean.deviation.map(|d| format!("±{:.1}", 100.0 * d)),
            over: (!mean.complete()).then(|| format!("{count}/{planned}{dagger}")),
            rival: mean.complete().then_some(mean.mean),
            best: false,
        }
    }

    /// On one line.
    pub fn line(&self) -> String {
        let over = self.over.as_ref().map(|over| format!("({over})"));
        let parts = [Some(self.text.clone()), self.spread.clone(), over];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// What marks a failed trial.
const FAILED: &str = "†";

/// Whether a trial of these failed.
fn any_failed(trials: &[&Trials]) -> bool {
    trials.iter().any(|trials| !trials.failed.is_empty())
}

/// Says below the last of some tables what the marks mean that occur in them.
fn explained(mut tables: Vec<Table>) -> Vec<Table> {
    let entries = || {
        tables
            .iter()
            .flat_map(|table| &table.rows)
            .flat_map(|(_, row)| row)
    };
    let over = |part: &str| entries().any(|e| e.over.as_ref().is_some_and(|o| o.contains(part)));
    let explanations = [
        (
            entries().any(|entry| entry.spread.is_some()),
            "±: standard deviation over seeds.",
        ),
        (
            over("/"),
            "(n/m): over n of m trials, or of m data sets where no value is given; never marked as the best.",
        ),
        (over(FAILED), "†: a trial failed."),
    ];
    let needed = explanations.iter().filter(|(needed, _)| *needed);
    let text = needed.map(|(_, text)| *text).collect::<Vec<_>>().join(" ");
    if let (false, Some(last)) = (text.is_empty(), tables.last_mut()) {
        last.notes.push(text);
    }
    tables
}

impl Table {
    /// Marks the best entries of each column, all that are equal; none where nothing is beaten.
    fn marked(mut self) -> Self {
        for (index, column) in self.columns.iter().enumerate() {
            let Some(better) = column.better else {
                continue;
            };
            let rivals = self.rows.iter().filter_map(|(_, row)| row[index].rival);
            let (low, high) = rivals
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), rival| {
                    (low.min(rival), high.max(rival))
                });
            let best = match better {
                Better::More => high,
                Better::Less => low,
            };
            for (_, row) in &mut self.rows {
                let is_best = |value| order(value, best).is_eq() && order(low, high).is_ne();
                row[index].best = row[index].rival.is_some_and(is_best);
            }
        }
        self
    }

    fn to_text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        let names = self.columns.iter().map(|column| column.name.as_str());
        table.set_header([self.names].into_iter().chain(names));
        for (name, row) in &self.rows {
            let entry = |entry: &Entry| match entry.best {
                true => format!("{} *", entry.line()),
                false => entry.line(),
            };
            table.add_row([name.clone()].into_iter().chain(row.iter().map(entry)));
        }
        for (index, column) in self.columns.iter().enumerate() {
            if let (false, Some(column)) = (column.words, table.column_mut(index + 1)) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let best = self.rows.iter().flat_map(|(_, row)| row).any(|e| e.best);
        let best = best.then(|| "* the best of its column.".to_owned());
        let notes: Vec<String> = best
            .iter()
            .chain(&self.notes)
            .map(|n| format!("{n}\n"))
            .collect();
        format!("{}\n{table}\n{}", self.title, notes.concat())
    }

    fn to_markdown(&self) -> String {
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let names = self.columns.iter().map(|column| cell(&column.name));
        let rule = self.columns.iter().map(|column| match column.words {
            true => "---".to_owned(),
            false => "---:".to_owned(),
        });
        let head = [
            line([self.names.to_owned()].into_iter().chain(names).collect()),
            line(["---".to_owned()].into_iter().chain(rule).collect()),
        ];
        let rows = self.rows.iter().map(|(name, row)| {
            let entry = |entry: &Entry| match entry.best {
                true => {
                    let plain = Entry {
                        text: format!("**{}**", entry.text),
                        ..entry.clone()
                    };
                    cell(&plain.line())
                }
                false => cell(&entry.line()),
            };
            line(
                [cell(name)]
                    .into_iter()
                    .chain(row.iter().map(entry))
                    .collect(),
            )
        });
        let notes = self.notes.iter().map(|note| format!("\n{}\n", cell(note)));
        format!(
            "### {}\n\n{}{}{}\n",
            self.title,
            head.concat(),
            rows.collect::<String>(),
            notes.collect::<String>()
        )
    }
}

/// A heading and what is below it.
pub struct Part {
    /// The heading.
    pub heading: String,
    /// Its tables.
    pub tables: Vec<Table>,
}

/// All tables, those of each backbone first.
fn parts(results: &Results) -> Vec<Part> {
    let scores = Scores::new(results);
    let backbones = results.backbones.iter().map(|backbone| {
        let standing = Standing::of(&scores, backbone);
        let mut tables = accuracy(&scores, backbone, &standing);
        tables.push(cost(&scores, backbone));
        tables.extend(versus(results, &standing));
        Part {
            heading: backbone.clone(),
            tables,
        }
    });
    let rest = [overrides(results), searches(results), failed(results)];
    let mut parts: Vec<Part> = backbones.collect();
    parts.push(Part {
        heading: "Settings, searches, failures".to_owned(),
        tables: rest.into_iter().flatten().collect(),
    });
    parts.retain(|part| part.tables.iter().any(|table| !table.rows.is_empty()));
    parts
}

/// How much of it there is: `12 trials done, 1 failed, 3 not run yet`.
pub fn progress(results: &Results) -> String {
    let mut text = format!("{} trials done", results.done.len());
    for (count, what) in [
        (results.failed.len(), "failed"),
        (results.missing.len(), "not run yet"),
    ] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

/// A terminal lists so many searches; the files list all.
const SEARCHES: usize = 24;

/// For a terminal.
pub fn text(results: &Results) -> String {
    let mut text = format!("{}: {}\n", results.name, progress(results));
    for part in parts(results) {
        text += &format!("\n== {}\n", part.heading);
        for mut table in part.tables {
            let all = table.rows.len();
            if table.names == choices::SEARCHED && all > SEARCHES {
                table.rows.truncate(SEARCHES);
                table
                    .notes
                    .push(format!("{SEARCHES} of {all}; results.md has all."));
            }
            text += &format!("\n{}", table.to_text());
        }
    }
    text
}

/// `results.md`.
pub fn markdown(results: &Results) -> String {
    let mut text = format!("# {}\n\n", results.name);
    if !results.description.trim().is_empty() {
        text += &format!("{}\n\n", results.description.trim());
    }
    text += &format!("{}.\n\n", progress(results));
    for part in parts(results) {
        text += &format!("## {}\n\n", part.heading);
        text.extend(part.tables.iter().map(Table::to_markdown));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::sample;

    /// Where `REPORT_SAMPLES` names a folder, they are written there to be looked at.
    fn keep(name: &str, text: &str) {
        if let Ok(folder) = std::env::var("REPORT_SAMPLES") {
            std::fs::write(format!("{folder}/{name}"), text).unwrap();
        }
    }

    fn entry<'a>(table: &'a Table, row: &str, column: &str) -> &'a Entry {
        let index = table.columns.iter().position(|c| c.name == column);
        let row = table.rows.iter().find(|(name, _)| name == row).unwrap();
        &row.1[index.unwrap()]
    }

    #[test]
    fn a_mean_over_fewer_says_so_and_wins_nothing() {
        let results = sample::results(9, 3);
        let scores = Scores::new(&results);
        let standing = Standing::of(&scores, "resnet50");
        let tables = accuracy(&scores, "resnet50", &standing);
        let [overview, _natural, specialised, structured] = tables.as_slice() else {
            panic!("{} tables", tables.len());
        };
        // One of three failed.
        let partial = entry(specialised, "full-finetune", "resisc");
        assert_eq!(partial.over.as_deref(), Some("2/3†"));
        assert_eq!(partial.rival, None);
        let done = scores.at("resnet50", "full-finetune", "resisc").unwrap();
        let mean: f64 = done.scores().values().sum::<f64>() / 2.0;
        assert_eq!(partial.text, format!("{:.1}", 100.0 * mean));
        // One has not run.
        let partial = entry(structured, "ssf", "waterbirds (worst group)");
        assert_eq!(partial.over.as_deref(), Some("2/3"));
        // All of one data set failed: there is no mean over data sets, and no cell to fill.
        let vp = "vp <frame> & \"pad\"";
        assert_eq!(entry(structured, vp, "shapes-azimuth").line(), "– (0/3†)");
        assert_eq!(entry(overview, vp, "structured").line(), "– (2/3)");
        assert_eq!(entry(overview, vp, "mean").line(), "– (8/9)");
        // A group that is whole has its mean; one trial of 27 lacks in all.
        assert_eq!(entry(overview, "ssf", "natural").over, None);
        assert_eq!(
            entry(overview, "ssf", "mean").over.as_deref(),
            Some("26/27")
        );
        for table in &tables {
            for column in 0..table.columns.len() {
                let entries = || table.rows.iter().map(|(_, row)| &row[column]);
                let best = entries().find(|e| e.best).and_then(|e| e.rival).unwrap();
                let better = table.columns[column].better.unwrap();
                assert!(entries().filter_map(|e| e.rival).all(|rival| match better {
                    Better::More => rival <= best,
                    Better::Less => rival >= best,
                }));
            }
        }
        // The methods that a backbone does not take have no row there.
        assert!(overview.rows.iter().all(|(name, _)| name != "vpt-deep"));
        assert_eq!(overview.rows.len(), 10);
    }

    #[test]
    fn the_mean_over_data_sets_spreads_as_its_seeds_do() {
        let results = sample::results(3, 3);
        let scores = Scores::new(&results);
        let datasets: Vec<_> = results.datasets.iter().collect();
        let mean = overall(&scores, "vit-micro", "lora", &datasets).unwrap();
        let cells = ["flowers", "pets", "digits"]
            .map(|d| scores.at("vit-micro", "lora", d).unwrap().scores());
        let of_seed = |seed| cells.iter().map(|scores| scores[&seed]).sum::<f64>() / 3.0;
        let seeds = [of_seed(0), of_seed(1), of_seed(2)];
        assert!((mean.mean - seeds.iter().sum::<f64>() / 3.0).abs() < 1e-12);
        let deviation = crate::compare::statistics::deviation(&seeds);
        assert_eq!(
            (mean.deviation, mean.count, mean.planned),
            (deviation, 9, 9)
        );
    }

    #[test]
    fn costs_are_means_over_data_sets_and_the_most_memory() {
        let results = sample::results(9, 3);
        let scores = Scores::new(&results);
        let table = cost(&scores, "vit-micro");
        let head = entry(&table, "lora", "head");
        // 192 weights for each of 145 classes over nine data sets.
        assert_eq!(head.text, "3\u{202f}093");
        assert_eq!(entry(&table, "lora", "trained").text, "147\u{202f}456");
        assert_eq!(entry(&table, "lora", "formula").text, "=");
        assert!(entry(&table, "linear-probe", "trained").best);
        assert_eq!(entry(&table, "lora", "trials").text, "27");
        // Nine data sets, of which each filled a cache once.
        assert_eq!(entry(&table, "ap", "cache s").text, "37.8");
        let other = cost(&scores, "resnet50");
        assert_eq!(entry(&other, "full-finetune", "trials").text, "26/27");
        assert_eq!(entry(&other, "full-finetune", "s/epoch").rival, None);
        let mut wrong = results.clone();
        let lora = |s: &&mut crate::run::summary::Summary| s.methods == ["lora"];
        wrong.done.iter_mut().find(lora).unwrap().params.formula = 7;
        let table = cost(&Scores::new(&wrong), "vit-micro");
        assert_eq!(entry(&table, "lora", "formula").text, "≠ 7");
    }

    #[test]
    fn methods_are_held_against_the_baseline() {
        let results = sample::results(9, 3);
        let scores = Scores::new(&results);
        let standing = Standing::of(&scores, "resnet50");
        assert_eq!(standing.datasets.len(), 8, "one lacks for vp");
        assert!(standing.differ());
        assert_eq!(standing.versus.len(), 9);
        let lora = standing.versus.iter().find(|v| v.method == "lora").unwrap();
        let difference = lora.difference.unwrap();
        assert_eq!((difference.units, difference.pairs), (9, 27));
        assert_eq!(lora.record.wins, 9);
        assert_eq!(lora.p, Some(2.0 / 512.0));
        assert!((lora.corrected.unwrap() - 9.0 * 2.0 / 512.0).abs() < 0.03);
        assert!(difference.bca.low > 0.0 && difference.bca.low < difference.mean);
        // A pair is a seed that both have.
        let full = standing
            .versus
            .iter()
            .find(|v| v.method == "full-finetune")
            .unwrap();
        assert_eq!(full.difference.unwrap().pairs, 26);
        assert!(versus(&results, &standing).unwrap().rows.len() == 9);

        let nothing = Results {
            baseline: None,
            ..results
        };
        let standing = Standing::of(&Scores::new(&nothing), "resnet50");
        assert!(versus(&nothing, &standing).is_none());
    }

    #[test]
    fn one_data_set_is_compared_over_seeds_and_says_so() {
        let results = sample::results(1, 3);
        let text = markdown(&results);
        assert!(text.contains("There is one data set"));
        assert!(!text.contains("| mean |") && !text.contains("| rank |"));
        // And one seed has no spread.
        let text = markdown(&sample::results(1, 1));
        assert!(!text.contains('±') && !text.contains("NaN"));
    }

    #[test]
    fn everything_is_in_the_tables() {
        let results = sample::results(9, 3);
        let (text, markdown) = (text(&results), markdown(&results));
        keep("results.txt", &text);
        keep("results.md", &markdown);
        for part in [
            "562 trials done, 4 failed, 1 not run yet",
            "epoch 3: the loss is not finite <oh> after 412 steps",
            "recipe.optimizer.lr=0.0001",
            "3 grid, 1 failed",
            "Against linear-probe",
            "critical difference",
        ] {
            assert!(markdown.contains(part), "{part}");
            assert!(text.contains(part), "{part}");
        }
        // Rows of a table have as many cells as its head.
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
    fn equal_entries_are_no_best() {
        let table = |values: [f64; 3]| {
            let table = Table {
                columns: vec![Column::number("x", Better::Less)],
                rows: values
                    .map(|value| (String::new(), vec![Entry::number(value, "")]))
                    .to_vec(),
                ..Table::default()
            };
            table
                .marked()
                .rows
                .into_iter()
                .map(|(_, row)| row[0].best)
                .collect::<Vec<_>>()
        };
        assert_eq!(table([1.0, 2.0, 1.0]), [true, false, true]);
        assert_eq!(table([1.0, 1.0, 1.0]), [false; 3]);
    }

    #[test]
    fn nothing_done_has_tables_too() {
        let mut results = sample::results(2, 1);
        let place = |summary: crate::run::summary::Summary| crate::compare::Missing {
            cell: summary.cell.unwrap(),
            seed: summary.seed,
        };
        results.missing = results.done.drain(..).map(place).collect();
        for text in [text(&results), markdown(&results)] {
            assert!(text.contains("0 trials done, 42 not run yet"));
            assert!(text.contains("– (0/1)") && !text.contains("NaN"));
        }
        assert_eq!(csv(&results).matches("\nmissing,").count(), 42);
    }
}
