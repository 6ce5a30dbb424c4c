//! The library without the command line; docs/library.md quotes this file.
//!
//! `cargo run --release --example library [RUNS]`

use std::path::Path;

use peft_runner::comparison::{Comparison, Report};
use peft_runner::{Device, Experiment, Failure, Image, Session, Split};

fn main() -> Result<(), Failure> {
    let runs = std::env::args().nth(1).unwrap_or_else(|| "runs".to_owned());
    let session = Session::new(Device::cpu(), runs);
    let run = train(&session)?;
    predict(&session, &run)?;
    compare(&session)
}

/// Reads an experiment, changes two of its fields, and trains it.
fn train(session: &Session) -> Result<std::path::PathBuf, Failure> {
    let changes = ["recipe.epochs=2".to_owned(), "seed=1".to_owned()];
    let experiment = Experiment::read("peft/linear-probe.yaml", &changes)?;
    // A second call reads the finished run; an interrupted one goes on.
    let run = session.train(experiment.clone())?;
    let top1 = run.summary.test.top1.unwrap_or_default();
    println!("test top-1: {:.1} %", 100.0 * top1);
    println!("trained parameters: {}", run.summary.params.trainable);

    let model = session.load(&run.folder)?;
    let metrics = session.evaluate(&model, &experiment, Split::Validation)?;
    println!("validation loss: {:.3}", metrics.loss);
    Ok(run.folder)
}

/// Loads what a run trained, without its data set, and classifies pixels in memory.
fn predict(session: &Session, run: &Path) -> Result<(), Failure> {
    let model = session.load(run)?;
    let (width, height) = (32, 32);
    let rgb = vec![128; 3 * width * height];
    let grey = Image { width, height, rgb };
    for probabilities in model.predict(&[grey])? {
        let classes = model.classes.iter().zip(&probabilities);
        if let Some((class, probability)) = classes.max_by(|a, b| a.1.total_cmp(b.1)) {
            println!("class {class}: {:.0} %", 100.0 * probability);
        }
    }
    Ok(())
}

/// Compares two methods under identical settings and reads the results as values.
fn compare(session: &Session) -> Result<(), Failure> {
    let changes = [
        "seeds=[0]".to_owned(),
        "trial.recipe.epochs=1".to_owned(),
        "methods=[{use: linear-probe, label: Linear-Probe}, {use: ap, label: AP}]".to_owned(),
    ];
    let comparison = Comparison::read("compare/quick.yaml", &changes)?;
    let results = session.compare(&comparison)?;
    let report = Report::of(&results);
    for trial in &results.done {
        println!(
            "{}: {:.1} %",
            trial.methods.join(" + "),
            100.0 * trial.test.top1.unwrap_or_default()
        );
    }
    println!("backbones compared: {}", report.backbones.len());
    Ok(())
}
