//! The folders of an image folder: which entries are images or classes, and which are passed over.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use peft_core::error::listed;

use crate::error::Error;
use crate::files::Files;
use crate::kinds::{EXTENSIONS, KINDS};

/// The files in a split that are not among its images, counted by the reason.
#[derive(Default)]
pub(super) struct PassedOver(BTreeMap<String, usize>);

impl PassedOver {
    pub fn note(&mut self, why: &str) {
        *self.0.entry(why.to_owned()).or_default() += 1;
    }

    pub fn remark(&self, split: &str) -> Option<String> {
        let count: usize = self.0.values().sum();
        let kinds: Vec<String> = self
            .0
            .iter()
            .map(|(why, count)| format!("{count} {why}"))
            .collect();
        let kinds = listed(&kinds, 10);
        (count > 0).then(|| format!("files in `{split}` that are passed over: {count} ({kinds})"))
    }
}

/// The images in the folder of a class and the folders within: their paths below it, ordered by
/// folder, then by name.
///
/// # Errors
/// Those of [`entries`], and a class without images.
pub(super) fn images(
    files: &Files,
    class: &Path,
    passed_over: &mut PassedOver,
) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(below) = folders.pop() {
        let (inner, names) = entries(files, &class.join(&below), passed_over)?;
        let path = |name: &str| match below.is_empty() {
            true => name.to_owned(),
            false => format!("{below}/{name}"),
        };
        folders.extend(inner.iter().map(|name| path(name)));
        for name in names {
            let extension = extension(Path::new(&name));
            if EXTENSIONS.contains(&&*extension) {
                found.push((below.clone(), name));
            } else if extension.is_empty() {
                passed_over.note("without an extension");
            } else {
                passed_over.note(&format!(".{extension}"));
            }
        }
    }
    if found.is_empty() {
        let expected = format!("at least one {KINDS}");
        return Err(Error::layout(class, expected, "none"));
    }
    found.sort_unstable();
    let path = |(below, name): (String, String)| match below.is_empty() {
        true => name,
        false => format!("{below}/{name}"),
    };
    Ok(found.into_iter().map(path).collect())
}

/// The extension of a file's name in lower case; empty if it has none.
fn extension(path: &Path) -> String {
    let extension = path.extension().and_then(OsStr::to_str);
    extension.unwrap_or_default().to_lowercase()
}

/// The names of the folders and of the files in `folder`, in no order, without those that are
/// passed over.
pub(super) fn entries(
    files: &Files,
    folder: &Path,
    passed_over: &mut PassedOver,
) -> Result<(Vec<String>, Vec<String>), Error> {
    let leaves = |path: &Path| {
        let leaves = files.leaves(path);
        leaves.map_err(|error| Error::layout(path, "a file or folder", error.to_string()))
    };
    if leaves(folder)? {
        let expected = "a folder inside the root";
        return Err(Error::layout(
            folder,
            expected,
            "a link that leads out of it",
        ));
    }
    let (mut folders, mut names) = (Vec::new(), Vec::new());
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if name.as_encoded_bytes().starts_with(b".") {
            passed_over.note("hidden");
            continue;
        }
        let extension = extension(&path);
        let is_other = !extension.is_empty() && !EXTENSIONS.contains(&&*extension);
        // Only links can lead out, and resolving every path would be slow on a network file system.
        let is_link = entry.file_type()?.is_symlink();
        if is_link && is_other && !path.exists() {
            passed_over.note(&format!(".{extension}"));
            continue;
        }
        if is_link && leaves(&path)? {
            passed_over.note("links out of the root");
            continue;
        }
        // `fs_err::metadata` follows links, unlike the type of the entry.
        let is_folder = fs_err::metadata(&path)?.is_dir();
        // A link to a folder above would be followed without end.
        let is_above = || {
            let target = fs_err::canonicalize(&path)?;
            Ok::<_, Error>(fs_err::canonicalize(folder)?.starts_with(target))
        };
        if is_link && is_folder && is_above()? {
            passed_over.note("links to a folder above");
            continue;
        }
        if !is_folder && is_other && name.to_str().is_none() {
            passed_over.note(&format!(".{extension}"));
            continue;
        }
        // Lists, adapters and results name classes in UTF-8.
        let name = name
            .into_string()
            .map_err(|_| Error::layout(path, "a name in UTF-8", "another encoding"))?;
        if is_folder { &mut folders } else { &mut names }.push(name);
    }
    Ok((folders, names))
}
