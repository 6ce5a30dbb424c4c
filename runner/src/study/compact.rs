//! The paper's limitation: on compact models an activation prompt beats VP but not norm-tuning.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_yaml::{Mapping, Value};

use crate::compare::tables::table::{Column, Entry, Table};
use crate::exit::{Failure, config_error};
use crate::report::numbers::grouped;
use crate::study::Study;
use crate::study::claim::{Claim, Judged, Verdict, all};
use crate::study::outcome::Outcome;
use crate::study::request::{Request, taken, typed};
use crate::study::statistics::{above, not_below};
use crate::study::table::{number, percent};
use crate::study::trained::plan::{Skeleton, sizes};
use crate::study::trained::pretrainings::of_pretrainings;
use crate::study::trained::rows::{Row, deviation_of, differences, mean_of, rows};
use crate::study::trained::{Frame, Method, Rates, missing, settings, together};

pub const STUDY: Study = Study {
    name: "compact",
    summary: "activation prompts, VP and norm-tuning on compact models",
    source: "Sec. 5.2, discussion and limitations",
    files: &[],
    config: Some("study/compact-micro.yaml"),
    run,
};

const ABOVE_VP: Claim = Claim {
    id: "above-vp",
    source: "Sec. 5.2",
    claim: "on compact models an activation prompt beats VP",
};
const NOT_ABOVE_NORM: Claim = Claim {
    id: "not-above-norm",
    source: "Sec. 5.2",
    claim: "on compact models an activation prompt does not beat norm-tuning",
};

/// How far norm-tuning may be below by chance, in shares.
const MARGIN: f64 = 0.005;

/// The keys of the study's YAML that a comparison does not have.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Own {
    /// The activation prompt: a name in `configs/peft`, or the fields of a method.
    #[serde(default = "ap")]
    #[schemars(with = "serde_json::Value")]
    ap: Value,
    /// The visual prompt.
    #[serde(default = "vp")]
    #[schemars(with = "serde_json::Value")]
    vp: Value,
    /// Norm-tuning.
    #[serde(default = "norm")]
    #[schemars(with = "serde_json::Value")]
    norm: Value,
    /// Learning rates, among which validation chooses for every row: a list for each of `ap`, `vp` and `norm`, or a
    /// list for each backbone below them.
    #[schemars(with = "serde_json::Value")]
    learning_rates: Mapping,
}

const KEYS: [&str; 4] = ["ap", "vp", "norm", "learning_rates"];

fn named(name: &str) -> Value {
    Value::Mapping(Mapping::from_iter([("name".into(), name.into())]))
}
fn ap() -> Value {
    named("ap")
}
fn vp() -> Value {
    named("vp")
}
fn norm() -> Value {
    named("norm-tune")
}

const ROWS: [&str; 3] = ["VP", "Norm-Tune", "AP"];

fn run(request: &Request) -> Result<Outcome, Failure> {
    let (stem, mut document) = request.document()?;
    let own: Own = typed(taken(&mut document, &KEYS), &stem)?;
    let frame = Frame::read(stem, document)?;
    let backbones = frame.backbones();
    let parts = [("vp", &own.vp), ("norm", &own.norm), ("ap", &own.ap)];
    let methods = parts
        .into_iter()
        .zip(ROWS)
        .map(|((key, component), label)| {
            let place = format!("learning_rates.{key}");
            let rates = own.learning_rates.get(key);
            let rates = rates.ok_or_else(|| config_error(format!("{place}: missing")))?;
            Ok(Method {
                label: label.to_owned(),
                component: component.clone(),
                rates: Rates::read(&place, rates, &backbones)?
                    .by_backbone()
                    .clone(),
                backbones: backbones.clone(),
                set: Mapping::new(),
            })
        });
    let grid = frame.with(methods.collect::<Result<_, Failure>>()?)?;
    let lacking = missing(&grid.comparison.backbones, &grid.comparison.datasets)?;
    let results = match (request.dry_run, &lacking) {
        (false, None) => Some(grid.carry_out(request)?),
        _ => None,
    };
    let found = match &results {
        Some(results) => rows(&grid, results),
        None => Vec::new(),
    };
    let skeletons = grid.skeletons()?;
    let claims = [ABOVE_VP, NOT_ABOVE_NORM];
    let judged = match (&lacking, request.dry_run) {
        (_, true) => all(&claims, Verdict::Undecided, "a dry run trains nothing"),
        (Some(missing), _) => {
            let reason = format!("{missing}; with them, the same command decides");
            all(&claims, Verdict::NeedsData, &reason)
        }
        (None, false) => judge(&found, &skeletons),
    };
    let (mut result, mut table_rows) = (Vec::new(), Vec::new());
    for dataset in &grid.comparison.datasets {
        let (classes, _) = sizes(dataset)?;
        for backbone in &grid.comparison.backbones {
            for method in &grid.methods {
                let count = skeletons[&backbone.label].count(&method.component, classes)?;
                let of = |row: &&Row| {
                    (&row.backbone, &row.dataset, &row.method)
                        == (&backbone.label, &dataset.label, &method.label)
                };
                let row = found.iter().find(of).cloned().unwrap_or_default();
                result.push(json!({
                    "backbone": backbone.label,
                    "dataset": dataset.label,
                    "method": method.label,
                    "trainable": count.trainable,
                    "learning_rate": row.rate,
                    "validation": mean_of(&row.validation),
                    "test": mean_of(&row.test),
                    "test_by_seed": row.test,
                    "seeds": row.test.len(),
                }));
                table_rows.push((
                    format!("{}, {}, {}", method.label, backbone.label, dataset.label),
                    vec![
                        Entry::text(grouped(count.trainable)),
                        number(row.rate),
                        percent(mean_of(&row.validation), deviation_of(&row.validation)),
                        percent(mean_of(&row.test), deviation_of(&row.test)),
                    ],
                ));
            }
        }
    }
    let columns = ["trainable", "learning rate", "validation %", "test %"];
    let table = Table {
        title: "Accuracy, each row at the learning rate that validation chose".to_owned(),
        names: "row",
        columns: columns
            .iter()
            .map(|name| Column::number(*name, None))
            .collect(),
        rows: table_rows,
        notes: Vec::new(),
    };
    Ok(Outcome {
        claims: judged,
        result: json!({ "rows": result }),
        settings: settings(&own, &grid.comparison)?,
        tables: vec![table],
        figures: Vec::new(),
        notes: vec![grid.work()?.sentence()],
    })
}

fn judge(found: &[Row], skeletons: &BTreeMap<String, Skeleton>) -> Vec<Judged> {
    let row = |of: &Row, method: &str| {
        let mut own = found.iter().filter(|row| row.method == method);
        own.find(|row| (&row.backbone, &row.dataset) == (&of.backbone, &of.dataset))
            .cloned()
    };
    let (mut vp, mut norm) = (Vec::new(), Vec::new());
    for ap in found.iter().filter(|row| row.method == ROWS[2]) {
        let title = format!("{}, {}", ap.backbone, ap.dataset);
        if let Some(other) = row(ap, ROWS[0]) {
            let (verdict, text) = above(&differences(&ap.test, &other.test));
            vp.push((title.clone(), (verdict, format!("AP minus VP: {text}"))));
        }
        if let Some(other) = row(ap, ROWS[1]) {
            let (verdict, text) = not_below(&differences(&other.test, &ap.test), MARGIN);
            norm.push((title, (verdict, format!("norm-tuning minus AP: {text}"))));
        }
    }
    let of_all = |each| of_pretrainings(skeletons, together(each));
    vec![
        ABOVE_VP.judged(of_all(vp)),
        NOT_ABOVE_NORM.judged(of_all(norm)),
    ]
}
