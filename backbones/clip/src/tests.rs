//! Golden values made with transformers.

use burn::tensor::{Device, Tensor, TensorData};
use peft_core::checkpoint::{Checkpoint, load_backbone};
use peft_core::params::{self, Tensors, floats};
use peft_core::testing::{Golden, assert_close};
use peft_core::{Activation, BackboneConfig, BoxedBackbone, Hooks, Init, Plug};

use crate::{Clip, Features};

fn golden() -> Golden {
    Golden::open(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/clip_vision"
    ))
}

fn tiny() -> Clip {
    Clip {
        img_size: Some(32),
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

/// transformers' tensors under our names: queries, keys and values joined, a prefix dropped.
fn renamed(file: &str) -> Tensors {
    let file = Checkpoint::open(&golden().folder().join(file)).unwrap();
    let theirs: Tensors = (file.tensors().unwrap().into_iter())
        .map(|(name, data)| (name.trim_start_matches("vision_model.").to_owned(), data))
        .collect();
    let names = [
        ("embeddings.class_embedding", "cls_token"),
        ("embeddings.position_embedding.weight", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("pre_layrnorm", "norm_pre"),
        ("post_layernorm", "norm"),
        ("encoder.layers", "blocks"),
        ("layer_norm", "norm"),
        ("self_attn.out_proj", "attn.proj"),
        ("self_attn.q_proj", "attn.qkv"),
    ];
    let mut ours = Tensors::new();
    for (name, data) in &theirs {
        if name.contains("k_proj") || name.contains("v_proj") {
            continue;
        }
        let mut shape = data.shape().to_vec();
        let mut values = floats(data.clone());
        if name.contains("q_proj") {
            for part in ["k_proj", "v_proj"] {
                values.extend(floats(theirs[&name.replace("q_proj", part)].clone()));
            }
            shape[0] *= 3;
        }
        let name = (names.iter()).fold(name.clone(), |name, (from, to)| name.replace(from, to));
        match name.as_str() {
            "cls_token" => shape = vec![1, 1, shape[0]],
            "pos_embed" => shape.insert(0, 1),
            _ => {}
        }
        ours.insert(name, TensorData::new(values, shape));
    }
    ours
}

fn written(backbone: BoxedBackbone, tensors: Tensors) -> BoxedBackbone {
    params::write(backbone, tensors).unwrap_or_else(|(_, mismatch)| panic!("{mismatch:?}"))
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

/// `visual_projection` is a linear layer without bias on the features.
#[test]
fn projected_features_are_the_features_times_the_projection() {
    let (golden, init) = (golden(), Init::seeded(&Device::flex(), 3));
    let projected = Clip {
        features: Features::After,
        projection_dim: Some(24),
        ..tiny()
    };
    let backbone = built(&projected, &init);
    assert_eq!(backbone.spec().features, 24);
    let weight = params::read(&backbone, |info| info.name == "projection.weight");
    let weight = floats(weight["projection.weight"].clone());
    let backbone = written(backbone, renamed("weights.safetensors"));
    let last = backbone.spec().features_cut();
    let got = backbone.forward(images(&golden, &init), 0..last, &Hooks::none());
    let product = |x: &[f32], row: &[f32]| {
        let terms = x
            .iter()
            .zip(row)
            .map(|(a, b)| f64::from(*a) * f64::from(*b));
        terms.sum::<f64>() as f32
    };
    let features = golden.values("features");
    let expected: Vec<f32> = features
        .chunks(48)
        .flat_map(|x| {
            weight
                .chunks(48)
                .map(|row| product(x, row))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_close("projected", &got.to_vec(), &expected, 1e-5, None);
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
        img_size: Some(30),
        ..tiny()
    };
    let expected = "img_size: expected a multiple of patch_size (8), got 30";
    assert_eq!(message(odd), expected);
    let unprojected = Clip {
        features: Features::After,
        ..tiny()
    };
    let expected = "projection_dim: expected a number, or a `variant` that has one";
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

/// A prompt on the image passes the norm before the blocks as positions do; behind the norm only
/// one that is shared has a bias to join.
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
