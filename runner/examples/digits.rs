//! The README's table: methods on digits, three seeds, each with the learning rate that validation
//! chose from one grid.
//!
//! `cargo run --release --no-default-features --example digits [RUNS]` prints Markdown. Runs are
//! kept in RUNS (default `runs`), so that a second call only reads them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const METHODS: [&str; 4] = ["linear-probe", "lora-r10", "full-finetune", "ap"];
const RATES: [&str; 5] = ["0.001", "0.003", "0.01", "0.1", "0.3"];
const SEEDS: [&str; 3] = ["0", "1", "2"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runs = std::env::args().nth(1).unwrap_or_else(|| "runs".to_owned());
    println!("| method | lr | trainable | validation top-1 | test top-1 | peak MiB |");
    println!("|---|---|---|---|---|---|");
    for method in METHODS {
        let mut best: Option<(f64, &str, Vec<Value>)> = None;
        for rate in RATES {
            let trials = SEEDS
                .iter()
                .map(|seed| trial(method, rate, seed, Path::new(&runs)))
                .collect::<Result<Option<Vec<_>>, _>>()?;
            let Some(trials) = trials else {
                eprintln!("{method} lr {rate}: diverged");
                continue;
            };
            let validation = moments(&trials, "/validation/top1").0;
            eprintln!("{method} lr {rate}: validation {:.2} %", 100.0 * validation);
            if best.as_ref().is_none_or(|(old, ..)| validation > *old) {
                best = Some((validation, rate, trials));
            }
        }
        let (_, rate, trials) = best.ok_or("the grid is empty")?;
        let percent = |pointer: &str| {
            let (mean, spread) = moments(&trials, pointer);
            format!("{:.2} ± {:.2} %", 100.0 * mean, 100.0 * spread)
        };
        println!(
            "| {method} | {rate} | {} | {} | {} | {:.0} |",
            trials[0]["params"]["trainable"],
            percent("/validation/top1"),
            percent("/test/top1"),
            moments(&trials, "/memory/peak_bytes").0 / f64::from(1 << 20),
        );
    }
    Ok(())
}

/// The exit code of a run whose loss is not finite.
const DIVERGED: i32 = peft_runner::Exit::Diverged as i32;

/// Runs one trial with the program next to this one, or finds that it is done. `None` if it
/// diverged.
fn trial(
    method: &str,
    rate: &str,
    seed: &str,
    runs: &Path,
) -> Result<Option<Value>, Box<dyn std::error::Error>> {
    let here = std::env::current_exe()?;
    let folder = here.ancestors().nth(2).ok_or("no target folder")?;
    let output = Command::new(folder.join("runner"))
        .args([
            "--config",
            &format!("peft/{method}.yaml"),
            "--device",
            "cpu",
        ])
        .args(["--set", "name=digits-table", "--set"])
        .arg(format!("recipe.optimizer.lr={rate}"))
        .args(["--set", &format!("seed={seed}"), "--runs"])
        .arg(runs)
        .output()?;
    if output.status.code() == Some(DIVERGED) {
        return Ok(None);
    }
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|line| line.strip_prefix("run "));
    let Some(line) = line.filter(|_| output.status.success()) else {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    };
    let summary = PathBuf::from(line.trim()).join("summary.json");
    Ok(Some(serde_json::from_str(&std::fs::read_to_string(
        summary,
    )?)?))
}

/// Mean and sample standard deviation of a number over trials.
fn moments(trials: &[Value], pointer: &str) -> (f64, f64) {
    let number = |trial: &Value| trial.pointer(pointer).and_then(Value::as_f64);
    let values: Vec<f64> = trials.iter().filter_map(number).collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}
