//! One image: background, clutter behind, the shape, noise over all. The order of the draws is part
//! of the data set.

use super::draw::{area, stroke};
use super::outline::{Segment, Shape, turn};
use super::paint::{Colour, Fill, Palette, Texture, background, mix};
use super::pose::pose;
use super::random::Random;
use peft_core::data::Image;

/// Draws `shape` with `fill` in an image of `side` x `side` pixels.
pub(super) fn render(random: &mut Random, side: usize, shape: &Shape, fill: Fill) -> Image {
    let size = side as f32;
    let palette = Palette::new(random);
    let posed = pose(random, size, shape, fill != Fill::Solid);
    let texture = Texture::new(random, size, fill);

    let shade = background(random, side, 0.25 * palette.contrast);
    let mut canvas: Vec<Colour> = shade
        .iter()
        .map(|shade| palette.background.map(|value| value + shade))
        .collect();
    for _ in 0..random.below(4) {
        let (segment, pen) = distractor(random, size);
        for (pixel, cover) in canvas.iter_mut().zip(stroke(&[segment], side, pen)) {
            *pixel = mix(*pixel, palette.clutter, cover);
        }
    }
    let cover = match posed.pen {
        None => area(&posed.segments, side),
        Some(pen) => stroke(&posed.segments, side, pen),
    };
    for (i, (pixel, cover)) in canvas.iter_mut().zip(cover).enumerate() {
        if cover > 0.0 {
            let second = texture.second((i % side) as f32 + 0.5, (i / side) as f32 + 0.5);
            *pixel = mix(*pixel, mix(palette.ink, palette.second, second), cover);
        }
    }
    Image {
        width: side,
        height: side,
        rgb: develop(random, &canvas, palette.grey),
    }
}

/// A small blob or a piece of a line, anywhere: its segment and half its width, in pixels.
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

/// Adds noise of a random strength, the same in all channels of a grey scene, and rounds to grey
/// levels.
fn develop(random: &mut Random, canvas: &[Colour], grey: bool) -> Vec<u8> {
    let strength = random.uniform(0.0, 0.05);
    let mut rgb = Vec::with_capacity(3 * canvas.len());
    for pixel in canvas {
        let noise = if grey {
            [random.normal(); 3]
        } else {
            [0; 3].map(|_| random.normal())
        };
        let level = |channel: usize| {
            (255.0 * (pixel[channel] + strength * noise[channel]).clamp(0.0, 1.0) + 0.5) as u8
        };
        rgb.extend([0, 1, 2].map(level));
    }
    rgb
}
