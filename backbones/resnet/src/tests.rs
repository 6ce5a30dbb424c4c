//! Agreement with golden values made with timm, torchvision and transformers, and what is refused.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use peft_core::backbone::ImageSize;
use peft_core::checkpoint::{Checkpoint, Loaded, load_backbone};
use peft_core::params::{self, floats};
use peft_core::{
    Activation, AdaptationMethod, Attachment, Backbone, BackboneConfig, BoxedBackbone, Hooks, Init,
    LinearHead, Model, Plug, Statistics, Tuned,
};
use peft_testing::{Golden, Modern, assert_close};
use serde::{Deserialize, Serialize};

use crate::{BlockKind, ResNet, StemType};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures");

fn golden(name: &str) -> Golden {
    Golden::open(format!("{FIXTURES}/{name}"))
}

/// The folders of golden values, with the file of weights and the configuration of each.
fn cases() -> [(&'static str, &'static str, ResNet); 7] {
    let bottleneck = |img_size, layers, channels| ResNet {
        img_size: Some(ImageSize::square(img_size)),
        block: Some(BlockKind::Bottleneck),
        layers: Some(layers),
        channels: Some(channels),
        ..ResNet::default()
    };
    let plain = bottleneck(64, [1, 2, 1, 1], [8, 16, 32, 64]);
    let basic = ResNet {
        block: Some(BlockKind::Basic),
        ..bottleneck(36, [1, 2, 1, 1], [4, 8, 16, 32])
    };
    let d = ResNet {
        stem_type: Some(StemType::Deep),
        stem_width: Some(8),
        avg_down: Some(true),
        ..bottleneck(36, [1, 1, 2, 1], [8, 8, 16, 16])
    };
    let wide = ResNet {
        base_width: Some(128),
        stem_type: Some(StemType::DeepTiered),
        stem_width: Some(12),
        ..bottleneck(36, [1, 1, 1, 1], [4, 8, 8, 16])
    };
    let groups = ResNet {
        cardinality: Some(4),
        base_width: Some(32),
        ..bottleneck(36, [1, 1, 1, 1], [4, 8, 16, 32])
    };
    let transformers = bottleneck(36, [1, 2, 1, 1], [4, 8, 12, 16]);
    [
        ("resnet_bottleneck", "weights.safetensors", plain),
        ("resnet_basic", "weights.pth", basic),
        ("resnet_d", "weights.safetensors", d),
        ("resnet_wide", "weights.safetensors", wide),
        ("resnet_groups", "weights.pth", groups),
        (
            "resnet_transformers",
            "weights.safetensors",
            transformers.clone(),
        ),
        (
            "resnet_transformers",
            "weights_bare.safetensors",
            transformers,
        ),
    ]
}

fn built(config: &ResNet) -> BoxedBackbone {
    Plug::new(config.build(&Init::empty(&Device::flex())).unwrap())
}

fn loaded(golden: &Golden, weights: &str, config: &ResNet) -> Loaded {
    let file = Checkpoint::open(&golden.folder().join(weights)).unwrap();
    load_backbone(built(config), &file, config.layout.as_deref()).unwrap()
}

fn with_head(loaded: Loaded) -> Option<(BoxedBackbone, LinearHead)> {
    let head = LinearHead::from_checkpoint(loaded.head?, &Device::flex());
    Some((loaded.backbone, head))
}

fn images(golden: &Golden) -> Tensor<4> {
    Tensor::from_data(golden.io["images"].clone(), &Device::flex())
}

#[test]
fn every_boundary_agrees_with_the_libraries() {
    for (folder, weights, config) in cases() {
        let golden = golden(folder);
        let loaded = loaded(&golden, weights, &config);
        let spec = loaded.backbone.spec().clone();
        let mut x = Activation::Map(images(&golden));
        for cut in 0..spec.features_cut() {
            x = loaded.backbone.forward(x, cut..cut + 1, &Hooks::none());
            let boundary = spec.boundaries.get(cut + 1);
            let name = match boundary {
                Some(_) if cut == 0 => "stem",
                Some(boundary) if cut == spec.depth => {
                    boundary.place.strip_prefix("output of ").unwrap()
                }
                Some(_) => {
                    let place = &spec.boundaries[cut].place;
                    place.strip_prefix("input of ").unwrap()
                }
                None => "features",
            };
            let what = format!("{folder}: {name}");
            assert_close(&what, &x.to_vec(), &golden.values(name), 1e-5, None);
            if let Some(boundary) = boundary {
                let shape = x.shape().to_vec();
                assert_eq!(boundary.shape.dims(), shape[1..], "{folder}: {boundary}");
            }
        }
        let Some((_, head)) = with_head(loaded) else {
            assert_eq!(weights, "weights_bare.safetensors");
            continue;
        };
        let logits = floats(head.forward(x.features().unwrap()).into_data());
        let what = format!("{folder}: logits");
        assert_close(&what, &logits, &golden.values("logits"), 1e-5, None);
    }
}

#[test]
fn gradients_agree_with_the_libraries() {
    for (folder, weights, config) in cases() {
        let golden = golden(folder);
        let expected = golden.group("grad.");
        let Some((backbone, head)) = with_head(loaded(&golden, weights, &config)) else {
            continue;
        };
        if expected.is_empty() {
            assert_eq!(folder, "resnet_bottleneck");
            continue;
        }
        let layout = match folder {
            "resnet_transformers" => backbone.layouts().first(),
            _ => None,
        };
        let (backbone, head) = (backbone.train(), head.train());
        let images = Tensor::from_inner(images(&golden)).require_grad();
        let span = 0..backbone.spec().features_cut();
        let x = backbone.forward(Activation::Map(images.clone()), span, &Hooks::none());
        let factors = golden.io["loss_weights"].clone();
        let factors = Tensor::<2>::from_data(factors, &Device::flex().autodiff());
        let loss = (head.forward(x.features().unwrap()) * factors).sum();
        let gradients = loss.backward();
        let of_images = images.grad(&gradients).unwrap().into_data();
        let gradients = GradientsParams::from_grads(gradients, &backbone);
        let mut gradients = params::gradients(&backbone, &gradients);
        gradients.insert("images".to_owned(), of_images);
        for (name, expected) in expected {
            let ours = match (layout, name.strip_suffix(".weight")) {
                (Some(layout), Some(module)) => format!("{}.weight", layout.ours(module).unwrap()),
                _ => name,
            };
            let got = floats(gradients[&ours].clone());
            let what = format!("{folder}: gradient of {ours}");
            assert_close(&what, &got, &floats(expected), 2e-5, None);
        }
    }
}

/// Tunes every norm with batch statistics.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct AllNorms;

#[typetag::serde(name = "all-norms-of-a-test")]
impl AdaptationMethod for AllNorms {
    fn attach(&self, backbone: &dyn Backbone, _: &Init) -> peft_core::Result<Attachment> {
        let norms = backbone
            .spec()
            .sites
            .iter()
            .filter(|site| matches!(site.kind, peft_core::SiteKind::Norm { .. }));
        let names = norms.flat_map(|site| ["weight", "bias"].map(|p| format!("{}.{p}", site.name)));
        Ok(Attachment::tuned(Tuned {
            names: names.collect(),
            statistics: Statistics::Batch,
            ..Tuned::default()
        }))
    }
    fn formula(&self, _: &dyn Backbone) -> peft_core::Result<usize> {
        Ok(0)
    }
}

#[test]
fn batch_statistics_and_their_running_means_agree_with_torch() {
    for (folder, weights, config) in cases() {
        let golden = golden(folder);
        let Some((backbone, head)) = with_head(loaded(&golden, weights, &config)) else {
            continue;
        };
        let layouts = backbone.layouts();
        let init = Init::empty(&Device::flex());
        let model = Model::assemble(backbone, &[Box::new(AllNorms)], head, &init).unwrap();
        let model = model.train();
        let step = model.step(0, 0, 0);
        let images = Activation::Map(images(&golden)).into_autodiff();
        let logits = floats(model.logits(images, 0, Some(&step)).into_data());
        let what = format!("{folder}: logits");
        let expected = golden.values("train.logits");
        assert_close(&what, &logits, &expected, 1e-5, None);

        let model = model.with_updates(step).valid();
        let buffers = params::read(&model.backbone, |info| info.buffer);
        let expected = golden.group("train.");
        assert_eq!(buffers.len(), expected.len() - 1, "{folder}");
        for (name, data) in buffers {
            let theirs = match folder {
                "resnet_transformers" => {
                    let (module, part) = name.rsplit_once('.').unwrap();
                    format!("{}.{part}", layouts[0].theirs(module).unwrap())
                }
                _ => name,
            };
            let what = format!("{folder}: {theirs}");
            let expected = floats(expected[&theirs].clone());
            assert_close(&what, &floats(data), &expected, 1e-5, None);
        }
    }
}

#[test]
fn variants_have_the_published_numbers_of_parameters() {
    let published = [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101.a1h_in1k", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnet34d", 21_816_904),
        ("resnet50d.ra2_in1k", 25_576_264),
        ("resnet26t", 16_011_872),
        ("resnext50_32x4d", 25_028_904),
        ("resnext101_64x4d", 83_455_272),
        ("wide_resnet50_2", 68_883_240),
    ];
    for (variant, expected) in published {
        let config = ResNet {
            variant: Some(variant.into()),
            ..ResNet::default()
        };
        let backbone = built(&config);
        let infos = params::infos(&backbone);
        let own = infos.iter().filter(|info| !info.buffer);
        let count: usize = own.map(|info| info.count()).sum();
        let head = 1000 * (backbone.spec().features + 1);
        assert_eq!(count + head, expected, "{variant}");
    }
}

#[test]
fn basic_blocks_are_read_under_the_names_of_transformers() {
    let path = |name: &str| format!("{FIXTURES}/checkpoints/{name}.safetensors");
    let open = |name: &str| Checkpoint::open(path(name).as_ref()).unwrap();
    let basic = ResNet {
        img_size: Some(32.into()),
        block: Some(BlockKind::Basic),
        layers: Some([1, 1, 2, 1]),
        channels: Some([8, 8, 16, 16]),
        ..ResNet::default()
    };
    let file = open("resnet-transformers");
    for layout in [None, Some("transformers")] {
        let loaded = load_backbone(built(&basic), &file, layout).unwrap();
        assert_eq!(loaded.layout, "transformers");
        let io = open("resnet-transformers-io");
        let images = Tensor::from_data(io.tensor("images").unwrap(), &Device::flex());
        let (backbone, head) = with_head(loaded).unwrap();
        let span = 0..backbone.spec().features_cut();
        let x = backbone.forward(Activation::Map(images), span, &Hooks::none());
        let logits = floats(head.forward(x.features().unwrap()).into_data());
        let expected = floats(io.tensor("logits").unwrap());
        assert_close("logits", &logits, &expected, 1e-5, None);
    }
}

/// The error when these weights are loaded into `config`.
fn refusal(config: &ResNet, weights: &str) -> String {
    let file = Checkpoint::open(format!("{FIXTURES}/{weights}").as_ref()).unwrap();
    let loaded = load_backbone(built(config), &file, config.layout.as_deref());
    loaded.err().expect("it loads").to_string()
}

#[test]
fn weights_of_another_network_are_refused_with_both_sets_of_names() {
    let [_, _, (_, _, d), _, _, (_, _, bottleneck), _] = cases();
    let error = refusal(&bottleneck, "resnet_d/weights.safetensors");
    for name in [
        "conv1.0.weight",
        "layer1.0.downsample.2.bias",
        "layer1.0.downsample.0.weight",
    ] {
        assert!(error.contains(name), "{name}: {error}");
    }
    let forced = ResNet {
        layout: Some("timm".into()),
        ..bottleneck
    };
    let error = refusal(&forced, "resnet_transformers/weights.safetensors");
    assert!(error.contains("names read as timm"), "{error}");
    let forced = ResNet {
        layout: Some("transformers".into()),
        ..d
    };
    let error = refusal(&forced, "resnet_transformers/weights.safetensors");
    assert!(error.contains("expected one of timm, got"), "{error}");
}

#[test]
fn sizes_that_do_not_fit_are_refused_by_field() {
    let refused = [
        (
            "{variant: resnet18, cardinality: 32}",
            "cardinality: expected 1, as basic",
        ),
        (
            "{variant: resnet34, base_width: 128}",
            "base_width: expected 64, as basic",
        ),
        (
            "{variant: resnet50, cardinality: 0}",
            "cardinality: expected at least 1",
        ),
        (
            "{variant: resnet50, channels: [8, 16, 32, 64], base_width: 4}",
            "base_width: expected at least 8 for 8 channels, got 4",
        ),
        (
            "{variant: resnet50, stem_width: 32}",
            "stem_width: expected 64, the width of one",
        ),
        (
            "{variant: resnet50, stem_type: deep_tiered, stem_width: 3}",
            "stem_width: expected at least 4, got 3",
        ),
        (
            "{variant: resnet50, layers: [3, 4, 0, 3]}",
            "layers: expected four numbers",
        ),
        (
            "{variant: resnet50, img_size: 31}",
            "img_size: expected at least 32",
        ),
        ("{layers: [1, 1, 1, 1]}", "block: expected a value"),
        ("{variant: resnet51}", "did you mean"),
    ];
    for (yaml, expected) in refused {
        let config: ResNet = serde_yaml::from_str(yaml).unwrap();
        let error = config.input().unwrap_err().to_string();
        assert!(error.contains(expected), "{yaml}: {error}");
    }
    let plain = "{variant: resnet50d, stem_type: '', avg_down: false}";
    let plain: ResNet = serde_yaml::from_str(plain).unwrap();
    assert_eq!(built(&plain).spec().sites[0].name, "conv1");
}

#[test]
fn a_network_on_a_rectangle_agrees_with_timm() {
    let case = Modern::open("modern/resnet_rect");
    case.check();
    assert_eq!(case.config.input().unwrap().size, [72, 40].into());
    let narrow: ResNet = serde_yaml::from_str("{variant: resnet50, img_size: [64, 31]}").unwrap();
    let error = narrow.input().unwrap_err().to_string();
    assert_eq!(error, "img_size: expected at least 32, got 64 x 31");
}
