//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::device::DeviceChoice;

/// Parameter-efficient fine-tuning of vision models: a YAML in, an adapted model and its measured
/// run out.
#[derive(Parser)]
#[command(name = "runner", version, arg_required_else_help = true)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; without a command, train and evaluate what --config says.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Trains and evaluates.
    #[command(flatten)]
    pub train: TrainArgs,
}

/// Which experiment.
#[derive(Args, Clone)]
pub struct ConfigArgs {
    /// A YAML file, or a name under configs/ such as peft/lora-r10.yaml (shipped ones are inside
    /// the binary).
    #[arg(long)]
    pub config: Option<String>,
    /// Overrides a field: method.rank=4, backbone=resnet-micro, seed=1. May be repeated.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
}

/// How to train.
#[derive(Args, Clone)]
pub struct TrainArgs {
    /// Which experiment.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Where it runs.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Folder of the run folders.
    #[arg(long, default_value = "runs")]
    pub runs: PathBuf,
    /// Folder of the prefix cache's files, which runs and processes may share; default: .cache below
    /// the runs' folder.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Start from a trained adapter: a run's folder, or one of HF PEFT (as --set adapter=DIR).
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Validate everything and print the plan, then stop.
    #[arg(long)]
    pub dry_run: bool,
}

impl TrainArgs {
    /// The folder of the prefix cache.
    pub fn cache(&self) -> PathBuf {
        let own = || self.runs.join(".cache");
        self.cache.clone().unwrap_or_else(own)
    }
}

/// What is compared.
#[derive(Args, Clone)]
pub struct CompareArgs {
    /// Which comparison.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Where it runs.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Folder of the comparisons' folders.
    #[arg(long, default_value = "runs")]
    pub runs: PathBuf,
    /// Folder of the prefix cache's files, which runs and processes may share; default: .cache below
    /// the runs' folder.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Validate everything and list the trials, then stop.
    #[arg(long)]
    pub dry_run: bool,
}

impl CompareArgs {
    /// The folder of the prefix cache.
    pub fn cache(&self) -> PathBuf {
        let own = || self.runs.join(".cache");
        self.cache.clone().unwrap_or_else(own)
    }
}

/// What is done with a sweep.
#[derive(Subcommand)]
pub enum SweepCommand {
    /// Write the trials of a comparison into a manifest, which never changes.
    Plan(SweepPlanArgs),
    /// Train what is not done: all trials, one, or a part; resumes what was interrupted.
    Run(SweepRunArgs),
    /// How far the trials are.
    Status {
        /// The folder of the manifest.
        sweep: PathBuf,
        /// How to print.
        #[arg(long, default_value = "text")]
        format: Format,
    },
    /// Build tables and report from what the trials left.
    Collect {
        /// The folder of the manifest.
        sweep: PathBuf,
    },
    /// Print a job array for a scheduler.
    Script(SweepScriptArgs),
}

/// What is planned.
#[derive(Args, Clone)]
pub struct SweepPlanArgs {
    /// Which comparison.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The folder of the sweep.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Where data and weights are opened.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Which trials are run.
#[derive(Args, Clone)]
pub struct SweepRunArgs {
    /// The folder of the manifest.
    pub sweep: PathBuf,
    /// One trial, counted from 0.
    #[arg(long, value_name = "I", conflicts_with = "chunk")]
    pub index: Option<usize>,
    /// The k-th of n parts of equal size, counted from 1.
    #[arg(long, value_name = "K/N")]
    pub chunk: Option<Chunk>,
    /// So many trials at a time, each in a process of its own.
    #[arg(long, value_name = "N", default_value = "1")]
    pub jobs: NonZeroUsize,
    /// Where it runs.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Folder of the prefix cache's files; default: .cache in the sweep's folder.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl SweepRunArgs {
    /// The folder of the prefix cache.
    pub fn cache(&self) -> PathBuf {
        let own = || self.sweep.join(".cache");
        self.cache.clone().unwrap_or_else(own)
    }

    /// The indices of the trials, of so many.
    ///
    /// # Errors
    /// An index that no trial has.
    pub fn selected(&self, trials: usize) -> Result<Vec<usize>, String> {
        match (self.index, self.chunk) {
            (Some(index), _) if index < trials => Ok(vec![index]),
            (Some(index), _) => {
                let last = trials.saturating_sub(1);
                Err(format!("--index {index}: expected 0 to {last}"))
            }
            (None, Some(Chunk { part, of })) => {
                Ok((trials * (part - 1) / of..trials * part / of).collect())
            }
            (None, None) => Ok((0..trials).collect()),
        }
    }
}

/// `k/n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    part: usize,
    of: usize,
}

impl FromStr for Chunk {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/');
        let numbers = numbers.and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((part, of)) if 0 < part && part <= of => Ok(Self { part, of }),
            _ => Err(format!("expected k/n with k from 1 to n, got {text:?}")),
        }
    }
}

/// For which scheduler.
#[derive(Args, Clone)]
pub struct SweepScriptArgs {
    /// The folder of the manifest.
    pub sweep: PathBuf,
    /// The scheduler.
    #[arg(long = "for", value_enum)]
    pub scheduler: Scheduler,
    /// Time limit of a trial, hours:minutes:seconds; one that needs more goes on in another turn.
    #[arg(long, default_value = "04:00:00")]
    pub time: TimeLimit,
}

/// `hh:mm:ss`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeLimit(pub String);

impl FromStr for TimeLimit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |part: &&str| part.len() >= 2 && part.bytes().all(|c| c.is_ascii_digit());
        match parts.len() == 3 && parts.iter().all(number) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "expected hours:minutes:seconds, such as 04:00:00, got {text:?}"
            )),
        }
    }
}

/// What a YAML may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Document {
    /// What `--config` trains.
    Experiment,
    /// What `runner compare` takes.
    Comparison,
}

/// Job schedulers with arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheduler {
    /// Slurm.
    Slurm,
    /// HyperQueue.
    Hq,
    /// Kubernetes.
    K8s,
}

impl Scheduler {
    /// A job array with places to fill in.
    pub fn template(self) -> &'static str {
        match self {
            Self::Slurm => include_str!("../commands/sweep/slurm.sh"),
            Self::Hq => include_str!("../commands/sweep/hq.sh"),
            Self::K8s => include_str!("../commands/sweep/k8s.yaml"),
        }
    }
}

/// Which trained model.
#[derive(Args, Clone)]
pub struct TrainedArgs {
    /// The run's folder; with --adapter also a config: a YAML file or a name under configs/.
    pub run: PathBuf,
    /// A trained adapter instead of the run's own: another run's folder, or one of HF PEFT.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// How much of the adapter acts: 0 is the frozen backbone, 1 the adapted one.
    #[arg(long)]
    pub scale: Option<f64>,
}

/// Where something runs.
#[derive(Args, Clone)]
pub struct PlaceArgs {
    /// auto (CUDA if a device answers, else the CPU), cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Threads on the CPU; 0 takes all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Other libraries' forms of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// adapter_config.json and adapter_model.safetensors.
    HfPeft,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Train many methods on many backbones and data sets under identical settings, and report.
    Compare(CompareArgs),
    /// A comparison in many processes, on one machine or on many.
    #[command(subcommand)]
    Sweep(SweepCommand),
    /// List what is linked: methods, backbones, their variants, datasets; or the shipped configs.
    List {
        /// What to list.
        what: Listed,
        /// How to print.
        #[arg(long, default_value = "text")]
        format: Format,
    },
    /// Say what a checkpoint is of: layout, family, variant, sizes, and what would not be used.
    Inspect {
        /// Any checkpoint that backbone.weights may name: safetensors (or its .index.json), .pth,
        /// .bin, .npz, hf://owner/name.
        file: PathBuf,
        /// How to print.
        #[arg(long, default_value = "text")]
        format: Format,
    },
    /// Show the boundaries and sites of an experiment's backbone with their shapes.
    Show {
        /// Which experiment.
        #[command(flatten)]
        config: ConfigArgs,
        /// How to print.
        #[arg(long, default_value = "text")]
        format: Format,
    },
    /// Evaluate a finished run again, on the test split.
    Eval {
        /// Which trained model.
        #[command(flatten)]
        trained: TrainedArgs,
        /// Where it runs.
        #[command(flatten)]
        place: PlaceArgs,
        /// How to print.
        #[arg(long, default_value = "text")]
        format: Format,
    },
    /// Fold a trained adapter into the backbone's weights, where that is exact.
    Merge {
        /// Which trained model.
        #[command(flatten)]
        trained: TrainedArgs,
        /// The checkpoint to write: safetensors under the backbone's own keys, head included.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Where it runs.
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Write a trained adapter in another library's form.
    Export {
        /// Which trained model.
        #[command(flatten)]
        trained: TrainedArgs,
        /// The form.
        #[arg(long, value_enum, default_value = "hf-peft")]
        format: ExportFormat,
        /// The library whose model it is for: timm, transformers or transformers-4.
        #[arg(long, default_value = "timm")]
        layout: String,
        /// The folder to write; default: hf-peft in the run's folder.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Where it runs.
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Predict the classes of image files with a finished run.
    Predict {
        /// The run's folder; with --adapter also a config.
        run: PathBuf,
        /// Image files.
        #[arg(required = true)]
        images: Vec<PathBuf>,
        /// A trained adapter instead of the run's own, a run's folder or one of HF PEFT; may be
        /// repeated, all on one backbone.
        #[arg(long = "adapter", value_name = "[NAME=]DIR")]
        adapters: Vec<String>,
        /// Of the adapters, predict with this one only. May be repeated.
        #[arg(long = "use", value_name = "NAME")]
        names: Vec<String>,
        /// How much of the adapter acts: 0 is the frozen backbone, 1 the adapted one.
        #[arg(long)]
        scale: Option<f64>,
        /// How many classes to print for each image.
        #[arg(long, default_value_t = 5)]
        top: usize,
        /// Where it runs.
        #[command(flatten)]
        place: PlaceArgs,
        /// How to print.
        #[arg(long, default_value = "text")]
        format: Format,
    },
    /// Write activations at boundaries, features and logits of images as safetensors.
    Features(FeaturesArgs),
    /// Print the JSON Schema of experiments or comparisons, for editors.
    Schema {
        /// Of what.
        #[arg(default_value = "experiment")]
        of: Document,
    },
    /// Versions, devices, a numeric self-test of each device, its matrix-product peak.
    Doctor {
        /// Where it runs; auto tests every device found.
        #[command(flatten)]
        place: PlaceArgs,
        /// Only the tests whose name holds this: ops/gelu, vit/lora, peak/f32. Kernels are compiled
        /// and tuned at their first use, so that all of them take minutes on a GPU.
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
        /// How to print.
        #[arg(long, default_value = "text")]
        format: Format,
    },
    /// Look at a data set.
    #[command(subcommand)]
    Data(DataCommand),
    /// Time a training step with random images: for benchmarks.
    Bench(BenchArgs),
    /// What an experiment costs: parameters, arithmetic, memory by what it is for, time of each part
    /// of a step, share of the device's matrix-product peak.
    Profile(ProfileArgs),
}

/// What is done with a data set.
#[derive(Subcommand)]
pub enum DataCommand {
    /// Hold what is on disk against what is known of it: counts, classes, images that cannot be read,
    /// equal images in two splits.
    Check(CheckArgs),
    /// Print the split table and paint a contact sheet, before and after the transforms.
    Show(ShowDataArgs),
    /// Time how fast an experiment's training images become batches; nothing is trained.
    Time(TimeArgs),
}

/// Which data set.
#[derive(Args, Clone)]
pub struct DatasetArgs {
    /// A name under configs/datasets, such as cifar100 or vtab-1k/caltech101, or a YAML file.
    pub dataset: String,
    /// Where it is, instead of what the YAML says.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Overrides a field, as dataset.field=value. May be repeated.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
}

/// What is checked.
#[derive(Args, Clone)]
pub struct CheckArgs {
    /// Which data set.
    #[command(flatten)]
    pub which: DatasetArgs,
    /// Counts and classes only: no image is read.
    #[arg(long)]
    pub quick: bool,
    /// How to print.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// What is shown.
#[derive(Args, Clone)]
pub struct ShowDataArgs {
    /// Which data set.
    #[command(flatten)]
    pub which: DatasetArgs,
    /// The PNG to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Which images.
    #[arg(long, default_value = "train")]
    pub split: SplitChoice,
    /// How many.
    #[arg(long, default_value_t = 24)]
    pub images: usize,
    /// For which backbone: a name under configs/backbones, or a YAML with one.
    #[arg(long, value_name = "CONFIG", default_value = "vit-micro")]
    pub backbone: String,
    /// Seed of the choice.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// What is read, and how often.
#[derive(Args, Clone)]
pub struct TimeArgs {
    /// Which experiment: its data set, recipe and prefix cache; --set prefix_cache=off times the
    /// images themselves.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Where it runs.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Epochs to read.
    #[arg(long, default_value_t = 3)]
    pub epochs: usize,
    /// Folder of the prefix cache's files.
    #[arg(long, value_name = "DIR", default_value = "runs/.cache")]
    pub cache: PathBuf,
    /// How to print.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// What is run and written.
#[derive(Args, Clone)]
pub struct FeaturesArgs {
    /// Which backbone; a YAML with nothing but a backbone is enough.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Image files, or one safetensors file with normalised images.
    #[arg(long, required_unless_present = "dataset", conflicts_with = "dataset", num_args = 1..)]
    pub input: Vec<PathBuf>,
    /// A data set instead: a YAML file, or a name under configs/datasets.
    #[arg(long, value_name = "CONFIG")]
    pub dataset: Option<String>,
    /// Which images of the data set.
    #[arg(long, default_value = "test")]
    pub split: SplitChoice,
    /// The tensor [n, 3, h, w] of a safetensors input.
    #[arg(long, default_value = "images")]
    pub tensor: String,
    /// all, or boundaries separated by commas; -1 is the input of the last block.
    #[arg(long, default_value = "all", allow_hyphen_values = true)]
    pub boundaries: String,
    /// The file to write: boundary.0 to boundary.L+1, features, and logits if there is a head.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// With a trained adapter: a run's folder, or one of HF PEFT.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Seed of random weights, where none are given.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where it runs.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// What is timed.
#[derive(Args, Clone)]
pub struct BenchArgs {
    /// Which experiment; its data set gives only the number of classes.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Where it runs.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Steps before the clock starts.
    #[arg(long, default_value_t = 3)]
    pub warmup: usize,
    /// Steps that are timed.
    #[arg(long, default_value_t = 10)]
    pub steps: usize,
    /// What is timed.
    #[arg(long, default_value = "both")]
    pub what: Timed,
    /// Time again, without a warm-up, for every line on stdin until it ends: for measurements that
    /// take turns with another program's.
    #[arg(long)]
    pub again: bool,
    /// How to print.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// What is profiled.
#[derive(Args, Clone)]
pub struct ProfileArgs {
    /// Which experiment.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Where it runs.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Steps before the clock starts.
    #[arg(long, default_value_t = 3)]
    pub warmup: usize,
    /// Steps that are timed; medians are printed.
    #[arg(long, default_value_t = 10)]
    pub steps: usize,
    /// How to print.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// What a benchmark times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Timed {
    /// Training steps.
    Training,
    /// Forward passes from image to logits.
    Inference,
    /// One after the other.
    Both,
}

/// A split of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitChoice {
    /// What gradients see.
    Train,
    /// What choices see.
    Validation,
    /// What the report sees.
    Test,
}

impl From<SplitChoice> for peft_core::Split {
    fn from(choice: SplitChoice) -> Self {
        match choice {
            SplitChoice::Train => Self::Train,
            SplitChoice::Validation => Self::Validation,
            SplitChoice::Test => Self::Test,
        }
    }
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Listed {
    /// Ways to adapt.
    Methods,
    /// Architectures.
    Backbones,
    /// Published variants of the architectures.
    Variants,
    /// Data sets.
    Datasets,
    /// Shipped configs.
    Configs,
}
