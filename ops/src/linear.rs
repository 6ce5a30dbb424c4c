//! The linear layer with what is added to it: a bias, a residual, a low-rank side path (Hu et al.
//! 2022), and a GELU before it. Products that no gradient asks for are not computed, and what they need
//! is not kept.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, Tensor};

use crate::bridge::{CpuOp, apply, tensor, values};
use crate::gelu::Gelu;
use crate::math::{column_sums, transposed};
use crate::matmul::{Matrix, Product};

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

/// `residual + gelu(x) W^T + b`, the residual if there is one. Of what the layer reads only `x` is kept.
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

/// `x W^T + b + scale x A^T B^T`, without composing the weights.
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

/// What is done to `x` first, and which inputs there are beside it and the weight.
#[derive(Clone, Copy, Debug, Default)]
struct Linear {
    gelu: Option<Gelu>,
    bias: bool,
    residual: bool,
    /// The scale of the side path.
    low_rank: Option<f64>,
}

/// Something for each input.
#[derive(Clone, Debug)]
struct Inputs<T> {
    x: T,
    weight: T,
    bias: Option<T>,
    residual: Option<T>,
    factors: Option<[T; 2]>,
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
        let inputs = Inputs {
            x: x.into_dispatch(),
            weight: weight.into_dispatch(),
            bias: bias.map(Tensor::into_dispatch),
            residual: residual.map(Tensor::into_dispatch),
            factors: low_rank.map(|(factors, _)| factors.map(Tensor::into_dispatch)),
        };
        macro_rules! apply {
            ($count:literal) => {
                apply::<$count>(op, inputs.join()).map_err(|inputs| op.split(inputs))
            };
        }
        let y = match op.count() {
            2 => apply!(2),
            3 => apply!(3),
            4 => apply!(4),
            _ => apply!(5),
        };
        let inputs = match y {
            Ok(y) => return Tensor::from_dispatch(y),
            Err(inputs) => inputs,
        };
        let x = Tensor::<D>::from_dispatch(inputs.x);
        let x = op.gelu.into_iter().fold(x, |x, gelu| gelu.of(x));
        let bias = inputs.bias.map(Tensor::from_dispatch);
        let mut y = composed(x.clone(), Tensor::from_dispatch(inputs.weight), bias);
        if let (Some(factors), Some(scale)) = (inputs.factors, op.low_rank) {
            let [a, b] = factors.map(Tensor::from_dispatch);
            y = y + composed(composed(x, a, None), b, None) * scale;
        }
        match inputs.residual {
            Some(residual) => Tensor::from_dispatch(residual) + y,
            None => y,
        }
    }

    fn count(self) -> usize {
        let optional = usize::from(self.bias) + usize::from(self.residual);
        2 + optional + 2 * usize::from(self.low_rank.is_some())
    }

    fn split<T, const N: usize>(self, inputs: [T; N]) -> Inputs<T> {
        let mut inputs = inputs.into_iter();
        let mut next = || match inputs.next() {
            Some(input) => input,
            None => unreachable!("as many as `count` says"),
        };
        Inputs {
            x: next(),
            weight: next(),
            bias: self.bias.then(&mut next),
            residual: self.residual.then(&mut next),
            factors: self.low_rank.map(|_| [next(), next()]),
        }
    }
}

impl<T> Inputs<T> {
    fn join<const N: usize>(self) -> [T; N] {
        let all = [self.x, self.weight].into_iter();
        let all = all.chain(self.bias).chain(self.residual);
        let all: Vec<T> = all.chain(self.factors.into_iter().flatten()).collect();
        match all.try_into() {
            Ok(all) => all,
            Err(_) => unreachable!("as many as `count` says"),
        }
    }
}

/// The same of Burn's operations.
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
    /// For that of `x`.
    weight: Option<FlexTensor>,
    /// `A` and `B`.
    factors: Option<[FlexTensor; 2]>,
    /// `x A^T`, for the gradient of `B`.
    hidden: Option<FlexTensor>,
    inputs: usize,
}

impl<const N: usize> CpuOp<N> for Linear {
    type Saved = Saved;

    fn forward(&self, inputs: [FlexTensor; N], wants: [bool; N]) -> (FlexTensor, Option<Saved>) {
        let (inputs, wanted) = (self.split(inputs), wants.contains(&true));
        let wants = self.split(wants);
        let (x, weight) = (values(&inputs.x), values(&inputs.weight));
        let [n, k] = matrix(&inputs.weight);
        let m = inputs.x.shape().num_elements() / k.max(1);
        let hidden = inputs.factors.as_ref().map(|[a, _]| {
            let [r, _] = matrix(a);
            let a = Matrix::new(values(a), k).transposed();
            (r, Product::new([m, k, r], Matrix::new(x, k), a).run()) // [m, r]
        });
        let scaled = (inputs.factors.as_ref()).map(|[_, b]| scaled(values(b), self.low_rank));
        let mut product = Product::new(
            [m, k, n],
            Matrix::new(x, k),
            Matrix::new(weight, k).transposed(),
        )
        .mapped(self.gelu.map(Gelu::kernel))
        .with_bias(inputs.bias.as_ref().map(values))
        .with_residual(inputs.residual.as_ref().map(values));
        if let (Some((r, hidden)), Some(b)) = (&hidden, &scaled) {
            let b = Matrix::new(b, *r).transposed();
            product = product.plus(*r, Matrix::new(hidden, *r), b);
        }
        let y = tensor(product.run(), with_last(inputs.x.shape(), n));
        let of_a = wants.factors.is_some_and(|[a, _]| a);
        let of_b = wants.factors.is_some_and(|[_, b]| b);
        let hidden = hidden.filter(|_| of_b);
        let saved = wanted.then(|| Saved {
            x: (wants.weight || of_a || wants.x && self.gelu.is_some()).then_some(inputs.x),
            weight: wants.x.then_some(inputs.weight),
            factors: inputs.factors,
            hidden: hidden.map(|(r, hidden)| tensor(hidden, [m, r])),
            inputs: k,
        });
        (y, saved)
    }

    fn backward(
        &self,
        saved: Saved,
        gradient: FlexTensor,
        wants: [bool; N],
    ) -> [Option<FlexTensor>; N] {
        let wants = self.split(wants);
        let g = values(&gradient);
        let (shape, k) = (gradient.shape(), saved.inputs);
        let n = shape[shape.num_dims() - 1];
        let m = shape.num_elements() / n.max(1);
        let x = saved.x.as_ref().map(values);
        let rows = Matrix::new(g, n);
        // The gradient of `x A^T`, which those of `x` and of `A` go through.
        let through = saved.factors.as_ref().map(|[_, b]| {
            let [_, r] = matrix(b);
            let b = scaled(values(b), self.low_rank);
            (r, Product::new([m, n, r], rows, Matrix::new(&b, r)).run()) // [m, r]
        });
        let of_weight = x.filter(|_| wants.weight).map(|x| {
            let read = self.gelu.map(|gelu| gelu.values(x));
            let x = Matrix::new(read.as_deref().unwrap_or(x), k);
            // What is packed into panels is the narrower of the two.
            let product = match k <= n {
                true => Product::new([n, m, k], rows.transposed(), x).run(),
                false => transposed(&Product::new([k, m, n], x.transposed(), rows).run(), n),
            };
            tensor(product, [n, k])
        });
        let factors = wants.factors.map(|[of_a, of_b]| {
            let of_a = x
                .zip(through.as_ref())
                .filter(|_| of_a)
                .map(|(x, (r, through))| {
                    // As its transpose: what is packed is the narrow factor.
                    let x = Matrix::new(x, k).transposed();
                    let product = Product::new([k, m, *r], x, Matrix::new(through, *r)).run();
                    tensor(transposed(&product, *r), [*r, k])
                });
            let of_b = saved.hidden.as_ref().filter(|_| of_b).map(|hidden| {
                let r = matrix(hidden)[1];
                let hidden = Matrix::new(values(hidden), r);
                let product = Product::new([n, m, r], rows.transposed(), hidden).run();
                tensor(scaled(&product, self.low_rank), [n, r])
            });
            [of_a, of_b]
        });
        // Last: what the others read first is gone by then.
        let of_x = wants.x.then(|| {
            let Some(weight) = &saved.weight else {
                unreachable!("kept where x wants a gradient")
            };
            let mut product = Product::new([m, n, k], rows, Matrix::new(values(weight), k));
            if let (Some((r, through)), Some([a, _])) = (&through, &saved.factors) {
                product = product.plus(*r, Matrix::new(through, *r), Matrix::new(values(a), k));
            }
            let mut of_x = product.run();
            if let (Some(gelu), Some(x)) = (self.gelu, x) {
                gelu.chain(x, &mut of_x);
            }
            tensor(of_x, with_last(shape.clone(), k))
        });
        let gradients = Inputs {
            x: of_x,
            weight: of_weight,
            bias: (wants.bias).map(|wanted| wanted.then(|| tensor(column_sums(g, n), [n]))),
            residual: (wants.residual).map(|wanted| wanted.then(|| gradient.clone())),
            factors,
        };
        gradients.join()
    }
}

/// Rows and columns of a matrix.
fn matrix(x: &FlexTensor) -> [usize; 2] {
    let shape = x.shape();
    [shape[0], shape[1]]
}

/// The shape with another last axis.
fn with_last(mut shape: Shape, size: usize) -> Shape {
    let last = shape.num_dims() - 1;
    shape[last] = size;
    shape
}

/// All values times the scale of the side path.
fn scaled(values: &[f32], scale: Option<f64>) -> Vec<f32> {
    let scale = scale.unwrap_or(1.0) as f32;
    values.iter().map(|value| value * scale).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        Case, Tensors, View, compare, results, same_on_any_threads, same_where_not_finite, views,
    };

    const SCALE: f64 = 0.7;

    /// Inputs: `x`, weight, bias, residual, `A`, `B`.
    fn case([b, n, k, o, r]: [usize; 5], view: View, seed: u32) -> Case {
        let case = Case::new(seed).with(&[b, n, k], view).with(&[o, k], view);
        let case = case.with(&[o], View::Plain).with(&[b, n, o], view);
        case.with(&[r, k], view).with(&[o, r], view)
    }

    fn plain(t: &Tensors) -> Tensor<3> {
        linear(t.get(0), t.get(1), None) + t.get(3)
    }

    fn with_bias(t: &Tensors) -> Tensor<3> {
        linear(t.get(0), t.get(1), Some(t.get(2)))
    }

    fn with_residual(t: &Tensors) -> Tensor<3> {
        linear_residual(t.get(0), t.get(1), Some(t.get(2)), t.get(3))
    }

    fn with_low_rank(t: &Tensors) -> Tensor<3> {
        linear_low_rank(
            t.get(0),
            t.get(1),
            Some(t.get(2)),
            [t.get(4), t.get(5)],
            SCALE,
        )
    }

    fn with_gelu(t: &Tensors) -> Tensor<3> {
        linear_gelu(t.get(0), Gelu::Exact, t.get(1), Some(t.get(2)), None)
    }

    fn with_quick_gelu(t: &Tensors) -> Tensor<3> {
        linear_gelu(t.get(0), Gelu::Quick, t.get(1), None, Some(t.get(3)))
    }

    fn composed_gelu(t: &Tensors) -> Tensor<3> {
        let x = burn::tensor::activation::gelu(t.get::<3>(0));
        composed(x, t.get(1), Some(t.get(2)))
    }

    fn composed_quick_gelu(t: &Tensors) -> Tensor<3> {
        let x = t.get::<3>(0);
        let x = x.clone() * burn::tensor::activation::sigmoid(x * 1.702);
        composed(x, t.get(1), None) + t.get(3)
    }

    fn composed_plain(t: &Tensors) -> Tensor<3> {
        composed(t.get(0), t.get(1), None) + t.get(3)
    }

    fn composed_bias(t: &Tensors) -> Tensor<3> {
        composed(t.get(0), t.get(1), Some(t.get(2)))
    }

    fn composed_residual(t: &Tensors) -> Tensor<3> {
        t.get::<3>(3) + composed_bias(t)
    }

    fn composed_low_rank(t: &Tensors) -> Tensor<3> {
        let path = composed(composed(t.get::<3>(0), t.get(4), None), t.get(5), None);
        composed_bias(t) + path * SCALE
    }

    type Op = fn(&Tensors) -> Tensor<3>;
    /// Each with Burn's, and the inputs that it has.
    const OPS: [(Op, Op, u32); 6] = [
        (plain, composed_plain, 0b00_1011),
        (with_bias, composed_bias, 0b00_0111),
        (with_residual, composed_residual, 0b00_1111),
        (with_low_rank, composed_low_rank, 0b11_0111),
        (with_gelu, composed_gelu, 0b00_0111),
        (with_quick_gelu, composed_quick_gelu, 0b00_1011),
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn values_and_gradients_agree_with_f64(
            b in 1usize..4, n in 1usize..60, k in 1usize..100, o in 1usize..100, r in 1usize..12,
            wanted in 0u32..64, view in views(), seed in 1u32..1000,
        ) {
            let case = case([b, n, k, o, r], view, seed);
            for (op, composed, inputs) in OPS {
                compare(&case.clone().wanting(wanted & inputs), op, composed);
            }
        }
    }

    #[test]
    fn long_sums_and_single_values_are_as_close() {
        for size in [
            [1, 1, 1, 1, 1],
            [2, 9, 3000, 17, 2],
            [3, 700, 5, 4, 3],
            [1, 14, 32, 32, 8],
        ] {
            for (op, composed, inputs) in OPS {
                compare(&case(size, View::Plain, 9).wanting(inputs), op, composed);
            }
        }
    }

    #[test]
    fn huge_and_tiny_values_are_as_close() {
        for factor in [1e15, 1e-15] {
            let case = Case::new(3).with(&[2, 5, 33], View::Plain).times(factor);
            let case = case.with(&[7, 33], View::Plain).with(&[7], View::Plain);
            compare(&case, with_bias, composed_bias);
        }
    }

    #[test]
    fn what_is_empty_or_not_finite_stays_so() {
        for (op, _, inputs) in OPS {
            let case = case([2, 0, 5, 3, 2], View::Plain, 1).wanting(inputs);
            assert!(results(&case, op)[0].1.is_empty());
        }
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = crate::testing::noise(3 * 40, 1);
            values[45] = value;
            let case = Case::new(1).with_values(&[1, 3, 40], values, View::Plain);
            let case = case.with(&[9, 40], View::Plain).with(&[9], View::Plain);
            same_where_not_finite(&case, with_bias, composed_bias);
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        for (op, _, inputs) in OPS {
            let case = case([2, 150, 40, 30, 4], View::Plain, 5).wanting(inputs);
            same_on_any_threads(|| results(&case, op));
        }
    }

    /// What a prefix cache stands on: batches are of other images when they are read again.
    #[test]
    fn a_row_is_the_same_to_the_bit_beside_any_others() {
        let device = Device::flex();
        let line = |count: usize, seed: u32| {
            let values = crate::testing::noise(count, seed);
            Tensor::<1>::from_data(TensorData::new(values, [count]), &device)
        };
        for (rows, inputs, outputs) in [(61, 80, 240), (29, 320, 80), (17, 7, 5)] {
            let x = line(rows * inputs, 1).reshape([rows, inputs]);
            let residual = line(rows * outputs, 2).reshape([rows, outputs]);
            let weight = line(outputs * inputs, 3).reshape([outputs, inputs]);
            let bias = line(outputs, 4);
            let of = |range: std::ops::Range<usize>| -> Vec<f32> {
                let x = x.clone().slice([range.clone()]);
                let residual = residual.clone().slice([range]);
                let y = linear_residual(x, weight.clone(), Some(bias.clone()), residual);
                y.into_data().iter().collect()
            };
            let all = of(0..rows);
            for start in 0..rows {
                for end in [start + 1, start + 3, start + 9] {
                    let end = end.min(rows);
                    assert!(
                        of(start..end) == all[start * outputs..end * outputs],
                        "rows {start}..{end} of {rows}"
                    );
                }
            }
        }
    }
}
