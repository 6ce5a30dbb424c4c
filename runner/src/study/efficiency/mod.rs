//! Tab. 2, 4 and A4 to A9: what the methods cost, by counting and by measuring.

mod printed;
mod row;
mod verdicts;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_yaml::Value;

use self::printed::{Compared, Printed};
use self::row::{Measured, Row};
use crate::compare::config::{BackboneEntry, Comparison, MethodEntry};
use crate::compare::tables::table::{Column, Entry, Table};
use crate::exit::{Failure, config_error};
use crate::measure::{self, Repeats, median};
use crate::model::workshop::Workshop;
use crate::report::numbers::{grouped, in_mebibytes};
use crate::run::progress::Reporter;
use crate::study::Study;
use crate::study::claim::{Judged, Verdict, all};
use crate::study::outcome::Outcome;
use crate::study::request::{Request, taken, typed};
use crate::study::table::number;
use crate::study::trained::plan::{Skeleton, sizes};
use crate::study::trained::settings;
use crate::train::Trainer;
use verdicts::{CLAIMS, Times, judge};

pub const STUDY: Study = Study {
    name: "efficiency",
    summary: "parameters, arithmetic, memory and time of the methods",
    source: "Tab. 2, 4, A4 to A9, Sec. 5.2",
    files: &[],
    config: Some("study/efficiency-micro.yaml"),
    run,
};

/// The keys of the study's YAML that a comparison does not have.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Own {
    /// Images of a step, at least 1.
    batch: usize,
    /// Whether parameters and operations are only counted, and nothing runs.
    #[serde(default)]
    counts_only: bool,
    /// Images of an epoch. Default: those of the data set.
    #[serde(default)]
    images: Option<usize>,
    /// Stretches that are timed after the warm-up, at least 5.
    #[serde(default = "stretches")]
    stretches: usize,
    /// Numbers of parameters that the paper prints. With them, they alone are judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    paper: Vec<Printed>,
}

const KEYS: [&str; 5] = ["batch", "counts_only", "images", "stretches", "paper"];

fn stretches() -> usize {
    5
}

fn run(request: &Request) -> Result<Outcome, Failure> {
    let (stem, mut document) = request.document()?;
    let own: Own = typed(taken(&mut document, &KEYS), &stem)?;
    if own.batch == 0 || own.stretches < 5 {
        return Err(config_error(format!(
            "expected batch of at least 1 and stretches of at least 5, got {} and {}",
            own.batch, own.stretches
        )));
    }
    set_batch(&mut document, own.batch);
    let comparison = Comparison::resolved(document, &stem, stem.clone())?;
    let dataset = &comparison.datasets[0];
    let (classes, train) = sizes(dataset)?;
    let train = own.images.unwrap_or(train);
    let mut workshop = Workshop::new(request.device, request.cache);
    let mut rows = Vec::new();
    for backbone in &comparison.backbones {
        let skeleton = Skeleton::of(backbone)?;
        for method in comparison
            .methods
            .iter()
            .filter(|method| method.takes(backbone))
        {
            if request.interrupt.load(Ordering::Relaxed) {
                return Err(Failure::interrupted());
            }
            let count = skeleton.count(&method.component, classes)?;
            let measured = match own.counts_only || request.dry_run {
                true => None,
                false => {
                    eprintln!("{}, {}", method.label, backbone.label);
                    Some(measured(
                        &comparison,
                        method,
                        backbone,
                        &own,
                        train,
                        &mut workshop,
                    )?)
                }
            };
            rows.push(Row {
                backbone: backbone.label.clone(),
                label: method.label.clone(),
                cnn: skeleton.is_cnn(),
                features: skeleton.spec().features,
                count,
                measured,
            });
        }
    }
    let times = match (own.counts_only, request.device.is_cpu()) {
        (true, _) => Times::None,
        (false, true) => Times::OnCpu,
        (false, false) => Times::OnGpu,
    };
    let claims = CLAIMS
        .iter()
        .map(|claim| claim.judged(judge(claim, &rows, times)));
    let printed = own.paper.iter();
    let printed = printed.map(|printed| Compared::of(printed, &rows, classes));
    let printed: Vec<Compared> = printed.collect::<Result<_, Failure>>()?;
    let claims: Vec<Judged> = match (printed.is_empty(), request.dry_run) {
        (false, _) => vec![printed::judge(&printed)],
        (true, true) => all(&CLAIMS, Verdict::Undecided, "a dry run measures nothing"),
        (true, false) => claims.collect(),
    };
    let mut tables = vec![table(&rows)];
    if !printed.is_empty() {
        tables.push(printed::table(&printed));
    }
    let result = rows.iter().map(|row| {
        let measured = row.measured.as_ref();
        json!({
            "backbone": row.backbone,
            "label": row.label,
            "trainable": row.count.trainable,
            "forward_flop": row.count.forward,
            "step_flop": row.count.step,
            "peak_bytes": measured.map(|m| m.peak),
            "kept_bytes": measured.map(|m| m.kept),
            "optimizer_bytes": measured.map(|m| m.optimizer),
            "seconds_per_step": measured.map(|m| &m.steps),
            "seconds_per_epoch": measured.map(|m| m.seconds_per_epoch),
            "images_per_second": measured.map(|m| m.images_per_second),
        })
    });
    Ok(Outcome {
        claims,
        result: json!({
            "rows": result.collect::<Vec<_>>(),
            "printed": printed.iter().map(Compared::json).collect::<Vec<_>>(),
        }),
        settings: settings(&own, &comparison)?,
        tables,
        figures: Vec::new(),
        notes: vec![format!(
            "Operations are those of one image, memory and times those of batches of {} on {}, random images, without a prefix \
             cache; an epoch has {train} images. Warm-up is not timed; seconds of an epoch are from the median of {} steps.",
            own.batch, request.device.name, own.stretches
        )],
    })
}

/// Every trial has the batch of the study, and no cache.
fn set_batch(document: &mut Value, batch: usize) {
    let Value::Mapping(map) = document else {
        return;
    };
    let trial = map
        .entry("trial".into())
        .or_insert(Value::Mapping(Default::default()));
    let Value::Mapping(trial) = trial else {
        return;
    };
    trial.insert("prefix_cache".into(), "off".into());
    let mut recipe = match trial.remove("recipe") {
        Some(Value::Mapping(recipe)) => recipe,
        Some(name) => [(Value::from("extends"), name)].into_iter().collect(),
        None => Default::default(),
    };
    recipe.insert("batch_size".into(), batch.into());
    trial.insert("recipe".into(), Value::Mapping(recipe));
}

/// Runs steps and forward passes of a row on random images.
fn measured(
    comparison: &Comparison,
    method: &MethodEntry,
    backbone: &BackboneEntry,
    own: &Own,
    train: usize,
    workshop: &mut Workshop,
) -> Result<Measured, Failure> {
    let seed = comparison.seeds[0];
    let experiment = comparison.experiment(method, backbone, &comparison.datasets[0], seed)?;
    let (trial, model) = workshop.open(experiment)?;
    let device = workshop.device();
    let repeats = Repeats {
        warmup: 3,
        steps: own.stretches,
    };
    let reporter = Reporter::unlogged();
    let batch = measure::random_batch(&trial, device);
    let mut trainer = Trainer::new(&trial, model, device, None, Arc::default(), &reporter)?;
    let memory = measure::step_memory(&mut trainer, &batch, device)?;
    let steps = measure::repeat(device, repeats, || {
        trainer.step(batch.clone(), &mut |_| ());
    })?;
    let trained = trainer.model();
    let inference = measure::inference(&trained, &trial, &batch, device, repeats)?;
    Ok(Measured {
        peak: memory.peak,
        kept: memory.kept,
        optimizer: memory.optimizer,
        seconds_per_epoch: median(&steps) * train as f64 / own.batch as f64,
        images_per_second: own.batch as f64 / median(&inference),
        steps,
    })
}

fn table(rows: &[Row]) -> Table {
    let cells = rows.iter().map(|row| {
        let measured = row.measured.as_ref();
        let ends = measured.map(|m| {
            let least = m.steps.iter().copied().fold(f64::INFINITY, f64::min);
            let most = m.steps.iter().copied().fold(0.0, f64::max);
            format!("{:.0} to {:.0} ms", 1e3 * least, 1e3 * most)
        });
        let entries = vec![
            Entry::text(grouped(row.count.trainable)),
            number(Some(row.count.forward as f64 / 1e9)),
            number(Some(row.count.step as f64 / 1e9)),
            number(measured.map(|m| in_mebibytes(m.peak))),
            number(measured.map(|m| in_mebibytes(m.kept))),
            number(measured.map(|m| m.seconds_per_epoch)),
            Entry::text(ends.unwrap_or_else(|| "–".to_owned())),
            number(measured.map(|m| m.images_per_second)),
        ];
        (format!("{}, {}", row.label, row.backbone), entries)
    });
    let names = [
        "trainable",
        "GFLOP forward",
        "GFLOP step",
        "peak MiB",
        "kept MiB",
        "s/epoch",
        "steps",
        "images/s",
    ];
    Table {
        title: "Cost".to_owned(),
        names: "row",
        columns: names
            .iter()
            .map(|name| Column::number(*name, None))
            .collect(),
        rows: cells.collect(),
        notes: Vec::new(),
    }
}
