//! Golden values made with timm, and what is refused.

use burn::tensor::Device;
use peft_backbone_resnet::{BlockKind, ResNet};
use peft_backbone_vit::Vit;
use peft_core::backbone::{BackboneConfig, Init};
use peft_core::method::AdaptationMethod;
use peft_core::testing::Golden;

use crate::Ap;

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

fn golden(name: &str) -> Golden {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/peft/");
    Golden::open(format!("{fixtures}{name}"))
}

#[test]
fn a_prompt_at_block_2_of_a_vit_agrees_with_timm() {
    let method = Ap {
        boundaries: vec![3],
    };
    let rename = |name: &str| name.replace("ap.boundary.3.", "");
    golden("ap_block2").check_training(&vit(), Box::new(method), rename);
}

#[test]
fn a_prompt_at_the_last_block_of_a_resnet_agrees_with_timm() {
    let method = Ap {
        boundaries: vec![-1],
    };
    let rename = |name: &str| name.replace("ap.boundary.5.", "").replace("head.", "fc.");
    golden("resnet_ap_layer4").check_training(&resnet(), Box::new(method), rename);
}

#[test]
fn the_default_is_the_papers_placement() {
    let place = |config: &dyn BackboneConfig| {
        let backbone = config.build(&Init::empty(&Device::flex())).unwrap();
        Ap::default().places(&*backbone).unwrap()[0].to_string()
    };
    assert_eq!(place(&vit()), "boundary 3 (input of blocks.2)");
    assert_eq!(place(&resnet()), "boundary 3 (input of layer2.1)");
}

#[test]
fn a_boundary_that_does_not_exist_or_is_named_twice_is_refused() {
    let backbone = vit().build(&Init::empty(&Device::flex())).unwrap();
    let error = |boundaries: &[i64]| {
        let method = Ap {
            boundaries: boundaries.to_vec(),
        };
        method.formula(&*backbone).unwrap_err().to_string()
    };
    assert!(error(&[6]).contains("expected 0..=5"));
    assert!(error(&[-1, 4]).contains("boundary 4 (input of blocks.3) is named twice"));
}
