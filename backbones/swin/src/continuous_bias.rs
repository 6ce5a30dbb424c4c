//! Position biases of the second version: a small network of the offset between two positions.
//!
//! Reference: "Swin Transformer V2: Scaling Up Capacity and Resolution", Liu et al., 2022, Sec. 3.3. The
//! bias of an offset is `16 sigmoid(mlp(t))`; `t` is `sign(u) log2(1 + |u|) / 3` of `u`, the rows and
//! columns of the offset over the largest that pretraining saw, times 8.

use burn::module::{Module, Param};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor, TensorData};
use peft_core::backbone::Init;
use peft_core::hooks::like;
use peft_core::random::Distribution;
use peft_ops::{linear, relu};

/// Width of the hidden layer.
const HIDDEN: usize = 512;

/// A linear layer, ReLU and a linear layer without bias, numbered as in torch's `Sequential`.
pub(crate) type ContinuousBias = Vec<Part>;

/// A part of the network.
#[derive(Module, Debug)]
pub(crate) enum Part {
    Layer(Layer),
    Relu(Relu),
}

/// `max(x, 0)`.
#[derive(Module, Debug)]
pub(crate) struct Relu;

/// A linear layer. It is not a site: nothing but its own values depends on the image.
#[derive(Module, Debug)]
pub(crate) struct Layer {
    /// `[out, in]`.
    weight: Param<Tensor<2>>,
    /// `[out]`.
    bias: Option<Param<Tensor<1>>>,
}

/// A new network called `name` for that many heads.
pub(crate) fn new(name: &str, heads: usize, init: &Init) -> ContinuousBias {
    let layer = |number: usize, [inputs, outputs]: [usize; 2], bias: bool| {
        let at = |part: &str| format!("{name}.{number}.{part}");
        let normal = Distribution::TruncatedNormal(0.02);
        Part::Layer(Layer {
            weight: init.param(&at("weight"), [outputs, inputs], normal),
            bias: bias.then(|| init.param(&at("bias"), [outputs], Distribution::Zeros)),
        })
    };
    vec![
        layer(0, [2, HIDDEN], true),
        Part::Relu(Relu),
        layer(2, [HIDDEN, heads], false),
    ]
}

/// The bias of each offset and head.
///
/// # Shapes
/// `[offsets, 2] -> [offsets, heads]`.
pub(crate) fn biases(network: &ContinuousBias, offsets: Tensor<2>) -> Tensor<2> {
    let output = network.iter().fold(offsets, |x, part| match part {
        Part::Layer(Layer { weight, bias }) => {
            // Offsets and what is computed from them stay in f32, also where other layers are narrower.
            let (weight, bias) = (like(weight.val(), &x), bias.as_ref());
            let bias = bias.map(|bias| like(bias.val(), &x));
            linear(x, weight, bias)
        }
        Part::Relu(_) => relu(x),
    });
    sigmoid(output) * 16.0
}

/// The offsets in a window of these rows and columns, as the network reads them; `pretrained` are the rows
/// and columns of pretraining's window, 0 for the window itself.
///
/// # Shapes
/// `[(2 rows - 1)(2 columns - 1), 2]`.
pub(crate) fn offsets(
    [rows, columns]: [usize; 2],
    pretrained: usize,
    device: &Device,
) -> Tensor<2> {
    let axis = |side: usize| {
        let window = if pretrained > 0 { pretrained } else { side };
        // A window of one row has the offset 0 alone.
        let largest = window.saturating_sub(1).max(1) as f32;
        (1 - side as i64..side as i64).map(move |offset| {
            let scaled = offset as f32 / largest * 8.0;
            scaled.signum() * (scaled.abs() + 1.0).log2() / 3.0
        })
    };
    let values: Vec<f32> = axis(rows)
        .flat_map(|down| axis(columns).flat_map(move |along| [down, along]))
        .collect();
    let count = values.len() / 2;
    Tensor::from_data(TensorData::new(values, [count, 2]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_logarithms_of_their_part_of_the_pretrained_window() {
        let values = |window, pretrained| -> Vec<f32> {
            let offsets = offsets(window, pretrained, &Device::flex());
            offsets.into_data().try_to_vec().unwrap()
        };
        // 8 becomes log2(9) / 3, 4 becomes log2(5) / 3.
        let (whole, half) = (9.0_f32.log2() / 3.0, 5.0_f32.log2() / 3.0);
        assert_eq!(values([1, 2], 3), [0.0, -half, 0.0, 0.0, 0.0, half]);
        assert_eq!(values([2, 1], 0), [-whole, 0.0, 0.0, 0.0, whole, 0.0]);
        assert_eq!(values([1, 1], 0), [0.0, 0.0]);
    }
}
