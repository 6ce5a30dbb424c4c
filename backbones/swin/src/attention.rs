//! Self-attention inside windows, with a bias for each relative position.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use peft_core::hooks::{Hooks, like};
use peft_core::layers::Linear;
use peft_core::random::Distribution;
use peft_core::site::{Branch, Site, SiteKind};
use peft_ops::{attention_weights, attention_with_bias};

use crate::architecture::StageSizes;
use crate::place::Place;
use crate::windows::Windows;

/// Softmax attention inside each window, with heads of `c / heads` contiguous channels.
#[derive(Module, Debug)]
pub(crate) struct WindowAttention {
    /// Queries, keys and values in one product.
    pub qkv: Linear,
    pub proj: Linear,
    /// A bias for each relative position and head, `[(2 size - 1)^2, heads]`.
    relative_position_bias_table: Param<Tensor<2>>,
    // Constants, not parameters: Burn moves plain tensors with the module and does nothing else with
    // them.
    index: Tensor<1, Int>,
    mask: Option<Tensor<3>>,
    heads: usize,
    #[module(skip)]
    pub windows: Windows,
    #[module(skip)]
    pub site: Site,
}

impl WindowAttention {
    /// Attention inside `windows`, with initial values for its layers.
    pub fn new(place: &Place, sizes: &StageSizes, windows: Windows) -> Self {
        let (init, d, heads) = (place.init, sizes.width, sizes.heads);
        let kind = SiteKind::Linear {
            inputs: d,
            outputs: 3 * d,
        };
        let qkv = place.site("attn.qkv", kind);
        let qkv = qkv.with_slices(&["query", "key", "value"], d);
        let table = format!("{}.attn.relative_position_bias_table", place.name);
        let normal = Distribution::TruncatedNormal(0.02);
        Self {
            qkv: Linear::new(qkv, sizes.qkv_bias, init),
            proj: place.linear("attn.proj", [d, d], true),
            relative_position_bias_table: init.param(&table, [windows.offsets(), heads], normal),
            index: windows.index(init.device()),
            mask: windows.mask(init.device()),
            heads,
            windows,
            site: place.branch("attn", Branch::Attention, d),
        }
    }

    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]`.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        // The windows are padded before the projections, as in timm: keys and values of a padded
        // position are the projections' biases.
        let qkv = self.qkv.forward(self.windows.cut(x), hooks); // [b * windows, n, 3c]
        let bias = self.bias(&qkv); // [windows or 1, heads, n, n]
        hooks.attended(&self.site, || {
            attention_weights(qkv.clone(), self.heads, Some(bias.clone()))
        });
        let y = self.proj.forward(attention_with_bias(qkv, bias), hooks);
        self.windows.join(y)
    }

    /// Relative position biases with the mask added, in the element type of `x`.
    ///
    /// # Shapes
    /// `[windows, heads, n, n]`, or `[1, heads, n, n]` where no mask tells windows apart.
    fn bias(&self, x: &Tensor<3>) -> Tensor<4> {
        let n = x.dims()[1];
        let table = like(self.relative_position_bias_table.val(), x);
        let bias = table
            .select(0, self.index.clone()) // [n * n, heads]
            .reshape([n, n, self.heads])
            .permute([2, 0, 1])
            .unsqueeze::<4>();
        match &self.mask {
            Some(mask) => bias + like(mask.clone(), x).unsqueeze_dim::<4>(1),
            None => bias,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use peft_core::attention::AttentionRecord;
    use peft_core::backbone::Init;
    use peft_core::params::floats;

    use super::*;

    /// In windows of every kind: plain, shifted with a mask, padded, and one for the whole grid.
    #[test]
    fn recorded_weights_reproduce_what_the_fused_attention_puts_out() {
        let device = Device::flex();
        let init = Init::seeded(&device, 5);
        for (grid, window, shifted) in [(8, 4, false), (8, 4, true), (7, 3, true), (3, 7, true)] {
            let place = Place {
                name: "layers.0.blocks.0".to_owned(),
                block: 1,
                init: &init,
                epsilon: 1e-5,
            };
            let sizes = StageSizes {
                width: 12,
                hidden: 24,
                heads: 3,
                grid,
                window,
                qkv_bias: true,
            };
            let windows = Windows::new(grid, window, shifted);
            let attention = WindowAttention::new(&place, &sizes, windows);
            let values: Vec<f32> = (0..2 * grid * grid * 12)
                .map(|i| (i as f32 * 0.71).sin())
                .collect();
            let x = Tensor::from_data(TensorData::new(values, [2, grid, grid, 12]), &device);
            let record = AttentionRecord::default();
            let fused = attention.forward(x.clone(), &Hooks::none().recording(&record));
            let plain = attention.forward(x, &Hooks::none());
            assert_eq!(
                fused.to_data(),
                plain.into_data(),
                "recording changes nothing"
            );
            let attended = record.take().remove(0);
            let own = attention.proj.forward(attended.mixed(), &Hooks::none());
            let own = floats(windows.join(own).into_data());
            for (own, fused) in own.into_iter().zip(floats(fused.into_data())) {
                assert!((own - fused).abs() < 1e-5, "{windows:?}: {own} {fused}");
            }
        }
    }
}
