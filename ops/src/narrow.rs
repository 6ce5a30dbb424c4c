//! bf16 on the CPU: tensors have 16 bits a value, and kernels compute in `f32`.
//!
//! Linear layers multiply bf16 values as they are where the CPU has AVX512-BF16 ([`Avx512Bf16`](crate::Level::Avx512Bf16)). Every other
//! kernel gets its inputs widened, which is exact, so that sums of products are those of `f32`. Its results
//! are rounded to the nearest bf16, halves to even. Wide copies live as long as one call: what is kept for the
//! backward pass is narrow wherever the operation keeps an input or its output.

use burn::backend::TensorMetadata;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape};
use half::bf16;

use crate::operation::{Kept, Operation, tensor, values};
use crate::rounding::{rounded, wide};

/// An operation on bf16 tensors, by way of one on `f32` tensors.
#[derive(Clone, Debug)]
pub(crate) struct Narrow<O>(pub(crate) O);

impl<O, const N: usize> Operation<FlexTensor, N> for Narrow<O>
where
    O: Operation<FlexTensor, N, Saved: Kept>,
{
    type Saved = O::Saved;

    fn forward(&self, inputs: [FlexTensor; N], wanted: [bool; N]) -> (FlexTensor, O::Saved) {
        let wide = inputs.clone().map(widened);
        let (y, mut saved) = self.0.forward(wide.clone(), wanted);
        let narrow = narrowed(y.clone());
        // Wide copies are replaced by the tensors that they were made of, which are shared. The copies live until
        // here, so that nothing else can have got their memory.
        let pairs = wide.iter().zip(&inputs).chain([(&y, &narrow)]);
        let pairs: Vec<_> = pairs.filter(|(wide, _)| !is_empty(wide)).collect();
        for kept in saved.tensors() {
            let origin = pairs.iter().find(|(wide, _)| is_same(wide, kept));
            if let Some((_, narrow)) = origin {
                *kept = (*narrow).clone();
            }
        }
        (narrow, saved)
    }

    fn backward(
        &self,
        mut saved: O::Saved,
        gradient: FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N] {
        for kept in saved.tensors() {
            *kept = widened(kept.clone());
        }
        let gradients = self.0.backward(saved, widened(gradient), wanted);
        gradients.map(|gradient| gradient.map(narrowed))
    }
}

fn is_empty(x: &FlexTensor) -> bool {
    x.shape().num_elements() == 0
}

/// Returns whether `y` has the `f32` values of `x` in the same memory.
fn is_same(x: &FlexTensor, y: &FlexTensor) -> bool {
    y.dtype() == DType::F32 && x.shape() == y.shape() && values(x).as_ptr() == values(y).as_ptr()
}

/// The contiguous tensor in `f32`; itself, if it is that already.
pub(crate) fn widened(x: FlexTensor) -> FlexTensor {
    let Some(narrow) = x.as_slice::<bf16>() else {
        return x;
    };
    tensor(wide(narrow), x.shape())
}

/// The contiguous tensor in bf16; itself, if it is that already.
fn narrowed(x: FlexTensor) -> FlexTensor {
    if x.dtype() == DType::BF16 {
        return x;
    }
    narrow_tensor(rounded(values(&x)), x.shape())
}

/// A tensor of these values.
pub(crate) fn narrow_tensor(values: Vec<bf16>, shape: impl Into<Shape>) -> FlexTensor {
    let layout = Layout::contiguous(shape.into());
    FlexTensor::new(Bytes::from_elems(values), layout, DType::BF16)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;
    use crate::bridge::apply;
    use crate::level;
    use crate::testing::noise;
    use crate::{Gelu, attention, layer_norm, linear, linear_gelu, scale_shift};

    /// `x y`, which keeps an input and its output.
    #[derive(Clone, Debug)]
    struct Times;

    impl Operation<FlexTensor, 2> for Times {
        type Saved = ([FlexTensor; 2], FlexTensor);

        fn forward(&self, [x, y]: [FlexTensor; 2], _: [bool; 2]) -> (FlexTensor, Self::Saved) {
            let products = values(&x).iter().zip(values(&y)).map(|(x, y)| x * y);
            let z = tensor(products.collect(), x.shape());
            (z.clone(), ([x, y], z))
        }

        fn backward(
            &self,
            ([x, y], z): Self::Saved,
            gradient: FlexTensor,
            _: [bool; 2],
        ) -> [Option<FlexTensor>; 2] {
            let all = [&x, &y, &z, &gradient];
            assert!(all.iter().all(|x| x.dtype() == DType::F32));
            let of = |other: &FlexTensor| {
                let products = values(&gradient).iter().zip(values(other));
                tensor(products.map(|(g, x)| g * x).collect(), other.shape())
            };
            [Some(of(&y)), Some(of(&x))]
        }
    }

    fn narrow(values: &[f32]) -> FlexTensor {
        let values: Vec<bf16> = values.iter().map(|&value| bf16::from_f32(value)).collect();
        let count = values.len();
        narrow_tensor(values, [count])
    }

    fn read(x: &FlexTensor) -> Vec<f32> {
        let values = x.as_slice::<bf16>().expect("the result is narrow");
        values.iter().map(|value| value.to_f32()).collect()
    }

    #[test]
    fn what_is_kept_shares_the_narrow_tensors() {
        let (x, y) = (narrow(&[1.5, -2.0, 3.0]), narrow(&[0.5, 4.0, 1.0]));
        let inputs = [x.clone(), y.clone()];
        let (z, mut saved) = Narrow(Times).forward(inputs, [true; 2]);
        assert_eq!(read(&z), [0.75, -8.0, 3.0]);
        let start = |x: &FlexTensor| x.as_slice::<bf16>().map(<[bf16]>::as_ptr);
        let kept: Vec<_> = saved
            .tensors()
            .into_iter()
            .map(|kept| start(kept))
            .collect();
        assert_eq!(kept, [start(&x), start(&y), start(&z)]);
        let gradient = narrow(&[1.0, 10.0, 0.5]);
        let of = Narrow(Times).backward(saved, gradient, [true; 2]);
        let of = of.map(|gradient| read(&gradient.unwrap()));
        assert_eq!(of, [vec![0.5, 40.0, 0.5], vec![1.5, -20.0, 1.5]]);
    }

    /// A function of `x [5, 24]`, `weight [7, 24]` and `residual [5, 7]`.
    type Function = fn([Tensor<2>; 3]) -> Tensor<2>;

    /// The values of a function, and the gradients of its inputs, on inputs of a type.
    fn computed(f: Function, dtype: DType) -> Vec<Vec<f32>> {
        let device = Device::flex().autodiff();
        let input = |shape: [usize; 2], seed| {
            let values = TensorData::new(noise(shape.iter().product(), seed), shape);
            let x = Tensor::<2>::from_data(values, &device).cast(DType::BF16);
            x.cast(dtype).detach().require_grad()
        };
        let inputs = [input([5, 24], 1), input([7, 24], 2), input([5, 7], 3)];
        let y = f(inputs.clone());
        assert_eq!(y.dtype(), dtype);
        let seed = input(y.dims(), 4).detach();
        let gradients = (y.clone() * seed).sum().backward();
        let gradients = inputs.map(|input| input.grad(&gradients));
        let all = std::iter::once(y.inner()).chain(gradients.into_iter().flatten());
        // Rounded here, where the function has not done it.
        let all = all.map(|x| x.cast(DType::BF16).into_data());
        all.map(|data| data.iter::<f32>().collect()).collect()
    }

    fn row(x: Tensor<2>, index: usize) -> Tensor<1> {
        x.narrow(0, index, 1).flatten(0, 1)
    }

    #[test]
    fn operations_round_what_they_compute_in_f32() {
        let functions: [(&str, Function); 5] = [
            ("linear_gelu", |[x, weight, residual]| {
                linear_gelu(x, Gelu::Exact, weight, None, Some(residual))
            }),
            ("linear", |[x, weight, residual]| {
                linear(x, weight, Some(row(residual, 0)))
            }),
            ("layer_norm", |[x, weight, _]| {
                layer_norm(x, row(weight.clone(), 0), row(weight, 1), 1e-6)
            }),
            ("scale_shift", |[x, weight, _]| {
                scale_shift(x, row(weight.clone(), 2), row(weight, 3))
            }),
            ("attention", |[x, _, _]| {
                attention(x.reshape([1, 5, 24]), 2).reshape([5, 8])
            }),
        ];
        // A level may have linear layers multiply what is not widened.
        let rounds = |name: &str| {
            let multiplies = level::multiplies_bf16() && name.starts_with("linear");
            level::current().has_kernels() && !multiplies
        };
        for (name, f) in functions.into_iter().filter(|(name, _)| rounds(name)) {
            let (narrow, wide) = (computed(f, DType::BF16), computed(f, DType::F32));
            assert_eq!(narrow, wide, "{name}");
        }
    }

    #[test]
    fn kernels_run_on_narrow_tensors_and_not_on_a_mixture() {
        let device = Device::flex().autodiff();
        let line = |values: [f32; 2]| Tensor::<1>::from_data(TensorData::from(values), &device);
        let (x, y) = (line([1.5, 2.0]).require_grad(), line([3.0, 0.25]));
        let halves = [x.clone(), y.clone()].map(|x| x.cast(DType::BF16));
        let z = apply(Times, halves.clone().map(Tensor::into_dispatch));
        assert_eq!(z.is_ok(), level::current().has_kernels());
        if let Ok(z) = z {
            let z = Tensor::<1>::from_dispatch(z);
            assert_eq!(z.dtype(), DType::BF16);
            let gradients = z.sum().backward();
            let of_x: Vec<f32> = x.grad(&gradients).unwrap().into_data().iter().collect();
            assert_eq!(of_x, [3.0, 0.25]);
        }
        let [x, _] = halves.map(Tensor::into_dispatch);
        assert!(apply(Times, [x, y.into_dispatch()]).is_err());
    }
}
