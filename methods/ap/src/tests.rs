//! Golden values made with timm, the conformance suite, and refusals.

use burn::module::Param;
use burn::tensor::{Device, TensorData};
use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::activation::Activation;
use peft_core::backbone::{BackboneConfig, Init};
use peft_core::hooks::BoundaryAct;
use peft_core::layers::BoundaryTensor;
use peft_core::method::{AdaptationMethod, Adapter};
use peft_core::params::floats;
use peft_core::plug::Boundary;
use peft_testing::{Golden, Verdict, built, conforms, resnet, tiny_backbones, vit};

use crate::{Ap, ApAdapter, AtBoundary, Kind, Prompt};

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

/// At the input of `blocks.2`, on every token but the class token.
fn patches_only(kind: Kind) -> Ap {
    Ap {
        boundaries: vec![3],
        kind,
        class_token: Some(false),
        ..Ap::default()
    }
}

#[test]
fn a_prompt_without_the_class_token_leaves_its_position_alone() {
    let backbone = built(&*vit());
    // Four by four patches of width 48, and the class token.
    assert_eq!(
        patches_only(Kind::Additive).formula(&*backbone).unwrap(),
        16 * 48
    );
    for (kind, neutral) in [(Kind::Additive, 0.0), (Kind::Product, 1.0)] {
        let values: Vec<f32> = (0..6).map(|i| i as f32 + 2.0).collect();
        let data = TensorData::new(values.clone(), [3, 2]);
        let prompt = BoundaryTensor::Tokens(Param::from_data(data, &Device::flex()));
        let adapter = ApAdapter {
            prompts: [(
                Boundary(3),
                AtBoundary {
                    prompt: Prompt::Tensor(prompt),
                },
            )]
            .into_iter()
            .collect(),
            kind,
            covers_class: false,
        };
        let (Some(BoundaryAct::Add(Activation::Tokens(whole)))
        | Some(BoundaryAct::Multiply(Activation::Tokens(whole)))) = adapter.at_boundary(3)
        else {
            panic!("{kind:?} acts on tokens");
        };
        assert_eq!(whole.x.dims(), [1, 4, 2]);
        let expected = [vec![neutral; 2], values].concat();
        assert_eq!(floats(whole.x.into_data()), expected, "{kind:?}");
    }
}

#[test]
fn a_prompt_without_the_class_token_conforms_where_there_is_one() {
    // Behind the last block only the class token is read, and nothing else would train.
    let early = |kind| Ap {
        boundaries: vec![1],
        ..patches_only(kind)
    };
    let verdicts = conforms(&[
        Box::new(early(Kind::Additive)),
        Box::new(early(Kind::Product)),
    ]);
    let mut fits = 0;
    for verdict in &verdicts {
        match verdict {
            Verdict::Refused(reason) => {
                assert!(reason.contains("has no class token"), "{reason}");
            }
            _ => fits += 1,
        }
    }
    assert!(0 < fits && fits < verdicts.len(), "{fits}");
}

#[test]
fn a_class_token_that_is_not_there_cannot_be_left_out() {
    let error = |method: Ap, config: &dyn BackboneConfig| {
        let backbone = built(config);
        method.formula(&*backbone).unwrap_err().to_string()
    };
    let map = error(patches_only(Kind::Additive), &*resnet());
    assert!(
        map.contains("boundary 3 (input of layer2.1) has no class token"),
        "{map}"
    );
    let image = Ap {
        boundaries: vec![0],
        ..patches_only(Kind::Additive)
    };
    let image = error(image, &*vit());
    assert!(
        image.contains("boundary 0 (normalised image) has no class token"),
        "{image}"
    );
    let shared = Ap {
        shared: true,
        ..patches_only(Kind::Additive)
    };
    assert!(error(shared, &*vit()).starts_with("class_token: expected true"));
    assert!(error(patches_only(Kind::Concat), &*vit()).starts_with("class_token: "));
}

#[test]
fn every_kind_conforms() {
    let ap = |kind, shared, first, boundaries: &[i64]| -> Box<dyn AdaptationMethod> {
        Box::new(Ap {
            kind,
            shared,
            first,
            boundaries: boundaries.to_vec(),
            ..Ap::default()
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
    // A prompt folds into the position embedding of every ViT that has one; if it is shared, into a bias of them,
    // of both CLIPs and ConvNeXts, of the Swin Transformer that has no downsampling there, and of the one
    // whose downsampling ends with a norm.
    let merged: Vec<usize> = verdicts
        .chunks(verdicts.len() / 6)
        .map(|backbones| {
            let merges = |v: &&Verdict| matches!(v, Verdict::Conforms { merges: Ok(()) });
            backbones.iter().filter(merges).count()
        })
        .collect();
    assert_eq!(merged, [0, 6, 13, 0, 0, 0]);
    let refused = verdicts.iter().filter(|v| matches!(v, Verdict::Refused(_)));
    let backbones = tiny_backbones();
    let maps = backbones
        .iter()
        .map(|(_, backbone)| backbone.typetag_name());
    let maps = maps.filter(|name| matches!(*name, "resnet" | "swin" | "convnext"));
    assert_eq!(refused.count(), maps.count(), "concat on maps and grids");
}
