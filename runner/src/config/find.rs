//! Finds YAML files by path, or by name among the shipped ones. Those are also inside the binary, so
//! that an installed `runner` works in any folder.

use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use peft_core::BackboneConfig;
use peft_core::checkpoint::Checkpoint;
use peft_core::error::nearest;
use peft_core::files::read_text;
use peft_core::source::WeightsFile;
use serde_yaml::Value;

use crate::config::error::ConfigError;
use crate::exit::{Failure, config_error};
use crate::fetch::hub;

static CONFIGS: Dir = include_dir!("$CARGO_MANIFEST_DIR/configs");
static ASSETS: Dir = include_dir!("$CARGO_MANIFEST_DIR/assets");

/// A YAML file that was found.
pub struct Found {
    /// Its path or name, for messages.
    pub origin: String,
    /// The file's name without its extension.
    pub stem: String,
    /// The parsed document.
    pub value: Value,
}

/// Reads the config at a path, or the one of that name under `configs/` (with or without
/// `.yaml`).
///
/// # Errors
/// If it does not exist, with the nearest name; if it is not valid YAML, with line and column.
pub fn find(name: &str) -> Result<Found, Failure> {
    let path = Path::new(name);
    if path.is_file() {
        let text = read_text(path).map_err(config_error)?;
        return parse(name, &text);
    }
    shipped(name).unwrap_or_else(|| {
        let all = names("");
        let known = all.iter().map(String::as_str);
        let hint = match nearest(name.trim_end_matches(".yaml"), known) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("shipped are: {}", all.join(", ")),
        };
        let name = name.to_owned();
        Err(ConfigError::NotFound { name, hint }.into())
    })
}

/// Reads the file called `name` in a room of `configs/`: the one below the current folder if it
/// exists, else the shipped one.
pub fn in_room(room: &str, name: &str) -> Option<Result<Found, Failure>> {
    let inner = format!("{room}/{name}.yaml");
    let local = Path::new("configs").join(&inner);
    // In a checkout, an edited config must win over the copy from when the binary was built.
    if local.is_file() {
        let text = read_text(&local).map_err(config_error);
        return Some(text.and_then(|text| parse(&local.to_string_lossy(), &text)));
    }
    shipped(&inner)
}

/// Lists the names of the files in a room, without `.yaml`, or those of all rooms for an empty
/// prefix.
pub fn names(room: &str) -> Vec<String> {
    fn walk(dir: &Dir, names: &mut Vec<String>) {
        let name = |path: &Path| path.with_extension("").to_string_lossy().into_owned();
        names.extend(dir.files().map(|file| name(file.path())));
        dir.dirs().for_each(|dir| walk(dir, names));
    }
    let mut names = Vec::new();
    walk(&CONFIGS, &mut names);
    names.retain(|name| name.starts_with(room));
    names.sort();
    names
}

fn shipped(name: &str) -> Option<Result<Found, Failure>> {
    let file = CONFIGS
        .get_file(name)
        .or_else(|| CONFIGS.get_file(format!("{name}.yaml")))?;
    let origin = format!("configs/{}", file.path().display());
    Some(parse(&origin, file.contents_utf8()?))
}

fn parse(origin: &str, text: &str) -> Result<Found, Failure> {
    let value: Value = serde_yaml::from_str(text).map_err(|e| ConfigError::Syntax {
        origin: origin.to_owned(),
        message: e.to_string(),
    })?;
    let stem = Path::new(origin).file_stem().unwrap_or_default();
    Ok(Found {
        origin: origin.to_owned(),
        stem: stem.to_string_lossy().into_owned(),
        value,
    })
}

/// A file of weights: on disk, or bundled in the binary.
enum Weights {
    /// The path of a file.
    File(PathBuf),
    /// The content of a bundled file, and its name.
    Bundled(&'static str, &'static [u8]),
}

/// Opens the checkpoint, or the part of it, that a YAML names.
///
/// # Errors
/// If it does not exist, is not complete, has an unknown format, or does not have the part.
pub fn checkpoint(file: &WeightsFile) -> Result<Checkpoint, Failure> {
    let opened = match weights(file.path())? {
        Weights::File(path) => Checkpoint::open_part(&path, file.key(), file.prefix()),
        Weights::Bundled(name, bytes) => {
            Checkpoint::bundled_part(name, bytes, file.key(), file.prefix())
        }
    };
    opened.map_err(config_error)
}

/// Says which weights of a backbone are missing; none if they are there or not named.
pub fn missing_weights(config: &dyn BackboneConfig) -> Option<String> {
    let source = config.source();
    let file = source.file()?;
    // Who asks makes a plan, for which nothing is fetched.
    if hub::is_cached(file.path()) == Some(false) {
        let name = file.path().display();
        return Some(format!(
            "weights are missing: {name} is not in the local cache of the hub; `runner inspect {name}` fetches it"
        ));
    }
    // A file that is there and cannot be read is an error of its own.
    let there = file.path().exists();
    match checkpoint(file) {
        Err(failure) if !there => Some(format!("weights are missing: {failure}")),
        _ => None,
    }
}

/// Finds the file that a path of a YAML names: the file itself if it exists, for `hf://owner/name`
/// the one in the cache of the hub, and for `assets/<name>` the copy inside the binary.
///
/// # Errors
/// If there is no such file.
fn weights(path: &Path) -> Result<Weights, Failure> {
    if let Some(cached) = hub::resolve(path) {
        return Ok(Weights::File(cached?));
    }
    if path.is_file() {
        return Ok(Weights::File(path.to_owned()));
    }
    let bundled = path.strip_prefix("assets").ok();
    match bundled.and_then(|name| ASSETS.get_file(name)) {
        Some(file) => {
            let name = file.path().to_str().unwrap_or_default();
            Ok(Weights::Bundled(name, file.contents()))
        }
        None => {
            let path = path.display().to_string();
            Err(ConfigError::NoFile { path }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::about::{Group, Sizes};
    use crate::config::experiment::Experiment;

    #[test]
    fn every_shipped_experiment_parses() {
        let experiments = [names("peft/"), names("pretrain/"), names("quickstart")].concat();
        assert!(experiments.len() > 20, "{experiments:?}");
        for name in experiments {
            let read = Experiment::read(&name, &[]).map_err(|failure| failure.error);
            assert!(read.is_ok(), "{name}: {:#}", read.unwrap_err());
        }
    }

    /// The paper's Table A1 has 19 data sets in full and the 19 tasks of VTAB-1k.
    #[test]
    fn the_catalogue_covers_the_table() {
        let mut counts = BTreeMap::new();
        let mut vtab = 0;
        for name in names("datasets/") {
            let name = name.trim_start_matches("datasets/");
            let read = Experiment::read_dataset(name, &[]).map_err(|failure| failure.error);
            let (_, about) = read.unwrap_or_else(|e| panic!("{name}: {e:#}"));
            let Some(about) = about else { continue };
            *counts.entry(about.group).or_insert(0) += 1;
            vtab += usize::from(name.starts_with("vtab-1k/"));
            let Sizes {
                train,
                validation,
                test,
            } = about.splits;
            let least = about.classes.min(train).min(validation).min(test);
            assert!(least > 0 && about.classes > 1, "{name}");
            if name.starts_with("vtab-1k/") {
                assert_eq!((train, validation), (800, 200), "{name}");
            }
        }
        let expected = [
            (Group::FullData, 19),
            (Group::Natural, 7),
            (Group::Specialised, 4),
            (Group::Structured, 8),
        ];
        assert_eq!((counts, vtab), (expected.into(), 19));
    }
}
