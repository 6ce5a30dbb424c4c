//! Groups of arguments that several commands share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::device::DeviceChoice;

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
    /// The device: auto (CUDA if a device answers, else the CPU), cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Threads on the CPU; 0 takes all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// A trained model.
#[derive(Args, Clone)]
pub struct TrainedArgs {
    /// The run's folder; with --adapter also a config: a YAML file or a name under configs/.
    pub run: PathBuf,
    /// A trained adapter instead of the run's own: another run's folder, or one of HF PEFT.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Share of the adapter that acts: 0 is the frozen backbone, 1 the adapted one.
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
