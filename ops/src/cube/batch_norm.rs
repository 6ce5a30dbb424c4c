//! Batch normalisation with fixed statistics, and the residual sum and the ReLU that follow it.
//!
//! Forward, per channel: `y = relu(gamma (x - mean) s + beta + residual)` with `s = 1 / sqrt(variance + epsilon)`, where
//! sum and ReLU are optional.
//!
//! Backward, of the gradient `g`, cut to zero where the ReLU's output `y` is zero: `dx = gamma s g`, and `g` itself is the
//! gradient of the residual and of the norm's output, from whose sums over images and places those of gamma and beta
//! are made where they are wanted.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchTensor, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::node::element;
use super::rows::{Rows, UNITS, cubes};
use crate::operation::Operation;

#[backend_extension(Cube, Fusion)]
pub(super) trait BatchNorms: Backend {
    /// `constants` are gamma, beta, mean and variance.
    ///
    /// # Shapes
    /// `x [b, c, h, w]`, `constants [4, c]` in `f32` `-> [b, c, h, w]`.
    #[fusion(dtype = x, shape = x)]
    fn batch_norm_fixed(
        x: FloatTensor<Self>,
        constants: FloatTensor<Self>,
        epsilon: f32,
        relu: bool,
    ) -> FloatTensor<Self>;

    /// With a residual.
    ///
    /// # Shapes
    /// As above; `residual [b, c, h, w]`.
    #[fusion(dtype = x, shape = x)]
    fn batch_norm_added(
        x: FloatTensor<Self>,
        constants: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        epsilon: f32,
        relu: bool,
    ) -> FloatTensor<Self>;

    /// The gradients of the input and of the norm's output, from the gradient of `y`.
    ///
    /// # Shapes
    /// `y`, `gradient [b, c, h, w]`, `constants [4, c] -> [b, c, h, w]` each.
    #[fusion(meta = |y, _gradient, _constants, _epsilon, _relu| (y.clone(), y.clone()))]
    fn batch_norm_slopes(
        y: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        constants: FloatTensor<Self>,
        epsilon: f32,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl BatchNorms for CubeBackend {
    fn batch_norm_fixed(
        x: CubeTensor,
        constants: CubeTensor,
        epsilon: f32,
        relu: bool,
    ) -> CubeTensor {
        let [x] = Maps::of([x]);
        let (y, constants) = (x.like(), Rows::of(constants));
        forward(&x, &constants, None, epsilon, relu, &y);
        y.tensor
    }

    fn batch_norm_added(
        x: CubeTensor,
        constants: CubeTensor,
        residual: CubeTensor,
        epsilon: f32,
        relu: bool,
    ) -> CubeTensor {
        let [x, residual] = Maps::of([x, residual]);
        let (y, constants) = (x.like(), Rows::of(constants));
        forward(&x, &constants, Some(&residual), epsilon, relu, &y);
        y.tensor
    }

    fn batch_norm_slopes(
        y: CubeTensor,
        gradient: CubeTensor,
        constants: CubeTensor,
        epsilon: f32,
        relu: bool,
    ) -> (CubeTensor, CubeTensor) {
        let [y, gradient] = Maps::of([y, gradient]);
        let (dx, cut, constants) = (y.like(), y.like(), Rows::of(constants));
        backward(&y, &gradient, &constants, epsilon, relu, [&dx, &cut]);
        (dx.tensor, cut.tensor)
    }
}

/// Maps that fill their memory, channel by channel or place by place.
#[derive(Clone, Debug)]
pub(super) struct Maps {
    pub tensor: CubeTensor,
    pub count: usize,
    pub channels: usize,
    /// Values in a row that have the same channel: all of a map, or one if the channels of a place lie side by side,
    /// as convolutions leave them.
    pub run: usize,
}

impl Maps {
    /// All tensors in one order, that of the first if all have it.
    pub fn of<const N: usize>(tensors: [CubeTensor; N]) -> [Self; N] {
        let side_by_side = tensors.iter().all(channels_last);
        tensors.map(|tensor| {
            let tensor = if side_by_side {
                tensor
            } else {
                into_contiguous(tensor)
            };
            let shape = tensor.meta.shape();
            let (channels, area) = (shape[1], shape[2] * shape[3]);
            Self {
                count: shape[0] * channels * area,
                channels,
                run: if side_by_side { 1 } else { area },
                tensor,
            }
        })
    }

    /// Unset maps in the same order.
    pub fn like(&self) -> Self {
        let CubeTensor {
            client,
            meta,
            device,
            dtype,
            ..
        } = &self.tensor;
        let handle = client.empty(self.count * dtype.size());
        let meta = (**meta).clone();
        Self {
            tensor: CubeTensor::new(client.clone(), handle, meta, device.clone(), *dtype),
            ..*self
        }
    }

    fn arg(&self) -> BufferArg {
        // SAFETY: that many values belong to the tensor, which has no gaps.
        unsafe { BufferArg::from_raw_parts(self.tensor.handle.clone(), self.count) }
    }
}

/// Whether the channels of a place lie side by side, and places one after another.
fn channels_last(tensor: &CubeTensor) -> bool {
    let (shape, strides) = (tensor.meta.shape(), tensor.meta.strides());
    let (c, h, w) = (shape[1], shape[2], shape[3]);
    !tensor.meta.is_tiled() && strides[..] == [h * w * c, 1, w * c, c]
}

/// Writes the output.
pub(super) fn forward(
    x: &Maps,
    constants: &Rows,
    residual: Option<&Maps>,
    epsilon: f32,
    relu: bool,
    y: &Maps,
) {
    let client = &x.tensor.client;
    // SAFETY: the kernel leaves what is beyond `count` values alone.
    unsafe {
        normalise::launch_unchecked(
            client,
            cubes(client, x.count.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            x.arg(),
            constants.arg(),
            residual.unwrap_or(x).arg(),
            y.arg(),
            x.count,
            x.channels,
            x.run,
            constants.pitch,
            epsilon,
            residual.is_some(),
            relu,
            element(x.tensor.dtype),
        );
    }
}

/// Writes the gradients of the input and of the norm's output.
pub(super) fn backward(
    y: &Maps,
    gradient: &Maps,
    constants: &Rows,
    epsilon: f32,
    relu: bool,
    [dx, cut]: [&Maps; 2],
) {
    let client = &y.tensor.client;
    // SAFETY: the kernel leaves what is beyond `count` values alone.
    unsafe {
        slopes::launch_unchecked(
            client,
            cubes(client, y.count.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            y.arg(),
            gradient.arg(),
            constants.arg(),
            dx.arg(),
            cut.arg(),
            y.count,
            y.channels,
            y.run,
            constants.pitch,
            epsilon,
            relu,
            element(y.tensor.dtype),
        );
    }
}

#[cube(launch_unchecked)]
fn normalise<F: Float>(
    x: &[F],
    constants: &[f32],
    residual: &[F],
    y: &mut [F],
    count: usize,
    channels: usize,
    run: usize,
    pitch: usize,
    epsilon: f32,
    #[comptime] added: bool,
    #[comptime] relu: bool,
    #[define(F)] _element: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    let channel = (place / run) % channels;
    let inverse = 1.0 / (constants[3 * pitch + channel] + epsilon).sqrt();
    let normed = (f32::cast_from(x[place]) - constants[2 * pitch + channel]) * inverse;
    let mut value = normed * constants[channel] + constants[pitch + channel];
    if added {
        value += f32::cast_from(residual[place]);
    }
    if relu {
        // A comparison, because the largest of NaN and zero may be zero.
        value = select(value <= 0.0, 0.0, value);
    }
    y[place] = F::cast_from(value);
}

#[cube(launch_unchecked)]
fn slopes<F: Float>(
    y: &[F],
    gradient: &[F],
    constants: &[f32],
    dx: &mut [F],
    cut: &mut [F],
    count: usize,
    channels: usize,
    run: usize,
    pitch: usize,
    epsilon: f32,
    #[comptime] relu: bool,
    #[define(F)] _element: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    let channel = (place / run) % channels;
    let inverse = 1.0 / (constants[3 * pitch + channel] + epsilon).sqrt();
    let mut slope = f32::cast_from(gradient[place]);
    if relu {
        slope = select(f32::cast_from(y[place]) <= 0.0, 0.0, slope);
    }
    cut[place] = F::cast_from(slope);
    dx[place] = F::cast_from(slope * inverse * constants[channel]);
}

/// The norm as a node of the graph, of the input, gamma, beta, and the residual if there is one.
#[derive(Clone, Debug)]
pub(super) struct BatchNorm {
    /// Mean and variance, both `[c]`.
    pub statistics: [Tensor<1>; 2],
    pub epsilon: f64,
    pub relu: bool,
}

/// Holds what the backward pass needs.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    constants: DispatchTensor,
    y: DispatchTensor,
    /// The input, where gamma needs a gradient.
    x: Option<DispatchTensor>,
    /// The type of gamma and beta.
    dtype: DType,
}

impl<const N: usize> Operation<DispatchTensor, N> for BatchNorm {
    type Saved = Saved;

    fn forward(&self, inputs: [DispatchTensor; N], wanted: [bool; N]) -> (DispatchTensor, Saved) {
        let mut inputs = inputs.into_iter();
        let (Some(x), Some(gamma), Some(beta)) = (inputs.next(), inputs.next(), inputs.next())
        else {
            unreachable!("a norm has at least three inputs");
        };
        let dtype = gamma.dtype();
        let [mean, variance] = self.statistics.clone();
        let [gamma, beta] = [gamma, beta].map(Tensor::<1>::from_dispatch);
        let constants = [gamma, beta, mean, variance].map(|values| values.cast(DType::F32));
        let constants = Tensor::stack::<2>(constants.to_vec(), 0).into_dispatch();
        let epsilon = self.epsilon as f32;
        let kept = wanted[1].then(|| x.clone());
        let y = match inputs.next() {
            Some(residual) => {
                Dispatch::batch_norm_added(x, constants.clone(), residual, epsilon, self.relu)
            }
            None => Dispatch::batch_norm_fixed(x, constants.clone(), epsilon, self.relu),
        };
        let saved = Saved {
            constants,
            y: y.clone(),
            x: kept,
            dtype,
        };
        (y, saved)
    }

    fn backward(
        &self,
        saved: Saved,
        gradient: DispatchTensor,
        wanted: [bool; N],
    ) -> [Option<DispatchTensor>; N] {
        let Saved {
            constants,
            y,
            x,
            dtype,
        } = saved;
        let epsilon = self.epsilon as f32;
        let (dx, cut) = Dispatch::batch_norm_slopes(y, gradient, constants, epsilon, self.relu);
        let wide = Tensor::<4>::from_dispatch(cut.clone()).cast(DType::F32);
        let channels = wide.dims()[1];
        let summed = |values: Tensor<4>| {
            let sum = values.sum_dim(3).sum_dim(2).sum_dim(0).reshape([channels]);
            sum.cast(dtype).into_dispatch()
        };
        let dgamma = x.map(|x| {
            let per_channel = |values: &Tensor<1>| {
                let values = values.clone().cast(DType::F32);
                values.reshape([1, channels, 1, 1])
            };
            let [mean, variance] = self.statistics.each_ref().map(per_channel);
            let centred = Tensor::<4>::from_dispatch(x).cast(DType::F32) - mean;
            summed(wide.clone() * centred / (variance + self.epsilon).sqrt())
        });
        let dbeta = wanted[2].then(|| summed(wide));
        let residual = (wanted.get(3) == Some(&true)).then_some(cut);
        let mut gradients = [wanted[0].then_some(dx), dgamma, dbeta, residual].into_iter();
        std::array::from_fn(|_| gradients.next().flatten())
    }
}
