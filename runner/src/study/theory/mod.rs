//! Theorem 1 and Lemma 1 of Appendix C: how many iterations an activation prompt needs at layer 1 and at layer 2 of a
//! two-layer, single-head model, and what layer 1 does to the attention distance.

mod flow;
mod lemma;
mod model;
mod report;
mod sgd;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use crate::exit::{Failure, config_error};
use crate::study::Study;
use crate::study::claim::{Claim, Verdict, all};
use crate::study::outcome::{Outcome, json};
use crate::study::request::{Request, TensorFile};
use flow::{Flow, flow};
use lemma::{Distances, Setting, Ties, largest_distance, with_noise};
use model::{Layer, Model, Tokens};

pub const STUDY: Study = Study {
    name: "theory",
    summary: "how fast an activation prompt learns at either layer of the two-layer model",
    source: "Theorem 1 and Lemma 1, Sec. 4.2, App. C",
    files: &["tensors"],
    config: None,
    run,
};

const CLAIMS: [Claim; 4] = [
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

/// How far an exponent may be from the claimed rate's.
const EXPONENT: f64 = 0.15;

/// The settings.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Numbers of tokens `P`, more than 4, in ascending order. Each after the first is compared with the one before.
    patches: Vec<usize>,
    /// The width `m`, a multiple of 4. The output is the same for all of them.
    width: usize,
    /// The inner product of the two backgrounds, in (-1, 1).
    zeta: f64,
    /// `beta^2` of the attentions: one number more than 0, or one for each layer.
    #[serde(deserialize_with = "one_or_two")]
    beta_sq: [f64; 2],
    /// The step of the flow relative to the prompt, in (0, 0.1].
    frac: f64,
    /// Numbers of tokens of Lemma 1, at least 4.
    lemma_patches: Vec<usize>,
    /// Distances `d_A` of Lemma 1, at least 1. Those that do not fit into a sequence are left out.
    lemma_distances: Vec<usize>,
    /// `beta^2` of Lemma 1, more than 0.
    lemma_beta_sq: f64,
    /// Whether stochastic gradient descent with noise is simulated too, for up to 64 tokens: it takes minutes.
    sgd: bool,
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
const SGD_TOKENS: usize = 64;

impl Settings {
    fn check(&self) -> Result<(), Failure> {
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

    fn model(&self, beta_sq: [f64; 2]) -> Result<Model, Failure> {
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

/// How the time grows from one number of tokens to the next.
#[derive(Serialize)]
struct Exponent {
    #[serde(rename = "P")]
    tokens: [usize; 2],
    layer: usize,
    hinge: Option<f64>,
    zero_one: Option<f64>,
    /// That of the rate in Theorem 1.
    claimed: f64,
}

fn exponents(flows: &[Flow], layer: Layer) -> Vec<Exponent> {
    let own: Vec<&Flow> = flows.iter().filter(|f| f.layer == layer.number()).collect();
    own.windows(2)
        .map(|pair| {
            let (from, to) = (pair[0], pair[1]);
            let [low, high] = [from.tokens, to.tokens].map(|tokens| tokens as f64);
            let doublings = (high / low).log2();
            let growth = |a: Option<f64>, b: Option<f64>| Some((b? / a?).log2() / doublings);
            Exponent {
                tokens: [from.tokens, to.tokens],
                layer: layer.number(),
                hinge: growth(from.hinge, to.hinge),
                zero_one: growth(from.zero_one, to.zero_one),
                claimed: match layer {
                    Layer::First => 1.0,
                    Layer::Second => 2.0 + (high.ln() / low.ln()).log2() / doublings,
                },
            }
        })
        .collect()
}

fn run(request: &Request) -> Result<Outcome, Failure> {
    let settings: Settings = request.settings()?;
    if let Some(path) = &request.files.tensors {
        let file = TensorFile::open("--tensors", path)?;
        return Ok(Outcome {
            claims: all(&CLAIMS, Verdict::None, "raw tensors were given"),
            result: json!({ "model": on_tensors(&file, &settings)? }),
            settings: json(&settings)?,
            ..Outcome::default()
        });
    }
    settings.check()?;
    let model = settings.model(settings.beta_sq)?;
    if request.dry_run {
        return report::plan(&settings);
    }
    let flows: Vec<Flow> = settings
        .patches
        .iter()
        .flat_map(|&tokens| Layer::BOTH.map(|layer| flow(&model, tokens, layer, settings.frac)))
        .collect();
    let exponents = Layer::BOTH.map(|layer| exponents(&flows, layer));
    let lemma = lemma(&settings)?;
    let runs = match settings.sgd {
        false => Vec::new(),
        true => {
            let few = settings.patches.iter().copied();
            let few: Vec<usize> = few.filter(|tokens| *tokens <= SGD_TOKENS).collect();
            sgd::runs(&model, &few)
        }
    };
    report::outcome(&settings, &flows, &exponents, &lemma, &runs)
}

/// What Lemma 1 gives, and what other readings of its setting give.
struct Lemma {
    rows: Vec<Distances>,
    others: Vec<(&'static str, Distances)>,
}

fn lemma(settings: &Settings) -> Result<Lemma, Failure> {
    let model = settings.model([settings.lemma_beta_sq; 2])?;
    let (mut rows, mut others) = (Vec::new(), Vec::new());
    for &tokens in &settings.lemma_patches {
        let sharp = settings.model([(2.0 * tokens as f64).ln(); 2])?;
        let fitting = settings.lemma_distances.iter().copied();
        for distance in fitting.filter(|d| *d <= largest_distance(tokens)) {
            let plain = Setting::plain(tokens, distance);
            let row = |noise, [layer1, layer2]: [f64; 2]| Distances {
                tokens,
                swap: distance,
                noise,
                layer1,
                layer2,
            };
            rows.push(row(false, plain.distances(&model)));
            rows.push(row(true, with_noise(&model, plain)));
            let first = Setting {
                ties: Ties::First,
                ..plain
            };
            let unswapped = Setting {
                swapped: false,
                ..plain
            };
            others.extend([
                ("ties to the first key", row(false, first.distances(&model))),
                ("no swap of keys", row(false, unswapped.distances(&model))),
                ("beta^2 = log 2P", row(false, plain.distances(&sharp))),
            ]);
        }
    }
    Ok(Lemma { rows, others })
}

/// The model's outputs, losses and gradients on the tensors of a file.
fn on_tensors(file: &TensorFile, settings: &Settings) -> Result<serde_json::Value, Failure> {
    let x = file.get("x")?;
    let &[count, tokens, width] = &x.shape[..] else {
        let message = format!("{}: x: expected [n, P, m], got {:?}", file.path(), x.shape);
        return Err(config_error(message));
    };
    let model = Model::new(width, settings.zeta, settings.beta_sq)?;
    let labels = file.shaped("y", &[count])?;
    let delta = file.shaped("delta", &[tokens, width])?;
    let samples: Vec<Tokens> = x
        .values
        .chunks_exact(tokens * width)
        .map(|values| Tokens {
            width,
            values: values.to_vec(),
            counts: vec![1.0; tokens],
        })
        .collect();
    let plain: Vec<f64> = samples
        .iter()
        .map(|x| model.output(&model.hidden(x)))
        .collect();
    let mut found = json!({ "f0": plain });
    for layer in Layer::BOTH {
        let (mut outputs, mut loss) = (Vec::new(), 0.0);
        let mut gradient = vec![0.0; delta.len()];
        for (x, label) in samples.iter().zip(&labels) {
            let (output, own) = model.gradient(x, layer, &delta);
            let lacking = 1.0 / tokens as f64 - label * output;
            if lacking > 0.0 {
                loss += lacking / count as f64;
                for (sum, value) in gradient.iter_mut().zip(&own) {
                    *sum -= label * value / count as f64;
                }
            }
            outputs.push(output);
        }
        let rows: Vec<&[f64]> = gradient.chunks_exact(width).collect();
        let number = layer.number();
        found[format!("f{number}")] = json!(outputs);
        found[format!("loss{number}")] = json!(loss);
        found[format!("grad{number}")] = json!(rows);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_model_is_that_of_the_golden_tensors() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/studies/theory_m4.safetensors");
        let file = TensorFile::open("--tensors", &path)
            .map_err(|f| f.error)
            .unwrap();
        let settings = Settings {
            beta_sq: [2.2, 1.7],
            ..Settings::default()
        };
        let found = on_tensors(&file, &settings).map_err(|f| f.error).unwrap();
        for (key, golden) in [
            ("f0", "f0"),
            ("f1", "f_h1"),
            ("f2", "f_h2"),
            ("loss1", "loss_h1"),
            ("loss2", "loss_h2"),
            ("grad1", "grad_h1"),
            ("grad2", "grad_h2"),
        ] {
            fn flat(value: &serde_json::Value) -> Vec<f64> {
                match value {
                    serde_json::Value::Array(values) => values.iter().flat_map(flat).collect(),
                    number => vec![number.as_f64().unwrap()],
                }
            }
            let expected = file.get(golden).map_err(|f| f.error).unwrap().values;
            let own = flat(&found[key]);
            assert_eq!(own.len(), expected.len(), "{key}");
            for (own, expected) in own.iter().zip(&expected) {
                assert!((own - expected).abs() < 1e-12, "{key}: {own} {expected}");
            }
        }
    }

    #[test]
    fn settings_outside_their_range_are_refused() {
        let error = |settings: Settings| settings.check().unwrap_err().to_string();
        let message = error(Settings {
            beta_sq: [1.2; 2],
            ..Settings::default()
        });
        assert!(message.contains("layer 2 is solvable only if"), "{message}");
        let message = error(Settings {
            patches: vec![4, 8],
            ..Settings::default()
        });
        assert!(message.contains("with 4 tokens"), "{message}");
        let message = error(Settings {
            patches: vec![32, 16],
            ..Settings::default()
        });
        assert!(message.contains("ascending order"), "{message}");
    }
}
