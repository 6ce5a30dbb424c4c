//! The README's table: three methods on digits, three seeds, each with the learning rate that validation
//! chose from one grid. It uses the library; `runner compare` does the same from a YAML.
//!
//! `cargo run --release --example digits [RUNS]` prints Markdown. Runs are kept in
//! RUNS (default `runs`), so that a second call only reads them.

use peft_runner::{Device, Exit, Experiment, Failure, Session, Summary};

const METHODS: [&str; 3] = ["linear-probe", "ap", "lora-r10"];
const RATES: [f64; 5] = [0.001, 0.003, 0.01, 0.1, 0.3];
const SEEDS: [u64; 3] = [0, 1, 2];

fn main() -> Result<(), Failure> {
    let runs = std::env::args().nth(1).unwrap_or_else(|| "runs".to_owned());
    let session = Session::new(Device::cpu(), runs);
    println!("| method | lr | trainable | validation top-1 | test top-1 | peak MiB |");
    println!("|---|---|---|---|---|---|");
    for method in METHODS {
        let mut best: Option<(f64, f64, Vec<Summary>)> = None;
        for rate in RATES {
            let Some(trials) = trials(&session, method, rate)? else {
                eprintln!("{method} lr {rate}: diverged");
                continue;
            };
            let (validation, _) = moments(&trials, validation);
            eprintln!("{method} lr {rate}: validation {:.2} %", 100.0 * validation);
            if best.as_ref().is_none_or(|(old, ..)| validation > *old) {
                best = Some((validation, rate, trials));
            }
        }
        if let Some((_, rate, trials)) = best {
            print_row(method, rate, &trials);
        }
    }
    Ok(())
}

/// A trial with each seed; none if one diverged.
fn trials(session: &Session, method: &str, rate: f64) -> Result<Option<Vec<Summary>>, Failure> {
    let mut trials = Vec::new();
    for seed in SEEDS {
        let changes = [
            "name=digits-table".to_owned(),
            format!("recipe.optimizer.lr={rate}"),
            format!("seed={seed}"),
        ];
        let experiment = Experiment::read(&format!("peft/{method}.yaml"), &changes)?;
        match session.train(experiment) {
            Ok(run) => trials.push(run.summary),
            Err(failure) if failure.exit == Exit::Diverged => return Ok(None),
            Err(failure) => return Err(failure),
        }
    }
    Ok(Some(trials))
}

fn print_row(method: &str, rate: f64, trials: &[Summary]) {
    let percent = |value: fn(&Summary) -> f64| {
        let (mean, deviation) = moments(trials, value);
        format!("{:.2} ± {:.2} %", 100.0 * mean, 100.0 * deviation)
    };
    println!(
        "| {method} | {rate} | {} | {} | {} | {:.0} |",
        trials[0].params.trainable,
        percent(validation),
        percent(|trial| trial.test.top1.unwrap_or(f64::NAN)),
        moments(trials, |trial| trial.memory.peak_bytes as f64).0 / f64::from(1 << 20),
    );
}

fn validation(trial: &Summary) -> f64 {
    trial
        .validation
        .as_ref()
        .and_then(|validation| validation.top1)
        .unwrap_or(f64::NAN)
}

/// Mean and sample standard deviation of a number over trials.
fn moments(trials: &[Summary], value: impl Fn(&Summary) -> f64) -> (f64, f64) {
    let values: Vec<f64> = trials.iter().map(value).collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}
