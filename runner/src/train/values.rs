//! The values of some parameters, taken out of a model.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use peft_core::Model;

/// The values, without autodiff, of the parameters that are wanted, in a container that holds tensors of any number of
/// axes by identity.
pub fn values(model: &Model, wanted: impl Fn(ParamId) -> bool) -> GradientsParams {
    let mut collected = Values {
        wanted,
        values: GradientsParams::new(),
    };
    model.visit(&mut collected);
    collected.values
}

struct Values<F> {
    wanted: F,
    values: GradientsParams,
}

impl<F: Fn(ParamId) -> bool> ModuleVisitor for Values<F> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if (self.wanted)(param.id) {
            self.values
                .register(param.id, param.val().without_autodiff());
        }
    }
}
