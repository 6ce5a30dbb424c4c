//! The folders in which the hub's own library keeps the files and the token of this user.

use std::path::PathBuf;

/// Returns the folder of the cache.
pub fn root() -> PathBuf {
    set("HF_HUB_CACHE")
        .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
        .unwrap_or_else(|| home().join("hub"))
}

/// The folder that a variable of the environment names, unless it is empty.
fn set(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

/// Returns the folder of everything that the hub's own library keeps for this user.
pub fn home() -> PathBuf {
    set("HF_HOME")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")))
        .unwrap_or_else(|| PathBuf::from(".cache/huggingface"))
}
