//! Golden values made with HF PEFT, its folders, the conformance suite, and refusals.

use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::method::AdaptationMethod;
use peft_core::site::Targets;
use peft_full_finetune as _;
use peft_testing::{Golden, Verdict, built, check_folder, conforms, refusal, theirs, vit};
use serde_json::json;

use crate::{Fourierft, Start};

fn fourierft(targets: &[&str]) -> Fourierft {
    let targets = targets.iter().map(|target| (*target).to_owned());
    Fourierft {
        frequencies: 200,
        targets: Some(Targets::Suffixes(targets.collect())),
        ..Fourierft::default()
    }
}

#[test]
fn layers_of_two_sizes_agree_with_hf_peft() {
    let method = Box::new(fourierft(&["qkv", "fc2"]));
    let golden = Golden::fixture("peft/fourierft");
    golden.check_training(&*vit(), method, theirs("fourierft", "head"));
}

#[test]
fn folders_of_hf_peft_are_read_and_written() {
    check_folder("fourierft", &*vit());
    let pattern = refusal(
        "fourierft",
        &*vit(),
        "n_frequency_pattern",
        json!({"fc1": 50}),
    );
    let expected = "adapter_config.json: n_frequency_pattern: {\"fc1\":50} is not supported";
    assert_eq!(pattern, expected);
}

#[test]
fn it_conforms_and_merges() {
    let drawn = Fourierft {
        frequencies: 20,
        init: Start::Normal,
        targets: Some(Targets::Regex(r".*\.(key|fc1|conv\d)".to_owned())),
        ..fourierft(&[])
    };
    for verdict in conforms(&[Box::new(Fourierft::default()), Box::new(drawn)]) {
        let fits = match &verdict {
            Verdict::Conforms { merges } => merges.is_ok(),
            Verdict::Refused(reason) => reason.contains("expected at least the 1000 frequencies"),
        };
        assert!(fits, "{verdict:?}");
    }
}

#[test]
fn the_formula_counts_the_frequencies() {
    let backbone = built(&*vit());
    let count = |method: Fourierft| method.formula(&*backbone).unwrap();
    assert_eq!(count(Fourierft::default()), 4 * 1000);
    assert_eq!(count(fourierft(&["key", "fc2"])), 4 * 2 * 200);
}

#[test]
fn bad_values_are_refused_by_field_and_small_weights_by_name() {
    let backbone = built(&*vit());
    let error = |method: Fourierft| method.formula(&*backbone).unwrap_err().to_string();
    let none = Fourierft {
        frequencies: 0,
        ..Fourierft::default()
    };
    assert_eq!(error(none), "frequencies: expected at least 1, got 0");
    let scaling = Fourierft {
        scaling: f64::NAN,
        ..Fourierft::default()
    };
    assert_eq!(error(scaling), "scaling: expected a finite number, got NaN");
    let many = Fourierft {
        frequencies: 3000,
        ..fourierft(&["query"])
    };
    let expected = "blocks.0.attn.query has 2304 weights; expected at least the 3000 frequencies";
    assert!(error(many).contains(expected));
}
