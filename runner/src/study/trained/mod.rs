//! Studies that train: a comparison underneath, with a row for each method and place, and a learning rate for each row
//! that validation chooses.
//!
//! Every row is trained with every seed and learning rate, as a trial that `runner train` would train alone. The rate of
//! a row is the one with the largest mean over seeds on validation; the test scores of the others are not looked at.

pub mod plan;
pub mod pretrainings;
pub mod rows;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_yaml::{Mapping, Value};

use crate::compare::config::{BackboneEntry, Comparison, DatasetEntry};
use crate::compare::execute::{Executor, root};
use crate::compare::manifest::collect;
use crate::compare::plan::plan as plan_trials;
use crate::compare::progress::carry_out;
use crate::compare::results::Results;
use crate::compare::run::begin;
use crate::exit::{Failure, config_error};
use crate::model::workshop::Workshop;
use crate::study::claim::Verdict;
use crate::study::components::{self, missing_images, missing_weights};
use crate::study::outcome::json;
use crate::study::request::Request;

/// A row that is trained on some backbones: a method at a place.
#[derive(Clone, Debug)]
pub struct Method {
    /// Its label in results.
    pub label: String,
    /// The method's fields, or its name.
    pub component: Value,
    /// The labels of the backbones on which it is trained.
    pub backbones: Vec<String>,
    /// Its learning rates, by the label of the backbone.
    pub rates: BTreeMap<String, Vec<f64>>,
    /// Other settings of its trials, by dotted path.
    pub set: Mapping,
}

/// The field that holds the learning rate.
const RATE: &str = "recipe.optimizer.lr";

impl Method {
    /// The label of its trials with a learning rate.
    pub fn trial(&self, rate: f64) -> String {
        format!("{} lr {rate}", self.label)
    }

    /// Its entries in a comparison: one for each learning rate.
    fn entries(&self) -> Vec<Value> {
        let mut rates: Vec<f64> = self.rates.values().flatten().copied().collect();
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        let entry = |rate: f64| {
            let takes = |label: &&String| {
                let own = self.rates.get(*label);
                own.is_some_and(|rates| rates.contains(&rate))
            };
            let backbones = self.backbones.iter().filter(takes).cloned();
            let mut set = self.set.clone();
            set.insert(RATE.into(), rate.into());
            Value::Mapping(Mapping::from_iter([
                ("use".into(), self.component.clone()),
                ("label".into(), self.trial(rate).into()),
                ("set".into(), Value::Mapping(set)),
                (
                    "backbones".into(),
                    Value::Sequence(backbones.map(Value::String).collect()),
                ),
            ]))
        };
        rates.into_iter().map(entry).collect()
    }
}

/// Learning rates, the same for all backbones or by their label.
#[derive(Clone, Debug, Default)]
pub struct Rates(BTreeMap<String, Vec<f64>>);

impl Rates {
    /// Reads a list of rates, or a mapping from backbones to lists.
    ///
    /// # Errors
    /// If it is neither, or a rate is not more than 0.
    pub fn read(key: &str, value: &Value, backbones: &[String]) -> Result<Self, Failure> {
        let expected = || {
            config_error(format!(
                "{key}: expected a list of learning rates, or one for each of {}",
                backbones.join(", ")
            ))
        };
        let list = |value: &Value| {
            let rates: Vec<f64> = serde_yaml::from_value(value.clone()).ok()?;
            let fit = !rates.is_empty() && rates.iter().all(|rate| *rate > 0.0 && rate.is_finite());
            fit.then_some(rates)
        };
        let of = |label: &String| {
            let own = match value {
                Value::Mapping(map) => map.get(label.as_str()).and_then(list),
                value => list(value),
            };
            Ok((label.clone(), own.ok_or_else(expected)?))
        };
        let rates = backbones.iter().map(of);
        Ok(Self(rates.collect::<Result<_, Failure>>()?))
    }

    /// The rates by the label of the backbone.
    pub fn by_backbone(&self) -> &BTreeMap<String, Vec<f64>> {
        &self.0
    }
}

/// A comparison's document without methods, and what a study puts into it.
pub struct Grid {
    /// The comparison, complete.
    pub comparison: Comparison,
    /// Its rows.
    pub methods: Vec<Method>,
}

/// A comparison without methods: its backbones and data sets can be looked at before rows are made.
pub struct Frame {
    stem: String,
    document: Value,
    /// The backbones and data sets.
    pub comparison: Comparison,
}

impl Frame {
    /// Reads a document whose own keys a study has taken out.
    ///
    /// # Errors
    /// The dotted path of a mistake.
    pub fn read(stem: String, document: Value) -> Result<Self, Failure> {
        if document.get("methods").is_some() {
            return Err(config_error(format!(
                "{stem}: methods: the study itself makes the rows"
            )));
        }
        // A comparison has at least one method; this one only stands for those that follow.
        let mut whole = document.clone();
        if let Value::Mapping(map) = &mut whole {
            map.insert(
                "methods".into(),
                Value::Sequence(vec!["linear-probe".into()]),
            );
        }
        let comparison = Comparison::resolved(whole, &stem, stem.clone())?;
        Ok(Self {
            stem,
            document,
            comparison,
        })
    }

    /// The labels of the backbones.
    pub fn backbones(&self) -> Vec<String> {
        let entries = self.comparison.backbones.iter();
        entries.map(|entry| entry.label.clone()).collect()
    }

    /// The comparison with these rows.
    ///
    /// # Errors
    /// If it is not valid.
    pub fn with(self, methods: Vec<Method>) -> Result<Grid, Failure> {
        let mut document = self.document;
        let entries = methods.iter().flat_map(Method::entries).collect();
        if let Value::Mapping(map) = &mut document {
            map.insert("methods".into(), Value::Sequence(entries));
        }
        let comparison = Comparison::resolved(document, &self.stem, self.stem.clone())?;
        Ok(Grid {
            comparison,
            methods,
        })
    }
}

/// Says which files of backbones and data sets are missing; none if all are there.
///
/// # Errors
/// If one of them is not a backbone or a data set.
pub fn missing(
    backbones: &[BackboneEntry],
    datasets: &[DatasetEntry],
) -> Result<Option<String>, Failure> {
    let mut lacking = Vec::new();
    for entry in backbones {
        let config = components::backbone(&entry.component)?;
        let missing = missing_weights(&*config);
        lacking.extend(missing.map(|missing| format!("{}: {missing}", entry.label)));
    }
    for entry in datasets {
        let (config, _) = components::dataset(&entry.component)?;
        let missing = missing_images(&*config);
        lacking.extend(missing.map(|missing| format!("{}: {missing}", entry.label)));
    }
    Ok((!lacking.is_empty()).then(|| lacking.join("; ")))
}

impl Grid {
    /// Trains what is not trained yet, a line on stderr for each trial, and returns what is there then.
    ///
    /// # Errors
    /// Cells that cannot be trained, an interrupt, or a disk that cannot be written.
    pub fn carry_out(&self, request: &Request) -> Result<Results, Failure> {
        let folder: PathBuf = root(request.runs, &self.comparison.name);
        let mut workshop = Workshop::new(request.device, request.cache);
        let planned = plan_trials(&self.comparison, &mut workshop)?;
        begin(&folder, &planned)?;
        let mut executor = Executor {
            root: &folder,
            workshop,
            interrupt: request.interrupt.clone(),
        };
        carry_out(&mut executor, &planned.tasks.iter().collect::<Vec<_>>())?;
        Ok(collect(&folder, planned))
    }
}

/// The settings of a study with those of its comparison.
///
/// # Errors
/// If they cannot be written.
pub fn settings(
    own: &impl serde::Serialize,
    comparison: &Comparison,
) -> Result<serde_json::Value, Failure> {
    let mut all = json(comparison)?;
    if let (Some(all), Some(own)) = (all.as_object_mut(), json(own)?.as_object()) {
        all.extend(own.clone());
    }
    Ok(all)
}

/// One verdict of several, each with what it is about: that of all, or undecided.
pub fn together(each: Vec<(String, (Verdict, String))>) -> (Verdict, String) {
    if each.is_empty() {
        let text = "the rows of this claim are not part of the configuration";
        return (Verdict::Undecided, text.to_owned());
    }
    let mut verdicts = each.iter().map(|(_, (verdict, _))| *verdict);
    let first = verdicts.next().unwrap_or(Verdict::Undecided);
    let same = verdicts.all(|verdict| verdict == first);
    let texts = each
        .iter()
        .map(|(title, (verdict, reason))| match each.len() {
            1 => format!("{title}: {reason}"),
            _ => format!("{title}: {} ({reason})", verdict.words()),
        });
    let text = texts.collect::<Vec<_>>().join("; ");
    (if same { first } else { Verdict::Undecided }, text)
}
