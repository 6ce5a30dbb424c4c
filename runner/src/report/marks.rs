//! Colours and shapes of the series of a plot. Shapes tell series apart in grey, too.

use std::fmt::Write;

/// The look of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// The CSS class that sets the colour, and the dashes of a line.
    pub class: &'static str,
    /// The shape of the marks, an index into `SHAPES`.
    pub shape: usize,
}

/// The shapes as paths around the origin, and whether they are filled. All look about equally large.
const SHAPES: [(&str, bool); 12] = [
    ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z", true),
    ("M-3.6-3.6H3.6V3.6H-3.6Z", true),
    ("M0-5L4.7 3.4H-4.7Z", true),
    ("M0-5.2L5.2 0L0 5.2L-5.2 0Z", true),
    ("M0 5L4.7-3.4H-4.7Z", true),
    ("M-4-4L4 4M4-4L-4 4", false),
    ("M0-5V5M-5 0H5", false),
    ("M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0Z", false),
    ("M-3.3-3.3H3.3V3.3H-3.3Z", false),
    ("M0-4.6L4.3 3.1H-4.3Z", false),
    ("M0-4.8L4.8 0L0 4.8L-4.8 0Z", false),
    ("M0-5V5M-4.3-2.5L4.3 2.5M-4.3 2.5L4.3-2.5", false),
];

/// The style of a method by its index in a comparison. Eight colours and twelve shapes give the first
/// twenty-four methods a look of their own.
pub fn style(index: usize) -> Style {
    const CLASSES: [&str; 16] = [
        "c0",
        "c1",
        "c2",
        "c3",
        "c4",
        "c5",
        "c6",
        "c7",
        "c0 dashed",
        "c1 dashed",
        "c2 dashed",
        "c3 dashed",
        "c4 dashed",
        "c5 dashed",
        "c6 dashed",
        "c7 dashed",
    ];
    Style {
        class: CLASSES[index % CLASSES.len()],
        shape: index % SHAPES.len(),
    }
}

/// Draws a mark at a place in a plot.
pub fn mark(svg: &mut String, style: Style, x: f64, y: f64) {
    let (path, filled) = SHAPES[style.shape];
    let _ = write!(
        svg,
        "<path class=\"{} {}\" transform=\"translate({x:.1} {y:.1})\" d=\"{path}\"/>",
        style.class,
        if filled { "solid" } else { "open" },
    );
}

/// A mark as an image of its own, within a line of text.
pub fn inline(style: Style) -> String {
    let mut svg = String::from("<svg class=\"mark\" viewBox=\"-7 -7 14 14\" aria-hidden=\"true\">");
    mark(&mut svg, style, 0.0, 0.0);
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_dozen_methods_look_different() {
        for (a, b) in (0..24).flat_map(|a| (0..a).map(move |b| (a, b))) {
            assert_ne!(style(a), style(b), "{a} and {b}");
        }
    }
}
