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
    if tensor.contains(".mlp.w12.") || tensor.contains(".mlp.weights_in.") {
        return Some("its MLPs are SwiGLU, which this backbone does not support");
    }
    if tensor.contains("attn_pool.") {
        return Some(
            "its tokens are pooled by attention (SigLIP), which this backbone does not support",
        );
    }
    None
}
