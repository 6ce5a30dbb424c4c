//! Losses of a batch that are a mean over its rows or its logits, with a backward pass that keeps the gradient
//! of the logits.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::bridge::{apply, as_constant};
use crate::operation::{Operation, tensor, values};

/// Returns the loss of a row from its logits and its targets, and writes the third argument times the gradient of its
/// logits into the last slice, if there is one.
type OfRow = fn(&[f32], &[f32], f64, Option<&mut [f32]>) -> f64;

/// A loss of logits `[b, classes]` with targets `[b, classes]`, which are a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowLoss {
    pub row: OfRow,
    /// Whether the mean is that over all logits; otherwise it is that over the rows.
    pub over_logits: bool,
    /// The loss as Burn's operations, for devices without a kernel.
    pub composed: fn(Tensor<2>, Tensor<2>) -> Tensor<1>,
}

impl RowLoss {
    /// The mean loss `[1]`.
    pub fn of(self, logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
        let logits = logits.into_dispatch();
        let targets = as_constant(targets, &logits);
        match apply(self, [logits, targets]) {
            Ok(loss) => Tensor::from_dispatch(loss),
            Err(inputs) => {
                let [logits, targets] = inputs.map(Tensor::from_dispatch);
                (self.composed)(logits, targets)
            }
        }
    }
}

impl Operation<FlexTensor, 2> for RowLoss {
    /// The gradient of the logits, if it is wanted.
    type Saved = Option<FlexTensor>;

    fn forward(
        &self,
        [logits, targets]: [FlexTensor; 2],
        [wanted, _]: [bool; 2],
    ) -> (FlexTensor, Option<FlexTensor>) {
        let shape = logits.shape();
        let (rows, width) = (shape[0], shape[1].max(1));
        let (logits, targets) = (values(&logits), values(&targets));
        let count = if self.over_logits { logits.len() } else { rows };
        let share = 1.0 / count as f64;
        let rows = logits.par_chunks(width).zip(targets.par_chunks(width));
        let (losses, slopes): (Vec<f64>, _) = if wanted {
            let mut slopes = vec![0.0; logits.len()];
            let rows = rows.zip(slopes.par_chunks_mut(width));
            let losses = rows.map(|((logits, targets), slopes)| {
                (self.row)(logits, targets, share, Some(slopes))
            });
            (losses.collect(), Some(tensor(slopes, shape)))
        } else {
            let losses = rows.map(|(logits, targets)| (self.row)(logits, targets, share, None));
            (losses.collect(), None)
        };
        // In the order of the rows, whichever thread computed them.
        let loss = losses.iter().sum::<f64>() * share;
        (tensor(vec![loss as f32], [1]), slopes)
    }

    fn backward(
        &self,
        slopes: Option<FlexTensor>,
        gradient: FlexTensor,
        _: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let factor = values(&gradient)[0];
        let scaled = slopes.map(|slopes| {
            let scaled = values(&slopes).iter().map(|slope| slope * factor);
            tensor(scaled.collect(), slopes.shape())
        });
        [scaled, None]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::level;

    /// Half of the sum of squared differences, and its gradient.
    fn squares(logits: &[f32], targets: &[f32], share: f64, slopes: Option<&mut [f32]>) -> f64 {
        let differences = logits.iter().zip(targets).map(|(a, b)| a - b);
        for (slope, difference) in slopes.into_iter().flatten().zip(differences.clone()) {
            *slope = difference * share as f32;
        }
        differences.map(|d| 0.5 * f64::from(d * d)).sum()
    }

    /// In training the logits are tracked, and the targets are no part of their graph.
    #[test]
    fn the_kernel_runs_whatever_graph_logits_and_targets_are_in() {
        let loss = RowLoss {
            row: squares,
            over_logits: false,
            composed: |_, _| panic!("the kernel did not run"),
        };
        let plain = Device::flex();
        let graph = plain.clone().autodiff();
        let checkpointing = graph.clone().gradient_checkpointing();
        let devices = [&plain, &graph, &checkpointing];
        for of_logits in devices
            .into_iter()
            .filter(|_| level::current().has_kernels())
        {
            for of_targets in devices {
                let logits = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], of_logits);
                let targets = Tensor::<2>::from_data([[0.0, 2.0], [1.0, 1.0]], of_targets);
                let tracked = of_logits != &plain;
                let logits = if tracked {
                    logits.require_grad()
                } else {
                    logits
                };
                let value = loss.of(logits.clone(), targets);
                assert_eq!(value.clone().into_scalar::<f32>(), 3.5);
                if tracked {
                    let gradient = logits.grad(&value.backward()).unwrap();
                    let gradient: Vec<f32> = gradient.into_data().iter().collect();
                    assert_eq!(gradient, [0.5, 0.0, 1.0, 1.5]);
                }
            }
        }
    }
}
