//! The linear layer with what is added to it: a bias, a residual, a low-rank side path (Hu et al.
//! 2022), and a GELU before it. Products of gradients that nobody wants are not computed, and their
//! factors are not kept.

mod element;
#[cfg(test)]
mod tests;

use burn::backend::DispatchTensor;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
#[cfg(target_arch = "x86_64")]
use burn::tensor::DType;
use burn::tensor::{Shape, Tensor};
#[cfg(target_arch = "x86_64")]
use half::bf16;

use self::element::Element;
use crate::bridge::{apply, or_absent};
use crate::gelu::Gelu;
use crate::math::{chain, images, transposed};
use crate::matmul::{Matrix, Product};
use crate::operation::{Kept, Operation};

/// `x W^T + b`.
///
/// # Shapes
/// `x [.., in]`, `weight [out, in]`, `bias [out]` `-> [.., out]`.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    Linear::default().of(x, weight, bias, None, None)
}

/// `residual + x W^T + b`.
///
/// # Shapes
/// As [`linear`]; `residual [.., out]`.
pub fn linear_residual<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    residual: Tensor<D>,
) -> Tensor<D> {
    Linear::default().of(x, weight, bias, Some(residual), None)
}

/// `residual + gelu(x) W^T + b`, with the residual if there is one. Only `x` is kept for the backward pass,
/// not `gelu(x)`.
///
/// # Shapes
/// As [`linear_residual`].
pub fn linear_gelu<const D: usize>(
    x: Tensor<D>,
    gelu: Gelu,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<D>>,
) -> Tensor<D> {
    let op = Linear {
        gelu: Some(gelu),
        ..Linear::default()
    };
    op.of(x, weight, bias, residual, None)
}

/// `x W^T + b + scale x A^T B^T`, without adding `B A` to the weight.
///
/// # Shapes
/// As [`linear`]; `a [r, in]`, `b [out, r]`.
pub fn linear_low_rank<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    [a, b]: [Tensor<2>; 2],
    scale: f64,
) -> Tensor<D> {
    Linear::default().of(x, weight, bias, None, Some(([a, b], scale)))
}

/// What happens to `x` first, and which inputs there are beside it and the weight.
#[derive(Clone, Copy, Debug, Default)]
struct Linear {
    gelu: Option<Gelu>,
    bias: bool,
    residual: bool,
    /// The scale of the side path.
    low_rank: Option<f64>,
}

impl Linear {
    fn of<const D: usize>(
        self,
        x: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        residual: Option<Tensor<D>>,
        low_rank: Option<([Tensor<2>; 2], f64)>,
    ) -> Tensor<D> {
        let op = Self {
            bias: bias.is_some(),
            residual: residual.is_some(),
            low_rank: low_rank.as_ref().map(|(_, scale)| *scale),
            ..self
        };
        let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
        let (bias, residual) = (or_absent(bias, &x), or_absent(residual, &x));
        let [a, b] = match low_rank {
            Some((factors, _)) => factors.map(Some),
            None => [None, None],
        };
        let (a, b) = (or_absent(a, &x), or_absent(b, &x));
        match apply(op, [x, weight, bias, residual, a, b]) {
            Ok(y) => Tensor::from_dispatch(y),
            Err(inputs) => op.composed(inputs),
        }
    }

    /// The layer as Burn's operations.
    fn composed<const D: usize>(
        self,
        [x, weight, bias, residual, a, b]: [DispatchTensor; 6],
    ) -> Tensor<D> {
        let x = Tensor::<D>::from_dispatch(x);
        let x = match self.gelu {
            Some(gelu) => gelu.of(x),
            None => x,
        };
        let bias = self.bias.then(|| Tensor::from_dispatch(bias));
        let mut y = composed(x.clone(), Tensor::from_dispatch(weight), bias);
        if let Some(scale) = self.low_rank {
            let [a, b] = [a, b].map(Tensor::from_dispatch);
            y = y + composed(composed(x, a, None), b, None) * scale;
        }
        if self.residual {
            Tensor::from_dispatch(residual) + y
        } else {
            y
        }
    }
}

/// `x W^T + b` as Burn's operations.
fn composed<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    // As one matrix: Burn would copy a transposed weight to give it more dimensions.
    let mut shape = x.dims();
    let rows = shape[..D - 1].iter().product::<usize>();
    let x = x.reshape([rows, shape[D - 1]]);
    let y = burn::tensor::module::linear(x, weight.transpose(), bias); // [rows, out]
    shape[D - 1] = y.dims()[1];
    y.reshape(shape)
}

/// What backward needs.
#[derive(Clone, Debug)]
struct Saved {
    /// For the gradients of the weight and of `A`, and through GELU.
    x: Option<FlexTensor>,
    /// For the gradient of `x`.
    weight: Option<FlexTensor>,
    /// `A` and `B`.
    factors: Option<[FlexTensor; 2]>,
    /// `x A^T`, for the gradient of `B`.
    hidden: Option<FlexTensor>,
    /// Columns of `x`.
    width: usize,
}

impl Kept for Saved {
    fn tensors(&mut self) -> Vec<&mut FlexTensor> {
        let single = [&mut self.x, &mut self.weight, &mut self.hidden];
        let single = single.into_iter().flatten();
        single.chain(self.factors.iter_mut().flatten()).collect()
    }
}

/// `x` and the weight; a bias, a residual, `A` and `B`, which may be absent.
impl Operation<FlexTensor, 6> for Linear {
    type Saved = Saved;

    const MULTIPLIES_BF16: bool = true;

    fn forward(&self, inputs: [FlexTensor; 6], wanted: [bool; 6]) -> (FlexTensor, Saved) {
        match inputs[0].dtype() {
            #[cfg(target_arch = "x86_64")]
            DType::BF16 => self.forward_in::<bf16>(inputs, wanted),
            _ => self.forward_in::<f32>(inputs, wanted),
        }
    }

    fn backward(
        &self,
        saved: Saved,
        gradient: FlexTensor,
        wanted: [bool; 6],
    ) -> [Option<FlexTensor>; 6] {
        match gradient.dtype() {
            #[cfg(target_arch = "x86_64")]
            DType::BF16 => self.backward_in::<bf16>(saved, gradient, wanted),
            _ => self.backward_in::<f32>(saved, gradient, wanted),
        }
    }
}

impl Linear {
    fn forward_in<T: Element>(
        &self,
        [x, weight, bias, residual, a, b]: [FlexTensor; 6],
        wanted: [bool; 6],
    ) -> (FlexTensor, Saved) {
        let [x_wanted, weight_wanted, _, _, a_wanted, b_wanted] = wanted;
        let [n, k] = matrix(&weight);
        let m = x.shape().num_elements() / k.max(1);
        let rows = Matrix::new(T::values(&x), k);
        let weights = Matrix::new(T::values(&weight), k).transposed();
        // `x A^T [m, r]`, and `B` times the scale: it has fewer values than the path's output.
        let path = self.low_rank.map(|scale| {
            let [r, _] = matrix(&a);
            let a = Matrix::new(T::values(&a), k).transposed();
            let hidden = T::run(&Product::new([m, k, r], rows, a));
            (r, hidden, scaled(T::values(&b), scale))
        });
        let mut product = Product::new([m, k, n], rows, weights)
            .mapped(self.gelu.map(T::gelu))
            .with_bias(self.bias.then(|| T::values(&bias)))
            .with_residual(self.residual.then(|| T::values(&residual)));
        if let Some((r, hidden, b)) = &path {
            let b = Matrix::new(b, *r).transposed();
            product = product.plus(*r, Matrix::new(hidden, *r), b);
        }
        let y = T::tensor(T::run(&product), with_last(x.shape(), n));
        let hidden = path.filter(|_| b_wanted);
        let x_needed = weight_wanted || a_wanted || (x_wanted && self.gelu.is_some());
        let saved = Saved {
            x: x_needed.then_some(x),
            weight: x_wanted.then_some(weight),
            factors: self.low_rank.map(|_| [a, b]),
            hidden: hidden.map(|(r, hidden, _)| T::tensor(hidden, [m, r])),
            width: k,
        };
        (y, saved)
    }

    fn backward_in<T: Element>(
        &self,
        saved: Saved,
        gradient: FlexTensor,
        wanted: [bool; 6],
    ) -> [Option<FlexTensor>; 6] {
        let [
            _,
            weight_wanted,
            bias_wanted,
            residual_wanted,
            a_wanted,
            b_wanted,
        ] = wanted;
        let g = T::values(&gradient);
        let (shape, k) = (gradient.shape(), saved.width);
        let n = shape[shape.num_dims() - 1];
        let m = shape.num_elements() / n.max(1);
        let x = saved.x.as_ref().map(T::values);
        let rows = Matrix::new(g, n);
        let scale = self.low_rank.unwrap_or(1.0);
        // The gradient of `x A^T [m, r]`, which those of `x` and of `A` are made of.
        let through = saved.factors.as_ref().map(|[_, b]| {
            let [_, r] = matrix(b);
            let b = scaled(T::values(b), scale);
            (
                r,
                T::run(&Product::new([m, n, r], rows, Matrix::new(&b, r))),
            )
        });
        let of_weight = x.filter(|_| weight_wanted).map(|x| {
            let read = self.gelu.map(|gelu| images(T::gelu(gelu), x));
            let x = Matrix::new(read.as_deref().unwrap_or(x), k);
            // The right side of a product is packed into panels, so let it be the narrower one.
            let product = if k <= n {
                T::run(&Product::new([n, m, k], rows.transposed(), x))
            } else {
                transposed(&T::run(&Product::new([k, m, n], x.transposed(), rows)), n)
            };
            T::tensor(product, [n, k])
        });
        let through_a = through.as_ref().filter(|_| a_wanted);
        let of_a = x.zip(through_a).map(|(x, (r, through))| {
            // As its transpose, so that the narrow factor is the one that is packed.
            let x = Matrix::new(x, k).transposed();
            let product = T::run(&Product::new([k, m, *r], x, Matrix::new(through, *r)));
            T::tensor(transposed(&product, *r), [*r, k])
        });
        let of_b = saved.hidden.as_ref().filter(|_| b_wanted).map(|hidden| {
            let [_, r] = matrix(hidden);
            let hidden = Matrix::new(T::values(hidden), r);
            let product = T::run(&Product::new([n, m, r], rows.transposed(), hidden));
            T::tensor(scaled(&product, scale), [n, r])
        });
        // The largest gradient is allocated last, when the work space of the others is free again. The
        // weight was kept if `x` wants a gradient.
        let of_x = saved.weight.as_ref().map(|weight| {
            let mut product = Product::new([m, n, k], rows, Matrix::new(T::values(weight), k));
            if let (Some((r, through)), Some([a, _])) = (&through, &saved.factors) {
                product = product.plus(*r, Matrix::new(through, *r), Matrix::new(T::values(a), k));
            }
            let mut of_x = T::run(&product);
            if let (Some(gelu), Some(x)) = (self.gelu, x) {
                chain(T::gelu_slopes(gelu), x, &mut of_x);
            }
            T::tensor(of_x, with_last(shape.clone(), k))
        });
        let of_bias = bias_wanted.then(|| T::tensor(T::column_sums(g, n), [n]));
        let of_residual = residual_wanted.then(|| gradient.clone());
        [of_x, of_weight, of_bias, of_residual, of_a, of_b]
    }
}

/// Rows and columns of a matrix.
fn matrix(x: &FlexTensor) -> [usize; 2] {
    let shape = x.shape();
    [shape[0], shape[1]]
}

/// The shape with `size` as its last axis.
fn with_last(mut shape: Shape, size: usize) -> Shape {
    let last = shape.num_dims() - 1;
    shape[last] = size;
    shape
}

/// All values times the scale of the side path.
fn scaled<T: Element>(values: &[T], scale: f64) -> Vec<T> {
    let scale = scale as f32;
    let values = values.iter().map(|value| value.to_f32() * scale);
    values.map(T::from_f32).collect()
}
