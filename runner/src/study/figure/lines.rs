//! Lines over a number, with their spread.

use std::fmt::Write;

use crate::report::axis::Axis;
use crate::report::curves::{Series, curve, margin, names_at_the_ends};
use crate::report::frame::Frame;
use crate::report::marks;

const HEIGHT: f64 = 280.0;

/// A line: points in ascending order, each with its spread.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// The places of the points.
    pub points: Vec<(f64, f64)>,
    /// The spread of each point above and below; empty if it is unknown.
    pub spread: Vec<f64>,
}

impl Line {
    /// A line without spread. Points that are not finite are left out.
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points = points.into_iter().filter(|(_, y)| y.is_finite());
        Self {
            name: name.into(),
            points: points.collect(),
            spread: Vec::new(),
        }
    }
}

/// A plot of lines.
pub struct Lines<'a> {
    /// The title above the plot.
    pub title: &'a str,
    /// The label of the horizontal axis.
    pub x: &'a str,
    /// The division of the axes.
    pub scale: Scale,
    /// The lines.
    pub lines: &'a [Line],
}

/// The division of the axes of a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Whole numbers from left to right, a linear axis upwards.
    Whole,
    /// Both axes logarithmic.
    Logarithmic,
}

impl Lines<'_> {
    /// The plot; empty if there is nothing to draw.
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let xs = || points().map(|(x, _)| *x);
        let ends = self.lines.iter().flat_map(|line| {
            let spreads = line.spread.iter().copied().chain(std::iter::repeat(0.0));
            let points = line.points.iter().zip(spreads);
            points.flat_map(|((_, y), spread)| [y - spread, y + spread])
        });
        let whole = |label: &str| {
            let low = xs().reduce(f64::min)? as usize;
            let high = xs().reduce(f64::max)? as usize;
            Some(Axis::whole(label, low, high))
        };
        let axes = match self.scale {
            Scale::Whole => (whole(self.x), Axis::linear("", ends)),
            Scale::Logarithmic => (Axis::logarithmic(self.x, xs()), Axis::logarithmic("", ends)),
        };
        let (Some(x), Some(y)) = axes else {
            return String::new();
        };
        let drawn = self.lines.iter().enumerate();
        let series: Vec<Series> = drawn
            .filter(|(_, line)| !line.points.is_empty())
            .map(|(index, line)| Series {
                name: &line.name,
                style: marks::style(index),
                points: line.points.clone(),
            })
            .collect();
        let frame = Frame {
            title: self.title,
            x,
            y,
            right: margin(&series),
            height: HEIGHT,
        };
        frame.svg(|svg| {
            for (index, line) in self.lines.iter().enumerate() {
                let class = marks::style(index).class;
                for ((x, y), spread) in line.points.iter().zip(&line.spread) {
                    let at = frame.x(*x);
                    let (high, low) = (frame.y(y + spread), frame.y(y - spread));
                    let _ = writeln!(
                        svg,
                        "<line class=\"spread {class}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{high:.1}\" y2=\"{low:.1}\"/>"
                    );
                }
            }
            for (index, series) in series.iter().enumerate() {
                curve(svg, series, index, &frame);
            }
            if series.len() > 1 {
                names_at_the_ends(svg, &series, &frame);
            }
        })
    }
}
