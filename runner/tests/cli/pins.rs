//! Files of the first version: what it trained is still read, what it left unfinished is still resumed, and
//! its hashes are still found; and the keys of the cache, which other files must not share. `fixtures/runs`
//! was written by that version with the arguments of [`SMALL`].

use super::*;

/// The folder's name holds the first digits of the trial's hash.
const TRIAL: &str = "lora-r10/lora-vit-shapes-s0-c438b7d9";

const HASH: &str = "c438b7d98fcb1f0f5ee8d541a1faf6a19cd1c170abc81437f3bb2e28855170ad";

/// Names of the cache's files for the training and the validation split, by the instructions of the CPU and
/// the kernels in force. They change where `peft_ops::RESULTS` does.
const KEYS: [([&str; 2], [&str; 2]); 5] = [
    (
        ["avx512", "avx512"],
        [
            "2f2bd55e99165e661a0b95832d7b0f52",
            "87c77241fcac8a7598cd6de02e823a81",
        ],
    ),
    (
        ["avx512", "avx2"],
        [
            "65f166803ea4b884b49d8090b8f53fe7",
            "a90730865f1a08de582fcde38f04e7d8",
        ],
    ),
    (
        ["avx512", "baseline"],
        [
            "779e154a4d2236a3341dae1d667f01aa",
            "e70ad01c7661e601672778faf1631a6b",
        ],
    ),
    (
        ["avx2", "avx2"],
        [
            "4f249d256578147fd0fd223e92cb8e3d",
            "c9ec92dec572b5bdfa5be93ea276445a",
        ],
    ),
    (
        ["avx2", "baseline"],
        [
            "2eea844716c6695ce6f22f06be79733d",
            "b8c7b5d347a37bcb3d608cf67357aa47",
        ],
    ),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fixtures/runs")
        .join(name)
}

fn pinned() -> Value {
    let text = std::fs::read_to_string(fixture("finished/summary.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Two numbers are the same but for what other kernels than the first version's may round otherwise.
fn assert_close(got: &Value, expected: &Value, what: &str) {
    let (got, expected) = (got.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!(
        (got - expected).abs() <= 1e-4 * expected.abs(),
        "{what}: {got}, expected {expected}"
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_trial_has_the_hash_and_the_adapter_file_of_the_first_version() {
    let runs = tempfile::tempdir().unwrap();
    succeeded(small(&[], runs.path()));
    let summary = summary(runs.path());
    assert_eq!(summary["config_hash"], HASH);
    assert_eq!(pinned()["config_hash"], HASH);
    assert!(runs.path().join(TRIAL).is_dir());
    for pointer in [
        "/test/loss",
        "/history/0/train_loss",
        "/history/3/train_loss",
    ] {
        let (new, old) = (summary.pointer(pointer), pinned());
        assert_close(new.unwrap(), old.pointer(pointer).unwrap(), pointer);
    }
    // The header of a safetensors file: names, types, shapes, places and the metadata.
    let header = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        (header, bytes.len())
    };
    let new = header(&folder(runs.path()).join("adapter.safetensors"));
    assert_eq!(new, header(&fixture("finished/adapter.safetensors")));
}

#[test]
fn an_adapter_of_the_first_version_gives_its_numbers() {
    let eval = crate::program()
        .args(["eval", "--device", "cpu", "--format", "json"])
        .arg(fixture("finished"))
        .output()
        .unwrap();
    let eval: Value = serde_json::from_str(&succeeded(eval)).unwrap();
    assert_eq!(eval["test"]["top1"], pinned()["test"]["top1"]);
    assert_close(&eval["test"]["loss"], &pinned()["test"]["loss"], "loss");
}

#[test]
fn a_run_that_the_first_version_left_unfinished_is_resumed() {
    let runs = tempfile::tempdir().unwrap();
    copy(&fixture("interrupted"), &runs.path().join(TRIAL));
    let output = small(&[], runs.path());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("resumed after epoch 1"), "{message}");
    succeeded(output);
    let summary = summary(runs.path());
    assert_eq!(summary["epochs"], 4);
    // The first epoch was run by the first version, the others here.
    let losses = |summary: &Value| summary["history"].clone();
    assert_eq!(
        losses(&summary)[0]["train_loss"],
        losses(&pinned())[0]["train_loss"]
    );
    assert_close(&summary["test"]["loss"], &pinned()["test"]["loss"], "loss");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn cache_files_have_the_keys_that_are_pinned() {
    let of_cpu = match () {
        () if is_x86_feature_detected!("avx512f") => "avx512",
        () if is_x86_feature_detected!("avx2") => "avx2",
        () => return,
    };
    for ([_, level], keys) in KEYS.iter().filter(|([cpu, _], _)| *cpu == of_cpu) {
        let runs = tempfile::tempdir().unwrap();
        let mut command = runner(SMALL, runs.path());
        let output = command
            .args(["--set", "prefix_cache=disk"])
            .env("PEFT_OPS", level)
            .output()
            .unwrap();
        succeeded(output);
        let files = std::fs::read_dir(runs.path().join(".cache")).unwrap();
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "rows"));
        let mut names: Vec<String> = files
            .iter()
            .map(|file| file.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, *keys, "{level}");
    }
}
