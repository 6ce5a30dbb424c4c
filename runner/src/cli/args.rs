//! Groups of arguments that several commands share.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::device::DeviceChoice;
use crate::measure::Repeats;

/// The configuration: an experiment, a comparison or a backbone.
#[derive(Args, Clone)]
pub struct ConfigArgs {
    /// A YAML file, or a name under configs/ such as peft/lora-r10.yaml (those are inside the binary).
    #[arg(long, value_name = "FILE")]
    pub config: String,
    /// Override a field, as in method.rank=4, backbone=resnet-micro or seed=1. May be repeated.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
}

/// The device and the threads on which a command runs.
#[derive(Args, Clone, Default)]
pub struct PlaceArgs {
    /// The device: auto (the first CUDA, Metal or Vulkan device that answers, else the CPU), cpu, or cuda,
    /// metal, vulkan, rocm or wgpu with an index such as cuda:1. `runner list devices` prints those that
    /// answer.
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Threads on the CPU; 0 takes all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// Several devices for one command.
#[derive(Args, Clone, Default)]
pub struct DevicesArgs {
    /// Several devices in place of --device, such as cuda:0,cuda:1. A single trial splits every batch over
    /// them; of many trials each runs on one of them, in a process of its own.
    #[arg(
        long,
        value_name = "DEVICES",
        value_delimiter = ',',
        conflicts_with = "device"
    )]
    pub devices: Vec<DeviceChoice>,
}

impl DevicesArgs {
    /// The devices, or the one of `--device`.
    pub fn all(&self, place: &PlaceArgs) -> Vec<DeviceChoice> {
        match self.devices[..] {
            [] => vec![place.device],
            _ => self.devices.clone(),
        }
    }

    /// The place of the first device, or the one of `--device`.
    pub fn first(&self, place: &PlaceArgs) -> PlaceArgs {
        let device = *self.devices.first().unwrap_or(&place.device);
        PlaceArgs {
            device,
            ..place.clone()
        }
    }
}

/// The arguments about the comparison of a device with the CPU before it trains.
#[derive(Args, Clone, Copy, Default)]
pub struct TrustArgs {
    /// Train on an accelerator without comparing it with the CPU first, or against the result; the
    /// summary records it.
    #[arg(long)]
    pub trust_device: bool,
}

/// The folders that training writes to.
#[derive(Args, Clone)]
pub struct RunsArgs {
    /// The folder in which every experiment and every comparison has a folder of its name.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
    /// Folder of the prefix cache's files, which runs and processes may share [default: .cache in
    /// the folder of --runs].
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl RunsArgs {
    /// The folder of the prefix cache's files.
    pub fn cache(&self) -> PathBuf {
        cache_folder(self.cache.as_deref(), &self.runs)
    }
}

/// Returns the folder of the files of the prefix cache: the one that was asked for, or `.cache` in
/// the folder of the results.
pub fn cache_folder(asked: Option<&Path>, results: &Path) -> PathBuf {
    asked.map_or_else(|| results.join(".cache"), Path::to_owned)
}

/// The steps of a measurement.
#[derive(Args, Clone, Copy)]
pub struct StepsArgs {
    /// Steps before the clock starts.
    #[arg(long, default_value_t = 3)]
    pub warmup: usize,
    /// Steps that are timed; medians are printed.
    #[arg(long, default_value_t = 10)]
    pub steps: usize,
}

impl From<StepsArgs> for Repeats {
    fn from(StepsArgs { warmup, steps }: StepsArgs) -> Self {
        Self { warmup, steps }
    }
}

/// A trained model.
#[derive(Args, Clone)]
pub struct TrainedArgs {
    /// The run's folder; with --adapter also a config: a YAML file or a name under configs/.
    pub run: PathBuf,
    /// A trained adapter instead of the run's own: another run's folder, or one of HF PEFT.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// The share of the adapter that acts: 0 is the frozen backbone, 1 the adapted one.
    #[arg(long)]
    pub scale: Option<f64>,
}

/// A data set.
#[derive(Args, Clone)]
pub struct DatasetArgs {
    /// A name under configs/datasets, such as cifar100 or vtab-1k/caltech101, or a YAML file.
    pub dataset: String,
    /// The folder of its files, instead of the one in the YAML.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Override a field, as in dataset.field=value. May be repeated.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

/// A split of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitChoice {
    /// The images that gradients are computed from.
    Train,
    /// The images that epochs and settings are chosen by.
    Validation,
    /// The images that results are reported on.
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
