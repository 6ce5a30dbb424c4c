//! The prefix cache: the same results with it and without it, whatever happens to its files.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::{SMALL, assert_same, folder, runner, small, succeeded, summary};

/// Runs a small trial with some settings, and returns its stderr.
fn with(set: &[&str], runs: &Path, cache: &Path) -> String {
    let output = started(set, runs, cache);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    succeeded(output);
    stderr
}

fn started(set: &[&str], runs: &Path, cache: &Path) -> Output {
    let cache = cache.to_str().unwrap();
    let mut args = vec!["--cache", cache];
    args.extend(set.iter().flat_map(|set| ["--set", set]));
    small(&args, runs)
}

/// The files of a cache with this extension.
fn files(cache: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(cache) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    paths.sort();
    paths
}

const RESNET: &str = "backbone={name: resnet, img_size: 32, block: basic, layers: [1, 1, 1, 1], channels: [4, 4, 8, 8]}";
const SWIN: &str = "backbone={name: swin, img_size: 32, patch_size: 4, embed_dim: 16, depths: [1, 1], num_heads: [2, 2], window_size: 4}";
const CLIP: &str = "backbone={name: clip, img_size: 16, patch_size: 4, embed_dim: 16, depth: 3, num_heads: 2, features: before}";

#[test]
fn results_are_the_same_to_the_bit_with_the_cache_and_without() {
    // 24 divides 192 images but not 64, and training shuffles: rows are computed in other batches than those
    // that train.
    let methods = [
        "method=linear-probe",
        "method={name: ap, boundaries: [-1]}",
        "method={name: ap, boundaries: [-1], kind: product}",
        "method={name: bias}",
    ];
    let vit = "seed=0";
    let mut cases: Vec<(&str, &str)> = Vec::new();
    for backbone in [vit, RESNET, SWIN, CLIP] {
        cases.extend(methods.iter().map(|method| (backbone, *method)));
    }
    // These read several boundaries, and are for sequences of tokens.
    for backbone in [vit, CLIP] {
        cases.push((backbone, "method={name: lst, reduction: 4, every: 2}"));
        cases.push((backbone, "method={name: vqt, length: 2, dropout: 0.3}"));
    }
    let tests = tempfile::tempdir().unwrap();
    for (index, (backbone, method)) in cases.into_iter().enumerate() {
        let runs = |name: &str| tests.path().join(format!("{index}-{name}"));
        let run = |name: &str| {
            let store = format!("prefix_cache={name}");
            let set = [
                backbone,
                method,
                "recipe.batch_size=24",
                "recipe.epochs=2",
                &store,
            ];
            with(&set, &runs(name), &runs("cache"));
        };
        run("off");
        for name in ["memory", "device", "disk"] {
            run(name);
            assert_same(&runs("off"), &runs(name));
        }
        let bytes = &summary(&runs("disk"))["memory"]["cache_bytes"];
        assert!(bytes.as_u64().unwrap() > 0, "{backbone} {method}");
        assert_eq!(
            files(&runs("cache"), "rows").len(),
            2,
            "{backbone} {method}"
        );
    }
}

#[test]
fn cached_views_of_changed_images_are_the_same_as_computed_ones() {
    let tests = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let runs = tests.path().join(name);
        let store = format!("prefix_cache={name}");
        let augmentation = "recipe.augmentation={hflip: 0.5, re_prob: 0.5, re_mode: pixel}";
        let set = ["method=linear-probe", augmentation, "cache_views=2", &store];
        with(&set, &runs, &tests.path().join("cache"));
        runs
    };
    assert_same(&run("off"), &run("memory"));
}

/// Filling goes through the images once for each view.
#[test]
fn as_many_views_as_epochs_would_save_nothing() {
    let tests = tempfile::tempdir().unwrap();
    let bytes = |views: u64| {
        let runs = tests.path().join(views.to_string());
        let views = format!("cache_views={views}");
        let set = ["method=linear-probe", "recipe.augmentation=flip", &views];
        with(&set, &runs, &tests.path().join("cache"));
        summary(&runs)["memory"]["cache_bytes"].as_u64().unwrap()
    };
    // 192 images train for four epochs, 64 validate, 16 features each.
    let rows = |rows: u64| rows * 16 * 4;
    assert_eq!(bytes(3), rows(3 * 192 + 64));
    assert_eq!(bytes(4), rows(64));
}

#[test]
fn random_images_without_views_are_not_cached_and_this_is_reported() {
    let runs = tempfile::tempdir().unwrap();
    let set = ["method=linear-probe", "recipe.augmentation=flip"];
    let stderr = with(&set, runs.path(), &runs.path().join("cache"));
    assert!(
        stderr.contains("off for train: the images are changed at random"),
        "{stderr}"
    );
    assert!(stderr.contains("cache_views: 4"), "{stderr}");
}

const DISK: [&str; 3] = [
    "method=linear-probe",
    "recipe.epochs=2",
    "prefix_cache=disk",
];

/// Damages a file, the n-th of the cache.
type Damage<'a> = &'a dyn Fn(&Path, usize);

#[test]
fn a_damaged_or_foreign_file_is_reported_and_replaced() {
    let tests = tempfile::tempdir().unwrap();
    let (runs, cache) = (|name| tests.path().join(name), tests.path().join("cache"));
    let stderr = with(&DISK, &runs("first"), &cache);
    assert!(!stderr.contains("computed again"), "{stderr}");
    let paths = files(&cache, "rows");
    let whole: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    let damage: [(&str, Damage); 4] = [
        ("changed", &|path, i| {
            let mut bytes = whole[i].clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }),
        ("cut", &|path, i| {
            std::fs::write(path, &whole[i][..whole[i].len() / 2]).unwrap()
        }),
        ("empty", &|path, _| std::fs::write(path, "").unwrap()),
        ("foreign", &|path, i| {
            std::fs::write(path, &whole[(i + 1) % whole.len()]).unwrap()
        }),
    ];
    for (name, damage) in damage {
        for (i, path) in paths.iter().enumerate() {
            damage(path, i);
        }
        let stderr = with(&DISK, &runs(name), &cache);
        assert_eq!(
            stderr.matches("it is computed again").count(),
            paths.len(),
            "{name}: {stderr}"
        );
        assert_same(&runs("first"), &runs(name));
        for (path, whole) in paths.iter().zip(&whole) {
            assert!(std::fs::read(path).unwrap() == *whole, "{name}");
        }
    }
    let stderr = with(&DISK, &runs("again"), &cache);
    assert!(!stderr.contains("computed again"), "{stderr}");
    let seconds = &summary(&runs("again"))["time"]["cache_seconds"];
    assert_eq!(
        seconds.as_f64(),
        Some(0.0),
        "a complete file is not filled again"
    );
}

#[test]
fn processes_share_one_cache_and_each_prefix_is_computed_once() {
    let tests = tempfile::tempdir().unwrap();
    let cache = tests.path().join("cache");
    let args = [SMALL, &["--cache", cache.to_str().unwrap()]].concat();
    let start = |lr: &str| {
        let mut command = runner(&args, &tests.path().join(lr));
        let lr = format!("recipe.optimizer.lr={lr}");
        command.args([
            "--set",
            "method=linear-probe",
            "--set",
            "prefix_cache=disk",
            "--set",
            &lr,
        ]);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let rates = ["0.01", "0.02", "0.03"];
    for mut child in rates.map(start) {
        assert!(child.wait().unwrap().success());
    }
    let seconds = |lr: &&str| {
        let summary = summary(&tests.path().join(lr));
        summary["time"]["cache_seconds"].as_f64().unwrap()
    };
    // Training and validation images may be filled by two of them.
    let filled = rates
        .iter()
        .map(seconds)
        .filter(|seconds| *seconds > 0.0)
        .count();
    assert!((1..=2).contains(&filled), "{filled}");
    assert_eq!(files(&cache, "rows").len(), 2);
    assert!(files(&cache, "partial").is_empty());
}

/// Levels of kernels differ in the last bit.
#[test]
fn rows_are_computed_once_for_each_level_of_kernels() {
    let tests = tempfile::tempdir().unwrap();
    let (runs, cache) = (|name| tests.path().join(name), tests.path().join("cache"));
    let set: Vec<&str> = DISK.iter().flat_map(|set| ["--set", set]).collect();
    let args = [SMALL, &["--cache", cache.to_str().unwrap()], &set[..]].concat();
    let filled = |name: &'static str, level: &str| {
        let mut command = runner(&args, &runs(name));
        succeeded(command.env("PEFT_OPS", level).output().unwrap());
        let seconds = &summary(&runs(name))["time"]["cache_seconds"];
        seconds.as_f64().unwrap() > 0.0
    };
    assert!(filled("off", "off"));
    assert!(filled("baseline", "baseline"));
    assert!(!filled("off again", "off"));
    assert!(!filled("baseline again", "baseline"));
    assert_eq!(files(&cache, "rows").len(), 4);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_turns_the_cache_off_and_leaves_no_half_file() {
    let tests = tempfile::tempdir().unwrap();
    let (runs, cache) = (|name| tests.path().join(name), tests.path().join("cache"));
    with(&DISK, &runs("whole"), &cache);
    for path in files(&cache, "rows") {
        std::fs::remove_file(&path).unwrap();
        // Every write to it fails, because the device is full.
        std::os::unix::fs::symlink("/dev/full", path.with_extension("partial")).unwrap();
    }
    let stderr = with(&DISK, &runs("full"), &cache);
    assert!(
        stderr.contains("prefix cache: off for train: it cannot be written: "),
        "{stderr}"
    );
    assert!(files(&cache, "rows").is_empty() && files(&cache, "partial").is_empty());
    assert_same(&runs("whole"), &runs("full"));
}

#[test]
fn rows_beyond_the_budget_are_not_cached_and_this_is_reported() {
    let runs = tempfile::tempdir().unwrap();
    let set = ["method=linear-probe", "cache_budget_gib=0.000001"];
    let stderr = with(&set, runs.path(), &runs.path().join("cache"));
    assert!(stderr.contains("exceed the budget of"), "{stderr}");
    assert_eq!(summary(runs.path())["memory"]["cache_bytes"], 0);
    assert!(!runs.path().join("cache").exists());
}

#[test]
fn rows_in_half_precision_take_half_the_room_and_change_the_loss_little() {
    let tests = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| {
        let runs = tests.path().join(name);
        let set = [&["method=linear-probe", "prefix_cache=memory"], more].concat();
        with(&set, &runs, &tests.path().join("cache"));
        let summary = summary(&runs);
        let loss = summary["test"]["loss"].as_f64().unwrap();
        (summary["memory"]["cache_bytes"].as_u64().unwrap(), loss)
    };
    let (bytes, loss) = run("f32", &[]);
    for (name, tolerance) in [("f16", 1e-3), ("bf16", 1e-2)] {
        let (half, near) = run(name, &[&format!("cache_type={name}")]);
        assert_eq!(2 * half, bytes, "{name}");
        assert!(
            (near - loss).abs() <= tolerance * loss,
            "{name}: {near}, {loss}"
        );
    }
}

#[test]
fn a_run_killed_while_it_fills_the_cache_goes_on() {
    let tests = tempfile::tempdir().unwrap();
    let (runs, cache) = (|name| tests.path().join(name), tests.path().join("cache"));
    with(&DISK, &runs("whole"), &tests.path().join("other"));
    let set: Vec<&str> = DISK.iter().flat_map(|set| ["--set", set]).collect();
    let args = [SMALL, &["--cache", cache.to_str().unwrap()], &set[..]].concat();
    let mut killed = 0;
    for _ in 0..3 {
        let mut child = runner(&args, &runs("broken")).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && files(&cache, "partial").is_empty() {
            std::thread::yield_now();
        }
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        child.wait().unwrap();
    }
    assert!(killed > 0, "no kill came in time");
    with(&DISK, &runs("broken"), &cache);
    assert_same(&runs("whole"), &runs("broken"));
    assert_eq!(
        folder(&runs("whole")).file_name(),
        folder(&runs("broken")).file_name()
    );
}
