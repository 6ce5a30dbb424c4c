//! Global self-attention.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::hooks::Hooks;
use peft_core::layers::Linear;
use peft_core::site::Site;
use peft_ops::{attention, attention_weights};

/// Softmax attention between all tokens, with heads of `d / heads` contiguous channels.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    /// Queries, keys and values in one product.
    pub qkv: Linear,
    pub proj: Linear,
    pub heads: usize,
    #[module(skip)]
    pub site: Site,
}

impl Attention {
    /// The mixed values, before the last projection: the caller may fuse that one with the sum.
    ///
    /// # Shapes
    /// `[b, n, d] -> [b, n, d]`.
    pub fn mixed(&self, x: Tensor<3>, hooks: &Hooks) -> Tensor<3> {
        let qkv = self.qkv.forward(x, hooks); // [b, n, 3d]
        hooks.attended(&self.site, || {
            attention_weights(qkv.clone(), self.heads, None)
        });
        attention(qkv, self.heads)
    }
}
