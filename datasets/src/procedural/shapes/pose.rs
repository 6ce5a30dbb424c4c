//! The pose of a shape in an image: a random size, place, rotation, aspect, shear, wobble and pen.

use super::outline::{Body, Shape};
use crate::procedural::geometry::{Point, Segment, turn};
use crate::procedural::random::Random;

/// A shape placed in an image; coordinates are pixels, and pixel `i` spans `i..i + 1`.
pub(super) struct Posed {
    pub segments: Vec<Segment>,
    /// Half the pen's width, in pixels; `None` for an area.
    pub pen: Option<f32>,
}

/// Draws the pose of `shape` in an image of `size` pixels.
///
/// The longer side of its bounding box, pen included, is 0.35 to 0.95 of the image (0.5 to 0.95
/// when `textured`, so that a texture has room), and the box lies within the image.
pub(super) fn pose(random: &mut Random, size: f32, shape: &Shape, textured: bool) -> Posed {
    let target = size * random.uniform(if textured { 0.5 } else { 0.35 }, 0.95);
    let pen = match shape.body {
        Body::Area => None,
        Body::Stroke { widest } => {
            let part = random.uniform(
                if textured {
                    0.6 * widest
                } else {
                    0.25 * widest
                },
                widest,
            );
            Some((0.5 * part * target).max(0.02 * size))
        }
    };
    let (bend, tilt) = (wobble(random), linear(random));
    let segments = shape.segments(|point| tilt(bend(point)));

    let [low, high] = bounds(&segments);
    let extent = [high[0] - low[0], high[1] - low[1]];
    let margin = pen.unwrap_or(0.0);
    // The pen has its full width whatever the scale, so the outline gets what it leaves.
    let scale = (target - 2.0 * margin) / extent[0].max(extent[1]);
    let offset = [0, 1].map(|axis| {
        let room = size - scale * extent[axis] - 2.0 * margin;
        margin + random.uniform(0.0, room) - scale * low[axis]
    });
    let place = |point: Point| [0, 1].map(|axis| scale * point[axis] + offset[axis]);
    Posed {
        segments: segments
            .into_iter()
            .map(|segment| segment.map(place))
            .collect(),
        pen,
    }
}

/// A smooth displacement of the plane by at most a tenth of the shape. Lines bend, and those that
/// met still meet.
fn wobble(random: &mut Random) -> impl Fn(Point) -> Point + use<> {
    let amplitude = random.uniform(0.0, 0.1);
    let [fx, fy] = [0, 1].map(|_| random.uniform(0.2, 0.55)); // turns per unit
    let [px, py] = [0, 1].map(|_| random.uniform(0.0, 1.0)); // turns
    move |[x, y]| {
        [
            x + amplitude * turn(fx * y + px)[1],
            y + amplitude * turn(fy * x + py)[1],
        ]
    }
}

/// A rotation within 25 degrees after a change of aspect (0.75 to 1.33) and a shear (within 0.15).
fn linear(random: &mut Random) -> impl Fn(Point) -> Point + use<> {
    const STEEPEST: f32 = 25.0 / 360.0; // turns
    let [cos, sin] = turn(random.uniform(-STEEPEST, STEEPEST));
    let aspect = random.uniform(0.75, 1.0);
    let stretch = if random.chance(0.5) {
        [aspect, 1.0]
    } else {
        [1.0, aspect]
    };
    let shear = random.uniform(-0.15, 0.15);
    move |[x, y]| {
        let (x, y) = (stretch[0] * x + shear * y, stretch[1] * y);
        [cos * x - sin * y, sin * x + cos * y]
    }
}

fn bounds(segments: &[Segment]) -> [Point; 2] {
    let mut bounds = [[f32::INFINITY; 2], [f32::NEG_INFINITY; 2]];
    for point in segments.iter().flatten() {
        for axis in [0, 1] {
            bounds[0][axis] = bounds[0][axis].min(point[axis]);
            bounds[1][axis] = bounds[1][axis].max(point[axis]);
        }
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::super::outline::SHAPES;
    use super::*;

    #[test]
    fn every_pose_has_the_stated_size_and_lies_in_the_image() {
        for key in 0..200 {
            let mut random = Random::new([key; 32]);
            let shape = &SHAPES[key as usize % SHAPES.len()];
            let posed = pose(&mut random, 100.0, shape, false);
            let [low, high] = bounds(&posed.segments);
            let pen = posed.pen.unwrap_or(0.0);
            let longer = (high[0] - low[0]).max(high[1] - low[1]) + 2.0 * pen;
            assert!((34.9..95.1).contains(&longer), "{}: {longer}", shape.name);
            let inside = low.iter().all(|low| low - pen > -0.1)
                && high.iter().all(|high| high + pen < 100.1);
            assert!(inside, "{}: {low:?} {high:?} {pen}", shape.name);
        }
    }
}
