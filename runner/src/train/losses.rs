//! The losses of an epoch, on their way from the device to the host.

use burn::tensor::Tensor;
use peft_core::params::floats;

use crate::train::checkpoint::Progress;

/// Reads losses one at a time on the CPU and sixteen at a time elsewhere, so that a step does not
/// wait for the queue of the device.
pub struct Losses {
    pending: Vec<(Tensor<1>, usize, u64)>,
    limit: usize,
    /// Sum of the losses so far, weighted by images.
    pub sum: f64,
    /// Images so far.
    pub images: usize,
    /// The newest loss that was read.
    pub last: f64,
    /// The losses that were read and not taken yet, with their steps.
    read: Vec<(u64, f64)>,
}

impl Losses {
    pub fn new(cpu: bool, progress: &Progress) -> Self {
        Self {
            pending: Vec::new(),
            limit: if cpu { 1 } else { 16 },
            // A resumed epoch goes on with the sums of its first part.
            sum: progress.loss_sum,
            images: progress.images,
            last: f64::NAN,
            read: Vec::new(),
        }
    }

    /// Takes the losses that were read since the last call, with their steps.
    pub fn take(&mut self) -> Vec<(u64, f64)> {
        std::mem::take(&mut self.read)
    }

    /// Adds the loss of a batch of `images` images in step `step`. The step of the first loss that
    /// is not finite is the error.
    pub fn push(
        &mut self,
        loss: Tensor<1>,
        images: usize,
        step: u64,
        flush: bool,
    ) -> Result<(), u64> {
        self.pending.push((loss, images, step));
        match flush || self.pending.len() >= self.limit {
            true => self.flush(),
            false => Ok(()),
        }
    }

    pub fn flush(&mut self) -> Result<(), u64> {
        for (loss, images, step) in self.pending.drain(..) {
            let value = floats(loss.into_data())
                .into_iter()
                .next()
                .map_or(f64::NAN, f64::from);
            if !value.is_finite() {
                return Err(step);
            }
            self.sum += value * images as f64;
            self.images += images;
            self.last = value;
            self.read.push((step, value));
        }
        Ok(())
    }
}
