//! The sixteen shapes as a table of lines, curves and arcs, and their polylines.
//!
//! Coordinates run from -1 to 1, x to the right and y down.

use crate::procedural::geometry::{Point, Segment, turn};

/// A shape of the table.
pub(super) struct Shape {
    pub name: &'static str,
    pub body: Body,
    pieces: &'static [Piece],
}

/// How an outline is painted.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Body {
    /// The area that it encloses is filled.
    Area,
    /// A pen follows it. `widest` is the widest pen at which the shape stays legible, as a part of
    /// its size.
    Stroke { widest: f32 },
}

enum Piece {
    /// Straight from point to point.
    Line(&'static [Point]),
    /// A smooth curve through the points (uniform Catmull-Rom).
    Curve(&'static [Point]),
    /// A part of a circle, in turns clockwise from the right.
    Arc {
        centre: Point,
        radius: f32,
        from: f32,
        to: f32,
    },
}
use Piece::{Arc, Curve, Line};

const CIRCLE: Piece = Arc {
    centre: [0.0, 0.0],
    radius: 1.0,
    from: 0.0,
    to: 1.0,
};

/// Five areas and eleven strokes. The strokes have the turns and ends that digits and letters are
/// made of.
#[rustfmt::skip]
pub(super) const SHAPES: [Shape; 16] = [
    Shape { name: "disc", body: Body::Area, pieces: &[CIRCLE] },
    Shape { name: "square", body: Body::Area, pieces: &[Line(&[[-1., -1.], [1., -1.], [1., 1.], [-1., 1.], [-1., -1.]])] },
    Shape { name: "triangle", body: Body::Area, pieces: &[Line(&[[0., -1.], [1., 0.8], [-1., 0.8], [0., -1.]])] },
    Shape { name: "star", body: Body::Area, pieces: &[Line(&[
        [0.0, -1.0], [0.235, -0.324], [0.951, -0.309], [0.380, 0.124], [0.588, 0.809], [0.0, 0.4],
        [-0.588, 0.809], [-0.380, 0.124], [-0.951, -0.309], [-0.235, -0.324], [0.0, -1.0],
    ])] },
    Shape { name: "half-disc", body: Body::Area, pieces: &[
        Arc { centre: [0.0, 0.0], radius: 1.0, from: 0.5, to: 1.0 }, Line(&[[1., 0.], [-1., 0.]]),
    ] },
    Shape { name: "ring", body: Body::Stroke { widest: 0.22 }, pieces: &[CIRCLE] },
    Shape { name: "arc", body: Body::Stroke { widest: 0.22 }, pieces: &[
        Arc { centre: [0.0, 0.0], radius: 1.0, from: 0.19, to: 0.81 },
    ] },
    Shape { name: "zigzag", body: Body::Stroke { widest: 0.20 }, pieces: &[
        Line(&[[-0.8, -1.], [0.8, -1.], [-0.8, 1.], [0.8, 1.]]),
    ] },
    Shape { name: "s-curve", body: Body::Stroke { widest: 0.20 }, pieces: &[Curve(&[
        [0.65, -0.75], [0.1, -1.0], [-0.5, -0.85], [-0.6, -0.4], [0.0, -0.05],
        [0.6, 0.35], [0.55, 0.85], [-0.05, 1.0], [-0.65, 0.75],
    ])] },
    Shape { name: "spiral", body: Body::Stroke { widest: 0.12 }, pieces: &[Curve(&[
        [0.05, 0.05], [0.22, -0.1], [0.1, -0.32], [-0.2, -0.35], [-0.42, -0.05], [-0.3, 0.38], [0.1, 0.55], [0.52, 0.35],
        [0.68, -0.1], [0.45, -0.6], [-0.05, -0.82], [-0.6, -0.65], [-0.95, -0.1], [-0.8, 0.55], [-0.25, 0.98],
    ])] },
    Shape { name: "cross", body: Body::Stroke { widest: 0.24 }, pieces: &[
        Line(&[[-1., 0.], [1., 0.]]), Line(&[[0., -1.], [0., 1.]]),
    ] },
    Shape { name: "tee", body: Body::Stroke { widest: 0.24 }, pieces: &[
        Line(&[[-0.9, -1.], [0.9, -1.]]), Line(&[[0., -1.], [0., 1.]]),
    ] },
    Shape { name: "ell", body: Body::Stroke { widest: 0.24 }, pieces: &[Line(&[[-0.6, -1.], [-0.6, 1.], [0.7, 1.]])] },
    Shape { name: "loop", body: Body::Stroke { widest: 0.18 }, pieces: &[Curve(&[
        [0.45, -1.0], [-0.05, -0.8], [-0.45, -0.35], [-0.6, 0.25], [-0.45, 0.8], [0.05, 1.0], [0.55, 0.8], [0.65, 0.35],
        [0.35, 0.0], [-0.1, 0.0], [-0.55, 0.35],
    ])] },
    Shape { name: "two-loops", body: Body::Stroke { widest: 0.16 }, pieces: &[
        Arc { centre: [0.0, -0.52], radius: 0.48, from: 0.0, to: 1.0 },
        Arc { centre: [0.0, 0.5], radius: 0.54, from: 0.0, to: 1.0 },
    ] },
    Shape { name: "bars", body: Body::Stroke { widest: 0.24 }, pieces: &[
        Line(&[[-0.6, -1.], [-0.6, 1.]]), Line(&[[0.6, -1.], [0.6, 1.]]),
    ] },
];

impl Shape {
    /// The outline, with each point moved by `place`.
    pub fn segments(&self, place: impl Fn(Point) -> Point) -> Vec<Segment> {
        let mut segments = Vec::new();
        for piece in self.pieces {
            let points: Vec<Point> = piece.points().into_iter().map(&place).collect();
            segments.extend(points.windows(2).map(|pair| [pair[0], pair[1]]));
        }
        segments
    }
}

impl Piece {
    /// Points that are close enough to be joined by straight segments.
    fn points(&self) -> Vec<Point> {
        match *self {
            Line(corners) => subdivide(corners, 3, |[_, a, b, _], t| lerp(a, b, t)),
            Curve(knots) => subdivide(knots, 4, catmull_rom),
            Arc {
                centre,
                radius,
                from,
                to,
            } => {
                const PER_TURN: f32 = 32.0;
                let steps = (PER_TURN * (to - from)).ceil();
                let at = |step: u32| {
                    let [cos, sin] = turn(from + (to - from) * step as f32 / steps);
                    [centre[0] + radius * cos, centre[1] + radius * sin]
                };
                (0..=steps as u32).map(at).collect()
            }
        }
    }
}

/// `parts` points for each span between `knots`. `at` gets the ends of the span and their outer
/// neighbours, where the first and the last knot are their own.
fn subdivide(knots: &[Point], parts: usize, at: impl Fn([Point; 4], f32) -> Point) -> Vec<Point> {
    let last = knots.len() - 1;
    let mut points = vec![knots[0]];
    for span in 0..last {
        let around = [
            knots[span.saturating_sub(1)],
            knots[span],
            knots[span + 1],
            knots[(span + 2).min(last)],
        ];
        points.extend((1..=parts).map(|part| at(around, part as f32 / parts as f32)));
    }
    points
}

fn lerp(a: Point, b: Point, t: f32) -> Point {
    [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t]
}

fn catmull_rom(around: [Point; 4], t: f32) -> Point {
    [0, 1].map(|axis| {
        let [p, a, b, n] = around.map(|point| point[axis]);
        let (c1, c2, c3) = (
            b - p,
            2.0 * p - 5.0 * a + 4.0 * b - n,
            3.0 * (a - b) + n - p,
        );
        a + 0.5 * t * (c1 + t * (c2 + t * c3))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_closed_and_all_shapes_fill_the_unit_square() {
        for shape in &SHAPES {
            let segments = shape.segments(|point| point);
            if shape.body == Body::Area {
                let next = segments.iter().cycle().skip(1);
                let gap = |a: Point, b: Point| (a[0] - b[0]).abs() + (a[1] - b[1]).abs();
                assert!(
                    segments
                        .iter()
                        .zip(next)
                        .all(|(a, b)| gap(a[1], b[0]) < 1e-5),
                    "{}",
                    shape.name
                );
            }
            let reach = segments
                .iter()
                .flatten()
                .flatten()
                .fold(0.0f32, |reach, value| reach.max(value.abs()));
            assert!(
                (0.9..=1.1).contains(&reach),
                "{} reaches {reach}",
                shape.name
            );
        }
    }

    #[test]
    fn curves_pass_through_their_knots() {
        let knots = [[0.0, 0.0], [1.0, 2.0], [3.0, -1.0]];
        let points = subdivide(&knots, 4, catmull_rom);
        assert_eq!([points[0], points[4], points[8]], knots);
    }
}
