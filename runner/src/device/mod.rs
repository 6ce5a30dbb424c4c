//! The device that computes: `auto`, `cpu`, or an accelerator such as `cuda`, `cuda:1` or `vulkan`.

mod cuda;
mod driver;
#[cfg(all(feature = "accelerator", feature = "persistence"))]
mod kernels;
mod kind;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use burn::tensor::{DType, Device};
use peft_ops::Level;

pub use self::cuda::toolkit_in_python;
pub use self::driver::driver;
pub use self::kind::Kind;
use crate::exit::{Failure, config_error, panic_message};

/// The value of `--device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first device of [`Kind::AUTOMATIC`] that answers, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An accelerator, by its index among those of its kind.
    Accelerator(Kind, usize),
}

impl FromStr for DeviceChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let accelerator = || {
            let (name, index) = text.split_once(':').unwrap_or((text, "0"));
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name)?;
            Some(Self::Accelerator(kind, index.parse().ok()?))
        };
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => accelerator().ok_or_else(|| {
                let kinds = Kind::ALL.map(Kind::name).join(", ");
                format!("expected auto, cpu, or one of {kinds} with an index such as cuda:1, got {text:?}")
            }),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Accelerator(kind, index) => write!(f, "{}:{index}", kind.name()),
        }
    }
}

/// A device and its name for reports.
#[derive(Clone, Debug)]
pub struct ComputeDevice {
    /// The device, without autodiff.
    pub device: Device,
    /// `cpu`, or kind and index such as `cuda:0`.
    pub name: String,
    /// Whether its user vouches for it, so that it trains without a comparison with the CPU.
    pub vouched: bool,
}

impl ComputeDevice {
    /// The CPU.
    pub fn cpu() -> Self {
        Self {
            device: Device::flex(),
            name: "cpu".to_owned(),
            vouched: false,
        }
    }

    /// The same device, vouched for or not.
    pub fn vouched(self, vouched: bool) -> Self {
        Self { vouched, ..self }
    }

    /// Whether this is the CPU, where values are read back without waiting for a queue.
    pub fn is_cpu(&self) -> bool {
        self.name == "cpu"
    }

    /// The model of the device and what its kernels are compiled for, such as `NVIDIA H200 ptx_sm90`, so that
    /// machines with different devices are told apart; the name if the backend does not report it.
    pub fn model(&self) -> String {
        #[cfg(feature = "accelerator")]
        if let Some(identity) = self.device.identity() {
            return format!("{} {}", identity.name, identity.fingerprint);
        }
        self.name.clone()
    }

    /// Whether it computes in bf16.
    pub fn has_bf16(&self) -> bool {
        self.device.supports_dtype(DType::BF16)
    }

    /// What the CPU does in bf16: all of it, or less.
    pub fn bf16_of_cpu() -> &'static str {
        match peft_ops::level() {
            Ok(Level::Avx512Bf16) => "linear layers multiply in bf16, all else is computed in f32",
            _ => "bf16 in memory, computed in f32",
        }
    }
}

/// A device that `runner list devices` and `--device auto` find.
pub struct Answer {
    /// The device.
    pub device: ComputeDevice,
    /// Whether it is a driver that computes on the CPU, which `auto` never takes.
    pub software: bool,
    /// [`ComputeDevice::model`].
    pub model: String,
}

/// The devices of a kind that can be opened.
///
/// # Errors
/// What this binary or this machine lacks.
pub fn answering(kind: Kind) -> Result<Vec<Answer>, String> {
    let found = kind.devices()?.into_iter().enumerate();
    found
        .map(|(index, (device, software))| {
            let device = ComputeDevice {
                device,
                name: DeviceChoice::Accelerator(kind, index).to_string(),
                vouched: false,
            };
            // Asking for the model opens the device; a driver that cannot do so panics.
            let model = catch_unwind(AssertUnwindSafe(|| device.model()));
            let model = model.map_err(|panic| panic_message(&*panic).to_owned())?;
            Ok(Answer {
                device,
                software,
                model,
            })
        })
        .collect()
}

/// Opens the device of a choice. What `auto` took, and why it took nothing before that, goes to stderr, so
/// that nobody takes a slow run on the CPU for one on a GPU.
///
/// # Errors
/// If an accelerator was asked for by name and cannot be used; the message lists what is missing.
pub fn choose(choice: DeviceChoice) -> Result<ComputeDevice, Failure> {
    match choice {
        DeviceChoice::Cpu => Ok(ComputeDevice::cpu()),
        DeviceChoice::Accelerator(kind, index) => accelerator(kind, index)
            .map_err(|why| config_error(format!("--device {choice}: {why}; or use --device cpu"))),
        DeviceChoice::Auto => {
            let any = Kind::AUTOMATIC.into_iter().any(Kind::built_in);
            let (device, line) = if any {
                automatic(answering)
            } else {
                let install = Kind::Vulkan.install();
                let line = format!(
                    "cpu (this binary has no accelerator; `{install}` builds one that has)"
                );
                (ComputeDevice::cpu(), line)
            };
            eprintln!("device: {line}");
            Ok(device)
        }
    }
}

fn accelerator(kind: Kind, index: usize) -> Result<ComputeDevice, String> {
    let mut found = answering(kind)?;
    if index >= found.len() {
        let count = found.len();
        return Err(format!("no such device: {count} found, counted from 0"));
    }
    Ok(found.swap_remove(index).device)
}

/// The device that `auto` takes, and a line about it and about those that it passed over.
fn automatic(answering: impl Fn(Kind) -> Result<Vec<Answer>, String>) -> (ComputeDevice, String) {
    let mut passed = Vec::new();
    for kind in Kind::AUTOMATIC {
        let why = match answering(kind) {
            Err(why) => why,
            Ok(found) => match found.into_iter().find(|answer| !answer.software) {
                Some(Answer { device, model, .. }) => {
                    let line = format!("{}, {model}{}", device.name, in_brackets(&passed));
                    return (device, line);
                }
                None => "only a software rasteriser answers".to_owned(),
            },
        };
        passed.push(format!("{}: {why}", kind.name()));
    }
    let line = format!("cpu{}", in_brackets(&passed));
    (ComputeDevice::cpu(), line)
}

fn in_brackets(reasons: &[String]) -> String {
    match reasons {
        [] => String::new(),
        reasons => format!(" ({})", reasons.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_parsed_and_other_words_refused() {
        let parse = |text: &str| text.parse::<DeviceChoice>();
        assert_eq!(parse("auto"), Ok(DeviceChoice::Auto));
        assert_eq!(parse("cpu"), Ok(DeviceChoice::Cpu));
        assert_eq!(parse("cuda"), Ok(DeviceChoice::Accelerator(Kind::Cuda, 0)));
        assert_eq!(
            parse("vulkan:3"),
            Ok(DeviceChoice::Accelerator(Kind::Vulkan, 3))
        );
        for kind in Kind::ALL {
            let choice = DeviceChoice::Accelerator(kind, 1);
            assert_eq!(parse(&choice.to_string()), Ok(choice));
        }
        for bad in ["cuda3", "gpu", "cuda:", "cuda:-1", "cpu:1", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn auto_takes_the_first_kind_that_answers_but_no_software() {
        let answer = |name: &str, software| Answer {
            device: ComputeDevice {
                name: name.to_owned(),
                ..ComputeDevice::cpu()
            },
            software,
            model: "a model".to_owned(),
        };
        let missing = || Err("no driver".to_owned());
        let (device, line) = automatic(|kind| match kind {
            Kind::Vulkan => Ok(vec![answer("vulkan:0", true), answer("vulkan:1", false)]),
            _ => missing(),
        });
        assert_eq!(device.name, "vulkan:1");
        assert_eq!(
            line,
            "vulkan:1, a model (cuda: no driver; metal: no driver)"
        );
        let (device, line) = automatic(|kind| match kind {
            Kind::Vulkan => Ok(vec![answer("vulkan:0", true)]),
            _ => missing(),
        });
        assert!(device.is_cpu());
        assert!(
            line.ends_with("vulkan: only a software rasteriser answers)"),
            "{line}"
        );
    }

    #[test]
    fn a_kind_that_is_not_built_in_names_the_command_that_builds_it() {
        for kind in Kind::ALL.into_iter().filter(|kind| !kind.built_in()) {
            let message = accelerator(kind, 0).unwrap_err();
            let command = format!("cargo build --release --features {}`", kind.name());
            assert!(message.contains(&command), "{message}");
        }
    }
}
