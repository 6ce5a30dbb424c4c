//! Textures: twelve textures that people have words for, drawn in two random colours at a random
//! angle and scale. They take the place of DTD in VTAB's natural group.
//!
//! The words are those of M. Cimpoi, S. Maji, I. Kokkinos, S. Mohamed and A. Vedaldi, "Describing
//! Textures in the Wild", 2014.
//!
//! A texture repeats 3 to 6 times along a side and is slightly bent, unevenly lit and noisy. A
//! pixel is the mean of four samples.

use peft_core::data::Image;

use super::canvas::Canvas;
use super::colour::{mix, shade, tint};
use super::generator::{Drawn, Generator, procedural};
use super::geometry::turn;
use super::noise::{cloud, mosaic, smooth};
use super::random::Random;

procedural! {
    /// Textures: twelve kinds of texture, named as in the Describable Textures Dataset (2014).
    pub struct Textures {}
    defaults: { size: 64, images: [800, 200, 1_000] },
    open: Drawn::new,
    name: "textures",
    summary: "twelve textures, from banded to zigzagged, in random colours",
    reference: "named as in DTD, Cimpoi et al., 2014",
    example: "name: textures\n",
}

impl Generator for Textures {
    const VERSION: u32 = 1;

    /// The class.
    type Content = usize;

    fn classes(&self) -> Vec<String> {
        TEXTURES.map(|(name, _)| name.to_owned()).into()
    }

    fn choose(&self, random: &mut Random) -> usize {
        random.below(TEXTURES.len())
    }

    fn label(&self, class: &usize) -> usize {
        *class
    }

    fn draw(&self, class: &usize, random: &mut Random) -> Image {
        let (_, pattern) = TEXTURES[*class];
        let [cos, sin] = turn(random.uniform(0.0, 1.0));
        let scale = random.uniform(3.0, 6.0);
        let stretch = random.uniform(0.8, 1.25);
        let [shift_u, shift_v] = [0; 2].map(|_| random.uniform(0.0, 100.0));
        let bend = random.uniform(0.0, 0.5);
        let paint = Paint {
            width: random.uniform(0.3, 0.7),
            salt: random.below(1 << 30) as u32,
        };

        let contrast = random.uniform(0.3, 0.8);
        let dark = random.uniform(0.05, 0.95 - contrast);
        let mut tones = [dark, dark + contrast].map(|brightness| tint(random, brightness, false));
        if random.chance(0.5) {
            tones.reverse();
        }
        let light = random.uniform(0.0, 0.35);

        let canvas = Canvas::sampled(self.size, |x, y| {
            let [x, y] = [x - 0.5, y - 0.5];
            let u = scale * (cos * x + sin * y) + shift_u;
            let v = scale * stretch * (cos * y - sin * x) + shift_v;
            // Bent before the pattern is evaluated, so that its edges stay sharp.
            let [du, dv] = [3, 4].map(|i| smooth(0.5 * u, 0.5 * v, paint.salt ^ i) - 0.5);
            let tone = pattern(&paint, u + bend * du, v + bend * dv);
            let brightness = 1.0 - light * cloud(1.5 * x + 9.0, 1.5 * y + 9.0, paint.salt ^ 5);
            shade(mix(tones[0], tones[1], tone), brightness)
        });
        let strength = random.uniform(0.0, 0.06);
        canvas.noisy(random, strength, false).develop()
    }
}

/// The parameters in which two textures of a class differ.
struct Paint {
    /// The part of a period that has the second tone: 0.3..0.7.
    width: f32,
    salt: u32,
}

/// The amount of the second tone at a place, 0..=1; one unit is one period.
type Pattern = fn(&Paint, f32, f32) -> f32;

const TEXTURES: [(&str, Pattern); 12] = [
    ("banded", |paint, u, _| within(part(u), paint.width)),
    ("blotchy", |paint, u, v| {
        within(cloud(1.3 * u, 1.3 * v, paint.salt), 0.3 + 0.4 * paint.width)
    }),
    ("bubbly", |paint, u, v| {
        let cell = mosaic(u, v, 0.5, paint.salt);
        let radius = 0.25 + 0.25 * cell.id;
        within((cell.centre - radius).abs(), 0.09)
    }),
    ("chequered", |_, u, v| {
        within(part(0.5 * (u.floor() + v.floor())), 0.25)
    }),
    ("cracked", |_, u, v| {
        within(mosaic(u, v, 1.0, 0x0c).border, 0.12)
    }),
    ("dotted", |paint, u, v| {
        let [du, dv] = [part(u + part(0.5 * v.floor())), part(v)].map(|at| at - 0.5);
        within((du * du + dv * dv).sqrt(), 0.2 + 0.2 * paint.width)
    }),
    ("grid", |paint, u, v| {
        within(part(u).min(part(v)), 0.35 * paint.width)
    }),
    ("honeycombed", |_, u, v| within(honeycomb(u, v), 0.13)),
    ("marbled", |paint, u, v| {
        let turned = 0.5 * u + 2.2 * cloud(0.7 * u, 0.7 * v, paint.salt);
        let vein = 2.0 * (part(turned) - 0.5).abs(); // 0 on a vein
        vein * vein
    }),
    ("scaly", |_, u, v| scales(u, v)),
    ("woven", |paint, u, v| {
        let over = part(0.5 * (u.floor() + v.floor())) < 0.25;
        let across = if over { part(u) } else { part(v) } - 0.5;
        let round = 1.0 - 4.0 * across * across; // lighter along the middle of a strand
        if across.abs() > 0.44 {
            0.0
        } else {
            (0.3 + 0.3 * paint.width) * round + if over { 0.4 } else { 0.1 }
        }
    }),
    ("zigzagged", |paint, u, v| {
        let fold = 2.0 * (part(0.5 * u) - 0.5).abs();
        within(part(v + 1.2 * fold), paint.width)
    }),
];

/// The fractional part, 0..1.
fn part(value: f32) -> f32 {
    value - value.floor()
}

/// 1 below the limit, else 0.
fn within(value: f32, limit: f32) -> f32 {
    f32::from(value < limit)
}

/// The distance to the border between two hexagons, in units: how much farther away the second
/// nearest centre is than the nearest.
fn honeycomb(u: f32, v: f32) -> f32 {
    const RISE: f32 = 0.866; // between rows of centres: half the root of 3
    let row = (v / RISE).floor();
    let (mut nearest, mut next) = (f32::INFINITY, f32::INFINITY);
    for row in [row - 1.0, row, row + 1.0, row + 2.0] {
        let shift = part(0.5 * row); // 0 or a half
        let column = (u - shift).floor();
        for column in [column - 1.0, column, column + 1.0, column + 2.0] {
            let (du, dv) = (column + shift - u, row * RISE - v);
            let distance = (du * du + dv * dv).sqrt();
            (nearest, next) = (nearest.min(distance), next.min(distance.max(nearest)));
        }
    }
    next - nearest
}

/// Rows of discs, each of which covers the upper part of the row below. A disc has a bright rim and
/// gets darker towards it.
fn scales(u: f32, v: f32) -> f32 {
    const RISE: f32 = 0.5;
    let top = (v / RISE).floor();
    for row in [top - 1.0, top] {
        let du = part(u + part(0.5 * row)) - 0.5;
        let dv = v - row * RISE;
        let distance = (du * du + dv * dv).sqrt();
        if distance < 0.58 {
            let rim = distance / 0.58;
            return if rim > 0.84 { 1.0 } else { 0.45 * (1.0 - rim) };
        }
    }
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tones_are_seen_in_every_texture() {
        for key in 0..5 {
            let mut random = Random::keyed(&key.to_string());
            let paint = Paint {
                width: random.uniform(0.3, 0.7),
                salt: key,
            };
            for (name, pattern) in TEXTURES {
                let tones: Vec<f32> = (0..10_000)
                    .map(|i| pattern(&paint, (i % 100) as f32 / 12.5, (i / 100) as f32 / 12.5))
                    .collect();
                assert!(
                    tones.iter().all(|tone| (0.0..=1.0).contains(tone)),
                    "{name}"
                );
                let mean = tones.iter().sum::<f32>() / 10_000.0;
                assert!((0.08..0.92).contains(&mean), "{name}: {mean}");
            }
        }
    }

    #[test]
    fn a_hexagon_has_six_neighbours_at_the_same_distance() {
        assert!((honeycomb(0.0, 0.0) - 1.0).abs() < 1e-3);
        for step in 0..6 {
            let [cos, sin] = turn(step as f32 / 6.0);
            assert!(honeycomb(0.5 * cos, 0.5 * sin) < 1e-3, "{step}");
        }
    }
}
