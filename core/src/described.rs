//! Acts as data: what an adapter does, in terms of its own parameters by name.
//!
//! [`BoundaryAct`](crate::acts::BoundaryAct) and [`SiteAct`](crate::acts::SiteAct) hold tensors, so that this program
//! can apply them. The types here hold formulas over names instead, so that another program can: each kind of act and
//! each operation is one case there, whatever the number of methods.

use std::ops::Range;

use serde::Serialize;

use crate::site::{Site, SiteKind};

/// A tensor as a formula over the parameters of an adapter. Operations broadcast as in PyTorch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Formula {
    /// A parameter or a buffer. A method gives its name inside the adapter, a [`Description`](crate::description::Description)
    /// its canonical name.
    Parameter {
        /// Its name.
        name: String,
    },
    /// The weight of the layer at which the act is, a kernel flattened to `[out, in / groups * kh * kw]`; with `rows`
    /// of the act, only those.
    Weight,
    /// A tensor of one value.
    Full {
        /// The shape.
        shape: Vec<usize>,
        /// The value of all entries.
        value: f64,
    },
    /// The sum of all.
    Sum {
        /// The terms.
        of: Vec<Formula>,
    },
    /// The product of all, entry by entry.
    Multiply {
        /// The factors.
        of: Vec<Formula>,
    },
    /// The matrix product of all, from left to right.
    Matmul {
        /// The factors.
        of: Vec<Formula>,
    },
    /// The Kronecker product of two matrices.
    Kronecker {
        /// The factors.
        of: Vec<Formula>,
    },
    /// A value times a number.
    Scaled {
        /// The number.
        by: f64,
        /// The value.
        of: Box<Formula>,
    },
    /// The same entries in another shape.
    Reshape {
        /// The new shape.
        shape: Vec<usize>,
        /// The value.
        of: Box<Formula>,
    },
    /// The same entries with their axes in another order.
    Permute {
        /// The old axis at each place.
        axes: Vec<usize>,
        /// The value.
        of: Box<Formula>,
    },
    /// Entries `start..start + count` of an axis.
    Narrow {
        /// The axis.
        axis: usize,
        /// The first entry.
        start: usize,
        /// The number of entries.
        count: usize,
        /// The value.
        of: Box<Formula>,
    },
    /// The values one after the other along an axis.
    Cat {
        /// The axis.
        axis: usize,
        /// The values.
        of: Vec<Formula>,
    },
    /// The block-diagonal matrix of `[n, a, b]`.
    BlockDiagonal {
        /// The blocks.
        of: Box<Formula>,
    },
    /// Cayley's rotations `(I - Q) (I + Q)^-1`, `[n, b, b]`, of skew-symmetric `Q` whose entries above the diagonal are
    /// the rows of a matrix `[n, b (b - 1) / 2]`.
    Cayley {
        /// Rows and columns `b` of a block.
        size: usize,
        /// The number of terms of the series that HF PEFT takes in place of the inverse; none for the inverse.
        terms: Option<usize>,
        /// The entries.
        of: Box<Formula>,
    },
    /// The real part of `sum_k c_k exp(2 pi i (u_k y / rows + v_k x / columns))`, where the places `u columns + v` are
    /// the first of PyTorch's `randperm(rows * columns)` with this seed.
    Waves {
        /// Rows and columns.
        shape: [usize; 2],
        /// The seed of the permutation.
        seed: u64,
        /// The coefficients `c [n]`.
        of: Box<Formula>,
    },
}

impl Formula {
    /// The parameter of this name.
    pub fn parameter(name: impl Into<String>) -> Self {
        Self::Parameter { name: name.into() }
    }

    /// A tensor of zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        let (shape, value) = (shape.into(), 0.0);
        Self::Full { shape, value }
    }

    /// The value times a number.
    pub fn scaled(self, by: f64) -> Self {
        match by {
            1.0 => self,
            by => Self::Scaled {
                by,
                of: Box::new(self),
            },
        }
    }

    /// The sum of this value and another one.
    pub fn plus(self, other: Self) -> Self {
        let of = vec![self, other];
        Self::Sum { of }
    }

    /// The matrix product of this value and another one.
    pub fn matmul(self, other: Self) -> Self {
        let of = vec![self, other];
        Self::Matmul { of }
    }

    /// The same entries in another shape.
    pub fn reshaped(self, shape: impl Into<Vec<usize>>) -> Self {
        let (shape, of) = (shape.into(), Box::new(self));
        Self::Reshape { shape, of }
    }

    /// The same entries with their axes in another order.
    pub fn permuted(self, axes: impl Into<Vec<usize>>) -> Self {
        let (axes, of) = (axes.into(), Box::new(self));
        Self::Permute { axes, of }
    }

    /// The first `count` entries of an axis.
    pub fn first(self, axis: usize, count: usize) -> Self {
        Self::Narrow {
            axis,
            start: 0,
            count,
            of: Box::new(self),
        }
    }

    /// The values one after the other along an axis.
    pub fn cat(axis: usize, of: impl Into<Vec<Self>>) -> Self {
        let of = of.into();
        Self::Cat { axis, of }
    }

    /// Calls `visit` with the name of every parameter.
    pub(crate) fn names(&mut self, visit: &mut dyn FnMut(&mut String)) {
        match self {
            Self::Parameter { name } => visit(name),
            Self::Weight | Self::Full { .. } => {}
            Self::Sum { of }
            | Self::Multiply { of }
            | Self::Matmul { of }
            | Self::Kronecker { of }
            | Self::Cat { of, .. } => of.iter_mut().for_each(|value| value.names(visit)),
            Self::Scaled { of, .. }
            | Self::Reshape { of, .. }
            | Self::Permute { of, .. }
            | Self::Narrow { of, .. }
            | Self::BlockDiagonal { of }
            | Self::Cayley { of, .. }
            | Self::Waves { of, .. } => of.names(visit),
        }
    }
}

/// [`BoundaryAct`](crate::acts::BoundaryAct) as data. Values have the shape of one image's activation, or one position.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum DescribedBoundary {
    /// `z + value` on the image's own tokens.
    Add {
        /// The delta.
        value: Formula,
    },
    /// `z * value` on the image's own tokens.
    Multiply {
        /// The factor.
        value: Formula,
    },
    /// Extra tokens after the image's own.
    Extras {
        /// `[p, d]`.
        tokens: Formula,
        /// Whether they replace the tokens that the same adapter appended earlier.
        replace: bool,
    },
    /// A frame around the normalised image, whose pixels are normalised as the image's are.
    Frame {
        /// `[3, rows, columns]` of the strips above, below, left and right of the image; the first two have the width
        /// of the result.
        strips: Box<[Formula; 4]>,
        /// Whether a pixel is `1 / (1 + exp(-v))` of the value `v`, not the value itself.
        sigmoid: bool,
        /// The mean of each channel.
        mean: [f32; 3],
        /// The standard deviation of each channel.
        std: [f32; 3],
    },
}

/// [`SiteAct`](crate::acts::SiteAct) as data.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum DescribedSite {
    /// `y + scale * B A x` beside a linear layer or a convolution, in the layer's stride, padding and groups.
    LowRank {
        /// `A`, as a matrix or a kernel.
        a: Formula,
        /// `B`, as a matrix or a kernel of one tap.
        b: Formula,
        /// Factor of the product.
        scale: f64,
        /// The rows of the output to which it adds; all if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        rows: Option<Range<usize>>,
        /// DoRA's magnitude `m [rows]`: the rows of `W + scale B A` are divided by their norms and multiplied by it.
        #[serde(skip_serializing_if = "Option::is_none")]
        magnitude: Option<Formula>,
    },
    /// `x + scale * B A x` in place of what a linear layer reads.
    InputLowRank {
        /// `A [r, in]`.
        a: Formula,
        /// `B [in, r]`.
        b: Formula,
        /// Factor of the product.
        scale: f64,
    },
    /// `scale * v + shift` per channel.
    ScaleShift {
        /// The side of the layer.
        on: DescribedSide,
        /// Factor `[c]`; 1 if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        scale: Option<Formula>,
        /// Offset `[c]`; 0 if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        shift: Option<Formula>,
    },
    /// Another weight in place of the layer's own.
    Weight {
        /// The new weight, or those rows of it.
        value: Formula,
        /// The rows that it replaces; all if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        rows: Option<Range<usize>>,
    },
    /// `h + scale * layers(v)` in place of the output `h` of a branch, before LayerScale and the sum.
    Branch {
        /// The input of the first layer.
        reads: Reads,
        /// The layers, each of which acts at every position unless it says otherwise.
        layers: Vec<DescribedLayer>,
        /// Factor of the sum.
        scale: f64,
    },
}

/// The side of a layer on which a scale and a shift act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DescribedSide {
    /// The input of the layer.
    Input,
    /// The output of the layer.
    Output,
}

/// The value that the layers at a branch read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// The residual stream before the norm.
    Residual,
    /// The branch's input, after the norm.
    Normed,
    /// The branch's output.
    Output,
}

/// A layer beside a branch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "layer", rename_all = "snake_case")]
pub enum DescribedLayer {
    /// `W x + b` over the channels.
    Dense {
        /// `[out, in]`.
        weight: Formula,
        /// `[out]`.
        bias: Formula,
    },
    /// A function of each entry.
    Nonlinearity {
        /// The function.
        function: Function,
    },
    /// A convolution of 3 x 3 over the positions, with zeros around them.
    Conv {
        /// `[out, in, 3, 3]`.
        weight: Formula,
        /// `[out]`.
        bias: Formula,
        /// Where activations are tokens: the number of tokens before those of the patches, and the rows and columns of
        /// the patches. Every other token is a map of one pixel.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens: Option<TokenGrid>,
    },
}

/// The tokens of an image that lie on a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TokenGrid {
    /// Tokens before those of the patches.
    pub prefix: usize,
    /// Rows and columns.
    pub grid: [usize; 2],
}

/// A function of each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// `x cdf(x)`.
    Gelu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x sigmoid(x)`.
    Silu,
}

impl DescribedBoundary {
    /// Calls `visit` with the name of every parameter.
    pub(crate) fn names(&mut self, visit: &mut dyn FnMut(&mut String)) {
        match self {
            Self::Add { value } | Self::Multiply { value } => value.names(visit),
            Self::Extras { tokens, .. } => tokens.names(visit),
            Self::Frame { strips, .. } => strips.iter_mut().for_each(|strip| strip.names(visit)),
        }
    }
}

impl DescribedSite {
    /// Calls `visit` with the name of every parameter.
    pub(crate) fn names(&mut self, visit: &mut dyn FnMut(&mut String)) {
        let values: Vec<&mut Formula> = match self {
            Self::LowRank {
                a, b, magnitude, ..
            } => [a, b].into_iter().chain(magnitude).collect(),
            Self::InputLowRank { a, b, .. } => vec![a, b],
            Self::ScaleShift { scale, shift, .. } => scale.iter_mut().chain(shift).collect(),
            Self::Weight { value, .. } => vec![value],
            Self::Branch { layers, .. } => {
                layers.iter_mut().flat_map(DescribedLayer::values).collect()
            }
        };
        values.into_iter().for_each(|value| value.names(visit));
    }

    /// A weight to which `change` is added, for each part of the site that `change` knows by its name.
    pub fn changed_weights(
        site: &Site,
        change: impl Fn(&str, usize) -> Option<Formula>,
    ) -> Vec<Self> {
        let outputs = match site.kind {
            SiteKind::Linear { outputs, .. } | SiteKind::Conv { outputs, .. } => outputs,
            SiteKind::Norm { .. } | SiteKind::Branch { .. } => return Vec::new(),
        };
        let part = |(name, rows): (&str, Option<Range<usize>>)| {
            let count = rows.as_ref().map_or(outputs, Range::len);
            let value = Formula::Weight.plus(change(name, count)?);
            Some(Self::Weight { value, rows })
        };
        site.parts().filter_map(part).collect()
    }
}

impl DescribedLayer {
    fn values(&mut self) -> Vec<&mut Formula> {
        match self {
            Self::Dense { weight, bias } | Self::Conv { weight, bias, .. } => vec![weight, bias],
            Self::Nonlinearity { .. } => Vec::new(),
        }
    }

    /// The layer whose parameters are called `<name>.weight` and `<name>.bias`.
    pub fn dense(name: &str) -> Self {
        let part = |part: &str| Formula::parameter(format!("{name}.{part}"));
        Self::Dense {
            weight: part("weight"),
            bias: part("bias"),
        }
    }
}
