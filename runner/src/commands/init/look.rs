//! Tells the format of the data by the files that are there.

use std::path::{Path, PathBuf};

use super::seen::{Seen, extension, files};
use super::{folder, table};
use crate::exit::{Failure, config_error};

/// Recognises the data at a path.
///
/// # Errors
/// If they have none of the known layouts; the message lists these.
pub fn look(path: &Path) -> Result<Seen, Failure> {
    if path.is_file() {
        return match extension(path).as_str() {
            "csv" | "tsv" => table::look(path),
            _ => Err(unknown(path)),
        };
    }
    if let Some(root) = folder::tfds_root(path)? {
        return folder::tfds(&root);
    }
    if let Some(seen) = folder::parquet(path)? {
        return Ok(seen);
    }
    if let Some(seen) = folder::classes(path)? {
        return Ok(seen);
    }
    let tables: Vec<PathBuf> = files(path)?
        .into_iter()
        .filter(|file| ["csv", "tsv"].contains(&extension(file).as_str()))
        .collect();
    match &tables[..] {
        [table] => table::look(table),
        [] => Err(unknown(path)),
        _ => Err(config_error(format_args!(
            "{}: expected one table, got {}; name the one that is meant",
            path.display(),
            tables.len()
        ))),
    }
}

fn unknown(path: &Path) -> Failure {
    config_error(format_args!(
        "{}: expected folders of classes (perhaps below train, val and test), a table with a column of \
         paths (.csv, .tsv), parquet shards, or a folder with dataset_info.json; got none of them",
        path.display()
    ))
}
