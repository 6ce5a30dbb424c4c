//! Golden values made with timm, the conformance suite, and refusals.

use burn::tensor::Device;
use peft_backbone_clip as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::backbone::{BackboneConfig, Init};
use peft_core::method::AdaptationMethod;
use peft_testing::{Golden, Verdict, built, conforms, resnet, tiny_backbones, vit};

use crate::{Ap, Kind};

#[test]
fn a_prompt_at_block_2_of_a_vit_agrees_with_timm() {
    let method = Ap {
        boundaries: vec![3],
        ..Ap::default()
    };
    let rename = |name: &str| name.replace("ap.boundary.3.", "");
    Golden::fixture("peft/ap_block2").check_training(&*vit(), Box::new(method), rename);
}

#[test]
fn a_prompt_at_the_last_block_of_a_resnet_agrees_with_timm() {
    let method = Ap {
        boundaries: vec![-1],
        ..Ap::default()
    };
    let rename = |name: &str| name.replace("ap.boundary.5.", "").replace("head.", "fc.");
    Golden::fixture("peft/resnet_ap_layer4").check_training(&*resnet(), Box::new(method), rename);
}

#[test]
fn every_other_kind_agrees_with_torch() {
    let at_block_2 = Ap {
        boundaries: vec![3],
        ..Ap::default()
    };
    let product = Ap {
        kind: Kind::Product,
        ..at_block_2.clone()
    };
    let shared = Ap {
        shared: true,
        ..at_block_2.clone()
    };
    let concat = Ap {
        kind: Kind::Concat,
        length: Some(5),
        ..at_block_2
    };
    for (name, method) in [
        ("ap_product", product),
        ("ap_shared", shared),
        ("ap_concat", concat),
    ] {
        let rename = |name: &str| name.replace("ap.boundary.3.", "");
        Golden::fixture(&format!("peft/{name}")).check_training(&*vit(), Box::new(method), rename);
    }
}

#[test]
fn the_default_is_the_papers_placement() {
    let place = |config: &dyn BackboneConfig| {
        let backbone = config.build(&Init::empty(&Device::flex())).unwrap();
        Ap::default().places(&*backbone).unwrap()[0].to_string()
    };
    assert_eq!(place(&*vit()), "boundary 3 (input of blocks.2)");
    assert_eq!(place(&*resnet()), "boundary 3 (input of layer2.1)");
}

#[test]
fn a_boundary_that_does_not_exist_or_is_named_twice_is_refused() {
    let backbone = built(&*vit());
    let error = |boundaries: &[i64]| {
        let method = Ap {
            boundaries: boundaries.to_vec(),
            ..Ap::default()
        };
        method.formula(&*backbone).unwrap_err().to_string()
    };
    assert!(error(&[6]).contains("expected 0..=5"));
    assert!(error(&[-1, 4]).contains("boundary 4 (input of blocks.3) is named twice"));
}

#[test]
fn exclusive_options_are_refused_by_field() {
    let backbone = built(&*vit());
    let error = |method: Ap| method.formula(&*backbone).unwrap_err().to_string();
    let concat = Ap {
        kind: Kind::Concat,
        ..Ap::default()
    };
    let zero = Ap {
        length: Some(0),
        ..concat.clone()
    };
    assert_eq!(error(zero), "length: expected at least 1, got 0");
    let shared = Ap {
        shared: true,
        ..concat.clone()
    };
    assert!(error(shared).starts_with("shared: "));
    let length = Ap {
        length: Some(3),
        ..Ap::default()
    };
    assert!(error(length).starts_with("length: "));
    let both = Ap {
        first: Some(2),
        boundaries: vec![1],
        ..Ap::default()
    };
    assert!(error(both).starts_with("first: "));
    let many = Ap {
        first: Some(5),
        ..Ap::default()
    };
    assert_eq!(error(many), "first: expected 1 to 4 (the blocks), got 5");
    let late = Ap {
        boundaries: vec![5],
        ..concat
    };
    assert!(error(late).contains("no block follows that could read tokens at boundary 5"));
}

#[test]
fn every_kind_conforms() {
    let ap = |kind, shared, first, boundaries: &[i64]| -> Box<dyn AdaptationMethod> {
        Box::new(Ap {
            kind,
            shared,
            first,
            boundaries: boundaries.to_vec(),
            length: None,
        })
    };
    let verdicts = conforms(&[
        ap(Kind::Additive, false, None, &[]),
        ap(Kind::Additive, false, None, &[0, 1]),
        ap(Kind::Additive, true, None, &[-1, -2]),
        ap(Kind::Product, false, Some(2), &[]),
        ap(Kind::Product, true, None, &[1]),
        ap(Kind::Concat, false, None, &[1, 2]),
    ]);
    // A prompt folds into the position embedding of every ViT; if it is shared, into a bias of them,
    // of both CLIPs and of the Swin Transformer that has no downsampling there.
    let merged: Vec<usize> = verdicts
        .chunks(verdicts.len() / 6)
        .map(|backbones| {
            let merges = |v: &&Verdict| matches!(v, Verdict::Conforms { merges: Ok(()) });
            backbones.iter().filter(merges).count()
        })
        .collect();
    assert_eq!(merged, [0, 3, 6, 0, 0, 0]);
    let refused = verdicts.iter().filter(|v| matches!(v, Verdict::Refused(_)));
    let backbones = tiny_backbones();
    let maps = backbones
        .iter()
        .map(|(_, backbone)| backbone.typetag_name());
    let maps = maps.filter(|name| matches!(*name, "resnet" | "swin"));
    assert_eq!(refused.count(), maps.count(), "concat on maps and grids");
}
