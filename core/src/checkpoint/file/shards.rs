//! A checkpoint in several files, by the index that lists them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::Checkpoint;
use crate::error::{Error, Result};

impl Checkpoint {
    /// Opens the files that an index names; they lie beside it.
    pub(super) fn sharded(path: &Path) -> Result<Self> {
        let at = |message: String| Error::file(path, message);
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let index: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| at(format!("expected JSON: {e}")))?;
        let map = index["weight_map"].as_object();
        let map = map.ok_or_else(|| at("expected a weight_map of tensors to files".to_owned()))?;
        let mut shards: BTreeMap<&str, Self> = BTreeMap::new();
        for file in map.values() {
            let name = file.as_str().unwrap_or_default();
            // An index must not lead to files elsewhere on the disk.
            let plain = Path::new(name).file_name().is_some_and(|own| own == name);
            if !plain {
                return Err(at(format!(
                    "expected the name of a file beside it, got {file}"
                )));
            }
            if !shards.contains_key(name) {
                shards.insert(name, Self::open(&path.with_file_name(name))?);
            }
        }
        let (mut files, mut entries, mut format) = (Vec::new(), BTreeMap::new(), "safetensors");
        let (mut foreign, mut others) = (BTreeSet::new(), BTreeMap::new());
        let mut remarks = Vec::new();
        for (file, shard) in shards {
            format = shard.format;
            foreign.extend(shard.foreign);
            others.extend(shard.others);
            remarks.extend(
                shard
                    .remarks
                    .iter()
                    .map(|remark| format!("{file}: {remark}")),
            );
            for (name, (_, entry)) in shard.entries {
                if map.get(&name).and_then(|own| own.as_str()) != Some(file) {
                    return Err(at(format!(
                        "{file} holds {name}, which the index does not list"
                    )));
                }
                entries.insert(name, (files.len(), entry));
            }
            files.extend(shard.files);
        }
        match map.keys().find(|name| !entries.contains_key(*name)) {
            Some(name) => Err(at(format!("{} lacks {name}", map[name]))),
            None => Ok(Self {
                path: path.to_owned(),
                format,
                files,
                entries,
                metadata: HashMap::new(),
                foreign,
                sets: Vec::new(),
                others,
                beside: BTreeMap::new(),
                chosen: String::new(),
                image_size: None,
                remarks,
            }),
        }
    }
}
