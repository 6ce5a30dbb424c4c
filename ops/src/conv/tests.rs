//! Convolutions compared with Burn's operations, in `f32` and in `f64`.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData, activation, module};
use proptest::prelude::*;

use super::left::Left;
use super::product::{Target, product};
use super::winograd::{Maps, Taps, Weights, convolve};
use super::*;
use crate::buffer::written;
use crate::machine::Caches;
use crate::testing::{
    Case, Tensors, View, cases, compare, noise, results, same_on_any_threads,
    same_where_not_finite, short, views,
};

/// A convolution's sizes.
#[derive(Clone, Debug)]
struct Layer {
    images: usize,
    groups: usize,
    /// Input and output channels of a group.
    channels: [usize; 2],
    size: [usize; 2],
    kernel: [usize; 2],
    options: ConvOptions<2>,
}

impl Layer {
    fn new(
        [images, groups]: [usize; 2],
        channels: [usize; 2],
        size: [usize; 2],
        kernel: [usize; 2],
        [stride, padding, dilation]: [[usize; 2]; 3],
    ) -> Self {
        let options = ConvOptions::new(stride, padding, dilation, groups);
        Self {
            images,
            groups,
            channels,
            size,
            kernel,
            options,
        }
    }

    /// The shapes of the input and the weight, and that of the output if they fit together.
    fn shapes(&self) -> ([[usize; 4]; 2], Option<[usize; 4]>) {
        let (groups, [inputs, outputs]) = (self.groups, self.channels);
        let x = [self.images, groups * inputs, self.size[0], self.size[1]];
        let weight = [groups * outputs, inputs, self.kernel[0], self.kernel[1]];
        let output = ConvShape::new(x, weight, &self.options).map(|shape| shape.output());
        ([x, weight], output)
    }

    /// The input, the weight and a residual.
    fn case(&self, view: View, seed: u32) -> Case {
        let ([x, weight], output) = self.shapes();
        let case = Case::new(seed).with(&x, view).with(&weight, view);
        case.with(&output.unwrap(), view)
    }

    fn outputs(&self) -> usize {
        self.groups * self.channels[1]
    }

    /// Asserts that it agrees with Burn's, with a bias.
    fn agrees(&self, view: View, seed: u32) {
        let ([x, weight], _) = self.shapes();
        let case = Case::new(seed).with(&x, view).with(&weight, view);
        let case = case.with(&[self.outputs()], View::Plain);
        compare(
            &case,
            |t| conv2d(t.get(0), t.get(1), Some(t.get(2)), self.options.clone()),
            |t| module::conv2d(t.get(0), t.get(1), Some(t.get(2)), self.options.clone()),
        );
    }

    /// The convolution with a norm, a residual and, if `relu`, a ReLU.
    fn fused(&self, t: &Tensors, relu: bool) -> Tensor<4> {
        let (x, norm) = (t.get(0), norm(self.outputs(), &t.get(0)));
        conv2d_norm(
            x,
            t.get(1),
            self.options.clone(),
            norm,
            Some(t.get(2)),
            relu,
        )
    }

    /// [`fused`](Self::fused) as Burn's operations.
    fn composed(&self, t: &Tensors, relu: bool) -> Tensor<4> {
        let FixedNorm {
            gamma,
            beta,
            mean,
            variance,
            epsilon,
        } = norm(self.outputs(), &t.get(0));
        let y = module::conv2d(t.get(0), t.get(1), None, self.options.clone());
        let y = module::batch_norm(y, gamma, beta, mean, variance, epsilon) + t.get::<4>(2);
        if relu { activation::relu(y) } else { y }
    }
}

/// A norm in the element type and on the device of `x`.
fn norm(channels: usize, x: &Tensor<4>) -> FixedNorm {
    let vector = |seed: u32, offset: f32| {
        let values: Vec<f32> = noise(channels, seed)
            .into_iter()
            .map(|v| v + offset)
            .collect();
        let values = TensorData::new(values, [channels]);
        Tensor::<1>::from_data(values, &Device::flex()).cast(x.dtype())
    };
    let [gamma, beta, mean] = [vector(91, 0.5), vector(92, 0.0), vector(93, 0.0)];
    let variance = vector(94, 2.2);
    let like_x = |v: Tensor<1>| {
        if x.is_autodiff() {
            Tensor::from_inner(v)
        } else {
            v
        }
    };
    FixedNorm {
        gamma: like_x(gamma),
        beta: like_x(beta),
        mean: like_x(mean),
        variance: like_x(variance),
        epsilon: 1e-5,
    }
}

prop_compose! {
    fn layers()(
        images in 1usize..4,
        groups in 1usize..4,
        channels in [1usize..20, 1usize..20],
        size in [1usize..13, 1usize..13],
        kernel in [1usize..5, 1usize..5],
        stride in [1usize..4, 1usize..4],
        padding in [0usize..3, 0usize..3],
        dilation in [1usize..3, 1usize..3],
    ) -> Layer {
        Layer::new([images, groups], channels, size, kernel, [stride, padding, dilation])
    }
}

prop_compose! {
    /// Layers that minimal filtering computes.
    fn minimal_layers()(
        images in 1usize..4,
        channels in [32usize..42, 32usize..42],
        size in [9usize..15, 9usize..15],
        padding in [0usize..3, 0usize..3],
    ) -> Layer {
        Layer::new([images, 1], channels, size, [3, 3], [[1, 1], padding, [1, 1]])
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn any_sizes_agree(layer in layers(), view in views(), seed in 1u32..1000) {
        prop_assume!(layer.shapes().1.is_some());
        layer.agrees(view, seed);
    }

    #[test]
    fn any_sizes_agree_by_minimal_filtering(
        layer in minimal_layers(), view in views(), wanted in 1u32..8, seed in 1u32..1000,
    ) {
        layer.agrees(view, seed);
        // Without a ReLU: of as many values one is so close to zero that its rounding decides on a gradient.
        let case = layer.case(view, seed).wanting(wanted);
        compare(&case, |t| layer.fused(t, false), |t| layer.composed(t, false));
    }

    #[test]
    fn any_sizes_agree_with_a_norm(
        layer in layers(), view in views(), relu: bool, wanted in 1u32..8, seed in 1u32..1000,
    ) {
        prop_assume!(layer.shapes().1.is_some());
        let case = layer.case(view, seed).wanting(wanted);
        compare(&case, |t| layer.fused(t, relu), |t| layer.composed(t, relu));
    }
}

const SAME: [[usize; 2]; 3] = [[1, 1], [1, 1], [1, 1]];
const HALVED: [[usize; 2]; 3] = [[2, 2], [1, 1], [1, 1]];
const POINTWISE: [[usize; 2]; 3] = [[1, 1], [0, 0], [1, 1]];
const SKIPPING: [[usize; 2]; 3] = [[2, 2], [0, 0], [1, 1]];

/// The kinds of layers of a residual network: sums in several blocks, several panels, tasks over
/// columns and over rows, and for the gradient of the weights, several chunks of windows and several blocks
/// of rows. Short tests leave out those that multiply most; the others have all of these too.
fn network() -> Vec<Layer> {
    let layers = vec![
        Layer::new([2, 1], [3, 64], [33, 33], [7, 7], [[2, 2], [3, 3], [1, 1]]),
        Layer::new([2, 1], [64, 64], [14, 14], [3, 3], SAME),
        Layer::new([3, 1], [40, 72], [15, 15], [3, 3], HALVED),
        Layer::new([2, 1], [200, 96], [9, 9], [1, 1], POINTWISE),
        Layer::new([2, 1], [64, 130], [9, 9], [1, 1], SKIPPING),
        Layer::new([4, 1], [260, 200], [2, 2], [3, 3], SAME),
        Layer::new([1, 1], [300, 20], [1, 1], [1, 1], POINTWISE),
        Layer::new([2, 8], [4, 4], [14, 14], [3, 3], SAME),
        Layer::new([2, 24], [1, 1], [11, 11], [3, 3], SAME),
        Layer::new([3, 1], [2, 3], [20, 19], [3, 3], SAME),
        Layer::new([1, 1], [3, 270], [4, 4], [3, 3], SAME),
        Layer::new([1, 1], [32, 40], [50, 66], [3, 3], SAME),
    ];
    let products = |layer: &Layer| {
        let output = layer.shapes().1.unwrap();
        output.iter().product::<usize>()
            * layer.channels[0]
            * layer.kernel.iter().product::<usize>()
    };
    let most = if short() { 500_000 } else { usize::MAX };
    layers
        .into_iter()
        .filter(|layer| products(layer) <= most)
        .collect()
}

#[test]
fn the_layers_of_a_network_agree() {
    for (seed, layer) in network().into_iter().enumerate() {
        let seed = seed as u32 + 1;
        layer.agrees(View::Plain, seed);
        let case = layer.case(View::Plain, seed);
        compare(&case, |t| layer.fused(t, true), |t| layer.composed(t, true));
    }
}

#[test]
fn with_a_residual_alone_they_agree() {
    for (seed, layer) in network().into_iter().enumerate() {
        let case = layer.case(View::Plain, seed as u32 + 1);
        compare(
            &case,
            |t| conv2d_residual(t.get(0), t.get(1), t.get(2), layer.options.clone()),
            |t| module::conv2d(t.get(0), t.get(1), None, layer.options.clone()) + t.get(2),
        );
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for layer in network() {
        let case = layer.case(View::Plain, 5);
        same_on_any_threads(|| results(&case, |t| layer.fused(t, true)));
    }
}

#[test]
fn what_is_not_finite_stays_where_burn_leaves_it() {
    for (stride, relu) in [(1, false), (2, false), (1, true), (2, true)] {
        let options = [[stride; 2], [1, 1], [1, 1]];
        let layer = Layer::new([2, 1], [3, 4], [6, 6], [3, 3], options);
        let ([x, weight], output) = layer.shapes();
        let mut values = noise(x.iter().product(), 1);
        (values[7], values[60], values[100]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        let case = Case::new(1)
            .with_values(&x, values, View::Plain)
            .with(&weight, View::Plain);
        let case = case.with(&output.unwrap(), View::Plain);
        same_where_not_finite(&case, |t| layer.fused(t, relu), |t| layer.composed(t, relu));
    }
}

#[test]
fn without_images_there_are_no_maps_and_gradients_are_zero() {
    let device = Device::flex().autodiff();
    let x = Tensor::<4>::zeros([0, 3, 8, 8], &device).require_grad();
    let weight = Tensor::<4>::ones([4, 3, 3, 3], &device).require_grad();
    let options = ConvOptions::new([2, 2], [1, 1], [1, 1], 1);
    let y = conv2d(x.clone(), weight.clone(), None, options);
    assert_eq!(y.dims(), [0, 4, 4, 4]);
    let gradients = y.sum().backward();
    assert_eq!(x.grad(&gradients).unwrap().dims(), [0, 3, 8, 8]);
    let gradient = weight.grad(&gradients).unwrap().into_data();
    assert!(gradient.iter::<f32>().all(|value| value == 0.0) && gradient.num_elements() == 108);
}

/// An image's outputs are the same whatever images stand beside it.
#[test]
fn the_other_images_change_nothing() {
    for [channels, size] in [[40, 9], [40, 30], [20, 9]] {
        let layer = Layer::new([5, 1], [channels; 2], [size; 2], [3, 3], SAME);
        let [x, weight] = layer.shapes().0.map(|shape| {
            let values = noise(shape.iter().product(), 1);
            Tensor::<4>::from_data(TensorData::new(values, shape), &Device::flex())
        });
        let together = |from: usize, to: usize| -> Vec<f32> {
            let x = x.clone().narrow(0, from, to - from);
            let y = conv2d(x, weight.clone(), None, layer.options.clone());
            y.into_data().iter().collect()
        };
        let alone: Vec<f32> = (0..5)
            .flat_map(|image| together(image, image + 1))
            .collect();
        assert!(together(0, 5) == alone, "{layer:?}");
    }
}

/// A machine's caches decide how a product is cut into blocks, but not its values.
#[test]
fn the_caches_change_nothing() {
    let (inputs, outputs, size, images) = (70, 50, [6, 7], 3);
    let layer = Layer::new(
        [images, 1],
        [inputs, outputs],
        size,
        [3, 3],
        [[1, 1], [1, 1], [1, 1]],
    );
    let ([x, weight], output) = layer.shapes();
    let count = |shape: [usize; 4]| shape.iter().product::<usize>();
    let (source, weights) = (noise(count(x), 1), noise(count(weight), 2));
    let windows = ConvShape::new(x, weight, &layer.options).unwrap().windows();
    let run = |first: usize, second: usize| {
        let mut left = Left::plain([1, outputs, inputs * 9], &weights);
        left.caches = Caches {
            first: first << 10,
            second: second << 10,
        };
        // SAFETY: the grid has a window for each position of the output, and each writes its own.
        unsafe {
            written(count(output.unwrap()), |out| {
                product(
                    &left,
                    &windows,
                    &source,
                    &Target::whole(size),
                    Finish::default(),
                    out,
                );
            })
        }
    };
    let expected = run(32, 512);
    for [first, second] in [[4, 32], [16, 128], [48, 2048], [128, 4096]] {
        assert!(
            run(first, second) == expected,
            "caches of {first} and {second} KiB"
        );
    }
}

#[test]
fn the_caches_change_nothing_by_minimal_filtering() {
    let (depth, rows, size, images) = (300, 50, [12, 13], 3);
    let (source, values) = (
        noise(images * depth * 12 * 13, 1),
        noise(rows * depth * 9, 2),
    );
    let maps = Maps {
        source: size,
        grid: size,
        padding: [1, 1],
    };
    let run = |first: usize, second: usize| {
        let taps = Taps {
            values: &values,
            strides: [9 * depth, 9],
            reversed: false,
            scale: None,
        };
        let mut weights = Weights::new([rows, depth], taps);
        weights.caches = Caches {
            first: first << 10,
            second: second << 10,
        };
        convolve(images, &maps, &weights, &source, Finish::default())
    };
    let expected = run(32, 512);
    for [first, second] in [[4, 32], [16, 128], [48, 2048], [128, 4096]] {
        assert!(
            run(first, second) == expected,
            "caches of {first} and {second} KiB"
        );
    }
}
