//! The label map of logits in a file.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::{Failure, config_error};
use crate::model::label_map::{Counts, Mapping, check, greedy, largest};
use crate::study::claim::Judged;
use crate::study::outcome::{Outcome, json};
use crate::study::request::TensorFile;

/// The settings for a file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The tensor of logits `[n, S]`.
    tensor: String,
    /// The tensor of labels `[n]`.
    labels: String,
    /// Source classes that stand for a target class, at least 1.
    sources: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tensor: "logits".to_owned(),
            labels: "labels".to_owned(),
            sources: 1,
        }
    }
}

/// A label map and its accuracy on given logits.
struct Found {
    counts: Counts,
    mapping: Mapping,
    loss: f64,
    correct: usize,
}

/// The outcome for a file.
pub fn outcome(path: &Path, settings: &Settings, claims: Vec<Judged>) -> Result<Outcome, Failure> {
    let found = found(&TensorFile::open("--logits", path)?, settings)?;
    let mapping: Value = match settings.sources {
        1 => json!(found.mapping.concat()),
        _ => json!(found.mapping),
    };
    Ok(Outcome {
        claims,
        result: json!({
            "counts": found.counts, "mapping": mapping, "loss": found.loss, "correct": found.correct,
        }),
        settings: json(settings)?,
        notes: vec![format!(
            "{} of the images are classified correctly; mean cross-entropy {:.6}.",
            found.correct, found.loss
        )],
        ..Outcome::default()
    })
}

fn found(file: &TensorFile, settings: &Settings) -> Result<Found, Failure> {
    let logits = file.get(&settings.tensor)?;
    let &[images, sources] = &logits.shape[..] else {
        let message = format!(
            "{}: {}: expected [n, S], got {:?}",
            file.path(),
            settings.tensor,
            logits.shape
        );
        return Err(config_error(message));
    };
    let labels = file.shaped(&settings.labels, &[images])?;
    if images == 0
        || labels
            .iter()
            .any(|label| *label < 0.0 || label.fract() != 0.0)
    {
        let message = format!(
            "{}: {}: expected classes from 0",
            file.path(),
            settings.labels
        );
        return Err(config_error(message));
    }
    let labels: Vec<usize> = labels.iter().map(|label| *label as usize).collect();
    let targets = labels.iter().max().map_or(0, |most| most + 1);
    check(sources, targets, settings.sources)?;
    let rows: Vec<&[f64]> = logits.values.chunks_exact(sources).collect();
    let mut counts = vec![vec![0; targets]; sources];
    for (row, label) in rows.iter().zip(&labels) {
        counts[largest(row)][*label] += 1;
    }
    let mapping = greedy(&counts, targets, settings.sources);
    let (mut loss, mut correct) = (0.0, 0);
    for (row, label) in rows.iter().zip(&labels) {
        let mean = |own: &Vec<usize>| {
            own.iter().map(|source| row[*source]).sum::<f64>() / own.len() as f64
        };
        let mapped: Vec<f64> = mapping.iter().map(mean).collect();
        let most = mapped.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = mapped.iter().map(|logit| (logit - most).exp()).sum();
        loss += sum.ln() + most - mapped[*label];
        correct += usize::from(largest(&mapped) == *label);
    }
    Ok(Found {
        counts,
        mapping,
        loss: loss / images as f64,
        correct,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_give_the_golden_maps_losses_and_scores() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/label_mapping");
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let path = folder.join("io.safetensors");
        let file = TensorFile::open("--logits", &path)
            .map_err(|f| f.error)
            .unwrap();
        for epoch in 0..3 {
            let settings = |sources| Settings {
                tensor: format!("logits.{epoch}"),
                sources,
                ..Settings::default()
            };
            let one = found(&file, &settings(1)).map_err(|f| f.error).unwrap();
            assert_eq!(json!(one.counts), golden["counts"][epoch]);
            assert_eq!(json!(one.mapping.concat()), golden["greedy"][epoch]);
            // The map of an epoch is that of `iterative`.
            assert_eq!(json!(one.correct), golden["correct"]["iterative"][epoch]);
            let loss = golden["loss"]["iterative"][epoch].as_f64().unwrap();
            assert!((one.loss - loss).abs() < 1e-6, "{} {loss}", one.loss);
            let two = found(&file, &settings(2)).map_err(|f| f.error).unwrap();
            assert_eq!(json!(two.mapping), golden["greedy_two_sources"][epoch]);
        }
        let error = found(
            &file,
            &Settings {
                tensor: "logits.0".to_owned(),
                sources: 3,
                ..Settings::default()
            },
        );
        let error = error.err().unwrap().to_string();
        assert!(
            error.contains("need 15, and the checkpoint has 11"),
            "{error}"
        );
    }
}
