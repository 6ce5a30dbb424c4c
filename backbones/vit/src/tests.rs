//! Golden values made with timm.

use burn::tensor::{Device, Tensor};
use peft_core::checkpoint::{Checkpoint, Loaded, load_backbone};
use peft_core::params::{self, floats};
use peft_core::random::Generator;
use peft_core::testing::{Golden, assert_close};
use peft_core::{Activation, BackboneConfig, Hooks, Init, LinearHead, Plug};

use crate::Vit;

fn golden() -> Golden {
    Golden::open(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/vit_tiny"
    ))
}

fn tiny() -> Vit {
    Vit {
        img_size: Some(32),
        patch_size: Some(8),
        embed_dim: Some(48),
        depth: Some(4),
        num_heads: Some(3),
        ..Vit::default()
    }
}

#[test]
fn every_boundary_agrees_with_timm() {
    let golden = golden();
    let init = Init::empty(&Device::flex());
    let backbone = Plug::new(tiny().build(&init).unwrap());
    let file = Checkpoint::open(&golden.folder().join("weights.safetensors")).unwrap();
    let loaded = load_backbone(backbone, &file, None).unwrap();
    let (backbone, head) = (loaded.backbone, loaded.head);
    let head = LinearHead::from_checkpoint(head.unwrap(), init.device());

    let mut x = Activation::Map(Tensor::from_data(
        golden.io["images"].clone(),
        init.device(),
    ));
    let names = [
        "embed", "block.0", "block.1", "block.2", "block.3", "features",
    ];
    for (cut, name) in names.iter().enumerate() {
        x = backbone.forward(x, cut..cut + 1, &Hooks::none());
        assert_close(name, &x.to_vec(), &golden.values(name), 1e-5, None);
        if let Some(boundary) = backbone.spec().boundaries.get(cut + 1) {
            assert_eq!(
                boundary.shape.elements() * 2,
                x.to_vec().len(),
                "{boundary}"
            );
        }
    }
    let logits = Activation::Features(head.forward(x.features().unwrap()));
    assert_close(
        "logits",
        &logits.to_vec(),
        &golden.values("logits"),
        1e-5,
        None,
    );
}

#[test]
fn a_checkpoint_of_another_width_is_refused_with_both_sets() {
    let file = Checkpoint::open(&golden().folder().join("weights.safetensors")).unwrap();
    let wide = Vit {
        embed_dim: Some(96),
        depth: Some(5),
        ..tiny()
    };
    let backbone = Plug::new(wide.build(&Init::empty(&Device::flex())).unwrap());
    let error = load_backbone(backbone, &file, None)
        .err()
        .unwrap()
        .to_string();
    for part in [
        "12 parameters that nothing fills: blocks.4.attn.proj.bias",
        "blocks.0.attn.proj.bias: expected [96], got [48]",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn variants_have_the_published_numbers_of_parameters() {
    let count = |variant: &str| {
        let config = Vit {
            variant: Some(variant.into()),
            ..Vit::default()
        };
        let backbone = Plug::new(config.build(&Init::empty(&Device::flex())).unwrap());
        peft_core::params::infos(&backbone)
            .iter()
            .map(|info| info.count())
            .sum::<usize>()
    };
    assert_eq!(count("vit_tiny_patch16_224"), 5_524_416);
    assert_eq!(count("vit_small_patch16_224"), 21_665_664);
    assert_eq!(count("vit_base_patch16_224"), 85_798_656);
    assert_eq!(count("vit_large_patch16_224"), 303_301_632);
}

#[test]
fn sizes_that_do_not_fit_are_refused_by_field() {
    let message = |config: Vit| config.input().unwrap_err().to_string();
    let odd = Vit {
        img_size: Some(30),
        ..tiny()
    };
    assert_eq!(
        message(odd),
        "img_size: expected a multiple of patch_size (8), got 30"
    );
    let typo = Vit {
        variant: Some("vit_bas_patch16_224".into()),
        ..Vit::default()
    };
    assert!(message(typo).contains("did you mean \"vit_base_patch16_224\"?"));
}

/// The tiny ViT of `fixtures/checkpoints`, at another resolution if asked.
fn small(img_size: usize) -> Vit {
    Vit {
        img_size: Some(img_size),
        patch_size: Some(4),
        embed_dim: Some(12),
        depth: Some(2),
        num_heads: Some(3),
        ..Vit::default()
    }
}

fn checkpoint(name: &str) -> std::path::PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/checkpoints/");
    std::path::Path::new(folder).join(name)
}

fn loaded(config: &Vit, name: &str, forced: Option<&str>) -> peft_core::Result<Loaded> {
    let init = Init::empty(&Device::flex());
    let backbone = Plug::new(config.build(&init).unwrap());
    load_backbone(backbone, &Checkpoint::open(&checkpoint(name))?, forced)
}

#[test]
fn every_format_and_spelling_gives_the_same_values() {
    let values = |loaded: &Loaded| params::read(&loaded.backbone, |_| true);
    let expected = loaded(&small(16), "vit.safetensors", None).unwrap();
    let head = expected.head.as_ref().unwrap();
    for (name, layout, tolerance) in [
        ("double.safetensors", "timm", 0.0),
        ("half.safetensors", "timm", 5e-4),
        ("vit.pth", "timm", 0.0),
        ("legacy.pth", "timm", 0.0),
        ("wrapped.pth", "timm", 0.0),
        ("sharded.safetensors.index.json", "timm", 0.0),
        ("google.npz", "google", 0.0),
        ("compressed.npz", "google", 0.0),
        ("transformers.safetensors", "transformers", 0.0),
        ("transformers-4.safetensors", "transformers-4", 0.0),
    ] {
        let got = loaded(&small(16), name, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(got.layout, layout, "{name}");
        let own = got
            .head
            .as_ref()
            .unwrap_or_else(|| panic!("{name}: no head"));
        for (a, b) in [(&own.weight, &head.weight), (&own.bias, &head.bias)] {
            assert_eq!(a.shape(), b.shape(), "{name}");
            assert_close(
                name,
                &floats(a.clone()),
                &floats(b.clone()),
                tolerance,
                None,
            );
        }
        for (param, data) in values(&got) {
            let what = format!("{name}: {param}");
            let expected = floats(values(&expected)[&param].clone());
            assert_close(&what, &floats(data), &expected, tolerance, None);
        }
    }
}

#[test]
fn a_position_embedding_of_another_resolution_is_resampled_as_timm_does() {
    let text = std::fs::read_to_string(checkpoint("resampled.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    for side in [2, 3, 5, 7] {
        let loaded = loaded(&small(4 * side), "vit.safetensors", None).unwrap();
        let tokens = 1 + side * side;
        let said = format!("pos_embed is resized from [1, 17, 12] to [1, {tokens}, 12]");
        assert!(loaded.remarks[0].contains(&said), "{:?}", loaded.remarks);
        let got = params::read(&loaded.backbone, |info| info.name == "pos_embed");
        let expected = expected[side.to_string()].as_array().unwrap();
        let expected: Vec<f32> = expected
            .iter()
            .map(|v| v.as_f64().unwrap() as f32)
            .collect();
        let got = floats(got["pos_embed"].clone());
        assert_close(&format!("side {side}"), &got, &expected, 1e-6, None);
    }
}

#[test]
fn code_in_a_file_is_not_run_and_a_wrong_layout_is_refused() {
    // Weights beside an object whose unpickling would run a command: the weights are read.
    let evil = loaded(&small(16), "evil.pth", None).unwrap();
    assert_eq!(evil.layout, "timm");
    assert!(!std::path::Path::new("evil-ran").exists());
    let error = |name: &str, forced| loaded(&small(16), name, forced).err().unwrap().to_string();
    let pickled = error("pickled.pth", None);
    assert!(pickled.contains("whose code is not run"), "{pickled}");
    let unknown = error("vit.safetensors", Some("keras"));
    let known = "expected one of timm, transformers, transformers-4, google";
    assert!(unknown.contains(known), "{unknown}");
    let wrong = error("vit.safetensors", Some("google"));
    assert!(
        wrong.contains("keys that nothing takes: blocks.0"),
        "{wrong}"
    );
    assert!(
        wrong.contains("parameters that nothing fills: blocks.0"),
        "{wrong}"
    );
}

#[test]
fn a_damaged_file_is_an_error_and_never_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let init = Init::empty(&Device::flex());
    for name in [
        "vit.safetensors",
        "vit.pth",
        "legacy.pth",
        "google.npz",
        "compressed.npz",
    ] {
        let whole = std::fs::read(checkpoint(name)).unwrap();
        let path = folder.path().join(name);
        let mut generator = Generator::new(0, name);
        for round in 0..150 {
            let mut bytes = whole.clone();
            match round % 3 {
                0 => bytes.truncate(generator.below(whole.len())),
                1 => {
                    let at = generator.below(whole.len());
                    bytes[at] = generator.bits() as u8;
                }
                // Where headers and pickles are.
                _ => {
                    let end = whole.len().min(2048);
                    let at = generator.below(end);
                    let till = (at + 8).min(end);
                    bytes[at..till].fill(0xff);
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            let Ok(file) = Checkpoint::open(&path) else {
                continue;
            };
            let backbone = Plug::new(small(16).build(&init).unwrap());
            let _ = load_backbone(backbone, &file, None);
        }
    }
}
