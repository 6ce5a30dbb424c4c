//! Kernels on the device that `BURN_DEVICE` names. `scripts/lavapipe.sh kernels` runs them without a GPU.

mod formulas;
mod guards;
mod sums;

use burn::backend::{DispatchDevice, TensorMetadata};
use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::CubeDevice;

/// The device, which must be an accelerator.
fn device() -> Device {
    let device = Device::default();
    assert_ne!(
        device,
        Device::flex(),
        "BURN_DEVICE must name an accelerator"
    );
    device
}

/// The same device for launches without Burn.
fn cube_device() -> CubeDevice {
    match Tensor::<1>::zeros([1], &device()).into_dispatch().device() {
        DispatchDevice::Cube(device) => device,
        other => panic!("expected an accelerator, got {other:?}"),
    }
}

/// The element types that kernels take and the device has.
fn types() -> Vec<DType> {
    let device = device();
    let types = [DType::F32, DType::F16, DType::BF16].into_iter();
    types
        .filter(|&dtype| device.supports_dtype(dtype))
        .collect()
}
