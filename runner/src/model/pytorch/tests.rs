//! Every method on every family, with random values, computes in PyTorch what it computes here.
//!
//! `fixtures/scripts/pytorch.py` loads the folders that this test writes where `PEFT_PYTORCH_FOLDERS` says, and keeps the
//! logits that the Python package computes, with a hash of each configuration. The test compares both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use peft_core::backbone::BoxedBackbone;
use peft_core::checkpoint::{Checkpoint, CheckpointHead, load_backbone};
use peft_core::params::{self, floats};
use peft_core::random::Generator;
use peft_core::registry::{PluginKind, plugins};
use peft_core::saliency;
use peft_core::{Activation, BackboneConfig, Head, Init, LinearHead, MappedHead, Plug, TextHead};

use super::*;
use peft_testing::Modern;

use crate::model::adapter::Adapter;
use crate::model::base::Base;
use crate::model::parts;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");

/// The classes of every case.
const CLASSES: usize = 5;

/// Folders below `fixtures`, their weights and their configurations.
const BASES: [(&str, &str, &str); 5] = [
    (
        "vit_registers",
        "weights.safetensors",
        "{name: vit, img_size: 32, patch_size: 8, embed_dim: 24, depth: 3, num_heads: 3, mlp_ratio: 2.0, \
         reg_tokens: 3, no_embed_class: true, init_values: 1.0e-5}",
    ),
    (
        "clip_projection",
        "weights_timm.safetensors",
        "{name: clip, img_size: 32, patch_size: 8, embed_dim: 24, depth: 2, num_heads: 3, projection_dim: 12, \
         features: after}",
    ),
    (
        "swin_padded",
        "weights.safetensors",
        "{name: swin, img_size: 36, patch_size: 4, embed_dim: 8, depths: [2, 2, 2], num_heads: [2, 2, 4], \
         window_size: 4, mlp_ratio: 2.0}",
    ),
    (
        "resnet_d",
        "weights.safetensors",
        "{name: resnet, img_size: 36, block: bottleneck, layers: [1, 1, 2, 1], channels: [8, 8, 16, 16], \
         stem_type: deep, stem_width: 8, avg_down: true}",
    ),
    (
        "resnet_groups",
        "weights.pth",
        "{name: resnet, img_size: 36, block: bottleneck, layers: [1, 1, 1, 1], channels: [4, 8, 16, 32], \
         cardinality: 4, base_width: 32}",
    ),
];

/// Folders that say themselves what they hold: rotary positions, SwiGLU, pooling by attention, ConvNeXt, and Swin V2.
const DESCRIBED: [&str; 6] = [
    "modern/dinov3_timm",
    "modern/eva02_timm",
    "modern/siglip_map_timm",
    "modern/convnext_timm",
    "modern/convnextv2_timm",
    "rectangles/swinv2",
];

/// Methods by the name of their case.
const METHODS: [(&str, &str); 42] = [
    ("linear-probe", "[{name: linear-probe}]"),
    ("full-finetune", "[{name: full-finetune}]"),
    ("partial", "[{name: partial}]"),
    ("bias", "[{name: bias}]"),
    ("norm-tune", "[{name: norm-tune}]"),
    ("ssf", "[{name: ssf}]"),
    ("ap", "[{name: ap, boundaries: [0, 1, -1]}]"),
    ("ap-last", "[{name: ap, boundaries: [4]}]"),
    ("ap-shared", "[{name: ap, shared: true}]"),
    (
        "ap-product",
        "[{name: ap, kind: product, boundaries: [1, 2]}]",
    ),
    (
        "ap-concat",
        "[{name: ap, kind: concat, length: 3, boundaries: [1, 2]}]",
    ),
    (
        "ap-no-class",
        "[{name: ap, boundaries: [1], class_token: false}]",
    ),
    (
        "ap-product-no-class",
        "[{name: ap, boundaries: [1], kind: product, class_token: false}]",
    ),
    ("vp", "[{name: vp}]"),
    ("vp-border", "[{name: vp, kind: border, width: 3}]"),
    ("vp-frame", "[{name: vp, kind: frame, inner: 21}]"),
    (
        "vp-frame-plain",
        "[{name: vp, kind: frame, inner: 20, sigmoid: false}]",
    ),
    ("vpt", "[{name: vpt, length: 3}]"),
    ("vpt-deep", "[{name: vpt, mode: deep, length: 2}]"),
    ("lora", "[{name: lora, rank: 2, alpha: 3}]"),
    (
        "lora-slices",
        "[{name: lora, rank: 2, targets: [query, value], lora_bias: true, rslora: true}]",
    ),
    (
        "lora-patches",
        "[{name: lora, rank: 2, targets: [patch_embed.proj], dora: true}]",
    ),
    ("lora-groups", "[{name: lora, rank: 4, lora_bias: true}]"),
    ("dora", "[{name: lora, rank: 2, dora: true}]"),
    (
        "dora-slices",
        "[{name: lora, rank: 2, targets: [query, fc2], dora: true}]",
    ),
    (
        "pissa",
        "[{name: lora, rank: 2, init: pissa, targets: [qkv, key, fc1]}]",
    ),
    ("loha", "[{name: loha, rank: 2}]"),
    ("lokr", "[{name: lokr, rank: 2}]"),
    ("oft", "[{name: oft, block_size: 4}]"),
    (
        "oft-exact",
        "[{name: oft, block_size: 4, terms: null, shared: true}]",
    ),
    ("boft", "[{name: boft, block_size: 4, factors: 2}]"),
    (
        "fourierft",
        "[{name: fourierft, frequencies: 9, scaling: 20.0}]",
    ),
    ("vera", "[{name: vera, rank: 3}]"),
    ("fact-tt", "[{name: fact, rank: 3, scale: 0.5}]"),
    ("fact-tk", "[{name: fact, kind: tk, rank: 3}]"),
    (
        "adapter-houlsby",
        "[{name: adapter, kind: houlsby, bottleneck: 4}]",
    ),
    (
        "adapter-parallel",
        "[{name: adapter, kind: parallel, bottleneck: 4, activation: silu, scale: 2.0}]",
    ),
    ("adaptformer", "[{name: adaptformer, bottleneck: 4}]"),
    ("rep-adapter", "[{name: rep-adapter, bottleneck: 4}]"),
    ("convpass", "[{name: convpass, bottleneck: 4}]"),
    ("compacter", "[{name: compacter, bottleneck: 8}]"),
    (
        "adapter-pfeiffer",
        "[{name: adapter, bottleneck: 4, activation: relu}]",
    ),
];

/// Lists of methods, in which acts of several meet at a place.
const COMPOSITIONS: [(&str, &str); 4] = [
    (
        "ssf+lora+adaptformer+bias+ap",
        "[{name: ssf}, {name: lora, rank: 2}, {name: adaptformer, bottleneck: 2}, {name: bias}, {name: ap}]",
    ),
    (
        "vp+loha+lora+norm-tune",
        "[{name: vp, kind: frame, inner: 21}, {name: loha, rank: 2}, {name: lora, rank: 2}, {name: norm-tune}]",
    ),
    (
        "dora+vpt+ap+convpass",
        "[{name: lora, rank: 2, dora: true, targets: [value]}, {name: vpt, mode: deep, length: 2}, \
         {name: ap, kind: concat, length: 1, boundaries: [2]}, {name: ap, boundaries: [-1]}, \
         {name: convpass, bottleneck: 2}]",
    ),
    (
        "rep-adapter+oft+ssf+lora",
        "[{name: rep-adapter, bottleneck: 4}, {name: oft, block_size: 4}, {name: ssf, sites: [qkv, fc1]}, \
         {name: lora, rank: 2}]",
    ),
];

/// The kinds of heads that turn features into logits.
#[derive(Clone, Copy)]
enum Kind {
    Linear,
    Text,
    Mapped,
}

/// A backbone with its weights, and its images.
struct Opened {
    /// Its folder below `fixtures`.
    folder: &'static str,
    config: Box<dyn BackboneConfig>,
    base: Base,
    images: Tensor<4>,
}

/// All backbones, one after the other.
fn all_opened() -> impl Iterator<Item = Opened> {
    BASES
        .into_iter()
        .map(opened)
        .chain(DESCRIBED.into_iter().map(described))
}

fn described(folder: &'static str) -> Opened {
    let golden = Modern::open(folder);
    let images = Tensor::from_data(golden.io["images"].clone(), &Device::flex());
    Opened {
        folder,
        base: base(golden.config.clone(), golden.backbone, golden.head),
        config: golden.config,
        images,
    }
}

fn opened((name, file, yaml): (&'static str, &str, &str)) -> Opened {
    let folder = Path::new(FIXTURES).join(name);
    let config: Box<dyn BackboneConfig> = serde_yaml::from_str(yaml).unwrap();
    let backbone = config.build(&Init::empty(&Device::flex())).unwrap();
    let weights = Checkpoint::open(&folder.join(file)).unwrap();
    let loaded = load_backbone(Plug::new(backbone), &weights, None).unwrap();
    let io = Checkpoint::open(&folder.join("io.safetensors")).unwrap();
    Opened {
        folder: name,
        base: base(config.clone(), loaded.backbone, loaded.head),
        config,
        images: Tensor::from_data(io.tensor("images").unwrap(), &Device::flex()),
    }
}

fn base(
    config: Box<dyn BackboneConfig>,
    backbone: BoxedBackbone,
    head: Option<CheckpointHead>,
) -> Base {
    Base {
        config,
        backbone,
        head,
        unread_head: None,
        classes: None,
        weights_hash: None,
        remarks: Vec::new(),
    }
}

impl Opened {
    /// The head of a case.
    fn head(&self, kind: Kind, init: &Init) -> Head {
        let features = self.base.backbone.spec().features;
        match kind {
            Kind::Linear => LinearHead::new(features, CLASSES, init).into(),
            Kind::Text => {
                let file = tempfile::Builder::new()
                    .suffix(".safetensors")
                    .tempfile()
                    .unwrap();
                let rows = drawn("text", CLASSES * features);
                let rows = TensorData::new(rows, [CLASSES, features]);
                let rows = Tensors::from([("texts".to_owned(), rows)]);
                weights::write(file.path(), &rows, HashMap::new()).unwrap();
                let file = Checkpoint::open(file.path()).unwrap();
                let head = TextHead::read(&file, None, (&names(), features), 9.0, init.device());
                head.unwrap().into()
            }
            Kind::Mapped => {
                let head = CheckpointHead {
                    weight: TensorData::new(drawn("weight", 7 * features), [7, features]),
                    bias: TensorData::new(drawn("bias", 7), [7]),
                };
                let mapping = [[0, 2], [1, 6], [3, 4], [5, 0], [6, 2]].map(Vec::from);
                MappedHead::new(head, &mapping, init.device()).into()
            }
        }
    }

    /// The model of a case with random values; none if a method does not fit the backbone.
    fn model(&self, methods: &[Box<dyn AdaptationMethod>], kind: Kind) -> Option<Model> {
        let init = Init::seeded(&Device::flex(), 3);
        let backbone = self.base.backbone.clone();
        // Which cases there must be is known from the golden values.
        let assembled = Model::assemble(backbone, methods, self.head(kind, &init), &init);
        let model = assembled.inspect_err(|e| eprintln!("left out: {e}")).ok()?;
        let buffers: Vec<String> = params::infos(&model)
            .into_iter()
            .filter_map(|info| info.buffer.then_some(info.name))
            .collect();
        let values = adapter_file::tensors(&model)
            .into_iter()
            .map(|(name, data)| {
                let shape = data.shape().clone();
                let noise = drawn(&name, shape.iter().product());
                let own = floats(data).into_iter().zip(noise);
                let new: Vec<f32> = match buffers.contains(&name) {
                    // Neither a variance nor an index may become another kind of number.
                    true if name == peft_core::mapped_head::MAPPING => {
                        own.map(|(own, _)| own).collect()
                    }
                    true => own.map(|(own, noise)| own + 0.1 * noise.abs()).collect(),
                    false if name.starts_with("backbone.") => {
                        own.map(|(own, noise)| own + 0.05 * noise).collect()
                    }
                    false => own.map(|(own, noise)| own + 0.2 * noise).collect(),
                };
                (name, TensorData::new(new, shape))
            });
        Some(params::write(model, values.collect()).unwrap())
    }

    /// Logits of its images, as large as the model takes them.
    fn logits(&self, model: &Model, input: &InputSpec) -> Vec<f32> {
        let [images, channels, ..] = self.images.dims();
        let [height, width] = input.size.sides();
        let images = self
            .images
            .clone()
            .slice([0..images, 0..channels, 0..height, 0..width]);
        floats(model.logits(Activation::Map(images), 0, None).into_data())
    }
}

fn drawn(name: &str, count: usize) -> Vec<f32> {
    let mut generator = Generator::new(11, name);
    (0..count).map(|_| generator.normal()).collect()
}

fn names() -> Vec<String> {
    (0..CLASSES).map(|class| format!("class {class}")).collect()
}

fn parsed(yaml: &str) -> Vec<Box<dyn AdaptationMethod>> {
    serde_yaml::from_str(yaml).unwrap_or_else(|e| panic!("{yaml}: {e}"))
}

/// The golden logits by case.
fn golden() -> BTreeMap<String, Vec<f32>> {
    let path = PathBuf::from(FIXTURES).join("pytorch/logits.safetensors");
    let tensors = Checkpoint::open(&path).unwrap().tensors().unwrap();
    let row = |(name, data)| (name, floats(data));
    tensors.into_iter().map(row).collect()
}

/// The hashes of the configurations that PyTorch read.
fn hashes() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("{FIXTURES}/pytorch/configurations.json"));
    serde_json::from_str(&text.unwrap()).unwrap()
}

/// The hash of a configuration, whatever version of the program wrote it.
fn hash(mut config: Value) -> String {
    config["program"] = Value::Null;
    blake3::hash(config.to_string().as_bytes())
        .to_hex()
        .to_string()
}

/// Every case with its model.
fn cases(mut each: impl FnMut(String, &Opened, &Model, &[Box<dyn AdaptationMethod>])) {
    for opened in all_opened() {
        let all = METHODS
            .iter()
            .chain(&COMPOSITIONS)
            .map(|(name, yaml)| (*name, *yaml, Kind::Linear));
        let heads = [
            ("text-head", "[{name: ap, boundaries: [2]}]", Kind::Text),
            ("label-mapping", "[{name: vp}]", Kind::Mapped),
        ];
        for (name, yaml, kind) in all.chain(heads) {
            let methods = parsed(yaml);
            if let Some(model) = opened.model(&methods, kind) {
                each(
                    format!("{}/{name}", opened.folder),
                    &opened,
                    &model,
                    &methods,
                );
            }
        }
    }
}

fn files(
    opened: &Opened,
    model: &Model,
    methods: &[Box<dyn AdaptationMethod>],
) -> (Files, InputSpec) {
    let input = parts::input(&*opened.config, None, methods).unwrap();
    let leaving = Leaving {
        model,
        methods,
        backbone: &*opened.config,
        weights: None,
        classes: &names(),
        multi_label: false,
        input: &input,
    };
    (leaving.files().unwrap(), input)
}

fn assert_close(case: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{case}");
    let largest = expected
        .iter()
        .fold(1.0f32, |largest, value| largest.max(value.abs()));
    for (got, expected) in got.iter().zip(expected) {
        let error = (got - expected).abs() / largest;
        assert!(error <= 1e-5, "{case}: {got} and {expected}");
    }
}

#[test]
fn every_method_computes_in_pytorch_what_it_computes_here() {
    if let Some(folders) = std::env::var_os("PEFT_PYTORCH_FOLDERS") {
        let (folders, mut hashes) = (PathBuf::from(folders), BTreeMap::new());
        cases(|case, opened, model, methods| {
            let files = files(opened, model, methods).0;
            files.write(&folders.join(&case), "").unwrap();
            hashes.insert(case, hash(files.config));
        });
        let hashes = serde_json::to_string_pretty(&hashes).unwrap();
        std::fs::write(folders.join("configurations.json"), hashes + "\n").unwrap();
        return;
    }
    let (mut golden, mut hashes) = (golden(), hashes());
    cases(|case, opened, model, methods| {
        let (files, input) = files(opened, model, methods);
        let expected = golden
            .remove(&case)
            .unwrap_or_else(|| panic!("{case} is not there"));
        assert_close(&case, &opened.logits(model, &input), &expected);
        assert_eq!(
            hashes.remove(&case),
            Some(hash(files.config)),
            "{case}: its configuration"
        );
    });
    assert!(golden.is_empty(), "nothing computes {:?}", golden.keys());
    assert!(hashes.is_empty(), "nothing writes {:?}", hashes.keys());
}

#[test]
fn every_method_has_a_case() {
    let named = METHODS.iter().flat_map(|(_, yaml)| parsed(yaml));
    let named: Vec<String> = named
        .map(|method| method.typetag_name().to_owned())
        .collect();
    let (backbone, init) = (opened(BASES[0]).base.backbone, Init::empty(&Device::flex()));
    for plugin in plugins(PluginKind::Method) {
        // A side network is not made of acts, and does not leave.
        let attached = parsed(&format!("[{{name: {}}}]", plugin.name))[0].attach(&*backbone, &init);
        let adapter = attached
            .unwrap_or_else(|e| panic!("{}: {e}", plugin.name))
            .adapter;
        if adapter.is_some_and(|adapter| adapter.side().is_some()) {
            continue;
        }
        let has_case = named.iter().any(|name| name == plugin.name);
        assert!(has_case, "METHODS has no case of {}", plugin.name);
    }
}

#[test]
fn what_pytorch_saved_is_read_back() {
    let folders = PathBuf::from(FIXTURES).join("pytorch/saved");
    let (mut golden, mut read) = (golden(), 0);
    for opened in all_opened() {
        let Ok(saved) = std::fs::read_dir(folders.join(opened.folder)) else {
            continue;
        };
        for folder in saved {
            let folder = folder.unwrap().path();
            let case = format!(
                "{}/{}",
                opened.folder,
                folder.file_name().unwrap().to_str().unwrap()
            );
            let adapter = Adapter::read(&folder, &opened.base).unwrap();
            assert_eq!(adapter.classes, Some(names()), "{case}");
            let init = Init::seeded(&Device::flex(), 0);
            let head = opened.head(Kind::Linear, &init);
            let backbone = opened.base.backbone.clone();
            let model = Model::assemble(backbone, &adapter.methods, head, &init).unwrap();
            let model = adapter.fill(model).unwrap();
            let input = parts::input(&*opened.config, None, &adapter.methods).unwrap();
            let expected = golden
                .remove(&case)
                .unwrap_or_else(|| panic!("{case} is not there"));
            assert_close(&case, &opened.logits(&model, &input), &expected);
            read += 1;
        }
    }
    assert_eq!(read, 11, "the folders that the script saves");
}

/// Grad-CAM and attention by PyTorch's automatic differentiation.
#[test]
fn what_a_model_looks_at_agrees_with_pytorch() {
    let path = PathBuf::from(FIXTURES).join("pytorch/seen.safetensors");
    let golden = Checkpoint::open(&path).unwrap().tensors().unwrap();
    let mut seen = 0;
    cases(|case, opened, model, _| {
        let images = || Activation::Map(opened.images.clone());
        if let Some(expected) = golden.get(&format!("{case}/gradcam")) {
            let classes = vec![4; opened.images.dims()[0]];
            let maps = saliency::grad_cam(model, images(), &classes).unwrap();
            assert_eq!(maps[0].grid[..], expected.shape().to_vec()[1..]);
            let got: Vec<f32> = maps.into_iter().flat_map(|map| map.values).collect();
            assert_close(&case, &got, &floats(expected.clone()));
            seen += 1;
        }
        if let Some(expected) = golden.get(&format!("{case}/attention")) {
            let blocks = saliency::attention(model, images());
            let maps = blocks.into_iter().flat_map(|(_, maps)| maps);
            let got: Vec<f32> = maps.flat_map(|map| map.values).collect();
            assert_close(&case, &got, &floats(expected.clone()));
            seen += 1;
        }
    });
    assert_eq!(seen, golden.len());
}
