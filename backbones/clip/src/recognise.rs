//! Which of CLIP's image encoders a checkpoint's shapes are of.

use peft_backbone_vit::Recognised;
use peft_core::BackboneConfig;
use peft_core::checkpoint::Shapes;

use crate::config::Clip;

/// The configuration that the shapes tell. Whether the MLPs apply QuickGELU or GELU is none of it.
pub(crate) fn recognise(shapes: &Shapes) -> Option<Box<dyn BackboneConfig>> {
    let found = Recognised::of(shapes)?;
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
