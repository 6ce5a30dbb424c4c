//! Named operations inside a backbone, and how a method selects some of them.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pattern::Pattern;

/// A named operation inside the backbone, with its block, its kind and its sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Site {
    /// Canonical name: timm's or torchvision's module path, for example `blocks.0.attn.qkv`.
    pub name: String,
    /// The block that it belongs to: 0 for the stem, `L+1` after the last block.
    pub block: usize,
    /// The kind of operation with its sizes.
    pub kind: SiteKind,
    /// Named slices of the output of a fused projection: `query`, `key`, `value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<Slice>,
    /// Other names by which a target finds the site: where a family has one projection for queries, keys and
    /// values, or three, `qkv` and `query` mean the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// A named part of a site's output, for example the query rows of a fused `qkv`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// Its canonical name: the site's name with the last part replaced, `blocks.0.attn.query`.
    pub name: String,
    /// The rows of the output.
    pub rows: Range<usize>,
    /// The parameter that is the bias of these rows, where the rows have one of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<String>,
}

/// The kind of operation at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteKind {
    /// `y = x W^T + b`.
    Linear {
        /// Input width.
        inputs: usize,
        /// Output width.
        outputs: usize,
    },
    /// A two-dimensional convolution.
    Conv {
        /// Input channels.
        inputs: usize,
        /// Output channels.
        outputs: usize,
        /// Rows and columns of the kernel.
        kernel: [usize; 2],
        /// Stride in both directions.
        stride: [usize; 2],
        /// Zero padding in both directions.
        padding: [usize; 2],
        /// Groups of channels.
        groups: usize,
    },
    /// LayerNorm or BatchNorm over this many channels.
    Norm {
        /// Normalised channels.
        channels: usize,
    },
    /// The branch of a residual block, before its sum.
    Branch {
        /// The branch.
        branch: Branch,
        /// Width of the residual stream.
        width: usize,
    },
}

/// A branch of a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Branch {
    /// Attention.
    Attention,
    /// The MLP.
    Mlp,
    /// The convolutions of a residual block.
    Residual,
}

impl Site {
    /// A site without slices.
    pub fn new(name: impl Into<String>, block: usize, kind: SiteKind) -> Self {
        Self {
            name: name.into(),
            block,
            kind,
            slices: Vec::new(),
            aliases: Vec::new(),
        }
    }

    /// Its name and those of its slices, with the rows of a slice.
    pub fn parts(&self) -> impl Iterator<Item = (&str, Option<Range<usize>>)> {
        let slices = self.slices.iter();
        let slices = slices.map(|slice| (slice.name.as_str(), Some(slice.rows.clone())));
        std::iter::once((self.name.as_str(), None)).chain(slices)
    }

    /// Columns of its weight as a matrix: the inputs, or `in / groups * kh * kw` of a convolution; 0 for a norm and a
    /// branch, which have no matrix.
    pub fn columns(&self) -> usize {
        match self.kind {
            SiteKind::Linear { inputs, .. } => inputs,
            SiteKind::Conv {
                inputs,
                kernel: [kh, kw],
                groups,
                ..
            } => inputs / groups * kh * kw,
            SiteKind::Norm { .. } | SiteKind::Branch { .. } => 0,
        }
    }

    /// Its name with the last part replaced.
    fn sibling(&self, last: &str) -> String {
        match self.name.rsplit_once('.') {
            Some((parent, _)) => format!("{parent}.{last}"),
            None => last.to_owned(),
        }
    }

    /// The same site with its output divided into named slices of `rows` rows each.
    pub fn with_slices(mut self, names: &[&str], rows: usize) -> Self {
        let slice = |(i, name): (usize, &&str)| Slice {
            name: self.sibling(name),
            rows: i * rows..(i + 1) * rows,
            bias: None,
        };
        self.slices = names.iter().enumerate().map(slice).collect();
        self
    }

    /// The same site whose slices have biases of their own, beside the layer: a name for each slice, none
    /// for a slice without a bias.
    pub fn with_slice_biases(mut self, names: &[Option<&str>]) -> Self {
        let names = names.iter().map(|name| Some(self.sibling((*name)?)));
        let names: Vec<_> = names.collect();
        for (slice, bias) in self.slices.iter_mut().zip(names) {
            slice.bias = bias;
        }
        self
    }

    /// The same site, which targets also find by these names beside its own.
    pub fn with_aliases(mut self, names: &[&str]) -> Self {
        self.aliases = names.iter().map(|name| self.sibling(name)).collect();
        self
    }
}

impl SiteKind {
    /// Returns whether a site of this kind has a weight matrix: linear layers and convolutions do.
    pub fn has_matrix(&self) -> bool {
        matches!(self, Self::Linear { .. } | Self::Conv { .. })
    }
}

impl std::fmt::Display for SiteKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Linear { inputs, outputs } => write!(f, "linear {inputs} -> {outputs}"),
            Self::Conv {
                inputs,
                outputs,
                kernel: [kh, kw],
                stride: [sh, _],
                groups,
                ..
            } => {
                write!(f, "conv {kh}x{kw}/{sh} {inputs} -> {outputs}")?;
                if *groups > 1 {
                    write!(f, " in {groups} groups")?;
                }
                Ok(())
            }
            Self::Norm { channels } => write!(f, "norm {channels}"),
            Self::Branch { branch, width } => {
                write!(f, "branch {} {width}", format!("{branch:?}").to_lowercase())
            }
        }
    }
}

/// The sites at which a method acts, written like HF PEFT's `target_modules`.
///
/// A string is a regular expression that must match the whole name; look-around and backreferences
/// are understood as in Python. A list holds names, or suffixes of names that begin after a dot:
/// `qkv` matches `blocks.0.attn.qkv`, `proj` also matches `patch_embed.proj`. `query`, `key` and
/// `value` match those rows of a fused `qkv`, or the projections where they are layers of their own, which
/// `qkv` matches too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "serde_yaml::Value", into = "serde_yaml::Value")]
#[schemars(with = "TargetsSchema")]
pub enum Targets {
    /// A regular expression that matches whole names.
    Regex(String),
    /// Names or suffixes.
    Suffixes(Vec<String>),
}

/// The form of [`Targets`] in the JSON schema.
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum TargetsSchema {
    Regex(String),
    Suffixes(Vec<String>),
}

// Written by hand: for an untagged enum, serde would only say that no variant matched.
impl TryFrom<serde_yaml::Value> for Targets {
    type Error = String;
    fn try_from(value: serde_yaml::Value) -> Result<Self, String> {
        match value {
            serde_yaml::Value::String(pattern) => Ok(Self::Regex(pattern)),
            serde_yaml::Value::Sequence(items) => items
                .into_iter()
                .map(|item| match item {
                    serde_yaml::Value::String(name) => Ok(name),
                    other => Err(format!("expected a list of names, got {other:?} in it")),
                })
                .collect::<Result<_, _>>()
                .map(Self::Suffixes),
            other => Err(format!(
                "expected a regular expression or a list of names, got {other:?}"
            )),
        }
    }
}

impl From<Targets> for serde_yaml::Value {
    fn from(targets: Targets) -> Self {
        match targets {
            Targets::Regex(pattern) => Self::String(pattern),
            Targets::Suffixes(names) => {
                Self::Sequence(names.into_iter().map(Self::String).collect())
            }
        }
    }
}

/// A site, or one slice of it, that a target selected.
#[derive(Clone, Debug, PartialEq)]
pub struct Picked<'a> {
    /// The site.
    pub site: &'a Site,
    /// The slice of its output, if the name of a slice matched.
    pub slice: Option<&'a Slice>,
}

impl Picked<'_> {
    /// The name that matched: that of the slice or of the site.
    pub fn name(&self) -> &str {
        self.slice.map_or(&self.site.name, |slice| &slice.name)
    }

    /// That name, and the aliases of a whole site.
    fn names(&self) -> impl Iterator<Item = &str> {
        let aliases = match self.slice {
            None => &self.site.aliases[..],
            Some(_) => &[],
        };
        std::iter::once(self.name()).chain(aliases.iter().map(String::as_str))
    }
}

impl Targets {
    /// The `names` that match a target.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid pattern.
    pub fn matching<'n>(&self, names: &[&'n str]) -> Result<Vec<&'n str>> {
        match self {
            Self::Regex(pattern) => {
                // The group keeps an alternation within the anchors.
                let whole = Pattern::new(&format!("^(?:{pattern})$"));
                let matched = whole.and_then(|whole| whole.matching(names));
                matched.map_err(|e| Error::config("targets", format!("{pattern:?}: {e}")))
            }
            Self::Suffixes(targets) => {
                let matched = |name: &&str| targets.iter().any(|target| is_suffix(name, target));
                Ok(names.iter().copied().filter(matched).collect())
            }
        }
    }

    /// The `sites` and slices that match a target, in the order of the sites.
    ///
    /// # Errors
    /// [`Error::Target`] for a target that matches nothing (HF PEFT ignores it as long as another one
    /// matches), and [`Error::Config`] for an invalid pattern.
    pub fn pick<'a>(&self, sites: &'a [Site], backbone: &str) -> Result<Vec<Picked<'a>>> {
        // A site and its slices are candidates side by side, because a target may name either.
        let candidates: Vec<Picked<'a>> = sites
            .iter()
            .flat_map(|site| {
                let slices = site.slices.iter().map(Some);
                std::iter::once(None)
                    .chain(slices)
                    .map(move |slice| Picked { site, slice })
            })
            .collect();
        let unmatched = |target: &str| Error::Target {
            target: target.to_owned(),
            backbone: backbone.to_owned(),
            sites: crate::error::listed(
                &sites.iter().map(|site| &site.name).collect::<Vec<_>>(),
                60,
            ),
        };
        let names: Vec<&str> = candidates.iter().flat_map(Picked::names).collect();
        match self {
            Self::Suffixes(targets) if targets.is_empty() => {
                return Err(Error::config("targets", "expected at least one name"));
            }
            // Each target of a list must match something, so that a misspelt one is not ignored.
            Self::Suffixes(targets) => {
                let matches = |target: &&String| names.iter().any(|name| is_suffix(name, target));
                if let Some(target) = targets.iter().find(|target| !matches(target)) {
                    return Err(unmatched(target));
                }
            }
            Self::Regex(pattern) if self.matching(&names)?.is_empty() => {
                return Err(unmatched(pattern));
            }
            Self::Regex(_) => {}
        }
        let matched: BTreeSet<&str> = self.matching(&names)?.into_iter().collect();
        let is_picked = |c: &&Picked| c.names().any(|name| matched.contains(name));
        let picked = candidates.iter().filter(is_picked);
        Ok(picked.cloned().collect())
    }
}

/// Whether `target` is `name`, or a suffix of it after a dot.
pub(crate) fn is_suffix(name: &str, target: &str) -> bool {
    let rest = name.strip_suffix(target);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites() -> Vec<Site> {
        let linear = SiteKind::Linear {
            inputs: 4,
            outputs: 12,
        };
        vec![
            Site::new("patch_embed.proj", 0, linear),
            Site::new("blocks.0.attn.qkv", 1, linear).with_slices(&["query", "key", "value"], 4),
            Site::new("blocks.0.attn.proj", 1, linear),
        ]
    }

    fn names(targets: &Targets) -> Vec<String> {
        let sites = sites();
        let picked = targets.pick(&sites, "vit").unwrap();
        picked.iter().map(|p| p.name().to_owned()).collect()
    }

    #[test]
    fn a_suffix_matches_at_a_dot_and_a_regex_the_whole_name() {
        let suffix = |s: &str| Targets::Suffixes(vec![s.to_owned()]);
        assert_eq!(
            names(&suffix("proj")),
            ["patch_embed.proj", "blocks.0.attn.proj"]
        );
        assert_eq!(names(&suffix("query")), ["blocks.0.attn.query"]);
        assert!(suffix("roj").pick(&sites(), "vit").is_err());
        let regex = Targets::Regex(r"blocks\.\d+\.attn\.proj".into());
        assert_eq!(names(&regex), ["blocks.0.attn.proj"]);
        assert!(Targets::Regex("proj".into()).pick(&sites(), "vit").is_err());
    }

    #[test]
    fn an_alias_selects_the_site_under_its_own_name() {
        let linear = SiteKind::Linear {
            inputs: 4,
            outputs: 4,
        };
        let site = |name: &str, alias| {
            let site = Site::new(format!("blocks.0.attn.{name}"), 1, linear);
            site.with_aliases(&["qkv", alias])
        };
        let sites = [site("q_proj", "query"), site("k_proj", "key")];
        let names = |target: &str| {
            let picked = Targets::Suffixes(vec![target.to_owned()]).pick(&sites, "vit");
            let picked = picked.unwrap().into_iter();
            picked.map(|p| p.name().to_owned()).collect::<Vec<_>>()
        };
        let both = ["blocks.0.attn.q_proj", "blocks.0.attn.k_proj"];
        assert_eq!(names("qkv"), both);
        assert_eq!(names("key"), both[1..]);
        assert_eq!(names("q_proj"), both[..1]);
    }

    #[test]
    fn patterns_for_python_may_look_around_and_refer_back() {
        for (pattern, expected) in [
            (
                r"blocks\.\d+\.attn\.(?!qkv|query|key|value)\w+",
                &["blocks.0.attn.proj"][..],
            ),
            (r".*(?<!embed)\.proj", &["blocks.0.attn.proj"]),
            (r"(?=.*proj).*", &["patch_embed.proj", "blocks.0.attn.proj"]),
            (r"(?P<p>p)\w+_embed\.(?P=p)roj", &["patch_embed.proj"]),
            (r"(?>patch_embed)\.proj\Z", &["patch_embed.proj"]),
        ] {
            assert_eq!(
                names(&Targets::Regex(pattern.to_owned())),
                expected,
                "{pattern}"
            );
        }
        let broken = Targets::Regex("(?!".to_owned());
        let error = broken.pick(&sites(), "vit").unwrap_err().to_string();
        assert!(error.starts_with("targets: \"(?!\": "), "{error}");
    }

    #[test]
    fn one_target_without_a_match_is_an_error_that_names_it() {
        let targets = Targets::Suffixes(vec!["qkv".into(), "fc1".into()]);
        let error = targets.pick(&sites(), "vit").unwrap_err().to_string();
        assert!(
            error.contains("\"fc1\"") && error.contains("blocks.0.attn.qkv"),
            "{error}"
        );
    }
}
