//! Accuracy against what it costs, with the Pareto front: the methods that no other one beats in both.

use std::fmt::Write;

use super::style;
use crate::compare::scores::{Mean, Scores, Trials};
use crate::compare::statistics::mean;
use crate::compare::tables::overall;
use crate::report::axis::Axis;
use crate::report::curves::cut;
use crate::report::document::{escape, note};
use crate::report::frame::{Frame, LEFT, TOP, text_width};
use crate::report::marks::{Style, mark};
use crate::report::numbers::in_mebibytes;
use crate::summary::Summary;

const HEIGHT: f64 = 300.0;

/// What is on the axis across.
struct Cost {
    title: &'static str,
    label: &'static str,
    /// Of one trial.
    value: fn(&Summary) -> f64,
    /// The largest over data sets, or the mean.
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

/// The plots of a backbone.
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
    let mut remark = "The mean over data sets; thin bars are the standard deviation over seeds. Dashed: the \
                      Pareto front, the methods that no other beats in both. Costs are on logarithmic axes."
        .to_owned();
    if !left_out.is_empty() {
        remark += &format!(" Not shown, for lack of trials: {}.", left_out.join(", "));
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
        (accuracy.complete() && cost > 0.0).then_some(Point {
            method,
            style: style(scores.results, method)?,
            cost,
            accuracy,
        })
    });
    let mut points: Vec<Point> = points.collect();
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
        front(svg, &points, &places, frame.end());
        for (point, [x, y]) in points.iter().zip(&places) {
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
        labels(svg, &names, &places, [LEFT + 2.0, TOP - 8.0, frame.end(), frame.floor() - 1.0]);
    })
}

/// Steps along the points that are better than all cheaper ones.
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

/// A box: left, top, right, bottom.
type Area = [f64; 4];

/// How far two boxes overlap.
fn overlap(a: &Area, b: &Area) -> f64 {
    let width = a[2].min(b[2]) - a[0].max(b[0]);
    let height = a[3].min(b[3]) - a[1].max(b[1]);
    width.max(0.0) * height.max(0.0)
}

/// The size of a name, its height, and half of a mark.
const SIZE: f64 = 11.0;
const TALL: f64 = 12.0;
const MARK: f64 = 6.0;
/// Where a name may be seen from its mark: the direction, in the order of preference.
const DIRECTIONS: [[f64; 2]; 14] = [
    [1.0, 0.0],
    [-1.0, 0.0],
    [0.8, -0.7],
    [0.8, 0.7],
    [-0.8, -0.7],
    [-0.8, 0.7],
    [0.0, -1.0],
    [0.0, 1.0],
    [0.9, -0.4],
    [0.9, 0.4],
    [-0.9, -0.4],
    [-0.9, 0.4],
    [0.4, -1.0],
    [0.4, 1.0],
];
const DISTANCES: [f64; 8] = [9.0, 15.0, 21.0, 28.0, 36.0, 46.0, 58.0, 72.0];

/// Where a name is written, and how far from its mark.
#[derive(Clone, Copy)]
struct Label {
    area: Area,
    distance: f64,
}

/// Where names go so that they touch neither marks nor each other, as near as can be.
fn placed(widths: &[f64], places: &[[f64; 2]], within: &Area) -> Vec<Label> {
    let around = |[x, y]: &[f64; 2]| [x - MARK, y - MARK, x + MARK, y + MARK];
    let marks: Vec<Area> = places.iter().map(around).collect();
    let mut labels: Vec<Option<Label>> = vec![None; places.len()];
    // A name that came early may find a better place once the others have theirs.
    for index in (0..places.len()).cycle().take(3 * places.len()) {
        labels[index] = None;
        let others: Vec<Area> = labels.iter().flatten().map(|label| label.area).collect();
        let conflict = |label: &Label| {
            let area = &label.area;
            let inside = overlap(area, within);
            let taken = others
                .iter()
                .chain(&marks)
                .map(|other| overlap(area, other));
            3.0 * (widths[index] * TALL - inside) + taken.sum::<f64>()
        };
        let mut least = f64::INFINITY;
        for candidate in candidates(widths[index], places[index]) {
            let conflict = conflict(&candidate);
            // Rounding makes no difference.
            if conflict + 1e-6 < least {
                least = conflict;
                labels[index] = Some(candidate);
            }
        }
    }
    labels.into_iter().flatten().collect()
}

/// Places on the line from a mark to its name, from the one to the other.
fn pointer(area: &Area, [x, y]: [f64; 2]) -> [[f64; 2]; 9] {
    let [left, top, right, bottom] = area;
    let end = [x.clamp(*left, *right), y.clamp(top + 2.0, bottom - 2.0)];
    std::array::from_fn(|step| {
        let share = step as f64 / 8.0;
        [x + share * (end[0] - x), y + share * (end[1] - y)]
    })
}

/// Where a name may be, the best first.
fn candidates(width: f64, [x, y]: [f64; 2]) -> impl Iterator<Item = Label> {
    DISTANCES.into_iter().flat_map(move |distance| {
        DIRECTIONS.into_iter().map(move |[across, down]| {
            let (x, y) = (x + across * distance, y + down * distance);
            let left = match across {
                0.5.. => x,
                ..=-0.5 => x - width,
                _ => x - width / 2.0,
            };
            Label {
                area: [left, y - TALL / 2.0, left + width, y + TALL / 2.0],
                distance,
            }
        })
    })
}

fn labels(svg: &mut String, names: &[String], places: &[[f64; 2]], within: Area) {
    let widths: Vec<f64> = names.iter().map(|name| text_width(name, SIZE)).collect();
    let placed = placed(&widths, places, &within);
    for (label, [x, y]) in placed.iter().zip(places) {
        if label.distance > DISTANCES[0] {
            let line = pointer(&label.area, [*x, *y]);
            let [to_x, to_y] = line[line.len() - 1];
            let _ = writeln!(
                svg,
                "<line class=\"pointer\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{to_x:.1}\" y2=\"{to_y:.1}\"/>"
            );
        }
    }
    for (label, name) in placed.iter().zip(names) {
        let _ = writeln!(
            svg,
            "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            label.area[0],
            label.area[3] - 2.0,
            escape(name)
        );
    }
}

#[cfg(test)]
mod tests {
    use peft_core::random::Generator;

    use super::*;

    #[test]
    fn names_touch_neither_marks_nor_each_other() {
        // Twelve methods whose accuracies lie close together, as they do.
        let mut generator = Generator::new(3, "labels");
        for _ in 0..20 {
            let places: Vec<[f64; 2]> = (0..12)
                .map(|_| {
                    let (x, y) = (
                        generator.uniform(60.0, 380.0),
                        generator.uniform(40.0, 240.0),
                    );
                    [f64::from(x), f64::from(y)]
                })
                .collect();
            let placed = placed(&[60.0; 12], &places, &[48.0, 22.0, 388.0, 259.0]);
            for (index, label) in placed.iter().enumerate() {
                let area = &label.area;
                assert!(area[0] >= 48.0 && area[2] <= 388.0, "{area:?}");
                for other in &placed[..index] {
                    assert_eq!(overlap(area, &other.area), 0.0);
                }
                for [x, y] in &places {
                    let mark = [x - MARK, y - MARK, x + MARK, y + MARK];
                    assert_eq!(overlap(area, &mark), 0.0);
                }
            }
        }
    }
}
