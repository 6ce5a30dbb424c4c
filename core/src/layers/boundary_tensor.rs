//! A trained tensor of a boundary's shape: the parameter of prompts.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::activation::{Activation, BoundaryShape};
use crate::init::Init;
use crate::random::Distribution;

/// `[n, d]` on tokens, `[c, h, w]` on maps, `[h, w, c]` on grids; with one position it is shared by
/// all of them.
#[derive(Module, Debug)]
pub enum BoundaryTensor {
    /// `[n, d]`.
    Tokens(Param<Tensor<2>>),
    /// `[c, h, w]`.
    Map(Param<Tensor<3>>),
    /// `[h, w, c]`.
    Grid(Param<Tensor<3>>),
}

impl BoundaryTensor {
    /// Initial values for the parameter called `name`.
    ///
    /// # Panics
    /// If the shape is that of features: no boundary has them.
    pub fn new(name: &str, shape: BoundaryShape, values: Distribution, init: &Init) -> Self {
        match (shape, &shape.dims()[..]) {
            (BoundaryShape::Tokens { .. }, &[n, d]) => {
                Self::Tokens(init.param(name, [n, d], values))
            }
            (BoundaryShape::Map { .. }, &[c, h, w]) => {
                Self::Map(init.param(name, [c, h, w], values))
            }
            (BoundaryShape::Grid { .. }, &[h, w, c]) => {
                Self::Grid(init.param(name, [h, w, c], values))
            }
            _ => panic!("no boundary has {shape}"),
        }
    }

    /// As an activation with a batch of one.
    pub fn value(&self) -> Activation {
        match self {
            Self::Tokens(x) => Activation::Tokens(x.val().unsqueeze::<3>().into()),
            Self::Map(x) => Activation::Map(x.val().unsqueeze()),
            Self::Grid(x) => Activation::Grid(x.val().unsqueeze()),
        }
    }
}
