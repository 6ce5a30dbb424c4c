//! The frame of a plot: title, axes, grid.

use std::fmt::Write;

use super::axis::Axis;
use super::document::escape;

/// The width of a plot.
pub const WIDTH: f64 = 400.0;
/// The left end of the grid.
pub const LEFT: f64 = 46.0;
/// The upper end of the grid.
pub const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;
/// The number of characters beyond which names are cut.
const LETTERS: usize = 16;

/// An estimate of the width of a text of font size `size`, which a wide font does not exceed.
pub fn text_width(text: &str, size: f64) -> f64 {
    // The page has no font of its own, so the width cannot be measured.
    0.58 * size * text.chars().count() as f64
}

/// A name, cut so that it fits beside a plot.
pub fn cut(name: &str) -> String {
    match name.chars().count() > LETTERS {
        true => name.chars().take(LETTERS - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}

/// A frame around the data of a plot.
pub struct Frame<'a> {
    /// The title of the plot.
    pub title: &'a str,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The width of the margin on the right.
    pub right: f64,
    /// The height of the whole plot.
    pub height: f64,
}

impl Frame<'_> {
    /// The right end of the grid.
    pub fn end(&self) -> f64 {
        WIDTH - self.right
    }

    /// The lower end of the grid.
    pub fn floor(&self) -> f64 {
        self.height - BOTTOM
    }

    /// Returns the horizontal position of a value.
    pub fn x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (self.end() - LEFT)
    }

    /// Returns the vertical position of a value.
    pub fn y(&self, value: f64) -> f64 {
        self.floor() - self.y.place(value) * (self.floor() - TOP)
    }

    /// The whole plot, with what `content` draws inside the frame.
    pub fn svg(&self, content: impl FnOnce(&mut String)) -> String {
        let title = escape(self.title);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{title} by {}\">\n\
             <text x=\"{LEFT}\" y=\"16\" class=\"title\">{title}</text>\n",
            self.height,
            escape(&self.x.label)
        );
        self.axes(&mut svg);
        content(&mut svg);
        svg.push_str("</svg>\n");
        svg
    }

    fn axes(&self, svg: &mut String) {
        let (end, floor) = (self.end(), self.floor());
        for tick in &self.y.ticks {
            let at = self.y(tick.value);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"row\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                escape(&tick.text)
            );
        }
        for tick in &self.x.ticks {
            let at = self.x(tick.value);
            let _ = writeln!(
                svg,
                "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{floor}\" y2=\"{}\"/>\
                 <text class=\"column\" x=\"{at:.1}\" y=\"{}\">{}</text>",
                floor + 4.0,
                floor + 17.0,
                escape(&tick.text)
            );
        }
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{floor}\" y2=\"{floor}\"/>\
             <text class=\"column\" x=\"{:.1}\" y=\"{}\">{}</text>",
            f64::midpoint(LEFT, end),
            self.height - 6.0,
            escape(&self.x.label)
        );
    }
}
