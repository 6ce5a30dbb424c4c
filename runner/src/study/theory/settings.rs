//! The claims, the settings and the results of the study of Theorem 1.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::lemma::Distances;
use super::model::Model;
use crate::exit::{Failure, config_error};
use crate::study::claim::Claim;

pub const CLAIMS: [Claim; 4] = [
    Claim {
        id: "theorem1-order",
        source: "Theorem 1, Sec. 4.2",
        claim: "an activation prompt at layer 1 needs fewer iterations than at layer 2",
    },
    Claim {
        id: "theorem1-rate-1",
        source: "Theorem 1, Sec. 4.2",
        claim: "an activation prompt at layer 1 needs Theta(P) iterations",
    },
    Claim {
        id: "theorem1-rate-2",
        source: "Theorem 1, Sec. 4.2",
        claim: "an activation prompt at layer 2 needs Theta(P^2 log P) iterations",
    },
    Claim {
        id: "lemma1",
        source: "Lemma 1, App. C",
        claim: "the average attention distance falls from (1 + d_A)/P to 1/P after layer 1",
    },
];

/// The largest accepted distance of an exponent from that of the claimed rate.
pub const EXPONENT: f64 = 0.15;

/// The settings.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Numbers of tokens `P`, more than 4, in ascending order. Each after the first is compared with the one before.
    pub patches: Vec<usize>,
    /// The width `m`, a multiple of 4. The output is the same for all of them.
    pub width: usize,
    /// The inner product of the two backgrounds, in (-1, 1).
    pub zeta: f64,
    /// `beta^2` of the attentions: one number more than 0, or one for each layer.
    #[serde(deserialize_with = "one_or_two")]
    pub beta_sq: [f64; 2],
    /// The step of the flow relative to the prompt, in (0, 0.1].
    pub frac: f64,
    /// Numbers of tokens of Lemma 1, at least 4.
    pub lemma_patches: Vec<usize>,
    /// Distances `d_A` of Lemma 1, at least 1. Those that do not fit into a sequence are left out.
    pub lemma_distances: Vec<usize>,
    /// `beta^2` of Lemma 1, more than 0.
    pub lemma_beta_sq: f64,
    /// Whether stochastic gradient descent with noise is simulated too, for up to 64 tokens: it takes minutes.
    pub sgd: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            patches: vec![16, 32, 64, 128, 256, 512, 1024],
            width: 4,
            zeta: -0.5,
            beta_sq: [2.2; 2],
            frac: 0.001,
            lemma_patches: vec![16, 64, 128],
            lemma_distances: vec![1, 5, 10],
            lemma_beta_sq: 6f64.ln(),
            sgd: false,
        }
    }
}

/// A number for both layers, or a list with one for each.
fn one_or_two<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 2], D::Error> {
    let value = serde_yaml::Value::deserialize(deserializer)?;
    let numbers = match &value {
        serde_yaml::Value::Sequence(values) => values.iter().map(|value| value.as_f64()).collect(),
        value => value.as_f64().map(|both| vec![both; 2]),
    };
    match numbers.as_deref() {
        Some(&[first, second]) => Ok([first, second]),
        _ => Err(serde::de::Error::custom(
            "expected a number, or a list of two",
        )),
    }
}

/// At most this many tokens are simulated by stochastic gradient descent.
pub const SGD_TOKENS: usize = 64;

impl Settings {
    /// Refuses values out of range.
    pub fn check(&self) -> Result<(), Failure> {
        let bad = |message: String| Err(config_error(message));
        if self.patches.is_empty() || !self.patches.is_sorted_by(|a, b| a < b) {
            return bad(format!(
                "patches: expected numbers in ascending order, got {:?}",
                self.patches
            ));
        }
        if !(self.frac > 0.0 && self.frac <= 0.1) {
            return bad(format!(
                "frac: expected more than 0 and at most 0.1, got {}",
                self.frac
            ));
        }
        for &tokens in &self.patches {
            let least = least_beta_sq(tokens);
            if self.beta_sq[0].is_nan() || self.beta_sq[0] <= least {
                return bad(format!(
                    "patches: with {tokens} tokens layer 2 is solvable only if beta_sq is more than log(4 (P - 1) / \
                     (P - 4)) = {least:.4}, got {}",
                    self.beta_sq[0]
                ));
            }
        }
        if let Some(few) = self.lemma_patches.iter().find(|tokens| **tokens < 4) {
            return bad(format!("lemma_patches: expected at least 4, got {few}"));
        }
        if self.lemma_distances.contains(&0) {
            return bad("lemma_distances: expected at least 1, got 0".to_owned());
        }
        Ok(())
    }

    /// The model with these `beta^2`.
    pub fn model(&self, beta_sq: [f64; 2]) -> Result<Model, Failure> {
        Model::new(self.width, self.zeta, beta_sq)
    }
}

/// Below this `beta_1^2` no prompt solves layer 2.
fn least_beta_sq(tokens: usize) -> f64 {
    match tokens {
        0..=4 => f64::INFINITY,
        tokens => (4.0 * (tokens - 1) as f64 / (tokens - 4) as f64).ln(),
    }
}

/// The growth of the time from one number of tokens to the next.
#[derive(Serialize)]
pub struct Exponent {
    #[serde(rename = "P")]
    pub tokens: [usize; 2],
    pub layer: usize,
    pub hinge: Option<f64>,
    pub zero_one: Option<f64>,
    /// That of the rate in Theorem 1.
    pub claimed: f64,
}

/// The distances of Lemma 1, and those of other readings of its setting.
pub struct Lemma {
    pub rows: Vec<Distances>,
    pub others: Vec<(&'static str, Distances)>,
}
