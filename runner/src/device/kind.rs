//! The kinds of accelerators: which of them this binary has, what each lacks here, and its devices.

use burn::tensor::Device;
#[cfg(any(feature = "metal", feature = "vulkan", feature = "wgpu"))]
use burn::tensor::DeviceKind;
#[cfg(feature = "accelerator")]
use burn::tensor::DeviceType;

use super::cuda;

/// A kind of accelerator. Each is a cargo feature of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// NVIDIA devices.
    Cuda,
    /// Apple's devices.
    Metal,
    /// Devices with a Vulkan driver.
    Vulkan,
    /// AMD devices.
    Rocm,
    /// What WebGPU finds, on any graphics API.
    Wgpu,
}

/// A device of a kind, without autodiff, and whether it is a driver that computes on the CPU.
pub type Found = (Device, bool);

impl Kind {
    /// All kinds, those that [`AUTOMATIC`](Self::AUTOMATIC) has first.
    pub const ALL: [Self; 5] = [
        Self::Cuda,
        Self::Metal,
        Self::Vulkan,
        Self::Rocm,
        Self::Wgpu,
    ];

    /// The kinds that `auto` looks for, in this order. WebGPU would find the devices of the others again, and
    /// ROCm is taken only by those who ask for it.
    pub const AUTOMATIC: [Self; 3] = [Self::Cuda, Self::Metal, Self::Vulkan];

    /// The name in `--device`, which is that of the cargo feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Rocm => "rocm",
            Self::Wgpu => "wgpu",
        }
    }

    /// Whether this binary was built with it.
    pub fn built_in(self) -> bool {
        match self {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Rocm => cfg!(feature = "rocm"),
            Self::Wgpu => cfg!(feature = "wgpu"),
        }
    }

    /// The command that builds a binary with it.
    pub fn install(self) -> String {
        let llvm = match self {
            Self::Cuda | Self::Rocm => "scripts/llvm.sh && ",
            Self::Metal | Self::Vulkan | Self::Wgpu => "",
        };
        format!("{llvm}cargo build --release --features {}", self.name())
    }

    /// Its devices, at least one.
    ///
    /// # Errors
    /// What this binary or this machine lacks.
    pub fn devices(self) -> Result<Vec<Found>, String> {
        if !self.built_in() {
            let (name, install) = (self.name(), self.install());
            return Err(format!(
                "this binary was built without the feature {name}; build one with `{install}`"
            ));
        }
        if self == Self::Cuda {
            let missing = cuda::missing();
            if !missing.is_empty() {
                return Err(missing.join("; "));
            }
        }
        #[cfg(all(feature = "accelerator", feature = "persistence"))]
        super::kernels::keep();
        let devices = self.enumerate();
        if devices.is_empty() {
            return Err(format!("no device answers ({})", self.needs()));
        }
        Ok(devices)
    }

    /// What its devices need at run time.
    fn needs(self) -> &'static str {
        match self {
            Self::Cuda => "it needs an NVIDIA device and its driver",
            Self::Metal => "it needs a Mac",
            Self::Vulkan => {
                "it needs the loader, such as libvulkan1, and the vendor's or Mesa's Vulkan driver, such as \
                 mesa-vulkan-drivers"
            }
            Self::Rocm => "it needs an AMD device, its driver and ROCm's libraries",
            Self::Wgpu => "it needs a driver for Vulkan, Metal or OpenGL",
        }
    }

    #[cfg(feature = "accelerator")]
    fn enumerate(self) -> Vec<Found> {
        let (filter, software) = match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => (DeviceType::Cuda, None),
            #[cfg(feature = "metal")]
            Self::Metal => (DeviceType::Metal, Some(Device::metal(DeviceKind::Cpu))),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => (DeviceType::Vulkan, Some(Device::vulkan(DeviceKind::Cpu))),
            #[cfg(feature = "rocm")]
            Self::Rocm => (DeviceType::Rocm, None),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => (DeviceType::Wgpu, Some(Device::wgpu(DeviceKind::Cpu))),
            #[allow(unreachable_patterns, reason = "the kinds are features")]
            _ => return Vec::new(),
        };
        let devices = Device::enumerate(filter).into_iter();
        let is_software = |device: &Device| software.as_ref() == Some(device);
        devices
            .map(|device| {
                let software = is_software(&device);
                (device, software)
            })
            .collect()
    }

    #[cfg(not(feature = "accelerator"))]
    fn enumerate(self) -> Vec<Found> {
        Vec::new()
    }
}
