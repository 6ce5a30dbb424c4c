//! A matrix as shades of one colour, which read in grey too.

use std::fmt::Write;

use crate::report::document::escape;
use crate::report::frame::WIDTH;
use crate::report::numbers::significant;

const LEFT: f64 = 46.0;
const TOP: f64 = 30.0;
/// The space on the right, for the shades and numbers such as -0.0291.
const RIGHT: f64 = 72.0;
/// The space below the cells, for labels.
const BELOW: f64 = 40.0;
/// The largest height of a cell.
const TALL: f64 = 22.0;
/// At most this many rows or columns have a label.
const LABELS: usize = 14;

/// A matrix with names of rows and columns.
pub struct Heat<'a> {
    /// The title above the plot.
    pub title: &'a str,
    /// The label of the columns.
    pub x: &'a str,
    /// The label of the rows.
    pub y: &'a str,
    /// Names of the columns.
    pub columns: &'a [String],
    /// Names of the rows.
    pub rows: &'a [String],
    /// The cells, row by row; none is drawn as a cross.
    pub cells: &'a [Vec<Option<f64>>],
}

impl Heat<'_> {
    /// The plot; empty if no cell has a value.
    pub fn svg(&self) -> String {
        let values = || self.cells.iter().flatten().flatten().copied();
        let ends = (values().reduce(f64::min), values().reduce(f64::max));
        let (Some(low), Some(high)) = ends else {
            return String::new();
        };
        let width = (WIDTH - LEFT - RIGHT) / self.columns.len() as f64;
        let height = TALL.min(280.0 / self.rows.len() as f64);
        let floor = TOP + height * self.rows.len() as f64;
        let shade = |value: f64| match high > low {
            true => 0.04 + 0.96 * (value - low) / (high - low),
            false => 0.5,
        };
        let title = escape(self.title);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{title}\">\n\
             <text x=\"{LEFT}\" y=\"16\" class=\"title\">{title}</text>\n",
            floor + BELOW
        );
        // Writing to a string does not fail.
        for (row, cells) in self.cells.iter().enumerate() {
            for (column, value) in cells.iter().enumerate() {
                // The first row is at the bottom, as in the paper's figures.
                let x = LEFT + column as f64 * width;
                let y = floor - (row + 1) as f64 * height;
                let _ = match value {
                    Some(value) => writeln!(
                        svg,
                        "<rect class=\"cell\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
                         fill-opacity=\"{:.3}\"><title>{}, {}: {}</title></rect>",
                        shade(*value),
                        escape(&self.rows[row]),
                        escape(&self.columns[column]),
                        significant(*value)
                    ),
                    None => writeln!(
                        svg,
                        "<path class=\"axis\" d=\"M{x:.1} {y:.1}l{width:.1} {height:.1}\"/>"
                    ),
                };
            }
        }
        self.labels(&mut svg, width, height, floor);
        legend(&mut svg, low, high, shade);
        svg.push_str("</svg>\n");
        svg
    }

    fn labels(&self, svg: &mut String, width: f64, height: f64, floor: f64) {
        let every = |count: usize| count.div_ceil(LABELS).max(1);
        for (column, name) in self.columns.iter().enumerate() {
            if column % every(self.columns.len()) == 0 {
                let _ = writeln!(
                    svg,
                    "<text class=\"column\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    LEFT + (column as f64 + 0.5) * width,
                    floor + 15.0,
                    escape(name)
                );
            }
        }
        for (row, name) in self.rows.iter().enumerate() {
            if row % every(self.rows.len()) == 0 {
                let _ = writeln!(
                    svg,
                    "<text class=\"row\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    LEFT - 6.0,
                    floor - (row as f64 + 0.5) * height + 4.0,
                    escape(name)
                );
            }
        }
        let _ = writeln!(
            svg,
            "<text class=\"column\" x=\"{:.1}\" y=\"{:.1}\">{}; upwards: {}</text>",
            f64::midpoint(LEFT, WIDTH - RIGHT),
            floor + BELOW - 8.0,
            escape(self.x),
            escape(self.y)
        );
    }
}

/// Five shades with the values at both ends.
fn legend(svg: &mut String, low: f64, high: f64, shade: impl Fn(f64) -> f64) {
    let x = WIDTH - RIGHT + 8.0;
    for step in 0..5u32 {
        let value = high - f64::from(step) / 4.0 * (high - low);
        let y = TOP + 14.0 * f64::from(step);
        let _ = writeln!(
            svg,
            "<rect class=\"cell\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"10\" height=\"14\" fill-opacity=\"{:.3}\"/>",
            shade(value)
        );
        if step % 2 == 0 {
            let _ = writeln!(
                svg,
                "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x + 13.0,
                y + 11.0,
                significant(value)
            );
        }
    }
}
