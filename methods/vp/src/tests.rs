//! Golden values made with timm and PyTorch, the conformance suite, sizes, and refusals.

use burn::tensor::{Device, Tensor};
use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::activation::Activation;
use peft_core::backbone::{Backbone, Init};
use peft_core::hooks::{BoundaryAct, Draws};
use peft_core::method::AdaptationMethod;
use peft_testing::{Golden, Reference, built, config, conforms, vit};

use crate::{Kind, Vp};

/// A backbone for images of `size` pixels, in patches of 16.
fn at(size: usize) -> Box<dyn Backbone> {
    built(&*config(&format!(
        "{{name: vit, img_size: {size}, patch_size: 16, embed_dim: 48, depth: 1, num_heads: 3}}"
    )))
}

fn border(width: usize) -> Vp {
    Vp {
        kind: Kind::Border,
        width: Some(width),
        ..Vp::default()
    }
}

fn frame(inner: usize, sigmoid: bool) -> Vp {
    Vp {
        kind: Kind::Frame,
        inner: Some(inner.into()),
        sigmoid: Some(sigmoid),
        ..Vp::default()
    }
}

#[test]
fn a_full_prompt_agrees_with_timm() {
    let rename = |name: &str| name.trim_start_matches("vp.").to_owned();
    Golden::fixture("peft/vp_full").check_training(&*vit(), Box::new(Vp::default()), rename);
}

/// The reference trains the whole image behind a mask.
#[test]
fn a_border_agrees_with_timm() {
    let rename = |name: &str| {
        let block = |rows, columns| Reference::slice("prompt", &[0..3, rows, columns]);
        match name {
            "vp.up" => block(0..6, 0..32),
            "vp.down" => block(26..32, 0..32),
            "vp.left" => block(6..26, 0..6),
            "vp.right" => block(6..26, 26..32),
            head => Reference::from(head),
        }
    };
    Golden::fixture("peft/vp_pad").check_training(&*vit(), Box::new(border(6)), rename);
}

#[test]
fn a_frame_agrees_with_the_reference() {
    let rename = |name: &str| name.trim_start_matches("vp.").to_owned();
    Golden::fixture("peft/vp_frame").check_training(&*vit(), Box::new(frame(20, true)), rename);
}

#[test]
fn every_kind_conforms() {
    conforms(&[
        Box::new(Vp::default()),
        Box::new(border(4)),
        Box::new(frame(16, true)),
        Box::new(frame(15, false)),
    ]);
}

#[test]
fn parameters_are_those_of_the_papers() {
    let backbone = at(224);
    let count = |method: Vp| method.formula(&*backbone).unwrap();
    let kind = |kind| Vp {
        kind,
        ..Vp::default()
    };
    assert_eq!(count(kind(Kind::Full)), 150_528);
    assert_eq!(count(kind(Kind::Border)), 69_840);
    assert_eq!(count(kind(Kind::Frame)), 3 * (224 * 224 - 128 * 128));
    assert_eq!(count(frame(127, true)), 3 * (224 * 224 - 127 * 127));
}

/// At 0.5 a pixel is the mean of this backbone; a pixel of 0 is one deviation below it.
#[test]
fn the_pixels_of_a_frame_are_normalised_like_the_image() {
    let backbone = at(32);
    let init = Init::empty(&Device::flex());
    for (sigmoid, outside) in [(true, 0.0), (false, -1.0)] {
        let method = frame(29, sigmoid);
        assert_eq!(method.input(backbone.spec().input).unwrap().size, 29.into());
        let adapter = method.attach(&*backbone, &init).unwrap().adapter.unwrap();
        let Some(BoundaryAct::Function(function)) = adapter.at_boundary(0) else {
            panic!("a frame is a function");
        };
        let image = Tensor::<4>::full([2, 3, 29, 29], 7.0, init.device());
        let framed = function(Activation::Map(image), &Draws::new(None, 0));
        assert_eq!(framed.shape().to_vec(), [2, 3, 32, 32]);
        for (i, value) in framed.to_vec().into_iter().enumerate() {
            let (row, column) = (i / 32 % 32, i % 32);
            // One pixel above and left, two below and right.
            let inside = (1..30).contains(&row) && (1..30).contains(&column);
            assert_eq!(value, if inside { 7.0 } else { outside }, "{row}, {column}");
        }
    }
}

#[test]
fn bad_values_are_refused_by_field() {
    let backbone = at(32);
    let error = |method: Vp| {
        let input = method.input(backbone.spec().input);
        let error = method.formula(&*backbone).unwrap_err().to_string();
        assert_eq!(input.unwrap_err().to_string(), error);
        error
    };
    let range = "on images of 32 pixels, got";
    assert_eq!(
        error(border(16)),
        format!("width: expected 1 to 15 pixels {range} 16")
    );
    assert_eq!(
        error(border(0)),
        format!("width: expected 1 to 15 pixels {range} 0")
    );
    let inner = frame(32, true);
    assert_eq!(
        error(inner),
        format!("inner: expected 1 to 31 pixels {range} 32")
    );
    let kind = |kind, method| Vp { kind, ..method };
    let misplaced = error(kind(Kind::Full, border(4)));
    assert_eq!(misplaced, "width: only kind border has this field");
    let misplaced = error(kind(Kind::Border, frame(4, true)));
    assert_eq!(misplaced, "inner: only kind frame has this field");
    let sigmoid = Vp {
        sigmoid: Some(true),
        ..Vp::default()
    };
    assert_eq!(error(sigmoid), "sigmoid: only kind frame has this field");
}
