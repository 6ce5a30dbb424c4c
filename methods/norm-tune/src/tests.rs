//! Golden values made with timm and torchvision, the conformance suite, and refusals.

use peft_backbone_clip as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::method::{AdaptationMethod, Statistics};
use peft_core::site::Targets;
use peft_testing::{FIXTURES, Golden, built, check_hf_peft, conforms, resnet, vit};

use crate::NormTune;

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

fn rename(name: &str) -> String {
    name.trim_start_matches("backbone.").to_owned()
}

#[test]
fn the_norms_of_a_vit_agree_with_timm() {
    Golden::fixture("peft/ln_tune").check_training(&*vit(), Box::new(NormTune::default()), rename);
}

#[test]
fn the_norms_of_a_resnet_agree_with_torchvision() {
    let rename = |name: &str| rename(name).replace("head.", "fc.");
    Golden::fixture("peft/resnet_bn_tune_eval").check_training(
        &*resnet(),
        Box::new(running()),
        rename,
    );
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
fn sites_select_some_of_the_norms() {
    let backbone = built(&*vit());
    let count = |method: NormTune| method.formula(&*backbone).unwrap();
    assert_eq!(count(NormTune::default()), (4 * 4 + 2) * 48);
    assert_eq!(count(of(r"blocks\.\d\.norm2")), 4 * 2 * 48);
}

#[test]
fn a_target_that_is_not_a_norm_is_refused() {
    let backbone = built(&*vit());
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
    let folder = format!("{FIXTURES}/hf_peft/ln_tuning");
    check_hf_peft(&folder, &format!("{FIXTURES}/vit_tiny"), &*vit());
}
