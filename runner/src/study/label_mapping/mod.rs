//! Visual prompting without a trained head: which classes of a checkpoint stand for those of a data set, how far they
//! already go, and whether it matters how they are found.

mod logits;
mod look;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_yaml::{Mapping, Value};

use crate::compare::tables::table::{Column, Entry, Table};
use crate::config::head::{HeadConfig, MapKind};
use crate::exit::Failure;
use crate::study::Study;
use crate::study::claim::{Claim, Judged, Verdict, all};
use crate::study::outcome::Outcome;
use crate::study::request::{Request, taken, typed};
use crate::study::statistics::above;
use crate::study::table::{number, percent};
use crate::study::trained::plan::Skeleton;
use crate::study::trained::pretrainings::of_pretrainings;
use crate::study::trained::rows::{Row, deviation_of, differences, mean_of, rows};
use crate::study::trained::{Frame, Method, Rates, missing, settings, together};

pub const STUDY: Study = Study {
    name: "label-mapping",
    summary: "visual prompting with a checkpoint's own classes in the place of a trained head",
    source: "Related work, the protocol of the VP baseline",
    files: &["logits"],
    config: Some("study/label-mapping-micro.yaml"),
    run,
};

const CLAIM: Claim = Claim {
    id: "mapping-matters",
    source: "Related work (Chen et al., 2023)",
    claim: "on ResNet-18 and CIFAR-10 an iterative label map is above a frequency map, and that above a random one",
};

/// The keys of the study's YAML that a comparison does not have.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Own {
    /// The method that trains: a name in `configs/peft`, or the fields of a method.
    #[serde(default = "vp")]
    #[schemars(with = "serde_json::Value")]
    method: Value,
    /// How the source classes are found, a row for each.
    #[serde(default = "kinds")]
    kinds: Vec<MapKind>,
    /// Epochs between two maps of `iterative`, at least 1.
    #[serde(default = "one")]
    every: usize,
    /// Source classes that stand for a target class, at least 1.
    #[serde(default = "one")]
    sources: usize,
    /// Learning rates, among which validation chooses for every row: a list, or a list for each backbone.
    #[schemars(with = "serde_json::Value")]
    learning_rates: Value,
}

const KEYS: [&str; 5] = ["method", "kinds", "every", "sources", "learning_rates"];

fn vp() -> Value {
    Value::Mapping(Mapping::from_iter([("name".into(), "vp".into())]))
}
fn kinds() -> Vec<MapKind> {
    vec![MapKind::Random, MapKind::Frequency, MapKind::Iterative]
}
fn one() -> usize {
    1
}

/// The label of a row.
fn label(kind: MapKind) -> &'static str {
    match kind {
        MapKind::Random => "random",
        MapKind::Frequency => "frequency",
        MapKind::Iterative => "iterative",
    }
}

fn run(request: &Request) -> Result<Outcome, Failure> {
    if let Some(path) = &request.files.logits {
        let settings: logits::Settings = request.settings()?;
        let claims = all(&[CLAIM], Verdict::None, "raw tensors were given");
        return logits::outcome(path, &settings, claims);
    }
    let (stem, mut document) = request.document()?;
    let own: Own = typed(taken(&mut document, &KEYS), &stem)?;
    let frame = Frame::read(stem, document)?;
    let backbones = frame.backbones();
    let rates = Rates::read("learning_rates", &own.learning_rates, &backbones)?;
    let mut methods = Vec::new();
    for &kind in &own.kinds {
        let head = HeadConfig::LabelMapping {
            kind,
            every: own.every,
            sources: own.sources,
        };
        let head = serde_yaml::to_value(&head).map_err(crate::exit::config_error)?;
        methods.push(Method {
            label: label(kind).to_owned(),
            component: own.method.clone(),
            backbones: backbones.clone(),
            rates: rates.by_backbone().clone(),
            set: Mapping::from_iter([("head".into(), head)]),
        });
    }
    let grid = frame.with(methods)?;
    let lacking = missing(&grid.comparison.backbones, &grid.comparison.datasets)?;
    let mut outcome = Outcome {
        settings: settings(&own, &grid.comparison)?,
        notes: vec![grid.work()?.sentence()],
        ..Outcome::default()
    };
    if let (false, None) = (request.dry_run, &lacking) {
        let looks = look::looks(&grid, own.sources, request)?;
        let results = grid.carry_out(request)?;
        let found = rows(&grid, &results);
        outcome.claims = vec![judge(&found, &grid.skeletons()?)];
        outcome.tables = looks.iter().map(look::Look::table).collect();
        outcome.tables.push(table(&found));
        outcome.result =
            json!({ "looks": looks, "rows": found.iter().map(result_row).collect::<Vec<_>>() });
        outcome.notes.push(
            "The first tables are a map by frequency before any training, with the prompt as initialised, and what it scores on \
             validation. The best epoch is chosen on validation; the reference implementation chooses it on test."
                .to_owned(),
        );
        return Ok(outcome);
    }
    outcome.result = json!({ "looks": [], "rows": [] });
    outcome.claims = match lacking {
        Some(missing) if !request.dry_run => {
            let reason = format!("{missing}; with them, the same command decides");
            all(&[CLAIM], Verdict::NeedsData, &reason)
        }
        _ => all(&[CLAIM], Verdict::Undecided, "a dry run trains nothing"),
    };
    Ok(outcome)
}

/// Iterative above frequency, and frequency above random, on every backbone and data set.
fn judge(found: &[Row], skeletons: &BTreeMap<String, Skeleton>) -> Judged {
    let of = |row: &Row, kind: MapKind| {
        let mut same = found
            .iter()
            .filter(|other| (&other.backbone, &other.dataset) == (&row.backbone, &row.dataset));
        same.find(|other| other.method == label(kind))
            .map(|other| other.test.clone())
    };
    let mut each = Vec::new();
    for row in found
        .iter()
        .filter(|row| row.method == label(MapKind::Iterative))
    {
        let (Some(frequency), Some(random)) =
            (of(row, MapKind::Frequency), of(row, MapKind::Random))
        else {
            continue;
        };
        let (first, above_frequency) = above(&differences(&row.test, &frequency));
        let (second, above_random) = above(&differences(&frequency, &random));
        let verdict = match (first, second) {
            (Verdict::Holds, Verdict::Holds) => Verdict::Holds,
            (Verdict::DoesNotHold, _) | (_, Verdict::DoesNotHold) => Verdict::DoesNotHold,
            _ => Verdict::Undecided,
        };
        let text = format!(
            "iterative minus frequency: {above_frequency}; frequency minus random: {above_random}"
        );
        each.push((
            format!("{}, {}", row.backbone, row.dataset),
            (verdict, text),
        ));
    }
    CLAIM.judged(of_pretrainings(skeletons, together(each)))
}

fn result_row(row: &Row) -> serde_json::Value {
    json!({
        "backbone": row.backbone,
        "dataset": row.dataset,
        "kind": row.method,
        "learning_rate": row.rate,
        "validation": mean_of(&row.validation),
        "test": mean_of(&row.test),
        "test_by_seed": row.test,
        "seeds": row.test.len(),
    })
}

fn table(found: &[Row]) -> Table {
    let cells = found.iter().map(|row| {
        let entries: Vec<Entry> = vec![
            number(row.rate),
            percent(mean_of(&row.validation), deviation_of(&row.validation)),
            percent(mean_of(&row.test), deviation_of(&row.test)),
        ];
        (
            format!("{}, {}, {}", row.method, row.backbone, row.dataset),
            entries,
        )
    });
    let columns = ["learning rate", "validation %", "test %"];
    Table {
        title: "Accuracy after training the prompt".to_owned(),
        names: "map",
        columns: columns
            .iter()
            .map(|name| Column::number(*name, None))
            .collect(),
        rows: cells.collect(),
        notes: Vec::new(),
    }
}
