//! `report.html`: one file that says how a run went. No script, no network; readable on paper, at
//! phone width, in light and dark.

use std::fmt::Write;

use crate::checkpoint::EpochRecord;
use crate::experiment::Experiment;
use crate::metrics::Metrics;
use crate::summary::Summary;

/// More classes than this do not fit in a matrix; then the worst of them are listed.
const MANY: usize = 30;

const STYLE: &str = include_str!("report.css");

/// The report of a finished run.
pub fn html(summary: &Summary, experiment: &Experiment) -> String {
    let (history, classes) = (&summary.history, &summary.classes);
    let title = format!("{} / {}", summary.experiment, summary.trial);
    let title = escape(&title);
    let sections = [
        headline(summary),
        curves(summary, history),
        portrait(summary),
        per_class(&summary.test, classes),
        confusion(&summary.test, classes),
        configuration(experiment),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n{}</main>\n</body>\n</html>\n",
        sections.concat()
    )
}

/// Text for HTML, also inside quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character => escaped.push(character),
        }
    }
    escaped
}

/// A section with a heading; the body is HTML.
fn section(heading: &str, body: &str) -> String {
    format!(
        "<section>\n<h2>{}</h2>\n{body}</section>\n",
        escape(heading)
    )
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

/// A whole number with thin spaces between thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// The numbers that a reader looks for first.
fn headline(summary: &Summary) -> String {
    let params = &summary.params;
    let share = params.trainable as f64 / params.total.max(1) as f64;
    let mut cards = vec![
        ("test top-1", percent(summary.test.top1)),
        ("test loss", format!("{:.4}", summary.test.loss)),
        (
            "trainable",
            format!("{} ({})", grouped(params.trainable), percent(share)),
        ),
        ("peak memory", mebibytes(summary.memory.peak_bytes)),
        (
            "an epoch",
            format!("{:.2} s", summary.time.seconds_per_epoch),
        ),
        (
            "inference",
            format!("{:.0} images/s", summary.inference.images_per_second),
        ),
    ];
    if let Some(validation) = &summary.validation {
        cards.insert(2, ("validation top-1", percent(validation.top1)));
    }
    // With five classes or fewer it says nothing.
    if summary.test.confusion.len() > 5 {
        cards.insert(1, ("test top-5", percent(summary.test.top5)));
    }
    let mut list = String::from("<dl class=\"cards\">\n");
    for (key, value) in cards {
        let _ = writeln!(list, "<div><dt>{key}</dt><dd>{}</dd></div>", escape(&value));
    }
    list.push_str("</dl>\n");
    list
}

/// Losses and validation accuracy by epoch.
fn curves(summary: &Summary, history: &[EpochRecord]) -> String {
    if history.is_empty() {
        return String::new();
    }
    let points = |value: fn(&EpochRecord) -> Option<f64>| {
        let points = history
            .iter()
            .filter_map(|record| Some((record.epoch as f64, value(record)?)));
        points
            .filter(|(_, value)| value.is_finite())
            .collect::<Vec<_>>()
    };
    let validation = |record: &EpochRecord| record.validation.as_ref().map(|v| v.loss);
    let chart = |title, series| Chart {
        title,
        series,
        selected: summary.best_epoch,
        epochs: history.len(),
    };
    let losses = vec![
        ("train", points(|record| Some(record.train_loss))),
        ("validation", points(validation)),
    ];
    let top1 = vec![(
        "validation",
        points(|record| Some(100.0 * record.validation.as_ref()?.top1)),
    )];
    let charts = [
        chart("loss", losses).svg(),
        chart("validation top-1 in %", top1).svg(),
    ];
    let note = format!(
        "<p class=\"note\">Epoch {} of {} was selected by validation (dotted line). The training \
         loss is the epoch's mean and includes label smoothing.</p>\n",
        summary.best_epoch, summary.epochs
    );
    let body = format!("<div class=\"charts\">\n{}</div>\n{note}", charts.concat());
    section("Learning curves", &body)
}

/// A line chart over epochs.
struct Chart {
    title: &'static str,
    /// Name (also the class for the style) and points, epochs ascending.
    series: Vec<(&'static str, Vec<(f64, f64)>)>,
    /// The epoch that was selected.
    selected: usize,
    epochs: usize,
}

/// Size of a chart, and of its margins for the axes.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;

impl Chart {
    fn svg(&self) -> String {
        let values = || {
            self.series
                .iter()
                .flat_map(|(_, points)| points)
                .map(|point| point.1)
        };
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return String::new();
        }
        let rows = ticks(low, high, 5);
        let (bottom, top) = (rows[0], rows[rows.len() - 1]);
        let last = self.epochs.max(2) as f64;
        let x = move |epoch: f64| LEFT + (epoch - 1.0) / (last - 1.0) * (WIDTH - LEFT - RIGHT);
        let y = move |value: f64| {
            let share = (value - bottom) / (top - bottom);
            HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        };
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} by epoch\">\n\
             <text x=\"{LEFT}\" y=\"16\" class=\"title\">{}</text>\n",
            escape(self.title),
            escape(self.title)
        );
        self.axes(&mut svg, &rows, x, y);
        for (index, (name, points)) in self.series.iter().enumerate() {
            curve(&mut svg, name, points, x, y);
            if self.series.len() > 1 {
                legend(&mut svg, name, index);
            }
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn axes(&self, svg: &mut String, rows: &[f64], x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) {
        let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let step = rows.get(1).map_or(1.0, |second| second - rows[0]);
        let decimals = (-(step * 1.000_001).log10().floor()).max(0.0) as usize;
        for &value in rows {
            let at = y(value);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"row\" x=\"{:.1}\" y=\"{:.1}\">{value:.decimals$}</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        for epoch in epochs(self.epochs) {
            let at = x(epoch as f64);
            let _ = writeln!(
                svg,
                "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{floor}\" y2=\"{}\"/>\
                 <text class=\"column\" x=\"{at:.1}\" y=\"{}\">{epoch}</text>",
                floor + 4.0,
                floor + 17.0
            );
        }
        let selected = x(self.selected as f64);
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{floor}\" y2=\"{floor}\"/>\
             <line class=\"selected\" x1=\"{selected:.1}\" x2=\"{selected:.1}\" y1=\"{TOP}\" \
             y2=\"{floor}\"/><text class=\"column\" x=\"{:.1}\" y=\"{}\">epoch</text>",
            f64::midpoint(LEFT, right),
            HEIGHT - 6.0
        );
    }
}

/// A polyline; its points are marked where they are few.
fn curve(
    svg: &mut String,
    name: &str,
    points: &[(f64, f64)],
    x: impl Fn(f64) -> f64,
    y: impl Fn(f64) -> f64,
) {
    let place = |&(epoch, value): &(f64, f64)| (x(epoch), y(value));
    let path: Vec<_> = points
        .iter()
        .map(place)
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline class=\"{name}\" points=\"{}\"/>",
        path.join(" ")
    );
    if points.len() <= 30 {
        for (x, y) in points.iter().map(place) {
            let _ = write!(
                svg,
                "<circle class=\"{name}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.2\"/>"
            );
        }
        svg.push('\n');
    }
}

/// The name of a series, from the right.
fn legend(svg: &mut String, name: &str, index: usize) {
    let start = WIDTH - RIGHT - 190.0 + 90.0 * index as f64;
    let _ = writeln!(
        svg,
        "<line class=\"{name}\" x1=\"{start}\" x2=\"{}\" y1=\"12\" y2=\"12\"/>\
         <text x=\"{}\" y=\"16\">{}</text>",
        start + 20.0,
        start + 26.0,
        escape(name)
    );
}

/// Round values about `count` steps apart whose first and last enclose `low..=high`.
fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let range = match high - low {
        range if range > 0.0 => range,
        _ => low.abs().max(1.0) * 0.1,
    };
    let raw = range / count as f64;
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * magnitude)
        .into_iter()
        .find(|step| *step >= raw * 0.999)
        .unwrap_or(10.0 * magnitude);
    let first = (low / step).floor();
    let last = (high / step).ceil().max(first + 1.0);
    (0..=(last - first) as usize)
        .map(|index| (first + index as f64) * step)
        .collect()
}

/// The epochs that are written below a chart, about eight.
fn epochs(count: usize) -> Vec<usize> {
    let raw = count.div_ceil(8).max(1);
    let mut step = 1;
    for next in [1, 2, 5].iter().cycle().zip(0u32..) {
        step = next.0 * 10usize.pow(next.1 / 3);
        if step >= raw {
            break;
        }
    }
    let mut epochs: Vec<usize> = (0..=count).step_by(step).skip(1).collect();
    if step > 1 {
        epochs.insert(0, 1);
    }
    epochs
}

/// Parameters, memory and time beside the accuracy.
fn portrait(summary: &Summary) -> String {
    let params = &summary.params;
    let formula = match params.formula == params.adapter + params.tuned {
        true => "equal to adapter and backbone",
        false => "NOT EQUAL to adapter and backbone, which is a defect",
    };
    let rows = [
        ("method", summary.methods.join(" + ")),
        ("parameters", grouped(params.total)),
        ("trainable", grouped(params.trainable)),
        ("of the adapters", grouped(params.adapter)),
        ("of the backbone", grouped(params.tuned)),
        ("of the head", grouped(params.head)),
        (
            "by the formula",
            format!("{} ({formula})", grouped(params.formula)),
        ),
        ("peak memory", mebibytes(summary.memory.peak_bytes)),
        (
            "seconds an epoch",
            format!("{:.2}", summary.time.seconds_per_epoch),
        ),
        (
            "seconds in all",
            format!("{:.1}", summary.time.total_seconds),
        ),
        (
            "epochs",
            format!("{}, selected {}", summary.epochs, summary.best_epoch),
        ),
        (
            "inference",
            format!("{:.0} images/s", summary.inference.images_per_second),
        ),
        ("test images", grouped(summary.test.images)),
        ("device", summary.device.clone()),
        ("seed", summary.seed.to_string()),
        ("configuration", summary.config_hash.clone()),
    ];
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

/// The name of a class; its number where there is none.
fn class(classes: &[String], label: usize) -> String {
    let number = || label.to_string();
    escape(&classes.get(label).cloned().unwrap_or_else(number))
}

/// Accuracy of each class as a bar; the worst where there are many.
fn per_class(test: &Metrics, classes: &[String]) -> String {
    let images = |label: usize| test.confusion.get(label).map_or(0, |row| row.iter().sum());
    let mut rows: Vec<(usize, f64)> = test
        .per_class
        .iter()
        .enumerate()
        .filter_map(|(label, share)| Some((label, (*share)?)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut note = String::new();
    if rows.len() > MANY {
        note = format!(
            "<p class=\"note\">The worst {MANY} of {} classes.</p>\n",
            rows.len()
        );
        rows.sort_by(|a, b| a.1.total_cmp(&b.1));
        rows.truncate(MANY);
    }
    let mut table = String::from(
        "<table class=\"bars\">\n<tr><th scope=\"col\">class</th><th scope=\"col\" class=\"number\">images</th>\
         <th scope=\"col\" colspan=\"2\">top-1</th></tr>\n",
    );
    for (label, share) in rows {
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{:.1} %</td><td class=\"bar\">\
             <i style=\"width:{:.1}%\"></i></td></tr>",
            class(classes, label),
            grouped(images(label)),
            100.0 * share,
            100.0 * share
        );
    }
    table.push_str("</table>\n");
    section("Test accuracy by class", &format!("{note}{table}"))
}

/// What was taken for what.
fn confusion(test: &Metrics, classes: &[String]) -> String {
    match test.confusion.len() {
        0 => String::new(),
        count if count > MANY => section("Confusion on the test split", &worst(test, classes)),
        _ => section("Confusion on the test split", &matrix(test, classes)),
    }
}

/// The whole matrix, each row coloured by its shares.
fn matrix(test: &Metrics, classes: &[String]) -> String {
    let mut table = String::from(
        "<p class=\"note\">Rows: the label. Columns: the prediction, by the row's number. The \
         colour is the share of the row.</p>\n<div class=\"wide\">\n<table class=\"matrix\">\n\
         <tr><td></td>",
    );
    for label in 0..test.confusion.len() {
        let name = class(classes, label);
        let _ = write!(table, "<th scope=\"col\" title=\"{name}\">{label}</th>");
    }
    table.push_str("</tr>\n");
    for (label, row) in test.confusion.iter().enumerate() {
        let name = class(classes, label);
        let number = match name == label.to_string() {
            true => String::new(),
            false => format!("{label}&ensp;"),
        };
        let _ = write!(table, "<tr><th scope=\"row\">{number}{name}</th>");
        let images: usize = row.iter().sum();
        for &count in row {
            let share = count as f64 / images.max(1) as f64;
            let shade = match share {
                0.0 => " class=\"zero\"",
                share if share > 0.6 => " class=\"strong\"",
                _ => "",
            };
            // A single error among hundreds must still be seen.
            let colour = (100.0 * share).max(if count > 0 { 6.0 } else { 0.0 });
            let _ = write!(
                table,
                "<td{shade} style=\"--share:{colour:.0}%\">{count}</td>"
            );
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</table>\n</div>\n");
    table
}

/// The most frequent confusions.
fn worst(test: &Metrics, classes: &[String]) -> String {
    let mut errors = Vec::new();
    for (label, row) in test.confusion.iter().enumerate() {
        let images: usize = row.iter().sum();
        let wrong = row.iter().enumerate();
        let wrong = wrong.filter(|(guess, count)| *guess != label && **count > 0);
        errors.extend(wrong.map(|(guess, &count)| (count, images, label, guess)));
    }
    if errors.is_empty() {
        return "<p>There are no errors.</p>\n".to_owned();
    }
    errors.sort_by_key(|&(count, _, label, guess)| (std::cmp::Reverse(count), label, guess));
    let shown = errors.len().min(MANY);
    let mut table = format!(
        "<p class=\"note\">The {shown} most frequent of {} kinds of error.</p>\n\
         <table class=\"bars\">\n<tr><th scope=\"col\">label</th><th scope=\"col\">prediction</th>\
         <th scope=\"col\" class=\"number\">images</th><th scope=\"col\" class=\"number\">share of the label</th></tr>\n",
        errors.len()
    );
    for &(count, images, label, guess) in &errors[..shown] {
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">{}</th><th scope=\"row\">{}</th><td>{}</td><td>{:.1} %</td></tr>",
            class(classes, label),
            class(classes, guess),
            grouped(count),
            100.0 * count as f64 / images.max(1) as f64
        );
    }
    table.push_str("</table>\n");
    table
}

/// The resolved YAML.
fn configuration(experiment: &Experiment) -> String {
    let yaml = serde_yaml::to_string(experiment).unwrap_or_else(|e| format!("# {e}"));
    section("Configuration", &format!("<pre>{}</pre>\n", escape(&yaml)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metric, Tally};
    use crate::summary::{Inference, Memory, Params, Time};

    /// A run over `count` classes in which some labels are taken for the next one.
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
                tally.add(&logits, &[label], &[]);
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
                top1: 0.95 - 0.8f64.powi(epoch as i32),
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
                cache_seconds: 0.0,
                total_seconds: 50.0,
            },
            inference: Inference {
                images_per_second: 653.0,
            },
            device: "cpu".into(),
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

    fn page(count: usize) -> String {
        let (summary, experiment) = run(count);
        html(&summary, &experiment)
    }

    #[test]
    fn everything_is_escaped_and_nothing_is_fetched() {
        for count in [10, 64] {
            let page = page(count);
            for bad in [
                "<script", "http:", "https:", "<kind>", "NaN", "inf\"", "<link", "src=",
            ] {
                assert!(!page.contains(bad), "{bad}");
            }
            assert!(page.contains("&lt;kind&gt; &amp; &quot;3&quot;"));
            assert!(page.contains("name: vit"));
            if let Ok(folder) = std::env::var("REPORT_SAMPLES") {
                std::fs::write(format!("{folder}/report-{count}.html"), &page).unwrap();
            }
        }
    }

    #[test]
    fn tags_are_balanced() {
        for page in [page(2), page(10), page(64)] {
            let mut open = Vec::new();
            let start = page.find("<body>").unwrap();
            let end = page.find("</html>").unwrap();
            for tag in page[start..end].split('<').skip(1) {
                let (tag, _) = tag.split_once('>').unwrap();
                match tag.strip_prefix('/') {
                    Some(name) => assert_eq!(open.pop(), Some(name)),
                    None if tag.ends_with('/') => {}
                    None => open.push(tag.split(' ').next().unwrap()),
                }
            }
            assert!(open.is_empty(), "{open:?}");
        }
    }

    #[test]
    fn an_interrupted_or_tiny_run_has_a_report_too() {
        let (mut summary, experiment) = run(2);
        summary.best_epoch = 1;
        for epochs in [2, 1, 0] {
            summary.history.truncate(epochs);
            let page = html(&summary, &experiment);
            assert!(!page.contains("NaN") && page.contains("</html>"));
        }
    }

    #[test]
    fn ticks_are_round_and_enclose() {
        assert_eq!(ticks(0.0, 1.25, 5), [0.0, 0.5, 1.0, 1.5]);
        assert_eq!(ticks(93.0, 97.0, 5), [93.0, 94.0, 95.0, 96.0, 97.0]);
        for (low, high) in [(2.0, 2.0), (0.0, 0.0), (1e-9, 3e-9), (-5.0, 1e6)] {
            let ticks = ticks(low, high, 5);
            assert!(
                ticks[0] <= low && ticks[ticks.len() - 1] >= high,
                "{ticks:?}"
            );
            assert!(ticks.len() < 10, "{ticks:?}");
        }
        assert_eq!(epochs(3), [1, 2, 3]);
        assert_eq!(epochs(20), [1, 5, 10, 15, 20]);
        assert_eq!(epochs(1), [1]);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(496_410), "496\u{202f}410");
        assert_eq!(grouped(1_000_000), "1\u{202f}000\u{202f}000");
    }
}
