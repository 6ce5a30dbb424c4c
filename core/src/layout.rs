//! How a library spells the names of the same modules: two-way tables of patterns.

use crate::error::{Error, Result};

/// A library's spelling of module names; `{i}` in a rule stands for one number.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The library, for example `transformers`.
    pub name: &'static str,
    /// Its name for the head.
    pub head: &'static str,
    /// Canonical name and the library's, for sites and their slices.
    pub rules: &'static [(&'static str, &'static str)],
}

impl Layout {
    /// The canonical spelling, with the head called `head`.
    pub const fn canonical(head: &'static str) -> Self {
        Self {
            name: "timm",
            head,
            rules: &[("{*}", "{*}")],
        }
    }

    /// The library's name of a module.
    ///
    /// # Errors
    /// [`Error::Layout`] if it has none.
    pub fn theirs(&self, ours: &str) -> Result<String> {
        let translated = self
            .rules
            .iter()
            .find_map(|(from, to)| translate(ours, from, to));
        translated.ok_or_else(|| self.unknown(ours, "name of its own for"))
    }

    /// The canonical name of the library's module.
    ///
    /// # Errors
    /// [`Error::Layout`] if no rule knows it.
    pub fn ours(&self, theirs: &str) -> Result<String> {
        let translated = self
            .rules
            .iter()
            .find_map(|(to, from)| translate(theirs, from, to));
        translated.ok_or_else(|| self.unknown(theirs, "module"))
    }

    fn unknown(&self, name: &str, what: &'static str) -> Error {
        let known = self
            .rules
            .iter()
            .map(|(ours, theirs)| match ours == theirs {
                true => (*ours).to_owned(),
                false => format!("{ours} = {theirs}"),
            });
        Error::Layout {
            layout: self.name,
            what,
            name: name.to_owned(),
            known: known.collect::<Vec<_>>().join(", "),
        }
    }
}

/// `name` with the pattern `from` rewritten to `to`: `{i}` takes one number, `{*}` everything.
fn translate(name: &str, from: &str, to: &str) -> Option<String> {
    if from == "{*}" {
        return Some(to.replace("{*}", name));
    }
    let (mut number, mut parts) = (None, name.split('.'));
    for expected in from.split('.') {
        let part = parts.next()?;
        match expected {
            "{i}" if part.parse::<usize>().is_ok() => number = Some(part),
            expected if expected == part => {}
            _ => return None,
        }
    }
    match parts.next() {
        Some(_) => None,
        None => Some(to.replace("{i}", number.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        name: "transformers",
        head: "classifier",
        rules: &[
            ("blocks.{i}.attn.query", "vit.layers.{i}.attention.q_proj"),
            ("norm", "vit.layernorm"),
        ],
    };

    #[test]
    fn names_go_there_and_back() {
        let theirs = LAYOUT.theirs("blocks.11.attn.query").unwrap();
        assert_eq!(theirs, "vit.layers.11.attention.q_proj");
        assert_eq!(LAYOUT.ours(&theirs).unwrap(), "blocks.11.attn.query");
        assert_eq!(LAYOUT.ours("vit.layernorm").unwrap(), "norm");
        let canonical = Layout::canonical("head");
        assert_eq!(canonical.ours("blocks.0.attn").unwrap(), "blocks.0.attn");
    }

    #[test]
    fn an_unknown_name_lists_both_spellings() {
        for name in ["blocks.x.attn.query", "blocks.0.attn.qkv", "norm.weight"] {
            let error = LAYOUT.theirs(name).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("norm = vit.layernorm"),
                "{error}"
            );
        }
    }
}
