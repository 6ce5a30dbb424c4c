//! Fig. 2, 4, A1, A2 and A3: accuracy by the boundary at which an activation prompt acts.
//!
//! One trial for each boundary, seed and learning rate. The rate is chosen for each boundary, because one fixed rate
//! would confound depth with step size. The best boundary is chosen on validation, where the paper marks the best on test.

mod sweep;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_yaml::{Mapping, Value};

use self::sweep::{Place, Sweep};
use crate::compare::config::DatasetEntry;
use crate::compare::tables::table::{Column, Entry, Table};
use crate::exit::{Failure, config_error};
use crate::report::numbers::grouped;
use crate::study::Study;
use crate::study::claim::{Judged, Verdict, all};
use crate::study::figure::lines::{Line, Lines, Scale};
use crate::study::outcome::Outcome;
use crate::study::request::{Request, taken, typed};
use crate::study::table::{number, percent};
use crate::study::trained::plan::{Skeleton, sizes};
use crate::study::trained::rows::{Row, deviation_of, mean_of, rows};
use crate::study::trained::{Frame, Grid, Method, Rates, missing, settings};
use verdicts::{claims_of, decide_by_counting, judge};

pub const STUDY: Study = Study {
    name: "layer-sweep",
    summary: "accuracy and cost by the boundary at which an activation prompt acts",
    source: "Fig. 2, 4, A1, A2, A3, Sec. 3, 4.1",
    files: &[],
    config: Some("study/layer-sweep-micro.yaml"),
    run,
};

/// The keys of the study's YAML that a comparison does not have.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Own {
    /// The boundaries: `all` (1 to L + 1), or a list; negative ones count blocks from the end.
    #[serde(default = "everywhere")]
    #[schemars(with = "serde_json::Value")]
    boundaries: Value,
    /// What is swept over the boundaries: `ap`, and `vpt` for a prompt of one layer.
    #[serde(default = "ap_only")]
    sweep: Vec<Swept>,
    /// Methods that are drawn as lines: names in `configs/peft`, or entries as in a comparison, each with
    /// `learning_rates` of its own if it needs others.
    #[serde(default)]
    #[schemars(with = "Vec<serde_json::Value>")]
    lines: Vec<Value>,
    /// Learning rates, among which validation chooses for every row: a list, or a list for each backbone.
    #[schemars(with = "serde_json::Value")]
    learning_rates: Value,
}

const KEYS: [&str; 4] = ["boundaries", "sweep", "lines", "learning_rates"];

fn everywhere() -> Value {
    "all".into()
}

fn ap_only() -> Vec<Swept> {
    vec![Swept::Ap]
}

/// A method that acts at one boundary.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
enum Swept {
    Ap,
    Vpt,
}

impl Swept {
    fn name(self) -> &'static str {
        match self {
            Self::Ap => "ap",
            Self::Vpt => "vpt",
        }
    }
}

fn run(request: &Request) -> Result<Outcome, Failure> {
    let (stem, mut document) = request.document()?;
    let own: Own = typed(taken(&mut document, &KEYS), &stem)?;
    let frame = Frame::read(stem, document)?;
    let grid = grid(frame, &own)?;
    let skeletons = grid.skeletons()?;
    let datasets = grid.comparison.datasets.clone();
    let lacking = missing(&grid.comparison.backbones, &datasets)?;
    let results = match (request.dry_run, &lacking) {
        (false, None) => Some(grid.carry_out(request)?),
        _ => None,
    };
    let found = match &results {
        Some(results) => rows(&grid, results),
        None => Vec::new(),
    };
    let mut sweeps = Vec::new();
    for dataset in &datasets {
        for skeleton in skeletons.values() {
            sweeps.push(sweep(&grid, skeleton, dataset, &found)?);
        }
    }
    let claims = claims_of(&sweeps);
    let mut judged: Vec<Judged> = match (&lacking, request.dry_run) {
        (_, true) => all(&claims, Verdict::Undecided, "a dry run trains nothing"),
        (Some(missing), _) => {
            let reason = format!("{missing}; with them, the same command decides");
            all(&claims, Verdict::NeedsData, &reason)
        }
        (None, false) => judge(&claims, &sweeps),
    };
    if results.is_none() {
        decide_by_counting(&mut judged, &sweeps);
    }
    let settings = settings(&own, &grid.comparison)?;
    let mut notes = vec![grid.work()?.sentence()];
    if let Some(results) = &results {
        notes.push(format!("{}.", results.progress()));
        notes.push(
            "Boundaries and learning rates are chosen on validation, and the test score of what was chosen is shown. The \
             paper marks the best layer on test."
                .to_owned(),
        );
    }
    notes.push(
        "Boundary b is the input of block b. The paper's layer l is boundary l + 1 in Sec. 3 (the output of layer l) and \
         boundary l in Sec. 5.1 and App. C (the input of block l)."
            .to_owned(),
    );
    Ok(Outcome {
        claims: judged,
        result: json!({ "rows": sweeps.iter().flat_map(result_rows).collect::<Vec<_>>() }),
        settings,
        tables: sweeps.iter().map(table).collect(),
        figures: sweeps
            .iter()
            .flat_map(|sweep| [accuracy(sweep), cost(sweep)])
            .collect(),
        notes,
    })
}

/// The comparison with a row for each boundary and each line.
fn grid(frame: Frame, own: &Own) -> Result<Grid, Failure> {
    let backbones = frame.backbones();
    let rates = Rates::read("learning_rates", &own.learning_rates, &backbones)?;
    let mut methods = Vec::new();
    let mut at: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut takes_prompts = BTreeSet::new();
    for entry in &frame.comparison.backbones {
        let skeleton = Skeleton::of(entry)?;
        let spec = skeleton.spec();
        for boundary in boundaries(&own.boundaries, &skeleton)? {
            at.entry(boundary).or_default().push(entry.label.clone());
            // A prompt of tokens needs a block with global attention behind it.
            if boundary > 0 && spec.takes_extras(boundary) {
                takes_prompts.insert((boundary, entry.label.clone()));
            }
        }
    }
    for &swept in &own.sweep {
        for (&boundary, labels) in &at {
            let fits = |label: &&String| match swept {
                Swept::Ap => true,
                Swept::Vpt => takes_prompts.contains(&(boundary, String::clone(label))),
            };
            let labels: Vec<String> = labels.iter().filter(fits).cloned().collect();
            methods.push(Method {
                label: format!("{} {boundary}", swept.name()),
                component: component(swept, boundary),
                rates: rates.by_backbone().clone(),
                backbones: labels,
                set: Mapping::new(),
            });
        }
    }
    for line in &own.lines {
        methods.push(of_line(line, &rates, &backbones)?);
    }
    methods.retain(|method| !method.backbones.is_empty());
    frame.with(methods)
}

/// `{name: ap, boundaries: [b]}`.
fn component(swept: Swept, boundary: usize) -> Value {
    Value::Mapping(Mapping::from_iter([
        ("name".into(), swept.name().into()),
        ("boundaries".into(), vec![Value::from(boundary)].into()),
    ]))
}

/// A line as a row: a name, or `use`, `label`, `set`, `backbones` and `learning_rates`.
fn of_line(line: &Value, rates: &Rates, backbones: &[String]) -> Result<Method, Failure> {
    let bad = |message: &str| config_error(format!("lines: {message}"));
    let (component, map) = match line {
        Value::String(name) => (Value::String(name.clone()), Mapping::new()),
        Value::Mapping(map) => {
            let component = map.get("use").cloned();
            let component =
                component.ok_or_else(|| bad("expected a name, or an entry with use"))?;
            (component, map.clone())
        }
        _ => return Err(bad("expected a name, or an entry with use")),
    };
    let known = ["use", "label", "set", "backbones", "learning_rates"];
    if let Some(other) = map
        .keys()
        .find(|key| !key.as_str().is_some_and(|k| known.contains(&k)))
    {
        return Err(bad(&format!(
            "unknown key {other:?}; expected {}",
            known.join(", ")
        )));
    }
    let name = component
        .as_str()
        .or_else(|| component.get("name")?.as_str());
    let label = map.get("label").and_then(Value::as_str).or(name);
    let own = map.get("learning_rates");
    let own = own
        .map(|own| Rates::read("lines: learning_rates", own, backbones))
        .transpose()?;
    let on: Vec<String> = match map.get("backbones") {
        Some(on) => serde_yaml::from_value(on.clone()).map_err(|e| bad(&e.to_string()))?,
        None => backbones.to_vec(),
    };
    Ok(Method {
        label: label.unwrap_or("line").to_owned(),
        backbones: on,
        rates: own.as_ref().unwrap_or(rates).by_backbone().clone(),
        set: map
            .get("set")
            .and_then(Value::as_mapping)
            .cloned()
            .unwrap_or_default(),
        component,
    })
}

/// The boundaries of a backbone that the settings name.
fn boundaries(value: &Value, skeleton: &Skeleton) -> Result<Vec<usize>, Failure> {
    let spec = skeleton.spec();
    if value.as_str() == Some("all") {
        return Ok((1..=spec.last_boundary()).collect());
    }
    let listed: Result<Vec<i64>, _> = serde_yaml::from_value(value.clone());
    let listed =
        listed.map_err(|_| config_error("boundaries: expected all, or a list of numbers"))?;
    if listed.is_empty() {
        return Err(config_error("boundaries: expected at least one"));
    }
    let index = |boundary: i64| {
        let found = spec.boundary(boundary);
        found
            .map(|found| found.index)
            .map_err(|e| config_error(format!("boundaries: {e}")))
    };
    let mut all = listed
        .into_iter()
        .map(index)
        .collect::<Result<Vec<_>, _>>()?;
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// The rows on one backbone and data set.
fn sweep<'a>(
    grid: &Grid,
    skeleton: &'a Skeleton,
    dataset: &DatasetEntry,
    found: &[Row],
) -> Result<Sweep<'a>, Failure> {
    let (classes, _) = sizes(dataset)?;
    let mut places = Vec::new();
    for method in grid
        .methods
        .iter()
        .filter(|m| m.backbones.contains(&skeleton.label))
    {
        let own = found.iter().find(|row| {
            row.backbone == skeleton.label
                && row.dataset == dataset.label
                && row.method == method.label
        });
        let row = own.cloned().unwrap_or_else(|| Row {
            backbone: skeleton.label.clone(),
            dataset: dataset.label.clone(),
            method: method.label.clone(),
            ..Row::default()
        });
        let swept = method.label.rsplit_once(' ').and_then(|(name, boundary)| {
            let known = [Swept::Ap, Swept::Vpt].map(Swept::name).contains(&name);
            let boundary = boundary.parse().ok()?;
            known.then(|| (name.to_owned(), boundary))
        });
        places.push(Place {
            row,
            boundary: swept.as_ref().map(|(_, boundary)| *boundary),
            method: swept.map_or_else(|| method.label.clone(), |(name, _)| name),
            count: skeleton.count(&method.component, classes)?,
        });
    }
    Ok(Sweep {
        skeleton,
        dataset: dataset.label.clone(),
        places,
    })
}

fn result_rows(sweep: &Sweep) -> Vec<serde_json::Value> {
    let row = |place: &Place| {
        json!({
            "backbone": sweep.skeleton.label,
            "dataset": sweep.dataset,
            "method": place.method,
            "boundary": place.boundary,
            "trainable": place.count.trainable,
            "work_per_step": place.count.step,
            "learning_rate": place.row.rate,
            "validation": mean_of(&place.row.validation),
            "test": mean_of(&place.row.test),
            "test_by_seed": place.row.test,
            "seconds_per_epoch": place.row.seconds_per_epoch,
            "seeds": place.row.test.len(),
        })
    };
    sweep.places.iter().map(row).collect()
}

fn table(sweep: &Sweep) -> Table {
    let row = |place: &Place| {
        let name = match place.boundary {
            Some(boundary) => format!("{} at {boundary}", place.method),
            None => place.method.clone(),
        };
        let (validation, test) = (&place.row.validation, &place.row.test);
        let entries = vec![
            Entry::text(grouped(place.count.trainable)),
            number(Some(place.count.step as f64 / 1e6)),
            number(place.row.rate),
            percent(mean_of(validation), deviation_of(validation)),
            percent(mean_of(test), deviation_of(test)),
            number(place.row.seconds_per_epoch),
        ];
        (name, entries)
    };
    let names = [
        "trainable",
        "MFLOP a step and image",
        "learning rate",
        "validation %",
        "test %",
        "s/epoch",
    ];
    Table {
        title: sweep.title(),
        names: "row",
        columns: names
            .iter()
            .map(|name| Column::number(*name, None))
            .collect(),
        rows: sweep.places.iter().map(row).collect(),
        notes: Vec::new(),
    }
}

/// Test accuracy by boundary, with the lines' as horizontal lines.
fn accuracy(sweep: &Sweep) -> String {
    let curve = |name: &str| {
        let own = sweep.of(name);
        let points = own.iter().filter_map(|place| {
            let test = mean_of(&place.row.test)?;
            Some((place.boundary? as f64, 100.0 * test))
        });
        let spread = own
            .iter()
            .filter(|place| mean_of(&place.row.test).is_some());
        let spread = spread.map(|place| 100.0 * deviation_of(&place.row.test).unwrap_or(0.0));
        Line {
            spread: spread.collect(),
            ..Line::new(name, points)
        }
    };
    let mut lines = vec![curve("ap"), curve("vpt")];
    let ends = sweep.places.iter().filter_map(|place| place.boundary);
    let ends = (ends.clone().min().unwrap_or(1), ends.max().unwrap_or(1));
    for place in sweep.places.iter().filter(|place| place.boundary.is_none()) {
        if let Some(test) = mean_of(&place.row.test) {
            let level = [ends.0, ends.1].map(|x| (x as f64, 100.0 * test));
            lines.push(Line::new(&place.method, level));
        }
    }
    lines.retain(|line| !line.points.is_empty());
    let plot = Lines {
        title: &format!("test accuracy in %, {}", sweep.title()),
        x: "boundary b; paper: layer b - 1 (Sec. 3), b (Sec. 5.1)",
        scale: Scale::Whole,
        lines: &lines,
    };
    plot.svg()
}

/// Training work by boundary.
fn cost(sweep: &Sweep) -> String {
    let work = |name: &str| {
        let own = sweep.of(name).into_iter();
        let points =
            own.filter_map(|place| Some((place.boundary? as f64, place.count.step as f64 / 1e6)));
        Line::new(name, points)
    };
    let mut lines = vec![work("ap"), work("vpt")];
    lines.retain(|line| !line.points.is_empty());
    let plot = Lines {
        title: &format!(
            "MFLOP of a training step and image, {}",
            sweep.skeleton.label
        ),
        x: "boundary b; paper: layer b - 1 (Sec. 3), b (Sec. 5.1)",
        scale: Scale::Whole,
        lines: &lines,
    };
    plot.svg()
}
