//! Golden values made with timm, the conformance suite, learning rates by block, and refusals.

use burn::tensor::Device;
use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::backbone::Init;
use peft_core::method::{AdaptationMethod, Selection, Statistics};
use peft_core::site::Targets;
use peft_core::{LinearHead, Model, Plug};
use peft_testing::{Golden, built, conforms, vit};

use crate::FullFinetune;

fn with_decay(decay: f64) -> FullFinetune {
    FullFinetune {
        layer_decay: Some(decay),
        ..FullFinetune::default()
    }
}

#[test]
fn training_agrees_with_timm() {
    let rename = |name: &str| name.trim_start_matches("backbone.").to_owned();
    Golden::fixture("peft/full").check_training(&*vit(), Box::new(FullFinetune::default()), rename);
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
        Model::assemble(Plug::new(built(&*vit())), &[Box::new(method)], head, &init).unwrap()
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
            .formula(&*built(&*vit()))
            .unwrap_err()
            .to_string();
        let expected = format!("layer_decay: expected more than 0 and at most 1, got {decay}");
        assert_eq!(error, expected);
    }
}

fn chosen(parameters: Targets) -> FullFinetune {
    FullFinetune {
        parameters: Some(parameters),
        ..FullFinetune::default()
    }
}

#[test]
fn chosen_parameters_train_and_the_others_do_not() {
    let backbone = built(&*vit());
    let list = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned());
        chosen(Targets::Suffixes(names.collect()))
    };
    for (method, count) in [
        (list(&["norm.weight", "cls_token"]), 2 * 48),
        (list(&["qkv.bias"]), 4 * 144),
        (
            chosen(Targets::Regex(r"blocks\.[02]\.norm1\..*".into())),
            4 * 48,
        ),
    ] {
        assert_eq!(method.formula(&*backbone).unwrap(), count, "{method:?}");
    }
    let error = |method: FullFinetune| method.formula(&*backbone).unwrap_err().to_string();
    let misspelt = error(list(&["norm.weight", "norm.wait"]));
    assert!(
        misspelt.starts_with("parameters: \"norm.wait\" matches no parameter of vit"),
        "{misspelt}"
    );
    assert_eq!(error(list(&[])), "parameters: expected at least one name");
    conforms(&[Box::new(chosen(Targets::Regex(
        ".*(bias|cls_token)".into(),
    )))]);
}

#[test]
fn a_selection_is_counted_and_refused_beside_other_tuning() {
    let select = |fraction, batches| FullFinetune {
        select: Some(Selection { fraction, batches }),
        ..chosen(Targets::Suffixes(vec!["qkv.bias".to_owned()]))
    };
    let backbone = built(&*vit());
    let formula = |method: FullFinetune| method.formula(&*backbone);
    assert_eq!(formula(select(0.25, 1)).unwrap(), 144);
    assert_eq!(formula(select(1e-9, 1)).unwrap(), 1);
    assert_eq!(formula(select(1.0, 1)).unwrap(), 4 * 144);
    for (method, expected) in [
        (
            select(0.0, 1),
            "select.fraction: expected more than 0 and at most 1, got 0",
        ),
        (
            select(1.5, 1),
            "select.fraction: expected more than 0 and at most 1, got 1.5",
        ),
        (select(0.5, 0), "select.batches: expected at least 1, got 0"),
    ] {
        assert_eq!(formula(method).unwrap_err().to_string(), expected);
    }
    let assemble = |methods: &[FullFinetune]| {
        let init = Init::empty(&Device::flex());
        let methods = methods.iter().cloned();
        let methods: Vec<Box<dyn AdaptationMethod>> =
            methods.map(|method| Box::new(method) as _).collect();
        let head = LinearHead::new(48, 7, &init);
        Model::assemble(Plug::new(built(&*vit())), &methods, head, &init)
    };
    let counts = assemble(&[select(0.25, 1)]).unwrap().counts();
    assert_eq!((counts.tuned, counts.trainable), (144, 144 + 49 * 7));
    let other = chosen(Targets::Suffixes(vec!["norm.weight".to_owned()]));
    let error = assemble(&[select(0.25, 1), other]).unwrap_err().to_string();
    assert!(
        error.contains("selects entries by their gradients"),
        "{error}"
    );
}
