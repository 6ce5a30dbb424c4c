//! The critical-difference diagram (Demšar, 2006): methods on an axis of average ranks, the best on the
//! left. A bar joins methods that the test does not separate.

use std::fmt::Write;

use super::style::style;
use crate::compare::results::Results;
use crate::compare::standing::Standing;
use crate::report::document::{escape, note};
use crate::report::frame::{cut, text_width};
use crate::report::marks::{self, Style};

const WIDTH: f64 = 400.0;
/// The font size of a name.
const SIZE: f64 = 11.0;
/// The distance of the axis from the top, and the heights of a bar and a name.
const AXIS: f64 = 52.0;
const BAR: f64 = 7.0;
const LINE: f64 = 18.0;
/// The width of a mark with the space around it.
const MARK: f64 = 16.0;

/// The diagram; empty if there is too little to test.
pub fn diagram(standing: &Standing, results: &Results) -> String {
    let Some(critical) = standing.critical else {
        return String::new();
    };
    let caption = match standing.differ() {
        true => {
            "A bar joins methods whose average ranks differ by less than the critical difference (CD)."
        }
        false => {
            "Friedman's test shows no difference between the methods: their order here means nothing."
        }
    };
    format!(
        "<h3>Average ranks over {} data sets</h3>\n<div class=\"ranks\">\n{}</div>\n{}",
        standing.datasets.len(),
        svg(standing, results, critical),
        note(caption)
    )
}

fn svg(standing: &Standing, results: &Results, critical: f64) -> String {
    let count = standing.ranks.len();
    // The better half has its names on the left, the rest on the right.
    let half = count.div_ceil(2);
    let room = |ranks: &[(&str, f64)]| {
        let widths = ranks.iter().map(|(name, _)| text_width(&cut(name), SIZE));
        widths.fold(0.0, f64::max) + MARK + 10.0
    };
    let (left, right) = (room(&standing.ranks[..half]), room(&standing.ranks[half..]));
    let end = WIDTH - right;
    let x = |rank: f64| left + (rank - 1.0) / (count as f64 - 1.0) * (end - left);
    let cliques = standing.cliques();
    let first = AXIS + 22.0 + BAR * cliques.len() as f64;
    let height = first + LINE * (half as f64 - 1.0) + 10.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"critical-difference diagram\">\n"
    );

    let until = x(1.0 + critical).min(end);
    let _ = writeln!(
        svg,
        "<path class=\"scale\" d=\"M{left:.1} 16v8m0-4H{until:.1}m0-4v8\"/>\
         <text class=\"column\" x=\"{:.1}\" y=\"11\">CD = {critical:.2}{}</text>\n\
         <line class=\"scale\" x1=\"{left:.1}\" x2=\"{end:.1}\" y1=\"{AXIS}\" y2=\"{AXIS}\"/>",
        f64::midpoint(left, until),
        if critical > count as f64 - 1.0 {
            ", more than the axis"
        } else {
            ""
        }
    );
    // A number needs about 16 units, so that a crowded axis leaves some out.
    let every = (16.0 * count as f64 / (end - left)).ceil() as usize;
    for rank in (1..=count).step_by(every) {
        let at = x(rank as f64);
        let _ = write!(
            svg,
            "<line class=\"scale\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{}\" y2=\"{AXIS}\"/>\
             <text class=\"column\" x=\"{at:.1}\" y=\"{}\">{rank}</text>",
            AXIS - 5.0,
            AXIS - 8.0
        );
    }
    svg.push('\n');
    for (row, clique) in cliques.iter().enumerate() {
        let (from, to) = (
            standing.ranks[clique.start].1,
            standing.ranks[clique.end - 1].1,
        );
        let _ = writeln!(
            svg,
            "<line class=\"clique\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{2:.1}\" y2=\"{2:.1}\"/>",
            x(from) - 3.0,
            x(to) + 3.0,
            AXIS + 9.0 + BAR * row as f64
        );
    }
    for (place, entry) in standing.ranks.iter().enumerate() {
        let Some(style) = style(results, entry.0) else {
            continue;
        };
        // The outermost ranks take the rows nearest to the axis, so that no line crosses another.
        let (on_the_left, row) = match place < half {
            true => (true, place),
            false => (false, count - 1 - place),
        };
        let y = first + LINE * row as f64;
        let edge = if on_the_left { left - 6.0 } else { end + 6.0 };
        branch(
            &mut svg,
            [x(entry.1), y, edge],
            on_the_left,
            style,
            &cut(entry.0),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// A line from the axis to a name beside it.
fn branch(svg: &mut String, [x, y, edge]: [f64; 3], on_the_left: bool, style: Style, label: &str) {
    let _ = writeln!(
        svg,
        "<path class=\"branch\" d=\"M{x:.1} {AXIS}V{y:.1}H{edge:.1}\"/>"
    );
    let out = if on_the_left { -1.0 } else { 1.0 };
    marks::mark(svg, style, edge + out * MARK / 2.0, y);
    let _ = writeln!(
        svg,
        "<text class=\"{}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        if on_the_left { "left" } else { "right" },
        edge + out * MARK,
        y + 4.0,
        escape(label)
    );
}
