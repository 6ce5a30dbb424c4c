//! Fields of configurations, what they win over, and their schema.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;

backbone_config! {
    /// A family of one field.
    #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    pub struct Tiny {
        /// Number of blocks.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub depth: Option<usize>,
    }
    source {
        mean: "0.5",
        std: "0.5",
        interpolation: "bicubic",
        crop_pct: "0.9",
        weights: "(safetensors) under timm's names",
        layout: "`timm`",
    }
}

#[test]
fn shared_fields_stand_beside_the_familys_own() {
    let json = r#"{"depth":2,"mean":[0.0,0.5,1.0],"crop_mode":"squash","weights":"a.pth"}"#;
    let mut tiny: Tiny = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_string(&tiny).unwrap(), json);
    let source = Source {
        mean: Some([0.0, 0.5, 1.0]),
        crop_mode: Some(CropMode::Squash),
        weights: Some("a.pth".into()),
        ..Source::default()
    };
    assert_eq!(tiny.source(), source);

    let other = Source {
        weights: Some("b.pth".into()),
        layout: Some("timm".into()),
        mean: Some([0.1; 3]),
        std: Some([0.2; 3]),
        interpolation: Some(Interpolation::Bilinear),
        crop_pct: Some(0.5),
        crop_mode: Some(CropMode::Center),
    };
    tiny.set_source(other.clone());
    assert_eq!((tiny.depth, tiny.source()), (Some(2), other));

    // The hash of a trial is over this text: without weights it says so, other fields are left out.
    let empty = serde_json::to_string(&Tiny::default()).unwrap();
    assert_eq!(empty, r#"{"weights":null}"#);
    let error = serde_json::from_str::<Tiny>(r#"{"source": {}}"#).unwrap_err();
    let expected = "unknown field `source`, expected one of `depth`, `mean`, `std`";
    assert!(error.to_string().starts_with(expected), "{error}");
}

#[test]
fn weights_are_a_path_or_a_part_of_a_file() {
    for (json, key, prefix) in [
        (r#"{"weights":"a.pth"}"#, None, None),
        (
            r#"{"weights":{"path":"a.pth","key":"model"}}"#,
            Some("model"),
            None,
        ),
        (
            r#"{"weights":{"path":"a.pth","prefix":"net."}}"#,
            None,
            Some("net."),
        ),
        (
            r#"{"weights":{"path":"a.pth","key":"model","prefix":"net."}}"#,
            Some("model"),
            Some("net."),
        ),
    ] {
        let tiny: Tiny = serde_json::from_str(json).unwrap();
        let weights = tiny.weights.as_ref().unwrap();
        assert_eq!(weights.path(), Path::new("a.pth"));
        assert_eq!((weights.key(), weights.prefix()), (key, prefix));
        assert_eq!(serde_json::to_string(&tiny).unwrap(), json);
    }
    for (json, expected) in [
        (
            r#"{"weights":{"path":"a","kye":"b"}}"#,
            "unknown field `kye`, expected one of `path`",
        ),
        (r#"{"weights":{"key":"b"}}"#, "missing field `path`"),
        (
            r#"{"weights":5}"#,
            "a path, or a mapping of path, key and prefix",
        ),
    ] {
        let error = serde_json::from_str::<Tiny>(json).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
}

#[test]
fn the_schema_documents_a_familys_defaults() {
    let schema = serde_json::to_value(schemars::schema_for!(Tiny)).unwrap();
    let about = |field: &str| schema["properties"][field]["description"].clone();
    let expected = "A checkpoint (safetensors) under timm's names: its path, or \
                    `{path, key, prefix}` to choose one of several sets of weights. With \
                    `random`, or without weights, the values are random.";
    assert_eq!(about("weights"), expected);
    assert_eq!(
        about("interpolation"),
        "How images are resized. Default bicubic."
    );
}

#[test]
fn given_fields_win_over_the_familys_defaults() {
    let default = InputSpec {
        size: 224.into(),
        mean: [0.5; 3],
        std: [0.5; 3],
        interpolation: Interpolation::Bicubic,
        crop_pct: 0.9,
        crop_mode: CropMode::Center,
    };
    assert_eq!(Source::default().input(default), default);
    let given = Source {
        std: Some([0.2; 3]),
        crop_pct: Some(1.0),
        ..Source::default()
    };
    let expected = InputSpec {
        std: [0.2; 3],
        crop_pct: 1.0,
        ..default
    };
    assert_eq!(given.input(default), expected);
}

#[test]
fn the_configuration_wins_over_a_file_beside_the_weights_with_a_remark() {
    let folder = tempfile::tempdir().unwrap();
    let json = r#"{"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}"#;
    std::fs::write(folder.path().join("config.json"), json).unwrap();
    let published = Published::beside(&folder.path().join("model.safetensors"));
    let published = published.unwrap().unwrap();
    let mut source = Source {
        mean: Some([0.5; 3]),
        crop_pct: Some(0.9),
        ..Source::default()
    };
    let remarks = source.take(&published);
    assert_eq!(source.mean, Some([0.5; 3]));
    assert_eq!(source.std, Some([1.0; 3]));
    assert_eq!(source.crop_pct, Some(0.9));
    let path = folder.path().join("config.json");
    let expected = format!(
        "mean is [0.5, 0.5, 0.5], as the configuration states; {} says [0.1, 0.2, 0.3]",
        path.display()
    );
    assert_eq!(remarks, [expected]);
}

#[test]
fn a_configuration_knows_its_fields() {
    let tiny = Tiny::default();
    for field in ["depth", "mean", "crop_mode", "weights", "layout"] {
        assert!(tiny.has_field(field), "{field}");
    }
    assert!(!tiny.has_field("num_heads"));
}
