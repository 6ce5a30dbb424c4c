//! Theorem 1 and Lemma 1 of Appendix C: how many iterations an activation prompt needs at layer 1 and at layer 2 of a
//! two-layer, single-head model, and what layer 1 does to the attention distance.

mod flow;
mod lemma;
mod model;
mod report;
mod settings;
mod sgd;

use serde_json::json;

use self::settings::{CLAIMS, Exponent, Lemma, SGD_TOKENS, Settings};
use crate::exit::{Failure, config_error};
use crate::study::Study;
use crate::study::claim::{Verdict, all};
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
