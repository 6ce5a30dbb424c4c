//! Files under the names of every library, and parts that some of them lack.

use burn::tensor::{Device, Tensor, TensorData};
use peft_core::checkpoint::{Checkpoint, load_backbone, recognise};
use peft_core::params::{self, Tensors, floats};
use peft_core::random::Generator;
use peft_core::site::SiteKind;
use peft_core::{BoxedBackbone, weights};
use peft_testing::assert_close;

use super::{built, features, images, of, random, read};
use crate::FeaturesAt;

/// A file of these tensors, in a folder that must live as long.
fn file(tensors: &Tensors) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    weights::write(&path, tensors, Default::default()).unwrap();
    let file = Checkpoint::open(&path).unwrap();
    (folder, file)
}

/// The tensors of a backbone, each under the names that `spelled` gives it.
fn spelled(backbone: &BoxedBackbone, spelled: impl Fn(&str) -> Option<String>) -> Tensors {
    let values = params::read(backbone, |_| true).into_iter();
    values
        .filter_map(|(name, data)| Some((spelled(&name)?, data)))
        .collect()
}

#[test]
fn both_kinds_of_mlp_layers_compute_the_same() {
    for version in ["", ", use_grn: true"] {
        let config = |more: &str| {
            of(&format!(
                "{{img_size: 16, depths: [1, 1], dims: [6, 10]{version}{more}}}"
            ))
        };
        let linear = random(&config(""), 4);
        let expected = features(&linear, images(16));
        let tensors = spelled(&linear, |name| Some(name.to_owned()));
        let (_folder, file) = file(&tensors);
        // The shapes decide, and another statement is followed with a remark.
        let found = recognise(&file, None).unwrap().unwrap();
        assert_eq!(found.config.facts().unwrap()["conv_mlp"], false);
        let conv = load_backbone(built(&config(", conv_mlp: true")), &file, None).unwrap();
        assert_eq!(conv.remarks.len(), 4, "{:?}", conv.remarks);
        let got = features(&conv.backbone, images(16));
        assert_close("features", &got, &expected, 1e-5, None);
    }
}

/// The original's names of timm's.
fn facebook(name: &str) -> Option<String> {
    let name = match name.strip_prefix("stem.") {
        Some(layer) => format!("downsample_layers.0.{layer}"),
        None => name.to_owned(),
    };
    let name = match name.split_once(".downsample.") {
        Some((stage, layer)) => format!("downsample_layers.{}.{layer}", &stage["stages.".len()..]),
        None => name,
    };
    let pairs = [
        (".blocks.", "."),
        ("conv_dw", "dwconv"),
        ("mlp.fc", "pwconv"),
        ("mlp.grn.weight", "grn.gamma"),
        ("mlp.grn.bias", "grn.beta"),
        ("head.norm", "norm"),
    ];
    let renamed = |name: String, (from, to): &(&str, &str)| name.replace(from, to);
    Some(pairs.iter().fold(name, renamed))
}

#[test]
fn files_of_the_original_are_read_with_and_without_the_last_norm() {
    let config = of("{img_size: 32, depths: [1, 2], dims: [6, 10], use_grn: true}");
    let backbone = random(&config, 7);
    let expected = features(&backbone, images(32));
    let mut tensors = spelled(&backbone, facebook);
    // The original keeps vectors with further axes.
    for (name, data) in &mut tensors {
        if name.contains(".grn.") {
            *data = TensorData::new(floats(data.clone()), [1, 1, 1, data.shape()[0]]);
        }
    }
    let (_folder, whole) = file(&tensors);
    let loaded = read(&whole);
    assert_eq!(loaded.layout, "facebook");
    assert_eq!(features(&loaded.backbone, images(32)), expected);

    // A masked autoencoder has no last norm, and a decoder instead.
    tensors.retain(|name, _| !name.starts_with("norm."));
    for name in [
        "decoder.0.dwconv.weight",
        "mask_token",
        "proj.weight",
        "pred.bias",
    ] {
        tensors.insert(name.to_owned(), TensorData::zeros::<f32, _>([3]));
    }
    let (_folder, pretrained) = file(&tensors);
    let loaded = read(&pretrained);
    let remark = loaded
        .remarks
        .iter()
        .find(|remark| remark.contains("lacks"));
    assert!(remark.unwrap().contains("head.norm.bias, head.norm.weight"));
    let plain = Tensors::from([
        (
            "head.norm.weight".to_owned(),
            TensorData::ones::<f32, _>([10]),
        ),
        (
            "head.norm.bias".to_owned(),
            TensorData::zeros::<f32, _>([10]),
        ),
    ]);
    let plain = params::write(backbone, plain).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(
        features(&loaded.backbone, images(32)),
        features(&plain, images(32))
    );
}

#[test]
fn the_hidden_layer_of_a_head_is_passed_on_request() {
    let yaml = "{img_size: 32, depths: [1, 1], dims: [6, 10], head_hidden_size: 7";
    let before = random(&of(&format!("{yaml}}}")), 8);
    let after = of(&format!("{yaml}, features: after}}"));
    let mut tensors = spelled(&before, |name| Some(name.to_owned()));
    let mut generator = Generator::new(2, "head");
    let weight: Vec<f32> = (0..3 * 7).map(|_| generator.normal()).collect();
    tensors.insert("head.fc.weight".into(), TensorData::new(weight, [3, 7]));
    let (_folder, timm) = file(&tensors);
    // A file of open_clip holds the same under other names, beside a text tower.
    let mut renamed: Tensors = tensors
        .clone()
        .into_iter()
        .map(|(name, data)| {
            let name = match name.as_str() {
                "head.fc.weight" => "visual.head.mlp.fc2.weight".to_owned(),
                name if name.starts_with("head.pre_logits.fc") => {
                    name.replace("head.pre_logits.fc", "visual.head.mlp.fc1")
                }
                name => format!("visual.trunk.{name}"),
            };
            (name, data)
        })
        .collect();
    for name in ["transformer.resblocks.0.ln_1.weight", "logit_scale"] {
        renamed.insert(name.to_owned(), TensorData::zeros::<f32, _>([1]));
    }
    let (_folder, clip) = file(&renamed);
    for (file, layout) in [(timm, "timm"), (clip, "open_clip")] {
        let found = read(&file);
        assert_eq!(found.layout, layout);
        let unread = found.unread_head.unwrap();
        assert!(unread.contains("features: after"), "{unread}");
        let expected = features(&before, images(32));
        assert_eq!(features(&found.backbone, images(32)), expected);

        let loaded = load_backbone(built(&after), &file, None).unwrap();
        assert_eq!(loaded.head.unwrap().weight.shape()[..], [3, 7]);
        let weight = Tensor::<2>::from_data(
            tensors["head.pre_logits.fc.weight"].clone(),
            &Device::flex(),
        );
        let bias =
            Tensor::<1>::from_data(tensors["head.pre_logits.fc.bias"].clone(), &Device::flex());
        let normed = Tensor::<1>::from_floats(&expected[..], &Device::flex()).reshape([2, 10]);
        let hidden = peft_ops::gelu(normed.matmul(weight.transpose()) + bias.unsqueeze());
        let got = features(&loaded.backbone, images(32));
        assert_close(layout, &got, &floats(hidden.into_data()), 1e-5, None);
    }
    assert_eq!(after.features, Some(FeaturesAt::After));
}

#[test]
fn a_norm_before_pooling_and_missing_parts_are_recognised() {
    for more in [
        "head_norm_first: true",
        "conv_bias: false",
        "ls_init_value: 0",
        "use_grn: true, ls_init_value: 0.1",
        "patch_size: 2, kernel_sizes: 3",
    ] {
        let backbone = random(
            &of(&format!(
                "{{img_size: 32, depths: [1, 1], dims: [6, 10], {more}}}"
            )),
            9,
        );
        let tensors = spelled(&backbone, |name| Some(name.to_owned()));
        let (_folder, file) = file(&tensors);
        let loaded = read(&file);
        let expected = features(&backbone, images(32));
        assert_eq!(features(&loaded.backbone, images(32)), expected, "{more}");
    }
}

#[test]
fn names_of_every_layout_go_there_and_back() {
    for yaml in ["{variant: convnext_atto}", "{variant: convnextv2_atto}"] {
        let backbone = built(&of(yaml));
        let sites = backbone.spec().sites.iter();
        let layers: Vec<_> = sites
            .filter(|site| !matches!(site.kind, SiteKind::Branch { .. }))
            .collect();
        for layout in backbone.layouts() {
            for site in &layers {
                let theirs = layout.theirs(&site.name).unwrap();
                assert_eq!(layout.ours(&theirs).unwrap(), site.name, "{theirs}");
            }
        }
    }
    let backbone = built(&of("{variant: convnext_tiny}"));
    let named = |layout: &str| {
        let found = backbone.layouts().iter().find(|own| own.name == layout);
        found.unwrap().theirs("stages.2.blocks.1.conv_dw").unwrap()
    };
    assert_eq!(named("torchvision"), "features.5.1.block.0");
    assert_eq!(
        named("transformers"),
        "convnext.encoder.stages.2.layers.1.dwconv"
    );
    assert_eq!(
        named("transformers-dinov3"),
        "model.stages.2.layers.1.depthwise_conv"
    );
    assert_eq!(named("facebook"), "stages.2.1.dwconv");
    let dinov3 = backbone
        .layouts()
        .iter()
        .find(|own| own.name == "transformers-dinov3");
    assert_eq!(dinov3.unwrap().theirs("head.norm").unwrap(), "layer_norm");
    assert_eq!(named("open_clip"), "visual.trunk.stages.2.blocks.1.conv_dw");
}
