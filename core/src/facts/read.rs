//! What the files of timm, transformers and open_clip state about a network.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Fact;
use crate::input::ImageSize;

/// The facts in one file and what cannot be followed; nothing for a file of another kind.
///
/// Every field that is not known to leave results alone becomes a fact, under its own name where it
/// has no other here. A family that does not know it has it printed.
///
/// # Errors
/// A message with the field, for a value of another kind than its library writes.
pub(crate) fn read(value: &Value, path: &Path) -> Result<(Vec<Fact>, Vec<String>), String> {
    let mut reader = Reader {
        path,
        facts: Vec::new(),
        remarks: Vec::new(),
    };
    let has = |name: &str| value.get(name).is_some_and(|value| !value.is_null());
    if has("model_cfg") {
        reader.open_clip(&value["model_cfg"])?;
    } else if ["architecture", "model_args", "pretrained_cfg"]
        .iter()
        .any(|name| has(name))
    {
        reader.timm(value)?;
    } else if value["vision_config"].is_object() {
        // The vision tower's own projection is only a default: the whole model's counts.
        let whole = value["model_type"].as_str().unwrap_or_default();
        let tower = &value["vision_config"];
        reader.transformers(tower, ("vision_config.", whole), &["projection_dim"])?;
        reader.state("projection_dim", "projection_dim", &value["projection_dim"]);
    } else if has("model_type") || has("num_attention_heads") || has("hidden_act") {
        reader.transformers(value, ("", ""), &[])?;
    }
    Ok((reader.facts, reader.remarks))
}

struct Reader<'a> {
    path: &'a Path,
    facts: Vec<Fact>,
    remarks: Vec<String>,
}

impl Reader<'_> {
    fn state(&mut self, name: &str, field: &str, value: &Value) {
        self.push(name, field, value, false);
    }

    fn imply(&mut self, name: &str, field: &str, value: Value) {
        self.push(name, field, &value, true);
    }

    /// Keeps the first value of a name; null states nothing.
    fn push(&mut self, name: &str, field: &str, value: &Value, implied: bool) {
        if value.is_null() || self.facts.iter().any(|fact| fact.name == name) {
            return;
        }
        self.facts.push(Fact {
            name: name.to_owned(),
            value: value.clone(),
            path: self.path.to_owned(),
            field: field.to_owned(),
            implied,
        });
    }

    /// `model_args` are the arguments with which timm builds the architecture, and come before what
    /// the model was when it was saved.
    fn timm(&mut self, value: &Value) -> Result<(), String> {
        for (name, own) in value["model_args"].as_object().into_iter().flatten() {
            let field = format!("model_args.{name}");
            match name.as_str() {
                "img_size" => {
                    let size = size(&field, own)?;
                    self.state(name, &field, &size);
                }
                "num_classes" => {}
                name if harmless(name) => {}
                name => self.state(name, &field, own),
            }
        }
        let silent = [
            "architecture",
            "model_args",
            "pretrained_cfg",
            "num_classes",
        ];
        let open = value.as_object().into_iter().flatten();
        for (name, own) in open.filter(|(name, _)| !silent.contains(&name.as_str())) {
            if !harmless(name) && !IMAGES.contains(&name.as_str()) {
                self.state(name, name, own);
            }
        }
        if let Some([channels, height, width]) = value["pretrained_cfg"]["input_size"]
            .as_array()
            .map(Vec::as_slice)
        {
            let field = "pretrained_cfg.input_size";
            self.state("in_chans", field, channels);
            let size = size(field, &json!([height, width]))?;
            self.state("img_size", field, &size);
        }
        Ok(())
    }

    /// A configuration, or that of a part of the model type `whole`, whose names begin with `at`.
    fn transformers(
        &mut self,
        value: &Value,
        (at, whole): (&str, &str),
        silent: &[&str],
    ) -> Result<(), String> {
        let kind = value["model_type"].as_str().unwrap_or(whole);
        if kind.starts_with("siglip2") {
            return Err(format!(
                "{at}model_type: {kind} is SigLIP 2 for images of any size (NaFlex), whose patches a linear layer \
                 embeds and which is not supported here; the repositories at a fixed resolution are siglip"
            ));
        }
        for (name, own) in value.as_object().into_iter().flatten() {
            let field = format!("{at}{name}");
            if harmless(name) || silent.contains(&name.as_str()) || IMAGES.contains(&name.as_str())
            {
                continue;
            }
            let ours = match (kind, name.as_str()) {
                ("swin" | "swinv2", "hidden_size") => "num_features",
                ("swin" | "swinv2", "num_layers") => continue,
                ("convnext" | "convnextv2" | "dinov3_convnext", "hidden_sizes") => "dims",
                ("convnext" | "convnextv2" | "dinov3_convnext", "num_stages") => continue,
                ("convnext" | "convnextv2" | "dinov3_convnext", "layer_scale_init_value") => {
                    "ls_init_value"
                }
                // The other norms of the first two have an epsilon of their own, which is timm's.
                ("convnext" | "convnextv2", "layer_norm_eps") => "head_norm_eps",
                ("dinov3_convnext", "layer_norm_eps") => "norm_eps",
                ("resnet", "depths") => "layers",
                ("resnet", "layer_type") => "block",
                ("resnet", "hidden_sizes") => {
                    self.state("channels", &field, &channels(value, own));
                    continue;
                }
                (_, "image_size") => {
                    let size = size(&field, own)?;
                    self.state("img_size", &field, &size);
                    continue;
                }
                (_, "intermediate_size") => {
                    if let (Some(hidden), Some(width)) =
                        (own.as_f64(), value["hidden_size"].as_f64())
                    {
                        self.state("mlp_ratio", &field, &json!(hidden / width));
                    }
                    continue;
                }
                (_, "hidden_act") => {
                    let own = match own.as_str() {
                        Some("gelu_pytorch_tanh") => json!("gelu_tanh"),
                        _ => own.clone(),
                    };
                    self.state("act_layer", &field, &own);
                    continue;
                }
                ("dinov3_vit", "query_bias") => "qkv_bias",
                ("dinov3_vit", "rope_theta") => "rope_temperature",
                ("dinov3_vit", "rope_parameters") => {
                    let field = format!("{field}.rope_theta");
                    self.state("rope_temperature", &field, &own["rope_theta"]);
                    continue;
                }
                (_, "mlp_ratio") if value["use_swiglu_ffn"] == true => {
                    self.state("mlp_ratio", &field, &gated_ratio(value, own));
                    continue;
                }
                (_, "num_attention_heads") => "num_heads",
                (_, "hidden_size") => "embed_dim",
                (_, "num_hidden_layers") => "depth",
                (_, "num_register_tokens") => "reg_tokens",
                (_, "layerscale_value") => "init_values",
                (_, "num_channels") => "in_chans",
                (_, name) => name,
            };
            self.state(ours, &field, own);
        }
        // transformers leaves the defaults of a nested configuration out.
        let defaults = match kind {
            "clip" | "clip_vision_model" => Some(("quick_gelu", Some(1e-5))),
            "vit" | "deit" | "vit_mae" => Some(("gelu", Some(1e-12))),
            "siglip" | "siglip_vision_model" => Some(("gelu_tanh", Some(1e-6))),
            "dinov3_vit" => Some(("gelu", Some(1e-5))),
            "dinov2" | "dinov2_with_registers" => Some(("gelu", Some(1e-6))),
            "swin" | "swinv2" => Some(("gelu", Some(1e-5))),
            "resnet" => Some(("relu", None)),
            "convnext" | "convnextv2" | "dinov3_convnext" => Some(("gelu", None)),
            _ => None,
        };
        if let Some((activation, epsilon)) = defaults {
            let field = format!("{at}model_type {kind}");
            self.imply("act_layer", &field, json!(activation));
            self.imply("layer_norm_eps", &field, json!(epsilon));
        }
        let first = value["architectures"][0].as_str();
        if first == Some("CLIPForImageClassification") {
            self.remarks.push(
                "its classifier (CLIPForImageClassification) sees the mean of the patches before the \
                 last norm; a head here sees the class token behind it"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// The image tower; the text tower plays no part here.
    fn open_clip(&mut self, model: &Value) -> Result<(), String> {
        let tower = &model["vision_cfg"];
        let Some(fields) = tower.as_object() else {
            return Ok(());
        };
        if fields.contains_key("timm_model_name") {
            return self.tower_of_timm(tower);
        }
        let at = |name: &str| format!("model_cfg.vision_cfg.{name}");
        self.state("projection_dim", "model_cfg.embed_dim", &model["embed_dim"]);
        for (name, own) in fields {
            let field = at(name);
            let ours = match name.as_str() {
                "image_size" => {
                    let size = size(&field, own)?;
                    self.state("img_size", &field, &size);
                    continue;
                }
                "head_width" | "output_tokens" => continue,
                name if harmless(name) => continue,
                "layers" => "depth",
                "width" => "embed_dim",
                "ls_init_value" => "init_values",
                "no_ln_pre" => {
                    self.state("pre_norm", &field, &json!(own.as_bool() != Some(true)));
                    continue;
                }
                "pool_type" => {
                    let pool = match own.as_str() {
                        Some("tok") => json!("token"),
                        _ => own.clone(),
                    };
                    self.state("global_pool", &field, &pool);
                    continue;
                }
                "norm_kwargs" => {
                    self.state("layer_norm_eps", &format!("{field}.eps"), &own["eps"]);
                    continue;
                }
                name => name,
            };
            self.state(ours, &field, own);
        }
        if let Some(width) = tower["width"].as_u64() {
            let of_head = tower["head_width"].as_u64().unwrap_or(64).max(1);
            let field = match tower.get("head_width") {
                Some(_) => at("head_width"),
                None => "model_cfg.vision_cfg.width, heads of 64".to_owned(),
            };
            self.state("num_heads", &field, &json!(width / of_head));
        }
        // open_clip's own default is GELU, unlike OpenAI's weights.
        let (activation, field) = match model["quick_gelu"].as_bool() {
            Some(true) => ("quick_gelu", "model_cfg.quick_gelu"),
            Some(false) => ("gelu", "model_cfg.quick_gelu"),
            None => ("gelu", "model_cfg without quick_gelu"),
        };
        self.state("act_layer", field, &json!(activation));
        Ok(())
    }
}

impl Reader<'_> {
    /// open_clip's image tower where it is a network of timm's, whose name says its sizes. What open_clip
    /// puts behind it is not part of that network.
    fn tower_of_timm(&mut self, tower: &Value) -> Result<(), String> {
        for (name, own) in tower.as_object().into_iter().flatten() {
            let field = format!("model_cfg.vision_cfg.{name}");
            let unset = own.is_null() || own == "" || own == "none";
            match name.as_str() {
                "image_size" => {
                    let size = size(&field, own)?;
                    self.state("img_size", &field, &size);
                }
                "timm_pool" if unset => {}
                "timm_pool" if own == "abs_attn" || own == "rot_attn" => {
                    return Err(format!(
                        "{field}: expected token, avg or map, because other pooling by attention is not \
                         supported here, got {own}"
                    ));
                }
                "timm_pool" => self.state("global_pool", &field, own),
                "timm_proj" if unset => {}
                "timm_proj" => self.remarks.push(format!(
                    "its {field}, {own}, is not followed: features are those before open_clip's projection"
                )),
                // Sizes of open_clip's own towers, which such a tower does not use.
                "layers" | "width" | "head_width" | "mlp_ratio" | "patch_size" => {}
                "timm_model_name" | "timm_model_pretrained" | "timm_proj_bias" => {}
                name if harmless(name) => {}
                name => self.state(name, &field, own),
            }
        }
        Ok(())
    }
}

/// The size of an image as a configuration writes it: two equal sides become one number.
fn size(field: &str, value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    let size = ImageSize::deserialize(value).map_err(|e| format!("{field}: {e}"))?;
    Ok(json!(size))
}

/// The ratio of DINOv2's gated MLPs: two thirds of the width that the file states, up to a multiple of 8.
fn gated_ratio(value: &Value, ratio: &Value) -> Value {
    let Some((ratio, width)) = ratio.as_f64().zip(value["hidden_size"].as_f64()) else {
        return ratio.clone();
    };
    let hidden = ((ratio * width).floor() * 2.0 / 3.0).floor() as usize;
    json!(hidden.next_multiple_of(8) as f64 / width)
}

/// The widths of a ResNet's stages: those of a bottleneck's outputs are four times as wide.
fn channels(value: &Value, outputs: &Value) -> Value {
    let part = match value["layer_type"].as_str() {
        Some("basic") => 1,
        _ => 4,
    };
    let outputs = outputs.as_array().into_iter().flatten();
    outputs
        .map(|width| {
            width
                .as_u64()
                .map_or(width.clone(), |width| json!(width / part))
        })
        .collect()
}

/// What says how images are prepared and which classes there are: read elsewhere.
const IMAGES: [&str; 14] = [
    "mean",
    "std",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "resize_mode",
    "image_mean",
    "image_std",
    "id2label",
    "label2id",
    "label_names",
    "label_descriptions",
    "num_labels",
    "input_size",
];

/// Whether a field leaves the results of a forward pass alone: what acts in training only, what starts
/// values that the weights replace, what other outputs and other tasks use.
fn harmless(name: &str) -> bool {
    const PARTS: [&str; 7] = [
        "drop", // dropout, drop_path_rate, proj_drop_rate
        "initializer",
        "decoder_", // the other half of a masked autoencoder
        "token_id",
        "beam",
        "checkpointing",
        "length",
    ];
    const NAMES: [&str; 61] = [
        "output_hidden_states",
        "output_attentions",
        "output_scores",
        "architectures",
        "model_type",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "tokenizer_class",
        "torchscript",
        "use_bfloat16",
        "tf_legacy_loss",
        "use_cache",
        "is_decoder",
        "is_encoder_decoder",
        "add_cross_attention",
        "cross_attention_hidden_size",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "chunk_size_feed_forward",
        "return_dict",
        "return_dict_in_generate",
        "pruned_heads",
        "prefix",
        "suppress_tokens",
        "begin_suppress_tokens",
        "bad_words_ids",
        "do_sample",
        "early_stopping",
        "diversity_penalty",
        "repetition_penalty",
        "encoder_no_repeat_ngram_size",
        "no_repeat_ngram_size",
        "num_return_sequences",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "use_mask_token",
        "encoder_stride",
        "pooler_act",
        "pooler_output_size",
        "path_norm",
        "out_features",
        "out_indices",
        "stage_names",
        "reshape_hidden_states",
        "apply_layernorm",
        "do_pooling",
        "head_hidden_size",
        "mask_ratio",
        "norm_pix_loss",
        "pos_embed_shift",
        "pos_embed_jitter",
        "pos_embed_rescale",
        "vision_use_head",
    ];
    const ARGUMENTS: [&str; 12] = [
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "weight_init",
        "fix_init",
        "zero_init_last",
        "dynamic_img_size",
        "dynamic_img_pad",
        "strict_img_size",
        "scriptable",
    ];
    name.starts_with('_')
        || PARTS.iter().any(|part| name.contains(part))
        || NAMES.contains(&name)
        || ARGUMENTS.contains(&name)
}
