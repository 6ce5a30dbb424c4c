//! What the commands print without training: help, lists, schemas and examinations, and what they refuse.

use super::*;

#[test]
fn training_has_a_name_and_a_missing_config_is_asked_for() {
    let runs = tempfile::tempdir().unwrap();
    let plan = |args: &[&str]| succeeded(run(args, runs.path()));
    let config = ["--config", "quickstart", "--device", "cpu", "--dry-run"];
    assert_eq!(plan(&config), plan(&[&["train"], &config[..]].concat()));
    for command in [
        &["train"][..],
        &["compare"],
        &["--seed", "1"],
        &["--dry-run"],
    ] {
        let output = run(command, runs.path());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{command:?}: {message}");
        let asked = message.contains("--config <FILE>") || message.contains("--seed");
        assert!(asked, "{command:?}: {message}");
    }
}

#[test]
fn help_lists_the_commands_by_what_they_are_for() {
    let help = |args: &[&str]| {
        let mut command = crate::program();
        succeeded(command.args(args).output().unwrap())
    };
    let overview = help(&["--help"]);
    let groups = ["Train and compare:", "Look:", "Use:", "Measure:"];
    let places = groups.map(|group| overview.find(group).expect(group));
    assert!(places.is_sorted(), "{overview}");
    for (command, group) in [("compare", 0), ("data", 1), ("predict", 2), ("bench", 3)] {
        let place = overview.find(&format!("\n  {command} ")).expect(command);
        assert!(place > places[group], "{overview}");
        assert!(
            places.get(group + 1).is_none_or(|next| place < *next),
            "{overview}"
        );
    }
    assert!(overview.lines().count() <= 44, "{overview}");
    let train = help(&["train", "--help"]);
    assert!(
        train.contains("Example:\n  runner train --config"),
        "{train}"
    );
}

#[test]
fn every_wrong_input_is_one_message_and_exit_code_2() {
    let runs = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = files.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let vit_tiny = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fixtures/vit_tiny/weights.safetensors"
    );
    let whole = std::fs::read(vit_tiny).unwrap();
    let truncated = write("truncated.safetensors", &whole[..whole.len() / 2]);
    let garbage = write(
        "garbage.safetensors",
        b"not a checkpoint at all, but long enough",
    );
    let empty = write("empty.safetensors", b"");
    let folder = files.path().join("images");
    for split in ["train", "val", "test"] {
        std::fs::create_dir_all(folder.join(split).join("cat")).unwrap();
    }
    let folder = folder.display();
    let weights = |path: &str| format!("backbone.weights={path}");
    let cases: Vec<(Vec<String>, Vec<&str>)> = vec![
        (vec!["method=lroa".into()], vec!["did you mean \"lora\"?"]),
        (
            vec!["method.rnak=1".into()],
            vec!["method.rnak", "did you mean `rank`?"],
        ),
        (
            vec!["method.rank=four".into()],
            vec!["method.rank", "invalid type"],
        ),
        (
            vec!["method.rank=0".into()],
            vec!["method: rank: expected at least 1"],
        ),
        (
            vec!["method={name: ap, boundaries: [9]}".into()],
            vec!["boundary 9 does not exist", "expected 0..=4", "-3..=-1"],
        ),
        (
            vec!["method.targets=[fc9]".into()],
            vec!["\"fc9\" matches no site", "blocks.0.attn.qkv"],
        ),
        (
            vec!["method.targets=[norm1]".into()],
            vec!["lora cannot be attached to", "norm"],
        ),
        (
            vec![weights("no/such/file.safetensors")],
            vec!["no/such/file.safetensors: no such file"],
        ),
        (
            vec![weights(&truncated)],
            vec!["truncated.safetensors", "expected a safetensors file"],
        ),
        (
            vec![weights(&garbage)],
            vec!["garbage.safetensors", "expected a safetensors file"],
        ),
        (
            vec![weights(&empty)],
            vec!["empty.safetensors", "the file is empty"],
        ),
        (
            vec![weights(vit_tiny)],
            vec![
                "12 keys that nothing takes: blocks.3",
                "of another shape",
                "expected [",
            ],
        ),
        (
            vec![
                "backbone={name: resnet, variant: resnet18}".into(),
                weights(vit_tiny),
            ],
            vec![
                "these are not the weights of resnet18",
                "parameters that nothing fills",
            ],
        ),
        (vec!["dataset.train=0".into()], vec!["dataset", "train"]),
        (
            vec![format!("dataset={{name: folder, root: {folder}}}")],
            vec!["dataset", "cat"],
        ),
        (
            vec!["dataset={name: folder, root: no/such/images}".into()],
            vec!["no/such/images"],
        ),
        (
            vec!["recipe.batch_size=0".into()],
            vec!["recipe.batch_size: expected at least 1"],
        ),
        (
            vec!["head.from=checkpoint".into()],
            vec!["head.from: the checkpoint has no head"],
        ),
    ];
    for (sets, parts) in cases {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let output = small(&sets, runs.path());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{sets:?}: {message}");
        for part in parts {
            assert!(
                message.contains(part),
                "{sets:?}: {part:?} is not in\n{message}"
            );
        }
        assert_eq!(message.matches("error: ").count(), 1, "{message}");
    }
    let typo = run(&["--config", "peft/lora-r01.yaml"], runs.path());
    assert_eq!(typo.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&typo.stderr).contains("did you mean \"peft/lora-r10\"?"));
    let device = run(&["--config", "quickstart", "--device", "gpu"], runs.path());
    assert_eq!(device.status.code(), Some(2));
    assert_eq!(std::fs::read_dir(runs.path()).unwrap().count(), 0);
}

/// Without a GPU, asking for one is a clear error that names what is missing.
#[test]
fn asking_for_cuda_where_there_is_none_says_what_is_missing() {
    if Path::new("/dev/nvidia0").exists() {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    let output = run(&["--config", "quickstart", "--device", "cuda"], runs.path());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    let named = message.contains("libcuda") || message.contains("without the feature cuda");
    assert!(named && message.contains("--device cpu"), "{message}");
}

#[test]
fn lists_schema_and_doctor_answer_programs() {
    let json = |args: &[&str]| -> Value {
        let output = crate::program().args(args).output().unwrap();
        serde_json::from_str(&succeeded(output)).unwrap()
    };
    let names = |kind: &str| -> Vec<String> {
        let list = json(&["list", kind, "--format", "json"]);
        let name = |entry: &Value| entry["name"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(
        names("methods"),
        [
            "adapter",
            "adaptformer",
            "ap",
            "bias",
            "boft",
            "compacter",
            "convpass",
            "fact",
            "fourierft",
            "full-finetune",
            "linear-probe",
            "loha",
            "lokr",
            "lora",
            "lst",
            "norm-tune",
            "oft",
            "partial",
            "rep-adapter",
            "ssf",
            "vera",
            "vp",
            "vpt",
            "vqt"
        ]
    );
    assert_eq!(
        names("backbones"),
        ["clip", "convnext", "resnet", "swin", "vit"]
    );
    let datasets = [
        "cifar",
        "coop",
        "csv",
        "digits",
        "fgvc",
        "folder",
        "fundus",
        "parquet",
        "scenes",
        "shapes",
        "sprites",
        "terrain",
        "textures",
        "tfds",
        "vtab",
        "webdataset",
    ];
    assert_eq!(names("datasets"), datasets);
    assert_eq!(names("devices")[0], "cpu");
    let devices = json(&["list", "devices", "--format", "json"]);
    for device in devices.as_array().unwrap() {
        // A device answers with its model, and a kind without one says what it lacks.
        assert_ne!(
            device["model"].is_string(),
            device["missing"].is_string(),
            "{device}"
        );
    }
    let schema = json(&["schema"]);
    assert!(schema["properties"]["method"]["anyOf"].is_array());
    assert_eq!(schema["additionalProperties"], false);
    let comparison = json(&["schema", "comparison"]);
    assert!(comparison["properties"]["methods"]["items"].is_object());
    let shown = json(&["show", "--config", "peft/ap.yaml", "--format", "json"]);
    assert_eq!(shown["boundaries"][3]["place"], "input of blocks.2");
}

/// Every registered backbone with every registered method, and each beside another computation: an error
/// of exactly zero would mean that something is compared with itself.
#[test]
fn the_doctor_examines_everything_that_is_registered() {
    let args = ["doctor", "--device", "cpu", "--format", "json"];
    let output = crate::program().args(args).output().unwrap();
    let report: Value = serde_json::from_str(&succeeded(output)).unwrap();
    let device = &report["devices"][0];
    assert_eq!(device["name"], "cpu");
    let tests = device["tests"].as_array().unwrap();
    for backbone in plugins(PluginKind::Backbone) {
        for method in plugins(PluginKind::Method) {
            let names = (backbone.name, method.name);
            let test = tests.iter().find(|test| {
                (&test["backbone"], &test["method"]) == (&names.0.into(), &names.1.into())
            });
            let test = test.unwrap_or_else(|| panic!("{names:?} is not tested"));
            match test["result"].as_str() {
                Some("pass") => assert!(test["max_relative_error"].as_f64() > Some(0.0), "{test}"),
                result => assert_eq!(result, Some("refused"), "{test}"),
            }
        }
    }
    let golden = device["golden"].as_array().unwrap();
    assert_eq!(golden.len(), plugins(PluginKind::Backbone).len());
    for test in golden {
        assert_eq!(test["result"], "pass", "{test}");
        assert!(test["max_relative_error"].as_f64() > Some(0.0), "{test}");
    }
    let operations = device["operations"]["checks"].as_array().unwrap();
    assert!(operations.len() >= 11, "{device}");
    assert!(
        operations.iter().all(|check| check["passed"] == true),
        "{device}"
    );
}

#[test]
fn the_doctor_runs_what_is_asked_for() {
    let args = ["doctor", "--device", "cpu", "--only", "golden/vit"];
    let output = crate::program().args(args).output().unwrap();
    let text = succeeded(output);
    assert_eq!(text.matches("PASS").count(), 1, "{text}");
    assert!(text.contains("timm") && !text.contains("GFLOP/s"), "{text}");
}
