//! Groups of arguments that several commands share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::device::DeviceChoice;

/// Which experiment, comparison or backbone.
#[derive(Args, Clone)]
pub struct ConfigArgs {
    /// A YAML file, or a name under configs/ such as peft/lora-r10.yaml (those are inside the binary).
    #[arg(long)]
    pub config: Option<String>,
    /// Override a field, as in method.rank=4, backbone=resnet-micro or seed=1. May be repeated.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
}

/// Where a command runs.
#[derive(Args, Clone)]
pub struct PlaceArgs {
    /// The device: auto (CUDA if a device answers, else the CPU), cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Threads on the CPU; 0 takes all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
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

/// Which data set.
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

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
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
