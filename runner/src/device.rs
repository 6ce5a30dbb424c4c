//! The device that computes: `auto`, `cpu` or `cuda[:N]`.

use std::path::PathBuf;
use std::str::FromStr;

use burn::tensor::Device;

use crate::exit::{Failure, config_error};

/// The value of `--device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if it is usable, else the CPU, with a message.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by index.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let index = match text.strip_prefix("cuda") {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse().ok()),
            None => None,
        };
        match (text, index) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some(index)) => Ok(Self::Cuda(index)),
            _ => Err(format!("expected auto, cpu, cuda or cuda:N, got {text:?}")),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// A device and its name for reports.
#[derive(Clone, Debug)]
pub struct ComputeDevice {
    /// The device, without autodiff.
    pub device: Device,
    /// `cpu` or `cuda:N`.
    pub name: String,
}

impl ComputeDevice {
    /// The CPU.
    pub fn cpu() -> Self {
        Self {
            device: Device::flex(),
            name: "cpu".to_owned(),
        }
    }

    /// Whether this is the CPU, where values are read back without waiting for a queue.
    pub fn is_cpu(&self) -> bool {
        self.name == "cpu"
    }

    /// The model of the device and what its kernels are compiled for, such as `NVIDIA H200 ptx_sm90`, so that
    /// machines with different devices are told apart; the name if the backend does not report it.
    pub fn model(&self) -> String {
        #[cfg(feature = "cuda")]
        if let Some(identity) = self.device.identity() {
            return format!("{} {}", identity.name, identity.fingerprint);
        }
        self.name.clone()
    }
}

/// Opens the device of a choice.
///
/// # Errors
/// If CUDA was asked for by name and something that its first kernel needs is missing; the message lists
/// what is missing.
pub fn choose(choice: DeviceChoice) -> Result<ComputeDevice, Failure> {
    match choice {
        DeviceChoice::Cpu => Ok(ComputeDevice::cpu()),
        DeviceChoice::Cuda(index) => cuda(index).map_err(|missing| {
            config_error(format!(
                "--device cuda:{index}: {missing}; or use --device cpu"
            ))
        }),
        // Falling back is announced, so that nobody takes a slow run on the CPU for one on the GPU.
        DeviceChoice::Auto => Ok(cuda(0).unwrap_or_else(|missing| {
            eprintln!("device: cpu ({missing})");
            ComputeDevice::cpu()
        })),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<ComputeDevice, String> {
    Err("this binary was built without the cuda feature".to_owned())
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<ComputeDevice, String> {
    let missing = missing();
    if !missing.is_empty() {
        return Err(format!("CUDA is not usable here: {}", missing.join("; ")));
    }
    let count = nvidia_devices();
    if index >= count {
        return Err(format!("no such device: {count} found, counted from 0"));
    }
    Ok(ComputeDevice {
        device: Device::cuda(index),
        name: format!("cuda:{index}"),
    })
}

/// Lists what the first kernel would lack. CubeCL panics if the driver is missing, or the
/// mathematical functions that it links into every kernel, so both are checked first.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if nvidia_devices() == 0 {
        missing.push("no NVIDIA device (/dev/nvidia0)".to_owned());
    }
    if !loadable("libcuda.so") {
        missing.push("the driver's libcuda.so is not found".to_owned());
    }
    let libdevice = |root: &PathBuf| root.join("nvvm/libdevice/libdevice.10.bc");
    let roots = toolkits();
    if !roots.iter().any(|root| libdevice(root).is_file()) {
        let first = libdevice(&roots[0]);
        missing.push(format!(
            "{} is not found (set CUDA_PATH to a toolkit)",
            first.display()
        ));
    }
    missing
}

/// The folders where CubeCL looks for a toolkit.
fn toolkits() -> Vec<PathBuf> {
    match std::env::var_os("CUDA_PATH") {
        Some(root) => vec![root.into()],
        None => ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"]
            .map(PathBuf::from)
            .into(),
    }
}

/// The number of NVIDIA device files.
fn nvidia_devices() -> usize {
    // The device files are counted because asking the driver would load it, which is what may fail.
    (0..64)
        .take_while(|i| PathBuf::from(format!("/dev/nvidia{i}")).exists())
        .count()
}

/// Returns whether a library whose file name starts with `name` is where the dynamic loader looks:
/// in the folders of `LD_LIBRARY_PATH` or in the usual ones.
fn loadable(name: &str) -> bool {
    // The folders are searched instead of loading the library, so that nothing of the driver runs
    // unless the device is used.
    let from_env = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/nvidia/lib64",
        "/usr/lib/wsl/lib",
    ];
    std::env::split_paths(&from_env)
        .chain(usual.map(PathBuf::from))
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .filter_map(Result::ok)
        .any(|entry| entry.file_name().to_string_lossy().starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_parsed_and_other_words_refused() {
        let parse = |text: &str| text.parse::<DeviceChoice>();
        assert_eq!(parse("auto"), Ok(DeviceChoice::Auto));
        assert_eq!(parse("cuda"), Ok(DeviceChoice::Cuda(0)));
        assert_eq!(parse("cuda:3"), Ok(DeviceChoice::Cuda(3)));
        for bad in ["cuda3", "gpu", "cuda:", "cuda:-1", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
