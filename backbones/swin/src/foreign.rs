//! The second version of Swin Transformers, which is not supported.

/// What only the second version has, in the names of timm, Microsoft, torchvision and transformers: a
/// scale of its cosines, and a network that makes the position biases.
pub(crate) fn foreign(tensor: &str) -> Option<&'static str> {
    const PARTS: [&str; 4] = [
        "attn.logit_scale",
        "attention.self.logit_scale",
        "cpb_mlp.",
        "continuous_position_bias_mlp.",
    ];
    let known = PARTS.iter().any(|part| tensor.contains(part));
    known.then_some(
        "this is a Swin Transformer V2, which is not supported; swin is the first version",
    )
}
