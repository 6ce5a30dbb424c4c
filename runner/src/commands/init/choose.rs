//! Chooses what suits the data and this machine: the backbone, the method, the batch and the epochs.

use std::path::Path;

use super::facts::Facts;
use crate::cache::available::available_memory;
use crate::config::experiment::Experiment;
use crate::device::{self, DeviceChoice};
use crate::exit::Failure;
use crate::fetch::hub;

/// The machine that will train.
pub struct Machine {
    /// The device.
    pub device: String,
    /// Whether it is an accelerator.
    pub is_accelerator: bool,
    /// Cores of the CPU.
    pub cores: usize,
    /// Available memory in bytes.
    pub memory: u64,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// If no device answers.
    pub fn here() -> Result<Self, Failure> {
        let device = device::choose(DeviceChoice::Auto)?;
        Ok(Self {
            is_accelerator: !device.is_cpu(),
            device: device.name,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: available_memory() as u64,
        })
    }
}

/// The choices, with their reasons.
pub struct Choice {
    /// A name under `configs/backbones`.
    pub backbone: String,
    pub backbone_why: String,
    /// The lines of the YAML below `method:`.
    pub method: &'static str,
    pub method_why: &'static str,
    pub batch: usize,
    pub epochs: usize,
    pub rate: f64,
}

/// Pretrained backbones, the largest first, and what is needed to train them in reasonable time.
const BACKBONES: [(&str, Need); 3] = [
    ("vit-base", Need::Accelerator),
    ("vit-small", Need::Cores(8)),
    ("vit-tiny", Need::Cores(1)),
];

/// The backbone that is bundled.
const BUNDLED: &str = "vit-micro";

enum Need {
    Accelerator,
    Cores(usize),
}

/// LoRA in every block.
const EVERYWHERE: &str = "{name: lora, rank: 8}";
/// LoRA in the last three of twelve blocks: the nine below are computed once for each image.
const AT_THE_END: &str = r"{name: lora, rank: 8, targets: 'blocks\.(9|10|11)\.attn\.qkv'}";

impl Choice {
    /// Chooses for these data on this machine; a backbone that is asked for is taken.
    ///
    /// # Errors
    /// If there is no backbone of that name.
    pub fn new(asked: Option<&str>, machine: &Machine, facts: &Facts) -> Result<Self, Failure> {
        let (backbone, why) = match asked {
            Some(name) => {
                Experiment::read_backbone(name, &[])?;
                (name.to_owned(), "asked for".to_owned())
            }
            None => backbone(machine)?,
        };
        // The cut of the blocks fits networks of twelve of them, which those above are.
        let is_deep = BACKBONES.iter().any(|(name, _)| *name == backbone);
        let (method, method_why) = match is_deep && !machine.is_accelerator {
            true => (
                AT_THE_END,
                "on a CPU, the blocks below are computed once and not in every epoch",
            ),
            false => (EVERYWHERE, "a few trained parameters in every block"),
        };
        let most: usize = if machine.is_accelerator { 128 } else { 32 };
        // At least eight steps in an epoch, where there are as many images.
        let batch = (facts.train / 8).max(1).next_power_of_two().clamp(4, most);
        let steps = if machine.is_accelerator { 2000 } else { 800 };
        Ok(Self {
            rate: if backbone == BUNDLED { 0.01 } else { 0.001 },
            backbone,
            backbone_why: why,
            method,
            method_why,
            batch,
            epochs: (steps * batch / facts.train.max(1)).clamp(5, 50),
        })
    }
}

/// The first backbone that this machine can train and whose weights are there or may be fetched.
fn backbone(machine: &Machine) -> Result<(String, String), Failure> {
    for (name, need) in &BACKBONES {
        let fits = match need {
            Need::Accelerator => machine.is_accelerator,
            Need::Cores(cores) => machine.is_accelerator || machine.cores >= *cores,
        };
        if !fits {
            continue;
        }
        let source = Experiment::read_backbone(name, &[])?.source();
        let path = source.weights.map(|weights| weights.path().to_owned());
        if let Some(why) = path.as_deref().and_then(obtainable) {
            return Ok(((*name).to_owned(), why.to_owned()));
        }
    }
    let why = "bundled; the weights of larger ones are neither here nor may be fetched";
    Ok((BUNDLED.to_owned(), why.to_owned()))
}

/// How weights can be had, if they can.
fn obtainable(path: &Path) -> Option<&'static str> {
    match hub::is_cached(path) {
        Some(true) => Some("its weights are in the cache of the hub"),
        Some(false) if crate::fetch::offline::forbidden().is_none() => {
            Some("its weights are fetched from the hub when it first trains")
        }
        Some(false) => None,
        None => path.is_file().then_some("its weights are here"),
    }
}
