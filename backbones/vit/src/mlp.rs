//! The MLP of a block.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::hooks::Hooks;
use peft_core::layers::Linear;
use peft_core::site::Site;
use peft_ops::Gelu;

use crate::architecture::MlpActivation;

/// Two linear layers with an activation between them.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    pub fc1: Linear,
    pub fc2: Linear,
    #[module(skip)]
    pub act_layer: MlpActivation,
    #[module(skip)]
    pub site: Site,
}

impl Mlp {
    /// The MLP's output, added to `residual` if there is one.
    ///
    /// # Shapes
    /// `[b, n, d] -> [b, n, d]`.
    pub fn forward(&self, residual: Option<Tensor<3>>, x: Tensor<3>, hooks: &Hooks) -> Tensor<3> {
        let gelu = match self.act_layer {
            MlpActivation::Gelu => Gelu::Exact,
            MlpActivation::QuickGelu => Gelu::Quick,
        };
        let hidden = self.fc1.forward(x, hooks); // [b, n, hidden]
        self.fc2.forward_gelu(residual, hidden, gelu, hooks)
    }
}
