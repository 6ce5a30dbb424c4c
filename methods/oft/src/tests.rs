//! Golden values made with HF PEFT, its folders, the conformance suite, rotations and refusals.

use burn::tensor::{Device, Tensor, TensorData};
use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::method::AdaptationMethod;
use peft_core::params::floats;
use peft_core::rotation::{exact, series, skew};
use peft_core::site::Targets;
use peft_full_finetune as _;
use peft_testing::{
    Golden, Verdict, assert_close, built, check_folder, conforms, refusal, theirs, vit,
};
use serde_json::json;

use crate::{Oft, nearest_divisor};

fn oft(targets: &[&str]) -> Oft {
    let targets = targets.iter().map(|target| (*target).to_owned());
    Oft {
        block_size: 8,
        targets: Some(Targets::Suffixes(targets.collect())),
        ..Oft::default()
    }
}

#[test]
fn the_series_and_the_exact_form_agree_with_hf_peft() {
    let golden = Golden::fixture("peft/oft");
    golden.check_training(
        &*vit(),
        Box::new(oft(&["qkv", "fc1"])),
        theirs("oft", "head"),
    );
    let exact = Oft {
        terms: None,
        shared: true,
        ..oft(&["qkv", "fc2"])
    };
    let golden = Golden::fixture("peft/oft_exact");
    golden.check_training(&*vit(), Box::new(exact), theirs("oft", "head"));
}

#[test]
fn folders_of_hf_peft_are_read_and_written() {
    check_folder("oft", &*vit());
    check_folder("oft_transformers", &*vit());
    let constrained = refusal("oft", &*vit(), "coft", json!(true));
    assert_eq!(
        constrained,
        "adapter_config.json: coft: true is not supported"
    );
    let blocks = refusal("oft", &*vit(), "r", json!(4));
    assert_eq!(blocks, "adapter_config.json: r: 4 is not supported");
}

#[test]
fn it_conforms_and_merges() {
    let shared = Oft {
        terms: None,
        shared: true,
        targets: Some(Targets::Regex(r".*\.(query|fc1|conv\d)".to_owned())),
        ..oft(&[])
    };
    for verdict in conforms(&[Box::new(Oft::default()), Box::new(shared)]) {
        assert!(
            matches!(verdict, Verdict::Conforms { merges: Ok(()) }),
            "{verdict:?}"
        );
    }
}

#[test]
fn the_exact_form_is_orthogonal_and_the_series_approaches_its_transpose() {
    let device = Device::flex();
    let entries: Vec<f32> = (0..12)
        .map(|i| ((i * 5) % 7) as f32 / 40.0 - 0.08)
        .collect();
    let entries = Tensor::<2>::from_data(TensorData::new(entries, [2, 6]), &device);
    let rotation = exact(skew(entries.clone(), 4));
    let product = rotation.clone().matmul(rotation.clone().swap_dims(1, 2));
    let identity = Tensor::<2>::eye(4, &device)
        .unsqueeze::<3>()
        .expand([2, 4, 4]);
    let values = |tensor: Tensor<3>| floats(tensor.into_data());
    assert_close("R R^T", &values(product), &values(identity), 1e-6, None);
    let near = series(skew(entries, 4), 12);
    let transpose = values(rotation.swap_dims(1, 2));
    assert_close("the series", &values(near), &transpose, 1e-5, None);
}

#[test]
fn a_large_angle_is_exact_too() {
    let entries = Tensor::<2>::from_data([[40.0]], &Device::flex());
    // Cayley's form of one plane is the rotation by minus twice the arc tangent.
    let (sine, cosine) = (-2.0 * 40.0f32.atan()).sin_cos();
    let got = floats(exact(skew(entries, 2)).into_data());
    assert_close("R", &got, &[cosine, sine, -sine, cosine], 1e-4, None);
}

#[test]
fn the_formula_counts_the_entries_above_the_diagonal() {
    let backbone = built(&*vit());
    let count = |method: Oft| method.formula(&*backbone).unwrap();
    assert_eq!(count(oft(&["qkv"])), 4 * 6 * 28);
    let shared = Oft {
        shared: true,
        ..oft(&["qkv"])
    };
    assert_eq!(count(shared), 4 * 28);
    assert_eq!(
        [10, 32, 48, 100].map(|wanted| nearest_divisor(48, wanted)),
        [8, 24, 48, 48]
    );
}

#[test]
fn bad_values_are_refused_by_field() {
    let backbone = built(&*vit());
    let error = |method: Oft| method.formula(&*backbone).unwrap_err().to_string();
    let size = Oft {
        block_size: 1,
        ..Oft::default()
    };
    assert_eq!(error(size), "block_size: expected at least 2, got 1");
    let terms = Oft {
        terms: Some(1),
        ..Oft::default()
    };
    assert_eq!(error(terms), "terms: expected at least 2, got 1");
    assert!(error(oft(&["norm1"])).contains("blocks.0.norm1 is a norm 48"));
}
