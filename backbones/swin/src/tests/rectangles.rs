//! Images that are not square, torchvision's way of cutting windows, and the second version.

use burn::tensor::{Device, Tensor};
use peft_core::activation::Activation;
use peft_core::backbone::{Backbone, Init};
use peft_core::checkpoint::Checkpoint;
use peft_core::hooks::Hooks;
use peft_core::params::floats;
use peft_testing::{FIXTURES, Modern, assert_close, config};

use crate::position_bias::resized;

#[test]
fn networks_on_rectangles_agree_with_timm() {
    for name in ["rectangles/swin", "rectangles/swinv2"] {
        Modern::open(name).check();
    }
}

#[test]
fn torchvisions_files_agree_with_torchvision() {
    for name in ["modern/swin_torchvision", "modern/swinv2_torchvision"] {
        let case = Modern::open(name);
        assert_eq!(case.config.typetag_name(), "swin");
        case.check();
    }
}

#[test]
fn a_table_of_a_square_window_is_resized_to_a_rectangle_as_timm_does() {
    let file = Checkpoint::open(format!("{FIXTURES}/rectangles/tables.safetensors").as_ref());
    let mut tables = file.unwrap().tensors().unwrap();
    let square = tables.remove("4x4").unwrap();
    assert_eq!(tables.len(), 3);
    assert!(resized(&square, [4, 4]).is_none());
    for (name, expected) in tables {
        let (rows, columns) = name.split_once('x').unwrap();
        let window = [rows.parse().unwrap(), columns.parse().unwrap()];
        let got = resized(&square, window).unwrap();
        assert_eq!(got.shape(), expected.shape(), "{name}");
        assert_close(&name, &floats(got), &floats(expected), 1e-6, None);
    }
}

/// A shift that all positions share is the same as one on the bias that the network adds last.
#[test]
fn the_second_version_absorbs_a_shared_prompt_at_every_boundary_but_the_image() {
    let config = config(
        "{name: swin, version: 2, img_size: 16, patch_size: 4, embed_dim: 8, depths: [1, 2], \
         num_heads: [2, 2], window_size: 2}",
    );
    let backbone = config.build(&Init::seeded(&Device::flex(), 3)).unwrap();
    for boundary in backbone.spec().boundaries.iter().skip(1) {
        let channels = boundary.shape.channels();
        let delta = Tensor::<4>::ones([1, 1, 1, channels], &Device::flex());
        let absorbed = backbone.absorb(boundary.index, &Activation::Grid(delta));
        assert_eq!(absorbed.map(|tensors| tensors.len()), Some(1), "{boundary}");
    }
}

#[test]
fn what_belongs_to_the_other_version_is_named() {
    let built = |yaml: &str| config(yaml).build(&Init::empty(&Device::flex())).unwrap();
    let one = built("{name: swin, variant: swin_tiny_patch4_window7_224}");
    let two = built("{name: swin, variant: swinv2_tiny_window8_256}");
    let scale = one.why_not("layers.0.blocks.0.attn.logit_scale").unwrap();
    assert!(scale.ends_with("expected version: 2"), "{scale}");
    let table = two.why_not("layers.0.blocks.0.attn.relative_position_bias_table");
    assert!(table.unwrap().ends_with("expected version: 1"));
    assert_eq!(two.why_not("layers.0.blocks.0.attn.logit_scale"), None);
}

#[test]
fn fields_of_the_second_version_are_checked() {
    let error = |yaml: &str| config(yaml).input().unwrap_err().to_string();
    let version = error("{name: swin, variant: swin_tiny_patch4_window7_224, version: 3}");
    assert_eq!(version, "version: expected 1 or 2, got 3");
    let first = error(
        "{name: swin, variant: swin_tiny_patch4_window7_224, pretrained_window_sizes: [7, 7, 7, 7]}",
    );
    assert_eq!(
        first,
        "pretrained_window_sizes: only version 2 has pretrained windows"
    );
    let count =
        error("{name: swin, variant: swinv2_tiny_window8_256, pretrained_window_sizes: [8]}");
    assert_eq!(
        count,
        "pretrained_window_sizes: expected one size for each of 4 stages, got [8]"
    );
    let sides = error("{name: swin, variant: swinv2_tiny_window8_256, img_size: [256, 250]}");
    assert_eq!(
        sides,
        "img_size: expected multiples of patch_size (4), got 256 x 250"
    );
}

/// With windows larger than the grid, torchvision pads the window where timm shrinks it.
#[test]
fn the_layout_decides_what_becomes_of_a_small_grid() {
    let yaml = "{name: swin, img_size: 12, patch_size: 4, embed_dim: 8, depths: [1], \
                num_heads: [2], window_size: 4}";
    let mut backbone = config(yaml)
        .build(&Init::seeded(&Device::flex(), 1))
        .unwrap();
    let parameters = |backbone: &dyn Backbone| -> usize {
        let infos = peft_core::params::infos_erased(backbone).into_iter();
        infos.map(|info| info.count()).sum()
    };
    let shrunk = parameters(&*backbone);
    backbone.adopt("transformers");
    assert_eq!(parameters(&*backbone), shrunk);
    backbone.adopt("torchvision");
    // 49 offsets of a window of 4 in place of 25 of one of 3, for two heads.
    assert_eq!(parameters(&*backbone), shrunk + 2 * (49 - 25));
    let image = Tensor::<4>::ones([1, 3, 12, 12], &Device::flex());
    let features = backbone.forward(Activation::Map(image), 0..3, &Hooks::none());
    assert_eq!(features.shape().to_vec(), [1, 8]);
}
