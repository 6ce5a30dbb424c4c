//! The names that other libraries give the parameters of a Vision Transformer.

use burn::tensor::TensorData;
use peft_core::layout::{Layout, Others, transposed};
use peft_core::params::floats;

/// HF transformers since version 5 and before, both again for DINOv2; the files that DINO, DINOv2 and
/// DeiT III publish; Google's archives; torchvision.
pub(crate) const LAYOUTS: [Layout; 9] = [
    Layout {
        name: "transformers",
        head: "classifier",
        prefixes: &["vit.", "deit.", ""],
        rules: &[
            ("cls_token", "embeddings.cls_token"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("blocks.{i}.norm1", "layers.{i}.layernorm_before"),
            ("blocks.{i}.attn.query", "layers.{i}.attention.q_proj"),
            ("blocks.{i}.attn.key", "layers.{i}.attention.k_proj"),
            ("blocks.{i}.attn.value", "layers.{i}.attention.v_proj"),
            ("blocks.{i}.attn.proj", "layers.{i}.attention.o_proj"),
            ("blocks.{i}.norm2", "layers.{i}.layernorm_after"),
            ("blocks.{i}.mlp.fc1", "layers.{i}.mlp.fc1"),
            ("blocks.{i}.mlp.fc2", "layers.{i}.mlp.fc2"),
            ("norm", "layernorm"),
        ],
        ignored: &["pooler.", "embeddings.mask_token"],
        convert: None,
    },
    Layout {
        name: "transformers-4",
        head: "classifier",
        prefixes: &["vit.", "deit.", ""],
        rules: &[
            ("cls_token", "embeddings.cls_token"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("blocks.{i}.norm1", "encoder.layer.{i}.layernorm_before"),
            (
                "blocks.{i}.attn.query",
                "encoder.layer.{i}.attention.attention.query",
            ),
            (
                "blocks.{i}.attn.key",
                "encoder.layer.{i}.attention.attention.key",
            ),
            (
                "blocks.{i}.attn.value",
                "encoder.layer.{i}.attention.attention.value",
            ),
            (
                "blocks.{i}.attn.proj",
                "encoder.layer.{i}.attention.output.dense",
            ),
            ("blocks.{i}.norm2", "encoder.layer.{i}.layernorm_after"),
            ("blocks.{i}.mlp.fc1", "encoder.layer.{i}.intermediate.dense"),
            ("blocks.{i}.mlp.fc2", "encoder.layer.{i}.output.dense"),
            ("norm", "layernorm"),
        ],
        ignored: &["pooler.", "embeddings.mask_token"],
        convert: None,
    },
    Layout {
        name: "transformers-dinov2",
        head: "classifier",
        prefixes: &["dinov2.", "dinov2_with_registers.", ""],
        rules: &[
            ("cls_token", "embeddings.cls_token"),
            ("reg_token", "embeddings.register_tokens"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("blocks.{i}.norm1", "encoder.layer.{i}.norm1"),
            (
                "blocks.{i}.attn.query",
                "encoder.layer.{i}.attention.q_proj",
            ),
            ("blocks.{i}.attn.key", "encoder.layer.{i}.attention.k_proj"),
            (
                "blocks.{i}.attn.value",
                "encoder.layer.{i}.attention.v_proj",
            ),
            ("blocks.{i}.attn.proj", "encoder.layer.{i}.attention.o_proj"),
            (
                "blocks.{i}.ls1.gamma",
                "encoder.layer.{i}.layer_scale1.lambda1",
            ),
            ("blocks.{i}.norm2", "encoder.layer.{i}.norm2"),
            ("blocks.{i}.mlp.fc1", "encoder.layer.{i}.mlp.fc1"),
            ("blocks.{i}.mlp.fc2", "encoder.layer.{i}.mlp.fc2"),
            (
                "blocks.{i}.ls2.gamma",
                "encoder.layer.{i}.layer_scale2.lambda1",
            ),
            ("norm", "layernorm"),
        ],
        ignored: &["embeddings.mask_token"],
        convert: Some(from_dinov2),
    },
    Layout {
        name: "transformers-4-dinov2",
        head: "classifier",
        prefixes: &["dinov2.", "dinov2_with_registers.", ""],
        rules: &[
            ("cls_token", "embeddings.cls_token"),
            ("reg_token", "embeddings.register_tokens"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("blocks.{i}.norm1", "encoder.layer.{i}.norm1"),
            (
                "blocks.{i}.attn.query",
                "encoder.layer.{i}.attention.attention.query",
            ),
            (
                "blocks.{i}.attn.key",
                "encoder.layer.{i}.attention.attention.key",
            ),
            (
                "blocks.{i}.attn.value",
                "encoder.layer.{i}.attention.attention.value",
            ),
            (
                "blocks.{i}.attn.proj",
                "encoder.layer.{i}.attention.output.dense",
            ),
            (
                "blocks.{i}.ls1.gamma",
                "encoder.layer.{i}.layer_scale1.lambda1",
            ),
            ("blocks.{i}.norm2", "encoder.layer.{i}.norm2"),
            ("blocks.{i}.mlp.fc1", "encoder.layer.{i}.mlp.fc1"),
            ("blocks.{i}.mlp.fc2", "encoder.layer.{i}.mlp.fc2"),
            (
                "blocks.{i}.ls2.gamma",
                "encoder.layer.{i}.layer_scale2.lambda1",
            ),
            ("norm", "layernorm"),
        ],
        ignored: &["embeddings.mask_token"],
        convert: Some(from_dinov2),
    },
    Layout {
        name: "dino",
        head: "head",
        prefixes: &["", "backbone.", "module.backbone."],
        rules: &[("reg_token", "register_tokens"), ("{*}", "{*}")],
        // The token that replaces hidden patches, and the heads of the self-supervised training.
        ignored: &[
            "mask_token",
            "head.mlp.",
            "head.last_layer.",
            "module.head.",
        ],
        convert: Some(from_dinov2),
    },
    Layout {
        name: "deit",
        head: "head",
        prefixes: &[""],
        rules: &[
            ("blocks.{i}.ls1.gamma", "blocks.{i}.gamma_1"),
            ("blocks.{i}.ls2.gamma", "blocks.{i}.gamma_2"),
            ("{*}", "{*}"),
        ],
        ignored: &[],
        convert: None,
    },
    Layout {
        name: "google",
        head: "head",
        prefixes: &[""],
        rules: &[
            ("cls_token", "cls"),
            ("pos_embed", "Transformer/posembed_input/pos_embedding"),
            ("patch_embed.proj.weight", "embedding/kernel"),
            ("patch_embed.proj.bias", "embedding/bias"),
            (
                "blocks.{i}.norm1.weight",
                "Transformer/encoderblock_{i}/LayerNorm_0/scale",
            ),
            (
                "blocks.{i}.norm1.bias",
                "Transformer/encoderblock_{i}/LayerNorm_0/bias",
            ),
            (
                "blocks.{i}.attn.query.weight",
                "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/query/kernel",
            ),
            (
                "blocks.{i}.attn.query.bias",
                "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/query/bias",
            ),
            (
                "blocks.{i}.attn.key.weight",
                "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/key/kernel",
            ),
            (
                "blocks.{i}.attn.key.bias",
                "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/key/bias",
            ),
            (
                "blocks.{i}.attn.value.weight",
                "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/value/kernel",
            ),
            (
                "blocks.{i}.attn.value.bias",
                "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/value/bias",
            ),
            (
                "blocks.{i}.attn.proj.weight",
                "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/out/kernel",
            ),
            (
                "blocks.{i}.attn.proj.bias",
                "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/out/bias",
            ),
            (
                "blocks.{i}.norm2.weight",
                "Transformer/encoderblock_{i}/LayerNorm_2/scale",
            ),
            (
                "blocks.{i}.norm2.bias",
                "Transformer/encoderblock_{i}/LayerNorm_2/bias",
            ),
            (
                "blocks.{i}.mlp.fc1.weight",
                "Transformer/encoderblock_{i}/MlpBlock_3/Dense_0/kernel",
            ),
            (
                "blocks.{i}.mlp.fc1.bias",
                "Transformer/encoderblock_{i}/MlpBlock_3/Dense_0/bias",
            ),
            (
                "blocks.{i}.mlp.fc2.weight",
                "Transformer/encoderblock_{i}/MlpBlock_3/Dense_1/kernel",
            ),
            (
                "blocks.{i}.mlp.fc2.bias",
                "Transformer/encoderblock_{i}/MlpBlock_3/Dense_1/bias",
            ),
            ("norm.weight", "Transformer/encoder_norm/scale"),
            ("norm.bias", "Transformer/encoder_norm/bias"),
            ("head.weight", "head/kernel"),
            ("head.bias", "head/bias"),
        ],
        // The hidden layer of heads for ImageNet-21k, which timm leaves out too.
        ignored: &["pre_logits/"],
        convert: Some(from_google),
    },
    Layout {
        name: "torchvision",
        head: "heads.head",
        prefixes: &[""],
        rules: &[
            ("cls_token", "class_token"),
            ("pos_embed", "encoder.pos_embedding"),
            ("patch_embed.proj", "conv_proj"),
            ("blocks.{i}.norm1", "encoder.layers.encoder_layer_{i}.ln_1"),
            (
                "blocks.{i}.attn.qkv.weight",
                "encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight",
            ),
            (
                "blocks.{i}.attn.qkv.bias",
                "encoder.layers.encoder_layer_{i}.self_attention.in_proj_bias",
            ),
            (
                "blocks.{i}.attn.proj",
                "encoder.layers.encoder_layer_{i}.self_attention.out_proj",
            ),
            ("blocks.{i}.norm2", "encoder.layers.encoder_layer_{i}.ln_2"),
            (
                "blocks.{i}.mlp.fc1",
                "encoder.layers.encoder_layer_{i}.mlp.0",
            ),
            (
                "blocks.{i}.mlp.fc2",
                "encoder.layers.encoder_layer_{i}.mlp.3",
            ),
            ("norm", "encoder.ln"),
        ],
        ignored: &[],
        convert: None,
    },
    // Until torchvision 0.13, and in the files that it publishes to this day.
    Layout {
        name: "torchvision-0.13",
        head: "heads.head",
        prefixes: &[""],
        rules: &[
            ("cls_token", "class_token"),
            ("pos_embed", "encoder.pos_embedding"),
            ("patch_embed.proj", "conv_proj"),
            ("blocks.{i}.norm1", "encoder.layers.encoder_layer_{i}.ln_1"),
            (
                "blocks.{i}.attn.qkv.weight",
                "encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight",
            ),
            (
                "blocks.{i}.attn.qkv.bias",
                "encoder.layers.encoder_layer_{i}.self_attention.in_proj_bias",
            ),
            (
                "blocks.{i}.attn.proj",
                "encoder.layers.encoder_layer_{i}.self_attention.out_proj",
            ),
            ("blocks.{i}.norm2", "encoder.layers.encoder_layer_{i}.ln_2"),
            (
                "blocks.{i}.mlp.fc1",
                "encoder.layers.encoder_layer_{i}.mlp.linear_1",
            ),
            (
                "blocks.{i}.mlp.fc2",
                "encoder.layers.encoder_layer_{i}.mlp.linear_2",
            ),
            ("norm", "encoder.ln"),
        ],
        ignored: &[],
        convert: None,
    },
];

/// DINOv2 with registers has a position for the class token but none for the registers, whereas
/// timm has positions for the patches only: the class token's position is added to the token itself.
fn from_dinov2(name: &str, data: TensorData, others: Others) -> TensorData {
    if others("reg_token").is_none() {
        return data;
    }
    match (name, &data.shape().to_vec()[..]) {
        ("cls_token", &[1, 1, d]) => {
            let positions = others("pos_embed").map(floats).unwrap_or_default();
            let sum = floats(data).into_iter().zip(positions);
            TensorData::new(sum.map(|(x, y)| x + y).collect::<Vec<_>>(), [1, 1, d])
        }
        ("pos_embed", &[1, n, d]) if n > 1 => {
            TensorData::new(floats(data).split_off(d), [1, n - 1, d])
        }
        _ => data,
    }
}

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
