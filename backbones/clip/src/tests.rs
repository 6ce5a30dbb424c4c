//! Agreement with golden values made with transformers and timm, and what is refused.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use peft_core::checkpoint::{Checkpoint, Loaded, load_backbone};
use peft_core::params::{self, Tensors, floats};
use peft_core::{Activation, BackboneConfig, BoxedBackbone, Hooks, Init, LinearHead, Plug};
use peft_testing::{Golden, assert_close};

use crate::{Clip, Features};

fn fixture(name: &str) -> Golden {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures");
    Golden::open(Path::new(folder).join(name))
}

fn golden() -> Golden {
    fixture("clip_vision")
}

fn tiny() -> Clip {
    Clip {
        img_size: Some(32.into()),
        patch_size: Some(8),
        embed_dim: Some(48),
        depth: Some(3),
        num_heads: Some(3),
        mlp_ratio: Some(2.0),
        ..Clip::default()
    }
}

fn built(config: &Clip, init: &Init) -> BoxedBackbone {
    Plug::new(config.build(init).unwrap())
}

fn written(backbone: BoxedBackbone, tensors: Tensors) -> BoxedBackbone {
    params::write(backbone, tensors).unwrap_or_else(|mismatch| panic!("{mismatch:?}"))
}

fn images(golden: &Golden, init: &Init) -> Activation {
    Activation::Map(Tensor::from_data(
        golden.io["images"].clone(),
        init.device(),
    ))
}

#[test]
fn every_boundary_agrees_with_transformers_under_both_prefixes() {
    let (golden, init) = (golden(), Init::empty(&Device::flex()));
    for file in ["weights.safetensors", "weights_legacy_prefix.safetensors"] {
        let file = Checkpoint::open(&golden.folder().join(file)).unwrap();
        let loaded = load_backbone(built(&tiny(), &init), &file, None).unwrap();
        assert_eq!(loaded.layout, "transformers");
        let backbone = loaded.backbone;
        let mut x = images(&golden, &init);
        let names = ["pre_layrnorm", "layer.0", "layer.1", "layer.2", "features"];
        for (cut, name) in names.iter().enumerate() {
            x = backbone.forward(x, cut..cut + 1, &Hooks::none());
            assert_close(name, &x.to_vec(), &golden.values(name), 1e-5, None);
            if let Some(boundary) = backbone.spec().boundaries.get(cut + 1) {
                let elements = boundary.shape.elements();
                assert_eq!(elements * 2, x.to_vec().len(), "{boundary}");
            }
        }
    }
}

/// The tiny model of `fixtures/clip_projection`.
fn projected(features: Features) -> Clip {
    Clip {
        embed_dim: Some(24),
        depth: Some(2),
        mlp_ratio: None,
        projection_dim: Some(12),
        features,
        ..tiny()
    }
}

fn loaded(file: &str, features: Features) -> peft_core::Result<Loaded> {
    let file = Checkpoint::open(&fixture("clip_projection").folder().join(file))?;
    let backbone = built(&projected(features), &Init::empty(&Device::flex()));
    load_backbone(backbone, &file, None)
}

#[test]
fn features_after_the_projection_agree_under_every_spelling() {
    let (golden, init) = (fixture("clip_projection"), Init::empty(&Device::flex()));
    for (file, layout) in [
        ("weights.safetensors", "transformers"),
        ("weights_openai.safetensors", "openai"),
        ("weights_timm.safetensors", "timm"),
        ("openai.pt", "openai"),
    ] {
        let loaded = loaded(file, Features::After).unwrap();
        assert_eq!(loaded.layout, layout, "{file}");
        assert!(
            loaded.head.is_none(),
            "{file}: the projection was read as a head"
        );
        let last = loaded.backbone.spec().features_cut();
        let x = images(&golden, &init);
        let got = loaded.backbone.forward(x, 0..last, &Hooks::none());
        let expected = match file {
            // OpenAI's archives hold 16-bit floats.
            "openai.pt" => {
                let half = golden.folder().join("io_half.safetensors");
                let half = Checkpoint::open(&half).unwrap();
                floats(half.tensor("projected").unwrap())
            }
            _ => golden.values("projected"),
        };
        assert_close(file, &got.to_vec(), &expected, 1e-5, None);
    }
}

/// If the features are those before the projection, it becomes the head: the logits are the projected
/// embedding.
#[test]
fn the_projection_is_the_head_of_features_before_it() {
    let (golden, init) = (fixture("clip_projection"), Init::empty(&Device::flex()));
    for file in [
        "weights.safetensors",
        "weights_openai.safetensors",
        "weights_timm.safetensors",
    ] {
        let loaded = loaded(file, Features::Before).unwrap();
        let mut x = images(&golden, &init);
        let names = ["embed", "block.0", "block.1", "features"];
        for (cut, name) in names.iter().enumerate() {
            x = (loaded.backbone).forward(x, cut..cut + 1, &Hooks::none());
            assert_close(name, &x.to_vec(), &golden.values(name), 1e-5, None);
        }
        let head = LinearHead::from_checkpoint(loaded.head.unwrap(), init.device());
        let logits = floats(head.forward(x.features().unwrap()).into_data());
        assert_close(file, &logits, &golden.values("projected"), 1e-5, None);
    }
}

/// A classifier under timm's names is read as a head, not as the projection.
#[test]
fn a_classifier_is_told_from_a_projection_by_its_bias() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("classifier.safetensors");
    let file = fixture("clip_projection");
    let file = Checkpoint::open(&file.folder().join("weights_timm.safetensors")).unwrap();
    let mut tensors = file.tensors().unwrap();
    let bias = TensorData::new(vec![0.5f32; 12], [12]);
    tensors.insert("head.bias".to_owned(), bias);
    peft_core::weights::write(&path, &tensors, Default::default()).unwrap();
    let file = Checkpoint::open(&path).unwrap();
    let load = |features| {
        let backbone = built(&projected(features), &Init::empty(&Device::flex()));
        load_backbone(backbone, &file, None)
    };
    assert!(load(Features::Before).unwrap().head.is_some());
    let error = load(Features::After).err().unwrap().to_string();
    let expected = "head.bias: expected zeros, because head.weight is read as projection.weight";
    assert!(error.contains(expected), "{error}");
}

/// OpenAI's names of the text tower begin like those of the image tower. Ignoring the former must not
/// let blocks of the latter pass.
#[test]
fn a_deeper_checkpoint_of_openai_is_refused() {
    let shallow = Clip {
        depth: Some(1),
        ..projected(Features::After)
    };
    let file = fixture("clip_projection");
    let file = Checkpoint::open(&file.folder().join("weights_openai.safetensors")).unwrap();
    let backbone = built(&shallow, &Init::empty(&Device::flex()));
    let error = load_backbone(backbone, &file, None).err().unwrap();
    let expected = "keys that nothing takes: visual.transformer.resblocks.1.attn.in_proj_bias";
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn variants_have_the_numbers_of_parameters_of_transformers() {
    let count = |variant: &str, features| {
        let config = Clip {
            variant: Some(variant.into()),
            features,
            ..Clip::default()
        };
        let infos = params::infos(&built(&config, &Init::empty(&Device::flex())));
        infos.iter().map(|info| info.count()).sum::<usize>()
    };
    for (variant, before, after) in [
        (
            "vit_base_patch32_clip_quickgelu_224",
            87_456_000,
            87_849_216,
        ),
        (
            "vit_base_patch16_clip_quickgelu_224",
            85_799_424,
            86_192_640,
        ),
        ("vit_large_patch14_clip_336", 303_507_456, 304_293_888),
    ] {
        assert_eq!(count(variant, Features::Before), before, "{variant}");
        assert_eq!(count(variant, Features::After), after, "{variant}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_by_field() {
    let message = |config: Clip| config.input().unwrap_err().to_string();
    let odd = Clip {
        img_size: Some(30.into()),
        ..tiny()
    };
    let expected = "img_size: expected a multiple of patch_size (8), got 30";
    assert_eq!(message(odd), expected);
    let unprojected = Clip {
        features: Features::After,
        ..tiny()
    };
    let expected = "projection_dim: expected a value, or a `variant` that has one";
    assert_eq!(message(unprojected), expected);
    let empty = Clip {
        features: Features::After,
        projection_dim: Some(0),
        ..tiny()
    };
    assert_eq!(message(empty), "projection_dim: expected at least 1, got 0");
    let typo = Clip {
        variant: Some("vit_base_patch32_clip_quickgelu_244".into()),
        ..Clip::default()
    };
    let hint = "did you mean \"vit_base_patch32_clip_quickgelu_224\"?";
    assert!(message(typo).contains(hint));
}

/// Positions join before the norm that precedes the blocks, so they cannot absorb a prompt behind it;
/// a prompt that all tokens share is absorbed by the norm's bias.
#[test]
fn prompts_are_absorbed_where_that_is_exact() {
    let init = Init::seeded(&Device::flex(), 5);
    let backbone = built(&tiny(), &init);
    let delta = |boundary: usize, shape: [usize; 3]| {
        let values = peft_core::random::Distribution::Normal(0.0, 0.5);
        Activation::from(init.tensor(&format!("delta.{boundary}"), shape, values))
    };
    let of_positions = delta(1, [1, 17, 48]);
    assert!(backbone.absorb(1, &of_positions).is_none());
    assert!(backbone.absorb(2, &of_positions).is_none());
    let (golden, last) = (golden(), backbone.spec().features_cut());
    let bare = Hooks::none();
    for boundary in [1, 2, 4] {
        let delta = delta(boundary, [1, 1, 48]);
        let x = backbone.forward(images(&golden, &init), 0..boundary, &bare);
        let expected = backbone.forward(x.plus(delta.clone()), boundary..last, &bare);
        let tensors = backbone.absorb(boundary, &delta).unwrap();
        let absorbed = written(backbone.clone(), tensors);
        let got = absorbed.forward(images(&golden, &init), 0..last, &bare);
        let what = format!("boundary {boundary}");
        assert_close(&what, &got.to_vec(), &expected.to_vec(), 1e-5, None);
    }
}
