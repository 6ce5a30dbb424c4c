//! Losses of a batch that are a mean over its rows or its logits, with a backward pass that keeps the gradient
//! of the logits.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::bridge::apply;
use crate::operation::{Operation, tensor, values};

/// A loss of logits `[b, classes]` with targets `[b, classes]`, which are a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowLoss {
    /// Returns the loss of a row from its logits and its targets, and writes the third argument times the gradient of its
    /// logits into the last slice.
    pub row: fn(&[f32], &[f32], f64, &mut [f32]) -> f64,
    /// Whether the mean is that over all logits; otherwise it is that over the rows.
    pub over_logits: bool,
    /// The loss as Burn's operations, for devices without a kernel.
    pub composed: fn(Tensor<2>, Tensor<2>) -> Tensor<1>,
}

impl RowLoss {
    /// The mean loss `[1]`.
    pub fn of(self, logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
        let inputs = [
            logits.into_dispatch(),
            targets.without_autodiff().into_dispatch(),
        ];
        match apply(self, inputs) {
            Ok(loss) => Tensor::from_dispatch(loss),
            Err(inputs) => {
                let [logits, targets] = inputs.map(Tensor::from_dispatch);
                (self.composed)(logits, targets)
            }
        }
    }
}

impl Operation<FlexTensor, 2> for RowLoss {
    /// The gradient of the logits.
    type Saved = FlexTensor;

    fn forward(
        &self,
        [logits, targets]: [FlexTensor; 2],
        _: [bool; 2],
    ) -> (FlexTensor, FlexTensor) {
        let shape = logits.shape();
        let (rows, width) = (shape[0], shape[1].max(1));
        let (logits, targets) = (values(&logits), values(&targets));
        let count = if self.over_logits { logits.len() } else { rows };
        let share = 1.0 / count as f64;
        let mut slopes = vec![0.0; logits.len()];
        let rows = logits.par_chunks(width).zip(targets.par_chunks(width));
        let losses: Vec<f64> = rows
            .zip(slopes.par_chunks_mut(width))
            .map(|((logits, targets), slopes)| (self.row)(logits, targets, share, slopes))
            .collect();
        // In the order of the rows, whichever thread computed them.
        let loss = losses.iter().sum::<f64>() * share;
        (tensor(vec![loss as f32], [1]), tensor(slopes, shape))
    }

    fn backward(
        &self,
        slopes: FlexTensor,
        gradient: FlexTensor,
        _: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let factor = values(&gradient)[0];
        let scaled = values(&slopes).iter().map(|slope| slope * factor);
        [Some(tensor(scaled.collect(), slopes.shape())), None]
    }
}
