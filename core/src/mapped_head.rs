//! The frozen head of a checkpoint with a label map: source classes stand for target classes.
//!
//! Reference: visual prompting in its original sense ("Adversarial Reprogramming of Neural Networks", Elsayed et al., 2019;
//! "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", Chen et al., 2023). No head trains: the
//! logit of target class `t` is the mean of the logits of the source classes that stand for it.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::checkpoint::CheckpointHead;
use crate::layers::{linear, wide};
use crate::named::Buffer;
use crate::params::floats;

/// The name of the label map among parameters and buffers.
pub const MAPPING: &str = "head.mapping";

/// `logits_t = mean over s in m(t) of (features W^T + b)_s`.
#[derive(Module, Debug)]
pub struct MappedHead {
    /// `[sources, features]`, frozen.
    pub weight: Param<Tensor<2>>,
    /// `[sources]`, frozen.
    pub bias: Param<Tensor<1>>,
    /// The source classes of each target, `[targets, k]`. A buffer, so that it is saved with what trains.
    mapping: Buffer<2>,
}

impl MappedHead {
    /// The head of a checkpoint with the map `mapping`: for each target class the source classes that stand
    /// for it, as many for each.
    pub fn new(head: CheckpointHead, mapping: &[Vec<usize>], device: &Device) -> Self {
        Self {
            weight: Param::from_data(head.weight, device),
            bias: Param::from_data(head.bias, device),
            mapping: Buffer::new(Tensor::from_data(mapping_data(mapping), device)),
        }
    }

    /// The number of target classes.
    pub fn classes(&self) -> usize {
        self.mapping.val().dims()[0]
    }

    /// The source classes of each target class.
    pub fn mapping(&self) -> Vec<Vec<usize>> {
        let mapping = self.mapping.val();
        let [_, each] = mapping.dims();
        let values = floats(mapping.into_data());
        let rows = values.chunks_exact(each);
        rows.map(|row| row.iter().map(|source| *source as usize).collect())
            .collect()
    }

    /// The logits of the checkpoint's own classes, in f32.
    ///
    /// # Shapes
    /// `[b, features] -> [b, sources]`.
    pub fn sources(&self, features: Tensor<2>) -> Tensor<2> {
        linear(wide(features), self.weight.val(), Some(self.bias.val()))
    }

    /// The logits of the target classes, in f32.
    ///
    /// # Shapes
    /// `[b, features] -> [b, targets]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        let mapping = self.mapping.val();
        let [targets, each] = mapping.dims();
        let rows = mapping.int().flatten::<1>(0, 1); // [targets * k]
        let width = self.weight.dims()[1];
        // The rows are chosen before the product, so that only the logits that are wanted are computed.
        let weight = self.weight.val().select(0, rows.clone());
        let bias = self.bias.val().select(0, rows);
        let weight = weight.reshape([targets, each, width]).mean_dim(1);
        let bias = bias.reshape([targets, each]).mean_dim(1);
        let (weight, bias) = (weight.reshape([targets, width]), bias.reshape([targets]));
        linear(wide(features), weight, Some(bias))
    }
}

/// A label map as a tensor `[targets, k]`.
pub fn mapping_data(mapping: &[Vec<usize>]) -> TensorData {
    let each = mapping.first().map_or(0, Vec::len);
    let values: Vec<f32> = mapping
        .iter()
        .flatten()
        .map(|&source| source as f32)
        .collect();
    TensorData::new(values, [mapping.len(), each])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(mapping: &[Vec<usize>]) -> MappedHead {
        let head = CheckpointHead {
            weight: TensorData::new(vec![1.0f32, 0.0, 0.0, 1.0, 2.0, 2.0], [3, 2]),
            bias: TensorData::new(vec![0.5f32, 0.0, -1.0], [3]),
        };
        MappedHead::new(head, mapping, &Device::flex())
    }

    fn logits(mapping: &[Vec<usize>]) -> Vec<f32> {
        let features = Tensor::from_data([[3.0f32, 5.0]], &Device::flex());
        floats(head(mapping).forward(features).into_data())
    }

    #[test]
    fn logits_are_those_of_the_sources_that_stand_for_a_target() {
        // The sources have 3.5, 5 and 15.
        assert_eq!(logits(&[vec![2], vec![0]]), [15.0, 3.5]);
        assert_eq!(logits(&[vec![0, 1]]), [4.25]);
        let mapping = [vec![2, 1], vec![0, 1]];
        assert_eq!(head(&mapping).mapping(), mapping);
        assert_eq!(head(&mapping).classes(), 2);
    }
}
