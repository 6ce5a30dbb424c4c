//! Sweeps: a comparison in parts, by many processes, that may be stopped.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{COMPARISON, Place, results, stderr, tuned};
use crate::succeeded;

#[test]
fn a_sweep_in_parts_is_the_comparison() {
    let whole = Place::new(COMPARISON);
    succeeded(whole.compare(&[]));
    let place = Place::new(COMPARISON);
    let plan = [
        "sweep",
        "plan",
        "--config",
        "small.yaml",
        "--out",
        "sweep",
        "--device",
        "cpu",
    ];
    assert!(succeeded(place.run(&plan)).contains("12 trials"));
    let manifest = std::fs::read(place.path("sweep/manifest.jsonl")).unwrap();
    succeeded(place.run(&plan));

    let status = |place: &Place| -> Value {
        let out = succeeded(place.run(&["sweep", "status", "sweep", "--format", "json"]));
        serde_json::from_str(&out).unwrap()
    };
    assert_eq!(status(&place)["states"]["waiting"], 12);
    let run = |more: &[&str]| {
        let args = [&["sweep", "run", "sweep", "--device", "cpu"], more].concat();
        succeeded(place.run(&args));
    };
    run(&["--index", "3"]);
    assert_eq!(status(&place)["states"]["done"], 1);
    run(&["--chunk", "2/3"]);
    assert_eq!(status(&place)["states"]["done"], 5);
    let partial = place.run(&["sweep", "collect", "sweep"]);
    let said = "7 of 12 trials have no result yet: 7 waiting";
    assert!(stderr(&partial).contains(said), "{}", stderr(&partial));
    // A trial whose folder is locked runs, in `collect` as in `status`.
    let text = String::from_utf8(manifest.clone()).unwrap();
    let task: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let folder = place.path("sweep").join(task["folder"].as_str().unwrap());
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.join(".lock")).unwrap();
    lock.lock().unwrap();
    let partial = place.run(&["sweep", "collect", "sweep"]);
    let said = "7 of 12 trials have no result yet: 1 running, 6 waiting";
    assert!(stderr(&partial).contains(said), "{}", stderr(&partial));
    assert_eq!(status(&place)["states"]["running"], 1);
    drop(lock);
    // One table says which device ran what, of the trials that are left and of those that were done.
    let rest = place.run(&["sweep", "run", "sweep", "--devices", "cpu,cpu"]);
    let table = stderr(&rest);
    succeeded(rest);
    assert_eq!(table.matches(" cpu ").count(), 12, "{table}");
    assert_eq!(status(&place)["states"]["done"], 12);
    succeeded(place.run(&["sweep", "collect", "sweep"]));
    assert_eq!(
        results(&place.summaries("sweep")),
        results(&whole.summaries("runs/small"))
    );
    assert!(std::fs::read(place.path("sweep/manifest.jsonl")).unwrap() == manifest);

    // Another plan never replaces it, and an index beyond the last trial is refused.
    let output = place.run(&[&plan[..], &["--set", "seeds=[0]"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("a manifest never changes"));
    let output = place.run(&["sweep", "run", "sweep", "--index", "12"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--index 12: expected 0 to 11"));
    for (scheduler, part) in [
        ("slurm", "--array=0-11"),
        ("hq", "--array 0-11"),
        ("k8s", "completions: 12"),
    ] {
        let script = succeeded(place.run(&["sweep", "script", "sweep", "--for", scheduler]));
        assert!(
            script.contains(part) && script.contains("sweep run"),
            "{script}"
        );
        assert!(
            !script.contains("{last}") && !script.contains("{trials}"),
            "{script}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_sweep_that_is_stopped_saves_and_goes_on() {
    let (whole, broken) = (Place::new(&tuned()), Place::new(&tuned()));
    let plan = [
        "sweep",
        "plan",
        "--config",
        "small.yaml",
        "--out",
        "sweep",
        "--device",
        "cpu",
    ];
    let run = ["sweep", "run", "sweep", "--device", "cpu", "--jobs", "2"];
    succeeded(whole.run(&plan));
    succeeded(whole.run(&run));
    succeeded(broken.run(&plan));
    let mut stopped = 0;
    for (signal, milliseconds) in [
        ("-USR1", 500),
        ("-TERM", 700),
        ("-INT", 900),
        ("-KILL", 800),
    ] {
        let child = broken.command(&run).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        let pid = child.id().to_string();
        Command::new("kill").args([signal, &pid]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        stopped += usize::from(output.status.code() == Some(75));
    }
    assert!(stopped > 0, "no signal came in time");
    // The children of the killed process may still be at work; their trials are not repeated.
    while succeeded(broken.run(&["sweep", "status", "sweep", "--format", "json"]))
        .contains("\"running\": 1")
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    succeeded(broken.run(&run));
    succeeded(broken.run(&["sweep", "collect", "sweep"]));
    assert_eq!(
        results(&whole.summaries("sweep")),
        results(&broken.summaries("sweep"))
    );
}

/// A manifest is bound to the files that it was planned with.
#[test]
fn data_changed_since_the_plan_are_noticed() {
    let place = Place::new("");
    tree(&place.path("images"));
    let yaml = "
trial: {recipe: {extends: micro, epochs: 1}}
seeds: [0]
backbones: [{label: vit, use: {name: vit, img_size: 16, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}}]
datasets: [{label: images, use: {name: folder, root: images}}]
methods: [linear-probe]
";
    std::fs::write(place.path("small.yaml"), yaml).unwrap();
    succeeded(place.run(&["sweep", "plan", "--config", "small.yaml", "--out", "sweep"]));
    let image = place.path("images/train/ant/0.png");
    image::save_buffer(image, &[7; 12], 2, 2, image::ExtendedColorType::Rgb8).unwrap();
    let output = place.run(&["sweep", "run", "sweep", "--device", "cpu"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(
        message.contains("have changed since the trial was planned"),
        "{message}"
    );
}

/// Three images in each class of each split.
fn tree(root: &Path) {
    for (i, split) in ["train", "val", "test"].iter().enumerate() {
        for (j, class) in ["ant", "bee"].iter().enumerate() {
            let folder = root.join(split).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for k in 0..3 {
                let level = (10 + 60 * i + 30 * j + 10 * k) as u8;
                let path = folder.join(format!("{k}.png"));
                image::save_buffer(path, &[level; 6], 2, 1, image::ExtendedColorType::Rgb8)
                    .unwrap();
            }
        }
    }
}
