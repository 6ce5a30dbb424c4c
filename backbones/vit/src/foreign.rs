//! Networks that are much like a Vision Transformer and are not supported.

/// Networks that are much like a Vision Transformer, by a tensor that only they have.
pub(crate) fn foreign(tensor: &str) -> Option<&'static str> {
    let ends = |names: &[&str]| names.iter().any(|name| tensor.ends_with(name));
    if ends(&["dist_token", "distillation_token"]) {
        return Some(
            "a distilled DeiT has a second token for its teacher's predictions, which this backbone does \
             not support; expected a checkpoint without distillation",
        );
    }
    // Swin has such tables too, below `layers` or `features`.
    let windowed = tensor.contains("layers.") || tensor.contains("features.");
    if ends(&["relative_position_bias_table"]) && !windowed {
        return Some(
            "BEiT's attention has a bias for each relative position, which this backbone does not support",
        );
    }
    if tensor.ends_with(&format!("blocks.63.attn.q_bias [{ENORMOUS}]")) {
        return Some(
            "the blocks of EVA-02-CLIP-E (timm's eva02_enormous) norm the output of their branches, which this \
             backbone does not support; its tensors have the names and shapes of blocks that norm the input",
        );
    }
    if tensor.starts_with("embeds.proj.") || has_linear_patches(tensor) {
        return Some(NAFLEX);
    }
    None
}

/// The width of EVA-02-CLIP-E, which no other Vision Transformer of 64 blocks has.
pub(crate) const ENORMOUS: usize = 1792;

/// Why a network for images of any size is refused.
pub(crate) const NAFLEX: &str = "its images are sequences of patches that a linear layer embeds (NaFlex), which \
                                 this backbone does not support; SigLIP 2 at a fixed resolution is another file";

/// Whether it is the patch embedding of SigLIP 2 for images of any size: a matrix instead of a kernel.
fn has_linear_patches(tensor: &str) -> bool {
    let parts = tensor.split_once(" [");
    parts.is_some_and(|(name, shape)| {
        name.ends_with("embeddings.patch_embedding.weight") && shape.split(',').count() == 2
    })
}
