//! Recognises CLIP's image encoder by the shapes in a checkpoint.

use peft_backbone_vit::Recognised;
use peft_core::BackboneConfig;
use peft_core::checkpoint::Shapes;

use crate::config::Clip;

/// The tensors that show the facts of an encoder.
pub(crate) const SHOWN_BY: &[(&str, &str)] = &[
    ("embed_dim", "patch_embed.proj.weight"),
    ("patch_size", "patch_embed.proj.weight"),
    ("depth", "blocks.{}.norm1.weight"),
    ("mlp_ratio", "blocks.0.mlp.fc1.weight"),
];

/// The configuration of the encoder with these shapes. They do not reveal whether its MLPs apply
/// QuickGELU or GELU, which stays at the default.
pub(crate) fn recognise(shapes: &Shapes) -> Option<Box<dyn BackboneConfig>> {
    let found = Recognised::of(shapes)?;
    // These two features distinguish CLIP from other Vision Transformers.
    if !shapes.has("norm_pre.weight") || shapes.has("patch_embed.proj.bias") {
        return None;
    }
    Some(Box::new(Clip {
        img_size: Some(found.img_size),
        patch_size: Some(found.patch_size),
        embed_dim: Some(found.embed_dim),
        depth: Some(found.depth),
        num_heads: Some(found.num_heads),
        mlp_ratio: (found.mlp_ratio != 4.0).then_some(found.mlp_ratio),
        ..Clip::default()
    }))
}
