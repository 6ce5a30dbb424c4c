//! All scores of a run side by side, and the reliability diagram of its test split.

use std::fmt::Write;

use super::axis::Axis;
use super::curves::{Series, curve};
use super::document::note;
use super::frame::Frame;
use super::marks::Style;
use super::numbers::percent;
use crate::run::summary::Summary;
use crate::train::metrics::{Metric, Metrics};

const HEIGHT: f64 = 250.0;

/// A table of every metric that the splits have, and the reliability diagram.
pub fn scores(summary: &Summary) -> String {
    let splits = [
        ("validation", summary.validation.as_ref()),
        ("test", Some(&summary.test)),
    ];
    let splits = splits.map(|(name, metrics)| metrics.map(|metrics| (name, metrics)));
    let splits: Vec<(&str, &Metrics)> = splits.into_iter().flatten().collect();
    let mut table = String::from("<table>\n<thead><tr><th></th>");
    for (name, _) in &splits {
        let _ = write!(table, "<th>{name}</th>");
    }
    table.push_str("</tr></thead>\n<tbody>\n");
    let mut row = |name: &str, value: &dyn Fn(&Metrics) -> Option<String>| {
        let values: Vec<Option<String>> = splits.iter().map(|(_, of)| value(of)).collect();
        if values.iter().all(Option::is_none) {
            return;
        }
        let _ = write!(table, "<tr><th scope=\"row\">{name}</th>");
        for value in values {
            let _ = write!(table, "<td>{}</td>", value.unwrap_or_default());
        }
        table.push_str("</tr>\n");
    };
    for metric in Metric::ALL {
        row(&metric.to_string(), &|of| of.score(metric).map(percent));
    }
    row("exact match", &|of| {
        let scores = of.multi_label.as_ref();
        scores.map(|scores| percent(scores.exact_match))
    });
    row("log loss", &|of| Some(format!("{:.4}", of.loss)));
    row("calibration error", &|of| {
        of.calibration_error().map(percent)
    });
    table.push_str("</tbody>\n</table>\n");
    table + &reliability(&summary.test)
}

/// The accuracy of the images of each bin against their mean confidence; empty without bins.
fn reliability(metrics: &Metrics) -> String {
    let bins = metrics.calibration.iter().filter(|bin| bin.images > 0);
    let points: Vec<(f64, f64)> = bins
        .map(|bin| (bin.confidence, bin.correct as f64 / bin.images as f64))
        .collect();
    let (Some(x), Some(y)) = (
        Axis::linear("confidence", [0.0, 1.0].into_iter()),
        Axis::linear("accuracy", [0.0, 1.0].into_iter()),
    ) else {
        return String::new();
    };
    if points.is_empty() {
        return String::new();
    }
    let frame = Frame {
        title: "reliability on the test split",
        x,
        y,
        right: 12.0,
        height: HEIGHT,
    };
    let series = Series {
        name: "test",
        style: Style {
            class: "validation",
            shape: 0,
        },
        points,
    };
    let chart = frame.svg(|svg| {
        let [(left, floor), (right, top)] = [0.0, 1.0].map(|value| (frame.x(value), frame.y(value)));
        let _ = writeln!(
            svg,
            "<line class=\"selected\" x1=\"{left:.1}\" y1=\"{floor:.1}\" x2=\"{right:.1}\" y2=\"{top:.1}\"/>"
        );
        curve(svg, &series, 0, &frame);
    });
    let remark = note(
        "Images are grouped by the probability of their most likely class. A model whose probabilities can be \
         taken at their word lies on the dotted line; below it, it is too confident.",
    );
    format!("<div class=\"charts\">\n{chart}</div>\n{remark}")
}
