//! A trained tensor with the shape of a boundary: the parameter of prompts.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::activation::{Activation, BoundaryShape};
use crate::init::Init;
use crate::random::Distribution;

/// A tensor `[n, d]` for tokens, `[c, h, w]` for maps or `[h, w, c]` for grids. With a single position
/// it is shared by all positions.
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
    /// A new parameter called `name` with these initial values.
    ///
    /// # Panics
    /// If the shape is that of features, which no boundary has.
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

    /// The value as an activation with a batch of 1.
    ///
    /// # Shapes
    /// `-> [1, n, d]`, `[1, c, h, w]` or `[1, h, w, c]`.
    pub fn value(&self) -> Activation {
        match self {
            Self::Tokens(x) => Activation::Tokens(x.val().unsqueeze::<3>().into()),
            Self::Map(x) => Activation::Map(x.val().unsqueeze()),
            Self::Grid(x) => Activation::Grid(x.val().unsqueeze()),
        }
    }
}
