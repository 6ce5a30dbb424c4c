//! Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of a batch, as timm's `Mixup`: image `i`
//! of `b` is mixed with image `b - 1 - i`, and so are their targets.
//!
//! `lambda ~ Beta(alpha, alpha)`. Mixup: `lambda * x_i + (1 - lambda) * x_j`. Cutmix: a rectangle
//! of `x_j` with the aspect of the image and `1 - lambda` of its area about a uniform centre, cut
//! at the edge; `lambda` becomes the part of the image that is left.

use std::ops::Range;

use peft_core::input::ImageSize;
use peft_core::random::Generator;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::random::chance;

/// Which images share one draw of mixup or cutmix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MixMode {
    /// All images of the batch.
    #[default]
    Batch,
    /// The two images that are mixed with each other; the one in the middle of an odd batch stays.
    Pair,
    /// None: each image has its own draw.
    Elem,
}

/// How the images of a batch are mixed, one entry for each.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix(pub Vec<Mixed>);

/// How an image is mixed with its partner.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    /// The image's own weight in its target, 0 to 1.
    pub lambda: f32,
    /// Where cutmix puts the partner; without it, the images are averaged.
    pub cut: Option<Cut>,
}

/// A rectangle of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Columns.
    pub x: Range<usize>,
    /// Rows.
    pub y: Range<usize>,
}

/// How batches are mixed; the fields of [`Augment`](super::Augment) with the same names.
pub(super) struct Mixing {
    pub mixup: f64,
    pub cutmix: f64,
    pub prob: f64,
    pub switch_prob: f64,
    pub mode: MixMode,
}

impl Mixing {
    /// Whether a draw can mix anything.
    pub fn is_on(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0
    }

    /// How a batch of `images` for an input of `size` is mixed.
    pub fn draw(&self, generator: &mut Generator, images: usize, size: ImageSize) -> Mix {
        let mut one = || self.mixed(generator, size);
        Mix(match self.mode {
            MixMode::Batch => vec![one(); images],
            MixMode::Elem => (0..images).map(|_| one()).collect(),
            MixMode::Pair => {
                let front: Vec<_> = (0..images / 2).map(|_| one()).collect();
                let middle = (images % 2 == 1).then_some(Mixed::ALONE);
                let back = front.iter().rev().cloned();
                front.iter().cloned().chain(middle).chain(back).collect()
            }
        })
    }

    fn mixed(&self, generator: &mut Generator, size: ImageSize) -> Mixed {
        if !self.is_on() || !chance(generator, self.prob) {
            return Mixed::ALONE;
        }
        let cuts = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (true, true) => chance(generator, self.switch_prob),
            (_, cuts) => cuts,
        };
        if !cuts {
            let lambda = beta(generator, self.mixup) as f32;
            return Mixed { lambda, cut: None };
        }
        let lambda = beta(generator, self.cutmix);
        let mut across = |side: usize| {
            let (part, middle) = (
                (side as f64 * (1.0 - lambda).sqrt()) as usize,
                generator.below(side),
            );
            middle.saturating_sub(part / 2)..(middle + part.div_ceil(2)).min(side)
        };
        // timm draws the row first; the order is part of what a generator gives.
        let (y, x) = (across(size.height), across(size.width));
        // The rectangle may have been cut off at the edge, so lambda is what is really left.
        let left = 1.0 - (x.len() * y.len()) as f64 / size.pixels() as f64;
        Mixed {
            lambda: left as f32,
            cut: Some(Cut { x, y }),
        }
    }
}

/// A draw from `Beta(alpha, alpha)`: the share of one of two gamma variables. It is computed from
/// their logarithms, because a small alpha makes both of them too small for a float.
fn beta(generator: &mut Generator, alpha: f64) -> f64 {
    let difference = log_gamma(generator, alpha) - log_gamma(generator, alpha);
    1.0 / (1.0 + (-difference).exp())
}

/// The logarithm of a gamma variable: `Gamma(shape + 1)` (Marsaglia and Tsang 2000) times
/// `U^(1 / shape)`.
fn log_gamma(generator: &mut Generator, shape: f64) -> f64 {
    // Never 0, whose logarithm is infinite.
    let mut open = || ((generator.bits() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    let boost = open().ln() / shape;
    let d = shape + 2.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let uniform = ((generator.bits() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let x = f64::from(generator.normal());
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && uniform.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return (d * v).ln() + boost;
        }
    }
}

impl Mixed {
    const ALONE: Self = Self {
        lambda: 1.0,
        cut: None,
    };

    /// The image's own weight in row `y` from column `x` on, and the column where that weight ends.
    fn weight(&self, x: usize, y: usize, width: usize) -> (f32, usize) {
        match &self.cut {
            None => (self.lambda, width),
            Some(cut) if !cut.y.contains(&y) || x >= cut.x.end => (1.0, width),
            Some(cut) if x < cut.x.start => (1.0, cut.x.start),
            Some(cut) => (0.0, cut.x.end),
        }
    }
}

impl Mix {
    /// Mixes a batch in place.
    ///
    /// # Shapes
    /// - images: `[b, 3, h, w]` of that `size`, with as many images as were drawn for
    pub fn apply(&self, images: &mut [f32], size: ImageSize) {
        let (values, rows) = (3 * size.pixels(), self.0.len());
        let (front, back) = images.split_at_mut(rows / 2 * values);
        let front = front.par_chunks_exact_mut(values);
        // In an odd batch the image in the middle is its own partner, and stays out of the pairs.
        let back = back.par_rchunks_exact_mut(values);
        front
            .zip(back)
            .enumerate()
            .for_each(|(i, (first, second))| {
                blend((&self.0[i], first), (&self.0[rows - 1 - i], second), size);
            });
    }
}

/// Mixes two images with each other.
fn blend(
    (one, first): (&Mixed, &mut [f32]),
    (other, second): (&Mixed, &mut [f32]),
    size: ImageSize,
) {
    // Neither image is mixed, as happens with a `mixup_prob` below 1.
    if (one.lambda, other.lambda) == (1.0, 1.0) {
        return;
    }
    let ImageSize { height, width } = size;
    let rows = first
        .chunks_exact_mut(width)
        .zip(second.chunks_exact_mut(width));
    for (y, (first, second)) in rows.enumerate().map(|(row, pair)| (row % height, pair)) {
        // Runs of columns in which neither weight changes: at most five, where both have a
        // rectangle.
        let mut x = 0;
        while x < width {
            let ((w, end), (v, until)) = (one.weight(x, y, width), other.weight(x, y, width));
            let end = end.min(until);
            for (a, b) in first[x..end].iter_mut().zip(&mut second[x..end]) {
                // Both at once, from the values before either was changed.
                (*a, *b) = (*a * w + *b * (1.0 - w), *b * v + *a * (1.0 - v));
            }
            x = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// `fixtures/scripts/augment.py` made these with timm's `Mixup`.
    #[test]
    fn batches_are_mixed_as_timm_does() {
        #[derive(Deserialize)]
        struct Row {
            lambda: f32,
            cut: Option<[usize; 4]>,
        }
        #[derive(Deserialize)]
        struct Case {
            size: usize,
            images: Vec<f32>,
            mix: Vec<Row>,
            expected: Vec<f32>,
        }
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../../fixtures/augment/mixes.json")).unwrap();
        assert!(cases.len() >= 5);
        for mut case in cases {
            let rows = case.mix.into_iter().map(|row| Mixed {
                lambda: row.lambda,
                cut: row.cut.map(|[left, right, top, bottom]| Cut {
                    x: left..right,
                    y: top..bottom,
                }),
            });
            Mix(rows.collect()).apply(&mut case.images, case.size.into());
            for (got, expected) in case.images.iter().zip(&case.expected) {
                assert!((got - expected).abs() < 1e-6, "{got} {expected}");
            }
        }
    }

    #[test]
    fn the_middle_of_an_odd_batch_is_its_own_partner() {
        let mixing = |mode| Mixing {
            mixup: 1.0,
            cutmix: 0.0,
            prob: 1.0,
            switch_prob: 0.5,
            mode,
        };
        for mode in [MixMode::Batch, MixMode::Pair, MixMode::Elem] {
            let mix = mixing(mode).draw(&mut Generator::new(1, "odd"), 3, 1.into());
            let mut images = [1.0, 1.0, 1.0, 5.0, 5.0, 5.0, 2.0, 2.0, 2.0];
            mix.apply(&mut images, 1.into());
            let [first, middle, last] = [0, 3, 6].map(|i| images[i]);
            assert!((middle - 5.0).abs() < 1e-6);
            let expected = 2.0 - mix.0[0].lambda;
            assert!(
                (first - expected).abs() < 1e-6 && (1.0..=2.0).contains(&last),
                "{images:?}"
            );
        }
    }

    #[test]
    fn beta_has_its_quantiles() {
        #[derive(Deserialize)]
        struct Known {
            alpha: f64,
            quantiles: Vec<(f64, f64)>,
        }
        #[derive(Deserialize)]
        struct File {
            betas: Vec<Known>,
        }
        let text = include_str!("../../../fixtures/augment/distributions.json");
        let [File { betas }] = serde_json::from_str::<[File; 1]>(text).unwrap();
        let n = 20_000;
        for Known { alpha, quantiles } in betas {
            let mut generator = Generator::new(3, "beta");
            let drawn: Vec<f64> = (0..n).map(|_| beta(&mut generator, alpha)).collect();
            for (level, quantile) in quantiles {
                // Both ends: the distribution is symmetric.
                for (name, below) in [
                    ("lower", drawn.iter().filter(|x| **x < quantile).count()),
                    (
                        "upper",
                        drawn.iter().filter(|x| 1.0 - **x < quantile).count(),
                    ),
                ] {
                    let off = (below as f64 / n as f64 - level).abs();
                    let bound = 4.0 * (level * (1.0 - level) / n as f64).sqrt();
                    assert!(off < bound, "{name} {level} of alpha {alpha}: off by {off}");
                }
            }
        }
    }
}
