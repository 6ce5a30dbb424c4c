//! The entry to the library: the work of `runner` as calls that return values and print nothing on
//! stdout.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use peft_core::Split;

use crate::cache::Caches;
use crate::compare;
use crate::compare::config::Comparison;
use crate::compare::execute::root;
use crate::compare::results::Results;
use crate::config::experiment::Experiment;
use crate::data::held_out::{Choice, Data};
use crate::device::ComputeDevice;
use crate::exit::Failure;
use crate::model::assembled::{Assembled, Source};
use crate::model::trial::Trial;
use crate::pool::on_worker;
use crate::run::folder::RunFolder;
use crate::run::progress::Reporter;
use crate::run::summary::Summary;
use crate::run::{Part, run};
use crate::train::evaluate::evaluate_all;
use crate::train::metrics::Metrics;
use crate::trust::admit;

/// A device, and the folder below which runs are kept.
///
/// Training goes into run folders, as it does from the command line: a call that is made again resumes what
/// was interrupted and reads what is finished.
pub struct Session {
    device: ComputeDevice,
    runs: PathBuf,
    interrupt: Arc<AtomicBool>,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its folder: adapter, metrics, log and report.
    pub folder: PathBuf,
    /// Its results.
    pub summary: Summary,
}

impl Session {
    /// Makes a session on a device. Run folders, and the prefix cache beside them, are made below
    /// `runs` when they are needed.
    pub fn new(device: ComputeDevice, runs: impl Into<PathBuf>) -> Self {
        Self {
            device,
            runs: runs.into(),
            interrupt: Arc::default(),
        }
    }

    /// A flag for another thread or a signal handler: once it is set, training saves a checkpoint after the
    /// current step and returns [`Exit::Interrupted`](crate::Exit::Interrupted).
    pub fn interrupt(&self) -> Arc<AtomicBool> {
        self.interrupt.clone()
    }

    /// Opens the data and weights of an experiment and describes what would be trained, without
    /// training.
    ///
    /// # Errors
    /// An error of a path, a file, a shape or a target, with the name of the component.
    pub fn plan(&self, experiment: Experiment) -> Result<String, Failure> {
        on_worker(|| {
            let (trial, model) = Trial::open(experiment, &self.device)?;
            Ok(crate::run::plan::plan(&trial, &model, &self.device))
        })
    }

    /// Trains, chooses the epoch on validation images, and reads the test split once. A run that is finished
    /// already is only read; one that was interrupted goes on.
    ///
    /// # Errors
    /// See [`plan`](Self::plan); also [`Exit::Diverged`](crate::Exit::Diverged) if the loss is not
    /// finite, [`Exit::Interrupted`](crate::Exit::Interrupted) after saving, or a disk that cannot
    /// be written.
    pub fn train(&self, experiment: Experiment) -> Result<Run, Failure> {
        on_worker(|| {
            let (trial, model) = Trial::open(experiment, &self.device)?;
            let cache = self.runs.join(".cache");
            admit(&self.device, &cache, &trial, &model)?;
            let path = trial.folder(&self.runs);
            let folder = RunFolder::open(path.clone(), &trial.experiment, &self.device.name)?;
            let summary = match folder.finished() {
                Some(summary) => summary,
                None => {
                    let part = Part {
                        caches: &Caches::new(&cache, false),
                        interrupt: self.interrupt(),
                        cell: None,
                        tuning: None,
                        others: &[],
                        // A library must not write to the terminal of its caller.
                        reporter: Reporter::to_log(&folder.file("log.txt")),
                    };
                    run(&trial, model, &folder, &self.device, part)?
                }
            };
            Ok(Run {
                folder: path,
                summary,
            })
        })
    }

    /// Loads the model that a finished run trained. Neither its data set nor its training state is
    /// needed, only the folder of the run and the weights of the backbone.
    ///
    /// # Errors
    /// If the folder is not a finished run, or the weights are not where its configuration says.
    pub fn load(&self, run: &Path) -> Result<Assembled, Failure> {
        on_worker(|| Source::open(run, false, &self.device)?.assemble(None, None))
    }

    /// Loads a trained adapter on a backbone: `source` is the folder of a run or a configuration
    /// that names the backbone, `adapter` the folder of a run or one that HF PEFT wrote.
    ///
    /// # Errors
    /// If the adapter belongs to another backbone, or has no head where one is needed.
    pub fn load_adapter(&self, source: &Path, adapter: &Path) -> Result<Assembled, Failure> {
        on_worker(|| Source::open(source, true, &self.device)?.assemble(Some(adapter), None))
    }

    /// Trains all trials of a comparison that are not done, below the folder of the session, and
    /// returns the results of all. A trial that fails is in [`Results::failed`], and the others go
    /// on; [`Report::of`](crate::comparison::Report::of) turns results into scores, ranks and
    /// intervals.
    ///
    /// # Errors
    /// All cells that cannot be trained, before any work; [`Exit::Interrupted`](crate::Exit::Interrupted); a
    /// disk that cannot be written.
    pub fn compare(&self, comparison: &Comparison) -> Result<Results, Failure> {
        let folder = root(&self.runs, &comparison.name);
        on_worker(|| compare::run::run(comparison, &folder, &self.device, self.interrupt()))
    }

    /// Scores a model on a split of an experiment's data set, whose classes are joined with the model's by
    /// name.
    ///
    /// # Errors
    /// If the data set cannot be opened, or the model lacks one of its classes.
    pub fn evaluate(
        &self,
        model: &Assembled,
        experiment: &Experiment,
        split: Split,
    ) -> Result<Metrics, Failure> {
        on_worker(|| {
            // The data is opened anew and not taken from the run: it may be another data set.
            let data = Data::open(&*experiment.dataset, experiment.on_error, experiment.seed)?;
            let join = model.join(data.classes())?;
            let (images, size) = (model.preprocess(), model.batch_size);
            let loader = match split {
                Split::Train => data.train(images, size),
                Split::Validation => data.validation(images, size),
                Split::Test => data.test(&Choice::after(model), images, size),
            };
            let loader = join.apply(loader);
            Ok(evaluate_all(&model.model, &loader, &self.device, model.compute)?.0)
        })
    }
}
