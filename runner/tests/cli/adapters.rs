//! What can be done with a trained adapter: merge, export, read back, scale, use several at a time.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::{folder, small, succeeded};

/// Trains one epoch; the run's folder.
fn trained(method: &str, runs: &Path) -> PathBuf {
    let method = format!("method={method}");
    succeeded(small(&["--set", "recipe.epochs=1", "--set", &method], runs));
    folder(runs)
}

pub fn runner(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = crate::program();
    command.args(args.iter().map(|arg| arg.as_ref()));
    command.args(["--device", "cpu"]).output().unwrap()
}

fn test_loss(args: &[&dyn AsRef<std::ffi::OsStr>]) -> f64 {
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"eval"];
    all.extend(args);
    all.extend([&"--format" as &dyn AsRef<std::ffi::OsStr>, &"json"]);
    let json: Value = serde_json::from_str(&succeeded(runner(&all))).unwrap();
    json["test"]["loss"].as_f64().unwrap()
}

pub fn refused(output: Output, part: &str) {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(part), "{message}");
}

#[test]
fn a_merged_checkpoint_gives_the_same_results_without_the_adapter() {
    let runs = tempfile::tempdir().unwrap();
    let run = trained("{name: lora, dora: true}", runs.path());
    let out = runs.path().join("merged.safetensors");
    let said = succeeded(runner(&[&"merge", &run, &"--out", &out]));
    assert!(
        said.contains("checked           64 validation images"),
        "{said}"
    );
    let again = runner(&[&"merge", &run, &"--out", &out]);
    refused(again, "it is there already");

    // The merged file is a checkpoint of the bare backbone, head included.
    let weights = format!(
        "backbone={{name: vit, img_size: 16, patch_size: 4, embed_dim: 16, depth: 3, num_heads: 2, \
         weights: {}}}",
        out.display()
    );
    let plain = tempfile::tempdir().unwrap();
    let more = [
        "method=linear-probe",
        "head.from=checkpoint",
        "recipe.epochs=1",
    ];
    let mut args = vec!["--set", &weights, "--set", "recipe.optimizer.lr=1.0e-30"];
    args.extend(more.iter().flat_map(|set| ["--set", set]));
    succeeded(small(&args, plain.path()));
    let (before, after) = (test_loss(&[&run]), test_loss(&[&folder(plain.path())]));
    assert!((before - after).abs() < 1e-5, "{before} and {after}");

    let vpt = tempfile::tempdir().unwrap();
    let run = trained("{name: vpt, length: 2}", vpt.path());
    let out = vpt.path().join("merged.safetensors");
    let output = runner(&[&"merge", &run, &"--out", &out]);
    refused(output, "adds tokens, which no weight of the backbone holds");
    assert!(!out.exists());
}

#[test]
fn an_exported_folder_is_read_back_and_trained_further() {
    let runs = tempfile::tempdir().unwrap();
    let run = trained("{name: lora, rank: 3, targets: [query, fc1]}", runs.path());
    refused(
        runner(&[&"export", &run]),
        "blocks.0.attn.query is a part of blocks.0.attn.qkv",
    );
    let exported = runs.path().join("peft");
    let out: [&dyn AsRef<std::ffi::OsStr>; 6] = [
        &"export",
        &run,
        &"--layout",
        &"transformers",
        &"--out",
        &exported,
    ];
    succeeded(runner(&out));
    let config = std::fs::read_to_string(exported.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["modules_to_save"][0], "classifier");
    let modules = config["target_modules"].as_str().unwrap();
    assert!(modules.contains(r"vit\.layers\.0\.attention\.q_proj"));

    let own = test_loss(&[&run]);
    assert_eq!(own, test_loss(&[&run, &"--adapter", &exported]));

    // As the start of another run: the folder's method takes the place of the YAML's.
    let further = tempfile::tempdir().unwrap();
    let start = exported.to_string_lossy().into_owned();
    let args = [
        "--adapter",
        &start,
        "--set",
        "recipe.epochs=1",
        "--set",
        "recipe.optimizer.lr=1.0e-30",
    ];
    succeeded(small(&args, further.path()));
    let further = folder(further.path());
    assert!((own - test_loss(&[&further])).abs() < 1e-6);
    let resolved = std::fs::read_to_string(further.join("config.resolved.yaml")).unwrap();
    assert!(resolved.contains("rank: 3"), "{resolved}");

    // A tensor that nothing takes must not be passed over in silence.
    let broken = runs.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(exported.join(name), broken.join(name)).unwrap();
    }
    let text = config.to_string().replace("q_proj", "k_proj");
    std::fs::write(broken.join("adapter_config.json"), text).unwrap();
    refused(
        runner(&[&"eval", &run, &"--adapter", &broken]),
        "targets without tensors: vit.layers.0.attention.k_proj",
    );
}

#[test]
fn scale_leads_from_the_frozen_backbone_to_the_adapted_one() {
    let runs = tempfile::tempdir().unwrap();
    let run = trained("[{name: lora}, {name: bias, parts: [mlp]}]", runs.path());
    let at = |scale: &str| test_loss(&[&run, &"--scale", &scale]);
    let own = test_loss(&[&run]);
    assert!((own - at("1")).abs() < 1e-6);
    let (half, none) = (at("0.5"), at("0"));
    assert!(half != own && half != none, "{own}, {half}, {none}");
    refused(
        runner(&[&"eval", &run, &"--scale", &"nan"]),
        "scale: expected a finite number",
    );
}

#[test]
fn several_adapters_predict_on_one_backbone() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lora = trained("lora", first.path());
    let ssf = trained("ssf", second.path());
    let image = first.path().join("disc.png");
    image::RgbImage::from_pixel(20, 10, image::Rgb([9, 200, 30]))
        .save(&image)
        .unwrap();
    let named = |name: &str, path: &Path| format!("{name}={}", path.display());
    let adapters = [named("a", &lora), named("b", &ssf)];
    let predict = |more: &[&str]| -> Value {
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"predict", &lora, &image];
        for adapter in &adapters {
            args.extend([&"--adapter" as &dyn AsRef<std::ffi::OsStr>, adapter]);
        }
        args.extend([&"--format" as &dyn AsRef<std::ffi::OsStr>, &"json"]);
        let more: Vec<String> = more.iter().map(|arg| (*arg).to_owned()).collect();
        args.extend(more.iter().map(|arg| arg as &dyn AsRef<std::ffi::OsStr>));
        serde_json::from_str(&succeeded(runner(&args))).unwrap()
    };
    let both = predict(&[]);
    let names: Vec<_> = both
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["adapter"])
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert!(both[0]["predictions"] != both[1]["predictions"]);
    let alone = runner(&[&"predict", &ssf, &image, &"--format", &"json"]);
    let alone: Value = serde_json::from_str(&succeeded(alone)).unwrap();
    assert_eq!(alone[0]["predictions"], both[1]["predictions"]);
    let one = predict(&["--use", "b"]);
    assert_eq!(one.as_array().unwrap().len(), 1);
    refused(
        runner(&[
            &"predict",
            &lora,
            &image,
            &"--adapter",
            &adapters[0],
            &"--use",
            &"c",
        ]),
        "there is no such adapter; there are: a",
    );
}

#[test]
fn methods_that_contradict_each_other_are_refused() {
    let runs = tempfile::tempdir().unwrap();
    for (methods, part) in [
        (
            "[bias, full-finetune]",
            "two methods tune the parameter blocks.0.attn.proj.bias",
        ),
        (
            "[{name: lora}, {name: lora, dora: true}]",
            "must be the first to act; put its method first",
        ),
        (
            "[{name: lora}, {name: loha}]",
            "must be the first to act; put its method first",
        ),
        (
            "[{name: ap, boundaries: [0]}, {name: vp, kind: frame, inner: 8}]",
            "vp replaces the image; it must be the first method",
        ),
        (
            "[{name: lora}, {name: vp, kind: border, width: 40}]",
            "method: width: expected 1 to",
        ),
    ] {
        let method = format!("method={methods}");
        refused(small(&["--set", &method], runs.path()), part);
    }
}

/// Compared with timm's own activations; the config holds nothing but a backbone.
#[test]
fn features_are_those_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/vit_tiny");
    let config = folder.path().join("tiny.yaml");
    let weights = fixtures.join("weights.safetensors");
    let yaml = format!(
        "backbone: {{name: vit, img_size: 32, patch_size: 8, embed_dim: 48, depth: 4, num_heads: 3, \
         weights: {}}}",
        weights.display()
    );
    std::fs::write(&config, yaml).unwrap();
    let (io, out) = (
        fixtures.join("io.safetensors"),
        folder.path().join("acts.safetensors"),
    );
    let run = |boundaries: &str| {
        let boundaries = boundaries.to_owned();
        runner(&[
            &"features",
            &"--config",
            &config,
            &"--input",
            &io,
            &"--boundaries",
            &boundaries,
            &"--out",
            &out,
        ])
    };
    let said = succeeded(run("-1,0"));
    let written: Vec<_> = said
        .lines()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(
        written,
        ["boundary.0", "boundary.4", "features", "logits", "written"]
    );
    let read = |path: &Path, name: &str| {
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = file.tensor(name).unwrap().data().to_vec();
        let (values, _) = data.as_chunks::<4>();
        values
            .iter()
            .map(|v| f32::from_le_bytes(*v))
            .collect::<Vec<_>>()
    };
    for name in ["features", "logits"] {
        let (got, expected) = (read(&out, name), read(&io, name));
        assert_eq!(got.len(), expected.len());
        let worst = got
            .iter()
            .zip(&expected)
            .fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(worst < 1e-4, "{name} is off by {worst}");
    }
    refused(run("9"), "boundary 9 does not exist on vit: expected 0..=5");
}

/// The configuration of the ViT for which folders of HF PEFT are stored, with the checkpoint's head.
fn of_vit_tiny(folder: &Path) -> PathBuf {
    let config = folder.join("tiny.yaml");
    let weights = fixture("vit_tiny/weights.safetensors");
    let yaml = format!(
        "backbone: {{name: vit, img_size: 32, patch_size: 8, embed_dim: 48, depth: 4, num_heads: 3, \
         weights: {}}}\nhead: {{from: checkpoint}}\n",
        weights.display()
    );
    std::fs::write(&config, yaml).unwrap();
    config
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fixtures")
        .join(name)
}

fn values(path: &Path, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(name).unwrap().data().to_vec();
    let (values, _) = data.as_chunks::<4>();
    values.iter().map(|v| f32::from_le_bytes(*v)).collect()
}

/// Logits of an adapter on the images that are stored with `reference`; what was printed on stderr.
fn agrees(config: &Path, adapter: &Path, reference: &str) -> String {
    let io = fixture("hf_peft").join(reference).join("io.safetensors");
    let out = config.with_file_name("out.safetensors");
    let output = runner(&[
        &"features",
        &"--config",
        &config,
        &"--input",
        &io,
        &"--boundaries",
        &"0",
        &"--out",
        &out,
        &"--adapter",
        &adapter,
    ]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    succeeded(output);
    let (got, expected) = (values(&out, "logits"), values(&io, "logits"));
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    for (a, b) in got.iter().zip(&expected) {
        assert!((a - b).abs() <= 1e-4 * scale, "{reference}: {a} and {b}");
    }
    said
}

#[test]
fn a_named_adapter_is_found_a_level_below() {
    let folder = tempfile::tempdir().unwrap();
    let config = of_vit_tiny(folder.path());
    let copy = |from: &str, to: &str| {
        let to = folder.path().join(to);
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(fixture("hf_peft").join(from)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    };
    let at = |name: &str| folder.path().join(name);
    for (name, from) in [
        ("default", "lora"),
        ("pets", "old_bin"),
        ("checkpoint-20", "saved_norm"),
    ] {
        let parent = format!("of-{name}");
        copy(from, &format!("{parent}/{name}"));
        let said = agrees(&config, &at(&parent), from);
        assert!(
            said.contains("adapter: the only adapter of the folder is"),
            "{said}"
        );
        assert!(said.contains(name), "{said}");
    }

    copy("lora", "two/default");
    copy("dora", "two/other");
    let io = fixture("hf_peft/lora/io.safetensors");
    let out = at("out.safetensors");
    let refused_at = |adapter: &str, part: &str| {
        let output = runner(&[
            &"features",
            &"--config",
            &config,
            &"--input",
            &io,
            &"--out",
            &out,
            &"--adapter",
            &at(adapter),
        ]);
        refused(output, part);
    };
    refused_at("two", "expected one adapter, got 2: default, other");
    copy("lora", "bare");
    std::fs::remove_file(at("bare/adapter_config.json")).unwrap();
    refused_at(
        "bare",
        "adapter_model.safetensors is there, but adapter_config.json is not",
    );
    copy("lora", "empty");
    std::fs::remove_file(at("empty/adapter_model.safetensors")).unwrap();
    refused_at(
        "empty",
        "expected adapter_model.safetensors or adapter_model.bin",
    );
    std::fs::create_dir(at("nothing")).unwrap();
    refused_at("nothing", "neither a run folder");
}

#[test]
fn what_an_adapter_lacks_of_the_head_is_taken_from_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let config = of_vit_tiny(folder.path());
    // The factors of the head, as `all-linear` gives it some where nothing says that it is one.
    agrees(&config, &fixture("hf_peft/head_factors"), "head_factors");
    // The bias of the head alone, as `bias: all` saves it where nothing names the head.
    agrees(&config, &fixture("hf_peft/head_bias"), "head_bias");
    // Both.
    agrees(
        &config,
        &fixture("hf_peft/head_factors_bias"),
        "head_factors_bias",
    );

    let io = fixture("hf_peft/head_bias/io.safetensors");
    let headless = folder.path().join("headless.yaml");
    let yaml = "backbone: {name: vit, img_size: 32, patch_size: 8, embed_dim: 48, depth: 4, num_heads: 3}\n";
    std::fs::write(&headless, yaml).unwrap();
    let out = folder.path().join("out.safetensors");
    let output = runner(&[
        &"features",
        &"--config",
        &headless,
        &"--input",
        &io,
        &"--out",
        &out,
        &"--adapter",
        &fixture("hf_peft/head_bias"),
    ]);
    refused(output, "its head changes that of the checkpoint");
}

/// Norms and biases that were trained beside LoRA go into HF PEFT's folder and come back.
#[test]
fn tuned_parameters_are_exported_beside_factors() {
    for (method, field, value) in [
        (
            "[{name: lora}, {name: norm-tune, sites: [norm1, norm]}]",
            "modules_to_save",
            "blocks.0.norm1",
        ),
        ("[{name: lora}, bias]", "bias", "all"),
        (
            "[{name: lora}, {name: bias, parts: [attention]}]",
            "bias",
            "lora_only",
        ),
        (
            "[{name: lora, lora_bias: true}, {name: bias, parts: [mlp]}]",
            "modules_to_save",
            "blocks.0.mlp.fc1",
        ),
    ] {
        let runs = tempfile::tempdir().unwrap();
        let run = trained(method, runs.path());
        let exported = runs.path().join("peft");
        succeeded(runner(&[&"export", &run, &"--out", &exported]));
        let config = std::fs::read_to_string(exported.join("adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert!(
            config[field].to_string().contains(value),
            "{method}: {config}"
        );
        let (own, again) = (
            test_loss(&[&run]),
            test_loss(&[&run, &"--adapter", &exported]),
        );
        assert!((own - again).abs() < 1e-6, "{method}: {own} and {again}");
    }
    let runs = tempfile::tempdir().unwrap();
    let run = trained("[{name: lora}, ssf]", runs.path());
    refused(runner(&[&"export", &run]), "HF PEFT has no lora with ssf");
}
