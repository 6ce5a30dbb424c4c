//! One line per trial, for other programs: `results.csv` and `results.jsonl`. Numbers keep all their
//! digits. The columns are stable; a new one comes last.

use serde_json::{Map, Value, json};

use crate::compare::results::{Missing, Results};
use crate::compare::tables::choices::settings;
use crate::run::summary::{Cell, Failed, Summary};

/// A trial in any state.
#[derive(Clone, Copy)]
enum Line<'a> {
    Done(&'a Summary),
    Failed(&'a Failed),
    Missing(&'a Missing),
}

type Column = (&'static str, fn(&Line) -> Value);

/// The name and the value of each column; null where a trial has no value.
// One table for both files, so that they cannot differ.
const COLUMNS: [Column; 42] = [
    ("status", |line| {
        json!(match line {
            Line::Done(_) => "done",
            Line::Failed(_) => "failed",
            Line::Missing(_) => "missing",
        })
    }),
    ("backbone", |line| line.of_cell(|cell| json!(cell.backbone))),
    ("method", |line| line.of_cell(|cell| json!(cell.method))),
    ("dataset", |line| line.of_cell(|cell| json!(cell.dataset))),
    ("group", |line| line.of_cell(|cell| json!(cell.group))),
    ("seed", |line| json!(line.seed())),
    ("metric", |line| line.of_done(|s| json!(s.metric))),
    ("score", |line| {
        line.of_done(|s| json!(s.test.score(s.metric)))
    }),
    ("test_top1", |line| line.of_done(|s| json!(s.test.top1))),
    ("test_top5", |line| line.of_done(|s| json!(s.test.top5))),
    ("test_loss", |line| line.of_done(|s| json!(s.test.loss))),
    ("test_images", |line| line.of_done(|s| json!(s.test.images))),
    ("skipped_images", |line| line.of_done(|s| json!(s.skipped))),
    ("validation_score", |line| {
        line.of_done(|s| json!(s.validation.as_ref().and_then(|v| v.score(s.metric))))
    }),
    ("validation_loss", |line| {
        line.of_done(|s| json!(s.validation.as_ref().map(|v| v.loss)))
    }),
    ("best_epoch", |line| line.of_done(|s| json!(s.best_epoch))),
    ("epochs", |line| line.of_done(|s| json!(s.epochs))),
    ("trainable", |line| {
        line.of_done(|s| json!(s.params.trainable))
    }),
    ("total", |line| line.of_done(|s| json!(s.params.total))),
    ("adapter", |line| line.of_done(|s| json!(s.params.adapter))),
    ("tuned", |line| line.of_done(|s| json!(s.params.tuned))),
    ("head", |line| line.of_done(|s| json!(s.params.head))),
    ("formula", |line| line.of_done(|s| json!(s.params.formula))),
    ("peak_bytes", |line| {
        line.of_done(|s| json!(s.memory.peak_bytes))
    }),
    ("cache_bytes", |line| {
        line.of_done(|s| json!(s.memory.cache_bytes))
    }),
    ("seconds_per_epoch", |line| {
        line.of_done(|s| json!(s.time.seconds_per_epoch))
    }),
    ("cache_seconds", |line| {
        line.of_done(|s| json!(s.time.cache_seconds))
    }),
    ("total_seconds", |line| {
        line.of_done(|s| json!(s.time.total_seconds))
    }),
    ("images_per_second", |line| {
        line.of_done(|s| json!(s.inference.images_per_second))
    }),
    ("device", |line| line.of_done(|s| json!(s.device))),
    ("overrides", |line| {
        line.of_cell(|cell| json!(settings(&cell.overrides)))
    }),
    ("search", |line| {
        line.of_done(|s| json!(s.tuning.as_ref().map(|t| &t.search)))
    }),
    ("search_candidates", |line| {
        line.of_done(|s| json!(s.tuning.as_ref().map(|t| t.candidates.len())))
    }),
    ("search_seconds", |line| {
        line.of_done(|s| json!(s.tuning.as_ref().map(|t| t.seconds)))
    }),
    ("search_score", |line| {
        line.of_done(|s| {
            json!(
                s.tuning
                    .as_ref()
                    .and_then(|t| t.candidates.get(t.chosen)?.score)
            )
        })
    }),
    ("chosen", |line| {
        line.of_done(|s| {
            let chosen = s.tuning.as_ref().and_then(|t| t.candidates.get(t.chosen));
            json!(chosen.map(|c| settings(&c.set)))
        })
    }),
    ("config_hash", |line| line.of_done(|s| json!(s.config_hash))),
    ("trial", |line| line.of_done(|s| json!(s.trial))),
    ("exit", |line| line.of_failed(|f| json!(f.exit))),
    ("error", |line| line.of_failed(|f| json!(f.error))),
    ("search_retrain", |line| {
        line.of_done(|s| json!(s.tuning.as_ref().map(|t| t.retrain)))
    }),
    ("timed_epochs", |line| {
        line.of_done(|s| json!(s.time.timed_epochs))
    }),
];

impl Line<'_> {
    fn cell(&self) -> Option<&Cell> {
        match self {
            Self::Done(summary) => summary.cell.as_ref(),
            Self::Failed(failed) => Some(&failed.cell),
            Self::Missing(missing) => Some(&missing.cell),
        }
    }

    fn seed(&self) -> u64 {
        match self {
            Self::Done(summary) => summary.seed,
            Self::Failed(failed) => failed.seed,
            Self::Missing(missing) => missing.seed,
        }
    }

    fn of_cell(&self, value: fn(&Cell) -> Value) -> Value {
        self.cell().map_or(Value::Null, value)
    }

    fn of_done(&self, value: fn(&Summary) -> Value) -> Value {
        match self {
            Self::Done(summary) => value(summary),
            _ => Value::Null,
        }
    }

    fn of_failed(&self, value: fn(&Failed) -> Value) -> Value {
        match self {
            Self::Failed(failed) => value(failed),
            _ => Value::Null,
        }
    }
}

/// All trials in the order of the tables.
fn lines(results: &Results) -> Vec<Line<'_>> {
    let mut lines: Vec<Line> = (results.done.iter().map(Line::Done))
        .chain(results.failed.iter().map(Line::Failed))
        .chain(results.missing.iter().map(Line::Missing))
        .collect();
    // In the order of the tables, whatever the order in which trials ended.
    let place = |labels: &[String], label: &str| labels.iter().position(|l| l == label);
    lines.sort_by_key(|line| {
        let places = line.cell().map(|cell| {
            let datasets = results.datasets.iter();
            (
                place(&results.backbones, &cell.backbone),
                place(&results.methods, &cell.method),
                datasets.into_iter().position(|c| c.label == cell.dataset),
            )
        });
        (places, line.seed())
    });
    lines
}

/// `results.csv`: a head, and one line per trial.
pub fn csv(results: &Results) -> String {
    let mut text = record(COLUMNS.iter().map(|(name, _)| (*name).to_owned()));
    for line in lines(results) {
        text += &record(COLUMNS.iter().map(|(_, value)| match value(&line) {
            Value::Null => String::new(),
            Value::String(text) => text,
            number => number.to_string(),
        }));
    }
    text
}

/// A line of CSV (RFC 4180, except that it ends in a line feed alone).
fn record(fields: impl Iterator<Item = String>) -> String {
    let quoted = fields.map(|field| match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    });
    quoted.collect::<Vec<_>>().join(",") + "\n"
}

/// `results.jsonl`: an object per trial, with the same keys.
pub fn jsonl(results: &Results) -> String {
    let object = |line: &Line| {
        let fields = COLUMNS.iter();
        let fields: Map<String, Value> = fields
            .map(|(name, value)| ((*name).to_owned(), value(line)))
            .collect();
        format!("{}\n", Value::Object(fields))
    };
    lines(results).iter().map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::sample;

    #[test]
    fn there_is_one_line_per_trial_and_both_files_agree() {
        let results = sample::results(9, 3);
        let (csv, jsonl) = (csv(&results), jsonl(&results));
        let mut rows = csv.lines();
        let head: Vec<&str> = rows.next().unwrap().split(',').collect();
        assert_eq!(
            head[..6],
            ["status", "backbone", "method", "dataset", "group", "seed"]
        );
        let objects: Vec<Map<String, Value>> = jsonl
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(objects.len(), 567);
        let count = |status: &str| objects.iter().filter(|o| o["status"] == status).count();
        assert_eq!(
            [count("done"), count("failed"), count("missing")],
            [562, 4, 1]
        );
        // The error of one trial has a line break, which CSV keeps inside quotes.
        assert_eq!(csv.lines().count(), 1 + 567 + 1);
        let first: Vec<&str> = rows.next().unwrap().split(',').collect();
        for (name, text) in head.iter().zip(first) {
            let value = &objects[0][*name];
            let written = match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                number => number.to_string(),
            };
            assert_eq!(written, text, "{name}");
        }
        // All digits survive.
        let summary = &results.done[0];
        assert_eq!(
            objects[0]["score"],
            summary.test.score(summary.metric).unwrap()
        );
    }

    #[test]
    fn every_column_is_documented() {
        let docs = include_str!("../../../../docs/results.md");
        for (name, _) in COLUMNS {
            assert!(docs.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn fields_are_quoted_if_necessary() {
        let fields = ["a", "b,c", "say \"x\"", "two\nlines"].map(str::to_owned);
        let line = record(fields.into_iter());
        assert_eq!(line, "a,\"b,c\",\"say \"\"x\"\"\",\"two\nlines\"\n");
    }
}
