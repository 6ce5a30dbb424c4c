//! The library's page: its code is the example's, and the example runs.

use std::path::Path;
use std::process::Command;

fn in_repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_page_quotes_the_example() {
    let page = in_repository("docs/library.md");
    let example = in_repository("runner/examples/library.rs");
    let blocks: Vec<&str> = page
        .split("```rust\n")
        .skip(1)
        .map(|rest| rest.split("\n```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        assert!(example.contains(block), "not in the example:\n{block}");
    }
}

#[test]
fn the_example_trains_predicts_and_compares() {
    // Cargo builds the examples of a package before it runs its tests.
    let program = Path::new(env!("CARGO_BIN_EXE_runner")).with_file_name("examples/library");
    let runs = tempfile::tempdir().unwrap();
    let output = Command::new(&program).arg(runs.path()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    let out = String::from_utf8_lossy(&output.stdout);
    let keys = [
        "test top-1:",
        "trained parameters: 810",
        "validation loss:",
        "class ",
        "linear-probe:",
        "ap:",
        "backbones compared: 1",
    ];
    for key in keys {
        assert!(out.contains(key), "{key:?} is not in\n{out}");
    }
    // Nothing else is on stdout.
    assert_eq!(out.lines().count(), keys.len(), "{out}");
}
