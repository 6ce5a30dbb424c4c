//! Agreement with golden values made with timm and transformers, and what is refused.

mod rectangles;

use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use peft_core::checkpoint::{Checkpoint, Loaded, load_backbone};
use peft_core::hf_peft::{HfPeft, layout_of};
use peft_core::params::{self, floats};
use peft_core::random::Distribution;
use peft_core::site::SiteKind;
use peft_core::{Activation, BackboneConfig, BoxedBackbone, Hooks, Init, LinearHead, Plug};
use peft_testing::{Golden, assert_close};

use crate::Swin;
use crate::position_bias::resized;

fn golden(name: &str) -> Golden {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/");
    Golden::open(format!("{fixtures}{name}"))
}

/// Maps of 16 and 8 under windows of 4.
fn tiny() -> Swin {
    Swin {
        img_size: Some(32.into()),
        patch_size: Some(2),
        embed_dim: Some(16),
        depths: Some(vec![2, 2]),
        num_heads: Some(vec![2, 4]),
        window_size: Some(4),
        ..Swin::default()
    }
}

/// Maps of 9, 5 and 3 under windows of 4.
fn padded() -> Swin {
    Swin {
        img_size: Some(36.into()),
        patch_size: Some(4),
        embed_dim: Some(8),
        depths: Some(vec![2, 2, 2]),
        num_heads: Some(vec![2, 2, 4]),
        window_size: Some(4),
        mlp_ratio: Some(2.0),
        ..Swin::default()
    }
}

fn built(config: &Swin) -> BoxedBackbone {
    Plug::new(config.build(&Init::empty(&Device::flex())).unwrap())
}

fn loaded(golden: &Golden, config: &Swin) -> (BoxedBackbone, LinearHead) {
    let file = Checkpoint::open(&golden.folder().join("weights.safetensors")).unwrap();
    let loaded = load_backbone(built(config), &file, None).unwrap();
    let (backbone, head) = (loaded.backbone, loaded.head);
    let head = LinearHead::from_checkpoint(head.unwrap(), &Device::flex());
    (backbone, head)
}

fn images(golden: &Golden) -> Tensor<4> {
    Tensor::from_data(golden.io["images"].clone(), &Device::flex())
}

/// Compares the activation after each cut, and the logits.
fn check(golden: &Golden, config: &Swin, names: &[&str]) {
    let (backbone, head) = loaded(golden, config);
    assert_eq!(backbone.spec().features_cut(), names.len());
    let mut x = Activation::Map(images(golden));
    for (cut, name) in names.iter().enumerate() {
        x = backbone.forward(x, cut..cut + 1, &Hooks::none());
        assert_close(name, &x.to_vec(), &golden.values(name), 1e-5, None);
        if let Some(boundary) = backbone.spec().boundaries.get(cut + 1) {
            let shape = x.shape().to_vec();
            assert_eq!(boundary.shape.dims(), shape[1..], "{boundary}");
        }
    }
    let logits = Activation::Features(head.forward(x.features().unwrap()));
    let expected = golden.values("logits");
    assert_close("logits", &logits.to_vec(), &expected, 1e-5, None);
}

#[test]
fn every_boundary_agrees_with_timm() {
    let names = [
        "patch_embed",
        "stage.0.block.0",
        "stage.1.downsample",
        "stage.1.block.0",
        "stage.1.block.1",
        "features",
    ];
    check(&golden("swin_tiny"), &tiny(), &names);
}

#[test]
fn padded_maps_and_one_no_larger_than_a_window_agree_with_timm() {
    let names = [
        "patch_embed",
        "stage.0.block.0",
        "stage.1.downsample",
        "stage.1.block.0",
        "stage.2.downsample",
        "stage.2.block.0",
        "stage.2.block.1",
        "features",
    ];
    check(&golden("swin_padded"), &padded(), &names);
}

#[test]
fn gradients_agree_with_timm() {
    let golden = golden("swin_padded");
    let (backbone, head) = loaded(&golden, &padded());
    let (backbone, head) = (backbone.train(), head.train());
    let images = Tensor::from_inner(images(&golden)).require_grad();
    let span = 0..backbone.spec().features_cut();
    let x = backbone.forward(Activation::Map(images.clone()), span, &Hooks::none());
    let weights = golden.io["loss_weights"].clone();
    let weights = Tensor::<2>::from_data(weights, &Device::flex().autodiff());
    let loss = (head.forward(x.features().unwrap()) * weights).sum();
    let gradients = loss.backward();
    let of_images = images.grad(&gradients).unwrap().into_data();
    let gradients = GradientsParams::from_grads(gradients, &backbone);
    let mut gradients = params::gradients(&backbone, &gradients);
    gradients.insert("images".to_owned(), of_images);
    let expected = golden.group("grad.");
    assert_eq!(expected.len(), 14);
    for (name, expected) in expected {
        let got = floats(gradients[&name].clone());
        assert_close(&name, &got, &floats(expected), 2e-5, None);
    }
}

#[test]
fn a_downsampling_counts_with_the_block_before_it() {
    let backbone = built(&padded());
    let spec = backbone.spec();
    for (name, block) in [
        ("patch_embed.norm", 0),
        ("layers.0.blocks.1.attn.proj", 2),
        ("layers.1.downsample.reduction", 2),
        ("layers.1.blocks.0.norm1", 3),
        ("layers.2.downsample.norm", 4),
        ("norm", 7),
    ] {
        assert_eq!(spec.site(name).unwrap().block, block, "{name}");
    }
    let order: Vec<_> = spec.sites.iter().map(|site| site.block).collect();
    assert!(order.is_sorted());
    let table = "layers.1.blocks.1.attn.relative_position_bias_table";
    assert_eq!(spec.block_of(table), 4);
    let at = spec.boundary(3).unwrap().to_string();
    assert_eq!(at, "boundary 3 (input of layers.1.blocks.0)");
    assert!((0..=7).all(|boundary| !spec.takes_extras(boundary)));
    let qkv = spec.site("layers.2.blocks.0.attn.qkv").unwrap();
    assert_eq!(qkv.slices[1].name, "layers.2.blocks.0.attn.key");
    let (inputs, outputs) = (32, 96);
    assert_eq!(qkv.kind, SiteKind::Linear { inputs, outputs });
}

#[test]
fn a_shared_prompt_is_absorbed_where_a_bias_comes_before_it() {
    let init = Init::seeded(&Device::flex(), 5);
    let backbone: BoxedBackbone = Plug::new(padded().build(&init).unwrap());
    let images = images(&golden("swin_padded"));
    let run = |backbone: &BoxedBackbone, x, span| backbone.forward(x, span, &Hooks::none());
    let (image, last) = (Activation::Map(images), backbone.spec().features_cut());
    for (boundary, width) in [(1, 8), (2, 8), (3, 16), (4, 16), (7, 32)] {
        let values = Distribution::Normal(0.0, 0.5);
        let delta = Activation::Grid(init.tensor("delta", [1, 1, 1, width], values));
        let Some(tensors) = backbone.absorb(boundary, &delta) else {
            assert_eq!(boundary, 3, "behind a downsampling");
            continue;
        };
        let x = run(&backbone, image.clone(), 0..boundary).plus(delta);
        let expected = run(&backbone, x, boundary..last);
        let absorbed = params::write(backbone.clone(), tensors);
        let absorbed = absorbed.unwrap_or_else(|mismatch| panic!("{mismatch:?}"));
        let got = run(&absorbed, image.clone(), 0..last);
        let what = format!("boundary {boundary}");
        assert_close(&what, &got.to_vec(), &expected.to_vec(), 1e-5, None);
    }
}

#[test]
fn variants_have_the_published_numbers_of_parameters() {
    let count = |variant: &str| {
        let backbone = built(&Swin {
            variant: Some(variant.into()),
            ..Swin::default()
        });
        let infos = params::infos(&backbone);
        let count: usize = infos.iter().map(|info| info.count()).sum();
        count + 1000 * (backbone.spec().features + 1)
    };
    assert_eq!(count("swin_tiny_patch4_window7_224"), 28_288_354);
    assert_eq!(count("swin_small_patch4_window7_224"), 49_606_258);
    assert_eq!(count("swin_base_patch4_window7_224"), 87_768_224);
    assert_eq!(count("swin_base_patch4_window12_384"), 87_903_584);
    assert_eq!(count("swin_large_patch4_window7_224"), 196_532_476);
    assert_eq!(count("swin_large_patch4_window12_384"), 196_735_516);
    assert_eq!(count("swin_s3_tiny_224"), 28_328_674);
    assert_eq!(count("swin_s3_small_224"), 49_737_298);
    assert_eq!(count("swin_s3_base_224"), 71_125_762);
}

/// The model of `fixtures/swin_checkpoints`: maps of 16, 8 and 4 under windows of 4.
fn spelled() -> Swin {
    Swin {
        img_size: Some(32.into()),
        patch_size: Some(2),
        embed_dim: Some(8),
        depths: Some(vec![2, 2, 1]),
        num_heads: Some(vec![2, 2, 4]),
        window_size: Some(4),
        ..Swin::default()
    }
}

fn checkpoint(name: &str) -> Checkpoint {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/swin_checkpoints/"
    );
    Checkpoint::open(&Path::new(folder).join(name)).unwrap()
}

fn read(config: &Swin, name: &str, forced: Option<&str>) -> peft_core::Result<Loaded> {
    load_backbone(built(config), &checkpoint(name), forced)
}

#[test]
fn every_spelling_gives_the_logits_of_transformers() {
    let io = checkpoint("io.safetensors").tensors().unwrap();
    let expected = |name: &str| floats(io[name].clone());
    let values = |loaded: &Loaded| params::read(&loaded.backbone, |_| true);
    let reference = values(&read(&spelled(), "weights.safetensors", None).unwrap());
    for (name, layout) in [
        ("weights.safetensors", "timm"),
        ("microsoft.pth", "microsoft"),
        ("transformers.safetensors", "transformers"),
        ("transformers-4.safetensors", "transformers-4"),
    ] {
        let loaded = read(&spelled(), name, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(loaded.layout, layout, "{name}");
        assert!(values(&loaded) == reference, "{name}");
        let forced = read(&spelled(), name, Some(layout)).unwrap();
        assert!(values(&forced) == reference, "{name}");
        let head = LinearHead::from_checkpoint(loaded.head.unwrap(), &Device::flex());
        let backbone = loaded.backbone;
        let mut x = Activation::Map(Tensor::from_data(io["images"].clone(), &Device::flex()));
        for (span, expected_at) in [
            (0..1, Some("map.0")),
            (1..3, Some("map.1")),
            (3..5, Some("map.2")),
            (5..6, Some("map.3")),
            (6..7, None),
        ] {
            x = backbone.forward(x, span, &Hooks::none());
            if let Some(at) = expected_at {
                let what = format!("{name}: {at}");
                assert_close(&what, &x.to_vec(), &expected(at), 1e-5, None);
            }
        }
        let logits = Activation::Features(head.forward(x.features().unwrap()));
        assert_close(name, &logits.to_vec(), &expected("logits"), 1e-5, None);
    }
}

#[test]
fn names_of_every_layout_go_there_and_back() {
    let backbone = built(&spelled());
    let spec = backbone.spec();
    let of = |name: &str| {
        let found = backbone.layouts().iter().find(|layout| layout.name == name);
        *found.unwrap()
    };
    for layout in backbone.layouts() {
        let modules = spec.sites.iter().filter(|site| !is_branch(&site.kind));
        for module in modules {
            let names = match layout.name {
                "microsoft" | "torchvision" => vec![&module.name],
                _ if module.slices.is_empty() => vec![&module.name],
                _ => module.slices.iter().map(|slice| &slice.name).collect(),
            };
            for name in names {
                let theirs = layout.theirs(name).unwrap();
                assert_eq!(layout.ours(&theirs).unwrap(), *name, "{theirs}");
            }
        }
    }
    for (layout, theirs) in [
        ("microsoft", "layers.0.downsample.reduction"),
        ("torchvision", "features.2.reduction"),
        ("transformers", "swin.encoder.layers.0.downsample.reduction"),
        (
            "transformers-4",
            "swin.encoder.layers.0.downsample.reduction",
        ),
    ] {
        let name = "layers.1.downsample.reduction";
        assert_eq!(of(layout).theirs(name).unwrap(), theirs);
        let bare = theirs.trim_start_matches("swin.");
        assert_eq!(of(layout).ours(bare).unwrap(), name);
    }
}

fn is_branch(kind: &SiteKind) -> bool {
    matches!(kind, SiteKind::Branch { .. })
}

#[test]
fn an_adapter_that_fits_two_layouts_is_read_under_the_canonical_one() {
    let backbone = built(&spelled());
    let layout = |names: &[&str]| {
        let mut given = HfPeft::default();
        for name in names {
            let data = TensorData::zeros::<f32, _>([1]);
            given.tensors.insert((*name).to_owned(), data);
        }
        layout_of(&given, &*backbone).name
    };
    let merged = "layers.1.downsample.reduction.lora_A.weight";
    let fused = "layers.1.blocks.0.attn.qkv.lora_A.weight";
    assert_eq!(layout(&[merged, fused]), "timm");
    assert_eq!(layout(&[merged, "head.fc.weight"]), "timm");
    assert_eq!(layout(&[fused, "head.weight"]), "microsoft");
    let first = "layers.0.downsample.reduction.lora_A.weight";
    assert_eq!(layout(&[first, fused]), "microsoft");
    let theirs = "swin.encoder.layers.1.blocks.0.attention.q_proj.lora_A.weight";
    assert_eq!(layout(&[theirs, "classifier.bias"]), "transformers");
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused_with_both_sets() {
    let error = |config: &Swin, name: &str, forced| {
        let error = read(config, name, forced).err().unwrap();
        error.to_string()
    };
    let wrong = error(&spelled(), "microsoft.pth", Some("timm"));
    for part in [
        "(names read as timm)",
        "5 keys that nothing takes: head.bias, head.weight, layers.0.downsample.norm.bias",
        "3 parameters that nothing fills: layers.2.downsample.norm",
    ] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
    let unknown = error(&spelled(), "microsoft.pth", Some("keras"));
    let known = "layout: expected one of timm, microsoft, transformers, transformers-4, torchvision, \
                 got";
    assert!(unknown.contains(known), "{unknown}");
    // A table is resized between windows, not between numbers of heads.
    let heads = Swin {
        num_heads: Some(vec![2, 4, 4]),
        window_size: Some(3),
        ..spelled()
    };
    let heads = error(&heads, "weights.safetensors", None);
    let table =
        "layers.1.blocks.0.attn.relative_position_bias_table: expected [25, 4], got [49, 2]";
    assert!(heads.contains(table), "{heads}");
}

#[test]
fn bias_tables_of_other_windows_are_resized_as_timm_does() {
    let given = checkpoint("tables.safetensors").tensors().unwrap();
    let expected = checkpoint("resized.safetensors").tensors().unwrap();
    assert_eq!(given.len(), 7);
    for (name, table) in given {
        let (_, size) = name.split_once('-').unwrap();
        let got = resized(&table, [size.parse().unwrap(); 2]).unwrap();
        assert_eq!(got.shape(), expected[&name].shape(), "{name}");
        let expected = floats(expected[&name].clone());
        assert_close(&name, &floats(got), &expected, 1e-6, None);
    }
}

#[test]
fn a_checkpoint_of_another_window_or_resolution_is_resized_with_a_remark() {
    let wide = Swin {
        img_size: Some(64.into()),
        window_size: Some(6),
        ..spelled()
    };
    let resizings = |config: &Swin, name: &str| {
        let mut remarks = read(config, name, None).unwrap().remarks;
        remarks.retain(|remark| remark.contains("is resized"));
        remarks
    };
    let tables = resizings(&wide, "microsoft.pth");
    assert_eq!(tables.len(), 5);
    let table = "layers.0.blocks.1.attn.relative_position_bias_table";
    let expected = format!("backbone: {table} is resized from [49, 2] to [121, 2]");
    assert!(tables.contains(&expected), "{tables:?}");
    // At half the resolution the last map is smaller than a window.
    let small = Swin {
        img_size: Some(16.into()),
        ..spelled()
    };
    let table = "layers.2.blocks.0.attn.relative_position_bias_table";
    let expected = format!("backbone: {table} is resized from [49, 4] to [9, 4]");
    assert_eq!(resizings(&small, "weights.safetensors"), [expected]);
}

#[test]
fn sizes_that_do_not_fit_are_refused_by_field() {
    let message = |change: fn(&mut Swin)| {
        let mut config = tiny();
        change(&mut config);
        config.input().unwrap_err().to_string()
    };
    let odd = message(|swin| swin.img_size = Some(33.into()));
    let expected = "img_size: expected a multiple of patch_size (2), got 33";
    assert_eq!(odd, expected);
    let heads = message(|swin| swin.num_heads = Some(vec![2, 3]));
    let expected =
        "num_heads: expected one divisor of its channels for each stage ([16, 32]), got [2, 3]";
    assert_eq!(heads, expected);
    let stages = message(|swin| swin.depths = Some(vec![2, 2, 2]));
    assert!(stages.starts_with("num_heads: "), "{stages}");
    let empty = message(|swin| swin.depths = Some(vec![2, 0]));
    assert!(empty.starts_with("depths: "), "{empty}");
    let window = message(|swin| swin.window_size = Some(0));
    assert_eq!(window, "window_size: expected at least 1, got 0");
    let ratio = message(|swin| swin.mlp_ratio = Some(f64::NAN));
    assert!(ratio.starts_with("mlp_ratio: "), "{ratio}");
    let width = message(|swin| swin.embed_dim = None);
    assert_eq!(
        width,
        "embed_dim: expected a value, or a `variant` that has one"
    );
    let typo = message(|swin| swin.variant = Some("swin_tiny_patch4_window8_224".into()));
    assert!(typo.contains("did you mean \"swin_tiny_patch4_window7_224\"?"));
}
