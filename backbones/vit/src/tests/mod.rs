//! Agreement with golden values made with timm; `checkpoints` tests how files are read.

use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use peft_core::checkpoint::{Checkpoint, Loaded, load_backbone};
use peft_core::params::{self, floats};
use peft_core::random::Distribution::Normal;
use peft_core::{Activation, BackboneConfig, Hooks, Init, LinearHead, Plug};
use peft_testing::{Golden, assert_close, tiny_backbones};

use crate::{GlobalPool, MlpActivation, Vit};

mod checkpoints;
mod modern;
mod rectangles;

fn fixture(name: &str) -> Golden {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures");
    Golden::open(Path::new(folder).join(name))
}

fn golden() -> Golden {
    fixture("vit_tiny")
}

fn tiny() -> Vit {
    Vit {
        img_size: Some(32.into()),
        patch_size: Some(8),
        embed_dim: Some(48),
        depth: Some(4),
        num_heads: Some(3),
        ..Vit::default()
    }
}

/// A backbone filled from one of a fixture's files.
fn filled(golden: &Golden, config: &Vit, file: &str) -> Loaded {
    let backbone = Plug::new(config.build(&Init::empty(&Device::flex())).unwrap());
    let file = Checkpoint::open(&golden.folder().join(file)).unwrap();
    load_backbone(backbone, &file, None).unwrap_or_else(|e| panic!("{e}"))
}

fn images(golden: &Golden) -> Tensor<4> {
    Tensor::from_data(golden.io["images"].clone(), &Device::flex())
}

/// Compares every boundary and the features, one cut at a time; returns the features.
fn check_cuts(golden: &Golden, loaded: &Loaded) -> Tensor<2> {
    let spec = loaded.backbone.spec();
    let blocks = (0..spec.depth).map(|i| format!("block.{i}"));
    let names = std::iter::once("embed".to_owned()).chain(blocks);
    let mut x = Activation::Map(images(golden));
    for (cut, name) in names.chain(["features".to_owned()]).enumerate() {
        x = (loaded.backbone).forward(x, cut..cut + 1, &Hooks::none());
        assert_close(&name, &x.to_vec(), &golden.values(&name), 1e-5, None);
        if let Some(boundary) = spec.boundaries.get(cut + 1) {
            let elements = boundary.shape.elements();
            assert_eq!(elements * x.batch(), x.to_vec().len(), "{boundary}");
        }
    }
    x.features().unwrap()
}

fn small_options() -> Vit {
    Vit {
        img_size: Some(32.into()),
        patch_size: Some(8),
        embed_dim: Some(24),
        depth: Some(3),
        num_heads: Some(3),
        mlp_ratio: Some(2.0),
        ..Vit::default()
    }
}

fn registers() -> Vit {
    Vit {
        reg_tokens: Some(3),
        no_embed_class: Some(true),
        init_values: Some(1e-5),
        ..small_options()
    }
}

fn averaged() -> Vit {
    Vit {
        reg_tokens: Some(2),
        init_values: Some(1e-5),
        global_pool: Some(GlobalPool::Avg),
        ..small_options()
    }
}

fn pre_normed() -> Vit {
    Vit {
        class_token: Some(false),
        pre_norm: Some(true),
        act_layer: Some(MlpActivation::QuickGelu),
        global_pool: Some(GlobalPool::Avg),
        fc_norm: Some(false),
        ..small_options()
    }
}

#[test]
fn every_boundary_agrees_with_timm() {
    for (name, config) in [
        ("vit_tiny", tiny()),
        ("vit_registers", registers()),
        ("vit_avg", averaged()),
        ("vit_pre_norm", pre_normed()),
    ] {
        let golden = fixture(name);
        let mut loaded = filled(&golden, &config, "weights.safetensors");
        let features = check_cuts(&golden, &loaded);
        let head = loaded.head.take().unwrap();
        let head = LinearHead::from_checkpoint(head, &Device::flex());
        let logits = Activation::Features(head.forward(features)).to_vec();
        assert_close(name, &logits, &golden.values("logits"), 1e-5, None);
    }
}

#[test]
fn every_gradient_agrees_with_timm() {
    for (name, config) in [
        ("vit_registers", registers()),
        ("vit_avg", averaged()),
        ("vit_pre_norm", pre_normed()),
    ] {
        let golden = fixture(name);
        let loaded = filled(&golden, &config, "weights.safetensors");
        let head = LinearHead::from_checkpoint(loaded.head.unwrap(), &Device::flex());
        let (backbone, head) = (loaded.backbone.train(), head.train());
        let x = Activation::Map(images(&golden)).into_autodiff();
        let x = backbone.forward(x, 0..backbone.spec().features_cut(), &Hooks::none());
        let weights = golden.io["loss_weights"].clone();
        let weights = Tensor::<2>::from_data(weights, &Device::flex().autodiff());
        let loss = (head.forward(x.features().unwrap()) * weights).sum();
        let gradients = GradientsParams::from_grads(loss.backward(), &backbone);
        let gradients = params::gradients(&backbone, &gradients);
        let expected = golden.group("grad.");
        assert!(gradients.keys().eq(expected.keys()), "{name}");
        for (param, expected) in expected {
            let what = format!("{name}: gradient of {param}");
            let got = floats(gradients[&param].clone());
            assert_close(&what, &got, &floats(expected), 2e-5, None);
        }
    }
}

/// A token that asks as a query gets what the block makes of it, since it reads the same tokens.
#[test]
fn queries_are_answered_as_the_tokens_themselves() {
    for (yaml, config) in tiny_backbones() {
        let init = Init::seeded(&Device::flex(), 8);
        let backbone = Plug::new(config.build(&init).unwrap());
        // Attention between tokens that hardly differ would hide a mistake.
        let weights = params::read(&backbone, |info| {
            info.name.starts_with("blocks") && info.shape.len() > 1
        });
        let larger = weights.into_iter().map(|(name, data)| {
            let shape = data.shape().clone();
            let values: Vec<f32> = floats(data).into_iter().map(|value| 10.0 * value).collect();
            (name, TensorData::new(values, shape))
        });
        let backbone = params::write(backbone, larger.collect()).ok().unwrap();
        let [n, d] = backbone.spec().shape_at(1).dims()[..] else {
            panic!("{yaml}: tokens have two axes")
        };
        let x: Tensor<3> = init.tensor("x", [2, n, d], Normal(0.0, 1.0));
        let expected = backbone.forward(x.clone().into(), 2..3, &Hooks::none());
        let expected = Tensor::<3>::from_data(
            TensorData::new(expected.to_vec(), [2, n, d]),
            &Device::flex(),
        );
        // A rotation turns every token but those before the patches. A few queries are computed in another order than
        // many.
        let prefix = backbone.attention_grid(2).unwrap().prefix;
        let counts = match yaml.contains("rope_type") {
            true => vec![prefix],
            false => vec![1, n],
        };
        for count in counts {
            let queries = x.clone().narrow(1, 0, count);
            let got = backbone.query(2, x.clone(), queries);
            let own = floats(expected.clone().narrow(1, 0, count).into_data());
            assert_close(yaml, &floats(got.into_data()), &own, 1e-5, None);
        }
    }
}

#[test]
fn prompts_are_absorbed_exactly_under_every_option() {
    let scaled = Vit {
        pre_norm: Some(true),
        ..registers()
    };
    for (what, config, whole) in [
        ("vit_tiny", tiny(), true),
        ("vit_registers", registers(), true),
        ("vit_avg", averaged(), true),
        ("vit_pre_norm", pre_normed(), false),
        ("scaled", scaled, false),
    ] {
        let init = Init::seeded(&Device::flex(), 5);
        let backbone = Plug::new(config.build(&init).unwrap());
        let (spec, last) = (backbone.spec(), backbone.spec().features_cut());
        let count = spec.boundaries[1].shape.dims()[0];
        let image = init.tensor("image", [2, 3, 32, 32], Normal(0.0, 1.0));
        let delta = |shape: [usize; 3]| init.tensor("delta", shape, Normal(0.0, 0.5));
        let tokens = |count| Activation::from(delta([1, count, spec.features]));
        let pixels = init.tensor("pixels", [1, 3, 32, 32], Normal(0.0, 0.5));
        let mut cases = vec![
            (0, Activation::Map(pixels)),
            (1, tokens(1)),
            (2, tokens(1)),
            (spec.last_boundary(), tokens(1)),
        ];
        match whole {
            true => cases.push((1, tokens(count))),
            false => assert!(backbone.absorb(1, &tokens(count)).is_none(), "{what}"),
        }
        assert!(backbone.absorb(2, &tokens(count)).is_none(), "{what}");
        for (boundary, delta) in cases {
            let what = format!("{what} at {boundary}");
            let x = Activation::Map(image.clone());
            let bare = Hooks::none();
            let x = match boundary {
                0 => x,
                boundary => backbone.forward(x, 0..boundary, &bare),
            };
            let expected = backbone.forward(x.plus(delta.clone()), boundary..last, &bare);
            let absorbed = backbone.absorb(boundary, &delta).unwrap();
            let absorbed = params::write(backbone.clone(), absorbed).ok().unwrap();
            let got = absorbed.forward(Activation::Map(image.clone()), 0..last, &bare);
            assert_close(&what, &got.to_vec(), &expected.to_vec(), 1e-5, None);
        }
    }
}

/// A LayerScale of zero lets nothing of its branch through, so no bias in it can stand for a prompt.
#[test]
fn a_prompt_behind_a_layer_scale_of_zero_is_not_absorbed() {
    let init = Init::seeded(&Device::flex(), 5);
    let zero = Vit {
        init_values: Some(0.0),
        ..registers()
    };
    let backbone = Plug::new(zero.build(&init).unwrap());
    let delta = Tensor::<3>::ones([1, 1, 24], init.device());
    assert!(backbone.absorb(2, &delta.into()).is_none());
}

#[test]
fn variants_have_the_published_numbers_of_parameters() {
    let count = |variant: &str| {
        let config = Vit {
            variant: Some(variant.into()),
            ..Vit::default()
        };
        let backbone = Plug::new(config.build(&Init::empty(&Device::flex())).unwrap());
        peft_core::params::infos(&backbone)
            .iter()
            .map(|info| info.count())
            .sum::<usize>()
    };
    assert_eq!(count("vit_tiny_patch16_224"), 5_524_416);
    assert_eq!(count("vit_small_patch16_224"), 21_665_664);
    assert_eq!(count("vit_base_patch16_224"), 85_798_656);
    assert_eq!(count("vit_large_patch16_224"), 303_301_632);
}

#[test]
fn sizes_that_do_not_fit_are_refused_by_field() {
    let message = |config: Vit| config.input().unwrap_err().to_string();
    let odd = Vit {
        img_size: Some(30.into()),
        ..tiny()
    };
    assert_eq!(
        message(odd),
        "img_size: expected a multiple of patch_size (8), got 30"
    );
    let typo = Vit {
        variant: Some("vit_bas_patch16_224".into()),
        ..Vit::default()
    };
    assert!(message(typo).contains("did you mean \"vit_base_patch16_224\"?"));
    let unpooled = Vit {
        class_token: Some(false),
        ..tiny()
    };
    assert_eq!(
        message(unpooled),
        "global_pool: expected avg or map where there is no class token, got token"
    );
}

#[test]
fn a_variant_is_known_with_and_without_the_tag_of_its_weights() {
    let input = |variant: &str| {
        let config = Vit {
            variant: Some(variant.into()),
            ..Vit::default()
        };
        config.input().unwrap()
    };
    let plain = input("vit_base_patch14_reg4_dinov2");
    assert_eq!(plain, input("vit_base_patch14_reg4_dinov2.lvd142m"));
    assert_eq!((plain.size, plain.mean[0]), (518.into(), 0.485));
    assert_eq!(
        input("vit_base_patch16_384.augreg_in21k_ft_in1k").size,
        384.into()
    );
}
