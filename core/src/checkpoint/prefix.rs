//! The prefixes that wrappers put before every name of a backbone's weights: `module.` by
//! `DataParallel`, `_orig_mod.` by `torch.compile`, the name of a field in a model of one's own, and any
//! nest of these.

use std::collections::BTreeMap;

use super::entry::Entry;

/// The prefixes that may stand before the `names` of a backbone, shortest first; the first is empty. They
/// are read off the names, so a wrapper need not be known.
pub(super) fn wrappers<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut prefixes: Vec<&str> = names.flat_map(prefixes).collect();
    prefixes.sort_unstable_by_key(|prefix| (prefix.len(), *prefix));
    prefixes.dedup();
    prefixes.into_iter().map(str::to_owned).collect()
}

/// The starts of a name that end with a separator, before the first part that is a number: a block's
/// number belongs to the backbone.
pub(crate) fn prefixes(name: &str) -> impl Iterator<Item = &str> {
    let ends = name.match_indices(['.', '/']).map(|(at, _)| at);
    let starts = std::iter::once(0).chain(ends.clone().map(|at| at + 1));
    let parts = starts.zip(ends);
    let named = parts.take_while(move |(start, end)| name[*start..*end].parse::<usize>().is_err());
    std::iter::once("").chain(named.map(move |(_, end)| &name[..=end]))
}

/// The prefix without its last part: `clip.` for `clip.vision_model.`.
pub(super) fn outer(prefix: &str) -> &str {
    let inner = prefix.trim_end_matches(['.', '/']);
    inner.rfind(['.', '/']).map_or("", |dot| &prefix[..=dot])
}

/// The modules that PyTorch puts around others in the middle of a model: `torch.compile` of a block,
/// sharding, activation checkpointing.
pub(crate) const WRAPPERS: [&str; 3] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// The entries without wrappers in the middle of their names, and how many there were; unchanged if two
/// names would be the same.
pub(super) fn without_wrappers(
    entries: BTreeMap<String, Entry>,
) -> (BTreeMap<String, Entry>, usize) {
    // What all names begin with, and the part after it, are left for the search of a prefix. The names
    // are sorted, so the first and the last have nothing in common that the others lack.
    let (first, last) = (entries.first_key_value(), entries.last_key_value());
    let ends = first.zip(last).map(|((first, _), (last, _))| {
        let pairs = first.bytes().zip(last.bytes());
        let same = pairs.take_while(|(a, b)| a == b).count();
        first.as_bytes()[..same]
            .iter()
            .rposition(|byte| *byte == b'.')
    });
    let start = ends.flatten().map_or(0, |dot| dot + 1);
    let bare = |name: &String| {
        let parts = name[start..].split('.').enumerate();
        let own = parts.filter(|(place, part)| *place == 0 || !WRAPPERS.contains(part));
        let own: Vec<_> = own.map(|(_, part)| part).collect();
        format!("{}{}", &name[..start], own.join("."))
    };
    let wrapped = entries.keys().filter(|name| bare(name) != **name).count();
    let renamed = entries.iter().map(|(name, entry)| (bare(name), entry));
    let renamed: BTreeMap<_, _> = renamed.collect();
    if wrapped == 0 || renamed.len() < entries.len() {
        return (entries, 0);
    }
    let renamed = renamed.into_iter();
    let owned = renamed.map(|(name, entry)| (name, entry.clone()));
    (owned.collect(), wrapped)
}

/// Leaves out the wrappers before all names of a file that has no backbone to be found behind them:
/// [`WRAPPERS`] and `module`, in any nest. Returns what was left out.
pub(crate) fn unwrapped<T>(values: BTreeMap<String, T>) -> (BTreeMap<String, T>, String) {
    let mut found = String::new();
    let wrapper = |name: &str| -> usize {
        let parts = name.split_inclusive('.');
        let known = |part: &&str| {
            let bare = part.strip_suffix('.');
            bare.is_some_and(|bare| bare == "module" || WRAPPERS.contains(&bare))
        };
        parts.take_while(known).map(str::len).sum()
    };
    if let Some(first) = values.keys().next() {
        first[..wrapper(first)].clone_into(&mut found);
    }
    if found.is_empty() || values.keys().any(|name| !name.starts_with(&found)) {
        return (values, String::new());
    }
    let bare = |(name, value): (String, T)| (name[found.len()..].to_owned(), value);
    (values.into_iter().map(bare).collect(), found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_before_the_first_number() {
        let found = |name| prefixes(name).collect::<Vec<_>>();
        assert_eq!(found("cls_token"), [""]);
        assert_eq!(found("blocks.0.norm1.weight"), ["", "blocks."]);
        let wrapped = "_orig_mod.module.blocks.0.norm1.weight";
        let expected = [
            "",
            "_orig_mod.",
            "_orig_mod.module.",
            "_orig_mod.module.blocks.",
        ];
        assert_eq!(found(wrapped), expected);
        assert_eq!(found("target/head/kernel"), ["", "target/", "target/head/"]);
        assert_eq!(outer("clip.vision_model."), "clip.");
        assert_eq!((outer("module."), outer("")), ("", ""));
    }

    #[test]
    fn only_wrappers_that_all_names_have_are_left_out() {
        for (names, left_out, first) in [
            (
                &["_orig_mod.a.0", "_orig_mod.head"][..],
                "_orig_mod.",
                "a.0",
            ),
            (
                &["module._orig_mod.a", "module._orig_mod.b"],
                "module._orig_mod.",
                "a",
            ),
            (&["_orig_mod.a", "head"], "", "_orig_mod.a"),
            (&["model.a", "model.b"], "", "model.a"),
            (&["a", "b"], "", "a"),
        ] {
            let values = names.iter().map(|name| ((*name).to_owned(), ())).collect();
            let (bare, wrapper) = unwrapped(values);
            assert_eq!(wrapper, left_out, "{names:?}");
            assert_eq!(bare.keys().next().unwrap(), first);
        }
    }
}
