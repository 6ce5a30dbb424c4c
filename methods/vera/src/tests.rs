//! Golden values made with HF PEFT, its folders, the conformance suite, and refusals.

use std::path::Path;

use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::hf_peft::{self, HfPeft};
use peft_core::method::AdaptationMethod;
use peft_core::site::Targets;
use peft_full_finetune as _;
use peft_testing::{
    FIXTURES, Golden, Verdict, built, check_folder, conforms, refusal, theirs, vit,
};
use serde_json::json;

use crate::Vera;

fn vera(targets: &[&str]) -> Vera {
    let targets = targets.iter().map(|target| (*target).to_owned());
    Vera {
        rank: 16,
        seed: 5,
        targets: Some(Targets::Suffixes(targets.collect())),
        ..Vera::default()
    }
}

#[test]
fn layers_of_two_sizes_agree_with_hf_peft() {
    let golden = Golden::fixture("peft/vera");
    golden.check_training(
        &*vit(),
        Box::new(vera(&["qkv", "fc1"])),
        theirs("vera", "head"),
    );
}

#[test]
fn folders_of_hf_peft_are_read_and_written() {
    check_folder("vera", &*vit());
    let dropout = refusal("vera", &*vit(), "vera_dropout", json!(0.1));
    assert_eq!(
        dropout,
        "adapter_config.json: vera_dropout: 0.1 is not supported"
    );
    let seed = refusal("vera", &*vit(), "projection_prng_key", json!(6));
    assert_eq!(
        seed,
        "adapter_model.safetensors: base_model.vera_A: expected the matrix [16, 192] that PyTorch draws for \
         projection_prng_key 6, got another"
    );
}

#[test]
fn a_folder_without_the_pair_gives_the_same_values() {
    let folder = Path::new(FIXTURES).join("hf_peft/vera_transformers");
    let base = Path::new(FIXTURES).join("vit_tiny");
    let [folder, base] = [folder, base].map(|path| path.display().to_string());
    // The logits in the folder are those with the pair that HF PEFT drew.
    let case = peft_testing::read_hf_peft(&folder, &base, &*vit());
    let own = peft_testing::exported(&folder, &case);
    assert!(own.tensors.contains_key("base_model.vera_A"));
    let written = tempfile::tempdir().unwrap();
    own.write(written.path()).unwrap();
    let again = HfPeft::read(written.path()).unwrap();
    assert!(again.tensors == own.tensors);
    assert!(hf_peft::import(again, &*built(&*vit())).is_ok());
}

#[test]
fn it_conforms_and_merges() {
    let everywhere = Vera {
        targets: Some(Targets::Regex(r".*\.(query|key|fc2|conv\d)".to_owned())),
        ..vera(&[])
    };
    for verdict in conforms(&[Box::new(Vera::default()), Box::new(everywhere)]) {
        assert!(
            matches!(verdict, Verdict::Conforms { merges: Ok(()) }),
            "{verdict:?}"
        );
    }
}

#[test]
fn the_formula_counts_both_vectors() {
    let backbone = built(&*vit());
    let count = |method: Vera| method.formula(&*backbone).unwrap();
    assert_eq!(count(Vera::default()), 4 * (144 + 256));
    assert_eq!(count(vera(&["key", "fc2"])), 4 * (2 * 48 + 2 * 16));
}

#[test]
fn bad_values_are_refused_by_field() {
    let backbone = built(&*vit());
    let error = |method: Vera| method.formula(&*backbone).unwrap_err().to_string();
    let rank = Vera {
        rank: 0,
        ..Vera::default()
    };
    assert_eq!(error(rank), "rank: expected at least 1, got 0");
    let start = Vera {
        d_initial: f64::INFINITY,
        ..Vera::default()
    };
    assert_eq!(error(start), "d_initial: expected a finite number, got inf");
    assert!(error(vera(&["norm1"])).contains("blocks.0.norm1 is a norm 48"));
}
