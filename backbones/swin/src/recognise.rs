//! Recognises a Swin Transformer by the shapes in a checkpoint.

use peft_core::BackboneConfig;
use peft_core::checkpoint::Shapes;

use crate::config::Swin;

/// The tensors that show the facts of a Swin Transformer.
pub(crate) const SHOWN_BY: &[(&str, &str)] = &[
    ("embed_dim", "patch_embed.proj.weight"),
    ("patch_size", "patch_embed.proj.weight"),
    ("depths", "layers.{s}.blocks.{}.norm1.weight"),
    (
        "num_heads",
        "layers.{s}.blocks.0.attn.relative_position_bias_table",
    ),
    ("mlp_ratio", "layers.0.blocks.0.mlp.fc1.weight"),
    ("qkv_bias", "layers.0.blocks.0.attn.qkv.bias"),
];

/// The configuration of the network with these shapes. They do not reveal the image's size, which
/// stays at its default.
pub(crate) fn recognise(shapes: &Shapes) -> Option<Box<dyn BackboneConfig>> {
    let &[embed_dim, _, patch_size, _] = &shapes.get("patch_embed.proj.weight")?[..] else {
        return None;
    };
    let (mut depths, mut num_heads, mut window_size) = (Vec::new(), Vec::new(), 0);
    for stage in 0.. {
        let blocks = format!("layers.{stage}.blocks");
        let depth = shapes.count(&format!("{blocks}.{{}}.norm1.weight"));
        let table = shapes.get(&format!("{blocks}.0.attn.relative_position_bias_table"));
        let Some(&[offsets, heads]) = table.as_deref() else {
            break;
        };
        depths.push(depth);
        num_heads.push(heads);
        // A table has (2 w - 1)^2 rows. Maps smaller than a window have smaller tables, so the largest
        // one shows the window.
        window_size = window_size.max(offsets.isqrt().div_ceil(2));
    }
    if depths.is_empty() {
        return None;
    }
    let first = "layers.0.blocks.0";
    let hidden = *shapes.get(&format!("{first}.mlp.fc1.weight"))?.first()?;
    let mlp_ratio = hidden as f64 / embed_dim as f64;
    let has = |name: &str| shapes.has(&format!("{first}.attn.{name}.bias"));
    // Defaults are left out, which keeps the YAML short.
    Some(Box::new(Swin {
        patch_size: (patch_size != 4).then_some(patch_size),
        embed_dim: Some(embed_dim),
        depths: Some(depths),
        num_heads: Some(num_heads),
        window_size: (window_size != 7).then_some(window_size),
        mlp_ratio: (mlp_ratio != 4.0).then_some(mlp_ratio),
        qkv_bias: (!has("qkv") && !has("query")).then_some(false),
        ..Swin::default()
    }))
}
