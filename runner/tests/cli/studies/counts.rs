//! What models cost, and the numbers of parameters that the paper prints.

use super::{TINY, json, json_in, study, verdict};

#[test]
fn compact_models_and_costs_are_judged() {
    let runs = tempfile::tempdir().unwrap();
    let rates = "learning_rates={ap: [0.1], vp: [0.1], norm: [0.01]}";
    let found = json_in(
        &[&["compact"], &TINY[..], &["--set", rates]].concat(),
        runs.path(),
    );
    assert_eq!(found["result"]["rows"].as_array().unwrap().len(), 3);
    for id in ["above-vp", "not-above-norm"] {
        assert!(["holds", "does_not_hold", "undecided"].contains(&verdict(&found, id)));
    }

    let counted = [
        "--config",
        "study/portrait.yaml",
        "--set",
        "counts_only=true",
    ];
    let found = json(&[&["efficiency"], &counted[..]].concat());
    let rows = found["result"]["rows"].as_array().unwrap();
    let of = |backbone: &str, label: &str| {
        let own = rows
            .iter()
            .find(|row| row["backbone"] == backbone && row["label"] == label);
        own.unwrap_or_else(|| panic!("{backbone} {label}"))
    };
    assert_eq!(of("vit-large", "AP")["trainable"], 201_728);
    assert_eq!(of("vit-large", "Norm-Tune")["trainable"], 100_352);
    assert_eq!(of("resnet101", "Norm-Tune")["trainable"], 105_344);
    assert_eq!(of("vit-large", "VPT-50")["trainable"], 1_228_800);
    let forward = |label: &str| of("vit-large", label)["forward_flop"].as_f64().unwrap();
    let ratio = forward("AdaptFormer") / forward("AP");
    assert!((ratio - 1.010).abs() < 0.001, "{ratio}");
    assert!(of("vit-large", "AP")["peak_bytes"].is_null());
    assert_eq!(verdict(&found, "adaptformer-slow"), "does_not_hold");
    assert_eq!(verdict(&found, "ap-cheaper-than-vp"), "needs_gpu");
}

/// Where any formula fits a number that the paper prints, it fits to the last digit.
#[test]
fn the_printed_counts_are_those_of_the_variants_beside_them() {
    let config = ["efficiency", "--config", "study/paper-counts.yaml"];
    let found = json(&config);
    let printed = found["result"]["printed"].as_array().unwrap();
    let of = |backbone: &str, label: &str| {
        let own = printed
            .iter()
            .find(|row| row["backbone"] == backbone && row["label"] == label);
        let row = own.unwrap_or_else(|| panic!("{backbone} {label}"));
        (row["count"].as_u64().unwrap(), row["equal"] == true)
    };
    for (backbone, label, count) in [
        ("resnet101", "Full-Finetune", 44_549_160),
        ("vit-large", "Full-Finetune", 304_326_632),
        ("resnet101", "Linear-Probe", 20_490),
        ("vit-large", "Linear-Probe", 10_250),
        ("resnet101", "Norm-Tune", 125_834),
        ("vit-large", "Norm-Scales", 60_426),
        ("resnet101", "VP-Border-48", 121_866),
        ("resnet101", "VP-Frame-128", 121_866),
        ("vit-large", "VP-Border-48", 111_626),
        ("vit-large", "VP-Frame-128", 111_626),
        ("resnet101", "AP-32", 120_842),
        ("vit-base", "AP-Patches", 158_218),
        ("vit-base", "AP-3-Patches", 459_274),
        ("vit-base", "AP-5-Patches", 760_330),
        ("vit-base", "AP-Product-Patches", 158_218),
        ("vit-large", "AP-Concat-107", 119_818),
        ("vit-large", "VPT-10", 245_760),
        ("vit-large", "VPT-50", 1_239_050),
        ("vit-base", "LoRA-1", 44_554),
    ] {
        assert_eq!(of(backbone, label), (count, true), "{label} on {backbone}");
    }
    // What the text describes, where the printed number is that of something else.
    for (backbone, label, count) in [
        ("resnet101", "AP", 221_194),
        ("vit-large", "AP", 211_978),
        ("vit-large", "AP-Patches", 210_954),
        ("vit-large", "Norm-Tune", 110_602),
        ("resnet101", "VP-Border-30", 90_330),
        ("resnet101", "VP-Frame-32", 167_946),
        ("vit-large", "LoRA-10", 993_290),
    ] {
        assert_eq!(of(backbone, label), (count, false), "{label} on {backbone}");
    }
    assert_eq!(verdict(&found, "printed-counts"), "does_not_hold");

    let runs = tempfile::tempdir().unwrap();
    let paper = "paper=[{backbone: vit-base, row: VPT, source: Tab. 4, millions: '0.25'}]";
    let output = study(&[&config[..], &["--set", paper]].concat(), runs.path());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("paper: VPT, vit-base: expected the labels"));
}
