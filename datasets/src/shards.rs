//! Files that hold many records: found by a pattern and mapped into memory.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use peft_core::data::Split;

use crate::error::Error;
use crate::split::BySplit;

/// The shards of each split, as a configuration names them: see [`expand`].
pub(crate) struct Patterns<'a> {
    pub train: &'a str,
    pub validation: Option<&'a str>,
    pub test: Option<&'a str>,
}

impl Patterns<'_> {
    /// The records of each split; `read` reads those of one shard. Without a pattern, validation
    /// and test have none.
    ///
    /// # Errors
    /// A root that is not there, those of [`expand`] and `read`, and a shard in two splits.
    pub fn read<T>(
        &self,
        root: &Path,
        mut read: impl FnMut(PathBuf) -> Result<Vec<T>, Error>,
    ) -> Result<BySplit<Vec<T>>, Error> {
        let root = fs_err::canonicalize(root)?;
        let mut known = HashSet::new();
        BySplit::try_from_fn(|split| {
            let (field, pattern) = match split {
                Split::Train => ("train", Some(self.train)),
                Split::Validation => ("validation", self.validation),
                Split::Test => ("test", self.test),
            };
            let mut records = Vec::new();
            for path in pattern.map_or(Ok(Vec::new()), |p| expand(&root, field, p))? {
                if !known.insert(path.clone()) {
                    let expected = "shards that belong to one split";
                    return Err(Error::layout(path, expected, "one that belongs to two"));
                }
                records.extend(read(path)?);
            }
            Ok(records)
        })
    }
}

/// The files below `root` that match `pattern`, sorted: `*` stands for any part of a name, and
/// `{000..003}` for a range of numbers, as in WebDataset's names of shards. `field` is the
/// pattern's name in the configuration, for messages.
///
/// # Errors
/// A pattern that leads out of the root, a file of a range that is missing, no file at all.
pub(crate) fn expand(
    root: &Path,
    field: &'static str,
    pattern: &str,
) -> Result<Vec<PathBuf>, Error> {
    let inside = Path::new(pattern)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside || pattern.is_empty() {
        let expected = "a path or a pattern inside the root, without `..`";
        return Err(Error::invalid(field, expected, format!("`{pattern}`")));
    }
    let mut found = Vec::new();
    for pattern in ranged(pattern) {
        let mut paths = vec![root.to_owned()];
        for part in pattern
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
        {
            let mut next = Vec::new();
            for path in paths {
                if !part.contains('*') {
                    next.push(path.join(part));
                    continue;
                }
                for entry in fs_err::read_dir(&path)? {
                    let name = entry?.file_name();
                    if name.to_str().is_some_and(|name| matches(part, name)) {
                        next.push(path.join(name));
                    }
                }
            }
            paths = next;
        }
        // `*` only finds files that exist; those that the pattern spells out may be missing.
        if let Some(missing) = paths.iter().find(|path| !path.exists()) {
            return Err(Error::layout(
                missing,
                format!("a file of `{field}: {pattern}`"),
                "none",
            ));
        }
        found.extend(paths);
    }
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        return Err(Error::layout(
            root,
            format!("a file of `{field}: {pattern}`"),
            "none",
        ));
    }
    Ok(found)
}

/// The patterns that a range `{first..last}` stands for; each number has as many digits as `first`.
fn ranged(pattern: &str) -> Vec<String> {
    let parts = || {
        let (before, rest) = pattern.split_once('{')?;
        let (range, after) = rest.split_once('}')?;
        let (first, last) = range.split_once("..")?;
        let numbers = first.parse::<u32>().ok()?..=last.parse().ok()?;
        Some((before, after, first.len(), numbers))
    };
    match parts() {
        Some((before, after, width, numbers)) => numbers
            .flat_map(|number| ranged(&format!("{before}{number:0width$}{after}")))
            .collect(),
        None => vec![pattern.to_owned()],
    }
}

/// Whether `name` matches `pattern`. A leading `*` does not match a leading dot.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    // The earliest match of each part leaves the most for those after it.
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last) && !(first.is_empty() && name.starts_with('.'))
}

/// A memory-mapped file.
#[derive(Debug)]
pub(crate) struct Mapped {
    pub path: PathBuf,
    bytes: Option<Mmap>,
}

impl Mapped {
    /// Maps a file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let file = fs_err::File::open(&path)?;
        let bytes = match file.metadata()?.len() {
            // An empty file cannot be mapped.
            0 => None,
            // SAFETY: the map is only read, and lives as long as its bytes are lent. Another
            // process that shortened the file meanwhile would end this one, as with every
            // memory-mapped file.
            _ => Some(unsafe { Mmap::map(file.file())? }),
        };
        Ok(Self { path, bytes })
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_files_in_order() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "a/train-0001.tar",
            "a/train-0000.tar",
            "a/.train-0002.tar",
            "b/x.tar",
        ] {
            let path = root.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, "").unwrap();
        }
        let found = |pattern: &str| {
            let found = expand(root.path(), "train", pattern).map_err(|e| e.to_string())?;
            let names = found
                .iter()
                .map(|path| path.strip_prefix(root.path()).unwrap());
            Ok::<_, String>(
                names
                    .map(|name| name.to_str().unwrap().to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        let both = ["a/train-0000.tar", "a/train-0001.tar"];
        assert_eq!(found("a/*.tar").unwrap(), both);
        assert_eq!(found("a/train-{0000..0001}.tar").unwrap(), both);
        assert_eq!(found("*/train-*0.tar").unwrap(), both[..1]);
        assert_eq!(found("./b/x.tar").unwrap(), ["b/x.tar"]);
        for (pattern, part) in [
            (
                "a/train-{0000..0002}.tar",
                "a/train-0002.tar`: expected a file of `train:",
            ),
            ("a/*.zip", "expected a file of `train: a/*.zip`, got none"),
            (
                "../*.tar",
                "invalid `train`: expected a path or a pattern inside the root",
            ),
            ("", "invalid `train`"),
        ] {
            let message = found(pattern).unwrap_err();
            assert!(message.contains(part), "{pattern}: {message}");
        }
    }

    #[test]
    fn stars_match_any_part() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*a", "a", false),
            ("a*b*c", "axbxbxc", true),
            ("abc", "abcd", false),
            ("*.tar", ".tar", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
