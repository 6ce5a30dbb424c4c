//! Two-way tables between our names of modules and parameters and those of other libraries.

use burn::tensor::TensorData;

use crate::error::{Error, Result};
use crate::params::floats;
use crate::site::{Site, Slice};
use crate::spec::BackboneSpec;

/// The names that a library gives to modules and parameters. In a rule `{i}` and `{s}` stand for
/// numbers, `{s-1}` for the number before `{s}`, `{2s}` for twice `{s}` and `{2s+1}` for the number
/// after that.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The library, for example `transformers`.
    pub name: &'static str,
    /// Its name for the head.
    pub head: &'static str,
    /// Prefixes that all names may have; this program writes the first.
    pub prefixes: &'static [&'static str],
    /// Pairs of the canonical name and the library's: of modules, of slices of a fused projection, or
    /// of whole parameters.
    pub rules: &'static [(&'static str, &'static str)],
    /// The starts of names that belong to no backbone, such as text towers, poolers and indices;
    /// with numbers as in a rule.
    pub ignored: &'static [&'static str],
    /// The canonical names of layers that never run there, because the module around them reads their weights
    /// itself: the projections of `torch.nn.MultiheadAttention`, for example. What another library puts
    /// around such a layer has no effect.
    pub functional: &'static [&'static str],
    /// The conversion of its values, if they need one.
    pub convert: Option<Convert>,
}

/// Converts a value of another library, given its canonical name: transposed kernels, other axes. The
/// last argument reads another value of the file by its canonical name, for parameters that are two
/// there and one here.
pub type Convert = fn(&str, TensorData, Others) -> TensorData;

/// Reads another value of the same file, unconverted, by its canonical name.
pub type Others<'a> = &'a dyn Fn(&str) -> Option<TensorData>;

/// The transpose of a matrix with `rows` and `columns`.
pub fn transposed(data: TensorData, rows: usize, columns: usize) -> TensorData {
    let values = floats(data);
    let turned: Vec<f32> = (0..columns)
        .flat_map(|c| (0..rows).map(move |r| (r, c)))
        .map(|(r, c)| values[r * columns + c])
        .collect();
    TensorData::new(turned, [columns, rows])
}

impl Layout {
    /// The canonical spelling, with the head called `head`.
    pub const fn canonical(head: &'static str) -> Self {
        Self {
            name: "timm",
            head,
            prefixes: &[""],
            rules: &[("{*}", "{*}")],
            ignored: &[],
            functional: &[],
            convert: None,
        }
    }

    /// The library's name of a module.
    ///
    /// # Errors
    /// [`Error::Layout`] if the library does not have the module.
    pub fn theirs(&self, ours: &str) -> Result<String> {
        let translated = self.bare(ours).map(|theirs| self.prefixed(&theirs));
        translated.ok_or_else(|| self.unknown(ours, "name for"))
    }

    /// The library's name with the prefix that this program writes.
    pub(crate) fn prefixed(&self, bare: &str) -> String {
        let prefix = self.prefixes.first().copied().unwrap_or_default();
        // Parts that a backbone may lack, such as the projection of CLIP, are beside the part that
        // the prefix names.
        if self.ignores(&format!("{bare}.")).is_some() {
            return bare.to_owned();
        }
        format!("{prefix}{bare}")
    }

    /// The library's name, without a prefix.
    fn bare(&self, ours: &str) -> Option<String> {
        self.rules
            .iter()
            .find_map(|(from, to)| translate(ours, from, to))
    }

    /// The canonical name of the library's module.
    ///
    /// # Errors
    /// [`Error::Layout`] if no rule knows it.
    pub fn ours(&self, theirs: &str) -> Result<String> {
        let translated = self.prefixes.iter().find_map(|prefix| {
            let bare = theirs.strip_prefix(prefix)?;
            self.rules
                .iter()
                .find_map(|(to, from)| translate(bare, from, to))
        });
        translated.ok_or_else(|| self.unknown(theirs, "module"))
    }

    /// The tensors that make up the parameter called `ours`, each with its canonical name and the
    /// library's, without a prefix. There is one, or one per slice of a fused projection; slices are
    /// concatenated along the first axis.
    pub fn sources(&self, ours: &str, spec: &BackboneSpec) -> Option<Vec<(String, String)>> {
        let one = |name: &str| {
            self.bare(name).or_else(|| {
                let (module, part) = name.rsplit_once('.')?;
                Some(format!("{}.{part}", self.bare(module)?))
            })
        };
        if let Some(name) = one(ours) {
            return Some(vec![(ours.to_owned(), name)]);
        }
        // The library has the slices of a fused projection as modules of their own.
        let (module, part) = ours.rsplit_once('.')?;
        let slices = &spec.site(module)?.slices;
        let of = |slice: &Slice| {
            let name = format!("{}.{part}", slice.name);
            let theirs = one(&name)?;
            Some((name, theirs))
        };
        if slices.is_empty() {
            None
        } else {
            slices.iter().map(of).collect()
        }
    }

    /// The canonical name of a tensor that the library calls `theirs` after the prefix; a slice of a
    /// fused projection has a name of its own.
    pub fn own(&self, theirs: &str) -> Option<String> {
        let one = |name: &str| {
            let mut rules = self.rules.iter();
            rules.find_map(|(to, from)| translate(name, from, to))
        };
        one(theirs).or_else(|| {
            let (module, part) = theirs.rsplit_once('.')?;
            Some(format!("{}.{part}", one(module)?))
        })
    }

    /// The entry of `ignored` with which a name (without a prefix) begins; none if it may belong to a
    /// backbone.
    pub fn ignores(&self, bare: &str) -> Option<&'static str> {
        let mut starts = self.ignored.iter().copied();
        starts.find(|pattern| numbers(bare, pattern).is_some())
    }

    /// Whether the layer at a site never runs there: it is [`functional`](Self::functional), or its slices have
    /// biases of their own, which the library joins to one and gives to the layer's weight.
    pub fn is_functional(&self, site: &Site) -> bool {
        let of = |pattern: &&str| matches!(numbers(&site.name, pattern), Some((_, "")));
        let own_biases = site.slices.iter().any(|slice| slice.bias.is_some());
        self.functional.iter().any(of) || own_biases && self.theirs(&site.name).is_ok()
    }

    fn unknown(&self, name: &str, what: &'static str) -> Error {
        let known = self.rules.iter().map(|(ours, theirs)| {
            if ours == theirs {
                (*ours).to_owned()
            } else {
                format!("{ours} = {theirs}")
            }
        });
        Error::Layout {
            layout: self.name,
            what,
            name: name.to_owned(),
            known: known.collect::<Vec<_>>().join(", "),
        }
    }
}

/// Rewrites `name` from the pattern `from` to `to`: `{i}` and `{s}` each match a number, `{s-1}` one
/// less than `{s}`, `{2s}` twice as much, `{2s+1}` one more than that, and `{*}` everything.
fn translate(name: &str, from: &str, to: &str) -> Option<String> {
    if from == "{*}" {
        return Some(to.replace("{*}", name));
    }
    // The rest must be empty: a rule is about the whole name.
    let (numbers, "") = numbers(name, from)? else {
        return None;
    };
    let (mut result, mut pattern) = (String::new(), to);
    while let Some((literal, placeholder, after)) = cut(pattern) {
        let placeholder = Placeholder::of(placeholder);
        let (_, number) = numbers.iter().find(|(of, _)| *of == placeholder.letter)?;
        result = format!("{result}{literal}{}", placeholder.written(*number)?);
        pattern = after;
    }
    Some(result + pattern)
}

/// The numbers that the placeholders of `pattern` match at the start of `name`, and the rest of
/// `name`.
fn numbers<'a, 'b>(name: &'a str, pattern: &'b str) -> Option<(Vec<(&'b str, usize)>, &'a str)> {
    let (mut numbers, mut rest, mut pattern) = (Vec::new(), name, pattern);
    while let Some((literal, placeholder, after)) = cut(pattern) {
        rest = rest.strip_prefix(literal)?;
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: usize = rest[..digits].parse().ok()?;
        // A number with leading zeros would not be written back as it was read.
        if number.to_string().len() != digits {
            return None;
        }
        let placeholder = Placeholder::of(placeholder);
        numbers.push((placeholder.letter, placeholder.read(number)?));
        (rest, pattern) = (&rest[digits..], after);
    }
    Some((numbers, rest.strip_prefix(pattern)?))
}

/// The text before the first placeholder of a pattern, the placeholder, and the text after it.
fn cut(pattern: &str) -> Option<(&str, &str, &str)> {
    let (literal, behind) = pattern.split_once('{')?;
    let (placeholder, after) = behind.split_once('}')?;
    Some((literal, placeholder, after))
}

/// A placeholder, by what it writes for the number of its letter: `{2s+1}` writes `2 s + 1`,
/// `{s-1}` writes `s - 1`.
#[derive(Clone, Copy)]
struct Placeholder<'a> {
    letter: &'a str,
    factor: usize,
    plus: usize,
    minus: usize,
}

impl<'a> Placeholder<'a> {
    fn of(text: &'a str) -> Self {
        let letter = text.trim_start_matches("2");
        let factor = if letter.len() < text.len() { 2 } else { 1 };
        let (letter, plus, minus) = match (letter.strip_suffix("+1"), letter.strip_suffix("-1")) {
            (Some(letter), _) => (letter, 1, 0),
            (None, Some(letter)) => (letter, 0, 1),
            (None, None) => (letter, 0, 0),
        };
        Self {
            letter,
            factor,
            plus,
            minus,
        }
    }

    /// The number that it writes.
    fn written(self, number: usize) -> Option<usize> {
        let product = number.checked_mul(self.factor)?;
        // Checked, because the numbers come from a file.
        product.checked_add(self.plus)?.checked_sub(self.minus)
    }

    /// The number of which it writes `written`.
    fn read(self, written: usize) -> Option<usize> {
        let product = written.checked_add(self.minus)?.checked_sub(self.plus)?;
        let divides = product.is_multiple_of(self.factor);
        divides.then_some(product / self.factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        name: "transformers",
        head: "classifier",
        prefixes: &["vit.", ""],
        rules: &[
            ("blocks.{i}.attn.query", "layers.{i}.attention.q_proj"),
            ("blocks.{i}.mlp.{s}", "layers.{i}.mlp_{s}"),
            ("stages.{s}.merge", "layers.{s-1}.downsample"),
            ("stages.{s}.norm", "sequence.{2s}.norm"),
            ("stages.{s}.fc.{i}", "sequence.{2s+1}.{i}.fc"),
            ("norm", "layernorm"),
            ("projection", "pooler.dense"),
        ],
        ignored: &["pooler.", "layers.{i}.index"],
        functional: &[],
        convert: None,
    };

    #[test]
    fn names_are_translated_in_both_directions() {
        let theirs = LAYOUT.theirs("blocks.11.attn.query").unwrap();
        assert_eq!(theirs, "vit.layers.11.attention.q_proj");
        assert_eq!(LAYOUT.ours(&theirs).unwrap(), "blocks.11.attn.query");
        assert_eq!(LAYOUT.ours("vit.layernorm").unwrap(), "norm");
        assert_eq!(LAYOUT.ours("layernorm").unwrap(), "norm");
        // These keys lie beside what the prefix names.
        assert_eq!(LAYOUT.theirs("projection").unwrap(), "pooler.dense");
        assert_eq!(LAYOUT.ours("pooler.dense").unwrap(), "projection");
        assert_eq!(
            LAYOUT.theirs("blocks.3.mlp.12").unwrap(),
            "vit.layers.3.mlp_12"
        );
        let theirs = LAYOUT.theirs("stages.10.merge").unwrap();
        assert_eq!(theirs, "vit.layers.9.downsample");
        assert_eq!(LAYOUT.ours(&theirs).unwrap(), "stages.10.merge");
        for (ours, theirs) in [
            ("stages.3.norm", "vit.sequence.6.norm"),
            ("stages.0.fc.2", "vit.sequence.1.2.fc"),
            ("stages.3.fc.11", "vit.sequence.7.11.fc"),
        ] {
            assert_eq!(LAYOUT.theirs(ours).unwrap(), theirs);
            assert_eq!(LAYOUT.ours(theirs).unwrap(), ours);
        }
        assert!(LAYOUT.ours("sequence.7.norm").is_err());
        assert!(LAYOUT.ours("sequence.6.0.fc").is_err());
        let canonical = Layout::canonical("head");
        assert_eq!(canonical.ours("blocks.0.attn").unwrap(), "blocks.0.attn");
    }

    #[test]
    fn an_unknown_name_lists_both_spellings() {
        for name in [
            "blocks.x.attn.query",
            "blocks.0.attn.qkv",
            "blocks.01.attn.query",
            "stages.0.merge",
            "norm.weight",
        ] {
            let error = LAYOUT.theirs(name).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("norm = layernorm"),
                "{error}"
            );
        }
    }

    #[test]
    fn names_of_other_parts_are_ignored_by_their_prefix() {
        for name in ["pooler.dense.weight", "layers.3.index", "layers.3.index_0"] {
            assert!(LAYOUT.ignores(name).is_some(), "{name}");
        }
        for name in ["pool", "layers.index", "layers.3.mlp_0", "a.layers.3.index"] {
            assert_eq!(LAYOUT.ignores(name), None, "{name}");
        }
    }
}
