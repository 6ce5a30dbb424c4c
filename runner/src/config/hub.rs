//! `hf://owner/name`: weights in the local cache of the Hugging Face hub, or, in a program built with
//! the feature `download`, from the hub into that cache.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use peft_core::files::write_atomically;
use serde_json::Value;

use crate::config::error::ConfigError;
use crate::exit::{Failure, config_error};

/// The names that the weights of a repository may have, in the order in which they are looked for.
const FILES: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
];

/// The files beside the weights that describe how images are prepared.
const BESIDE: [&str; 3] = [
    "config.json",
    "preprocessor_config.json",
    "open_clip_config.json",
];

/// Answers a GET with the body, or with the reason why there is none.
type Get<'a> = &'a dyn Fn(&str) -> Result<Box<dyn Read>, String>;

/// Returns the weights file of a repository, if `path` names one.
///
/// # Errors
/// If the cache does not hold it and it is not downloaded; the message names the place where it
/// would be.
pub fn resolve(path: &Path) -> Option<Result<PathBuf, Failure>> {
    let name = path.to_str()?.strip_prefix("hf://")?;
    let cache = cache();
    let found = in_cache(name, &cache);
    #[cfg(feature = "download")]
    if found.is_err() && std::env::var_os("HF_HUB_OFFLINE").is_none_or(|v| v.is_empty()) {
        return Some(download(name, &cache, &get).and_then(|()| in_cache(name, &cache)));
    }
    Some(found)
}

/// Sends a GET through HTTPS, with the token of the environment for repositories that are not
/// public.
#[cfg(feature = "download")]
fn get(url: &str) -> Result<Box<dyn Read>, String> {
    let request = ureq::get(url);
    let request = match std::env::var("HF_TOKEN") {
        Ok(token) => request.header("Authorization", format!("Bearer {token}")),
        Err(_) => request,
    };
    let answer = request.call().map_err(|e| e.to_string())?;
    Ok(Box::new(answer.into_body().into_reader()))
}

/// Fetches the weights of a repository, and the files beside them, into the cache as the hub's own
/// library arranges it. The revision is written last, so that a repository that was fetched only in
/// part is not found.
#[cfg_attr(
    not(feature = "download"),
    allow(dead_code, reason = "no client is linked")
)]
fn download(name: &str, cache: &Path, get: Get) -> Result<(), Failure> {
    let folder = folder(name, cache)?;
    let endpoint = std::env::var("HF_ENDPOINT");
    let endpoint = endpoint.unwrap_or_else(|_| "https://huggingface.co".to_owned());
    let at = |url: &str, message: String| {
        let (name, url) = (name.to_owned(), url.to_owned());
        Failure::from(ConfigError::Hub { name, url, message })
    };
    let url = format!("{endpoint}/api/models/{name}/revision/main");
    let said: Value = get(&url)
        .and_then(|body| serde_json::from_reader(body).map_err(|e| e.to_string()))
        .map_err(|e| at(&url, e))?;
    // The names come from the network and become paths: none may leave its folder.
    let plain =
        |name: &&str| !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.');
    let revision = said["sha"].as_str().filter(plain);
    let revision = revision.ok_or_else(|| at(&url, "expected a revision".to_owned()))?;
    let there: BTreeSet<&str> = (said["siblings"].as_array().into_iter().flatten())
        .filter_map(|file| file["rfilename"].as_str().filter(plain))
        .collect();
    let Some(weights) = FILES.into_iter().find(|file| there.contains(file)) else {
        let expected = FILES.join(", ");
        return Err(at(&url, format!("expected one of {expected}")));
    };
    let snapshot = folder.join("snapshots").join(revision);
    let refs = folder.join("refs");
    for folder in [&snapshot, &refs] {
        fs_err::create_dir_all(folder).map_err(config_error)?;
    }
    let fetch = |file: &str| -> Result<PathBuf, Failure> {
        let (url, path) = (
            format!("{endpoint}/{name}/resolve/{revision}/{file}"),
            snapshot.join(file),
        );
        if !path.is_file() {
            eprintln!("hf://{name}: fetching {file}");
            let mut body = get(&url).map_err(|e| at(&url, e))?;
            // Renamed once it is complete: an interrupted download must not look like a file.
            let part = tempfile::NamedTempFile::new_in(&snapshot).map_err(config_error)?;
            std::io::copy(&mut body, &mut part.as_file())
                .and_then(|_| part.as_file().sync_all())
                .map_err(|e| at(&url, e.to_string()))?;
            part.persist(&path).map_err(|e| config_error(e.error))?;
        }
        Ok(path)
    };
    let path = fetch(weights)?;
    if weights.ends_with(".index.json") {
        let text = fs_err::read_to_string(&path).map_err(config_error)?;
        let index: Value = serde_json::from_str(&text).map_err(config_error)?;
        let shards: BTreeSet<&str> = (index["weight_map"].as_object().into_iter().flatten())
            .filter_map(|(_, file)| file.as_str().filter(plain))
            .collect();
        for shard in shards {
            fetch(shard)?;
        }
    }
    for file in BESIDE.into_iter().filter(|file| there.contains(file)) {
        fetch(file)?;
    }
    Ok(write_atomically(&refs.join("main"), revision.as_bytes())?)
}

/// Returns the folder of the cache by the rules of the hub's own library.
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

/// Returns the folder of a repository in the cache.
fn folder(name: &str, cache: &Path) -> Result<PathBuf, Failure> {
    let parts: Vec<&str> = name.split('/').collect();
    let plain = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
    if parts.len() != 2 || !parts.iter().all(plain) {
        return Err(ConfigError::expected(format!("hf://{name}"), "hf://owner/name").into());
    }
    Ok(cache.join(format!("models--{}", parts.join("--"))))
}

fn in_cache(name: &str, cache: &Path) -> Result<PathBuf, Failure> {
    let folder = folder(name, cache)?;
    let revision = std::fs::read_to_string(folder.join("refs/main"));
    let snapshot = revision.map(|revision| folder.join("snapshots").join(revision.trim()));
    let found = snapshot
        .iter()
        .flat_map(|snapshot| FILES.map(|file| snapshot.join(file)));
    let mut found = found.filter(|file| file.is_file());
    found.next().ok_or_else(|| {
        let error = ConfigError::NotCached {
            name: name.to_owned(),
            place: folder.join("snapshots/REVISION").display().to_string(),
            files: FILES.join(", "),
        };
        error.into()
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

    /// Answers like a hub, by the end of the URL.
    fn hub(url: &str) -> Result<Box<dyn Read>, String> {
        let answers = [
            (
                "api/models/timm/vit/revision/main",
                r#"{"sha": "abc", "siblings": [{"rfilename": "model.safetensors.index.json"},
                    {"rfilename": "config.json"}, {"rfilename": "../../escape.json"}]}"#,
            ),
            (
                "resolve/abc/model.safetensors.index.json",
                r#"{"weight_map": {"a": "one.safetensors", "b": "../two.safetensors"}}"#,
            ),
            ("resolve/abc/one.safetensors", "tensors"),
            ("resolve/abc/config.json", "{}"),
            (
                "api/models/timm/none/revision/main",
                r#"{"sha": "abc", "siblings": []}"#,
            ),
        ];
        let answer = answers.iter().find(|(end, _)| url.ends_with(end));
        let (_, body) = answer.ok_or_else(|| "404".to_owned())?;
        Ok(Box::new(body.as_bytes()))
    }

    #[test]
    fn a_repository_is_fetched_whole_or_not_found() {
        let cache = tempfile::tempdir().unwrap();
        download("timm/vit", cache.path(), &hub).unwrap();
        let found = in_cache("timm/vit", cache.path()).unwrap();
        assert!(found.ends_with("snapshots/abc/model.safetensors.index.json"));
        let mut files: Vec<_> = std::fs::read_dir(found.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        files.sort();
        assert_eq!(
            files,
            [
                "config.json",
                "model.safetensors.index.json",
                "one.safetensors"
            ]
        );

        let error = |name: &str| download(name, cache.path(), &hub).unwrap_err().error;
        assert!(
            error("timm/none")
                .to_string()
                .contains("expected one of model.safetensors")
        );
        assert!(error("timm/unknown").to_string().contains("404"));
        assert!(in_cache("timm/none", cache.path()).is_err());
    }
}
