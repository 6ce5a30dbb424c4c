//! Agreement with golden values made with timm, torchvision and transformers, and what is refused.

mod checkpoints;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use peft_core::checkpoint::{Checkpoint, Loaded, load_backbone, recognise};
use peft_core::params::{self, floats};
use peft_core::random::{Distribution, Generator};
use peft_core::site::SiteKind;
use peft_core::{Activation, BackboneConfig, BoxedBackbone, Hooks, Init, LinearHead, Plug};
use peft_testing::{Golden, assert_close};

use crate::ConvNext;

const FOLDERS: [(&str, &str); 6] = [
    ("convnext_timm", "timm"),
    ("convnextv2_timm", "timm"),
    ("convnext_torchvision", "torchvision"),
    ("convnext_hf", "transformers"),
    ("convnextv2_hf", "transformers"),
    ("dinov3_convnext_hf", "transformers-dinov3"),
];

fn modern(folder: &str) -> Golden {
    Golden::fixture(&format!("modern/{folder}"))
}

fn built(config: &dyn BackboneConfig) -> BoxedBackbone {
    Plug::new(config.build(&Init::empty(&Device::flex())).unwrap())
}

fn checkpoint(golden: &Golden) -> Checkpoint {
    let file = golden.config["weights_file"].as_str().unwrap();
    Checkpoint::open(&golden.folder().join(file)).unwrap()
}

/// The network of a file, which is recognised by its keys and shapes alone.
fn read(file: &Checkpoint) -> Loaded {
    let found = recognise(file, None).unwrap().unwrap();
    assert_eq!(found.plugin.name, "convnext");
    assert!(found.survey.fits(), "{:?}", found.survey.missing);
    load_backbone(built(&*found.config), file, None).unwrap()
}

/// `|d| <= 2e-5` of the largest expected value.
fn assert_near(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (got, expected) in got.iter().zip(expected) {
        let error = (got - expected).abs() / largest;
        assert!(error <= 2e-5, "{what}: {got}, expected {expected}");
    }
}

/// The values of a grid with its channels first.
fn channels_first(x: &Activation) -> Vec<f32> {
    match x.clone() {
        Activation::Grid(x) => floats(x.permute([0, 3, 1, 2]).into_data()),
        x => x.to_vec(),
    }
}

#[test]
fn every_boundary_agrees_with_the_libraries() {
    for (folder, layout) in FOLDERS {
        let golden = modern(folder);
        let loaded = read(&checkpoint(&golden));
        assert_eq!(loaded.layout, layout, "{folder}");
        let (backbone, spec) = (&loaded.backbone, loaded.backbone.spec().clone());
        let images = golden.io["images"].clone();
        let mut x = Activation::Map(Tensor::from_data(images, &Device::flex()));
        for cut in 0..spec.features_cut() {
            x = backbone.forward(x, cut..cut + 1, &Hooks::none());
            let name = match cut {
                cut if cut <= spec.depth => format!("boundary.{}", cut + 1),
                _ => "features".to_owned(),
            };
            let what = format!("{folder}: {name}");
            assert_near(&what, &channels_first(&x), &golden.values(&name));
        }
        let has_head = golden.config["has_logits"].as_bool().unwrap();
        assert_eq!(loaded.head.is_some(), has_head, "{folder}");
        if let Some(head) = loaded.head {
            let head = LinearHead::from_checkpoint(head, &Device::flex());
            let logits = floats(head.forward(x.features().unwrap()).into_data());
            assert_near(
                &format!("{folder}: logits"),
                &logits,
                &golden.values("logits"),
            );
        }
    }
}

#[test]
fn gradients_agree_with_timm() {
    for folder in ["convnext_gradients", "convnextv2_gradients"] {
        let golden = Golden::fixture(folder);
        let loaded = read(&checkpoint(&golden));
        let head = LinearHead::from_checkpoint(loaded.head.unwrap(), &Device::flex());
        let (backbone, head) = (loaded.backbone.train(), head.train());
        let images = Tensor::<4>::from_data(golden.io["images"].clone(), &Device::flex());
        let images = Tensor::from_inner(images).require_grad();
        let span = 0..backbone.spec().features_cut();
        let x = backbone.forward(Activation::Map(images.clone()), span, &Hooks::none());
        let factors = golden.io["loss_weights"].clone();
        let factors = Tensor::<2>::from_data(factors, &Device::flex().autodiff());
        let logits = head.forward(x.features().unwrap());
        let values = floats(logits.clone().into_data());
        assert_near(folder, &values, &golden.values("logits"));
        let gradients = (logits * factors).sum().backward();
        let of_images = images.grad(&gradients).unwrap().into_data();
        let gradients = GradientsParams::from_grads(gradients, &backbone);
        let mut gradients = params::gradients(&backbone, &gradients);
        gradients.insert("images".to_owned(), of_images);
        let expected = golden.group("grad.");
        assert_eq!(expected.len(), gradients.len(), "{folder}");
        for (name, expected) in expected {
            let got = floats(gradients[&name].clone());
            let what = format!("{folder}: gradient of {name}");
            assert_near(&what, &got, &floats(expected));
        }
    }
}

#[test]
fn every_parameter_of_a_file_is_used_and_counted() {
    for (folder, _) in FOLDERS {
        let golden = modern(folder);
        let loaded = read(&checkpoint(&golden));
        let infos = params::infos(&loaded.backbone);
        let own: usize = infos.iter().map(|info| info.count()).sum();
        let head = loaded.head.map_or(0, |head| {
            let weight: usize = head.weight.shape().iter().product();
            weight + head.bias.shape()[0]
        });
        let expected = golden.config["param_count"].as_u64().unwrap();
        assert_eq!((own + head) as u64, expected, "{folder}");
    }
}

fn of(yaml: &str) -> ConvNext {
    serde_yaml::from_str(yaml).unwrap_or_else(|e| panic!("{yaml}: {e}"))
}

/// Two stages with a hidden layer, at 17 x 17 pixels: maps of 4 and 2.
const SMALL: &str = "{img_size: 17, depths: [1, 1], dims: [6, 10]}";

fn random(config: &ConvNext, seed: u64) -> BoxedBackbone {
    let backbone: BoxedBackbone =
        Plug::new(config.build(&Init::seeded(&Device::flex(), seed)).unwrap());
    // No value is zero or one, so that a missing term shows.
    let values = params::read(&backbone, |_| true)
        .into_iter()
        .map(|(name, data)| {
            let mut generator = Generator::new(seed, &name);
            let shape = data.shape().clone();
            let noise = |value: f32| value + 0.2 * generator.normal();
            let values: Vec<f32> = floats(data).into_iter().map(noise).collect();
            (name, TensorData::new(values, shape))
        });
    params::write(backbone, values.collect()).unwrap_or_else(|e| panic!("{e:?}"))
}

fn images(size: usize) -> Activation {
    let mut generator = Generator::new(1, "images");
    let values: Vec<f32> = (0..2 * 3 * size * size)
        .map(|_| generator.normal())
        .collect();
    let data = TensorData::new(values, [2, 3, size, size]);
    Activation::Map(Tensor::from_data(data, &Device::flex()))
}

fn features(backbone: &BoxedBackbone, x: Activation) -> Vec<f32> {
    let span = 0..backbone.spec().features_cut();
    backbone.forward(x, span, &Hooks::none()).to_vec()
}

#[test]
fn rows_and_columns_that_are_left_over_are_not_seen() {
    let backbone = random(&of(SMALL), 3);
    let spec = backbone.spec();
    let shapes: Vec<_> = spec.boundaries.iter().map(|at| at.shape.dims()).collect();
    assert_eq!(shapes[1..], [vec![4, 4, 6], vec![2, 2, 10], vec![2, 2, 10]]);
    let x = images(17);
    let Activation::Map(whole) = x.clone() else {
        unreachable!("images are a map")
    };
    let seen = whole.narrow(2, 0, 16).narrow(3, 0, 16);
    assert_eq!(
        features(&backbone, x),
        features(&backbone, Activation::Map(seen))
    );
}

#[test]
fn a_downsampling_counts_with_the_block_before_it() {
    let backbone = built(&of("{depths: [1, 2, 1], dims: [8, 12, 16], img_size: 40}"));
    let spec = backbone.spec();
    for (name, block) in [
        ("stem.0", 0),
        ("stem.1", 0),
        ("stages.0.blocks.0.conv_dw", 1),
        ("stages.1.downsample.0", 1),
        ("stages.1.downsample.1", 1),
        ("stages.1.blocks.0.mlp.fc1", 2),
        ("stages.1.blocks.1", 3),
        ("stages.2.downsample.1", 3),
        ("head.norm", 5),
    ] {
        assert_eq!(spec.site(name).unwrap().block, block, "{name}");
    }
    assert!(spec.sites.iter().map(|site| site.block).is_sorted());
    assert_eq!(spec.block_of("stages.1.blocks.0.gamma"), 2);
    let at = spec.boundary(2).unwrap().to_string();
    assert_eq!(at, "boundary 2 (input of stages.1.blocks.0)");
    let depthwise = spec.site("stages.2.blocks.0.conv_dw").unwrap();
    assert_eq!(
        depthwise.kind.to_string(),
        "conv 7x7/1 16 -> 16 in 16 groups"
    );
    let (inputs, outputs) = (64, 16);
    let fc2 = spec.site("stages.2.blocks.0.mlp.fc2").unwrap();
    assert_eq!(fc2.kind, SiteKind::Linear { inputs, outputs });
}

#[test]
fn a_shared_prompt_is_absorbed_by_the_bias_before_it() {
    for yaml in [
        "{img_size: 32, depths: [2, 1], dims: [6, 10]}",
        "{img_size: 32, depths: [2, 1], dims: [6, 10], use_grn: true, conv_mlp: true}",
    ] {
        let backbone = random(&of(yaml), 5);
        let init = Init::seeded(&Device::flex(), 6);
        let last = backbone.spec().features_cut();
        let run = |backbone: &BoxedBackbone, x, span| backbone.forward(x, span, &Hooks::none());
        for (boundary, width) in [(1, 6), (2, 6), (3, 10), (4, 10)] {
            let values = Distribution::Normal(0.0, 0.5);
            let delta = Activation::Grid(init.tensor("delta", [1, 1, 1, width], values));
            let tensors = backbone.absorb(boundary, &delta).unwrap();
            let x = run(&backbone, images(32), 0..boundary).plus(delta);
            let expected = run(&backbone, x, boundary..last);
            let absorbed = params::write(backbone.clone(), tensors);
            let absorbed = absorbed.unwrap_or_else(|mismatch| panic!("{mismatch:?}"));
            let got = run(&absorbed, images(32), 0..last);
            let what = format!("boundary {boundary}");
            assert_close(&what, &got.to_vec(), &expected.to_vec(), 1e-5, None);
        }
    }
}

#[test]
fn variants_have_the_published_numbers_of_parameters() {
    for (variant, expected) in [
        ("convnext_atto", 3_374_520),
        ("convnextv2_atto", 3_387_400),
        ("convnext_femto", 4_832_784),
        ("convnextv2_femto", 4_848_240),
        ("convnext_pico", 8_532_672),
        ("convnextv2_pico", 8_553_280),
        ("convnext_nano", 14_952_560),
        ("convnextv2_nano", 14_982_800),
        ("convnext_tiny", 27_820_128),
        ("convnext_tiny_hnf", 27_820_128),
        ("convnextv2_tiny", 27_866_496),
        ("convnext_small", 49_454_688),
        ("convnextv2_small", 49_549_440),
        ("convnext_base.fb_in22k", 87_566_464),
        ("convnextv2_base", 87_692_800),
        ("convnext_large", 196_230_336),
        ("convnextv2_large", 196_419_840),
        ("convnext_large_mlp", 198_591_168),
        ("convnext_xlarge", 348_147_968),
        ("convnextv2_huge", 657_472_640),
        ("convnext_xxlarge", 843_398_016),
    ] {
        let backbone = built(&of(&format!("{{variant: {variant}}}")));
        let infos = params::infos(&backbone);
        let count: usize = infos.iter().map(|info| info.count()).sum();
        assert_eq!(count, expected, "{variant}");
    }
}

#[test]
fn the_tag_of_a_variant_prepares_the_images_of_its_weights() {
    for (variant, crop, mean) in [
        ("convnext_tiny", 0.95, 0.485),
        ("convnext_tiny.fb_in22k", 0.875, 0.485),
        ("convnext_tiny.dinov3_lvd1689m", 1.0, 0.485),
        ("convnext_base", 0.875, 0.485),
        ("convnext_base.clip_laion2b", 1.0, 0.481_454_66),
        ("convnext_xxlarge", 1.0, 0.481_454_66),
        ("convnextv2_nano", 0.875, 0.485),
    ] {
        let input = of(&format!("{{variant: {variant}}}")).input().unwrap();
        assert_eq!((input.crop_pct, input.mean[0]), (crop, mean), "{variant}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_field_or_name() {
    for (yaml, expected) in [
        (
            "{depths: [1, 0], dims: [8, 8]}",
            "depths: expected 1 to 8 stages",
        ),
        ("{depths: [1, 1], dims: [8]}", "dims: expected 2 numbers"),
        ("{dims: [8]}", "depths: expected a value"),
        (
            "{variant: convnext_tiny, img_size: 31}",
            "img_size: expected at least 32",
        ),
        (
            "{variant: convnext_tiny, kernel_sizes: 4}",
            "kernel_sizes: expected an odd",
        ),
        (
            "{variant: convnext_tiny, features: after}",
            "features: expected before",
        ),
        (
            "{variant: convnext_tiny_hnf, head_hidden_size: 5}",
            "head_hidden_size: expected none with head_norm_first",
        ),
        (
            "{variant: convnext_tiny, norm_eps: -1}",
            "norm_eps: expected a number",
        ),
        (
            "{variant: convnext_nano_ols}",
            "has a stem of overlapping convolutions",
        ),
        ("{variant: convnext_atto_rms}", "has root-mean-square norms"),
        (
            "{variant: convnext_zepto_rms_ols.ra4_e3600_r224_in1k}",
            "has a stem of overlapping",
        ),
        (
            "{variant: convnext_tinny}",
            "did you mean \"convnext_tiny\"?",
        ),
    ] {
        let error = of(yaml).input().unwrap_err().to_string();
        assert!(error.contains(expected), "{yaml}: {error}");
    }
    let backbone = built(&of("{variant: convnext_atto}"));
    let why = |tensor: &str| backbone.why_not(tensor).unwrap();
    assert!(why("stages.0.0.dwconv.kernel").contains("MinkowskiEngine"));
    assert!(why("stem.2.weight").contains("overlapping"));
    assert_eq!(backbone.why_not("stem.1.weight"), None);
}
