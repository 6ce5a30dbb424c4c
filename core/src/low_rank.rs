//! Low-rank side paths beside linear layers and convolutions: LoRA (Hu et al. 2022, Eq. 3) and its
//! weight-decomposed form DoRA (Liu et al. 2024, Eq. 5), computed and folded once for all methods.

use std::ops::Range;

use burn::tensor::Tensor;
use peft_ops::{linear_low_rank, linear_residual, scale_shift};

use crate::channels::{like, replace_rows};
use crate::site::Site;
use crate::step::Draws;

/// A side path `y + scale * B A dropout(x)`. With a magnitude `m` the output is
/// `m / ||W + scale B A|| * (W + scale B A) x + b`, with the norm of each row taken as a constant.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `A` and `B`.
    pub factors: Factors,
    /// Factor of the product.
    pub scale: f64,
    /// Probability of dropping an entry of the path's input while training.
    pub dropout: f64,
    /// The rows of the output to which it adds; all if absent.
    pub rows: Option<Range<usize>>,
    /// DoRA's magnitude `m [rows]`. Such a path must be the first to act at its site.
    pub magnitude: Option<Tensor<1>>,
}

/// The factors of a [`LowRank`].
#[derive(Clone, Debug)]
pub enum Factors {
    /// `A [r, in]`, `B [out, r]`.
    Linear(Tensor<2>, Tensor<2>),
    /// `A [r, in, kh, kw]` with the site's stride and padding, `B [out, r / groups, 1, 1]` in the
    /// site's groups.
    Conv(Tensor<4>, Tensor<4>),
}

impl LowRank {
    /// A path over all rows without dropout or magnitude.
    pub fn new(factors: Factors, scale: f64) -> Self {
        Self {
            factors,
            scale,
            dropout: 0.0,
            rows: None,
            magnitude: None,
        }
    }

    /// `A`, and `B` for all `outputs` rows, with zeros where the path adds nothing.
    fn whole_factors(&self, outputs: usize) -> Option<[Tensor<2>; 2]> {
        let Factors::Linear(a, b) = &self.factors else {
            return None;
        };
        Some([a.clone(), self.among_all(b.clone(), outputs, 0.0)])
    }

    /// The values of the path's own rows, padded with `value` to all `outputs` rows.
    fn among_all<const D: usize>(&self, own: Tensor<D>, outputs: usize, value: f64) -> Tensor<D> {
        let Some(Range { start, end }) = self.rows.clone() else {
            return own;
        };
        let around = |rows| {
            let mut shape = own.dims();
            shape[0] = rows;
            like(Tensor::<D>::full(shape, value, &own.device()), &own)
        };
        Tensor::cat(vec![around(start), own.clone(), around(outputs - end)], 0)
    }

    /// [`row_norms`](Self::row_norms) on the device of the magnitude, where they are constants too.
    fn constant_norms(&self, weight: Tensor<2>, magnitude: &Tensor<1>) -> Tensor<1> {
        let norms = self.row_norms(weight);
        if magnitude.is_autodiff() {
            Tensor::from_inner(norms)
        } else {
            norms
        }
    }

    /// The norm of each row of `W + scale B A`, as a constant; `weight` is `W` flattened to
    /// `[out, ..]`.
    fn row_norms(&self, weight: Tensor<2>) -> Tensor<1> {
        // The paper (Sec. 4.3) takes the norm as a constant, so that no gradient flows through it
        // and the memory of one is saved.
        let product = self.factors.product().without_autodiff();
        let weight = like(self.own_rows(weight.without_autodiff(), 0), &product);
        (weight + product * self.scale)
            .square()
            .sum_dim(1)
            .sqrt()
            .squeeze_dim(1)
    }

    /// Whether both add to a common row.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (&self.rows, &other.rows) {
            (Some(a), Some(b)) => a.start < b.end && b.start < a.end,
            _ => true,
        }
    }

    fn own_rows<const D: usize>(&self, y: Tensor<D>, axis: usize) -> Tensor<D> {
        match &self.rows {
            Some(rows) => y.narrow(axis, rows.start, rows.len()),
            None => y,
        }
    }
}

/// A [`LowRank`] as it acts in one forward pass.
#[derive(Clone, Debug)]
pub(crate) struct SidePath {
    /// The path.
    pub path: LowRank,
    /// The random numbers of its adapter.
    pub draws: Draws,
    /// The strength of the path, from nothing (0) to all (1).
    pub strength: f64,
}

impl SidePath {
    /// Adds the path to `y`. `input` is what the site reads, `axis` that of the output's channels.
    pub(crate) fn beside<const D: usize, const E: usize>(
        self,
        y: Tensor<E>,
        input: &Tensor<D>,
        axis: usize,
        layer: &impl Weighted<D, E>,
        site: &Site,
    ) -> Tensor<E> {
        let path = &self.path;
        let x = (self.draws).dropout(input.clone(), path.dropout, &site.name);
        let Some(product) = layer.low_rank(x.clone(), &path.factors) else {
            panic!(
                "{}: the factors do not belong to a {}",
                site.name, site.kind
            )
        };
        let mut delta = product * path.scale;
        // With f = m / ||W + s B A||, DoRA computes f (W + s B A) x + b. That is y + (f - 1) W x +
        // f s B A x, so the delta is (f - 1) W x + f s B A x.
        if let Some(magnitude) = &path.magnitude {
            let channels = |v: Tensor<1>| {
                let mut shape = [1; E];
                shape[axis] = v.dims()[0];
                like(v.reshape(shape), &delta)
            };
            let norms = path.constant_norms(layer.matrix(), magnitude);
            let factor = channels(magnitude.clone() / norms);
            let bare = if self.drops() {
                path.own_rows(layer.bare(x), axis)
            } else {
                // Without dropout, W x is y without the bias, which saves a product.
                let y = path.own_rows(y.clone(), axis);
                match layer.bias() {
                    Some(bias) => y - channels(path.own_rows(bias, 0)),
                    None => y,
                }
            };
            delta = bare * (factor.clone() - 1.0) + delta * factor;
        }
        if self.strength != 1.0 {
            delta = delta * self.strength;
        }
        replace_rows(y, axis, self.path.rows, |y| y + delta)
    }

    /// Returns `x + scale * B A dropout(x)`, for a path on the input of a linear layer.
    pub(crate) fn onto<const D: usize>(self, x: Tensor<D>, site: &Site) -> Tensor<D> {
        let Factors::Linear(a, b) = &self.path.factors else {
            panic!("{}: a path on the input has linear factors", site.name)
        };
        let dropped = (self.draws).dropout(x.clone(), self.path.dropout, &site.name);
        let hidden = peft_ops::linear(dropped, like(a.clone(), &x), None);
        linear_residual(hidden, like(b.clone() * self.factor(), &x), None, x)
    }

    /// The layer's output together with the path, in one operation; for paths that read the same input
    /// as the layer. None where that operation cannot express the path.
    pub(crate) fn at_once<const D: usize>(
        &self,
        x: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Option<Tensor<D>> {
        if self.strength != 1.0 {
            return None;
        }
        let path = &self.path;
        let [outputs, _] = weight.dims();
        let factors = path.whole_factors(outputs)?.map(|factor| like(factor, &x));
        let own = like(weight.clone(), &x);
        let bias = bias.map(|bias| like(bias, &x));
        let Some(magnitude) = &path.magnitude else {
            return Some(linear_low_rank(x, own, bias, factors, path.scale));
        };
        // Rows outside the path keep the factor 1, and their factors of the product are zero.
        let norms = path.constant_norms(weight, magnitude);
        let factor = path.among_all(magnitude.clone() / norms, outputs, 1.0);
        let factor = like(factor, &x);
        let y = linear_low_rank(x, own, None, factors, path.scale);
        // The bias comes after the rescaling, so it is not part of the product above.
        let bias = bias.unwrap_or_else(|| factor.zeros_like());
        Some(scale_shift(y, factor, bias))
    }

    /// The weight `[out, ..]` that is equivalent to `weight` with this path beside it.
    pub(crate) fn folded(&self, weight: Tensor<2>) -> Tensor<2> {
        let path = &self.path;
        let product = path.factors.product();
        // Folded as a difference, so that `strength` scales it like the path itself.
        let own = path.own_rows(weight.clone(), 0);
        let delta = match &path.magnitude {
            None => product * path.scale,
            Some(magnitude) => {
                let factor = magnitude.clone() / path.row_norms(weight.clone());
                let sum = own.clone() + product * path.scale;
                sum * factor.unsqueeze_dim(1) - own
            }
        };
        let delta = delta * self.strength;
        replace_rows(weight, 0, path.rows.clone(), |own| own + delta)
    }

    /// Factor of the product, with the strength.
    pub(crate) fn factor(&self) -> f64 {
        self.path.scale * self.strength
    }

    /// The factors, if the path is nothing but a product over all rows.
    pub(crate) fn plain_factors(&self) -> Option<&Factors> {
        let path = &self.path;
        (path.rows.is_none() && path.magnitude.is_none()).then_some(&path.factors)
    }

    /// Whether the path is nothing but a product over all rows, without dropout in this pass.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain_factors().is_some() && !self.drops()
    }

    /// Whether entries of the path's input are dropped in this pass.
    pub(crate) fn drops(&self) -> bool {
        self.draws.drops(self.path.dropout)
    }
}

impl Factors {
    /// `B A`, a kernel flattened to `[out, in * kh * kw]`.
    pub fn product(&self) -> Tensor<2> {
        match self {
            Self::Linear(a, b) => b.clone().matmul(a.clone()),
            Self::Conv(a, b) => {
                let b = b.clone().flatten::<2>(1, 3);
                b.matmul(a.clone().flatten(1, 3))
            }
        }
    }
}

/// A layer that can have a low-rank path beside it.
pub(crate) trait Weighted<const D: usize, const E: usize> {
    /// `B A x`; none if the factors belong to another kind of layer.
    fn low_rank(&self, x: Tensor<D>, factors: &Factors) -> Option<Tensor<E>>;
    /// `W x` without the bias.
    fn bare(&self, x: Tensor<D>) -> Tensor<E>;
    /// `W` flattened to `[out, ..]`.
    fn matrix(&self) -> Tensor<2>;
    /// `b [out]`.
    fn bias(&self) -> Option<Tensor<1>>;
    /// The output together with a path, if the layer can compute both at once.
    fn with_low_rank(&self, _: &Tensor<D>, _: &SidePath) -> Option<Tensor<E>> {
        None
    }
    /// The output with a factor and an offset `[c]` per channel, if the layer can merge them with its
    /// own.
    fn with_scale_shift(
        &self,
        _: &Tensor<D>,
        _: &Option<Tensor<1>>,
        _: &Option<Tensor<1>>,
    ) -> Option<Tensor<E>> {
        None
    }
}

/// A layer without a weight matrix: a norm.
pub(crate) struct Unweighted;

impl<const D: usize> Weighted<D, D> for Unweighted {
    fn low_rank(&self, _: Tensor<D>, _: &Factors) -> Option<Tensor<D>> {
        None
    }
    fn bare(&self, x: Tensor<D>) -> Tensor<D> {
        x
    }
    fn matrix(&self) -> Tensor<2> {
        unreachable!("a norm takes no low-rank path")
    }
    fn bias(&self) -> Option<Tensor<1>> {
        None
    }
}
