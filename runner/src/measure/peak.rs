//! The speed at which a device multiplies matrices; the speed of everything else is given as a share of it.

use std::time::Instant;

use burn::tensor::{DType, Tensor, TensorData};
use peft_core::random::Generator;

use crate::device::ComputeDevice;

/// The side of the square matrices.
pub const SIDE: usize = 1024;

/// GFLOP/s of the fastest chain of products of square matrices, tried for about a second.
///
/// # Errors
/// If the device failed.
pub fn matmul(device: &ComputeDevice, dtype: DType) -> Result<f64, String> {
    let sync = || device.device.sync().map_err(|e| format!("{e:?}"));
    // The scale keeps the entries of a chain of products near 1, so that neither overflow nor
    // denormal numbers change the speed.
    let scale = 1.0 / (SIDE as f32).sqrt();
    let mut generator = Generator::new(0, "matmul");
    let mut matrix = || {
        let values: Vec<f32> = (0..SIDE * SIDE)
            .map(|_| scale * generator.normal())
            .collect();
        Tensor::<2>::from_data(TensorData::new(values, [SIDE, SIDE]), &device.device).cast(dtype)
    };
    let (a, b) = (matrix(), matrix());
    // On a device with a queue, a chain of products is timed so that the latency of the queue does
    // not count.
    let chain = if device.is_cpu() { 1 } else { 32 };
    let run = || -> Result<f64, String> {
        let start = Instant::now();
        let product = (0..chain).fold(b.clone(), |x, _| a.clone().matmul(x));
        sync()?;
        let seconds = start.elapsed().as_secs_f64();
        drop(product);
        Ok(seconds)
    };
    sync()?;
    // The first runs compile and tune kernels.
    for _ in 0..2 {
        run()?;
    }
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    let mut runs = 0;
    while runs < 3 || (start.elapsed().as_secs_f64() < 1.0 && runs < 50) {
        // The best run, not the mean: everything else on the machine only makes a run slower.
        best = best.min(run()?);
        runs += 1;
    }
    let operations = 2.0 * (SIDE as f64).powi(3) * f64::from(chain);
    Ok(operations / best / 1e9)
}
