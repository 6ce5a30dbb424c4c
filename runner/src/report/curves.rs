//! Curves over epochs. The name of each curve is at its end, so that no legend is needed.

use std::fmt::Write;

use super::axis::Axis;
use super::document::escape;
use super::frame::{Frame, TOP, cut, text_width};
use super::marks::{Style, mark};

/// A curve.
pub struct Series<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its colour, dashes and marks.
    pub style: Style,
    /// Points in ascending order: epochs, for example, and their values.
    pub points: Vec<(f64, f64)>,
}

/// Curves over epochs.
pub struct Curves<'a> {
    /// The title above the plot.
    pub title: &'a str,
    /// The curves.
    pub series: Vec<Series<'a>>,
    /// The epoch that was selected, which a line marks.
    pub selected: Option<usize>,
    /// The number of epochs.
    pub epochs: usize,
}

const HEIGHT: f64 = 250.0;
/// The least distance of two names.
const LINE: f64 = 13.5;
/// The approximate number of points of a curve that are drawn at most.
const POINTS: usize = 80;
/// The approximate number of points of a curve that have a mark at most.
const MARKS: usize = 8;

impl Curves<'_> {
    /// The plot; empty if no value is finite.
    pub fn svg(mut self) -> String {
        // A loss may be infinite before a run is stopped; such points have no place.
        for series in &mut self.series {
            series.points.retain(|(_, value)| value.is_finite());
        }
        self.series.retain(|series| !series.points.is_empty());
        let values = self.series.iter().flat_map(|series| &series.points);
        let Some(y) = Axis::linear("", values.map(|point| point.1)) else {
            return String::new();
        };
        let frame = Frame {
            title: self.title,
            x: Axis::epochs(self.epochs),
            y,
            right: margin(&self.series),
            height: HEIGHT,
        };
        frame.svg(|svg| {
            if let Some(selected) = self.selected {
                let at = frame.x(selected as f64);
                let _ = writeln!(
                    svg,
                    "<line class=\"selected\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\"/>",
                    frame.floor()
                );
            }
            for (index, series) in self.series.iter().enumerate() {
                curve(svg, series, index, &frame);
            }
            if self.series.len() > 1 {
                names_at_the_ends(svg, &self.series, &frame);
            }
        })
    }
}

/// The margin on the right in which the names of curves fit; a single curve needs no name.
pub fn margin(series: &[Series]) -> f64 {
    let names = series
        .iter()
        .map(|series| text_width(&cut(series.name), 11.0));
    match series.len() {
        0 | 1 => 12.0,
        _ => names.fold(0.0, f64::max) + 28.0,
    }
}

/// Draws a curve and its marks.
pub fn curve(svg: &mut String, series: &Series, index: usize, frame: &Frame) {
    let last = series.points.len() - 1;
    let every = series.points.len().div_ceil(POINTS);
    let shown = series.points.iter().enumerate();
    let places: Vec<(f64, f64)> = shown
        .filter(|(place, _)| place % every == 0 || *place == last)
        .map(|(_, (epoch, value))| (frame.x(*epoch), frame.y(*value)))
        .collect();
    let path: Vec<_> = places
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline class=\"{}\" points=\"{}\"/>",
        series.style.class,
        path.join(" ")
    );
    // Each curve starts its marks at another point, so that curves on top of each other stay visible.
    let gap = places.len().div_ceil(MARKS);
    for (x, y) in places.iter().skip(index % gap).step_by(gap) {
        mark(svg, series.style, *x, *y);
    }
    svg.push('\n');
}

/// Writes the names of curves behind their last points.
pub fn names_at_the_ends(svg: &mut String, series: &[Series], frame: &Frame) {
    let mut ends: Vec<(f64, f64, &Series)> = series
        .iter()
        .filter_map(|series| {
            let (epoch, value) = series.points.last()?;
            Some((frame.x(*epoch), frame.y(*value), series))
        })
        .collect();
    ends.sort_by(|a, b| a.1.total_cmp(&b.1));
    let wanted: Vec<f64> = ends.iter().map(|(_, y, _)| *y).collect();
    let left = frame.end() + 14.0;
    for ((x, y, series), row) in ends
        .into_iter()
        .zip(apart(&wanted, LINE, TOP, frame.floor()))
    {
        let _ = write!(
            svg,
            "<line class=\"leader {}\" x1=\"{x:.1}\" x2=\"{left:.1}\" y1=\"{y:.1}\" y2=\"{row:.1}\"/>",
            series.style.class
        );
        mark(svg, series.style, left, row);
        let _ = writeln!(
            svg,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left + 8.0,
            row + 4.0,
            escape(&cut(series.name))
        );
    }
}

/// Moves ascending places apart until their distances are at least `distance`, between `low` and `high`
/// if there is room.
fn apart(wanted: &[f64], distance: f64, low: f64, high: f64) -> Vec<f64> {
    let mut places = wanted.to_vec();
    let mut least = low;
    // First downwards, then back up from the end, so that crowded names stay within the frame.
    for place in &mut places {
        *place = place.max(least);
        least = *place + distance;
    }
    let mut most = high;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - distance;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_touch() {
        let places = apart(&[10.0, 11.0, 12.0, 90.0, 99.0], 10.0, 0.0, 100.0);
        assert_eq!(places, [10.0, 20.0, 30.0, 90.0, 100.0]);
        let places = apart(&[99.0, 99.0, 99.0], 10.0, 0.0, 100.0);
        assert_eq!(places, [80.0, 90.0, 100.0]);
    }
}
