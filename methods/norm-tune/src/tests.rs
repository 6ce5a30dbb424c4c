//! Golden values made with timm and torchvision, the conformance suite, and refusals.

use burn::tensor::{Device, TensorData};
use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::backbone::Init;
use peft_core::layout::Layout;
use peft_core::method::{AdaptationMethod, Statistics};
use peft_core::params::{self, Tensors};
use peft_core::site::Targets;
use peft_testing::{FIXTURES, Golden, built, check_hf_peft, conforms, resnet, vit};

use crate::{NormTune, Part};

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
        Box::new(NormTune {
            parts: vec![Part::Weight],
            ..running()
        }),
    ]);
}

#[test]
fn one_part_is_half_of_the_count_and_alone_in_the_gradient() {
    let backbone = built(&*vit());
    let of = |parts: &[Part]| NormTune {
        parts: parts.to_vec(),
        ..NormTune::default()
    };
    let scales = of(&[Part::Weight]);
    assert_eq!(scales.formula(&*backbone).unwrap(), (2 * 4 + 1) * 48);
    let attached = scales
        .attach(&*backbone, &Init::empty(&Device::flex()))
        .unwrap();
    let names = attached.tuned.names;
    assert!(names.iter().all(|name| name.ends_with(".weight")));
    assert_eq!(names.len(), 2 * 4 + 1);
    for parts in [&[][..], &[Part::Bias, Part::Bias]] {
        let error = of(parts).formula(&*backbone).unwrap_err().to_string();
        assert_eq!(error, "parts: expected weight, bias, or both, each once");
    }
    let written = |method: &NormTune| serde_json::to_string(method).unwrap();
    assert_eq!(written(&NormTune::default()), r#"{"statistics":"batch"}"#);
    assert_eq!(
        written(&scales),
        r#"{"parts":["weight"],"statistics":"batch"}"#
    );
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

#[test]
fn scales_alone_are_exported_with_the_frozen_offsets() {
    let backbone = built(&*vit());
    let scales = NormTune {
        sites: Some(Targets::Suffixes(vec!["blocks.0.norm1".to_owned()])),
        parts: vec![Part::Weight],
        ..NormTune::default()
    };
    let trained = TensorData::new(vec![2.0f32; 48], [48]);
    let name = "backbone.blocks.0.norm1.weight".to_owned();
    let layout = Layout::canonical("head");
    let values = Tensors::from([(name, trained.clone())]);
    let folder = crate::write(&scales, &*backbone, &layout, &values).unwrap();
    let part = |part: &str| &folder.tensors[&format!("blocks.0.norm1.ln_tuning_layers.{part}")];
    assert_eq!(*part("weight"), trained);
    let frozen = params::value(&*backbone, "blocks.0.norm1.bias").unwrap();
    assert_eq!(*part("bias"), frozen);
}
