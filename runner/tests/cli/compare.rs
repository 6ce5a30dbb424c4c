//! Comparisons: fair, complete, and the same however often they are stopped.

mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::succeeded;

/// Three methods on one tiny backbone and two drawn data sets.
const COMPARISON: &str = "
trial:
  recipe: {extends: micro, epochs: 2, batch_size: 32}
seeds: [0, 1]
backbones:
  - label: vit
    use: {name: vit, img_size: 16, patch_size: 4, embed_dim: 16, depth: 3, num_heads: 2}
datasets:
  shapes: [{label: shapes, use: {name: shapes, size: 16, train: 128, validation: 64, test: 64}}]
  textures: [{label: textures, use: {name: textures, size: 16, train: 96, validation: 48, test: 48}}]
methods:
  - linear-probe
  - {use: lora, label: LoRA, set: {method.rank: 2, recipe.optimizer.lr: 0.02}}
  - {use: {name: ap, boundaries: [-1]}, label: AP}
baseline: linear-probe
";

/// The search that the tuned comparison adds.
const TUNED: &str = "
search: {name: grid}
";

/// The comparison with two methods that tune their learning rate.
fn tuned() -> String {
    let space = "tune: {recipe.optimizer.lr: {values: [0.001, 0.02]}}";
    let methods = COMPARISON.replace("label: AP}", &format!("label: AP, {space}}}"));
    methods.replace(
        "- linear-probe",
        &format!("- {{use: linear-probe, {space}}}"),
    ) + TUNED
}

/// A folder with the YAML of a comparison called `small`.
struct Place(tempfile::TempDir);

impl Place {
    fn new(yaml: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::write(place.path("small.yaml"), yaml).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = crate::program();
        command.current_dir(self.0.path()).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn compare(&self, more: &[&str]) -> Output {
        self.run(
            &[
                &["compare", "--config", "small.yaml", "--device", "cpu"],
                more,
            ]
            .concat(),
        )
    }

    /// The summaries of all trials, by folder.
    fn summaries(&self, root: &str) -> BTreeMap<String, Value> {
        let entries = std::fs::read_dir(self.path(root)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let read = |path: PathBuf| {
            let text = std::fs::read_to_string(path.join("summary.json")).ok()?;
            let name = path.file_name()?.to_str()?.to_owned();
            Some((name, serde_json::from_str(&text).unwrap()))
        };
        paths.filter_map(read).collect()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The parts of the summaries that do not depend on the clock, by trial.
fn results(summaries: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let timeless = |summary: &Value| {
        let mut kept = serde_json::Map::new();
        for key in [
            "status",
            "test",
            "validation",
            "best_epoch",
            "epochs",
            "params",
            "cell",
            "config",
        ] {
            kept.insert(key.to_owned(), summary[key].clone());
        }
        // A sweep caches prefixes in files, a comparison in memory.
        if let Some(config) = kept["config"].as_object_mut() {
            config.remove("prefix_cache");
        }
        if let Some(tuning) = summary.get("tuning") {
            let candidates = tuning["candidates"].as_array().unwrap().iter();
            let scores = candidates.map(|c| c["score"].clone()).collect::<Vec<_>>();
            kept.insert("scores".to_owned(), scores.into());
            kept.insert("chosen".to_owned(), tuning["chosen"].clone());
        }
        Value::Object(kept)
    };
    let pairs = summaries.iter();
    pairs
        .map(|(name, summary)| (name.clone(), timeless(summary)))
        .collect()
}

#[test]
fn trials_on_several_devices_are_those_of_one() {
    let (one, two) = (Place::new(COMPARISON), Place::new(COMPARISON));
    succeeded(one.compare(&[]));
    let several = ["compare", "--config", "small.yaml", "--devices", "cpu,cpu"];
    let output = two.run(&several);
    assert!(stderr(&output).contains("device"), "{}", stderr(&output));
    succeeded(output);
    assert_eq!(
        results(&one.summaries("runs/small")),
        results(&two.summaries("runs/small"))
    );
    // A comparison may change from call to call, unlike a sweep.
    succeeded(two.run(&[&several[..], &["--set", "seeds=[0]"]].concat()));
}

#[test]
fn a_comparison_is_fair_and_reports() {
    let place = Place::new(COMPARISON);
    let out = succeeded(place.compare(&[]));
    for part in [
        "linear-probe",
        "LoRA",
        "AP",
        "shapes",
        "textures",
        "report.html",
    ] {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    let summaries = place.summaries("runs/small");
    assert_eq!(summaries.len(), 12);
    for file in [
        "results.csv",
        "results.jsonl",
        "results.md",
        "report.html",
        "comparison.yaml",
    ] {
        assert!(
            place
                .path("runs/small")
                .join(file)
                .metadata()
                .unwrap()
                .len()
                > 0,
            "{file}"
        );
    }
    let csv = std::fs::read_to_string(place.path("runs/small/results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 13);

    // Within a data set and a seed, trials differ in the method and its declared settings only.
    let mut shared: BTreeMap<(String, u64), BTreeSet<String>> = BTreeMap::new();
    for summary in summaries.values() {
        let mut config = summary["config"].clone();
        config["method"] = Value::Null;
        let declared = summary["cell"]["overrides"].as_object();
        if summary["cell"]["method"] == "LoRA" {
            assert_eq!(declared.unwrap()["recipe.optimizer.lr"], "0.02");
            config["recipe"]["optimizer"]["lr"] = 0.01.into();
        } else {
            assert!(declared.is_none_or(serde_json::Map::is_empty));
        }
        let dataset = summary["cell"]["dataset"].as_str().unwrap().to_owned();
        let seed = summary["seed"].as_u64().unwrap();
        shared
            .entry((dataset, seed))
            .or_default()
            .insert(config.to_string());
    }
    assert!(
        shared.values().all(|configs| configs.len() == 1),
        "{shared:#?}"
    );
    assert_eq!(shared.len(), 4);

    // The second time nothing is trained.
    let again = place.compare(&[]);
    assert_eq!(succeeded(again), out);
    // With one more method, only that is trained.
    let before = place.summaries("runs/small");
    let more = COMPARISON.replace("methods:\n", "methods:\n  - norm-tune\n");
    std::fs::write(place.path("small.yaml"), more).unwrap();
    succeeded(place.compare(&[]));
    let after = place.summaries("runs/small");
    assert_eq!(after.len(), 16);
    assert!(before.iter().all(|(name, summary)| after[name] == *summary));
}

#[test]
fn each_prefix_is_computed_once_for_all_methods_that_share_it() {
    // Eleven methods; those called late train above the last block only, the probes only the head.
    let late = "
  - {use: linear-probe, label: one}
  - {use: linear-probe, label: two, set: {recipe.optimizer.lr: 0.02}}
  - {use: {name: ap, boundaries: [-1]}, label: late}
  - {use: {name: ap, boundaries: [-1], kind: product}, label: late-product}
  - {use: {name: ap, boundaries: [-1], shared: true}, label: late-shared}
  - {use: {name: vpt, boundaries: [-1], length: 2}, label: late-vpt}
  - {use: lora, label: lora}
  - {use: bias, label: bias}
  - {use: norm-tune, label: norm}
  - {use: ssf, label: ssf}
  - {use: full-finetune, label: full}
";
    let start = COMPARISON.find("  - linear-probe").unwrap();
    let yaml = COMPARISON[..start].trim_end().to_owned() + late;
    let yaml = yaml.replace("seeds: [0, 1]", "seeds: [0]");
    // The random weights follow the seed, so that seeds share no prefix; one seed is enough here.
    let yaml = yaml.replace("  textures: [{label: textures, use: {name: textures, size: 16, train: 96, validation: 48, test: 48}}]\n", "");
    let place = Place::new(&yaml);
    succeeded(place.compare(&["--set", "trial.prefix_cache=memory"]));
    let filled = |summary: &Value| summary["time"]["cache_seconds"].as_f64().unwrap() > 0.0;
    let summaries = place.summaries("runs/small");
    assert_eq!(summaries.len(), 11);
    let filled: BTreeSet<&str> = summaries
        .values()
        .filter(|summary| filled(summary))
        .map(|summary| summary["cell"]["method"].as_str().unwrap())
        .collect();
    // The prefix is the whole backbone for the probes, all but the last block for the late ones, the
    // layers before the first block for methods that adapt every block, and none for those that reach
    // the images.
    assert!(
        filled.contains("one") && !filled.contains("two"),
        "{filled:?}"
    );
    assert!(filled.contains("late"), "{filled:?}");
    for name in ["late-product", "late-shared", "late-vpt", "norm"] {
        assert!(!filled.contains(name), "{name}: {filled:?}");
    }
    let cached = |name: &str| {
        let of = |summary: &&Value| summary["cell"]["method"] == name;
        summaries.values().find(of).unwrap()["memory"]["cache_bytes"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(cached("one"), cached("two"));
    assert_eq!(cached("late"), cached("late-product"));
}

#[test]
fn tuning_chooses_on_validation_and_trains_again_on_all() {
    let place = Place::new(&tuned());
    succeeded(place.compare(&[]));
    let summaries = place.summaries("runs/small");
    assert_eq!(summaries.len(), 12);
    for summary in summaries.values() {
        let tuning = &summary["tuning"];
        let candidates = tuning["candidates"].as_array().unwrap();
        let expected = if summary["cell"]["method"] == "LoRA" {
            1
        } else {
            2
        };
        assert_eq!(candidates.len(), expected);
        let chosen = &candidates[tuning["chosen"].as_u64().unwrap() as usize];
        let score = |c: &Value| c["score"].as_f64().unwrap();
        assert!(candidates.iter().all(|c| score(c) <= score(chosen)));
        let recipe = &summary["config"]["recipe"];
        assert_eq!(recipe["train_on"], "train_validation");
        assert_eq!(recipe["stop_after"], chosen["best_epoch"]);
        assert_eq!(summary["epochs"], chosen["best_epoch"]);
        assert_eq!(summary["validation"], Value::Null);
        let lr = recipe["optimizer"]["lr"].as_f64().unwrap();
        if let Some(set) = chosen["set"].get("recipe.optimizer.lr") {
            assert_eq!(set.as_str().unwrap().parse::<f64>().unwrap(), lr);
        }
    }
    // The seeds of a cell share one search.
    let searches = std::fs::read_dir(place.path("runs/small/tuning")).unwrap();
    assert_eq!(searches.count(), 6);
}

#[test]
fn a_search_may_train_its_choice_on_the_training_split_alone() {
    let place = Place::new(&tuned());
    let methods = "methods=[{use: {name: ap, boundaries: [-1]}, label: AP, \
                   tune: {recipe.optimizer.lr: {values: [0.001, 0.02]}}}]";
    let sets = ["search.retrain=train", methods, "baseline=null"];
    let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    let plan = succeeded(place.compare(&[&args[..], &["--dry-run"]].concat()));
    let declared = "trained on the training images alone";
    assert!(plan.contains(declared), "{plan}");
    let out = succeeded(place.compare(&args));
    assert!(out.contains(declared), "{out}");
    let page = std::fs::read_to_string(place.path("runs/small/report.html")).unwrap();
    assert!(page.contains(declared));
    let lines = std::fs::read_to_string(place.path("runs/small/results.jsonl")).unwrap();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["search_retrain"], "train");
    }
    for summary in place.summaries("runs/small").values() {
        let recipe = &summary["config"]["recipe"];
        assert_eq!(recipe["train_on"], "train");
        assert_eq!(recipe["stop_after"], Value::Null);
        // The first seed repeats the training of the candidate, so that its score is that of the search.
        if summary["seed"] == 0 {
            let tuning = &summary["tuning"];
            let chosen = &tuning["candidates"][tuning["chosen"].as_u64().unwrap() as usize];
            assert_eq!(summary["validation"]["top1"], chosen["score"]);
        }
    }
}

/// Starts a command, lets it work, and kills it.
fn killed(place: &Place, args: &[&str], after: Duration) -> bool {
    let mut child: Child = place.command(args).spawn().unwrap();
    std::thread::sleep(after);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

#[test]
fn a_comparison_killed_at_any_moment_ends_as_an_unbroken_one() {
    for yaml in [COMPARISON.to_owned(), tuned()] {
        let (whole, broken) = (Place::new(&yaml), Place::new(&yaml));
        succeeded(whole.compare(&[]));
        let args = ["compare", "--config", "small.yaml", "--device", "cpu"];
        let mut kills = 0;
        for milliseconds in [150, 400, 700, 900, 1300] {
            kills += usize::from(killed(&broken, &args, Duration::from_millis(milliseconds)));
        }
        assert!(kills > 0, "no kill came in time");
        succeeded(broken.compare(&[]));
        let (whole, broken) = (
            whole.summaries("runs/small"),
            broken.summaries("runs/small"),
        );
        assert_eq!(results(&whole), results(&broken));
    }
}

#[test]
fn a_trial_that_fails_is_reported_and_the_rest_go_on() {
    let diverging = "  - {use: full-finetune, label: bad, set: {recipe.optimizer: {name: sgd, lr: 1.0e+12}, recipe.schedule: {name: constant}}}\n";
    let yaml = COMPARISON.replace("methods:\n", &format!("methods:\n{diverging}"));
    let place = Place::new(&yaml);
    let output = place.compare(&[]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(out.contains("not finite"), "{out}");
    assert!(stderr(&output).contains("4 of 16 trials failed"));
    let summaries = place.summaries("runs/small");
    let failed: Vec<_> = summaries
        .values()
        .filter(|s| s["status"] == "failed")
        .collect();
    assert_eq!((summaries.len(), failed.len()), (16, 4));
    assert!(
        failed
            .iter()
            .all(|s| s["exit"] == 3 && s["cell"]["method"] == "bad")
    );
    let page = std::fs::read_to_string(place.path("runs/small/report.html")).unwrap();
    assert!(page.contains("not finite"));
}

#[test]
fn mistakes_are_reported_before_any_work() {
    let place = Place::new(&COMPARISON.replace("methods:\n", "methods:\n  - vpt\n"));
    let resnet = "backbones=[{label: r, use: {name: resnet, img_size: 32, block: basic, layers: [1, 1, 1, 1], channels: [4, 4, 8, 8]}}]";
    let output = place.compare(&["--set", resnet]);
    assert_eq!(output.status.code(), Some(2));
    let message = stderr(&output);
    assert!(
        message.contains("vpt, r, shapes and 1 more cells: method: "),
        "{message}"
    );
    assert!(!place.path("runs").exists());
    let out = succeeded(place.compare(&["--dry-run"]));
    assert!(
        out.contains("trials      16") && out.contains("LoRA: method.rank=2"),
        "{out}"
    );
    // Each cell says what it trains and where, and what that takes.
    for part in [
        "  LoRA, ",
        "    trains    ",
        " without the head: equal",
        "    acts at   ",
        "    input     16 x 16, ",
        "    remark    ",
        " images, about ",
        " an image",
        "work        ",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!place.path("runs").exists());
}
