//! What weights, the files beside them and the YAML say of one network, where they do not agree or where it
//! is not supported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use burn::tensor::TensorData;
use peft_core::checkpoint::Checkpoint;
use peft_core::weights;
use serde_json::{Value, json};

use crate::adapters::refused;
use crate::backbones::logits;
use crate::methods::root;
use crate::succeeded;

/// A copy of `fixtures/beside/NAME` in which a field of its JSON has another value: the weights.
fn changed(folder: &Path, name: &str, file: &str, pointer: &str, value: &Value) -> PathBuf {
    let library = root().join("fixtures/beside").join(name);
    let weights = folder.join("model.safetensors");
    std::fs::copy(library.join("model.safetensors"), &weights).unwrap();
    let text = std::fs::read_to_string(library.join(file)).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    *config.pointer_mut(pointer).unwrap() = value.clone();
    std::fs::write(folder.join(file), config.to_string()).unwrap();
    weights
}

fn said(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_file_that_the_shapes_of_the_weights_contradict_is_refused_with_both() {
    // The fixture and its family, the file's field and its new value, what it states, and the tensor.
    for (name, family, file, pointer, value, states, tensor) in [
        (
            "transformers-vit",
            "vit",
            "config.json",
            "/hidden_size",
            json!(32),
            "embed_dim: {} says 32 (hidden_size), but the weights show 16",
            "vit.embeddings.patch_embeddings.projection.weight is [16, 3, 8, 8]",
        ),
        (
            "transformers-vit",
            "vit",
            "config.json",
            "/num_hidden_layers",
            json!(3),
            "depth: {} says 3 (num_hidden_layers), but the weights show 2",
            "vit.layers.1.layernorm_before.weight is [16]",
        ),
        (
            "timm-vit-avg",
            "vit",
            "config.json",
            "/model_args/mlp_ratio",
            json!(3.0),
            "mlp_ratio: {} says 3.0 (model_args.mlp_ratio), but the weights show 2.0",
            "blocks.0.mlp.fc1.weight is [32, 16]",
        ),
        (
            "timm-vit-avg",
            "vit",
            "config.json",
            "/model_args/fc_norm",
            json!(true),
            "fc_norm: {} says true (model_args.fc_norm), but the weights show false",
            "model.safetensors has no fc_norm.weight",
        ),
        (
            "timm-swin",
            "swin",
            "config.json",
            "/model_args/depths",
            json!([2, 4]),
            "depths: {} says [2,4] (model_args.depths), but the weights show [2,2]",
            "layers.1.blocks.1.norm1.weight is [16]",
        ),
        (
            "transformers-swin",
            "swin",
            "config.json",
            "/num_heads",
            json!([2, 8]),
            "num_heads: {} says [2,8] (num_heads), but the weights show",
            "relative_position_bias_table is [",
        ),
        (
            "open_clip-gelu",
            "clip",
            "open_clip_config.json",
            "/model_cfg/vision_cfg/layers",
            json!(3),
            "depth: {} says 3 (model_cfg.vision_cfg.layers), but the weights show 2",
            "visual.transformer.resblocks.1.ln_1.weight is [16]",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let weights = changed(folder.path(), name, file, pointer, &value);
        let path = folder.path().join(file);
        let states = format!(
            "backbone: {}",
            states.replace("{}", &path.display().to_string())
        );
        let backbone = json!({"name": family, "weights": weights});
        let message = said(&logits(folder.path(), &backbone).unwrap_err());
        assert!(message.contains(&states), "expected {states}: {message}");
        assert!(message.contains(tensor), "expected {tensor}: {message}");
        assert!(
            message.contains(&weights.display().to_string()),
            "{message}"
        );
        // The same where nothing but the weights says the sizes.
        let mut inspect = crate::program();
        let output = inspect.arg("inspect").arg(&weights).output().unwrap();
        let message = said(&output);
        for part in ["the weights show", tensor] {
            assert!(message.contains(part), "expected {part}: {message}");
        }
    }
}

#[test]
fn a_yaml_that_the_shapes_of_the_weights_contradict_is_refused_with_both() {
    for (name, family, field, value, states) in [
        (
            "timm-vit-avg",
            "vit",
            "embed_dim",
            json!(24),
            "but the weights show 16",
        ),
        (
            "timm-vit-avg",
            "vit",
            "patch_size",
            json!(4),
            "but the weights show 8",
        ),
        (
            "timm-swin",
            "swin",
            "embed_dim",
            json!(16),
            "but the weights show 8",
        ),
        (
            "open_clip-gelu",
            "clip",
            "depth",
            json!(1),
            "but the weights show 2",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        // Alone, so that no file beside the weights is contradicted first.
        let weights = folder.path().join("model.safetensors");
        let library = root().join("fixtures/beside").join(name);
        std::fs::copy(library.join("model.safetensors"), &weights).unwrap();
        let mut inspect = crate::program();
        inspect
            .arg("inspect")
            .arg(&weights)
            .args(["--format", "json"]);
        let inspected: Value = serde_json::from_str(&succeeded(inspect.output().unwrap())).unwrap();
        let mut backbone = inspected["model"]["backbone"].clone();
        assert_eq!(backbone["name"], family);
        backbone[field] = value.clone();
        let message = said(&logits(folder.path(), &backbone).unwrap_err());
        let ours = format!("backbone: {field}: the configuration states {value}, {states}: ");
        assert!(message.contains(&ours), "expected {ours}: {message}");
        assert!(
            message.contains(&weights.display().to_string()),
            "{message}"
        );
    }
}

/// A copy of the weights in a file of the fixtures, with more tensors of these shapes.
fn with_tensors(folder: &Path, fixture: &str, more: &[(&str, &[usize])]) -> PathBuf {
    let file = Checkpoint::open(&root().join("fixtures").join(fixture)).unwrap();
    let mut tensors = file.tensors().unwrap();
    for (name, shape) in more {
        let count = shape.iter().product();
        let data = TensorData::new(vec![0.5f32; count], shape.to_vec());
        tensors.insert((*name).to_owned(), data);
    }
    let path = folder.join("model.safetensors");
    weights::write(&path, &tensors, BTreeMap::new().into_iter().collect()).unwrap();
    path
}

#[test]
fn a_head_behind_a_hidden_layer_is_left_out_and_refused_where_it_is_asked_for() {
    for (fixture, size, hidden) in [
        ("reading/vit-torchvision.pth", 32, "heads.pre_logits"),
        ("reading/vit-torchvision-0.13.pth", 32, "heads.pre_logits"),
        ("beside/timm-vit-avg/model.safetensors", 16, "pre_logits.fc"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let more = [format!("{hidden}.weight"), format!("{hidden}.bias")];
        let shapes: [&[usize]; 2] = [&[size, size], &[size]];
        let more: Vec<_> = more.iter().map(String::as_str).zip(shapes).collect();
        let weights = with_tensors(folder.path(), fixture, &more);
        let mut inspect = crate::program();
        inspect
            .arg("inspect")
            .arg(&weights)
            .args(["--format", "json"]);
        let inspected: Value = serde_json::from_str(&succeeded(inspect.output().unwrap())).unwrap();
        assert_eq!(inspected["model"]["loads"], true, "{inspected}");
        assert_eq!(inspected["model"]["classes"], Value::Null, "{inspected}");
        let backbone = format!("backbone={}", inspected["model"]["backbone"]);
        let mut args = vec!["--config", "peft/linear-probe.yaml", "--dry-run"];
        for part in [&backbone, "head.from=checkpoint", "dataset=digits"] {
            args.extend(["--set", part]);
        }
        let mut train = crate::program();
        let output = train.args(args).output().unwrap();
        let message = said(&output);
        let expected =
            format!("stands behind a hidden layer ({hidden}.bias), which is not supported");
        assert!(message.contains(&expected), "{fixture}: {message}");
    }
}

#[test]
fn networks_that_are_not_supported_are_refused_by_their_name() {
    for (tensor, why) in [
        (
            "blocks.0.attn.relative_position_bias_table",
            "BEiT's attention has a bias for each relative position",
        ),
        ("dist_token", "a distilled DeiT has a second token"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let fixture = "beside/timm-vit-avg/model.safetensors";
        let weights = with_tensors(folder.path(), fixture, &[(tensor, &[4, 4])]);
        let backbone = json!({"name": "vit", "img_size": 32, "patch_size": 8, "embed_dim": 16,
            "depth": 2, "num_heads": 2, "weights": weights});
        let message = said(&logits(folder.path(), &backbone).unwrap_err());
        assert!(
            message.contains(tensor) && message.contains(why),
            "{message}"
        );
        let mut inspect = crate::program();
        inspect.arg("inspect").arg(&weights);
        let text = succeeded(inspect.output().unwrap());
        assert!(text.contains(tensor) && text.contains(why), "{text}");
    }
}

#[test]
fn a_structure_is_shown_with_the_facts_beside_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let weights = changed(
        folder.path(),
        "transformers-vit",
        "config.json",
        "/num_attention_heads",
        &json!(2),
    );
    let yaml = folder.path().join("vit.yaml");
    let backbone = json!({"backbone": {"name": "vit", "img_size": 32, "patch_size": 8, "embed_dim": 16,
        "depth": 2, "weights": weights}});
    std::fs::write(&yaml, backbone.to_string()).unwrap();
    let shown = crate::program()
        .arg("show")
        .arg("--config")
        .arg(&yaml)
        .output()
        .unwrap();
    let remarks = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(
        remarks.contains("num_heads 2 (num_attention_heads)"),
        "{remarks}"
    );
    assert!(succeeded(shown).contains("blocks.1.attn.qkv"));
}

#[test]
fn a_preparation_of_images_that_cannot_be_followed_is_refused_unless_the_yaml_decides() {
    for (settings, field, decides) in [
        (
            json!({"do_resize": true, "resample": 1}),
            "resample",
            json!({"interpolation": "bicubic"}),
        ),
        (
            json!({"size": {"longest_edge": 32}, "do_resize": true}),
            "size",
            json!({"crop_mode": "squash", "crop_pct": 1.0}),
        ),
        (
            json!({"do_center_crop": true, "size": 32, "crop_size": 40}),
            "crop_size",
            json!({"crop_mode": "center", "crop_pct": 1.0}),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let weights = changed(
            folder.path(),
            "transformers-vit",
            "config.json",
            "/patch_size",
            &json!(8),
        );
        let path = folder.path().join("preprocessor_config.json");
        std::fs::write(&path, settings.to_string()).unwrap();
        let mut backbone = json!({"name": "vit", "weights": weights});
        let message = said(&logits(folder.path(), &backbone).unwrap_err());
        let expected = format!("backbone: {}: {field}: expected ", path.display());
        assert!(
            message.contains(&expected),
            "expected {expected}: {message}"
        );
        for (name, value) in decides.as_object().unwrap() {
            assert!(message.contains(name), "expected {name}: {message}");
            backbone[name] = value.clone();
        }
        assert!(logits(folder.path(), &backbone).is_ok());
    }
}

#[test]
fn sizes_that_do_not_fit_each_other_name_the_file_that_states_them() {
    for (pointer, value) in [
        ("/num_attention_heads", json!(5)),
        ("/hidden_size", json!(30)),
        ("/image_size", json!(30)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let weights = changed(
            folder.path(),
            "transformers-vit",
            "config.json",
            pointer,
            &value,
        );
        let backbone = json!({"name": "vit", "weights": weights});
        let output = logits(folder.path(), &backbone).unwrap_err();
        let path = folder.path().join("config.json");
        let stated = format!("{} states", path.display());
        let name = pointer.trim_start_matches('/');
        refused(output.clone(), &stated);
        refused(output, name);
    }
}
