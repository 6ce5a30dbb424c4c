//! Recognises a ConvNeXt by the shapes in a checkpoint.

use peft_core::BackboneConfig;
use peft_core::checkpoint::Shapes;

use crate::config::ConvNext;

/// The tensors that show the facts of a ConvNeXt.
pub(crate) const SHOWN_BY: &[(&str, &str)] = &[
    ("patch_size", "stem.0.weight"),
    ("depths", "stages.{s}.blocks.{}.conv_dw.weight"),
    ("dims", "stages.{s}.blocks.0.conv_dw.weight"),
    ("kernel_sizes", "stages.0.blocks.0.conv_dw.weight"),
    ("conv_mlp", "stages.0.blocks.0.mlp.fc1.weight"),
    ("use_grn", "stages.0.blocks.0.mlp.grn.weight"),
    ("conv_bias", "stages.0.blocks.0.conv_dw.bias"),
    ("head_norm_first", "norm_pre.weight"),
    ("head_hidden_size", "head.pre_logits.fc.weight"),
];

/// The configuration of the network with these shapes. They do not reveal the image's size, which
/// stays at its default.
pub(crate) fn recognise(shapes: &Shapes) -> Option<Box<dyn BackboneConfig>> {
    let &[_, 3, patch_size, _] = &shapes.get("stem.0.weight")?[..] else {
        return None;
    };
    let (mut depths, mut dims, mut kernel_sizes) = (Vec::new(), Vec::new(), 7);
    for stage in 0.. {
        let blocks = format!("stages.{stage}.blocks");
        let kernel = shapes.get(&format!("{blocks}.0.conv_dw.weight"));
        let Some(&[width, 1, side, _]) = kernel.as_deref() else {
            break;
        };
        depths.push(shapes.count(&format!("{blocks}.{{}}.conv_dw.weight")));
        dims.push(width);
        kernel_sizes = side;
    }
    if depths.is_empty() || kernel_sizes.is_multiple_of(2) || patch_size == 0 {
        return None;
    }
    let first = |part: &str| format!("stages.0.blocks.0.{part}");
    let fc1 = shapes.get(&first("mlp.fc1.weight"))?;
    let has = |part: &str| shapes.has(&first(part));
    let (use_grn, scaled) = (has("mlp.grn.weight"), has("gamma"));
    let hidden = shapes.get("head.pre_logits.fc.weight");
    // Version 1 has LayerScale, version 2 has GRN instead; anything else is stated.
    let ls_init_value = match (use_grn, scaled) {
        (false, true) | (true, false) => None,
        (false, false) => Some(0.0),
        (true, true) => Some(1e-6),
    };
    // Small images of networks with many stages would not reach the last one.
    let least = patch_size.checked_shl(depths.len() as u32 - 1)?;
    // Defaults are left out, which keeps the YAML short.
    Some(Box::new(ConvNext {
        img_size: (least > 224).then_some(least.into()),
        patch_size: (patch_size != 4).then_some(patch_size),
        depths: Some(depths),
        dims: Some(dims),
        kernel_sizes: (kernel_sizes != 7).then_some(kernel_sizes),
        conv_mlp: (fc1.len() == 4).then_some(true),
        use_grn: use_grn.then_some(true),
        ls_init_value,
        conv_bias: (!has("conv_dw.bias")).then_some(false),
        head_norm_first: shapes.has("norm_pre.weight").then_some(true),
        head_hidden_size: hidden.and_then(|shape| shape.first().copied()),
        ..ConvNext::default()
    }))
}
