//! Lemma 1: the average attention distance before and after layer 1.
//!
//! The background is `v4`, one token `v1` is at place `p`, key `j` is token `pi(j)` with `pi` the swap of `p` and
//! `p + d_A`, query `i` is token `i`. The distance is the mean over `i` of how far the largest score is from `i`.

use peft_core::random::Generator;
use serde::Serialize;

use super::model::{Model, Tokens};

/// Scores that differ by no more are equal.
const EQUAL: f64 = 1e-9;
/// The place of the token that differs from the background.
const PLACE: usize = 2;
/// Draws of the noise that are averaged.
const DRAWS: u64 = 64;

/// `P` times the distance in both layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distances {
    /// The number of tokens.
    #[serde(rename = "P")]
    pub tokens: usize,
    /// The distance over which the keys are swapped.
    #[serde(rename = "d_A")]
    pub swap: usize,
    /// Whether the tokens have noise.
    pub noise: bool,
    /// `P` times the distance in layer 1.
    pub layer1: f64,
    /// `P` times the distance in layer 2.
    pub layer2: f64,
}

/// The rule that chooses among keys of equal score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// The key nearest to the query.
    Nearest,
    /// The first key.
    First,
}

/// One reading of the lemma's setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The number of tokens.
    pub tokens: usize,
    /// The distance of the swap.
    pub distance: usize,
    /// Whether keys are swapped at all.
    pub swapped: bool,
    /// The rule for keys of equal score.
    pub ties: Ties,
    /// The standard deviation of the noise.
    pub sigma: f64,
    /// The seed of the noise.
    pub seed: u64,
}

impl Setting {
    /// The lemma as it stands.
    pub fn plain(tokens: usize, distance: usize) -> Self {
        Self {
            tokens,
            distance,
            swapped: true,
            ties: Ties::Nearest,
            sigma: 0.0,
            seed: 0,
        }
    }

    /// `P` times the distance in layer 1 and in layer 2.
    pub fn distances(&self, model: &Model) -> [f64; 2] {
        let mut generator = Generator::new(self.seed, &format!("lemma 1/{}", self.tokens));
        let mut values = Vec::with_capacity(self.tokens * model.width);
        for place in 0..self.tokens {
            let pattern = &model.patterns[if place == PLACE { 0 } else { 3 }];
            values.extend(pattern.iter().map(|value| match self.sigma {
                0.0 => *value,
                sigma => value + sigma * f64::from(generator.normal()),
            }));
        }
        let x = Tokens {
            width: model.width,
            values,
            counts: vec![1.0; self.tokens],
        };
        let z = model.hidden(&x);
        [self.total(&x), self.total(&z)]
    }

    /// The token that is key `place`.
    fn key(&self, place: usize) -> usize {
        match place {
            PLACE if self.swapped => PLACE + self.distance,
            other if self.swapped && other == PLACE + self.distance => PLACE,
            other => other,
        }
    }

    /// The sum over queries of the distance to the key with the largest score.
    fn total(&self, tokens: &Tokens) -> f64 {
        let far = |query: usize| {
            let score = |key: usize| -> f64 {
                let (key, query) = (tokens.token(self.key(key)), tokens.token(query));
                key.iter().zip(query).map(|(k, q)| k * q).sum()
            };
            let scores: Vec<f64> = (0..self.tokens).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut equals = (0..self.tokens).filter(|key| scores[*key] >= largest - EQUAL);
            let distance = match self.ties {
                Ties::First => equals.next().map(|key| key.abs_diff(query)),
                Ties::Nearest => equals.map(|key| key.abs_diff(query)).min(),
            };
            distance.unwrap_or(0) as f64
        };
        (0..self.tokens).map(far).sum()
    }
}

/// `P` times the distances with noise of deviation `0.1 / P`, averaged over draws.
pub fn with_noise(model: &Model, setting: Setting) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for seed in 0..DRAWS {
        let drawn = Setting {
            sigma: 0.1 / setting.tokens as f64,
            seed,
            ..setting
        };
        for (sum, distance) in sums.iter_mut().zip(drawn.distances(model)) {
            *sum += distance / DRAWS as f64;
        }
    }
    sums
}

/// The largest distance of a swap that fits into a sequence.
pub fn largest_distance(tokens: usize) -> usize {
    tokens.saturating_sub(PLACE + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(beta_sq: f64) -> Model {
        Model::new(4, -0.5, [beta_sq, beta_sq]).unwrap()
    }

    #[test]
    fn the_distance_falls_to_one_without_noise_only() {
        let model = model(6f64.ln());
        for tokens in [16, 64, 128] {
            for distance in [1, 5, 10] {
                let setting = Setting::plain(tokens, distance);
                let expected = [1.0 + distance as f64, 1.0];
                assert_eq!(setting.distances(&model), expected, "{tokens} {distance}");
            }
        }
        for (tokens, mean) in [(16, 5.35), (64, 20.5)] {
            let noisy = with_noise(&model, Setting::plain(tokens, 1));
            for distance in noisy.map(|total| total / tokens as f64) {
                assert!((distance / mean - 1.0).abs() < 0.15, "{tokens}: {distance}");
            }
        }
    }

    #[test]
    fn other_readings_give_other_distances() {
        let plain = Setting::plain(16, 1);
        let first = Setting {
            ties: Ties::First,
            ..plain
        };
        assert_eq!(first.distances(&model(6f64.ln()))[0], 119.0);
        let unswapped = Setting {
            swapped: false,
            ..plain
        };
        assert_eq!(unswapped.distances(&model(6f64.ln()))[0], 0.0);
        assert_eq!(plain.distances(&model(32f64.ln())), [2.0, 2.0]);
    }
}
