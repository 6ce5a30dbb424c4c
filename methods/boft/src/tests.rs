//! Golden values made with HF PEFT, its folders, the conformance suite and refusals.

use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::hf_peft::HfPeft;
use peft_core::site::Targets;
use peft_full_finetune as _;
use peft_testing::{Golden, built, check_folder, conforms, refusal, resnet, theirs, vit};
use serde_json::json;

use super::*;

fn boft(size: usize, factors: usize, targets: &[&str]) -> Boft {
    let targets = targets.iter().map(|target| (*target).to_owned());
    Boft {
        block_size: Some(size),
        factors,
        targets: Some(Targets::Suffixes(targets.collect())),
        ..Boft::default()
    }
}

#[test]
fn butterflies_agree_with_hf_peft() {
    let golden = Golden::fixture("peft/boft");
    let method = boft(4, 3, &["qkv", "fc1"]);
    golden.check_training(&*vit(), Box::new(method), theirs("boft", "head"));
    let blocks = Boft {
        block_size: None,
        blocks: Some(12),
        targets: Some(Targets::Regex(r"layer[12]\.0\.conv2".to_owned())),
        ..boft(0, 2, &[])
    };
    let golden = Golden::fixture("peft/boft_conv");
    golden.check_training(&*resnet(), Box::new(blocks), theirs("boft", "fc"));
}

#[test]
fn folders_of_hf_peft_are_read_and_written() {
    check_folder("boft", &*vit());
    check_folder("boft_transformers", &*vit());
    let dropped = refusal("boft", &*vit(), "boft_dropout", json!(0.1));
    assert_eq!(
        dropped,
        "adapter_config.json: boft_dropout: 0.1 is not supported"
    );
}

#[test]
fn the_factors_are_those_of_the_file() {
    let folder = format!("{}/hf_peft/boft", peft_testing::FIXTURES);
    let mut given = HfPeft::read(std::path::Path::new(&folder)).unwrap();
    given
        .config
        .insert("boft_n_butterfly_factor".to_owned(), json!(1));
    let imported = peft_core::hf_peft::import(given, &*built(&*vit())).unwrap();
    assert_eq!(imported.methods[0]["factors"], 2);
    assert!(
        imported.remarks[0].contains("is 1, but the file has 2"),
        "{:?}",
        imported.remarks
    );
}

#[test]
fn it_conforms_and_merges() {
    let parts = Boft {
        targets: Some(Targets::Regex(r".*\.(query|fc1|conv1)".to_owned())),
        ..boft(4, 2, &[])
    };
    for verdict in conforms(&[Box::new(Boft::default()), Box::new(parts)]) {
        // The stem of a ResNet reads 147 values.
        assert!(verdict.merges_or_says(&["do not divide"]), "{verdict:?}");
    }
}

#[test]
fn the_formula_counts_blocks_and_scales() {
    let count = |method: Boft| method.formula(&*built(&*vit())).unwrap();
    assert_eq!(count(boft(8, 2, &["qkv"])), 4 * (2 * 8 * 48 + 144));
}

#[test]
fn bad_values_are_refused_by_field() {
    let error = |method: Boft| method.formula(&*built(&*vit())).unwrap_err().to_string();
    assert_eq!(
        error(boft(1, 1, &["qkv"])),
        "block_size: expected at least 2, got 1"
    );
    let both = Boft {
        blocks: Some(4),
        ..boft(4, 1, &["qkv"])
    };
    assert_eq!(
        error(both),
        "blocks: expected no value beside `block_size`, which says as much"
    );
    assert!(error(boft(8, 3, &["qkv"])).contains(
        "blocks.0.attn.qkv has 48 columns, which 3 factors of blocks of 8 do not divide"
    ));
}
