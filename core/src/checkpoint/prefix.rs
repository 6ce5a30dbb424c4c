//! The prefixes that wrappers put before every name of a backbone's weights: `module.` by
//! `DataParallel`, `_orig_mod.` by `torch.compile`, the name of a field in a model of one's own, and any
//! nest of these.

use super::file::Checkpoint;

/// The prefixes that may stand before the names of a backbone, shortest first; the first is empty. They
/// are read off the names, so a wrapper need not be known.
pub(super) fn wrappers(file: &Checkpoint) -> Vec<String> {
    let mut prefixes: Vec<&str> = file.names().flat_map(prefixes).collect();
    prefixes.sort_unstable_by_key(|prefix| (prefix.len(), *prefix));
    prefixes.dedup();
    prefixes.into_iter().map(str::to_owned).collect()
}

/// The starts of a name that end with a separator, before the first part that is a number: a block's
/// number belongs to the backbone.
fn prefixes(name: &str) -> impl Iterator<Item = &str> {
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
}
