//! `hf://owner/name`: weights in the local cache of the Hugging Face hub. Nothing is downloaded.

use std::path::{Path, PathBuf};

use crate::exit::{Failure, config_error};

/// What a repository calls its weights, in the order in which they are looked for.
const FILES: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
];

/// The weights file of a repository, if `path` names one.
///
/// # Errors
/// If the cache does not hold it: the message says where it would be.
pub fn resolve(path: &Path) -> Option<Result<PathBuf, Failure>> {
    let name = path.to_str()?.strip_prefix("hf://")?;
    Some(in_cache(name, &cache()))
}

/// The cache's folder, as the hub's own library finds it.
fn cache() -> PathBuf {
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    from("HF_HUB_CACHE")
        .or_else(|| from("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| from("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .unwrap_or_else(|| {
            let home = from("HOME").unwrap_or_default();
            home.join(".cache/huggingface/hub")
        })
}

fn in_cache(name: &str, cache: &Path) -> Result<PathBuf, Failure> {
    let parts: Vec<&str> = name.split('/').collect();
    let plain = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
    if parts.len() != 2 || !parts.iter().all(plain) {
        let message = format!("hf://{name}: expected hf://owner/name");
        return Err(config_error(message));
    }
    let folder = cache.join(format!("models--{}", parts.join("--")));
    let revision = std::fs::read_to_string(folder.join("refs/main"));
    let snapshot = revision.map(|revision| folder.join("snapshots").join(revision.trim()));
    let found = snapshot
        .iter()
        .flat_map(|snapshot| FILES.map(|file| snapshot.join(file)));
    let mut found = found.filter(|file| file.is_file());
    found.next().ok_or_else(|| {
        config_error(format!(
            "hf://{name}: the local cache does not hold it, and nothing is downloaded here; expected \
             {} with one of {}, as `huggingface-cli download {name}` leaves it, or give the path of a \
             file",
            folder.join("snapshots/REVISION").display(),
            FILES.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_found_in_the_cache_or_its_place_is_named() {
        let cache = tempfile::tempdir().unwrap();
        let error = |name: &str| in_cache(name, cache.path()).unwrap_err().error.to_string();
        assert!(error("timm/vit").contains("models--timm--vit/snapshots"));
        for bad in ["timm", "a/b/c", "../x", "/x"] {
            assert!(error(bad).contains("expected hf://owner/name"), "{bad}");
        }
        let folder = cache.path().join("models--timm--vit");
        let snapshot = folder.join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::write(folder.join("refs/main"), "abc\n").unwrap();
        assert!(error("timm/vit").contains("model.safetensors"));
        std::fs::write(snapshot.join("pytorch_model.bin"), "x").unwrap();
        let found = in_cache("timm/vit", cache.path()).unwrap();
        assert_eq!(found, snapshot.join("pytorch_model.bin"));
        assert!(resolve(Path::new("weights/model.safetensors")).is_none());
    }
}
