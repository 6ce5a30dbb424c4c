//! HF PEFT's folders: what is read, written, refused and said.

use std::path::Path;

use burn::tensor::TensorData;
use peft_core::hf_peft::{self, HfPeft};
use peft_core::params::{Tensors, floats};
use peft_core::weights;
use peft_testing::{
    FIXTURES, built, check_folder, check_hf_peft, config, exported, read_hf_peft, resnet, vit,
};

#[test]
fn folders_of_hf_peft_are_read_and_written() {
    for name in [
        "lora",
        "rslora",
        "rank_pattern",
        "dora",
        "lora_transformers",
    ] {
        check_folder(name, &*vit());
    }
    for name in ["lora_resnet", "dora_resnet"] {
        check_folder(name, &*resnet());
    }
    // The Swin of transformers, which numbers each downsampling by the stage before it.
    let swin = config(
        "{name: swin, img_size: 32, patch_size: 2, embed_dim: 8, depths: [2, 2, 1], \
         num_heads: [2, 2, 4], window_size: 4}",
    );
    let base = format!("{FIXTURES}/swin_checkpoints");
    check_hf_peft(&format!("{base}/lora"), &base, &*swin);
}

#[test]
fn a_folder_that_does_not_fit_is_refused_with_the_reason() {
    let given = HfPeft::read(&Path::new(FIXTURES).join("hf_peft/lora")).unwrap();
    let backbone = built(&*vit());
    let error = |change: &dyn Fn(&mut HfPeft)| {
        let mut given = given.clone();
        change(&mut given);
        hf_peft::import(given, &*backbone).unwrap_err().to_string()
    };
    let set = |field: &'static str, value: serde_json::Value| {
        move |given: &mut HfPeft| {
            given.config.insert(field.to_owned(), value.clone());
        }
    };
    assert!(error(&set("peft_type", "VERA".into())).contains("expected one of LORA, got \"VERA\""));
    assert!(error(&set("use_qalora", true.into())).contains("use_qalora: true is not supported"));
    for start in [
        "pissa",
        "pissa_niter_4",
        "olora",
        "corda",
        "loftq",
        "lora_ga",
    ] {
        let changed = error(&set("init_lora_weights", start.into()));
        assert!(
            changed.contains(&format!("{start} also changes the weights of the base")),
            "{changed}"
        );
    }
    assert!(
        error(&set("init_lora_weights", "spectral".into()))
            .contains("init_lora_weights: \"spectral\" is not supported")
    );
    let bias = error(&set("bias", "some".into()));
    assert!(
        bias.contains("bias: expected none, all or lora_only, got \"some\""),
        "{bias}"
    );
    let broken = error(&set("target_modules", "(?!qkv".into()));
    assert!(
        broken.contains("adapter_config.json: target_modules"),
        "{broken}"
    );
    let layers = error(&|given| {
        set("target_modules", vec!["qkv", "fc1"].into())(given);
        set("layers_to_transform", "two".into())(given);
    });
    assert!(
        layers.contains("layers_to_transform: expected the number"),
        "{layers}"
    );
    let unnamed = error(&|given| {
        let data = TensorData::new(vec![1.0f32; 48], [48]);
        given.tensors.insert("norm.weight".to_owned(), data);
    });
    assert!(
        unnamed.contains("norm.weight: a parameter of the backbone that neither modules_to_save"),
        "{unnamed}"
    );
    let shape = error(&|given| {
        set("modules_to_save", vec!["head", "norm"].into())(given);
        let data = TensorData::new(vec![1.0f32; 47], [47]);
        given.tensors.insert("norm.weight".to_owned(), data);
    });
    assert!(
        shape.contains("norm.weight: expected the shape [48], got [47]"),
        "{shape}"
    );
    assert!(error(&set("r", 5.into())).contains("expected rank 5, got 4"));
    let unmatched = error(&set("target_modules", vec!["qkv", "fc9"].into()));
    assert!(
        unmatched.contains("targets that match nothing: fc9"),
        "{unmatched}"
    );
    let fewer = error(&set("target_modules", vec!["qkv"].into()));
    assert!(
        fewer.contains("tensors of no target: blocks.0.mlp.fc1"),
        "{fewer}"
    );
    let deeper = error(&|given| {
        let data = given.tensors["blocks.0.attn.qkv.lora_A.weight"].clone();
        let name = "blocks.9.attn.qkv.lora_A.weight";
        given.tensors.insert(name.to_owned(), data);
    });
    assert!(
        deeper.contains("vit has no module blocks.9.attn.qkv"),
        "{deeper}"
    );
}

/// The kinds of what HF PEFT's configurations can say, each with folders that the library wrote and its
/// logits.
#[test]
fn every_field_of_hf_peft_gives_the_logits_of_the_library() {
    let fixture = |name: &str| format!("{FIXTURES}/hf_peft/{name}");
    let vit_tiny = format!("{FIXTURES}/vit_tiny");
    for (kind, names) in [
        (
            "exclude_modules",
            ["exclude_list", "exclude_regex", "exclude_saved"],
        ),
        (
            "look-around",
            ["lookahead", "lookbehind", "lookahead_transformers"],
        ),
        (
            "layers",
            ["layers_number", "layers_list", "layers_transformers"],
        ),
        (
            "order",
            ["alpha_order", "rank_order", "alpha_order_lookahead"],
        ),
        (
            "initial values",
            ["init_eva", "init_orthogonal", "init_false"],
        ),
        (
            "lora_bias",
            ["lora_bias", "lora_bias_transformers", "lora_bias_conv"],
        ),
        (
            "saved",
            ["saved_norm", "saved_linear", "saved_transformers"],
        ),
        (
            "bias",
            ["bias_all", "bias_all_transformers", "bias_lora_only"],
        ),
        (
            "pickled",
            ["old_bin", "old_lora_only", "old_lora_only_transformers"],
        ),
    ] {
        for name in names {
            println!("{kind}: {name}");
            let folder = fixture(name);
            // Later versions would not find what PEFT 0.3 calls the bias of an adapted layer.
            if name.starts_with("old_lora_only") {
                let case = read_hf_peft(&folder, &vit_tiny, &*vit());
                assert_eq!(exported(&folder, &case).field("bias"), "lora_only");
            } else {
                check_hf_peft(&folder, &vit_tiny, &*vit());
            }
        }
    }
    check_hf_peft(&fixture("all_linear"), &vit_tiny, &*vit());
    // Parts of a fused layer are not modules if the library has the layer as one module.
    let mut given = HfPeft::read(Path::new(&fixture("lookahead"))).unwrap();
    let pattern = r"blocks\.\d+\.attn\.[pq]\w+";
    given
        .config
        .insert("target_modules".to_owned(), pattern.into());
    hf_peft::import(given, &*built(&*vit())).unwrap();
    let resnet_bottleneck = format!("{FIXTURES}/resnet_bottleneck");
    let folder = fixture("saved_batch_norm");
    let case = read_hf_peft(&folder, &resnet_bottleneck, &*resnet());
    assert_eq!(case.imported.methods[1]["statistics"], "batch");
    let own = exported(&folder, &case);
    assert!(own.tensors.contains_key("layer4.0.bn3.running_var"));
}

#[test]
fn the_image_tower_of_a_whole_clip_is_read_and_the_rest_is_named() {
    let clip = |features: &str| {
        config(&format!(
            "{{name: clip, img_size: 32, patch_size: 8, embed_dim: 24, depth: 2, num_heads: 3, \
             projection_dim: 12, features: {features}}}"
        ))
    };
    let base = format!("{FIXTURES}/clip_projection");
    for (name, expected) in [
        ("clip_both_towers", "4 of 12 tensors belong to text_model"),
        (
            "clip_all_linear",
            "belong to text_model, text_projection, which are no part of clip",
        ),
        ("clip_saved", "belong to text_model, text_projection"),
    ] {
        let folder = format!("{FIXTURES}/hf_peft/{name}");
        let case = read_hf_peft(&folder, &base, &*clip("after"));
        let remarks = case.imported.remarks.join("\n");
        assert!(remarks.contains(expected), "{name}: {remarks}");
        exported(&folder, &case);
    }
    // Without the projection, its factors are not part of the backbone either.
    let backbone = built(&*clip("before"));
    let given = HfPeft::read(&Path::new(FIXTURES).join("hf_peft/clip_all_linear")).unwrap();
    let remarks = hf_peft::import(given.clone(), &*backbone).unwrap().remarks;
    assert!(
        remarks.join("\n").contains("visual_projection"),
        "{remarks:?}"
    );
    let mut text = given;
    text.tensors
        .retain(|name, _| name.starts_with("text_model."));
    let error = hf_peft::import(text, &*backbone).unwrap_err().to_string();
    assert!(
        error.contains("expected tensors of clip, got only those of text_model"),
        "{error}"
    );
}

#[test]
fn silent_omissions_of_hf_peft_are_reported() {
    let backbone = built(&*vit());
    let remarks = |name: &str, change: &dyn Fn(&mut HfPeft)| {
        let mut given = HfPeft::read(&Path::new(FIXTURES).join("hf_peft").join(name)).unwrap();
        change(&mut given);
        hf_peft::import(given, &*backbone)
            .unwrap()
            .remarks
            .join("\n")
    };
    let nothing = |_: &mut HfPeft| {};
    let set = |field: &'static str, value: serde_json::Value| {
        move |given: &mut HfPeft| {
            given.config.insert(field.to_owned(), value.clone());
        }
    };
    for (said, part) in [
        (
            remarks("alpha_order", &nothing),
            "alpha_pattern: qkv and blocks.0.attn.qkv match the same modules; the first of the file \
             counts, 32 and not 2",
        ),
        (
            remarks("rank_order", &nothing),
            "rank_pattern: fc1 and blocks.1.mlp.fc1 match the same modules",
        ),
        (
            remarks("rank_order", &nothing),
            "alpha_pattern: unused matches no adapted module of vit",
        ),
        (
            remarks(
                "lora",
                &set("target_modules", vec!["qkv", "fc1", "q_proj"].into()),
            ),
            "target_modules: q_proj matches no module of vit",
        ),
        (
            remarks(
                "lora",
                &set("modules_to_save", vec!["head", "score"].into()),
            ),
            "modules_to_save: the file holds nothing of score",
        ),
        (
            remarks("bias_lora_only", &|given| {
                given.tensors.retain(|name, _| !name.contains("base_layer"));
            }),
            "bias: lora_only, but the file holds no bias",
        ),
        (
            remarks("lora", &set("fan_in_fan_out", true.into())),
            "fan_in_fan_out: true means nothing at these layers",
        ),
    ] {
        assert!(said.contains(part), "expected {part:?} in {said:?}");
    }
}

#[test]
fn the_factors_of_the_head_are_multiplied() {
    let backbone = built(&*vit());
    let given = HfPeft::read(&Path::new(FIXTURES).join("hf_peft/head_factors")).unwrap();
    let factor = |part: &str| floats(given.tensors[&format!("head.{part}.weight")].clone());
    let (a, b) = (factor("lora_A"), factor("lora_B"));
    let imported = hf_peft::import(given, &*backbone).unwrap();
    let delta = imported.head_delta.unwrap();
    assert_eq!(delta.shape()[..], [7, 48]);
    let expected: f32 = (0..4).map(|k| 2.0 * b[6 * 4 + k] * a[k * 48 + 5]).sum();
    assert!((floats(delta)[6 * 48 + 5] - expected).abs() < 1e-5);
}

/// A compiled model, or one in a wrapper, puts its own name before those of the modules, and HF PEFT saves
/// them so: behind its own prefix, before it, or in the middle.
#[test]
fn wrappers_around_the_model_or_its_blocks_are_left_out() {
    let backbone = built(&*vit());
    let path = Path::new(FIXTURES).join("hf_peft/lora");
    let given = HfPeft::read(&path).unwrap();
    let plain = hf_peft::import(given.clone(), &*backbone).unwrap();
    let all = |before: &'static str| move |name: &str| format!("base_model.model.{before}{name}");
    let suffixes = || serde_json::json!(["qkv", "fc1"]);
    type Rename = Box<dyn Fn(&str) -> String>;
    let cases: [(Rename, &str, serde_json::Value); 8] = [
        (Box::new(all("_orig_mod.")), "_orig_mod.", suffixes()),
        (Box::new(all("module.")), "module.", suffixes()),
        (
            Box::new(all("module._orig_mod.")),
            "module._orig_mod.",
            suffixes(),
        ),
        (Box::new(all("net.backbone.")), "net.backbone.", suffixes()),
        (
            Box::new(|name| format!("_orig_mod.module.base_model.model.{name}")),
            "_orig_mod.module.",
            suffixes(),
        ),
        // A head beside the backbone.
        (
            Box::new(|name| match name.starts_with("head.") {
                true => format!("base_model.model.{name}"),
                false => format!("base_model.model.backbone.{name}"),
            }),
            "backbone.",
            suffixes(),
        ),
        (
            Box::new(|name| {
                let name = name.replace(".attn.", "._orig_mod.attn.");
                format!(
                    "base_model.model.{}",
                    name.replace(".mlp.", "._orig_mod.mlp.")
                )
            }),
            "have _orig_mod",
            suffixes(),
        ),
        // The pattern is about the name with the wrapper.
        (
            Box::new(all("_orig_mod.")),
            "_orig_mod.",
            r"_orig_mod\.blocks\.\d+\.(attn\.qkv|mlp\.fc1)".into(),
        ),
    ];
    for (rename, said, targets) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut wrapped = given.clone();
        wrapped.config.insert("target_modules".to_owned(), targets);
        wrapped.write(folder.path()).unwrap();
        let renamed: Tensors = (given.tensors.iter())
            .map(|(name, data)| (rename(name), data.clone()))
            .collect();
        let file = folder.path().join("adapter_model.safetensors");
        weights::write(&file, &renamed, Default::default()).unwrap();
        let read = HfPeft::read(folder.path()).unwrap();
        let imported = hf_peft::import(read, &*backbone).unwrap();
        let names = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&imported.tensors), names(&plain.tensors), "{said}");
        for (name, data) in &imported.tensors {
            assert_eq!(*data, plain.tensors[name], "{name}");
        }
        let remarks = imported.remarks.join("\n");
        assert!(remarks.contains(said), "{said}: {remarks}");
    }
    // What only some of the modules have is no wrapper.
    let mut partly = given.clone();
    let name = "blocks.0.attn.qkv.lora_A.weight";
    let data = partly.tensors.remove(name).unwrap();
    partly.tensors.insert(format!("net.{name}"), data);
    let error = hf_peft::import(partly, &*backbone).unwrap_err().to_string();
    assert!(error.contains("net.blocks.0.attn.qkv"), "{error}");
}
