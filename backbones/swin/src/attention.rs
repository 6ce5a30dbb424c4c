//! Self-attention inside windows, with a bias for each relative position.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use peft_core::hooks::{Hooks, like};
use peft_core::layers::Linear;
use peft_core::site::Site;
use peft_ops::attention_with_bias;

use crate::windows::Windows;

#[derive(Module, Debug)]
pub(crate) struct WindowAttention {
    pub qkv: Linear,
    pub proj: Linear,
    /// `[(2 size - 1)^2, heads]`.
    pub relative_position_bias_table: Param<Tensor<2>>,
    // Not parameters: Burn moves plain tensors with the module and does nothing else with them.
    pub index: Tensor<1, Int>,
    pub mask: Option<Tensor<3>>,
    pub heads: usize,
    #[module(skip)]
    pub windows: Windows,
    #[module(skip)]
    pub site: Site,
}

impl WindowAttention {
    /// Padding comes before the projections, so that a padded position has their biases for its
    /// key and value, as in timm.
    ///
    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]`.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let qkv = self.qkv.forward(self.windows.cut(x), hooks); // [b * windows, n, 3c]
        let bias = self.bias(&qkv); // [windows or 1, heads, n, n]
        let y = self.proj.forward(attention_with_bias(qkv, bias), hooks);
        self.windows.join(y)
    }

    /// Relative position bias and mask, in the element type of `x`.
    ///
    /// # Shapes
    /// `[windows, heads, n, n]`, or `[1, heads, n, n]` where all windows have the same.
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
