//! Golden values made with HF PEFT, and what is refused.

use burn::tensor::Device;
use peft_backbone_resnet::{BlockKind, ResNet};
use peft_backbone_vit::Vit;
use peft_core::backbone::{Backbone, BackboneConfig, Init};
use peft_core::method::AdaptationMethod;
use peft_core::site::Targets;
use peft_core::testing::Golden;

use crate::Lora;

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

fn resnet() -> ResNet {
    ResNet {
        img_size: Some(64),
        block: Some(BlockKind::Bottleneck),
        layers: Some([1, 2, 1, 1]),
        channels: Some([8, 16, 32, 64]),
        ..ResNet::default()
    }
}

fn lora(targets: &[&str]) -> Lora {
    Lora {
        rank: 4,
        alpha: Some(8.0),
        targets: Some(Targets::Suffixes(
            targets.iter().map(|t| (*t).into()).collect(),
        )),
        ..Lora::default()
    }
}

fn built(config: &dyn BackboneConfig) -> Box<dyn Backbone> {
    config.build(&Init::empty(&Device::flex())).unwrap()
}

fn check(name: &str, targets: &[&str]) {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/peft/");
    let rename = |name: &str| format!("base_model.model.{}", name.trim_start_matches("lora."));
    let method = Box::new(lora(targets));
    Golden::open(format!("{fixtures}{name}")).check_training(&vit(), method, rename);
}

#[test]
fn the_fused_qkv_agrees_with_hf_peft() {
    check("lora_qkv", &["qkv"]);
}

#[test]
fn every_linear_and_the_patch_embedding_agree_with_hf_peft() {
    check("lora_all", &["qkv", "proj", "fc1", "fc2"]);
}

#[test]
fn slices_of_a_fused_projection_count_their_own_rows() {
    let backbone = built(&vit());
    let count = |targets: &[&str]| lora(targets).formula(&*backbone).unwrap();
    assert_eq!(count(&["qkv"]), 4 * 4 * (48 + 144));
    assert_eq!(count(&["query", "value"]), 4 * 4 * 2 * (48 + 48));
}

#[test]
fn the_default_on_a_resnet_is_every_convolution() {
    let backbone = built(&resnet());
    let picked = Lora::default();
    let picked = picked.picked(&*backbone).unwrap();
    assert_eq!(picked.len(), 1 + 5 * 3 + 4);
    assert!(
        Lora::default()
            .attach(&*backbone, &Init::seeded(&Device::flex(), 0))
            .is_ok()
    );
}

#[test]
fn bad_values_are_refused_by_field() {
    let backbone = built(&vit());
    let error = |method: Lora| method.formula(&*backbone).unwrap_err().to_string();
    let rank = Lora {
        rank: 0,
        ..Lora::default()
    };
    assert_eq!(error(rank), "rank: expected at least 1, got 0");
    let dropout = Lora {
        dropout: 1.0,
        ..Lora::default()
    };
    assert_eq!(
        error(dropout),
        "dropout: expected at least 0 and less than 1, got 1"
    );
    assert!(error(lora(&["norm1"])).contains("blocks.0.norm1 is a norm 48"));
    assert!(error(lora(&["conv1"])).contains("\"conv1\" matches no site"));
}
