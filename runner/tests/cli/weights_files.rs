//! Files of weights as training scripts write them: several sets in one file, prefixes of wrappers, every
//! kind of tensor in a pickle, torchvision's names. The references are the libraries' own logits.

use std::path::{Path, PathBuf};
use std::process::Output;

use peft_core::checkpoint::Checkpoint;
use peft_core::params::{Tensors, floats};
use peft_core::weights;
use serde_json::Value;

use crate::adapters::{refused, runner};
use crate::methods::root;
use crate::succeeded;

const VIT: &str = "name: vit, img_size: 16, patch_size: 8, embed_dim: 8, depth: 2, num_heads: 2, \
                   mlp_ratio: 2.0, crop_pct: 1.0";
const SWIN: &str = "name: swin, img_size: 16, patch_size: 2, embed_dim: 8, depths: [2, 2], num_heads: \
                    [2, 4], window_size: 4, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], crop_pct: 1.0";

fn fixture(name: &str) -> PathBuf {
    root().join("fixtures/reading").join(name)
}

fn features(backbone: &str, weights: &str, out: &Path) -> Output {
    let config = out.with_extension("yaml");
    let yaml =
        format!("backbone: {{{backbone}, weights: {weights}}}\nhead: {{from: checkpoint}}\n");
    std::fs::write(&config, yaml).unwrap();
    runner(&[
        &"features",
        &"--input",
        &fixture("x.png"),
        &"--boundaries",
        &"0",
        &"--out",
        &out,
        &"--config",
        &config,
    ])
}

fn logits(path: &Path) -> Vec<f32> {
    floats(Checkpoint::open(path).unwrap().tensor("logits").unwrap())
}

/// Runs a backbone with `weights` and compares its logits with those of `reference`; returns stderr.
fn agree(backbone: &str, weights: &str, reference: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let output = features(backbone, weights, &out);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    succeeded(output);
    let (got, expected) = (logits(&out), logits(&fixture(reference)));
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(&expected) {
        assert!(
            (got - expected).abs() < 1e-5,
            "{weights}: {got}, expected {expected}"
        );
    }
    said
}

/// The output of `runner features`, which is expected to refuse the weights.
fn refusal(weights: &str, part: &str) {
    let folder = tempfile::tempdir().unwrap();
    refused(
        features(VIT, weights, &folder.path().join("out.safetensors")),
        part,
    );
}

fn inspected(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Value {
    let mut command = crate::program();
    command
        .arg("inspect")
        .args(args.iter().map(|arg| arg.as_ref()));
    let out = command.args(["--format", "json"]).output().unwrap();
    serde_json::from_str(&succeeded(out)).unwrap()
}

#[test]
fn of_several_sets_of_weights_the_averaged_one_is_read_as_in_timm() {
    for (file, reference, others) in [
        ("timm.pth.tar", "ema", "state_dict (32 tensors)"),
        ("torchvision.pth", "ema", "model (32 tensors)"),
        ("deit.pth", "ema", "model (32 tensors)"),
        ("legacy.pth", "ema", "state_dict (32 tensors)"),
        ("dino.pth", "ema", "student (32 tensors)"),
        ("lightning.ckpt", "raw", "callbacks (1 tensor)"),
        ("nested.pth", "raw", "checkpoint (1 tensor)"),
    ] {
        let path = fixture(file);
        let said = agree(
            VIT,
            &path.display().to_string(),
            &format!("{reference}.safetensors"),
        );
        assert!(
            said.contains(&format!("the file also holds {others}")),
            "{file}: {said}"
        );
        let json = inspected(&[&path]);
        assert_eq!(
            json["beside"]["epoch"].is_string(),
            !["nested.pth"].contains(&file),
            "{json}"
        );
        let named = json["sets"][1]["key"].as_str().unwrap();
        assert!(others.starts_with(named), "{file}: {json}");
        assert_eq!(json["model"]["loads"], true, "{file}: {json}");
    }
}

#[test]
fn a_key_chooses_one_of_several_sets_of_weights() {
    for (file, key, reference) in [
        ("timm.pth.tar", "state_dict", "raw"),
        ("timm.pth.tar", "state_dict_ema", "ema"),
        ("torchvision.pth", "model", "raw"),
        ("deit.pth", "model", "raw"),
        ("dino.pth", "student", "raw"),
        ("nested.pth", "checkpoint.weights", "raw"),
        ("own.pth", "averaged", "ema"),
    ] {
        let weights = format!("{{path: {}, key: {key}}}", fixture(file).display());
        agree(VIT, &weights, &format!("{reference}.safetensors"));
        let json = inspected(&[&fixture(file), &"--key", &key]);
        assert_eq!(json["sets"][0]["key"], key);
        assert_eq!(json["model"]["backbone"]["weights"]["key"], key, "{json}");
    }
    let own = fixture("own.pth").display().to_string();
    refusal(
        &own,
        "the key of one; it has raw (32 tensors), averaged (32 tensors)",
    );
    let missing = format!("{{path: {own}, key: ema}}");
    refusal(
        &missing,
        "under the key \"ema\", but has raw (32 tensors), averaged (32 tensors)",
    );
    let plain = fixture("raw.safetensors").display().to_string();
    refusal(&format!("{{path: {plain}, key: model}}"), "expected no key");
}

/// A safetensors file with the tensors of a fixture under other names.
fn renamed(folder: &Path, name: &str, parts: &[(&str, &str)]) -> PathBuf {
    let mut tensors = Tensors::new();
    for (fixed, prefix) in parts {
        let file = Checkpoint::open(&fixture(fixed))
            .unwrap()
            .tensors()
            .unwrap();
        let own = file.into_iter().filter(|(name, _)| name != "logits");
        tensors.extend(own.map(|(name, data)| (format!("{prefix}{name}"), data)));
    }
    let path = folder.join(name);
    weights::write(&path, &tensors, [].into()).unwrap();
    path
}

#[test]
fn a_prefix_before_every_name_is_found_and_printed() {
    let folder = tempfile::tempdir().unwrap();
    for prefix in [
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "timm_model.",
        "net.",
        "model.encoder.",
        "student.backbone.",
        "my.own.wrapper.",
    ] {
        let file = format!("{prefix}safetensors");
        let path = renamed(folder.path(), &file, &[("raw.safetensors", prefix)]);
        let said = agree(VIT, &path.display().to_string(), "raw.safetensors");
        assert!(
            said.contains(&format!("begin with {prefix}, which is left out")),
            "{said}"
        );
        let json = inspected(&[&path]);
        assert_eq!(json["model"]["wrapper"], prefix, "{json}");
        assert_eq!(json["model"]["loads"], true, "{json}");
    }
    // Blocks that were compiled or sharded one by one.
    for (wrapper, file) in [
        ("_orig_mod.", "compiled.safetensors"),
        (
            "_checkpoint_wrapped_module._orig_mod.",
            "checkpointed.safetensors",
        ),
        ("_fsdp_wrapped_module.", "sharded.safetensors"),
    ] {
        let path = renamed(folder.path(), file, &[("raw.safetensors", "module.")]);
        let tensors = Checkpoint::open(&path).unwrap().tensors().unwrap();
        let inner = |name: String| name.replace("blocks.1.", &format!("blocks.1.{wrapper}"));
        let inner = tensors.into_iter().map(|(name, data)| (inner(name), data));
        weights::write(&path, &inner.collect(), [].into()).unwrap();
        let said = agree(VIT, &path.display().to_string(), "raw.safetensors");
        assert!(said.contains("12 names have _orig_mod or"), "{said}");
    }
    let torchvision = fixture("vit-torchvision.pth");
    let tensors = Checkpoint::open(&torchvision).unwrap().tensors().unwrap();
    let wrapped = tensors
        .into_iter()
        .map(|(name, data)| (format!("module.{name}"), data));
    let path = folder.path().join("torchvision.safetensors");
    weights::write(&path, &wrapped.collect(), [].into()).unwrap();
    agree(
        VIT,
        &path.display().to_string(),
        "vit-torchvision.logits.safetensors",
    );
}

#[test]
fn a_prefix_is_not_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let raw = ("raw.safetensors", "");
    for (file, parts, prefixes) in [
        ("two", [raw, ("ema.safetensors", "ema.")], r#""", "ema.""#),
        (
            "nets",
            [("raw.safetensors", "a.net."), ("ema.safetensors", "b.net.")],
            r#""a.net.", "b.net.""#,
        ),
    ] {
        let path = renamed(folder.path(), &format!("{file}.safetensors"), &parts);
        let path = path.display().to_string();
        refusal(
            &path,
            &format!("more than once, under the prefixes {prefixes}"),
        );
        let prefix = parts[1].1;
        let said = agree(
            VIT,
            &format!("{{path: {path}, prefix: {prefix}}}"),
            "ema.safetensors",
        );
        assert!(said.contains("32 keys do not begin with"), "{said}");
    }
    let both = fixture("both.pth").display().to_string();
    refusal(
        &both,
        r#"under the prefixes "student.backbone.", "teacher.backbone.""#,
    );
    let json = inspected(&[&both]);
    assert_eq!(json["model"]["loads"], false, "{json}");
    assert_eq!(json["model"]["prefixes"][1], "teacher.backbone.", "{json}");
    let teacher = format!("{{path: {both}, prefix: teacher.backbone.}}");
    agree(VIT, &teacher, "ema.safetensors");
    refusal(
        &format!("{{path: {both}, prefix: encoder.}}"),
        "no name begins with \"encoder.\"",
    );

    // A prefix that some names of the backbone lack is none.
    let path = renamed(folder.path(), "some.safetensors", &[raw]);
    let tensors = Checkpoint::open(&path).unwrap().tensors().unwrap();
    let wrapped = |name: String| match name.starts_with("blocks.1.") {
        true => format!("module.{name}"),
        false => name,
    };
    let some = tensors
        .into_iter()
        .map(|(name, data)| (wrapped(name), data));
    weights::write(&path, &some.collect(), [].into()).unwrap();
    refusal(
        &path.display().to_string(),
        "keys that nothing takes: module.blocks.1",
    );
}

#[test]
fn every_tensor_that_torchs_own_reader_allows_is_read() {
    // Parameters with attributes, tensors of other classes, buffers, bfloat16.
    let path = fixture("attributes.pth");
    agree(VIT, &path.display().to_string(), "raw.safetensors");
    let json = inspected(&[&path]);
    assert_eq!(
        (&json["tensors"], &json["named_functions"]),
        (&32.into(), &Value::Array(vec![]))
    );
    for (file, expected) in [
        (
            "sparse.pth",
            "norm.weight: expected a dense tensor, got one by torch._utils._rebuild_sparse_tensor",
        ),
        ("csr.pth", "torch._utils._rebuild_sparse_tensor"),
        ("quantised.pth", "torch._utils._rebuild_qtensor"),
        ("nested-tensor.pth", "torch._utils._rebuild_nested_tensor"),
        ("meta.pth", "torch._utils._rebuild_meta_tensor_no_storage"),
        (
            "float8.pth",
            "norm.weight: elements of type float8_e4m3fn are not supported",
        ),
    ] {
        refusal(&fixture(file).display().to_string(), expected);
    }
}

#[test]
fn values_that_are_not_tensors_are_listed() {
    let path = fixture("values.pth").display().to_string();
    agree(VIT, &path, "raw.safetensors");
    let others = &inspected(&[&path])["not_tensors"];
    for (name, what) in [
        ("epoch", "the integer 3"),
        ("history", "a list of 2"),
        ("more", "a dict of 1"),
    ] {
        assert_eq!(others[name], what, "{others}");
    }
    let best = others["best"].as_str().unwrap();
    assert!(best.contains("multiarray.scalar"), "{best}");
    let folder = tempfile::tempdir().unwrap();
    let larger = features(
        &VIT.replace("depth: 2", "depth: 3"),
        &path,
        &folder.path().join("out.safetensors"),
    );
    refused(larger, "4 keys whose values are not tensors: best (");
}

#[test]
fn the_names_of_torchvisions_transformers_are_read() {
    for (file, layout, backbone) in [
        ("vit-torchvision", "torchvision", VIT),
        ("vit-torchvision-0.13", "torchvision-0.13", VIT),
        ("swin-torchvision", "torchvision", SWIN),
    ] {
        let path = fixture(&format!("{file}.pth"));
        let reference = format!("{}.logits.safetensors", file.trim_end_matches("-0.13"));
        let said = agree(backbone, &path.display().to_string(), &reference);
        assert!(
            said.contains(&format!("has the names of {layout}")),
            "{said}"
        );
        let model = &inspected(&[&path])["model"];
        assert_eq!(model["layout"], layout, "{model}");
        assert_eq!(
            (&model["loads"], &model["classes"]),
            (&true.into(), &3.into()),
            "{model}"
        );
        assert!(backbone.starts_with(&format!("name: {}", model["family"].as_str().unwrap())));
    }
}
