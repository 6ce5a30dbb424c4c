//! Accuracy against cost, with the Pareto front: the methods that no other method beats in both.

use std::fmt::Write;

use super::labels;
use super::style::style;
use crate::compare::scores::{Mean, Scores, Trials};
use crate::compare::statistics::moments::mean;
use crate::compare::tables::accuracy::overall;
use crate::report::axis::Axis;
use crate::report::document::note;
use crate::report::frame::{Frame, LEFT, TOP, cut};
use crate::report::marks::{Style, mark};
use crate::report::numbers::in_mebibytes;
use crate::run::summary::Summary;

const HEIGHT: f64 = 300.0;

/// A cost, on the horizontal axis.
struct Cost {
    title: &'static str,
    label: &'static str,
    /// The cost of one trial.
    value: fn(&Summary) -> f64,
    /// Whether the largest value over data sets counts, instead of the mean.
    largest: bool,
}

const COSTS: [Cost; 4] = [
    Cost {
        title: "accuracy in % and parameters",
        label: "trainable parameters, head included",
        value: |summary| summary.params.trainable as f64,
        largest: false,
    },
    Cost {
        title: "accuracy in % and memory",
        label: "peak training memory in MiB",
        value: |summary| in_mebibytes(summary.memory.peak_bytes),
        largest: true,
    },
    Cost {
        title: "accuracy in % and training time",
        label: "seconds per epoch",
        value: |summary| summary.time.seconds_per_epoch,
        largest: false,
    },
    Cost {
        title: "accuracy in % and inference time",
        label: "milliseconds per image",
        value: |summary| 1000.0 / summary.inference.images_per_second,
        largest: false,
    },
];

struct Point<'a> {
    method: &'a str,
    style: Style,
    cost: f64,
    accuracy: Mean,
}

impl Point<'_> {
    fn percent(&self) -> f64 {
        100.0 * self.accuracy.mean
    }
}

/// The plots of a backbone; empty if there is nothing to compare.
pub fn plots(scores: &Scores, backbone: &str) -> String {
    let plots: String = COSTS
        .iter()
        .map(|cost| plot(scores, backbone, cost))
        .collect();
    if plots.is_empty() {
        return plots;
    }
    let datasets: Vec<_> = scores.results.datasets.iter().collect();
    let complete = |method: &&str| {
        overall(scores, backbone, method, &datasets).is_some_and(|mean| mean.complete())
    };
    let methods = scores.methods(backbone);
    let left_out: Vec<&str> = methods.into_iter().filter(|m| !complete(m)).collect();
    let mut remark = "Accuracy is the mean over data sets; thin bars are its standard deviation over seeds. The dashed line is \
                      the Pareto front: no other method beats these in both. Costs are on logarithmic axes."
        .to_owned();
    if !left_out.is_empty() {
        remark += &format!(
            " Not shown, because trials are missing: {}.",
            left_out.join(", ")
        );
    }
    format!(
        "<h3>Accuracy and its cost</h3>\n<div class=\"charts\">\n{plots}</div>\n{}",
        note(&remark)
    )
}

fn plot(scores: &Scores, backbone: &str, cost: &Cost) -> String {
    let datasets: Vec<_> = scores.results.datasets.iter().collect();
    let points = scores.methods(backbone).into_iter().filter_map(|method| {
        let accuracy = overall(scores, backbone, method, &datasets)?;
        let row = scores.row(backbone, method, datasets.iter().copied());
        let values = row.filter_map(|trials: &Trials| trials.mean(cost.value));
        let values: Vec<f64> = values.collect();
        let cost = match cost.largest {
            true => values.iter().copied().reduce(f64::max)?,
            false => mean(&values)?,
        };
        // An incomplete mean could look better than it is, and a logarithmic axis has no place for zero.
        (accuracy.complete() && cost > 0.0).then_some(Point {
            method,
            style: style(scores.results, method)?,
            cost,
            accuracy,
        })
    });
    let mut points: Vec<Point> = points.collect();
    // A single point compares nothing.
    if points.len() < 2 {
        return String::new();
    }
    // From cheap to expensive, as the front is drawn; of two equal costs the more accurate comes first.
    points.sort_by(|a, b| {
        a.cost
            .total_cmp(&b.cost)
            .then(b.percent().total_cmp(&a.percent()))
    });
    let spread = |point: &Point| 100.0 * point.accuracy.deviation.unwrap_or(0.0);
    let ends = points.iter().flat_map(|point| {
        let (middle, spread) = (point.percent(), spread(point));
        [middle - spread, middle + spread]
    });
    let axes = (
        Axis::logarithmic(cost.label, points.iter().map(|point| point.cost)),
        Axis::linear("", ends),
    );
    let (Some(x), Some(y)) = axes else {
        return String::new();
    };
    let frame = Frame {
        title: cost.title,
        x,
        y,
        right: 12.0,
        height: HEIGHT,
    };
    let places: Vec<[f64; 2]> = points
        .iter()
        .map(|point| [frame.x(point.cost), frame.y(point.percent())])
        .collect();
    frame.svg(|svg| {
        // The front and the bars come first, so that no line covers a mark.
        front(svg, &points, &places, frame.end());
        for (point, [x, _]) in points.iter().zip(&places) {
            let (high, low) = (
                frame.y(point.percent() + spread(point)),
                frame.y(point.percent() - spread(point)),
            );
            let _ = writeln!(
                svg,
                "<line class=\"spread {}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{high:.1}\" y2=\"{low:.1}\"/>",
                point.style.class
            );
        }
        for (point, [x, y]) in points.iter().zip(&places) {
            mark(svg, point.style, *x, *y);
        }
        let names: Vec<String> = points.iter().map(|point| cut(point.method)).collect();
        let within = [LEFT + 2.0, TOP - 8.0, frame.end(), frame.floor() - 1.0];
        labels::name(svg, &names, &places, within);
    })
}

/// The Pareto front: a line through the points that are better than all cheaper ones.
fn front(svg: &mut String, points: &[Point], places: &[[f64; 2]], end: f64) {
    let mut best = f64::NEG_INFINITY;
    let mut path = String::new();
    for (point, [x, y]) in points.iter().zip(places) {
        if point.percent() > best {
            let _ = match path.is_empty() {
                true => write!(path, "M{x:.1} {y:.1}"),
                false => write!(path, "H{x:.1}V{y:.1}"),
            };
            best = point.percent();
        }
    }
    let _ = writeln!(svg, "<path class=\"front\" d=\"{path}H{end:.1}\"/>");
}
