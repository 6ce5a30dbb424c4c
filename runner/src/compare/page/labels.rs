//! Names beside marks, placed so that they touch neither marks nor each other.
//!
//! Each name takes the nearest free place around its mark, or the one that covers the least. A few
//! rounds let the first names move once the others have their places.

use std::fmt::Write;

use crate::report::document::escape;
use crate::report::frame::text_width;

/// A box: left, top, right, bottom.
pub type Area = [f64; 4];

/// The font size of a name, its height, and half the width of a mark.
const SIZE: f64 = 11.0;
const TALL: f64 = 12.0;
const MARK: f64 = 6.0;
const ROUNDS: usize = 3;

/// The directions from a mark to its name, in the order of preference.
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

/// The place of a name.
#[derive(Clone, Copy)]
struct Label {
    area: Area,
    /// The point at which the text is anchored, as a share of the box: the real width of the font is
    /// unknown.
    anchored: f64,
    /// The end of a line from the mark; none if the name is next to it.
    pointer: Option<[f64; 2]>,
}

/// Writes `names` beside marks at `places`, in the box `within`.
pub fn name(svg: &mut String, names: &[String], places: &[[f64; 2]], within: Area) {
    let widths: Vec<f64> = names.iter().map(|name| text_width(name, SIZE)).collect();
    let labels = placed(&widths, places, &within);
    for (label, [x, y]) in labels.iter().zip(places) {
        if let Some([to_x, to_y]) = label.pointer {
            let _ = writeln!(
                svg,
                "<line class=\"pointer\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{to_x:.1}\" y2=\"{to_y:.1}\"/>"
            );
        }
    }
    for (label, name) in labels.iter().zip(names) {
        let [left, _, right, bottom] = label.area;
        let anchor = match label.anchored {
            0.0 => "start",
            1.0 => "end",
            _ => "middle",
        };
        let _ = writeln!(
            svg,
            "<text class=\"label\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left + label.anchored * (right - left),
            bottom - 2.0,
            escape(name)
        );
    }
}

fn placed(widths: &[f64], places: &[[f64; 2]], within: &Area) -> Vec<Label> {
    let around = |[x, y]: &[f64; 2]| [x - MARK, y - MARK, x + MARK, y + MARK];
    let marks: Vec<Area> = places.iter().map(around).collect();
    let mut labels: Vec<Option<Label>> = vec![None; places.len()];
    // The first names are placed before their neighbours exist; later rounds place them again.
    for _ in 0..ROUNDS {
        for index in 0..places.len() {
            labels[index] = None;
            let names = labels.iter().flatten().map(|label| label.area);
            let others = marks.iter().enumerate().filter(|(mark, _)| *mark != index);
            let others: Vec<Area> = others.map(|(_, area)| *area).chain(names).collect();
            let cost = |label: &Label| {
                let own = overlap(&label.area, &marks[index]);
                let outside = widths[index] * TALL - overlap(&label.area, within);
                let covered = others.iter().map(|other| overlap(&label.area, other));
                let crossed = label
                    .pointer
                    .map_or(0, |end| crossings(places[index], end, &others));
                // As an integer, so that rounding cannot decide between equal places. Leaving the frame
                // is worst, because names are cut there; covering and crossing only hinder reading.
                let cost = own + 3.0 * outside + covered.sum::<f64>() + 2.0 * crossed as f64;
                (1e3 * cost).round() as i64
            };
            // `min_by_key` takes the first of equal places, which is the preferred one.
            labels[index] = candidates(widths[index], places[index]).min_by_key(cost);
        }
    }
    labels.into_iter().flatten().collect()
}

/// The places that a name may take, the best first.
fn candidates(width: f64, mark: [f64; 2]) -> impl Iterator<Item = Label> {
    DISTANCES.into_iter().flat_map(move |distance| {
        DIRECTIONS.into_iter().map(move |[across, down]| {
            let (x, y) = (mark[0] + across * distance, mark[1] + down * distance);
            let anchored = match across {
                0.5.. => 0.0,
                ..=-0.5 => 1.0,
                _ => 0.5,
            };
            let left = x - anchored * width;
            let area = [left, y - TALL / 2.0, left + width, y + TALL / 2.0];
            let near = [
                mark[0].clamp(area[0], area[2]),
                mark[1].clamp(area[1] + 2.0, area[3] - 2.0),
            ];
            Label {
                area,
                anchored,
                pointer: (distance > DISTANCES[0]).then_some(near),
            }
        })
    })
}

/// The area in which two boxes overlap.
fn overlap(a: &Area, b: &Area) -> f64 {
    let width = a[2].min(b[2]) - a[0].max(b[0]);
    let height = a[3].min(b[3]) - a[1].max(b[1]);
    width.max(0.0) * height.max(0.0)
}

/// Returns how much of a line lies in boxes, in tenths of its length.
fn crossings(start: [f64; 2], end: [f64; 2], boxes: &[Area]) -> usize {
    let at =
        |step: u32, axis: usize| start[axis] + f64::from(step) / 10.0 * (end[axis] - start[axis]);
    let inside = |step: &u32| {
        let (x, y) = (at(*step, 0), at(*step, 1));
        boxes
            .iter()
            .any(|[left, top, right, bottom]| *left < x && x < *right && *top < y && y < *bottom)
    };
    (0..=10).filter(inside).count()
}

#[cfg(test)]
mod tests {
    use peft_core::random::Generator;

    use super::*;

    #[test]
    fn names_touch_neither_marks_nor_each_other() {
        let within = [48.0, 22.0, 388.0, 259.0];
        let mut generator = Generator::new(3, "labels");
        for _ in 0..20 {
            let mut draw = |low, high| f64::from(generator.uniform(low, high));
            let places: Vec<[f64; 2]> = (0..12)
                .map(|_| [draw(60.0, 380.0), draw(40.0, 240.0)])
                .collect();
            let placed = placed(&[60.0; 12], &places, &within);
            for (index, label) in placed.iter().enumerate() {
                let area = &label.area;
                assert!(
                    (overlap(area, &within) - 60.0 * TALL).abs() < 1e-6,
                    "{area:?}"
                );
                for other in &placed[..index] {
                    assert!(overlap(area, &other.area) < 1e-2);
                }
                for [x, y] in &places {
                    let mark = [x - MARK, y - MARK, x + MARK, y + MARK];
                    assert!(overlap(area, &mark) < 1e-2);
                }
            }
        }
    }

    #[test]
    fn a_lone_name_is_next_to_its_mark() {
        let label = placed(&[60.0], &[[100.0, 100.0]], &[48.0, 22.0, 388.0, 259.0])[0];
        assert_eq!(label.area, [109.0, 94.0, 169.0, 106.0]);
        assert_eq!((label.anchored, label.pointer), (0.0, None));
        // At the right end of the frame, the name is on the left.
        let label = placed(&[60.0], &[[380.0, 100.0]], &[48.0, 22.0, 388.0, 259.0])[0];
        assert_eq!((label.area[2], label.anchored), (371.0, 1.0));
    }
}
