//! Kernels that were compiled and tuned are kept for the next process, in the user's cache folder: they belong
//! to a machine, its driver and a program, not to a run.

use std::path::PathBuf;
use std::sync::Once;

use burn::cubecl::config::cache::CacheConfig;
use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

use super::driver::driver;

/// Keeps kernels from now on, and reads those that are kept. CubeCL reads its settings when the first device
/// is opened, so this comes before.
pub fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        config.compilation.cache = true;
        // A folder that the user's cubecl.toml names is theirs.
        if let (CacheConfig::Target, Some(folder)) = (&config.environment.path, folder()) {
            config.environment.path = CacheConfig::Directory(folder);
        }
        if !CubeClRuntimeConfig::try_set(config) {
            eprintln!("kernels are not kept: a device was opened before");
        }
    });
}

/// A folder for this driver and this version of the program.
fn folder() -> Option<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache"),
    };
    let key = format!("{} {}", env!("CARGO_PKG_VERSION"), driver());
    let hash = blake3::hash(key.as_bytes()).to_hex();
    Some(cache.join("peft-runner/kernels").join(&hash[..16]))
}
