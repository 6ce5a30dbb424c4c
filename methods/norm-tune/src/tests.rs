//! Golden values made with timm and torchvision, the conformance suite, and what is refused.

use burn::tensor::Device;
use peft_backbone_clip as _;
use peft_backbone_resnet::{BlockKind, ResNet};
use peft_backbone_swin as _;
use peft_backbone_vit::Vit;
use peft_core::backbone::{BackboneConfig, Init};
use peft_core::method::{AdaptationMethod, Statistics};
use peft_core::site::Targets;
use peft_core::testing::{Golden, conforms};

use crate::NormTune;

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

fn of(sites: &str) -> NormTune {
    NormTune {
        sites: Some(Targets::Regex(sites.to_owned())),
        ..NormTune::default()
    }
}

fn running() -> NormTune {
    NormTune {
        statistics: Statistics::Running,
        ..NormTune::default()
    }
}

fn golden(name: &str) -> Golden {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/peft/");
    Golden::open(format!("{fixtures}{name}"))
}

fn rename(name: &str) -> String {
    name.trim_start_matches("backbone.").to_owned()
}

#[test]
fn the_norms_of_a_vit_agree_with_timm() {
    golden("ln_tune").check_training(&vit(), Box::new(NormTune::default()), rename);
}

#[test]
fn the_norms_of_a_resnet_agree_with_torchvision() {
    let rename = |name: &str| rename(name).replace("head.", "fc.");
    golden("resnet_bn_tune_eval").check_training(&resnet(), Box::new(running()), rename);
}

#[test]
fn both_statistics_and_some_sites_conform() {
    conforms(&[
        Box::new(NormTune::default()),
        Box::new(running()),
        Box::new(of(r".*(norm1|bn2)")),
    ]);
}

#[test]
fn sites_are_some_of_the_norms() {
    let backbone = vit().build(&Init::empty(&Device::flex())).unwrap();
    let count = |method: NormTune| method.formula(&*backbone).unwrap();
    assert_eq!(count(NormTune::default()), (4 * 4 + 2) * 48);
    assert_eq!(count(of(r"blocks\.\d\.norm2")), 4 * 2 * 48);
}

#[test]
fn a_target_that_is_no_norm_is_refused() {
    let backbone = vit().build(&Init::empty(&Device::flex())).unwrap();
    let error = |sites: &str| of(sites).formula(&*backbone).unwrap_err().to_string();
    let linear = error(r"blocks\.0\.(norm1|mlp\.fc1)");
    assert!(
        linear.contains("blocks.0.mlp.fc1 is a linear 48 -> 192; expected a norm"),
        "{linear}"
    );
    assert!(error("bn1").contains("\"bn1\" matches no site of"));
    assert!(error("(").starts_with("sites: "), "{}", error("("));
}

#[test]
fn folders_of_hf_peft_are_read_and_written() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures");
    let folder = format!("{fixtures}/hf_peft/ln_tuning");
    peft_core::testing::check_hf_peft(&folder, &format!("{fixtures}/vit_tiny"), &vit());
}
