//! What a training aims at: weights of classes, and several labels per image.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::methods::root;
use crate::{small, succeeded, summary};

/// What a small trial prints before it trains.
fn plan(more: &[&str], runs: &Path) -> String {
    succeeded(small(&[more, &["--dry-run"]].concat(), runs))
}

/// The message of a small trial that is refused.
fn refused(more: &[&str], runs: &Path) -> String {
    let output = small(more, runs);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    message
}

#[test]
fn classes_are_weighed_in_the_training_loss_alone() {
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path();
    let [few, set] = [
        "recipe.epochs=1",
        "recipe.class_weights={disc/solid: 3, 5: 0.5}",
    ];
    let weighed = ["--set", few, "--set", set];
    let loss = |out: String| {
        let line = out.lines().find(|line| line.starts_with("loss "));
        line.map(str::to_owned)
    };
    let range = loss(plan(&weighed, runs)).unwrap();
    assert!(range.ends_with("classes weigh 0.500 to 3.000"), "{range}");
    assert_eq!(loss(plan(&[], runs)), None);
    let inverse = "recipe.class_weights=inverse_frequency";
    let digits = plan(&["--set", inverse, "--set", "dataset=digits"], runs);
    let each = loss(digits).unwrap();
    assert!(
        each.contains("classes weigh 0 1.0") && each.contains(", 9 "),
        "{each}"
    );

    succeeded(small(&weighed, runs));
    let one = summary(runs);
    let plain = tempfile::tempdir().unwrap();
    succeeded(small(&["--set", few], plain.path()));
    let other = summary(plain.path());
    assert_eq!(one["config"]["recipe"]["class_weights"]["disc/solid"], 3.0);
    assert_ne!(one["config_hash"], other["config_hash"]);
    let loss = "/history/0/train_loss";
    assert_ne!(one.pointer(loss), other.pointer(loss));

    for (set, part) in [
        ("{disc/sold: 3}", "did you mean `disc/solid`?"),
        ("[1, 2]", "recipe.class_weights: expected 64 weights"),
        (
            "{disc/solid: 0}",
            "recipe.class_weights.disc/solid: expected a finite number more than 0",
        ),
        (
            "none",
            "`inverse_frequency`, a list of weights or a mapping",
        ),
    ] {
        let set = format!("recipe.class_weights={set}");
        let message = refused(&["--set", &set], runs);
        assert!(message.contains(part), "{message}");
    }
}

/// The YAML of the page about data sets that follows its heading about several labels.
fn example() -> String {
    let page = std::fs::read_to_string(root().join("docs/datasets.md")).unwrap();
    let (_, section) = page.split_once("\n## Several labels per image\n").unwrap();
    let (_, yaml) = section.split_once("```yaml\n").unwrap();
    yaml.split_once("```").unwrap().0.to_owned()
}

/// Images of 32 pixels with a red, a green and a blue band, each of which may be missing, and their table.
fn scenes(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let mut table = "file,split,labels,red,green,blue\n".to_owned();
    for index in 0..64u32 {
        let shown = [1, 2, 4].map(|bit| (index % 8) & bit != 0);
        let image = image::RgbImage::from_fn(32, 32, |x, y| {
            let noise = ((x * 7 + y * 13 + index * 29) % 60) as u8;
            let mut pixel = [noise; 3];
            let band = (x / 11) as usize;
            if shown[band] {
                pixel[band] = 255 - noise;
            }
            image::Rgb(pixel)
        });
        image.save(folder.join(format!("{index}.png"))).unwrap();
        let names = ["red", "green", "blue"].into_iter().zip(shown);
        let names: Vec<_> = names
            .filter_map(|(name, shown)| shown.then_some(name))
            .collect();
        let split = if index < 48 { "train" } else { "test" };
        let [red, green, blue] = shown.map(u8::from);
        table += &format!(
            "{index}.png,{split},{},{red},{green},{blue}\n",
            names.join("|")
        );
    }
    std::fs::write(folder.join("labels.csv"), table).unwrap();
}

/// The program in a folder that holds the scenes and their experiment.
fn with_scenes(folder: &Path, args: &[&str]) -> Output {
    let mut command = crate::program();
    command.args(args).current_dir(folder).output().unwrap()
}

#[test]
fn images_with_several_labels_train_and_are_scored() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    scenes(&folder.join("data/scenes"));
    std::fs::write(folder.join("scenes.yaml"), example()).unwrap();
    let run = |args: &[&str]| with_scenes(folder, args);
    let trained = succeeded(run(&["--config", "scenes.yaml", "--device", "cpu"]));
    assert!(
        trained.contains("test mAP") && !trained.contains("top-1"),
        "{trained}"
    );
    let summary = summary(&folder.join("runs"));
    let test = &summary["test"];
    assert!(test["multi_label"]["map"].as_f64().unwrap() > 0.9, "{test}");
    assert!(
        test["top1"].is_null() && test["confusion"].is_null(),
        "{test}"
    );
    assert_eq!(
        test["multi_label"]["average_precision"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    let of_run = crate::folder(&folder.join("runs"));
    let text = |name: &str| std::fs::read_to_string(of_run.join(name)).unwrap();
    let report = text("report.html");
    for part in ["test mAP", "average precision", "exact match", "samples F1"] {
        assert!(report.contains(part), "{part}");
    }
    assert!(!report.contains("top-1"));
    let predictions = text("predictions.csv");
    let mut lines = predictions.lines();
    assert_eq!(
        lines.next(),
        Some("split,image,labels,predictions,blue,green,red")
    );
    assert!(lines.any(|line| line.starts_with("test,") && line.contains("blue|green")));

    let path = of_run.to_str().unwrap();
    let eval = succeeded(run(&["eval", path, "--device", "cpu", "--format", "json"]));
    let eval: Value = serde_json::from_str(&eval).unwrap();
    assert_eq!(
        eval["test"]["multi_label"]["map"],
        test["multi_label"]["map"]
    );
    let eval = succeeded(run(&["eval", path, "--device", "cpu"]));
    assert!(
        eval.contains("test mAP") && eval.contains("  green"),
        "{eval}"
    );
    // 63 shows all three bands, 56 none.
    let sum = |image: &str| -> f64 {
        let image = format!("data/scenes/{image}.png");
        let args = [
            "predict", path, &image, "--device", "cpu", "--format", "json",
        ];
        let json: Value = serde_json::from_str(&succeeded(run(&args))).unwrap();
        let all = json[0]["predictions"].as_array().unwrap();
        all.iter()
            .map(|one| one["probability"].as_f64().unwrap())
            .sum()
    };
    let [all, none] = ["63", "56"].map(sum);
    assert!(all > 2.0 && none < 1.0, "{all} and {none}");
    let exported = folder.join("exported");
    let out = exported.to_str().unwrap();
    succeeded(run(&[
        "export", path, "--format", "pytorch", "--out", out, "--device", "cpu",
    ]));
    let config = std::fs::read_to_string(exported.join("config.json")).unwrap();
    assert!(config.contains("\"multi_label\": true"));
}

#[test]
fn what_needs_one_label_or_several_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    scenes(&folder.join("data/scenes"));
    std::fs::write(folder.join("scenes.yaml"), example()).unwrap();
    let refused = |args: &[&str]| {
        let output = with_scenes(folder, args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        message
    };
    for (set, part) in [
        (
            "metric=top1",
            "metric: top1 is not defined for the data set, which has several labels",
        ),
        (
            "metric=kappa",
            "expected one of f1_macro, auroc, map, f1_micro, f1_samples",
        ),
        (
            "recipe.label_smoothing=0.1",
            "recipe.label_smoothing: expected 0, because",
        ),
        (
            "recipe.class_weights=inverse_frequency",
            "recipe.class_weights: expected no weights",
        ),
        (
            "recipe.sampling=balanced",
            "recipe.sampling: expected shuffled, because",
        ),
        ("dataset.shots=2", "shots: expected all training images"),
        (
            "dataset.train_images=8",
            "train_images: expected all training images",
        ),
        (
            "dataset.unseen=skip",
            "`fail` where images have several labels",
        ),
    ] {
        let message = refused(&["--config", "scenes.yaml", "--dry-run", "--set", set]);
        assert!(message.contains(part), "{set}: {message}");
    }
    let message = refused(&["--config", "quickstart", "--dry-run", "--set", "metric=map"]);
    assert!(
        message.contains("which has one label per image"),
        "{message}"
    );

    // Mixup mixes targets, and columns of 0 and 1 are the same labels.
    let columns = "dataset={name: csv, root: data/scenes, all: {file: labels.csv}, path: file, \
                   split: {column: split, train: train, test: test}, one_hot: [blue, green, red]}";
    let plan = ["--config", "scenes.yaml", "--dry-run", "--set", columns];
    let more = ["--set", "recipe.augmentation={mixup: 0.5}"];
    let plan = succeeded(with_scenes(folder, &[&plan[..], &more].concat()));
    assert!(
        plan.contains("3 classes, several labels per image"),
        "{plan}"
    );

    let check = succeeded(with_scenes(
        folder,
        &[
            "init",
            "data/scenes/labels.csv",
            "--out",
            "seen.yaml",
            "--offline",
        ],
    ));
    assert!(
        check.contains("3 classes, 64 images, several labels per image"),
        "{check}"
    );
    let yaml = std::fs::read_to_string(folder.join("seen.yaml")).unwrap();
    assert!(
        yaml.contains("metric: map") && yaml.contains("separator: '|'"),
        "{yaml}"
    );
    assert!(!yaml.contains("sampling"), "{yaml}");
    let plan = ["--config", "seen.yaml", "--dry-run", "--offline"];
    succeeded(with_scenes(folder, &plan));
}
