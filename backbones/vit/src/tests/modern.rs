//! Files of the networks that are pretrained now: every boundary, the features and the logits agree with the
//! library, and each file is recognised by its keys and shapes alone.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use peft_core::attention::AttentionRecord;
use peft_core::checkpoint::{Checkpoint, foreign, recognise};
use peft_core::hooks::Hooks;
use peft_core::params;
use peft_core::{Activation, BackboneConfig, Init};
use peft_testing::{Modern, assert_close};
use serde_json::json;

use crate::Vit;

/// The folders, and the layouts under which their files are read.
const FOLDERS: [(&str, &str); 14] = [
    ("dinov3_timm", "timm"),
    ("dinov3_swiglu_timm", "timm"),
    ("dinov3_meta", "dinov3"),
    ("dinov3_hf", "transformers-4-dinov3"),
    ("eva02_timm", "timm"),
    ("eva02_fused_timm", "timm"),
    ("eva02_clip_timm", "timm"),
    ("siglip_map_timm", "timm"),
    ("siglip2_hf", "transformers-siglip"),
    ("mae_timm", "timm"),
    ("mae_finetuned_timm", "timm"),
    ("mocov3", "moco-v3"),
    ("vit_torchvision", "torchvision"),
    ("vit_rect", "timm"),
];

#[test]
fn every_boundary_of_every_file_agrees_with_the_library() {
    for (name, layout) in FOLDERS {
        let case = Modern::open(&format!("modern/{name}"));
        case.check();
        let said = case.remarks.join("\n");
        let named = format!("the checkpoint has the names of {layout}");
        assert_eq!(layout != "timm", said.contains(&named), "{name}: {said}");
    }
}

/// A step in a random direction changes a random sum of the features by the gradient times the direction, for
/// every kind of network: what reaches the images has passed through all operations.
#[test]
fn gradients_of_the_images_are_finite_differences() {
    for (name, _) in FOLDERS {
        let case = Modern::open(&format!("modern/{name}"));
        let last = case.backbone.spec().features_cut();
        let device = burn::tensor::Device::flex();
        let images = Tensor::<4>::from_data(case.io["images"].clone(), &device);
        let noise = |shape: [usize; 4], name: &str| {
            let init = peft_core::Init::seeded(&device, 3);
            init.tensor(
                name,
                shape,
                peft_core::random::Distribution::Normal(0.0, 1.0),
            )
        };
        let direction = noise(images.dims(), "direction");
        let weights = noise(
            [1, 1, images.dims()[0], case.backbone.spec().features],
            "weights",
        );
        let weights = weights.reshape([images.dims()[0] as i32, -1]);
        let sum = |images: Tensor<4>| {
            let x = case
                .backbone
                .forward(Activation::Map(images), 0..last, &Hooks::none());
            (x.features().unwrap() * weights.clone()).sum()
        };
        let value = |step: f64| -> f64 {
            let moved = images.clone() + direction.clone() * step;
            sum(moved).into_data().iter::<f64>().sum()
        };
        let difference = (value(1e-2) - value(-1e-2)) / 2e-2;
        let tracked = Tensor::from_inner(images.clone()).require_grad();
        let x = Activation::Map(tracked.clone());
        let backbone = burn::module::Module::train(case.backbone.clone());
        let x = backbone.forward(x, 0..last, &Hooks::none());
        let loss = (x.features().unwrap() * Tensor::from_inner(weights.clone())).sum();
        let gradient = tracked.grad(&loss.backward()).unwrap();
        let slope: f64 = (gradient * direction.clone())
            .sum()
            .into_data()
            .iter::<f64>()
            .sum();
        let error = (slope - difference).abs() / slope.abs().max(1.0);
        assert!(error < 2e-2, "{name}: {slope}, by differences {difference}");
    }
}

/// The weights that are recorded mix the values that attention returns, also with rotary positions.
#[test]
fn recorded_attention_is_that_of_the_rotated_queries_and_keys() {
    let case = Modern::open("modern/dinov3_timm");
    let record = AttentionRecord::default();
    let x = Activation::from(Tensor::from_data(
        case.io["boundary.1"].clone(),
        &burn::tensor::Device::flex(),
    ));
    let moved = |x: Activation, hooks: &Hooks| case.backbone.forward(x, 1..2, hooks).to_vec();
    let plain = moved(x.clone(), &Hooks::none());
    let recorded = moved(x, &Hooks::none().recording(&record));
    assert_close("boundary 2", &recorded, &plain, 0.0, None);
    let attended = record.take();
    let [_, heads, n, _] = attended[0].weights.dims();
    assert_eq!((attended.len(), heads, n), (1, 2, 1 + 4 + 16));
}

/// Where the library's files leave the pooling open, the layout decides, and the configuration overrides it.
#[test]
fn dinov3_averages_in_timms_names_only() {
    for (name, pool) in [
        ("dinov3_timm", "avg"),
        ("dinov3_hf", "token"),
        ("dinov3_meta", "token"),
    ] {
        let found = Modern::recognised(&format!("modern/{name}"));
        let config = serde_json::to_value(&found.config).unwrap();
        assert_eq!(config["global_pool"], pool, "{name}");
    }
}

/// Its blocks norm the output of their branches, and its tensors have the names and shapes of blocks that do not.
#[test]
fn eva02_enormous_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let seen = |tensor: &str| {
        let path = folder.path().join("eva.safetensors");
        let values = TensorData::new(vec![0f32; 1792], [1792]);
        let tensors = [(tensor.to_owned(), values)].into();
        peft_core::weights::write(&path, &tensors, HashMap::new()).unwrap();
        foreign(&Checkpoint::open(&path).unwrap())
    };
    let (_, reason) = seen("visual.trunk.blocks.63.attn.q_bias").unwrap();
    assert!(reason.contains("eva02_enormous"), "{reason}");
    assert!(seen("blocks.62.attn.q_bias").is_none());
}

/// No shape shows the heads, so a file is read as a variant with its own heads, or a remark names that variant.
#[test]
fn a_variant_is_not_read_with_the_heads_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let named =
        |variant: &str| -> Vit { serde_json::from_value(json!({ "variant": variant })).unwrap() };
    for variant in [
        "vit_base_patch16_224",
        "vit_base_patch16_siglip_224",
        "vit_base_patch16_siglip_gap_224",
        "vit_base_patch16_gap_224",
    ] {
        let config = named(variant);
        let backbone = config.build(&Init::empty(&Device::flex())).unwrap();
        let path = folder.path().join(format!("{variant}.safetensors"));
        let infos = params::infos_erased(&*backbone).into_iter();
        let parameters = infos.filter(|info| !info.buffer);
        write_without_values(&path, parameters.map(|info| (info.name, info.shape)));
        let found = recognise(&Checkpoint::open(&path).unwrap(), None);
        let found = found.unwrap().unwrap();
        let heads = |config: &dyn BackboneConfig| config.facts().unwrap()["num_heads"].clone();
        let remarked = found.unsure.iter().any(|remark| remark.contains(variant));
        let same = heads(&*found.config) == heads(&config);
        assert!(same || remarked, "{variant}: {:?}", found.config);
        // Twelve heads in one, sixteen in the other, and nothing else.
        let ambiguous = variant.contains("gap");
        let unsure = found
            .unsure
            .iter()
            .any(|remark| remark.contains("num_heads"));
        assert_eq!(unsure, ambiguous, "{variant}: {:?}", found.unsure);
    }
}

/// Transformers' tower pools by attention and approximates GELU, as the published variant of SigLIP does. Several
/// variants have the shapes of its blocks.
#[test]
fn a_siglip_tower_of_transformers_is_the_published_variant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut all: Vec<(String, Vec<usize>)> = vec![
        (
            "embeddings.patch_embedding.weight".to_owned(),
            vec![768, 3, 16, 16],
        ),
        ("embeddings.patch_embedding.bias".to_owned(), vec![768]),
        (
            "embeddings.position_embedding.weight".to_owned(),
            vec![196, 768],
        ),
        ("head.probe".to_owned(), vec![1, 1, 768]),
        ("head.attention.in_proj_weight".to_owned(), vec![2304, 768]),
        ("head.attention.in_proj_bias".to_owned(), vec![2304]),
    ];
    let mut affine = |name: String, shape: &[usize]| {
        all.push((format!("{name}.weight"), shape.to_vec()));
        all.push((format!("{name}.bias"), shape[..1].to_vec()));
    };
    let blocks = (0..12).map(|layer| format!("encoder.layers.{layer}"));
    for block in blocks.clone() {
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            affine(format!("{block}.self_attn.{part}"), &[768, 768]);
        }
        for norm in ["layer_norm1", "layer_norm2"] {
            affine(format!("{block}.{norm}"), &[768]);
        }
    }
    for block in blocks.chain(["head".to_owned()]) {
        affine(format!("{block}.mlp.fc1"), &[3072, 768]);
        affine(format!("{block}.mlp.fc2"), &[768, 3072]);
    }
    affine("head.attention.out_proj".to_owned(), &[768, 768]);
    for norm in ["head.layernorm", "post_layernorm"] {
        affine(norm.to_owned(), &[768]);
    }
    let named = all
        .into_iter()
        .map(|(name, shape)| (format!("vision_model.{name}"), shape));
    write_without_values(&path, named);
    let found = recognise(&Checkpoint::open(&path).unwrap(), None);
    let config = serde_json::to_value(&found.unwrap().unwrap().config).unwrap();
    assert_eq!(config["variant"], "vit_base_patch16_siglip_224", "{config}");
}

/// Writes a safetensors file whose values are a hole in the file.
fn write_without_values(path: &Path, tensors: impl Iterator<Item = (String, Vec<usize>)>) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        let tensor = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(name, tensor);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}
