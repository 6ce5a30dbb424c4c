//! One image: the background, the clutter, the shape on top, and noise over everything. The order
//! of the draws is part of the data set.

use peft_core::data::Image;

use super::outline::Shape;
use super::paint::{Fill, Palette, Texture, background};
use super::pose::pose;
use crate::procedural::canvas::Canvas;
use crate::procedural::colour::mix;
use crate::procedural::draw::{area, stroke};
use crate::procedural::geometry::{Segment, turn};
use crate::procedural::random::Random;

/// Draws `shape` with `fill` in an image of `side` x `side` pixels.
pub(super) fn render(random: &mut Random, side: usize, shape: &Shape, fill: Fill) -> Image {
    let size = side as f32;
    let palette = Palette::new(random);
    let posed = pose(random, size, shape, fill != Fill::Solid);
    let texture = Texture::new(random, size, fill);

    let shade = background(random, side, 0.25 * palette.contrast);
    let mut canvas = Canvas::plain(side, palette.background);
    for (pixel, shade) in canvas.pixels.iter_mut().zip(shade) {
        *pixel = pixel.map(|value| value + shade);
    }
    for _ in 0..random.below(4) {
        let (segment, pen) = distractor(random, size);
        canvas.lay(&stroke(&[segment], side, pen), palette.clutter);
    }
    let cover = match posed.pen {
        None => area(&posed.segments, side),
        Some(pen) => stroke(&posed.segments, side, pen),
    };
    for (i, (pixel, cover)) in canvas.pixels.iter_mut().zip(cover).enumerate() {
        if cover > 0.0 {
            let second = texture.second((i % side) as f32 + 0.5, (i / side) as f32 + 0.5);
            *pixel = mix(*pixel, mix(palette.ink, palette.second, second), cover);
        }
    }
    let strength = random.uniform(0.0, 0.05);
    canvas.noisy(random, strength, palette.grey).develop()
}

/// A small blob or a piece of a line at a random place: its segment and half its width, in pixels.
fn distractor(random: &mut Random, size: f32) -> (Segment, f32) {
    let start = [0; 2].map(|_| random.uniform(0.0, size));
    if random.chance(0.5) {
        return ([start; 2], size * random.uniform(0.03, 0.09));
    }
    let length = size * random.uniform(0.15, 0.4);
    let [cos, sin] = turn(random.uniform(0.0, 1.0));
    (
        [start, [start[0] + length * cos, start[1] + length * sin]],
        size * random.uniform(0.015, 0.03),
    )
}
