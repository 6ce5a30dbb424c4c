//! `report.html` of a run: one file without scripts that loads nothing from a network, readable on
//! paper, at phone width, in light and dark. The report of a comparison uses the same parts.

pub mod axis;
pub mod classes;
pub mod curves;
pub mod document;
pub mod frame;
pub mod marks;
pub mod numbers;
mod scores;

use std::fmt::Write;

use crate::config::experiment::Experiment;
use crate::run::summary::Summary;
use crate::train::checkpoint::EpochRecord;
use crate::train::metrics::Metric;
use classes::{confusion, per_class, scores_by_class};
use curves::{Curves, Series};
use document::{escape, note, page, section, yaml};
use marks::Style;
use numbers::{grouped, mebibytes, percent, seconds, speed};
use scores::scores;

/// The report of a finished run.
pub fn html(summary: &Summary, experiment: &Experiment) -> String {
    let (test, classes) = (&summary.test, &summary.classes);
    let sections = [
        headline(summary),
        curves(summary),
        section("Scores and calibration", &scores(summary)),
        portrait(summary),
        section("Test accuracy by class", &per_class(test, classes)),
        section("Test scores by class", &scores_by_class(test, classes)),
        section(
            "Confusion on the test split",
            &confusion(&test.confusion, classes),
        ),
        configuration(experiment),
    ];
    let title = format!("{} / {}", summary.experiment, summary.trial);
    page(&title, "", &sections.concat())
}

/// The numbers that a reader looks for first.
fn headline(summary: &Summary) -> String {
    let params = &summary.params;
    let share = params.trainable as f64 / params.total.max(1) as f64;
    let card =
        |split: &str, (metric, score): (Metric, f64)| (format!("{split} {metric}"), percent(score));
    let mut cards = Vec::new();
    // The metric of the experiment comes first, and the others as always.
    let is_shown = summary
        .test
        .first()
        .any(|(metric, _)| metric == summary.metric);
    if let (false, Some(score)) = (is_shown, summary.test.score(summary.metric)) {
        cards.push(card("test", (summary.metric, score)));
    }
    // With five classes or fewer, top-5 is always 100 %.
    let few = summary.test.confusion.len() <= 5;
    let shown = |(metric, _): &(Metric, f64)| {
        !(few && *metric == Metric::Top5) || *metric == summary.metric
    };
    cards.extend(
        summary
            .test
            .first()
            .filter(shown)
            .map(|one| card("test", one)),
    );
    cards.push(("test loss".to_owned(), format!("{:.4}", summary.test.loss)));
    if let Some(validation) = &summary.validation {
        cards.extend(
            validation
                .first()
                .take(1)
                .map(|one| card("validation", one)),
        );
    }
    let others = [
        (
            "trainable",
            format!("{} ({})", grouped(params.trainable), percent(share)),
        ),
        ("peak memory", mebibytes(summary.memory.peak_bytes)),
        ("time per epoch", seconds(summary.time.seconds_per_epoch)),
        ("inference", speed(summary.inference.images_per_second)),
    ];
    cards.extend(others.map(|(key, value)| (key.to_owned(), value)));
    let mut list = String::from("<dl class=\"cards\">\n");
    for (key, value) in cards {
        let _ = writeln!(list, "<div><dt>{key}</dt><dd>{}</dd></div>", escape(&value));
    }
    list.push_str("</dl>\n");
    list
}

const TRAINING: Style = Style {
    class: "training",
    shape: 7,
};
const VALIDATION: Style = Style {
    class: "validation",
    shape: 0,
};

/// Losses and validation accuracy by epoch.
fn curves(summary: &Summary) -> String {
    if summary.history.is_empty() {
        return String::new();
    }
    let series = |name, style, value: fn(&EpochRecord) -> Option<f64>| {
        let points = summary.history.iter();
        Series {
            name,
            style,
            points: points
                .filter_map(|record| Some((record.epoch as f64, value(record)?)))
                .collect(),
        }
    };
    let chart = |title, series| {
        let chart = Curves {
            title,
            series,
            selected: Some(summary.best_epoch),
            epochs: summary.history.len(),
        };
        chart.svg()
    };
    let losses = vec![
        series("training", TRAINING, |record| Some(record.train_loss)),
        series("validation", VALIDATION, |record| {
            Some(record.validation.as_ref()?.loss)
        }),
    ];
    let scores = vec![series("validation", VALIDATION, |record| {
        let (_, score) = record.validation.as_ref()?.first().next()?;
        Some(100.0 * score)
    })];
    let metric = summary.test.first().next();
    let title = metric.map(|(metric, _)| format!("validation {metric} in %"));
    let charts = [
        chart("loss", losses),
        chart(title.as_deref().unwrap_or_default(), scores),
    ];
    let remark = note(&format!(
        "Validation selected epoch {} of {} (dotted line). The training loss is the mean of the epoch \
         and includes label smoothing and weights of classes.",
        summary.best_epoch, summary.epochs
    ));
    let body = format!(
        "<div class=\"charts\">\n{}</div>\n{remark}",
        charts.concat()
    );
    section("Learning curves", &body)
}

/// A table of parameters, memory and time.
fn portrait(summary: &Summary) -> String {
    let params = &summary.params;
    let formula = match params.formula == params.adapter + params.tuned {
        true => "equal to adapter and backbone",
        false => "NOT EQUAL to adapter and backbone, which is a defect",
    };
    let mut rows = vec![
        ("method", summary.methods.join(" + ")),
        ("parameters", grouped(params.total)),
        ("trainable", grouped(params.trainable)),
        ("in adapters", grouped(params.adapter)),
        ("in the backbone", grouped(params.tuned)),
        ("in the head", grouped(params.head)),
        (
            "by the formula",
            format!("{} ({formula})", grouped(params.formula)),
        ),
        ("peak memory", mebibytes(summary.memory.peak_bytes)),
        (
            "time per epoch",
            format!(
                "{} ({})",
                seconds(summary.time.seconds_per_epoch),
                summary.time.timed()
            ),
        ),
        ("total time", seconds(summary.time.total_seconds)),
        (
            "epochs",
            format!("{}, selected {}", summary.epochs, summary.best_epoch),
        ),
        ("inference", speed(summary.inference.images_per_second)),
        ("test images", grouped(summary.test.images)),
        ("device", summary.device.clone()),
        ("seed", summary.seed.to_string()),
        ("configuration", summary.config_hash.clone()),
    ];
    if summary.memory.cache_bytes > 0 {
        let (bytes, filling) = (summary.memory.cache_bytes, summary.time.cache_seconds);
        let filled = match filling > 0.0 {
            true => format!("filled in {}", seconds(filling)),
            false => "filled by another trial".to_owned(),
        };
        rows.push(("cache", format!("{}, {filled}", mebibytes(bytes))));
    }
    if summary.skipped > 0 {
        rows.push(("images left out", grouped(summary.skipped)));
    }
    let mut table = String::from("<table class=\"portrait\">\n");
    for (key, value) in rows {
        let value = escape(&value);
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">{key}</th><td>{value}</td></tr>"
        );
    }
    table.push_str("</table>\n");
    section("Parameters, memory, time", &table)
}

/// The resolved experiment as YAML.
fn configuration(experiment: &Experiment) -> String {
    let text = serde_yaml::to_string(experiment).unwrap_or_else(|e| format!("# {e}"));
    section("Configuration", &yaml(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::targets::Targets;
    use crate::run::summary::{Inference, Memory, Params, Time};
    use crate::train::metrics::{Metrics, Tally};

    /// A run over `count` classes in which some images are taken for the next class.
    fn run(count: usize) -> (Summary, Experiment) {
        let mut tally = Tally::new(count, &[]);
        for label in 0..count {
            for image in 0..9 {
                let guess = if image < label % 5 {
                    (label + 1) % count
                } else {
                    label
                };
                let logits: Vec<f32> = (0..count)
                    .map(|c| f32::from(u8::from(c == guess)))
                    .collect();
                tally.add(&logits, &Targets::One(vec![label]), &[]);
            }
        }
        let test = tally.finish();
        let history = (1..=12u32).map(|epoch| EpochRecord {
            epoch: epoch as usize,
            step: u64::from(epoch) * 34,
            train_loss: 2.3 * 0.8f64.powi(epoch as i32),
            validation: Some(Metrics {
                images: test.images,
                loss: 0.3 + 2.0 * 0.75f64.powi(epoch as i32),
                top1: Some(0.95 - 0.8f64.powi(epoch as i32)),
                ..Metrics::default()
            }),
            score: Some(0.95 - 0.8f64.powi(epoch as i32)),
            lr: 0.001,
            seconds: 4.0,
        });
        let history: Vec<_> = history.collect();
        let names = (0..count).map(|label| format!("<kind> & \"{label}\""));
        let summary = Summary {
            experiment: "<script>alert(1)</script>".into(),
            trial: "lora-vit-digits-s0-c99f49cb".into(),
            cell: None,
            methods: vec!["lora".into()],
            metric: Metric::Top1,
            validation: history[11].validation.clone(),
            skipped: 0,
            test,
            best_epoch: 11,
            epochs: 12,
            params: Params {
                trainable: 20010,
                total: 496_410,
                adapter: 19200,
                tuned: 0,
                head: 810,
                formula: 19200,
            },
            memory: Memory {
                peak_bytes: 54_000_000,
                cache_bytes: 0,
            },
            time: Time {
                seconds_per_epoch: 4.0,
                timed_epochs: 11,
                cache_seconds: 0.0,
                total_seconds: 50.0,
            },
            inference: Inference {
                images_per_second: 653.0,
            },
            device: "cpu".into(),
            device_vouched: false,
            random_weights: false,
            config_hash: "c99f49cb".into(),
            seed: 0,
            classes: names.collect(),
            history,
            tuning: None,
            config: serde_json::Value::Null,
            environment: serde_json::Value::Null,
        };
        let overrides = ["backbone.weights=null".to_owned()];
        let experiment = Experiment::read("quickstart", &overrides)
            .map_err(|f| f.error)
            .unwrap();
        (summary, experiment)
    }

    fn sample(count: usize) -> String {
        let (summary, experiment) = run(count);
        html(&summary, &experiment)
    }

    #[test]
    fn everything_is_escaped_and_nothing_is_fetched() {
        for count in [2, 10, 64] {
            let page = sample(count);
            document::check(&page);
            assert!(!page.contains("<kind>"));
            assert!(page.contains("&lt;kind&gt; &amp; &quot;"));
            assert!(page.contains("name: vit"));
            if let Ok(folder) = std::env::var("REPORT_SAMPLES") {
                std::fs::write(format!("{folder}/report-{count}.html"), &page).unwrap();
            }
        }
    }

    #[test]
    fn a_metric_a_cache_and_skipped_images_are_shown() {
        let (mut summary, experiment) = run(10);
        let page = html(&summary, &experiment);
        assert!(!page.contains("test mean per class") && !page.contains("filled"));
        summary.metric = Metric::MeanPerClass;
        summary.memory.cache_bytes = 3 << 20;
        summary.skipped = 2;
        let page = html(&summary, &experiment);
        assert!(page.contains("<dt>test mean per class</dt><dd>77.78 %</dd>"));
        assert!(page.contains("3.0 MiB, filled by another trial"));
        assert!(page.contains("images left out"));
    }

    #[test]
    fn a_short_run_has_a_report() {
        let (mut summary, experiment) = run(2);
        summary.best_epoch = 1;
        for epochs in [2, 1, 0] {
            summary.history.truncate(epochs);
            let page = html(&summary, &experiment);
            assert!(!page.contains("NaN") && page.contains("</html>"));
        }
    }
}
