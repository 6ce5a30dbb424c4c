//! Plans the trials of a comparison. Everything is opened and validated before any work begins.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::{BackboneEntry, Comparison, DatasetEntry, MethodEntry};
use super::estimate::{CellPlan, Measured};
use super::fields::Fields;
use super::results::{DatasetColumn, Missing, Published, Results};
use super::search::{Retrain, Search};
use super::state::Unfinished;
pub use super::tuned::Tuned;
use crate::config::experiment::Experiment;
use crate::config::recipe::{Select, TrainOn};
use crate::config::set::assign;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::workshop::Workshop;
use crate::run::summary::Cell;

/// One trial of a comparison: a cell and a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The hash of everything that changes its result, the search included.
    pub id: String,
    /// The name of its folder, below that of the comparison.
    pub folder: String,
    /// Its place in the tables.
    pub cell: Cell,
    /// Its seed.
    pub seed: u64,
    /// The resolved experiment; with a search, before anything is chosen.
    pub experiment: serde_json::Value,
    /// The search that comes first; none if nothing is tuned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<Tuned>,
}

/// All trials of a comparison, and the layout of its tables.
pub struct Plan {
    /// The results, in which every trial is still missing.
    pub results: Results,
    /// The trials in the order in which they run: data set by data set, and within one backbone by
    /// backbone, so that trials that share a cached prefix follow each other.
    pub tasks: Vec<Task>,
}

impl Task {
    /// Returns the experiment before anything is chosen.
    ///
    /// # Errors
    /// If the manifest that the task was read from is of an incompatible version.
    pub fn experiment(&self) -> Result<Experiment, Failure> {
        let document = serde_yaml::to_value(&self.experiment).map_err(config_error)?;
        Experiment::typed(document).map_err(config_error)
    }

    /// Returns its entry in the results before it has run.
    pub fn missing(&self) -> Missing {
        Missing {
            cell: self.cell.clone(),
            seed: self.seed,
            state: Unfinished::Waiting,
        }
    }

    /// Returns its name in messages.
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

/// Writes an experiment as the document from which candidates are made.
///
/// # Errors
/// If it cannot be written.
pub fn document(base: &Experiment) -> Result<serde_yaml::Value, Failure> {
    serde_yaml::to_value(base).map_err(config_error)
}

/// Makes a candidate of a search: the experiment in `base` (see [`document`]) with the fields set.
/// It trains on the training split, and validation chooses its epoch.
///
/// # Errors
/// The dotted path of what is wrong.
pub fn candidate(
    mut base: serde_yaml::Value,
    fields: &Fields,
    seed: u64,
) -> Result<Experiment, Failure> {
    for (path, value) in fields {
        assign(&mut base, path, value.clone())?;
    }
    let mut experiment = Experiment::typed(base).map_err(config_error)?;
    experiment.seed = seed;
    Ok(experiment)
}

/// Makes the trial after the search: the chosen candidate, trained with another seed on the images that
/// `retrain` names. `epochs` is the number that validation chose.
pub fn retrained(
    mut candidate: Experiment,
    epochs: usize,
    seed: u64,
    retrain: Retrain,
) -> Experiment {
    candidate.seed = seed;
    if retrain == Retrain::Train {
        return candidate;
    }
    let recipe = &mut candidate.recipe;
    recipe.train_on = TrainOn::TrainValidation;
    recipe.select = Select::Last;
    // No validation images are left, so neither patience nor the best epoch can be told any more.
    recipe.patience = None;
    recipe.stop_after = Some(epochs);
    candidate
}

/// Returns the id of a trial from the hash of its experiment, before anything is chosen, and its
/// search.
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

/// Plans a comparison: opens every cell once, so that nothing that can be checked fails later.
///
/// # Errors
/// An error that lists all cells that cannot be trained, each with the reason, or two cells that
/// are the same trial.
pub fn plan(comparison: &Comparison, workshop: &mut Workshop) -> Result<Plan, Failure> {
    Ok(planned(comparison, workshop, None)?.0)
}

/// As [`plan`], with what each cell does, by a step of each method on each backbone that is measured.
///
/// # Errors
/// As [`plan`].
pub fn timed(
    comparison: &Comparison,
    workshop: &mut Workshop,
) -> Result<(Plan, Vec<CellPlan>), Failure> {
    planned(comparison, workshop, Some(&mut Measured::new()))
}

fn planned(
    comparison: &Comparison,
    workshop: &mut Workshop,
    mut measured: Option<&mut Measured>,
) -> Result<(Plan, Vec<CellPlan>), Failure> {
    let (mut tasks, mut cells) = (Vec::new(), Vec::new());
    let mut refused: Vec<(String, String)> = Vec::new();
    for dataset in &comparison.datasets {
        for backbone in &comparison.backbones {
            let methods = comparison.methods.iter();
            for method in methods.filter(|method| method.takes(backbone)) {
                let parts = (method, backbone, dataset);
                match of_cell(comparison, parts, workshop, measured.as_deref_mut()) {
                    Ok((of_cell, plan)) => {
                        tasks.extend(of_cell);
                        cells.push(plan);
                    }
                    Err(Failure { error, .. }) => {
                        let place =
                            format!("{}, {}, {}", method.label, backbone.label, dataset.label);
                        // All cells are tried, so that one run lists all mistakes.
                        refused.push((place, format!("{error:#}")));
                    }
                }
            }
        }
    }
    if !refused.is_empty() {
        return Err(config_error(report(&refused)));
    }
    // Two equal trials would work in the same folder and count twice.
    let mut seen = BTreeMap::new();
    for task in &tasks {
        if let Some(other) = seen.insert(&task.id, task) {
            let message = format!("{} is the same trial as {}", task.title(), other.title());
            return Err(config_error(message));
        }
    }
    let results = unstarted(comparison, &tasks)?;
    Ok((Plan { results, tasks }, cells))
}

/// Makes the results as they are before any trial has run.
fn unstarted(comparison: &Comparison, tasks: &[Task]) -> Result<Results, Failure> {
    let config = serde_yaml::to_string(comparison)
        .map_err(|e| failure(Exit::Unexpected, format_args!("the comparison: {e}")))?;
    let methods = comparison.methods.iter();
    let backbones = comparison.backbones.iter();
    let datasets = comparison.datasets.iter();
    Ok(Results {
        name: comparison.name.clone(),
        description: comparison.description.clone(),
        baseline: comparison.baseline.clone(),
        methods: methods.map(|method| method.label.clone()).collect(),
        backbones: backbones.map(|backbone| backbone.label.clone()).collect(),
        datasets: datasets
            .map(|dataset| DatasetColumn {
                label: dataset.label.clone(),
                group: dataset.group.clone(),
            })
            .collect(),
        seeds: comparison.seeds.clone(),
        expected: published(comparison),
        config,
        done: Vec::new(),
        failed: Vec::new(),
        missing: tasks.iter().map(Task::missing).collect(),
    })
}

/// All published scores, in the order of the methods.
fn published(comparison: &Comparison) -> Vec<Published> {
    let backbones: Vec<&String> = (comparison.backbones.iter())
        .map(|backbone| &backbone.label)
        .collect();
    let published = |method: &MethodEntry| {
        let expected = method.expected.as_ref()?;
        Some(Published {
            method: method.label.clone(),
            backbone: expected.backbone(&backbones)?.clone(),
            source: expected.source.trim().to_owned(),
            scores: expected.scores.clone(),
        })
    };
    comparison.methods.iter().filter_map(published).collect()
}

/// Makes the trials of a cell, one per seed, and its plan.
fn of_cell(
    comparison: &Comparison,
    (method, backbone, dataset): (&MethodEntry, &BackboneEntry, &DatasetEntry),
    workshop: &mut Workshop,
    measured: Option<&mut Measured>,
) -> Result<(Vec<Task>, CellPlan), Failure> {
    let first = comparison.seeds[0];
    let base = comparison.experiment(method, backbone, dataset, first)?;
    if let Some(search) = comparison.search {
        check_candidates(search, method, &base, workshop)?;
    }
    // Opening reads weights and data, so that nothing which can be checked fails hours later.
    let (trial, model) = workshop.open(base.clone())?;
    let declared = method.declared(backbone, dataset);
    let cell = Cell {
        method: method.label.clone(),
        backbone: backbone.label.clone(),
        dataset: dataset.label.clone(),
        group: dataset.group.clone(),
        overrides: declared
            .map(|(path, value)| (path.clone(), in_yaml(value)))
            .collect(),
    };
    let name = [&cell.method, &cell.backbone, &cell.dataset]
        .map(|label| slug(label))
        .join("-");
    let tuned = comparison.search.map(|search| {
        let mut tuned = Tuned {
            folder: String::new(),
            search,
            spaces: method.tune.clone(),
            // All seeds share one search, on the first seed: searching anew for each would multiply
            // its cost and hide the spread over seeds in the choice.
            seed: first,
        };
        let id = id(&trial.hash, Some(&tuned));
        tuned.folder = format!("tuning/{name}-{}", &id[..8]);
        tuned
    });
    // The seeds of a cell differ in nothing else, so the YAML is resolved and opened once for all
    // of them.
    let task = |&seed: &u64| {
        let mut experiment = base.clone();
        experiment.seed = seed;
        let value = serde_json::to_value(&experiment)
            .map_err(|e| failure(Exit::Unexpected, format_args!("the experiment: {e}")))?;
        let hash = match seed == first {
            true => trial.hash.clone(),
            false => trial.hash_of(experiment)?,
        };
        let id = id(&hash, tuned.as_ref());
        Ok(Task {
            folder: format!("{name}-s{seed}-{}", &id[..8]),
            id,
            cell: cell.clone(),
            seed,
            experiment: value,
            tuned: tuned.clone(),
        })
    };
    let tasks = comparison.seeds.iter().map(task);
    let tasks = tasks.collect::<Result<Vec<_>, Failure>>()?;
    let trainings = (comparison.seeds.len(), tuned.as_ref());
    let device = workshop.device();
    let plan = CellPlan::of((&trial, model), cell, method, trainings, device, measured)?;
    Ok((tasks, plan))
}

/// Checks every candidate of a cell's search, and opens those that change more than the recipe.
fn check_candidates(
    search: Search,
    method: &MethodEntry,
    base: &Experiment,
    workshop: &mut Workshop,
) -> Result<(), Failure> {
    let recipe = &base.recipe;
    if recipe.train_on != TrainOn::Train || recipe.select != Select::Best {
        return Err(config_error(
            "recipe: a search needs train_on: train and select: best",
        ));
    }
    let document = document(base)?;
    for fields in search.candidates(&method.tune) {
        let candidate = candidate(document.clone(), &fields, base.seed)?;
        // A model is assembled without the recipe, so for candidates that change only the recipe,
        // checking its fields is enough.
        if fields.keys().any(|field| !field.starts_with("recipe.")) {
            workshop.open(candidate)?;
        }
    }
    Ok(())
}

/// Writes a value as one line of YAML.
pub fn in_yaml(value: &serde_yaml::Value) -> String {
    match value {
        serde_yaml::Value::String(text)
            if serde_yaml::from_str(text).is_ok_and(|again: serde_yaml::Value| again == *value) =>
        {
            text.clone()
        }
        // All JSON is YAML, and it has no line breaks.
        value => serde_json::to_string(value).unwrap_or_default(),
    }
}

/// The number of characters of a label in the name of a folder; the hash after them keeps folders
/// apart.
const SLUG: usize = 40;

/// Turns a label into a part of the name of a folder: lower case, and only characters that are safe
/// in a path.
pub fn slug(label: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || "._+".contains(c) => c.to_ascii_lowercase(),
        _ => '-',
    };
    let slug: String = label.chars().map(plain).take(SLUG).collect();
    slug.trim_start_matches(['.', '-']).to_owned()
}

/// Makes the message about cells that cannot be trained: each reason once, with the first cell that
/// it concerns.
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
    use crate::device::ComputeDevice;

    fn planned(text: &str) -> Result<Plan, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, text).unwrap();
        let comparison = Comparison::read(path.to_str().unwrap(), &[]);
        let device = ComputeDevice::cpu();
        let plan = |comparison| plan(&comparison, &mut Workshop::new(&device, folder.path()));
        comparison.and_then(plan).map_err(|f| f.to_string())
    }

    const SMALL: &str = "
trial: {recipe: micro}
seeds: [0, 1]
backbones: [vit-micro, resnet-micro]
datasets: [digits]
methods: [linear-probe, {use: vpt-deep, backbones: [vit-micro]}]
";

    #[test]
    fn each_cell_and_seed_is_a_task_with_its_own_id() {
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
        // The id is the hash that the trial has when it runs alone.
        let alone = Experiment::read("peft/linear-probe.yaml", &["recipe=micro".to_owned()]);
        let alone = alone.and_then(|e| crate::model::trial::Trial::open(e, &ComputeDevice::cpu()));
        let alone = alone.map_err(|f| f.error).unwrap().0;
        assert_eq!(alone.hash, plan.tasks[0].id);
        assert_eq!(plan.results.missing.len(), 6);
    }

    #[test]
    fn cells_that_cannot_be_trained_are_listed_before_any_work() {
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
