//! The paint of a scene: its palette, the background behind the shape, and the texture in it.

use crate::procedural::colour::{Colour, mix, tint};
use crate::procedural::geometry::turn;
use crate::procedural::random::Random;

/// How a shape is filled. Shape and fill together are the class.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fill {
    Solid,
    Stripes,
    Checker,
    Dots,
}

impl Fill {
    pub const ALL: [Fill; 4] = [Fill::Solid, Fill::Stripes, Fill::Checker, Fill::Dots];

    pub const fn name(self) -> &'static str {
        match self {
            Fill::Solid => "solid",
            Fill::Stripes => "stripes",
            Fill::Checker => "checker",
            Fill::Dots => "dots",
        }
    }
}

/// The colours of a scene. Half of all scenes are grey.
pub(super) struct Palette {
    pub background: Colour,
    pub clutter: Colour,
    pub ink: Colour,
    /// The second tone of a texture, between the ink and the background.
    pub second: Colour,
    /// The difference in luma between ink and background: 0.4..0.95.
    pub contrast: f32,
    pub grey: bool,
}

impl Palette {
    pub fn new(random: &mut Random) -> Self {
        let contrast = random.uniform(0.4, 0.95);
        let dark = random.uniform(0.0, 1.0 - contrast);
        let (background, ink) = if random.chance(0.5) {
            (dark, dark + contrast)
        } else {
            (dark + contrast, dark)
        };
        let grey = random.chance(0.5);
        // All tones are placed by their luma, so that colours contrast as much as greys do.
        let mut between = |part: f32| tint(random, background + part * (ink - background), grey);
        let (back, front) = (between(0.0), between(1.0));
        let part = random.uniform(0.1, 0.4);
        let second = tint(random, background + part * (ink - background), grey);
        let part = random.uniform(0.2, 0.4);
        let clutter = mix(back, front, part);
        Self {
            background: back,
            clutter,
            ink: front,
            second,
            contrast,
            grey,
        }
    }
}

/// What is added to the background's brightness, `[side, side]`, within +-`most`: nothing, a
/// gradient or smooth noise.
pub(super) fn background(random: &mut Random, side: usize, most: f32) -> Vec<f32> {
    let amplitude = random.uniform(0.3 * most, most);
    match random.below(3) {
        0 => vec![0.0; side * side],
        1 => {
            let [cos, sin] = turn(random.uniform(0.0, 1.0));
            let at = |i: usize| 2.0 * (i as f32 + 0.5) / side as f32 - 1.0; // -1..1
            let steep = 0.7 * amplitude; // the corners lie at sqrt(2)
            (0..side * side)
                .map(|i| steep * (cos * at(i % side) + sin * at(i / side)))
                .collect()
        }
        _ => value_noise(random, side, amplitude),
    }
}

/// Random values on a lattice of 2 to 8 cells per side, interpolated.
fn value_noise(random: &mut Random, side: usize, amplitude: f32) -> Vec<f32> {
    let cells = 2 + random.below(7);
    let lattice: Vec<f32> = (0..(cells + 1) * (cells + 1))
        .map(|_| random.uniform(-amplitude, amplitude))
        .collect();
    let place = |i: usize| {
        let at = (i as f32 + 0.5) * cells as f32 / side as f32;
        let t = at - at.floor();
        (at as usize, t * t * (3.0 - 2.0 * t))
    };
    let mut noise = Vec::with_capacity(side * side);
    for (row, ty) in (0..side).map(place) {
        for (column, tx) in (0..side).map(place) {
            let corner = |y: usize, x: usize| lattice[(row + y) * (cells + 1) + column + x];
            let across = |y: usize| corner(y, 0) + tx * (corner(y, 1) - corner(y, 0));
            noise.push(across(0) + ty * (across(1) - across(0)));
        }
    }
    noise
}

/// A periodic pattern of two tones at a random angle and phase.
pub(super) struct Texture {
    fill: Fill,
    /// Cosine and sine of the pattern's direction.
    direction: [f32; 2],
    phase: [f32; 2],
    /// The length of a period, in pixels.
    period: f32,
}

impl Texture {
    pub fn new(random: &mut Random, size: f32, fill: Fill) -> Self {
        let period = size
            * match fill {
                Fill::Solid | Fill::Stripes => random.uniform(0.11, 0.17),
                Fill::Checker => random.uniform(0.16, 0.24),
                Fill::Dots => random.uniform(0.13, 0.18),
            };
        let direction = turn(random.uniform(0.0, 1.0));
        Self {
            fill,
            direction,
            phase: [0; 2].map(|_| random.uniform(0.0, 1.0)),
            period,
        }
    }

    /// The amount of the second tone, 0..=1, at a point of the image in pixels.
    pub fn second(&self, x: f32, y: f32) -> f32 {
        let [cos, sin] = self.direction;
        let u = (cos * x + sin * y) / self.period + self.phase[0];
        let v = (cos * y - sin * x) / self.period + self.phase[1];
        match self.fill {
            Fill::Solid => 0.0,
            Fill::Stripes => 0.5 + 0.5 * self.square_wave(u),
            Fill::Checker => 0.5 + 0.5 * self.square_wave(u) * self.square_wave(v),
            Fill::Dots => {
                const RADIUS: f32 = 0.32; // of a period
                let [du, dv] = [u, v].map(|value| value - value.floor() - 0.5);
                let distance = (du * du + dv * dv).sqrt();
                ((RADIUS - distance) * self.period + 0.5).clamp(0.0, 1.0)
            }
        }
    }

    /// -1 and 1 for half a period each, with edges one pixel wide.
    fn square_wave(&self, turns: f32) -> f32 {
        let edge = (turns - turns.floor() - 0.5).abs() - 0.25; // periods to the nearest edge
        (2.0 * edge * self.period).clamp(-1.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procedural::colour::luma;

    #[test]
    fn palettes_keep_their_contrast_in_range() {
        let (mut greys, mut light_on_dark) = (0, 0);
        for key in 0..200 {
            let palette = Palette::new(&mut Random::new([key; 32]));
            let difference = luma(palette.ink) - luma(palette.background);
            assert!((difference.abs() - palette.contrast).abs() < 1e-4 && palette.contrast >= 0.4);
            for colour in [
                palette.background,
                palette.ink,
                palette.second,
                palette.clutter,
            ] {
                assert!(
                    colour.iter().all(|value| (-1e-4..=1.0001).contains(value)),
                    "{colour:?}"
                );
            }
            greys += usize::from(palette.grey);
            light_on_dark += usize::from(difference > 0.0);
        }
        assert!(
            (70..130).contains(&greys) && (70..130).contains(&light_on_dark),
            "{greys} {light_on_dark}"
        );
    }

    #[test]
    fn textures_share_the_area_between_both_tones() {
        for (fill, expected) in Fill::ALL.into_iter().zip([0.0, 0.5, 0.5, 0.32]) {
            let texture = Texture::new(&mut Random::new([1; 32]), 128.0, fill);
            let sum: f32 = (0..128 * 128)
                .map(|i| texture.second((i % 128) as f32, (i / 128) as f32))
                .sum();
            assert!(
                (sum / 16384.0 - expected).abs() < 0.05,
                "{}: {}",
                fill.name(),
                sum / 16384.0
            );
        }
    }

    #[test]
    fn backgrounds_stay_within_their_amplitude() {
        for key in 0..30 {
            let values = background(&mut Random::new([key; 32]), 16, 0.1);
            assert!(values.len() == 256 && values.iter().all(|value| value.abs() <= 0.1));
        }
    }
}
