//! HF PEFT's folders for each kind of network, by the names of each library.

use std::path::Path;

use burn::tensor::Device;
use peft_core::checkpoint::Checkpoint;
use peft_core::head::LinearHead;
use peft_core::hf_peft::{self, HfPeft};
use peft_core::params::floats;
use peft_core::{AdaptationMethod, Init, Model, Targets, adapter_file};
use peft_testing::{FIXTURES, Modern, assert_close, check_hf_peft, check_modern_hf_peft, config};

use crate::Lora;

/// On convolutions of 1x1 and strided ones, on linear layers and a depthwise convolution, and on a model without
/// a head whose modules have a prefix.
#[test]
fn folders_for_a_convnext_are_read_and_written() {
    for (folder, base, sizes) in [
        (
            "convnext",
            "convnext_timm",
            "depths: [1, 1, 2, 1], dims: [8, 16, 20, 28], conv_mlp: true",
        ),
        (
            "convnext_transformers",
            "convnext_hf",
            "depths: [1, 1, 2, 1], dims: [8, 16, 24, 32]",
        ),
        (
            "convnext_dinov3",
            "dinov3_convnext_hf",
            "depths: [1, 2, 1, 1], dims: [12, 16, 20, 24]",
        ),
    ] {
        let backbone = config(&format!("{{name: convnext, img_size: 64, {sizes}}}"));
        let folder = format!("{FIXTURES}/hf_peft/{folder}");
        check_hf_peft(&folder, &format!("{FIXTURES}/modern/{base}"), &*backbone);
    }
}

/// On every kind of ViT and Swin that is pretrained now, by the names of each library.
#[test]
fn folders_for_modern_networks_are_read_and_written() {
    for (folder, base) in [
        ("dinov3", "dinov3_timm"),
        ("dinov3_transformers", "dinov3_hf"),
        ("dinov3_swiglu", "dinov3_swiglu_timm"),
        ("eva02", "eva02_timm"),
        ("eva02_fused", "eva02_fused_timm"),
        ("siglip", "siglip_map_timm"),
        ("siglip_transformers", "siglip2_hf"),
        ("vit_torchvision", "vit_torchvision"),
        ("swin_torchvision", "swin_torchvision"),
        ("swinv2_torchvision", "swinv2_torchvision"),
    ] {
        check_modern_hf_peft(folder, base);
    }
}

/// timm's Eva reads the weight of `qkv` where queries and values have biases, and `torch.nn.MultiheadAttention`
/// that of its projections, so that what HF PEFT puts around these layers never runs.
#[test]
fn layers_that_the_library_never_runs_are_named_and_not_exported() {
    for (base, site, module, layout) in [
        (
            "eva02_fused_timm",
            "blocks.0.attn.qkv",
            "blocks.0.attn.qkv",
            "timm",
        ),
        (
            "vit_torchvision",
            "blocks.0.attn.proj",
            "encoder.layers.encoder_layer_0.self_attention.out_proj",
            "torchvision",
        ),
        (
            "swin_torchvision",
            "layers.0.blocks.0.attn.qkv",
            "features.1.0.attn.qkv",
            "torchvision",
        ),
        (
            "siglip2_hf",
            "attn_pool.proj",
            "vision_model.head.attention.out_proj",
            "transformers-siglip",
        ),
    ] {
        let backbone = Modern::open(&format!("modern/{base}")).backbone;
        let method: Vec<Box<dyn AdaptationMethod>> = vec![Box::new(Lora {
            targets: Some(Targets::Suffixes(vec![site.to_owned()])),
            ..Lora::default()
        })];
        let init = Init::seeded(&Device::flex(), 0);
        let head = LinearHead::new(backbone.spec().features, 3, &init);
        let model = Model::assemble(backbone.clone(), &method, head, &init).unwrap();
        let layout = hf_peft::layout(layout, &*backbone).unwrap();
        let values = adapter_file::tensors(&model);
        let error = hf_peft::export(&method, &*backbone, &layout, &values).unwrap_err();
        let expected = format!(
            "an adapter of HF PEFT has no effect at {module}, whose weight the attention of"
        );
        assert!(error.to_string().contains(&expected), "{base}: {error}");
    }

    // The library's own logits show that the adapter has no effect there.
    let base = Modern::open("modern/eva02_fused_timm");
    let folder = Path::new(FIXTURES).join("hf_peft/eva02_fused_qkv");
    let io = Checkpoint::open(&folder.join("io.safetensors")).unwrap();
    let (logits, plain) = (&io.tensors().unwrap()["logits"], &base.io["logits"]);
    let logits = floats(logits.clone());
    assert_close(
        "logits",
        &logits,
        &floats(plain.clone())[..logits.len()],
        2e-5,
        None,
    );
    let given = HfPeft::read(&folder).unwrap();
    let remarks = hf_peft::import(given, &*base.backbone)
        .unwrap()
        .remarks
        .join("\n");
    let expected = "adapters at blocks.0.attn.qkv, blocks.1.attn.qkv never run in the library";
    assert!(remarks.contains(expected), "{remarks}");
}
