//! Checkpoints in all formats and spellings, and what is refused.

use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use peft_core::checkpoint::{Checkpoint, Loaded, load_backbone};
use peft_core::params::{self, Tensors, floats};
use peft_core::random::Distribution::Normal;
use peft_core::random::Generator;
use peft_core::{Activation, BackboneConfig, Hooks, Init, Plug};
use peft_testing::assert_close;

use super::{averaged, check_cuts, filled, fixture, golden, registers, tiny};
use crate::Vit;

/// The tiny ViT of `fixtures/checkpoints`, whose images have 16 x 16 pixels, at any resolution.
fn small(img_size: usize) -> Vit {
    Vit {
        img_size: Some(img_size.into()),
        patch_size: Some(4),
        embed_dim: Some(12),
        depth: Some(2),
        num_heads: Some(3),
        ..Vit::default()
    }
}

fn checkpoint(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/checkpoints/");
    Path::new(folder).join(name)
}

fn loaded(config: &Vit, name: &str, forced: Option<&str>) -> peft_core::Result<Loaded> {
    load(config, &checkpoint(name), forced)
}

fn load(config: &Vit, file: &Path, forced: Option<&str>) -> peft_core::Result<Loaded> {
    let init = Init::empty(&Device::flex());
    let backbone = Plug::new(config.build(&init).unwrap());
    load_backbone(backbone, &Checkpoint::open(file)?, forced)
}

#[test]
fn values_that_are_not_finite_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vit.safetensors");
    let file = Checkpoint::open(&checkpoint("vit.safetensors")).unwrap();
    let mut tensors = file.tensors().unwrap();
    let bias = TensorData::new(vec![f32::NAN; 12], [12]);
    tensors.insert("norm.bias".to_owned(), bias);
    peft_core::weights::write(&path, &tensors, Default::default()).unwrap();
    let backbone = small(16).build(&Init::empty(&Device::flex())).unwrap();
    let file = Checkpoint::open(&path).unwrap();
    let loaded = load_backbone(Plug::new(backbone), &file, None).unwrap();
    let remarks = loaded.remarks.join("\n");
    assert!(
        remarks.contains("values that are not finite in norm.bias"),
        "{remarks}"
    );
}

/// With the same weights, the norms of timm and transformers differ where a token's variance is small.
#[test]
fn transformers_norms_have_an_epsilon_of_their_own() {
    let outputs = |name: &str, scale: f64| {
        let backbone = loaded(&small(16), name, None).unwrap().backbone;
        let init = Init::seeded(&Device::flex(), 2);
        let tokens = init.tensor("tokens", [1, 17, 12], Normal(0.0, 1.0)) * scale;
        let x = Activation::from(tokens);
        backbone.forward(x, 1..3, &Hooks::none()).to_vec()
    };
    for (scale, agree) in [(1.0, true), (1e-4, false)] {
        let timm = outputs("vit.safetensors", scale);
        let theirs = outputs("transformers.safetensors", scale);
        let largest = timm.iter().fold(1.0f32, |most, x| most.max(x.abs()));
        let differences = timm.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
        let error = differences.fold(0.0, f32::max) / largest;
        assert_eq!(
            error < 1e-5,
            agree,
            "at a scale of {scale} they differ by {error}"
        );
    }
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
        let resized = format!("pos_embed is resized from [1, 17, 12] to [1, {tokens}, 12]");
        assert!(loaded.remarks[0].contains(&resized), "{:?}", loaded.remarks);
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
fn positions_are_resampled_beside_any_number_of_other_tokens() {
    for (name, config) in [("vit_registers", registers()), ("vit_avg", averaged())] {
        let golden = fixture(name);
        let larger = Vit {
            img_size: Some(48.into()),
            ..config
        };
        let loaded = filled(&golden, &larger, "weights.safetensors");
        let got = params::read(&loaded.backbone, |info| info.name == "pos_embed");
        let got = floats(got["pos_embed"].clone());
        assert_close(name, &got, &golden.values("pos_embed.6"), 1e-6, None);
    }
}

#[test]
fn dinos_teacher_is_read_without_its_head() {
    let expected = loaded(&small(16), "vit.safetensors", None).unwrap();
    let dino = loaded(&small(16), "dino.pth", None).unwrap();
    assert_eq!(dino.layout, "dino");
    assert!(dino.head.is_none());
    let values = |loaded: &Loaded| params::read(&loaded.backbone, |_| true);
    assert!(values(&dino) == values(&expected));
    let remarks = dino.remarks.join("\n");
    assert!(remarks.contains("head.mlp. (2)"), "{remarks}");
}

#[test]
fn a_distilled_deit_is_refused_with_the_reason() {
    for (name, token) in [
        ("distilled.pth", "dist_token"),
        (
            "distilled-transformers.safetensors",
            "embeddings.distillation_token",
        ),
    ] {
        let error = loaded(&small(16), name, None).err().unwrap().to_string();
        let reason =
            format!("{token}: a distilled DeiT has a second token for its teacher's predictions");
        assert!(error.contains(&reason), "{error}");
        assert!(error.contains("keys that nothing takes"), "{error}");
    }
}

#[test]
fn layer_scale_is_read_under_deits_names() {
    let golden = fixture("vit_registers");
    let file = Checkpoint::open(&golden.folder().join("weights.safetensors")).unwrap();
    let renamed = (file.tensors().unwrap().into_iter())
        .map(|(name, data)| {
            let name = name.replace("ls1.gamma", "gamma_1");
            (name.replace("ls2.gamma", "gamma_2"), data)
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deit3.safetensors");
    peft_core::weights::write(&path, &renamed, Default::default()).unwrap();
    let backbone = Plug::new(registers().build(&Init::empty(&Device::flex())).unwrap());
    let deit = load_backbone(backbone, &Checkpoint::open(&path).unwrap(), None).unwrap();
    assert_eq!(deit.layout, "deit");
    check_cuts(&golden, &deit);
}

#[test]
fn code_in_a_file_is_not_run_and_a_wrong_layout_is_refused() {
    // The file holds weights beside an object whose unpickling would run a command.
    let evil = loaded(&small(16), "evil.pth", None).unwrap();
    assert_eq!(evil.layout, "timm");
    assert!(!Path::new("evil-ran").exists());
    let error = |name: &str, forced| loaded(&small(16), name, forced).err().unwrap().to_string();
    let pickled = error("pickled.pth", None);
    assert!(pickled.contains("whose code is not run"), "{pickled}");
    let unknown = error("vit.safetensors", Some("keras"));
    let known = "expected one of timm, transformers, transformers-4, transformers-dinov2, \
                 transformers-4-dinov2, dino, deit, google";
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

/// One way to damage a file, and the bytes that it overwrites, if the file keeps its length.
fn damaged(whole: &[u8], round: usize, generator: &mut Generator) -> (Vec<u8>, Range<usize>) {
    let mut bytes = whole.to_vec();
    let range = match round % 3 {
        0 => {
            bytes.truncate(generator.below(whole.len()));
            return (bytes, 0..0);
        }
        1 => {
            let at = generator.below(whole.len());
            at..at + 1
        }
        // Where headers and pickles are.
        _ => {
            let end = whole.len().min(2048);
            let at = generator.below(end);
            at..(at + 8).min(end)
        }
    };
    match round % 3 {
        1 => bytes[range.start] = generator.bits() as u8,
        _ => bytes[range.clone()].fill(0xff),
    }
    (bytes, range)
}

/// Everything that was loaded, with the head.
fn all(loaded: &Loaded) -> Tensors {
    let mut tensors = params::read(&loaded.backbone, |_| true);
    let head = loaded.head.as_ref().unwrap();
    tensors.insert("head.weight".to_owned(), head.weight.clone());
    tensors.insert("head.bias".to_owned(), head.bias.clone());
    tensors
}

/// Damage is an error that names the file, or it changes nothing but the values whose bytes it
/// overwrites: formats without checksums cannot tell such a value from another.
#[test]
fn damage_is_an_error_or_changes_only_the_values_that_it_hits() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "vit.safetensors",
        "vit.pth",
        "legacy.pth",
        "google.npz",
        "compressed.npz",
        "../clip_projection/openai.pt",
    ] {
        let whole = std::fs::read(checkpoint(name)).unwrap();
        // OpenAI's archive holds another network, so that it never loads.
        let expected = loaded(&small(16), name, None)
            .ok()
            .map(|loaded| all(&loaded));
        assert_eq!(expected.is_none(), name.ends_with("openai.pt"), "{name}");
        let path = folder.path().join(name.rsplit('/').next().unwrap());
        let mut generator = Generator::new(0, name);
        for round in 0..150 {
            let (bytes, overwritten) = damaged(&whole, round, &mut generator);
            std::fs::write(&path, &bytes).unwrap();
            let what = format!("{name}, round {round}, bytes {overwritten:?}");
            let got = match load(&small(16), &path, None) {
                Ok(got) => all(&got),
                Err(error) => {
                    let error = error.to_string();
                    let named = error.contains(&path.display().to_string());
                    assert!(named, "{what}: the error does not name the file: {error}");
                    continue;
                }
            };
            assert!(bytes.len() == whole.len(), "{what}: cut off, and it loads");
            let expected = expected.as_ref().unwrap();
            assert!(got.keys().eq(expected.keys()), "{what}: other names");
            let mut changed = 0;
            for (param, data) in &got {
                assert_eq!(data.shape(), expected[param].shape(), "{what}: {param}");
                let pairs = floats(data.clone())
                    .into_iter()
                    .zip(floats(expected[param].clone()));
                changed += pairs.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            }
            // A run of bytes may begin and end inside a value of four.
            let most = match overwritten.len() {
                1 => 1,
                n => n / 4 + 1,
            };
            assert!(
                changed <= most,
                "{what}: {changed} values changed, expected at most {most}"
            );
        }
    }
}

#[test]
fn every_spelling_of_dinov2_gives_its_activations() {
    let golden = fixture("dinov2");
    for (file, layout) in [
        ("weights.safetensors", "transformers-dinov2"),
        ("weights_4.safetensors", "transformers-4-dinov2"),
        ("weights_native.safetensors", "dino"),
    ] {
        let loaded = filled(&golden, &registers(), file);
        assert_eq!(loaded.layout, layout);
        let remarks = loaded.remarks.join("\n");
        assert!(
            remarks.contains("not read") && remarks.contains("mask_token (1)"),
            "{remarks}"
        );
        check_cuts(&golden, &loaded);
    }
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
