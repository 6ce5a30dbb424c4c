//! Self-attention inside windows, with a bias for each relative position.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use peft_core::hooks::{Hooks, like};
use peft_core::layers::Linear;
use peft_core::random::Distribution;
use peft_core::site::{Branch, Site, SiteKind};
use peft_ops::attention_with_bias;

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
