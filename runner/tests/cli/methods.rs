//! What must hold for all registered methods: their entries, their configs, `docs/methods.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use peft_core::backbone::BoxedBackbone;
use peft_core::checkpoint::Checkpoint;
use peft_core::flops::Flops;
use peft_core::method::features;
use peft_core::registry::{Plugin, PluginKind, plugins};
use peft_core::{AdaptationMethod, BackboneConfig, Init, LinearHead, Model, Plug};
// Links the plugins.
use peft_runner as _;
use serde_json::Value;

use crate::{folder, small, succeeded, summary};

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub fn parsed(yaml: &str) -> Box<dyn AdaptationMethod> {
    serde_yaml::from_str(yaml).unwrap_or_else(|e| panic!("{yaml}: {e}"))
}

/// A backbone whose values are all zero.
fn backbone(yaml: &str) -> BoxedBackbone {
    let config: Box<dyn BackboneConfig> = serde_yaml::from_str(yaml).unwrap();
    let built = config.build(&Init::empty(&Device::flex()));
    Plug::new(built.unwrap_or_else(|e| panic!("{yaml}: {e}")))
}

fn assembled(backbone: &BoxedBackbone, method: &str, classes: usize) -> Model {
    let init = Init::empty(&Device::flex());
    let methods = [parsed(method)];
    let features = features(&methods, &**backbone).unwrap();
    let head = LinearHead::new(features, classes, &init);
    Model::assemble(backbone.clone(), &methods, head, &init)
        .unwrap_or_else(|e| panic!("{method}: {e}"))
}

/// The cells of the Markdown table below a heading, header first, without backquotes.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let text = read(page);
    let (_, section) = text.split_once(&format!("## {heading}\n")).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        let cells = row.trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().replace('`', "")).collect()
    };
    rows.filter(|row| !row.starts_with("|--"))
        .map(cells)
        .collect()
}

#[test]
fn every_entry_is_complete() {
    let mut names = BTreeSet::new();
    for plugin in plugins(PluginKind::Method) {
        let Plugin {
            name,
            summary,
            reference,
            example,
            ..
        } = *plugin;
        let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.chars().all(kebab), "{name} is not in kebab case");
        assert!(names.insert(name), "{name} is registered twice");
        assert!(!summary.is_empty() && !reference.is_empty(), "{name}");
        let method = parsed(example);
        assert_eq!(method.typetag_name(), name, "the example of {name}");
        let yaml = serde_yaml::to_string(&method).unwrap();
        let again = serde_yaml::to_string(&parsed(&yaml)).unwrap();
        assert_eq!(again, yaml, "the example of {name}");
        described(name, &Value::from((plugin.schema)()));
    }
}

/// Every property at every depth has a description.
fn described(path: &str, schema: &Value) {
    match schema {
        Value::Object(map) => {
            let properties = map.get("properties").and_then(Value::as_object);
            for (name, property) in properties.into_iter().flatten() {
                let text = property["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{path}.{name} has no description");
            }
            map.iter()
                .for_each(|(key, value)| described(&format!("{path}.{key}"), value));
        }
        Value::Array(items) => items.iter().for_each(|item| described(path, item)),
        _ => {}
    }
}

#[test]
fn every_crate_of_methods_is_linked() {
    let linked: BTreeSet<_> = plugins(PluginKind::Method)
        .iter()
        .map(|plugin| plugin.crate_name)
        .collect();
    for entry in std::fs::read_dir(root().join("methods")).unwrap() {
        let manifest = entry.unwrap().path().join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        let name = text.lines().find_map(|line| line.strip_prefix("name = \""));
        let name = name.unwrap().trim_end_matches('"');
        assert!(
            linked.contains(name),
            "{name} registers nothing, or src/plugins.rs does not use it"
        );
    }
}

#[test]
fn selected_entries_are_saved_alone_and_read_again() {
    let runs = tempfile::tempdir().unwrap();
    let method = "method={name: full-finetune, select: {fraction: 0.02, batches: 2}}";
    let plan = succeeded(small(&["--set", method, "--dry-run"], runs.path()));
    assert!(plan.contains("single entries"), "{plan}");
    succeeded(small(&["--set", method], runs.path()));
    let found = summary(runs.path());
    let tuned = found["params"]["tuned"].as_u64().unwrap();
    assert_eq!(found["params"]["formula"], tuned);
    let folder = folder(runs.path());
    let path = folder.join("adapter.safetensors");
    let tensors = Checkpoint::open(&path).unwrap().tensors().unwrap();
    // Few entries of a tensor are saved as an index and a value each; a tensor of which many train is whole.
    let (mut bytes, mut sparse) = (0, 0);
    for (name, data) in tensors {
        if name.starts_with("backbone.") {
            bytes += data.as_bytes().len() as u64;
            sparse += usize::from(name.ends_with(".values"));
        }
    }
    assert!(sparse > 10, "{sparse} sparse tensors");
    assert!(bytes <= 12 * tuned, "{bytes} bytes for {tuned} entries");
    let eval = crate::program()
        .args(["eval", "--device", "cpu", "--format", "json"])
        .arg(&folder)
        .output()
        .unwrap();
    let eval: Value = serde_json::from_str(&succeeded(eval)).unwrap();
    assert_eq!(eval["test"], found["test"]);
    let more = [
        "--set",
        "method={name: full-finetune, select: {fraction: 0.02, batches: 7}}",
    ];
    let output = small(&more, runs.path());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        message
            .contains("method.select.batches: expected at most 6, the batches of an epoch, got 7"),
        "{message}"
    );
}

#[test]
fn every_method_has_a_config_and_a_row_in_the_docs() {
    let mut configs = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("configs/peft")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let value: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        let name = value["method"]["name"].as_str().map(str::to_owned);
        configs.extend(name);
    }
    let rows = table("docs/methods.md", "What trains");
    let documented: BTreeSet<_> = rows.iter().map(|row| row[0].as_str()).collect();
    for plugin in plugins(PluginKind::Method) {
        let name = plugin.name;
        assert!(configs.contains(name), "{name} has no YAML in configs/peft");
        assert!(documented.contains(name), "{name} has no row in methods.md");
    }
}

#[test]
fn the_table_of_parameters_is_what_trains() {
    let names = BTreeMap::from([
        ("ViT-B/16", "{name: vit, variant: vit_base_patch16_224}"),
        ("ViT-L/16", "{name: vit, variant: vit_large_patch16_224}"),
        ("ResNet-101", "{name: resnet, variant: resnet101}"),
    ]);
    let rows = table("docs/methods.md", "Trainable parameters");
    let (header, rows) = rows.split_first().unwrap();
    assert_eq!(rows.len(), 35);
    for (column, name) in header.iter().enumerate().skip(1) {
        let backbone = backbone(names[name.as_str()]);
        for row in rows {
            let (method, cell) = (&row[0], &row[column]);
            let what = format!("{method} on {name}");
            let formula = parsed(method).formula(&*backbone);
            if cell == "-" {
                assert!(formula.is_err(), "{what} is not refused");
                continue;
            }
            let stated: usize = cell.replace(',', "").parse().unwrap();
            assert_eq!(formula.unwrap(), stated, "{what}: the formula");
            let counts = assembled(&backbone, method, 10).counts();
            let trains = counts.trainable - counts.head;
            assert_eq!(trains, stated, "{what}: what trains");
        }
    }
}

/// 10^9 multiply-adds of a forward pass at 224 pixels, head included, as torchvision states them.
#[test]
fn operations_are_twice_the_published_multiply_adds() {
    let published = [
        ("{name: vit, variant: vit_base_patch16_224}", 17.564),
        ("{name: resnet, variant: resnet18}", 1.814),
        ("{name: swin, variant: swin_tiny_patch4_window7_224}", 4.491),
        ("{name: resnet, variant: resnet50}", 4.089),
        ("{name: resnet, variant: resnet101}", 7.801),
    ];
    for (yaml, expected) in published {
        let flops = Flops::of(&assembled(&backbone(yaml), "name: linear-probe", 1000));
        let got = flops.forward() as f64 / 2e9;
        let error = (got / expected - 1.0).abs();
        assert!(error < 0.002, "{yaml}: {got} instead of {expected}");
    }
}

/// A ViT of 3 blocks of width 16 on 16 patches of 4 x 4 pixels and a class token.
#[test]
fn operations_of_methods_on_a_tiny_vit() {
    let (n, d) = (17, 16);
    let vit =
        backbone("{name: vit, img_size: 16, patch_size: 4, embed_dim: 16, depth: 3, num_heads: 2}");
    let stem = 2 * 48 * d * 16;
    let mix = |n| 4 * n * n * d;
    let layers = |n| 2 * 12 * d * d * n;
    let block = |n| layers(n) + mix(n);
    let head = 2 * d * 10;
    let of = |method: &str| Flops::of(&assembled(&vit, method, 10));

    let ap = of("{name: ap, boundaries: [2]}");
    let expected = Flops {
        prefix: stem + block(n),
        suffix: 2 * block(n) + head,
        adapter: n * d,
        activations: 2 * (block(n) + mix(n)) + head,
        weights: n * d + head,
    };
    assert_eq!(ap, expected);

    // The image gets a gradient, through the patches too.
    let vp = of("{name: vp, kind: full}");
    let expected = Flops {
        prefix: 0,
        suffix: stem + 3 * block(n) + head,
        adapter: 3 * 16 * 16,
        activations: stem + 3 * (block(n) + mix(n)) + head,
        weights: 3 * 16 * 16 + head,
    };
    assert_eq!(vp, expected);

    // New prompts take the place of those before: five at every block.
    let vpt = of("{name: vpt, mode: deep, length: 5}");
    assert_eq!(vpt.suffix, 3 * block(n + 5) + head);
    let ap = of("{name: ap, kind: concat, length: 5, boundaries: [1, 2, 3]}");
    assert_eq!(
        ap.suffix,
        block(n + 5) + block(n + 10) + block(n + 15) + head
    );

    // Biases start in the stem, whose product needs no gradient of any kind.
    let bias = of("{name: bias}");
    assert_eq!(
        (bias.prefix, bias.activations, bias.weights),
        (0, 3 * (block(n) + mix(n)) + head, head)
    );

    // In the first block the branch before the bottleneck is below what trains.
    let parameters = 2 * d * 4 + 4 + d;
    let adapter = of("{name: adapter, bottleneck: 4}");
    assert_eq!(adapter.adapter, 3 * 2 * parameters * n);
    assert_eq!(
        adapter.activations,
        2 * (block(n) + mix(n)) + 5 * parameters * n + head
    );

    // 11 d channels of layers and norms in each block; the patches have no class token, and the last
    // norm sees nothing else.
    let ssf = of("{name: ssf}");
    assert_eq!(ssf.adapter, 2 * (16 * d + 3 * 11 * d * n + d));
}
