//! Images that are not square, and the grids that position embeddings belong to.

use burn::tensor::Device;
use peft_core::attention::AttentionGrid;
use peft_core::backbone::{Backbone, ImageSize, Init};
use peft_core::checkpoint::{Checkpoint, recognise};
use peft_core::params::floats;
use peft_testing::{FIXTURES, Modern, assert_close, config};

use crate::positions::resampled;
use crate::recognise::Grid;

fn built(yaml: &str) -> Box<dyn Backbone> {
    let built = config(yaml).build(&Init::empty(&Device::flex()));
    built.unwrap()
}

#[test]
fn a_network_on_a_rectangle_agrees_with_timm() {
    let case = Modern::open("modern/vit_rect");
    case.check();
    assert_eq!(case.config.input().unwrap().size, [64, 32].into());
    let grid = case.backbone.attention_grid(1).unwrap();
    let expected = AttentionGrid {
        prefix: 3,
        grid: [8, 4],
        patch: 8,
        windows: false,
    };
    assert_eq!(grid, expected);
}

#[test]
fn positions_are_resampled_to_rectangles_as_timm_does() {
    let file = Checkpoint::open(format!("{FIXTURES}/rectangles/positions.safetensors").as_ref());
    let tensors = file.unwrap().tensors().unwrap();
    let mut checked = 0;
    for (name, expected) in &tensors {
        let Some((from, to)) = name.split_once('.') else {
            continue;
        };
        let grid = |text: &str| {
            let (rows, columns) = text.split_once('x').unwrap();
            [rows, columns].map(|side| side.parse::<usize>().unwrap())
        };
        // A square is what is assumed without a statement.
        let stored = (from != "4x4").then(|| grid(from));
        let got = resampled(&tensors[from], 1, grid(to), stored)
            .unwrap()
            .unwrap();
        let expected = floats(expected.clone());
        assert_close(name, &floats(got), &expected, 1e-6, None);
        checked += 1;
    }
    assert_eq!(checked, 6);
}

#[test]
fn only_another_grid_is_resampled_and_one_that_is_unknown_is_refused() {
    let positions = |count: usize| {
        let values = (0..count * 2).map(|i| i as f32).collect::<Vec<_>>();
        burn::tensor::TensorData::new(values, [1, count, 2])
    };
    let same = |count, grid, stored| {
        resampled(&positions(count), 0, grid, stored)
            .unwrap()
            .is_none()
    };
    assert!(same(48, [6, 8], None));
    assert!(same(48, [6, 8], Some([6, 8])));
    assert!(same(16, [4, 4], None));
    // As many positions in another grid.
    assert!(!same(48, [8, 6], Some([6, 8])));
    assert!(!same(16, [2, 8], None));
    // A file beside the weights may describe other images than they are for.
    assert!(same(48, [6, 8], Some([14, 14])));
    let error = resampled(&positions(48), 0, [5, 5], None).unwrap_err();
    assert!(
        error.starts_with("48 positions are no square; expected `img_size`"),
        "{error}"
    );
}

#[test]
fn positions_show_their_grid_as_far_as_their_number_does() {
    let grid = |positions, prefix, bare, stated: Option<[usize; 2]>| {
        let grid = Grid::of(positions, prefix, bare, stated.map(ImageSize::from)).unwrap();
        (
            grid.size.sides(),
            grid.no_embed_class,
            grid.unsure.is_some(),
        )
    };
    assert_eq!(grid(197, 1, false, None), ([14, 14], false, false));
    // DeiT III and registers: the positions are those of the patches alone.
    assert_eq!(grid(196, 1, true, None), ([14, 14], true, false));
    // 49 positions may be 7 x 7, or 6 x 8 and a class token; networks without LayerScale have the latter.
    assert_eq!(grid(49, 1, false, None), ([6, 8], false, true));
    assert_eq!(grid(49, 1, true, None), ([7, 7], true, false));
    for (stated, bare) in [([7, 7], false), ([8, 6], true)] {
        let (size, _, unsure) = grid(49, 1, bare, Some(stated));
        assert_eq!((size, unsure), (stated, false));
    }
    assert_eq!(grid(35, 3, true, None), ([4, 8], false, true));
}

#[test]
fn the_other_value_of_no_embed_class_is_named_instead_of_resampling() {
    let sizes = "patch_size: 8, embed_dim: 8, depth: 1, num_heads: 2, img_size: [48, 64]";
    let error = |options: &str, count: usize| {
        let backbone = built(&format!("{{name: vit, {sizes}, {options}}}"));
        let zeros = burn::tensor::TensorData::zeros::<f32, _>([1, count, 8]);
        backbone.resized("pos_embed", &zeros, None).unwrap_err()
    };
    let with_class = error("no_embed_class: true", 49);
    assert!(
        with_class.ends_with("expected no_embed_class: false"),
        "{with_class}"
    );
    let without = error("no_embed_class: false", 48);
    assert!(
        without.ends_with("expected no_embed_class: true"),
        "{without}"
    );
}

#[test]
fn a_size_that_patches_do_not_divide_is_refused_with_both_sides() {
    let config = config(
        "{name: vit, img_size: [32, 30], patch_size: 8, embed_dim: 8, depth: 1, num_heads: 2}",
    );
    let error = config.input().unwrap_err().to_string();
    assert_eq!(
        error,
        "img_size: expected multiples of patch_size (8), got 32 x 30"
    );
}

#[test]
fn a_file_whose_positions_are_no_square_says_that_its_sides_are_a_guess() {
    let path = format!("{FIXTURES}/modern/vit_rect/weights.safetensors");
    let file = Checkpoint::open(path.as_ref()).unwrap();
    let found = recognise(&file, None).unwrap().unwrap();
    assert_eq!(found.config.input().unwrap().size, [32, 64].into());
    assert!(
        found.unsure[0].starts_with("img_size is a guess: 32 patches"),
        "{:?}",
        found.unsure
    );
    let file = file.with_image_size(Some([64, 32].into()));
    let found = recognise(&file, None).unwrap().unwrap();
    assert_eq!(found.config.input().unwrap().size, [64, 32].into());
    assert_eq!(found.unsure, Vec::<String>::new());
}
