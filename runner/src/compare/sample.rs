//! A made-up comparison for tests: eleven methods, two backbones, nine data sets, three seeds. Some
//! trials failed or have not run, one method does not fit one backbone, and learning rates were
//! searched for.

use peft_core::random::Generator;
use serde_json::json;

use super::results::{DatasetColumn, Missing, Results};
use super::search::Retrain;
use super::state::Unfinished;
use crate::data::targets::Targets;
use crate::run::summary::{
    Candidate, Cell, Failed, Inference, Memory, Params, Summary, Time, Tuning,
};
use crate::train::checkpoint::EpochRecord;
use crate::train::metrics::{Metric, Metrics, Tally};

/// Label, trained parameters, strength, cost of an epoch in seconds.
const METHODS: [(&str, usize, f64, f64); 11] = [
    ("linear-probe", 0, 0.0, 1.0),
    ("full-finetune", 5_400_000, 0.75, 9.0),
    ("norm-tune", 9_600, 0.55, 7.5),
    ("bitfit", 41_000, 0.6, 7.6),
    ("vpt-deep", 92_000, 0.68, 9.8),
    ("vp <frame> & \"pad\"", 12_000, 0.08, 10.5),
    ("ap", 37_632, 0.8, 3.1),
    ("lora", 147_456, 0.88, 7.9),
    ("adapter", 155_000, 0.83, 7.8),
    ("adaptformer", 148_000, 0.86, 7.7),
    ("ssf", 52_000, 0.82, 8.2),
];

const BACKBONES: [(&str, usize, f64); 2] =
    [("vit-micro", 496_000, 0.8), ("resnet50", 23_500_000, 0.86)];

/// Label, group, number of classes, difficulty.
const DATASETS: [(&str, &str, usize, f64); 9] = [
    ("flowers", "natural", 12, 0.25),
    ("pets", "natural", 37, 0.3),
    ("digits", "natural", 10, 0.1),
    ("eurosat", "specialised", 10, 0.15),
    ("resisc", "specialised", 45, 0.35),
    ("retina", "specialised", 5, 0.4),
    ("shapes-count", "structured", 8, 0.55),
    ("shapes-azimuth", "structured", 16, 0.6),
    ("waterbirds", "structured", 2, 0.3),
];

const EPOCHS: usize = 20;

/// The comparison with `seeds` seeds on the first `datasets` data sets.
pub fn results(datasets: usize, seeds: u64) -> Results {
    let mut results = Results {
        name: "mini <vtab> & friends".to_owned(),
        description: "Eleven methods on two small backbones. Made up, to be looked at.".to_owned(),
        baseline: Some("linear-probe".to_owned()),
        methods: METHODS.map(|m| m.0.to_owned()).to_vec(),
        backbones: BACKBONES.map(|b| b.0.to_owned()).to_vec(),
        datasets: DATASETS[..datasets]
            .iter()
            .map(|d| DatasetColumn {
                label: d.0.to_owned(),
                group: Some(d.1.to_owned()),
            })
            .collect(),
        seeds: (0..seeds).collect(),
        expected: Vec::new(),
        config: "name: mini\nmethods:\n- linear-probe\n- lora # <yaml>\n".to_owned(),
        done: Vec::new(),
        failed: Vec::new(),
        missing: Vec::new(),
    };
    for backbone in 0..BACKBONES.len() {
        for (method, (label, ..)) in METHODS.iter().enumerate() {
            // VPT needs tokens, and a ResNet has feature maps.
            if (*label, backbone) == ("vpt-deep", 1) {
                continue;
            }
            for dataset in 0..datasets {
                for seed in 0..seeds {
                    trial(&mut results, [backbone, method, dataset], seed);
                }
            }
        }
    }
    results
}

fn trial(results: &mut Results, place: [usize; 3], seed: u64) {
    let [backbone, method, dataset] = place;
    let (m, b, d) = (METHODS[method], BACKBONES[backbone], DATASETS[dataset]);
    let mut overrides = std::collections::BTreeMap::new();
    if method == 1 {
        overrides.insert("recipe.optimizer.lr".to_owned(), "0.0001".to_owned());
    }
    let cell = Cell {
        method: m.0.to_owned(),
        backbone: b.0.to_owned(),
        dataset: d.0.to_owned(),
        group: Some(d.1.to_owned()),
        overrides,
    };
    let Some(cell) = with_result(results, cell, place, seed) else {
        return;
    };
    let path = format!("{}/{}/{}", b.0, m.0, d.0);
    // A stream for each trial, so that another method or data set does not change the numbers of
    // the others.
    let mut generator = Generator::new(seed, &path);
    // Noise large enough that methods swap ranks between data sets, as they do in practice.
    let strength = m.2 + 0.05 * f64::from(generator.normal());
    let wanted = (b.2 - d.3 + strength * d.3 * 0.85).clamp(0.05, 0.99);
    let test = measured(&mut generator, d.2, wanted);
    let heads = 192 * d.2;
    let seconds = m.3 * (1.0 + backbone as f64) * (0.9 + 0.2 * f64::from(generator.unit()));
    let history = history(&mut generator, test.top1.unwrap_or(wanted), seconds);
    results.done.push(Summary {
        experiment: results.name.clone(),
        trial: format!("{}-{}-{}-s{seed}-c99f49cb", m.0, b.0, d.0),
        cell: Some(cell),
        methods: vec![m.0.to_owned()],
        metric: if d.2 == 2 {
            Metric::WorstGroup
        } else {
            Metric::Top1
        },
        validation: history[EPOCHS - 2].validation.clone(),
        test,
        skipped: 0,
        best_epoch: EPOCHS - 1,
        epochs: EPOCHS,
        params: Params {
            trainable: m.1 + heads,
            total: b.1 + m.1 + heads,
            adapter: m.1,
            tuned: 0,
            head: heads,
            formula: m.1,
        },
        memory: Memory {
            peak_bytes: ((40.0 + 21.0 * m.3) * 1e6 * (1.0 + 2.5 * backbone as f64)) as usize
                + 4 * m.1,
            cache_bytes: if m.3 < 4.0 { 12_000_000 } else { 0 },
        },
        time: Time {
            seconds_per_epoch: seconds,
            timed_epochs: EPOCHS - 1,
            cache_seconds: if m.3 < 4.0 && seed == 0 { 4.2 } else { 0.0 },
            total_seconds: seconds * EPOCHS as f64 * 1.2,
        },
        inference: Inference {
            images_per_second: 700.0 / (1.0 + 0.05 * m.3) / (1.0 + backbone as f64),
        },
        device: "cpu".to_owned(),
        device_vouched: false,
        random_weights: false,
        config_hash: "c99f49cb".to_owned(),
        seed,
        classes: (0..d.2).map(|class| format!("{} <{class}>", d.0)).collect(),
        history,
        tuning: (m.0 == "lora").then(|| search(d.0)),
        config: json!({"name": m.0, "method": {"name": m.0, "note": "<i>"}, "seed": seed}),
        environment: json!({"burn": "0.22.1", "device": "cpu", "threads": 2}),
    });
}

/// The cell of a trial that finishes; the few that do not go to the failed and the missing ones.
fn with_result(
    results: &mut Results,
    cell: Cell,
    [backbone, method, dataset]: [usize; 3],
    seed: u64,
) -> Option<Cell> {
    let mut fail = |cell, exit, error: &str| {
        results.failed.push(Failed {
            cell,
            seed,
            exit,
            error: error.to_owned(),
        });
    };
    match (METHODS[method].0, backbone, dataset, seed) {
        ("full-finetune", 1, 4, 1) => {
            let error = "epoch 3: the loss is not finite <oh>\n  after 412 steps";
            fail(cell, 3, error);
        }
        ("vp <frame> & \"pad\"", 1, 7, _) => {
            let error = "vp: a frame of 40 does not fit, expected at most 32";
            fail(cell, 2, error);
        }
        ("ssf", 1, 8, 2) => results.missing.push(Missing {
            cell,
            seed,
            state: Unfinished::Waiting,
        }),
        _ => return Some(cell),
    }
    None
}

/// Epochs that approach a test accuracy of `top1`.
fn history(generator: &mut Generator, top1: f64, seconds: f64) -> Vec<EpochRecord> {
    let record = |epoch: usize| {
        let reached = 1.0 - 0.8f64.powi(epoch as i32) + 0.01 * f64::from(generator.normal());
        let top1 = (top1 * reached).clamp(0.0, 1.0);
        EpochRecord {
            epoch,
            step: 34 * epoch as u64,
            train_loss: 2.3 * (1.05 - reached),
            validation: Some(Metrics {
                images: 100,
                loss: 2.5 * (1.1 - reached),
                top1: Some(top1),
                ..Metrics::default()
            }),
            score: Some(top1),
            lr: 0.001,
            seconds,
        }
    };
    (1..=EPOCHS).map(record).collect()
}

/// Metrics near an accuracy of `wanted`.
fn measured(generator: &mut Generator, classes: usize, wanted: f64) -> Metrics {
    let groups: Vec<String> = match classes {
        2 => vec!["land".to_owned(), "water".to_owned()],
        _ => Vec::new(),
    };
    let mut tally = Tally::new(classes, &groups);
    for image in 0..classes * 20 {
        let label = image % classes;
        let guess = match f64::from(generator.unit()) < wanted {
            true => label,
            false => (label + 1 + generator.below(3)) % classes,
        };
        let logits: Vec<f32> = (0..classes)
            .map(|class| f32::from(u8::from(class == guess)))
            .collect();
        let group: Vec<usize> = groups.first().map(|_| image / 2 % 2).into_iter().collect();
        tally.add(&logits, &Targets::One(vec![label]), &group);
    }
    tally.finish()
}

fn search(dataset: &str) -> Tuning {
    let candidate = |lr: &str, score: Option<f64>| Candidate {
        set: [("recipe.optimizer.lr".to_owned(), lr.to_owned())].into(),
        epochs: EPOCHS,
        best_epoch: 14,
        validation: score.map(|top1| Metrics {
            images: 100,
            loss: 1.2 - top1,
            top1: Some(top1),
            ..Metrics::default()
        }),
        score,
        seconds: 30.0 + dataset.len() as f64,
        error: score.is_none().then(|| "the loss is not finite".to_owned()),
    };
    Tuning {
        search: "grid".to_owned(),
        retrain: Retrain::TrainValidation,
        seed: 0,
        candidates: vec![
            candidate("0.0001", Some(0.6)),
            candidate("0.001", Some(0.75)),
            candidate("0.01", None),
        ],
        chosen: 1,
        seconds: 3.0 * (30.0 + dataset.len() as f64),
    }
}
