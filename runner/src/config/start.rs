//! The `adapter:` of an experiment: the trained adapter that a training starts from.

use std::path::{Path, PathBuf};

use peft_core::source::path_or;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// A trained adapter: its folder, or the folder and what becomes of its head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum StartFrom {
    /// The folder alone: the head is kept.
    Folder(PathBuf),
    /// The folder and what becomes of its head.
    Part(StartPart),
}

/// A trained adapter and what becomes of its head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartPart {
    /// A run folder, or one of HF PEFT.
    pub path: PathBuf,
    /// What becomes of the adapter's head. Default `keep`.
    #[serde(default)]
    pub head: StartHead,
}

/// What becomes of the head of an adapter that a training starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StartHead {
    /// Its rows are joined with the data set's classes by name; a class that it lacks is an error.
    #[default]
    Keep,
    /// It is left out. The head of the experiment takes its place: without one, a linear head that is
    /// drawn from the seed.
    New,
}

impl StartFrom {
    /// The adapter in this folder.
    pub fn new(path: PathBuf, head: StartHead) -> Self {
        match head {
            StartHead::Keep => Self::Folder(path),
            StartHead::New => Self::Part(StartPart { path, head }),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) => path,
            Self::Part(part) => &part.path,
        }
    }

    /// What becomes of its head.
    pub fn head(&self) -> StartHead {
        match self {
            Self::Folder(_) => StartHead::Keep,
            Self::Part(part) => part.head,
        }
    }
}

impl From<PathBuf> for StartFrom {
    fn from(path: PathBuf) -> Self {
        Self::Folder(path)
    }
}

impl From<StartPart> for StartFrom {
    fn from(part: StartPart) -> Self {
        Self::Part(part)
    }
}

impl<'de> Deserialize<'de> for StartFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        path_or::<_, _, StartPart>(deserializer, "a folder, or a mapping of path and head")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_a_folder_or_a_mapping() {
        for (json, head) in [
            (r#""runs/a""#, StartHead::Keep),
            (r#"{"path":"runs/a","head":"keep"}"#, StartHead::Keep),
            (r#"{"path":"runs/a","head":"new"}"#, StartHead::New),
        ] {
            let start: StartFrom = serde_json::from_str(json).unwrap();
            assert_eq!((start.path(), start.head()), (Path::new("runs/a"), head));
            assert_eq!(serde_json::to_string(&start).unwrap(), json);
        }
        for (json, expected) in [
            (r#"{"path":"a","haed":"new"}"#, "unknown field `haed`"),
            (r#"{"path":"a","head":"old"}"#, "unknown variant `old`"),
            (r#"{"head":"new"}"#, "missing field `path`"),
            ("5", "a folder, or a mapping of path and head"),
        ] {
            let error = serde_json::from_str::<StartFrom>(json).unwrap_err();
            assert!(error.to_string().contains(expected), "{json}: {error}");
        }
    }
}
