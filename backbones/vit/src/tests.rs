//! Golden values made with timm.

use burn::tensor::{Device, Tensor};
use peft_core::testing::{Golden, assert_close};
use peft_core::weights::{WeightsFile, load_backbone};
use peft_core::{Activation, BackboneConfig, Hooks, Init, LinearHead, Plug};

use crate::Vit;

fn golden() -> Golden {
    Golden::open(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/vit_tiny"
    ))
}

fn tiny() -> Vit {
    Vit {
        img_size: Some(32),
        patch_size: Some(8),
        embed_dim: Some(48),
        depth: Some(4),
        num_heads: Some(3),
        ..Vit::default()
    }
}

#[test]
fn every_boundary_agrees_with_timm() {
    let golden = golden();
    let init = Init::empty(&Device::flex());
    let backbone = Plug::new(tiny().build(&init).unwrap());
    let file = WeightsFile::open(&golden.folder().join("weights.safetensors")).unwrap();
    let (backbone, head) = load_backbone(backbone, &file).unwrap();
    let head = LinearHead::from_checkpoint(head.unwrap(), init.device());

    let mut x = Activation::Map(Tensor::from_data(
        golden.io["images"].clone(),
        init.device(),
    ));
    let names = [
        "embed", "block.0", "block.1", "block.2", "block.3", "features",
    ];
    for (cut, name) in names.iter().enumerate() {
        x = backbone.forward(x, cut..cut + 1, &Hooks::none());
        assert_close(name, &x.to_vec(), &golden.values(name), 1e-5, None);
        if let Some(boundary) = backbone.spec().boundaries.get(cut + 1) {
            assert_eq!(
                boundary.shape.elements() * 2,
                x.to_vec().len(),
                "{boundary}"
            );
        }
    }
    let logits = Activation::Features(head.forward(x.features().unwrap()));
    assert_close(
        "logits",
        &logits.to_vec(),
        &golden.values("logits"),
        1e-5,
        None,
    );
}

#[test]
fn a_checkpoint_of_another_width_is_refused_with_both_sets() {
    let file = WeightsFile::open(&golden().folder().join("weights.safetensors")).unwrap();
    let wide = Vit {
        embed_dim: Some(96),
        depth: Some(5),
        ..tiny()
    };
    let backbone = Plug::new(wide.build(&Init::empty(&Device::flex())).unwrap());
    let error = load_backbone(backbone, &file).unwrap_err().to_string();
    for part in [
        "12 parameters that nothing fills: blocks.4.attn.proj.bias",
        "blocks.0.attn.proj.bias: expected [96], got [48]",
    ] {
        assert!(error.contains(part), "{error}");
    }
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
        img_size: Some(30),
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
}
