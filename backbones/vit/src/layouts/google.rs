//! The names in Google's archives, which are JAX's.

use burn::tensor::TensorData;
use peft_core::layout::{Layout, Others, transposed};
use peft_core::params::floats;

/// A layer of a block: the canonical name, and the names of its weight and bias in JAX.
macro_rules! rules {
    ($(($ours:literal, $theirs:literal, $weight:literal)),* $(,)?) => {
        &[
            ("cls_token", "cls"),
            ("pos_embed", "Transformer/posembed_input/pos_embedding"),
            $(
                (concat!($ours, ".weight"), concat!($theirs, "/", $weight)),
                (concat!($ours, ".bias"), concat!($theirs, "/bias")),
            )*
        ]
    };
}

/// Google's archives, as `.npz` or converted.
pub(super) const GOOGLE: Layout = Layout {
    name: "google",
    head: "head",
    prefixes: &[""],
    rules: rules!(
        ("patch_embed.proj", "embedding", "kernel"),
        (
            "blocks.{i}.norm1",
            "Transformer/encoderblock_{i}/LayerNorm_0",
            "scale"
        ),
        (
            "blocks.{i}.attn.query",
            "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/query",
            "kernel"
        ),
        (
            "blocks.{i}.attn.key",
            "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/key",
            "kernel"
        ),
        (
            "blocks.{i}.attn.value",
            "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/value",
            "kernel"
        ),
        (
            "blocks.{i}.attn.proj",
            "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/out",
            "kernel"
        ),
        (
            "blocks.{i}.norm2",
            "Transformer/encoderblock_{i}/LayerNorm_2",
            "scale"
        ),
        (
            "blocks.{i}.mlp.fc1",
            "Transformer/encoderblock_{i}/MlpBlock_3/Dense_0",
            "kernel"
        ),
        (
            "blocks.{i}.mlp.fc2",
            "Transformer/encoderblock_{i}/MlpBlock_3/Dense_1",
            "kernel"
        ),
        ("norm", "Transformer/encoder_norm", "scale"),
        ("head", "head", "kernel"),
    ),
    // The hidden layer of heads for ImageNet-21k, also as timm's early conversions call it. Such a head
    // is not read.
    ignored: &["pre_logits/", "pre_logits."],
    functional: &[],
    convert: Some(from_google),
};

/// JAX keeps kernels as `[h, w, inputs, outputs]` and `[inputs, outputs]`, and attention with its heads
/// apart: `[d, heads, c]` for queries, keys and values, `[heads, c, d]` for the projection.
fn from_google(name: &str, data: TensorData, _: Others) -> TensorData {
    let shape = data.shape().to_vec();
    match (name.ends_with(".weight"), &shape[..]) {
        (true, &[h, w, inputs, outputs]) => {
            let values = floats(data);
            let at = |o: usize, i: usize, y: usize, x: usize| {
                values[((y * w + x) * inputs + i) * outputs + o]
            };
            // To `[outputs, inputs, h, w]`.
            let mut turned = Vec::with_capacity(values.len());
            for o in 0..outputs {
                for i in 0..inputs {
                    for y in 0..h {
                        turned.extend((0..w).map(|x| at(o, i, y, x)));
                    }
                }
            }
            TensorData::new(turned, [outputs, inputs, h, w])
        }
        (true, &[a, b, c]) if name.ends_with("attn.proj.weight") => transposed(data, a * b, c),
        (true, &[a, b, c]) => transposed(data, a, b * c),
        (true, &[inputs, outputs]) => transposed(data, inputs, outputs),
        (false, &[heads, c]) if name.ends_with(".bias") => {
            TensorData::new(floats(data), [heads * c])
        }
        _ => data,
    }
}
