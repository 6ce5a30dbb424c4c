//! Recognises a Swin Transformer by the shapes in a checkpoint.

use peft_core::BackboneConfig;
use peft_core::checkpoint::Shapes;

use crate::architecture::Version;
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
    // The second version.
    ("version", "layers.0.blocks.0.attn.logit_scale"),
    ("num_heads", "layers.{s}.blocks.0.attn.logit_scale"),
    ("qkv_bias", "layers.0.blocks.0.attn.q_bias"),
];

/// The configuration of the network with these shapes. They do not reveal the image's size, which
/// stays at its default.
pub(crate) fn recognise(shapes: &Shapes) -> Option<Box<dyn BackboneConfig>> {
    let &[embed_dim, _, patch_size, _] = &shapes.get("patch_embed.proj.weight")?[..] else {
        return None;
    };
    let version = match shapes.has("layers.0.blocks.0.attn.logit_scale") {
        true => Version::Two,
        false => Version::One,
    };
    let (mut depths, mut num_heads, mut window_size) = (Vec::new(), Vec::new(), 0);
    for stage in 0.. {
        let blocks = format!("layers.{stage}.blocks");
        let depth = shapes.count(&format!("{blocks}.{{}}.norm1.weight"));
        let part = |part: &str| shapes.get(&format!("{blocks}.0.attn.{part}"));
        let (window, heads) = match version {
            Version::One => {
                let Some(&[offsets, heads]) = part("relative_position_bias_table").as_deref()
                else {
                    break;
                };
                // A table has (2 w - 1)^2 rows.
                (offsets.isqrt().div_ceil(2), heads)
            }
            Version::Two => {
                let Some(&[heads, 1, 1]) = part("logit_scale").as_deref() else {
                    break;
                };
                // A constant that some files have.
                let offsets = match part("relative_coords_table").as_deref() {
                    Some(&[1, offsets, _, 2]) => offsets,
                    _ => 0,
                };
                (offsets.div_ceil(2), heads)
            }
        };
        depths.push(depth);
        num_heads.push(heads);
        // Maps smaller than a window have smaller tables, so the largest one shows the window.
        window_size = window_size.max(window);
    }
    if depths.is_empty() {
        return None;
    }
    if version == Version::Two && window_size == 0 {
        shapes.unsure(
            "window_size and pretrained_window_sizes are not in the shapes of a Swin Transformer V2: the variant \
             or a file beside the weights decides",
        );
    }
    let first = "layers.0.blocks.0";
    let hidden = *shapes.get(&format!("{first}.mlp.fc1.weight"))?.first()?;
    let mlp_ratio = hidden as f64 / embed_dim as f64;
    let has = |name: &str| shapes.has(&format!("{first}.attn.{name}"));
    let has_bias = has("qkv.bias") || has("query.bias") || has("q_bias");
    // Defaults are left out, which keeps the YAML short; but which window of version 2 a file has is a
    // fact that no other shape shows.
    let usual = match version {
        Version::One => 7,
        Version::Two => 0,
    };
    Some(Box::new(Swin {
        version: (version == Version::Two).then_some(2),
        patch_size: (patch_size != 4).then_some(patch_size),
        embed_dim: Some(embed_dim),
        depths: Some(depths),
        num_heads: Some(num_heads),
        window_size: (window_size != usual).then_some(window_size),
        mlp_ratio: (mlp_ratio != 4.0).then_some(mlp_ratio),
        qkv_bias: (!has_bias).then_some(false),
        ..Swin::default()
    }))
}
