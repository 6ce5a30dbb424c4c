//! Reads names of the form `hf://owner/name@revision/file`.

use std::fmt::{self, Display, Formatter};

use crate::config::error::ConfigError;
use crate::exit::Failure;

/// The kind of things that a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Weights.
    Model,
    /// Data.
    Dataset,
}

/// A revision of a repository of a hub, or a file in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// The kind of things that it holds.
    pub kind: Kind,
    /// `owner/name`.
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// One file, as a path inside the repository.
    pub file: Option<String>,
}

/// The revision of a name that states none.
const MAIN: &str = "main";
const FORM: &str = "hf://owner/name, hf://owner/name@revision or either with /file";

impl Display for Repository {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Model => "",
            Kind::Dataset => "datasets/",
        };
        write!(f, "hf://{kind}{}", self.name)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(f, "/{file}"),
            None => Ok(()),
        }
    }
}

impl Repository {
    /// Whether a path names a repository.
    pub fn is_named(text: &str) -> bool {
        text.starts_with("hf://")
    }

    /// Reads `hf://owner/name`, perhaps with a revision and a file.
    ///
    /// # Errors
    /// If it has another form.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let expected = || Failure::from(ConfigError::expected(text, FORM));
        let rest = text.strip_prefix("hf://").ok_or_else(expected)?;
        let (kind, rest) = match rest.strip_prefix("datasets/") {
            Some(rest) => (Kind::Dataset, rest),
            None => (Kind::Model, rest),
        };
        let mut parts = rest.split('/');
        let owner = parts.next().unwrap_or_default();
        let name = parts.next().unwrap_or_default();
        let (name, revision) = name.split_once('@').unwrap_or((name, MAIN));
        let mut revision = revision.to_owned();
        // The hub keeps pull requests and conversions in `refs/pr/1` and `refs/convert/parquet`.
        if revision == "refs" {
            for part in parts.by_ref().take(2) {
                revision = format!("{revision}/{part}");
            }
        }
        let file: Vec<&str> = parts.collect();
        let file = (!file.is_empty()).then(|| file.join("/"));
        let plain = |part: &str| is_inside(part) && !part.contains('/');
        let right = plain(owner)
            && plain(name)
            && is_inside(&revision)
            && file.as_deref().is_none_or(is_inside);
        right
            .then(|| Self {
                kind,
                name: format!("{owner}/{name}"),
                revision,
                file,
            })
            .ok_or_else(expected)
    }

    /// The part of a URL that stands for the kind: models have none.
    pub fn of_kind(&self) -> &'static str {
        match self.kind {
            Kind::Model => "",
            Kind::Dataset => "datasets/",
        }
    }

    /// The name of its folder in the cache.
    pub fn folder(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("{kind}--{}", self.name.replace('/', "--"))
    }
}

/// Whether a name that becomes a path stays inside of its folder on every system.
pub fn is_inside(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.split('/').all(part) && !path.contains(['\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_an_owner_and_perhaps_a_revision_and_a_file() {
        for (text, name, revision, file) in [
            ("hf://timm/vit.a_b", "timm/vit.a_b", "main", None),
            ("hf://timm/vit@v1.0", "timm/vit", "v1.0", None),
            ("hf://timm/vit/a/b.bin", "timm/vit", "main", Some("a/b.bin")),
            ("hf://timm/vit@refs/pr/3", "timm/vit", "refs/pr/3", None),
            (
                "hf://timm/vit@refs/pr/3/a",
                "timm/vit",
                "refs/pr/3",
                Some("a"),
            ),
        ] {
            let repository = Repository::parse(text).unwrap();
            assert_eq!(repository.name, name);
            assert_eq!(repository.revision, revision);
            assert_eq!(repository.file.as_deref(), file);
            assert_eq!(repository.to_string(), text);
        }
        let data = Repository::parse("hf://datasets/a/b").unwrap();
        assert_eq!(
            (data.kind, data.folder().as_str()),
            (Kind::Dataset, "datasets--a--b")
        );
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in [
            "timm",
            "",
            "../x",
            "/x",
            "a/b@",
            "a/b/../c",
            "a/b//c",
            "a/b\\c",
            "a/..",
            "a/b@../c",
            "a/b@refs/../x",
            "a/C:",
        ] {
            let message = Repository::parse(&format!("hf://{bad}"))
                .unwrap_err()
                .to_string();
            assert!(
                message.contains("expected hf://owner/name"),
                "{bad}: {message}"
            );
        }
    }
}
