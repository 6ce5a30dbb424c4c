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
            "862930f6bec9f57ac441e1c7927c36e6",
            "a1f98318cfbec9ec207422becdc0572f",
        ],
    ),
    (
        ["avx512", "avx2"],
        [
            "7cfcfcf7e4c936542880d489007024d0",
            "9ea5a2ef2094bc588b563098777d7e5a",
        ],
    ),
    (
        ["avx512", "baseline"],
        [
            "12e291cf513c5ab3837f0900cfb1f418",
            "17ff93193918511ea846b886d0fb8460",
        ],
    ),
    (
        ["avx2", "avx2"],
        [
            "1e550bc2b2835b69a0f26e5d0ee149a5",
            "f527ab72d22f7f676ff7a7f06bea61fb",
        ],
    ),
    (
        ["avx2", "baseline"],
        [
            "9c598915e7d86b2509fc20db43541baf",
            "f55544508da07d67f58872b771465f70",
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
