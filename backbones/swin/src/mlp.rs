//! The MLP of a block.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::hooks::Hooks;
use peft_core::layers::Linear;
use peft_core::site::Site;
use peft_ops::Gelu;

/// Two linear layers with GELU between them.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    pub fc1: Linear,
    pub fc2: Linear,
    #[module(skip)]
    pub site: Site,
}

impl Mlp {
    /// The MLP's output, added to `residual` if there is one.
    ///
    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]`.
    pub fn forward(&self, residual: Option<Tensor<4>>, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let (last, gelu) = (&self.fc2, Gelu::Exact);
        self.fc1.forward_mlp(last, residual, x, gelu, hooks)
    }
}
