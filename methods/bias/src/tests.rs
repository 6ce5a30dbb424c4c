//! Golden values made with timm, the conformance suite, and refusals.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::backbone::Init;
use peft_core::method::{AdaptationMethod, Statistics};
use peft_core::{Activation, LinearHead, Model, Plug};
use peft_testing::{Golden, built, conforms, resnet, vit};

use crate::{Bias, Part};

fn of(parts: &[Part]) -> Bias {
    Bias {
        parts: parts.iter().copied().collect(),
        ..Bias::default()
    }
}

#[test]
fn every_bias_agrees_with_timm() {
    let rename = |name: &str| name.trim_start_matches("backbone.").to_owned();
    Golden::fixture("peft/bitfit").check_training(&*vit(), Box::new(Bias::default()), rename);
}

#[test]
fn all_and_some_conform() {
    conforms(&[
        Box::new(Bias::default()),
        Box::new(Bias {
            statistics: Statistics::Batch,
            ..Bias::default()
        }),
        Box::new(of(&[Part::Norm])),
        Box::new(of(&[Part::Attention, Part::Mlp])),
    ]);
}

#[test]
fn parts_are_counted_separately() {
    let backbone = built(&*vit());
    let count = |parts: &[Part]| of(parts).formula(&*backbone).unwrap();
    let (d, depth) = (48, 4);
    assert_eq!(count(&[]), (11 * depth + 2) * d);
    assert_eq!(count(&[Part::Attention]), 4 * d * depth);
    assert_eq!(count(&[Part::Mlp]), 5 * d * depth);
    // The norms of the blocks and the last one.
    assert_eq!(count(&[Part::Norm]), (2 * depth + 1) * d);
    // The bias of the patch embedding remains.
    let parts: usize = Part::ALL.iter().map(|part| count(&[*part])).sum();
    assert_eq!(count(&[]) - parts, d);
}

#[test]
fn a_part_without_a_bias_is_refused() {
    let backbone = built(&*resnet());
    let error = of(&[Part::Norm, Part::Attention])
        .formula(&*backbone)
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.ends_with("nothing in part attention has a bias; parts with a bias: norm"),
        "{error}"
    );
}

/// The bias of a BatchNorm is enough: its weight does not train here.
#[test]
fn batch_statistics_update_the_running_ones() {
    let init = Init::seeded(&Device::flex(), 0);
    let backbone = Plug::new(resnet().build(&init).unwrap());
    let head = LinearHead::new(backbone.spec().features, 3, &init);
    let method = Bias {
        statistics: Statistics::Batch,
        ..Bias::default()
    };
    let model = Model::assemble(backbone, &[Box::new(method)], head, &init).unwrap();
    let model = model.train();
    let step = model.step(0, 0, 0);
    let images = Tensor::<4>::ones([2, 3, 64, 64], init.device());
    model.logits(Activation::Map(images).into_autodiff(), 0, Some(&step));
    assert!(!step.into_updates().is_empty());
}
