//! From a comparison to its trials: everything is opened and validated before any work begins.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::{BackboneEntry, Comparison, DatasetEntry, MethodEntry};
use super::search::{Search, Space};
use super::{Column, Missing, Results};
use crate::config::experiment::Experiment;
use crate::config::recipe::{Select, TrainOn};
use crate::config::resolve;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::workshop::Workshop;
use crate::run::summary::Cell;

/// One trial of a comparison: a cell and a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Hash of everything that changes its result, the search included.
    pub id: String,
    /// Its folder, below that of the comparison.
    pub folder: String,
    /// Its place in the tables.
    pub cell: Cell,
    /// The seed.
    pub seed: u64,
    /// The resolved experiment; with a search, before anything is chosen.
    pub experiment: serde_json::Value,
    /// What is chosen first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<Tuned>,
}

/// A search that the seeds of a cell share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// Its folder, below that of the comparison.
    pub folder: String,
    /// How candidates are found.
    pub search: Search,
    /// Where.
    pub spaces: BTreeMap<String, Space>,
    /// The seed of all candidates.
    pub seed: u64,
}

/// All trials of a comparison and what its tables look like.
pub struct Plan {
    /// The tables, still empty.
    pub results: Results,
    /// Data set by data set, backbone by backbone, so that what they share is computed once.
    pub tasks: Vec<Task>,
}

impl Task {
    /// The experiment, before anything is chosen.
    ///
    /// # Errors
    /// If the manifest that it was read from is of another version.
    pub fn experiment(&self) -> Result<Experiment, Failure> {
        let document = serde_yaml::to_value(&self.experiment).map_err(config_error)?;
        Experiment::typed(document).map_err(config_error)
    }

    /// As one that has not run yet.
    pub fn missing(&self) -> Missing {
        Missing {
            cell: self.cell.clone(),
            seed: self.seed,
        }
    }

    /// What it is called in messages.
    pub fn title(&self) -> String {
        let Cell {
            method,
            backbone,
            dataset,
            ..
        } = &self.cell;
        format!("{method}, {backbone}, {dataset}, seed {}", self.seed)
    }
}

/// A candidate of a search: trained on the training split, its epoch chosen by validation.
///
/// # Errors
/// The dotted path of what is wrong.
pub fn candidate(
    base: &Experiment,
    fields: &super::config::Fields,
    seed: u64,
) -> Result<Experiment, Failure> {
    let mut document = serde_yaml::to_value(base).map_err(config_error)?;
    for (path, value) in fields {
        resolve::assign(&mut document, path, value.clone())?;
    }
    let mut experiment = Experiment::typed(document).map_err(config_error)?;
    experiment.seed = seed;
    Ok(experiment)
}

/// The trial after the search: trained on training and validation images for the number of epochs that
/// validation chose.
pub fn retrained(mut candidate: Experiment, epochs: usize, seed: u64) -> Experiment {
    candidate.seed = seed;
    let recipe = &mut candidate.recipe;
    recipe.train_on = TrainOn::TrainValidation;
    recipe.select = Select::Last;
    recipe.patience = None;
    recipe.stop_after = Some(epochs);
    candidate
}

/// The id of a trial whose experiment, before anything is chosen, has this hash.
pub fn id(hash: &str, tuned: Option<&Tuned>) -> String {
    match tuned {
        None => hash.to_owned(),
        Some(tuned) => {
            let all = json!([hash, tuned.search, tuned.spaces, tuned.seed]);
            blake3::hash(all.to_string().as_bytes())
                .to_hex()
                .to_string()
        }
    }
}

/// Opens every cell once.
///
/// # Errors
/// All cells that cannot be trained, each with the reason.
pub fn plan(comparison: &Comparison, workshop: &mut Workshop) -> Result<Plan, Failure> {
    let mut tasks = Vec::new();
    // The same reason in many cells is said once.
    let mut refused: Vec<(String, String)> = Vec::new();
    for dataset in &comparison.datasets {
        for backbone in &comparison.backbones {
            let methods = comparison.methods.iter();
            for method in methods.filter(|method| method.takes(backbone)) {
                match of_cell(comparison, method, backbone, dataset, workshop) {
                    Ok(of_cell) => tasks.extend(of_cell),
                    Err(Failure { error, .. }) => {
                        let place =
                            format!("{}, {}, {}", method.label, backbone.label, dataset.label);
                        refused.push((place, format!("{error:#}")));
                    }
                }
            }
        }
    }
    if !refused.is_empty() {
        return Err(config_error(report(&refused)));
    }
    let mut seen = BTreeMap::new();
    for task in &tasks {
        if let Some(other) = seen.insert(&task.id, task) {
            let message = format!("{} is the same trial as {}", task.title(), other.title());
            return Err(config_error(message));
        }
    }
    let config = serde_yaml::to_string(comparison)
        .map_err(|e| failure(Exit::Unexpected, format_args!("the comparison: {e}")))?;
    let results = Results {
        name: comparison.name.clone(),
        description: comparison.description.clone(),
        baseline: comparison.baseline.clone(),
        methods: comparison.methods.iter().map(|m| m.label.clone()).collect(),
        backbones: comparison
            .backbones
            .iter()
            .map(|b| b.label.clone())
            .collect(),
        datasets: comparison
            .datasets
            .iter()
            .map(|dataset| Column {
                label: dataset.label.clone(),
                group: dataset.group.clone(),
            })
            .collect(),
        seeds: comparison.seeds.clone(),
        config,
        done: Vec::new(),
        failed: Vec::new(),
        missing: tasks.iter().map(Task::missing).collect(),
    };
    Ok(Plan { results, tasks })
}

/// The trials of a cell, one a seed.
fn of_cell(
    comparison: &Comparison,
    method: &MethodEntry,
    backbone: &BackboneEntry,
    dataset: &DatasetEntry,
    workshop: &mut Workshop,
) -> Result<Vec<Task>, Failure> {
    let experiment = |seed| comparison.experiment(method, backbone, dataset, seed);
    let first = comparison.seeds[0];
    let base = experiment(first)?;
    if let Some(search) = comparison.search {
        let recipe = &base.recipe;
        if recipe.train_on != TrainOn::Train || recipe.select != Select::Best {
            return Err(config_error(
                "recipe: a search needs train_on: train and select: best",
            ));
        }
        for fields in search.candidates(&method.tune) {
            let candidate = candidate(&base, &fields, first)?;
            if fields.keys().any(|field| !field.starts_with("recipe.")) {
                workshop.open(candidate)?;
            }
        }
    }
    let (trial, _) = workshop.open(base)?;
    let overrides: BTreeMap<String, String> = method
        .declared(backbone, dataset)
        .map(|(path, value)| (path.clone(), in_yaml(value)))
        .collect();
    let cell = Cell {
        method: method.label.clone(),
        backbone: backbone.label.clone(),
        dataset: dataset.label.clone(),
        group: dataset.group.clone(),
        overrides,
    };
    let name = [&cell.method, &cell.backbone, &cell.dataset]
        .map(|label| slug(label))
        .join("-");
    let tuned = match comparison.search {
        None => None,
        Some(search) => {
            let mut tuned = Tuned {
                folder: String::new(),
                search,
                spaces: method.tune.clone(),
                seed: first,
            };
            let id = id(&trial.hash, Some(&tuned));
            tuned.folder = format!("tuning/{name}-{}", &id[..8]);
            Some(tuned)
        }
    };
    let task = |&seed: &u64| {
        let experiment = experiment(seed)?;
        let value = serde_json::to_value(&experiment)
            .map_err(|e| failure(Exit::Unexpected, format_args!("the experiment: {e}")))?;
        let id = id(&trial.hash_of(experiment)?, tuned.as_ref());
        Ok(Task {
            folder: format!("{name}-s{seed}-{}", &id[..8]),
            id,
            cell: cell.clone(),
            seed,
            experiment: value,
            tuned: tuned.clone(),
        })
    };
    comparison.seeds.iter().map(task).collect()
}

/// A value in YAML, on one line.
pub fn in_yaml(value: &serde_yaml::Value) -> String {
    match value {
        serde_yaml::Value::String(text)
            if serde_yaml::from_str(text).is_ok_and(|again: serde_yaml::Value| again == *value) =>
        {
            text.clone()
        }
        // JSON is YAML, and stays on its line.
        value => serde_json::to_string(value).unwrap_or_default(),
    }
}

/// Characters of a label in a folder's name; the hash behind it keeps folders apart.
const SLUG: usize = 40;

/// A label as a part of a folder's name.
pub fn slug(label: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || "._+".contains(c) => c.to_ascii_lowercase(),
        _ => '-',
    };
    let slug: String = label.chars().map(plain).take(SLUG).collect();
    slug.trim_start_matches(['.', '-']).to_owned()
}

/// Every reason with the cells that it is of.
fn report(refused: &[(String, String)]) -> String {
    let mut reasons: Vec<&String> = refused.iter().map(|(_, reason)| reason).collect();
    let mut seen = BTreeSet::new();
    reasons.retain(|reason| seen.insert(*reason));
    let mut lines = Vec::new();
    for reason in reasons {
        let places = refused.iter().filter(|(_, other)| other == reason);
        let places: Vec<&str> = places.map(|(place, _)| place.as_str()).collect();
        let rest = match places.len() {
            1 => String::new(),
            count => format!(" and {} more cells", count - 1),
        };
        lines.push(format!("{}{rest}: {reason}", places[0]));
    }
    let hint = "a method can be left out of a backbone with `backbones: [..]`";
    format!(
        "some trials cannot be trained; {hint}:\n  {}",
        lines.join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Chosen;

    fn planned(text: &str) -> Result<Plan, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, text).unwrap();
        let comparison = Comparison::read(path.to_str().unwrap(), &[]);
        let device = Chosen::cpu();
        let plan = |comparison| plan(&comparison, &mut Workshop::new(&device, folder.path()));
        comparison.and_then(plan).map_err(|f| f.error.to_string())
    }

    const SMALL: &str = "
trial: {recipe: micro}
seeds: [0, 1]
backbones: [vit-micro, resnet-micro]
datasets: [digits]
methods: [linear-probe, {use: vpt-deep, backbones: [vit-micro]}]
";

    #[test]
    fn a_task_a_cell_and_seed_with_an_id_of_its_own() {
        let plan = planned(SMALL).unwrap();
        let titles: Vec<_> = plan.tasks.iter().map(Task::title).collect();
        let expected = [
            "linear-probe, vit-micro, digits, seed 0",
            "linear-probe, vit-micro, digits, seed 1",
            "vpt-deep, vit-micro, digits, seed 0",
            "vpt-deep, vit-micro, digits, seed 1",
            "linear-probe, resnet-micro, digits, seed 0",
            "linear-probe, resnet-micro, digits, seed 1",
        ];
        assert_eq!(titles, expected);
        let ids: BTreeSet<_> = plan.tasks.iter().map(|task| &task.id).collect();
        assert_eq!(ids.len(), 6);
        // An id is the hash that the trial has alone.
        let alone = Experiment::read("peft/linear-probe.yaml", &["recipe=micro".to_owned()]);
        let alone = alone.and_then(|e| crate::model::trial::Trial::open(e, &Chosen::cpu()));
        let alone = alone.map_err(|f| f.error).unwrap().0;
        assert_eq!(alone.hash, plan.tasks[0].id);
        assert_eq!(plan.results.missing.len(), 6);
    }

    #[test]
    fn what_cannot_be_trained_is_listed_before_any_work() {
        let message = planned(&SMALL.replace(", backbones: [vit-micro]", ""))
            .err()
            .unwrap();
        assert!(message.contains("`backbones: [..]`"), "{message}");
        assert!(
            message.contains("vpt-deep, resnet-micro, digits: method: "),
            "{message}"
        );
        let message = planned(&SMALL.replace("use: vpt-deep", "label: other, use: linear-probe"));
        let message = message.err().unwrap();
        assert!(message.contains("is the same trial as"), "{message}");
    }

    #[test]
    fn seeds_share_a_search_and_ids_depend_on_it() {
        let with = |values: &str| {
            let tuned = format!("{{use: ap, tune: {{recipe.optimizer.lr: {{values: {values}}}}}}}");
            let text = SMALL.replace("linear-probe", &tuned);
            planned(&format!("{text}\nsearch: {{name: grid}}"))
                .unwrap()
                .tasks
        };
        let (one, other) = (with("[0.1]"), with("[0.1, 0.2]"));
        assert_eq!(one[0].tuned, one[1].tuned);
        assert!(one[0].id != one[1].id && one[0].id != other[0].id);
        assert_ne!(
            one[0].tuned.as_ref().unwrap().folder,
            other[0].tuned.as_ref().unwrap().folder
        );
    }

    #[test]
    fn labels_become_names_of_folders() {
        assert_eq!(slug("../LoRA (r = 10)"), "lora--r---10-");
        assert_eq!(slug("ap+lora"), "ap+lora");
    }
}
