//! What must hold for all registered backbones: their variants, `docs/backbones.md`, and that what is
//! frozen does not change.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Output;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use peft_core::checkpoint::Checkpoint;
use peft_core::loss::cross_entropy;
use peft_core::params::{self, floats};
use peft_core::random::Generator;
use peft_core::registry::{Plugin, PluginKind, plugins};
use peft_core::{Activation, AdaptationMethod, BackboneConfig, Init, LinearHead, Model, Plug};
use peft_testing::{Verdict, conforms};
use serde_json::{Value, json};
// Links the plugins.
use peft_runner as _;

use crate::methods::{parsed, read, root};

const PAGE: &str = "docs/backbones.md";

/// Compares the part of the page between `<!-- begin NAME -->` and `<!-- end NAME -->` with what was
/// generated; `WRITE_DOCS=1` writes it.
fn documented(name: &str, generated: &str) {
    let page = read(PAGE);
    let [begin, end] = ["begin", "end"].map(|side| format!("<!-- {side} {name} -->\n"));
    let (before, rest) = page
        .split_once(&begin)
        .unwrap_or_else(|| panic!("{PAGE}: no {begin}"));
    let (own, after) = rest
        .split_once(&end)
        .unwrap_or_else(|| panic!("{PAGE}: no {end}"));
    if own == generated {
        return;
    }
    if std::env::var_os("WRITE_DOCS").is_some() {
        let page = format!("{before}{begin}{generated}{end}{after}");
        std::fs::write(root().join(PAGE), page).unwrap();
        return;
    }
    panic!("{PAGE}: {name}: expected (WRITE_DOCS=1 writes it)\n{generated}");
}

fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn config(yaml: &str) -> Box<dyn BackboneConfig> {
    serde_yaml::from_str(yaml).unwrap_or_else(|e| panic!("{yaml}: {e}"))
}

/// `fixtures/scripts/parameters.py` recorded timm's counts, and torchvision's where it has the
/// network.
#[test]
fn every_variant_has_the_parameters_of_the_library() {
    let recorded = read("fixtures/parameters.json");
    let mut recorded: BTreeMap<String, BTreeMap<String, usize>> =
        serde_json::from_str(&recorded).unwrap();
    let mut text = "| `name` | `variant` | image | blocks | features | parameters |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for plugin in plugins(PluginKind::Backbone) {
        let family = plugin
            .family
            .unwrap_or_else(|| panic!("{} has no family", plugin.name));
        let mut expected = recorded.remove(plugin.name).unwrap_or_default();
        for variant in (family.variants)() {
            let config = config(&format!("{{name: {}, variant: {variant}}}", plugin.name));
            let backbone = config.build(&Init::empty(&Device::flex())).unwrap();
            let infos = params::infos_erased(&*backbone).into_iter();
            let count = infos
                .filter(|info| !info.buffer)
                .map(|info| info.count())
                .sum();
            assert_eq!(Some(count), expected.remove(variant), "{variant}");
            let spec = backbone.spec();
            let (depth, features, size) = (spec.depth, spec.features, spec.input.size);
            let (name, count) = (plugin.name, thousands(count));
            writeln!(
                text,
                "| `{name}` | `{variant}` | {size} | {depth} | {features} | {count} |"
            )
            .unwrap();
        }
        assert!(expected.is_empty(), "recorded and gone: {expected:?}");
    }
    assert!(recorded.is_empty(), "families that are gone: {recorded:?}");
    documented("variants", &text);
}

/// Every method on every tiny backbone; the table shows the result on the first one of each family.
#[test]
fn every_method_conforms_or_is_refused_with_a_reason() {
    let methods = plugins(PluginKind::Method);
    let parsed: Vec<Box<dyn AdaptationMethod>> = methods
        .iter()
        .map(|plugin| parsed(plugin.example))
        .collect();
    let verdicts = conforms(&parsed);
    let backbones = plugins(PluginKind::Backbone);
    let tiny: usize = backbones.iter().map(|plugin| plugin.tiny.len()).sum();
    let (mut text, mut reasons) = ("| `name` |".to_owned(), Vec::new());
    for Plugin { name, .. } in &backbones {
        write!(text, " `{name}` |").unwrap();
    }
    writeln!(text, "\n|---|{}", "---|".repeat(backbones.len())).unwrap();
    for (method, verdicts) in methods.iter().zip(verdicts.chunks(tiny)) {
        write!(text, "| `{}` |", method.name).unwrap();
        let mut first = 0;
        for Plugin { name, tiny, .. } in &backbones {
            let cell = match &verdicts[first] {
                Verdict::Conforms { merges: Ok(()) } => "runs, merges",
                Verdict::Conforms { merges: Err(_) } => "runs",
                Verdict::Refused(reason) => {
                    reasons.push(format!("- `{}` on `{name}`: {reason}\n", method.name));
                    "refused"
                }
            };
            write!(text, " {cell} |").unwrap();
            first += tiny.len();
        }
        text.push('\n');
    }
    writeln!(text, "\n{}", reasons.concat().trim_end()).unwrap();
    documented("support", &text);
}

/// For every family, neither a weight nor a BatchNorm statistic.
#[test]
fn a_thousand_steps_leave_every_frozen_byte_as_it_was() {
    for plugin in plugins(PluginKind::Backbone) {
        for method in ["{name: ap, shared: true}", "{name: bias}"] {
            let what = format!("{method} on {}", plugin.name);
            let before = trained(plugin.tiny[0], method, 0);
            let after = trained(plugin.tiny[0], method, 1000);
            let (before, after) = (before.unwrap(), after.unwrap());
            let values = |model: &Model| params::read(model, |_| true);
            let (old, new) = (values(&before), values(&after));
            let mut changed = 0;
            for (name, old) in &old {
                let equal = old.as_bytes() == new[name].as_bytes();
                assert_ne!(equal, before.trains(name), "{what}: {name}");
                changed += usize::from(!equal);
            }
            assert!((1..old.len()).contains(&changed), "{what}");
        }
    }
}

/// A tiny backbone after so many steps, each on new random images.
fn trained(backbone: &str, method: &str, steps: u64) -> peft_core::Result<Model> {
    let device = Device::flex();
    let init = Init::seeded(&device, 1);
    let backbone = Plug::new(config(backbone).build(&init)?);
    let shape = backbone.spec().input.batch(2);
    let head = LinearHead::new(backbone.spec().features, 3, &init);
    let model = Model::assemble(backbone, &[parsed(method)], head, &init)?;
    let mut optimizer: ModuleOptimizer = AdamWConfig::new().init();
    let mut model = model.train();
    for number in 0..steps {
        let mut generator = Generator::new(number, "images");
        let pixels: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|_| generator.normal())
            .collect();
        let images = TensorData::new(pixels, shape);
        let images = Activation::Map(Tensor::from_data(images, &device));
        let prefix = model.valid();
        let cut = model.first_cut();
        let x = prefix.span(images, 0..cut, None).into_autodiff();
        let step = model.step(1, number, 0);
        let logits = model.logits(x, cut, Some(&step));
        let labels = Tensor::from_data([number as i64 % 3, 1], &device.clone().autodiff());
        let loss = cross_entropy(logits, labels, 0.0);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-3, model.with_updates(step), gradients);
    }
    Ok(model.valid())
}

/// Small networks as timm, transformers and open_clip save them, each with facts in the file beside its
/// weights that no shape shows (`fixtures/scripts/beside.py`).
const BESIDE: [(&str, &str); 9] = [
    ("vit", "timm-vit-avg"),
    ("vit", "timm-vit-quick-gelu"),
    ("swin", "timm-swin"),
    ("clip", "transformers-clip"),
    ("vit", "transformers-vit"),
    ("swin", "transformers-swin"),
    ("clip", "open_clip-gelu"),
    ("clip", "open_clip-quick-gelu"),
    ("clip", "open_clip-epsilon"),
];

/// The logits of `fixtures/beside/image.png`, or the output of a command that failed.
pub fn logits(folder: &Path, backbone: &Value) -> Result<Vec<f32>, Output> {
    let config = json!({"backbone": backbone, "head": {"from": "checkpoint"}});
    let (yaml, out) = (folder.join("config.yaml"), folder.join("out.safetensors"));
    std::fs::write(&yaml, config.to_string()).unwrap();
    let image = root().join("fixtures/beside/image.png");
    let mut command = crate::program();
    command.args(["features", "--boundaries", "0", "--device", "cpu"]);
    command.arg("--input").arg(image).arg("--config").arg(yaml);
    let output = command.arg("--out").arg(&out).output().unwrap();
    match output.status.success() {
        true => Ok(recorded(&out)),
        false => Err(output),
    }
}

fn recorded(path: &Path) -> Vec<f32> {
    let file = Checkpoint::open(path).unwrap();
    floats(file.tensor("logits").unwrap())
}

fn assert_close(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    for (got, expected) in got.iter().zip(expected) {
        let error = (got - expected).abs() / largest;
        assert!(error < 1e-5, "{what}: {got}, expected {expected}");
    }
}

#[test]
fn facts_beside_the_weights_are_followed_and_written_by_inspect() {
    for (family, name) in BESIDE {
        let folder = tempfile::tempdir().unwrap();
        let library = root().join("fixtures/beside").join(name);
        let expected = recorded(&library.join("logits.safetensors"));
        let mut backbone = json!({"name": family, "weights": library.join("model.safetensors"),
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 1.0});
        let got = logits(folder.path(), &backbone).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_close(name, &got, &expected);

        // The YAML of `inspect` says it all, also where the file is not beside the weights any more.
        let mut inspect = crate::program();
        inspect
            .arg("inspect")
            .arg(library.join("model.safetensors"));
        let out = crate::succeeded(inspect.args(["--format", "json"]).output().unwrap());
        let inspected: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(inspected["model"]["loads"], true, "{name}: {out}");
        let images = ["mean", "std", "crop_pct"].map(|field| (field, backbone[field].clone()));
        backbone = inspected["model"]["backbone"].clone();
        for (field, value) in images {
            backbone[field] = value;
        }
        let got = logits(folder.path(), &backbone).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_close(name, &got, &expected);
        let alone = folder.path().join("model.safetensors");
        std::fs::copy(library.join("model.safetensors"), &alone).unwrap();
        backbone["weights"] = json!(alone);
        let got = logits(folder.path(), &backbone).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_close(name, &got, &expected);
    }
}

#[test]
fn a_fact_that_contradicts_the_file_beside_the_weights_is_refused_with_both() {
    // The folder, a field of the YAML and its value, and the file's field.
    let cases = [
        (
            "timm-vit-avg",
            "global_pool",
            json!("token"),
            "model_args.global_pool",
        ),
        (
            "timm-vit-avg",
            "num_heads",
            json!(4),
            "model_args.num_heads",
        ),
        (
            "timm-vit-quick-gelu",
            "act_layer",
            json!("gelu"),
            "model_args.act_layer",
        ),
        (
            "timm-swin",
            "num_heads",
            json!([4, 8]),
            "model_args.num_heads",
        ),
        (
            "transformers-clip",
            "act_layer",
            json!("quick_gelu"),
            "hidden_act",
        ),
        (
            "transformers-vit",
            "layer_norm_eps",
            json!(1e-6),
            "layer_norm_eps",
        ),
        (
            "transformers-swin",
            "layer_norm_eps",
            json!(1e-5),
            "layer_norm_eps",
        ),
        (
            "open_clip-gelu",
            "act_layer",
            json!("quick_gelu"),
            "model_cfg without quick_gelu",
        ),
        (
            "open_clip-quick-gelu",
            "num_heads",
            json!(2),
            "model_cfg.vision_cfg.head_width",
        ),
        (
            "open_clip-epsilon",
            "layer_norm_eps",
            json!(1e-5),
            "model_cfg.vision_cfg.norm_kwargs.eps",
        ),
    ];
    for (name, field, value, theirs) in cases {
        let folder = tempfile::tempdir().unwrap();
        let family = BESIDE.iter().find(|(_, beside)| *beside == name).unwrap().0;
        let weights = root().join("fixtures/beside").join(name);
        let weights = weights.join("model.safetensors");
        let mut backbone = json!({"name": family, "weights": weights});
        backbone[field] = value.clone();
        let output = logits(folder.path(), &backbone).unwrap_err();
        assert_eq!(output.status.code(), Some(2), "{name}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        let ours = format!("backbone: {field}: the configuration states {value}, but ");
        assert!(said.contains(&ours), "{name}: {said}");
        assert!(said.contains(&format!("({theirs})")), "{name}: {said}");
    }
}
