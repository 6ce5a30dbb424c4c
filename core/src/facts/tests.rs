use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;
use crate::backbone::{Backbone, BackboneConfig, Init, InputSpec};
use crate::error::{Error, Result};

crate::backbone_config! {
    /// A network with the facts that matter to the rule.
    #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    pub struct Factual {
        /// `small`, with 2 heads, or `large`, with 4.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub variant: Option<String>,
        /// Default 32.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub img_size: Option<usize>,
        /// Default the variant's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub num_heads: Option<usize>,
        /// Default `token`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub global_pool: Option<String>,
        /// Default true with `global_pool: avg`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub fc_norm: Option<bool>,
    }
    source {
        mean: "0.5",
        std: "0.5",
        interpolation: "bicubic",
        crop_pct: "0.9",
        weights: "(safetensors)",
        layout: "`timm`",
    }
}

#[typetag::serde(name = "factual")]
impl BackboneConfig for Factual {
    fn build(&self, _: &Init) -> Result<Box<dyn Backbone>> {
        Err(Error::config("name", "only its facts are tested"))
    }

    fn input(&self) -> Result<InputSpec> {
        Err(Error::config("name", "only its facts are tested"))
    }

    fn facts(&self) -> Result<Facts> {
        let heads = match self.variant.as_deref() {
            None | Some("small") => 2,
            Some("large") => 4,
            Some(other) => return Err(Error::config("variant", other)),
        };
        let pool = self.global_pool.clone().unwrap_or("token".to_owned());
        let facts = json!({
            "img_size": self.img_size.unwrap_or(32),
            "num_heads": self.num_heads.unwrap_or(heads),
            "fc_norm": self.fc_norm.unwrap_or(pool == "avg"),
            "global_pool": pool,
            "act_layer": "gelu",
            "num_features": 16,
        });
        Ok(facts.as_object().cloned().unwrap())
    }
}

fn published(file: &str, text: Value) -> (Published, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(file), text.to_string()).unwrap();
    let published = Published::beside(&folder.path().join("model.safetensors"));
    (published.unwrap().unwrap(), folder)
}

#[test]
fn every_library_states_its_facts_in_its_own_words() {
    let cases = [
        (
            "config.json",
            json!({"architecture": "vit_tiny_patch16_224", "global_pool": "token", "num_classes": 5,
                "model_args": {"img_size": [32, 32], "global_pool": "avg", "fc_norm": false,
                    "num_classes": 5, "drop_path_rate": 0.1, "norm_layer": null},
                "pretrained_cfg": {"input_size": [3, 64, 64], "classifier": "head"}}),
            json!({"img_size": 32, "global_pool": "avg", "fc_norm": false, "in_chans": 3}),
        ),
        (
            "config.json",
            json!({"architecture": "resnet18", "num_features": 512,
                "pretrained_cfg": {"input_size": [3, 288, 288], "mean": [0.5, 0.5, 0.5]}}),
            json!({"img_size": 288, "in_chans": 3, "num_features": 512}),
        ),
        (
            "config.json",
            json!({"model_type": "vit", "hidden_size": 32, "intermediate_size": 64, "image_size": 32,
                "num_attention_heads": 4, "num_hidden_layers": 3, "layer_norm_eps": 1e-6,
                "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "initializer_range": 0.02,
                "id2label": {"0": "ant"}, "torch_dtype": "float32", "_name_or_path": "x"}),
            json!({"embed_dim": 32, "mlp_ratio": 2.0, "img_size": 32, "num_heads": 4, "depth": 3,
                "layer_norm_eps": 1e-6, "act_layer": "gelu"}),
        ),
        (
            "config.json",
            json!({"model_type": "clip", "projection_dim": 8, "text_config": {"hidden_act": "relu"},
                "vision_config": {"model_type": "clip_vision_model", "hidden_act": "gelu",
                    "projection_dim": 512, "patch_size": 8}}),
            json!({"act_layer": "gelu", "projection_dim": 8, "patch_size": 8}),
        ),
        (
            "config.json",
            json!({"model_type": "resnet", "depths": [1, 1, 1, 1], "layer_type": "bottleneck",
                "hidden_sizes": [256, 512, 1024, 2048], "embedding_size": 64,
                "downsample_in_bottleneck": true}),
            json!({"layers": [1, 1, 1, 1], "block": "bottleneck", "channels": [64, 128, 256, 512],
                "embedding_size": 64, "downsample_in_bottleneck": true}),
        ),
        (
            "open_clip_config.json",
            json!({"model_cfg": {"embed_dim": 8, "quick_gelu": true, "vision_cfg":
                {"layers": 2, "width": 128, "head_width": 32, "patch_size": 8, "image_size": 32,
                 "pool_type": "tok"}}}),
            json!({"projection_dim": 8, "depth": 2, "embed_dim": 128, "num_heads": 4, "patch_size": 8,
                "img_size": 32, "global_pool": "token", "act_layer": "quick_gelu"}),
        ),
        (
            "open_clip_config.json",
            json!({"model_cfg": {"vision_cfg": {"width": 128, "layers": 2,
                "norm_kwargs": {"eps": 1e-6}, "patch_dropout": 0.5}}}),
            json!({"depth": 2, "embed_dim": 128, "num_heads": 2, "layer_norm_eps": 1e-6,
                "act_layer": "gelu"}),
        ),
    ];
    for (file, text, expected) in cases {
        let (published, _folder) = published(file, text.clone());
        let stated: Facts = (published.facts.into_iter())
            .filter(|fact| !fact.implied)
            .map(|fact| (fact.name, fact.value))
            .collect();
        assert_eq!(Value::Object(stated), expected, "{text}");
    }
}

#[test]
fn the_configuration_wins_over_the_file_and_the_file_over_the_default() {
    let args = |args: Value| json!({"model_args": args});
    // The configuration, the file, and the configuration that is built.
    let cases = [
        (json!({}), args(json!({"num_heads": 2})), json!({})),
        (
            json!({}),
            args(json!({"num_heads": 4})),
            json!({"num_heads": 4}),
        ),
        (
            json!({"num_heads": 4}),
            args(json!({"num_heads": 4.0})),
            json!({"num_heads": 4}),
        ),
        // The default of one follows from the other.
        (
            json!({}),
            args(json!({"fc_norm": false, "global_pool": "avg"})),
            json!({"fc_norm": false, "global_pool": "avg"}),
        ),
        (
            json!({}),
            args(json!({"global_pool": "avg"})),
            json!({"global_pool": "avg"}),
        ),
        (
            json!({"img_size": 64}),
            args(json!({"img_size": 32})),
            json!({"img_size": 64}),
        ),
        // A variant is a row of defaults.
        (
            json!({"variant": "large"}),
            args(json!({"num_heads": 2})),
            json!({"variant": "large", "num_heads": 2}),
        ),
        (
            json!({}),
            json!({"architecture": "large"}),
            json!({"num_heads": 4}),
        ),
        (
            json!({}),
            json!({"architecture": "large", "model_args": {"num_heads": 2}}),
            json!({}),
        ),
        (
            json!({}),
            json!({"architecture": "large", "model_args": {"global_pool": "avg"}}),
            json!({"num_heads": 4, "global_pool": "avg"}),
        ),
    ];
    for (yaml, file, expected) in cases {
        let (published, _folder) = published("config.json", file.clone());
        let config: Factual = serde_json::from_value(yaml.clone()).unwrap();
        let resolved = resolve(&config, &published, Stated::Configuration).unwrap();
        let mut built = serde_json::to_value(&resolved.config).unwrap();
        let fields = built.as_object_mut().unwrap();
        fields.retain(|name, value| name != "name" && !value.is_null());
        assert_eq!(built, expected, "{yaml} beside {file}");
    }
}

#[test]
fn a_contradiction_is_an_error_that_shows_both() {
    let cases = [
        (
            json!({"num_heads": 4}),
            "config.json",
            json!({"model_args": {"num_heads": 2}}),
            "num_heads: the configuration states 4, but ",
            "config.json says 2 (model_args.num_heads)",
        ),
        (
            json!({"num_heads": 4}),
            "config.json",
            json!({"architecture": "small"}),
            "num_heads: the configuration states 4, but ",
            "config.json says 2 (architecture)",
        ),
        (
            json!({"global_pool": "token"}),
            "open_clip_config.json",
            json!({"model_cfg": {"vision_cfg": {"pool_type": "avg"}}}),
            "global_pool: the configuration states \"token\", but ",
            "says \"avg\" (model_cfg.vision_cfg.pool_type)",
        ),
        (
            json!({}),
            "config.json",
            json!({"model_type": "vit", "hidden_act": "relu"}),
            "config.json: hidden_act: expected \"gelu\", the only act_layer of a factual here, got \
             \"relu\"",
            "",
        ),
        (
            json!({}),
            "config.json",
            json!({"model_type": "vit", "num_attention_heads": "two"}),
            "config.json: num_attention_heads: got \"two\": invalid type",
            "",
        ),
    ];
    for (yaml, file, text, first, second) in cases {
        let (published, _folder) = published(file, text);
        let config: Factual = serde_json::from_value(yaml).unwrap();
        let error = resolve(&config, &published, Stated::Configuration);
        let error = error.err().unwrap().to_string();
        assert!(error.contains(first) && error.contains(second), "{error}");
    }
}

#[test]
fn shapes_show_everything_but_heads() {
    let text = json!({"model_args": {"num_heads": 4, "global_pool": "avg"}});
    let (published, _folder) = published("config.json", text);
    let config: Factual = serde_json::from_value(json!({"num_heads": 2})).unwrap();
    let shapes = Stated::Shapes(Shown {
        facts: &[("num_features", "norm.weight")],
        evidence: &|name, _| Some(format!("{name}.weight is [16]")),
    });
    let resolved = resolve(&config, &published, shapes).unwrap();
    let built = serde_json::to_value(&resolved.config).unwrap();
    assert_eq!(
        (&built["num_heads"], &built["global_pool"]),
        (&json!(4), &json!("avg"))
    );
    let config: Factual = serde_json::from_value(json!({"global_pool": "token"})).unwrap();
    let error = resolve(&config, &published, shapes);
    let error = error.err().unwrap().to_string();
    let expected =
        "global_pool: the shapes of the weights show \"token\" (global_pool.weight is [16]), but ";
    assert!(error.starts_with(expected), "{error}");
    // A fact that the configuration has no field for, or has by its variant.
    let text = json!({"num_features": 32, "model_args": {}});
    let (published, _folder) = self::published("config.json", text);
    let error = resolve(&Factual::default(), &published, shapes);
    let error = error.err().unwrap().to_string();
    let expected =
        "num_features: the shapes of the weights show 16 (num_features.weight is [16]), but ";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn what_is_not_known_is_listed_in_one_remark_and_what_is_harmless_is_not() {
    let cases = [
        (
            "config.json",
            json!({"model_args": {"odd": "x", "proj_drop_rate": 0.5, "strange": 1, "none": null}}),
            Some("model_args.odd \"x\", model_args.strange 1"),
        ),
        (
            "config.json",
            json!({"model_type": "vit", "window": 7, "dtype": "float32", "attention_dropout": 0.1}),
            Some("window 7"),
        ),
        (
            "open_clip_config.json",
            json!({"model_cfg": {"text_cfg": {"x": 1}, "vision_cfg": {"block_type": "own"}}}),
            Some("model_cfg.vision_cfg.block_type \"own\""),
        ),
        (
            "config.json",
            json!({"model_type": "vit", "encoder_stride": 16, "_name_or_path": "x", "top_k": 50}),
            None,
        ),
    ];
    for (file, text, expected) in cases {
        let (published, folder) = published(file, text);
        let resolved = resolve(&Factual::default(), &published, Stated::Configuration).unwrap();
        let path = folder.path().join(file);
        let expected = expected.map(|fields| {
            format!(
                "{} has fields that may change results and are not followed by factual: {fields}",
                path.display()
            )
        });
        assert_eq!(resolved.remarks, Vec::from_iter(expected));
    }
}
