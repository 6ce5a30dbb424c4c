//! Golden values made with HF PEFT, its folders, the conformance suite, sizes and refusals.

use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::method::AdaptationMethod;
use peft_core::site::Targets;
use peft_full_finetune as _;
use peft_testing::{Golden, Verdict, built, check_folder, conforms, refusal, resnet, theirs, vit};
use serde_json::json;

use crate::Lokr;
use crate::config::split;

fn lokr(targets: &[&str]) -> Lokr {
    let targets = targets.iter().map(|target| (*target).to_owned());
    Lokr {
        rank: 2,
        decompose_both: true,
        targets: Some(Targets::Suffixes(targets.collect())),
        ..Lokr::default()
    }
}

fn convolutions(pattern: &str) -> Lokr {
    Lokr {
        rank: 4,
        alpha: Some(1.0),
        decompose_factor: Some(4),
        targets: Some(Targets::Regex(pattern.to_owned())),
        ..Lokr::default()
    }
}

#[test]
fn linear_layers_and_convolutions_agree_with_hf_peft() {
    let golden = Golden::fixture("peft/lokr");
    golden.check_training(
        &*vit(),
        Box::new(lokr(&["qkv", "fc1"])),
        theirs("lokr", "head"),
    );
    let method = convolutions(r"conv1|layer[12]\.\d\.conv[12]|layer3\.0\.conv2");
    let golden = Golden::fixture("peft/lokr_conv");
    golden.check_training(&*resnet(), Box::new(method), theirs("lokr", "fc"));
}

#[test]
fn folders_of_hf_peft_are_read_and_written() {
    check_folder("lokr", &*vit());
    check_folder("lokr_resnet", &*resnet());
    let factor = refusal("lokr", &*vit(), "decompose_factor", json!(0));
    let expected = "adapter_config.json: decompose_factor: expected -1 or at least 1, got 0";
    assert_eq!(factor, expected);
    let kernel = refusal("lokr", &*vit(), "use_effective_conv2d", json!(true));
    assert_eq!(
        kernel,
        "adapter_config.json: use_effective_conv2d: true is not supported"
    );
}

#[test]
fn it_conforms_and_merges() {
    let methods: [Box<dyn AdaptationMethod>; 3] = [
        Box::new(Lokr::default()),
        Box::new(lokr(&["proj"])),
        Box::new(convolutions(r".*\.(query|fc2|conv\d)")),
    ];
    for verdict in conforms(&methods) {
        let fits = match &verdict {
            Verdict::Conforms { merges } => merges.is_ok(),
            Verdict::Refused(reason) => reason.contains("matches no site"),
        };
        assert!(fits, "{verdict:?}");
    }
}

#[test]
fn sizes_are_split_as_in_hf_peft() {
    let cases = [
        (128, None, [8, 16]),
        (127, None, [1, 127]),
        (256, None, [16, 16]),
        (128, Some(4), [4, 32]),
        (48, Some(5), [4, 12]),
        (48, Some(24), [24, 2]),
    ];
    for (size, factor, expected) in cases {
        assert_eq!(split(size, factor), expected, "{size} {factor:?}");
    }
}

#[test]
fn the_formula_counts_whole_factors_and_products() {
    let backbone = built(&*vit());
    // 144 = 12 * 12 and 48 = 6 * 8; both factors are products of rank 2.
    let both = lokr(&["qkv"]).formula(&*backbone).unwrap();
    assert_eq!(both, 4 * 2 * ((12 + 6) + (12 + 8)));
    let whole = Lokr {
        rank: 6,
        ..lokr(&["qkv"])
    };
    assert_eq!(whole.formula(&*backbone).unwrap(), 4 * (12 * 6 + 12 * 8));
}

#[test]
fn bad_values_are_refused_by_field() {
    let backbone = built(&*vit());
    let error = |method: Lokr| method.formula(&*backbone).unwrap_err().to_string();
    let rank = Lokr {
        rank: 0,
        ..Lokr::default()
    };
    assert_eq!(error(rank), "rank: expected at least 1, got 0");
    let factor = Lokr {
        decompose_factor: Some(0),
        ..Lokr::default()
    };
    assert_eq!(
        error(factor),
        "decompose_factor: expected at least 1, got 0"
    );
    assert!(error(lokr(&["norm1"])).contains("blocks.0.norm1 is a norm 48"));
}
