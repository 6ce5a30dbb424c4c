//! The acts of adapters at boundaries and sites, as data.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::activation::Activation;
use crate::low_rank::LowRank;
use crate::named::BySite;
use crate::site::Site;
use crate::step::Draws;
use crate::weight::{WeightAct, WeightFunction};

/// The act of an adapter on the activation at a boundary.
#[allow(
    clippy::large_enum_variant,
    reason = "made once per boundary, never stored"
)]
pub enum BoundaryAct<'a> {
    /// `z + delta`, where the delta has a batch of 1 and is broadcast over the batch, and over the
    /// positions if it has only one. Touches only the image's own tokens.
    Add(Activation),
    /// `z * factor`, element by element; the factor is broadcast like the delta of
    /// [`BoundaryAct::Add`].
    Multiply(Activation),
    /// Extra tokens appended to the image's own.
    Extras(Extras),
    /// Any other function of the activation.
    Function(BoundaryFunction<'a>),
}

/// A function of the activation at a boundary, with the random numbers of the step.
pub type BoundaryFunction<'a> = Box<dyn Fn(Activation, &Draws) -> Activation + 'a>;
/// A function that returns the new output of a branch, with the random numbers of the step.
pub type BranchFunction<'a> = Box<dyn Fn(BranchValues, &Draws) -> Activation + 'a>;

/// Extra tokens that join the sequence: prompts.
pub struct Extras {
    /// `[p, d]`.
    pub tokens: Tensor<2>,
    /// Probability of dropping an entry while training, drawn separately for each image.
    pub dropout: f64,
    /// Whether they replace the tokens that the same adapter appended earlier.
    pub replace: bool,
}

/// The act of an adapter at a site.
#[allow(
    clippy::large_enum_variant,
    reason = "made once per site, never stored"
)]
pub enum SiteAct<'a> {
    /// `y + scale * B A dropout(x)` beside a linear layer or a convolution.
    LowRank(LowRank),
    /// `x + scale * B A dropout(x)` in place of what a linear layer reads.
    InputLowRank(LowRank),
    /// `scale * v + shift` per channel on the site's input or output.
    ScaleShift {
        /// The side of the layer on which the act happens: its input or its output.
        on: Side,
        /// Factor of each channel `[c]`; 1 if absent.
        scale: Option<Tensor<1>>,
        /// Offset of each channel `[c]`; 0 if absent.
        shift: Option<Tensor<1>>,
    },
    /// The weight of a linear layer or a convolution is replaced by a function of it. Such an act comes
    /// before every other one on the layer's output.
    Weight(WeightAct<'a>),
    /// A function of a branch, before LayerScale and the sum.
    Branch(BranchFunction<'a>),
}

impl<'a> SiteAct<'a> {
    /// The functions of the weight at a site, of a method that keeps the parameters `M` of each in a
    /// container by site or slice.
    pub fn weights<M>(
        modules: &'a BySite<M>,
        site: &Site,
        function: impl Fn(&M, Tensor<2>) -> Tensor<2> + Copy + 'a,
    ) -> Vec<Self> {
        let act = |(name, rows): (&str, Option<Range<usize>>)| {
            let module = modules.get(name)?;
            let function: WeightFunction<'a> = Box::new(move |weight| function(module, weight));
            Some(Self::Weight(WeightAct { rows, function }))
        };
        site.parts().filter_map(act).collect()
    }
}

/// The input or the output of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The value that the site reads.
    Input,
    /// The value that the site writes.
    Output,
}

/// The values of a branch that an act can read.
#[derive(Clone, Debug)]
pub struct BranchValues {
    /// The stream before the norm, of the output's shape.
    pub residual: Activation,
    /// The stream after the norm; the residual itself where there is no norm.
    pub normed: Activation,
    /// The branch's output before LayerScale, drop path and the sum.
    pub output: Activation,
}
