//! Images that are files of their own: named by a list, or found in folders.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::indexed::{Item, Source};

/// A place in a list: `train.txt line 17`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The list's path and the unit that is counted in it.
    pub list: Arc<str>,
    /// Counted from 1.
    pub number: usize,
}

impl Place {
    /// The first `unit` of a list: its first line, row or entry.
    pub fn first(list: &Path, unit: &str) -> Self {
        Self {
            list: format!("`{}` {unit}", list.display()).into(),
            number: 1,
        }
    }

    /// Another place in the same list.
    pub fn at(&self, number: usize) -> Self {
        let list = self.list.clone();
        Self { list, number }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.list, self.number)
    }
}

/// An image file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// Its path below the root, with forward slashes on every platform.
    pub path: Box<str>,
    /// Where it is listed; `None` for a file that was found in its folder.
    pub place: Option<Place>,
}

impl File {
    /// The file that a list names `path`, below `folder`.
    ///
    /// # Errors
    /// A path that is empty or absolute, or that contains `..`.
    pub fn listed(folder: &str, path: &str, place: Place) -> Result<Self, Error> {
        let joined = Path::new(folder).join(path);
        // Joined again from its parts, so that `./a//b.png` and `a/b.png` are found to be one file.
        let mut names = Vec::new();
        for component in joined.components() {
            match component {
                Component::Normal(name) => names.extend(name.to_str()),
                Component::CurDir => {}
                _ => return Err(Error::record(place, INSIDE, format!("`{path}`"))),
            }
        }
        if Path::new(path).components().next().is_none() {
            return Err(Error::record(place, INSIDE, "none"));
        }
        Ok(Self {
            path: names.join("/").into(),
            place: Some(place),
        })
    }
}

const INSIDE: &str = "a path inside the root, without `..`";

/// Image files below one folder. Links that lead out of it are not followed.
#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
}

impl Files {
    /// The files below `root`, which must exist.
    pub fn below(root: &Path) -> Result<Self, Error> {
        Ok(Self {
            root: fs_err::canonicalize(root)?,
        })
    }

    /// The root, as an absolute path without links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether `path`, with its links followed, is outside of the root.
    pub fn leaves(&self, path: &Path) -> io::Result<bool> {
        Ok(!std::fs::canonicalize(path)?.starts_with(&self.root))
    }
}

impl Source for Files {
    type At = File;

    fn name(&self, at: &File) -> String {
        let path = self.root.join(&*at.path);
        match &at.place {
            Some(place) => format!("`{}` (listed at {place})", path.display()),
            None => format!("`{}`", path.display()),
        }
    }

    fn bytes(&self, at: &File) -> Result<Cow<'_, [u8]>, Error> {
        let path = self.root.join(&*at.path);
        // Checked at each reading, not once: a link may have changed since the data set was opened.
        let read = self.leaves(&path).and_then(|leaves| match leaves {
            true => Err(io::Error::other("a link that leads out of the root")),
            false => std::fs::read(&path),
        });
        read.map(Cow::Owned).map_err(|source| Error::Unread {
            image: self.name(at),
            source,
        })
    }
}

/// Checks that no file is listed twice.
///
/// # Errors
/// [`Error::Twice`], with both places.
pub(crate) fn distinct(lists: &[&[Item<File>]]) -> Result<(), Error> {
    let mut seen: HashMap<&str, &File> = HashMap::new();
    for item in lists.iter().copied().flatten() {
        if let Some(first) = seen.insert(&item.at.path, &item.at) {
            let place = |file: &File| file.place.as_ref().map(Place::to_string);
            return Err(Error::Twice {
                image: format!("`{}`", item.at.path),
                first: place(first).unwrap_or_default(),
                second: place(&item.at).unwrap_or_default(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(folder: &str, path: &str) -> Result<Box<str>, String> {
        let place = Place::first(Path::new("train.txt"), "line").at(7);
        let file = File::listed(folder, path, place);
        file.map(|file| file.path).map_err(|e| e.to_string())
    }

    #[test]
    fn listed_paths_stay_inside_and_have_one_spelling() {
        assert_eq!(listed("", "a/b c.png").as_deref(), Ok("a/b c.png"));
        assert_eq!(
            listed("images", "./a//b.png").as_deref(),
            Ok("images/a/b.png")
        );
        for path in ["../a.png", "a/../../b.png", "a/../b.png", "/etc/a.png"] {
            let expected = format!(
                "bad record at `train.txt` line 7: expected a path inside the root, without `..`, \
                 got `{path}`"
            );
            assert_eq!(listed("images", path), Err(expected));
        }
        assert!(listed("images", "").unwrap_err().contains("got none"));
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_anywhere_but_out() {
        use std::os::unix::fs::symlink;
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs_err::write(inside.path().join("a"), "a").unwrap();
        fs_err::write(outside.path().join("b"), "b").unwrap();
        symlink("a", inside.path().join("in")).unwrap();
        symlink(outside.path().join("b"), inside.path().join("out")).unwrap();
        let files = Files::below(inside.path()).unwrap();
        let read = |name: &str| {
            let place = Place::first(Path::new("list"), "line");
            let file = File::listed("", name, place).unwrap();
            files.bytes(&file).map_err(|e| e.to_string())
        };
        assert_eq!(*read("in").unwrap(), *b"a");
        let message = read("out").unwrap_err();
        assert!(
            message.contains("out` (listed at `list` line 1): a link"),
            "{message}"
        );
        let message = read("none").unwrap_err();
        assert!(
            message.contains("none` (listed at `list` line 1): No such"),
            "{message}"
        );
    }
}
