//! What adapters do at boundaries and sites, as data.

use burn::tensor::Tensor;

use crate::activation::Activation;
use crate::low_rank::LowRank;
use crate::step::Draws;

/// What an adapter does to the activation at a boundary.
#[allow(
    clippy::large_enum_variant,
    reason = "made once a boundary, never stored"
)]
pub enum BoundaryAct<'a> {
    /// `z + delta`, the delta with batch 1, broadcast over the batch (and over positions, if it has
    /// one only). Touches the image's own tokens.
    Add(Activation),
    /// `z * factor`, feature by feature, with the factor as the delta of [`BoundaryAct::Add`].
    Multiply(Activation),
    /// Extra tokens behind the image's own.
    Extras(Extras),
    /// Anything else.
    Function(BoundaryFunction<'a>),
}

/// A function of the activation at a boundary.
pub type BoundaryFunction<'a> = Box<dyn Fn(Activation, &Draws) -> Activation + 'a>;
/// A function of a branch: its new output.
pub type BranchFunction<'a> = Box<dyn Fn(BranchValues, &Draws) -> Activation + 'a>;

/// Extra tokens that join the sequence: prompts.
pub struct Extras {
    /// `[p, d]`.
    pub tokens: Tensor<2>,
    /// Probability of dropping an entry while training, drawn for each image.
    pub dropout: f64,
    /// Whether they take the place of what the same adapter put there before.
    pub replace: bool,
}

/// What an adapter does at a site.
#[allow(clippy::large_enum_variant, reason = "made once a site, never stored")]
pub enum SiteAct<'a> {
    /// `y + scale * B A dropout(x)` beside a linear layer or a convolution.
    LowRank(LowRank),
    /// `scale * v + shift` per channel on the site's input or output.
    ScaleShift {
        /// On what.
        on: Side,
        /// Factor of each channel `[c]`; 1 if absent.
        scale: Option<Tensor<1>>,
        /// Offset of each channel `[c]`; 0 if absent.
        shift: Option<Tensor<1>>,
    },
    /// A function of a branch, before LayerScale and the sum.
    Branch(BranchFunction<'a>),
}

/// The input or the output of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the site reads.
    Input,
    /// What the site writes.
    Output,
}

/// What a branch site hands over.
#[derive(Clone, Debug)]
pub struct BranchValues {
    /// The stream before the norm, of the output's shape.
    pub residual: Activation,
    /// The stream after the norm; the residual itself where there is none.
    pub normed: Activation,
    /// The branch's output before LayerScale, drop path and the sum.
    pub output: Activation,
}
