//! The cost of a method: parameters, memory, time, throughput.

use super::table::{Better, Column, Entry, NONE, Table};
use crate::compare::scores::{Scores, Trials};
use crate::compare::statistics::moments::mean;
use crate::report::numbers::{brief, grouped, in_mebibytes};
use crate::run::summary::{Params, Summary};

/// The way in which the trials of a method become one number.
enum Over {
    /// The mean over data sets of the mean over seeds.
    Mean,
    /// The largest of all trials.
    Most,
    /// The sum over all trials.
    Sum,
}

/// A column of the table.
struct Measure {
    name: &'static str,
    better: Option<Better>,
    over: Over,
    value: fn(&Summary) -> f64,
    /// Whether it counts something, so that all digits are shown.
    whole: bool,
}

const fn measure(name: &'static str, over: Over, value: fn(&Summary) -> f64) -> Measure {
    Measure {
        name,
        better: Some(Better::Less),
        over,
        value,
        whole: false,
    }
}

const MEASURES: [Measure; 10] = [
    Measure {
        whole: true,
        ..measure("trained", Over::Mean, |s| {
            (s.params.adapter + s.params.tuned) as f64
        })
    },
    Measure {
        whole: true,
        better: None,
        ..measure("head", Over::Mean, |s| s.params.head as f64)
    },
    Measure {
        better: None,
        ..measure("% of all", Over::Mean, |s| {
            100.0 * s.params.trainable as f64 / s.params.total.max(1) as f64
        })
    },
    measure("peak MiB", Over::Most, |s| {
        in_mebibytes(s.memory.peak_bytes)
    }),
    measure("s/epoch", Over::Mean, |s| s.time.seconds_per_epoch),
    Measure {
        whole: true,
        better: None,
        ..measure("timed", Over::Sum, |s| s.time.timed_epochs as f64)
    },
    Measure {
        better: Some(Better::More),
        ..measure("images/s", Over::Mean, |s| s.inference.images_per_second)
    },
    Measure {
        better: None,
        ..measure("cache MiB", Over::Most, |s| {
            in_mebibytes(s.memory.cache_bytes)
        })
    },
    Measure {
        better: None,
        ..measure("cache s", Over::Sum, |s| s.time.cache_seconds)
    },
    Measure {
        better: None,
        ..measure("total s", Over::Sum, |s| s.time.total_seconds)
    },
];

/// The costs of all methods on a backbone.
pub fn cost(scores: &Scores, backbone: &str) -> Table {
    let methods = scores.methods(backbone).into_iter();
    let mut columns: Vec<Column> = MEASURES
        .iter()
        .map(|measure| Column::number(measure.name, measure.better))
        .collect();
    // These are not measures of a single trial, so `MEASURES` does not list them.
    columns.insert(0, Column::number("trials", None));
    columns.insert(2, Column::number("formula", None));
    let tasks = scores.results.datasets.len();
    if tasks > 1 {
        columns.insert(ALL_TASKS, Column::number("all tasks", Better::Less));
    }
    let table = Table {
        title: format!("{backbone}: parameters, memory, time"),
        names: "method",
        columns,
        rows: methods
            .map(|method| {
                let row = scores.row(backbone, method, &scores.results.datasets);
                let row: Vec<&Trials> = row.collect();
                let mut entries: Vec<Entry> = MEASURES.iter().map(|m| m.entry(&row)).collect();
                entries.insert(0, Entry::text(count(&row)));
                entries.insert(2, formula(&row));
                if tasks > 1 {
                    entries.insert(ALL_TASKS, all_tasks(&row, tasks));
                }
                (method.to_owned(), entries)
            })
            .collect(),
        notes: vec![
            "trained: parameters of adapter and backbone that train; formula: = if that is what the method's \
             formula gives in every trial; head: parameters of the head. all tasks: the parameters that all data sets \
             need together, as a multiple of the backbone's. peak: the most memory that a trial \
             took while training, caches excluded. s/epoch: training only, without the first epoch, which warms up; \
             timed: the epochs of all trials that are left. images/s: from image to logits. \
             cache s: time spent on filling caches, once for all trials that share one. total s: all trials, \
             searches excluded. Parameters, s/epoch and images/s are means over data sets. A row that covers \
             fewer trials than planned is not marked as the best."
                .to_owned(),
        ],
    };
    table.marked()
}

impl Measure {
    fn entry(&self, row: &[&Trials]) -> Entry {
        let values = row.iter().filter_map(|trials| trials.mean(self.value));
        let values: Vec<f64> = values.collect();
        let all = || {
            row.iter()
                .flat_map(|t| t.done.values())
                .map(|s| (self.value)(s))
        };
        let number = match self.over {
            Over::Mean => mean(&values),
            Over::Most => all().reduce(f64::max),
            Over::Sum => all().reduce(|a, b| a + b),
        };
        let Some(number) = number else {
            return Entry::text(NONE);
        };
        let text = match self.whole {
            true => grouped(number.round() as usize),
            false => brief(number),
        };
        // With trials missing, a sum or a maximum would look cheaper than it is.
        let complete = row
            .iter()
            .all(|trials| trials.done.len() == trials.planned());
        Entry {
            rival: complete.then_some(number),
            ..Entry::text(text)
        }
    }
}

/// Counts the trials that the row covers.
fn count(row: &[&Trials]) -> String {
    let done: usize = row.iter().map(|trials| trials.done.len()).sum();
    let planned: usize = row.iter().map(|trials| trials.planned()).sum();
    match done == planned {
        true => done.to_string(),
        false => format!("{done}/{planned}"),
    }
}

/// The place of the column about all tasks: after the head's parameters.
const ALL_TASKS: usize = 4;

/// The parameters that all data sets need together, as a multiple of the backbone's: what stays frozen
/// once, and what each of them trains or brings along.
fn all_tasks(row: &[&Trials], tasks: usize) -> Entry {
    let first = row.iter().filter_map(|trials| trials.done.values().next());
    let params: Vec<Params> = first.map(|summary| summary.params).collect();
    let known = params.first().filter(|_| params.len() == tasks);
    let Some(&Params {
        total,
        adapter,
        tuned,
        head,
        ..
    }) = known
    else {
        return Entry::text(NONE);
    };
    let backbone = total - adapter - head;
    let own = params.iter().map(|p| p.adapter + p.tuned + p.head);
    let all = backbone - tuned + own.sum::<usize>();
    let times = all as f64 / backbone as f64;
    Entry {
        rival: Some(times),
        ..Entry::text(format!("{times:.2}×"))
    }
}

/// Whether the formula of the method gives the number of parameters that train, in every trial.
fn formula(row: &[&Trials]) -> Entry {
    let done: Vec<&&Summary> = row.iter().flat_map(|t| t.done.values()).collect();
    let off = done
        .iter()
        .find(|s| s.params.formula != s.params.adapter + s.params.tuned);
    Entry::text(match (off, done.is_empty()) {
        (_, true) => NONE.to_owned(),
        (None, _) => "=".to_owned(),
        (Some(summary), _) => format!("≠ {}", grouped(summary.params.formula)),
    })
}
