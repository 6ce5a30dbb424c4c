//! Golden values made with timm, the conformance suite, learning rates by block, and what is refused.

use burn::tensor::Device;
use peft_backbone_clip as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit::Vit;
use peft_core::backbone::{Backbone, BackboneConfig, Init};
use peft_core::method::{AdaptationMethod, Statistics};
use peft_core::testing::{Golden, conforms};
use peft_core::{LinearHead, Model, Plug};

use crate::FullFinetune;

fn vit() -> Vit {
    Vit {
        img_size: Some(32),
        patch_size: Some(8),
        embed_dim: Some(48),
        depth: Some(4),
        num_heads: Some(3),
        ..Vit::default()
    }
}

fn built() -> Box<dyn Backbone> {
    vit().build(&Init::empty(&Device::flex())).unwrap()
}

fn with_decay(decay: f64) -> FullFinetune {
    FullFinetune {
        layer_decay: Some(decay),
        ..FullFinetune::default()
    }
}

#[test]
fn training_agrees_with_timm() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/peft/full");
    let rename = |name: &str| name.trim_start_matches("backbone.").to_owned();
    Golden::open(folder).check_training(&vit(), Box::new(FullFinetune::default()), rename);
}

#[test]
fn with_and_without_decay_it_conforms() {
    conforms(&[
        Box::new(FullFinetune::default()),
        Box::new(FullFinetune {
            statistics: Statistics::Running,
            ..with_decay(0.5)
        }),
    ]);
}

#[test]
fn the_deeper_a_block_the_faster_it_learns() {
    let init = Init::empty(&Device::flex());
    let model = |method: FullFinetune| {
        let head = LinearHead::new(48, 7, &init);
        Model::assemble(Plug::new(built()), &[Box::new(method)], head, &init).unwrap()
    };
    let decayed = model(with_decay(0.5));
    for (name, rate) in [
        ("backbone.cls_token", 0.5f64.powi(5)),
        ("backbone.pos_embed", 0.5f64.powi(5)),
        ("backbone.patch_embed.proj.weight", 0.5f64.powi(5)),
        ("backbone.blocks.0.norm1.bias", 0.5f64.powi(4)),
        ("backbone.blocks.3.mlp.fc2.weight", 0.5),
        ("backbone.norm.weight", 1.0),
        ("head.weight", 1.0),
    ] {
        assert_eq!(decayed.rate(name), rate, "{name}");
        assert_eq!(model(with_decay(1.0)).rate(name), 1.0, "{name}");
        assert_eq!(model(FullFinetune::default()).rate(name), 1.0, "{name}");
    }
}

#[test]
fn a_decay_out_of_range_is_refused() {
    for decay in [0.0, 1.5, f64::NAN] {
        let error = with_decay(decay)
            .formula(&*built())
            .unwrap_err()
            .to_string();
        let expected = format!("layer_decay: expected more than 0 and at most 1, got {decay}");
        assert_eq!(error, expected);
    }
}
