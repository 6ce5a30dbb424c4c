//! Convolutions of maps with their channels last, which norms and products over the channels read in place.

use burn::module::Param;
use burn::tensor::Tensor;
use peft_ops::{Gelu, conv2d, depthwise_conv2d, linear_residual};

use crate::channels::like;
use crate::hooks::{Act, Hooks};
use crate::low_rank::{Factors, SidePath, Weighted};
use crate::run_site::run_site;
use crate::site::SiteKind;

use super::conv::Conv2d;
use super::linear::linear;

impl Conv2d {
    /// [`forward`](Self::forward) on a map with its channels last.
    ///
    /// # Shapes
    /// `[b, h, w, in] -> [b, h', w', out]`.
    pub fn forward_grid(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let (layer, acts) = self.changed(hooks);
        OnGrid(&layer).with_acts(acts, x)
    }

    /// Returns `residual + forward_grid(x)`, for a convolution of 1x1; in one pass if nothing acts at the site but
    /// on the weight.
    ///
    /// # Shapes
    /// `[b, h, w, out]`, `[b, h, w, in] -> [b, h, w, out]`.
    pub fn forward_grid_onto(&self, residual: Tensor<4>, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let (layer, acts) = self.changed(hooks);
        if !acts.is_empty() {
            return residual + OnGrid(&layer).with_acts(acts, x);
        }
        let (weight, bias) = OnGrid(&layer).product(&x);
        linear_residual(x, weight, bias, residual)
    }

    /// Returns `residual + forward_grid(gelu(x))`, or `forward_grid(gelu(x))` without a residual, for a
    /// convolution of 1x1; in one pass if nothing acts at the site but on the weight.
    ///
    /// # Shapes
    /// See [`forward_grid_onto`](Self::forward_grid_onto).
    pub fn forward_grid_gelu(
        &self,
        residual: Option<Tensor<4>>,
        x: Tensor<4>,
        gelu: Gelu,
        hooks: &Hooks,
    ) -> Tensor<4> {
        let (layer, acts) = self.changed(hooks);
        if !acts.is_empty() {
            let y = OnGrid(&layer).with_acts(acts, gelu.of(x));
            return match residual {
                Some(residual) => residual + y,
                None => y,
            };
        }
        let (weight, bias) = OnGrid(&layer).product(&x);
        peft_ops::linear_gelu(x, gelu, weight, bias, residual)
    }

    /// The layer whose outputs are multiplied by `scale [out]`.
    pub fn scaled(&self, scale: &Tensor<1>) -> Self {
        let scaled = |weight: Tensor<4>| {
            let scale = like(scale.clone(), &weight);
            weight * scale.reshape([-1, 1, 1, 1])
        };
        let mut layer = self.clone();
        layer.weight = Param::initialized(self.weight.id, scaled(self.weight.val()));
        layer.bias = self.bias.as_ref().map(|bias| {
            let value = bias.val();
            let scale = like(scale.clone(), &value);
            Param::initialized(bias.id, value * scale)
        });
        layer
    }
}

/// A convolution of maps with their channels last.
struct OnGrid<'a>(&'a Conv2d);

impl OnGrid<'_> {
    fn with_acts(&self, acts: Vec<Act>, x: Tensor<4>) -> Tensor<4> {
        let operation = |x: Tensor<4>| {
            let weight = like(self.0.weight.val(), &x);
            self.convolve(x.clone(), weight, self.like_bias(&x), self.0.groups())
        };
        run_site(acts, self.0.site(), x, [3, 3], operation, self)
    }

    /// The weight of a convolution of 1x1 as a matrix, and the bias, in the type of `x`.
    fn product(&self, x: &Tensor<4>) -> (Tensor<2>, Option<Tensor<1>>) {
        let weight: Tensor<4> = like(self.0.weight.val(), x);
        let [outputs, inputs, kh, kw] = weight.dims();
        assert_eq!([kh, kw], [1, 1], "{}: a kernel of 1x1", self.0.site().name);
        (weight.reshape([outputs, inputs]), self.like_bias(x))
    }

    fn like_bias(&self, x: &Tensor<4>) -> Option<Tensor<1>> {
        let bias = self.0.bias.as_ref();
        bias.map(|bias| like(bias.val(), x))
    }

    /// A convolution with this layer's stride and padding.
    fn convolve(
        &self,
        x: Tensor<4>,
        weight: Tensor<4>,
        bias: Option<Tensor<1>>,
        groups: usize,
    ) -> Tensor<4> {
        let SiteKind::Conv {
            kernel,
            stride,
            padding,
            ..
        } = self.0.site().kind
        else {
            unreachable!("checked when it was built")
        };
        let ([outputs, inputs, ..], channels) = (weight.dims(), x.dims()[3]);
        match (stride, padding) {
            _ if groups == 1 && padding == [0, 0] && kernel == stride => windows(x, weight, bias),
            ([1, 1], _) if groups == channels && (outputs, inputs) == (channels, 1) => {
                depthwise_conv2d(x, weight, bias, padding)
            }
            _ => {
                let x = x.permute([0, 3, 1, 2]);
                let y = self.0.convolve(x, weight, bias, groups);
                y.permute([0, 2, 3, 1])
            }
        }
    }

    /// `B x` for the second factor of a path, which is 1x1 in the layer's groups.
    fn up(&self, x: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
        match self.0.groups() {
            1 => windows(x, b, None),
            _ => {
                let y = conv2d(x.permute([0, 3, 1, 2]), b, None, self.0.pointwise());
                y.permute([0, 2, 3, 1])
            }
        }
    }
}

impl Weighted<4, 4> for OnGrid<'_> {
    fn low_rank(&self, x: Tensor<4>, factors: &Factors) -> Option<Tensor<4>> {
        let Factors::Conv(a, b) = factors else {
            return None;
        };
        let (a, b) = (like(a.clone(), &x), like(b.clone(), &x));
        // `A` reads all channels even if the layer is grouped, as in HF PEFT.
        let hidden = self.convolve(x, a, None, 1);
        Some(self.up(hidden, b))
    }
    fn bare(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = like(self.0.weight.val(), &x);
        self.convolve(x, weight, None, self.0.groups())
    }
    fn matrix(&self) -> Tensor<2> {
        self.0.matrix()
    }
    fn bias(&self) -> Option<Tensor<1>> {
        self.0.bias.as_ref().map(Param::val)
    }
    fn with_low_rank(&self, x: &Tensor<4>, path: &SidePath) -> Option<Tensor<4>> {
        let Factors::Conv(a, b) = path.plain_factors()? else {
            return None;
        };
        if self.0.groups() != 1 {
            return None;
        }
        let weight = like(self.0.weight.val(), x);
        let y = self.convolve(x.clone(), weight, self.like_bias(x), 1);
        let hidden = self.convolve(x.clone(), like(a.clone(), x), None, 1);
        let b = like(b.clone(), x) * path.factor();
        Some(linear_residual(hidden, b.flatten(1, 3), None, y))
    }
}

/// A convolution whose windows do not overlap as one matrix product. Rows and columns that are left over at the
/// end are not seen.
///
/// # Shapes
/// `[b, h, w, c]`, `[o, c, p, q]`, `[o]` -> `[b, h / p, w / q, o]`.
fn windows(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let [b, h, w, c] = x.dims();
    let [o, _, p, q] = weight.dims();
    if [p, q] == [1, 1] {
        return linear(x, weight.reshape([o, c]), bias);
    }
    let (gh, gw) = (h / p, w / q);
    let x = x
        .narrow(1, 0, gh * p)
        .narrow(2, 0, gw * q)
        .reshape([b, gh, p, gw, q, c])
        .permute([0, 1, 3, 2, 4, 5]) // [b, gh, gw, p, q, c]
        .reshape([b, gh, gw, p * q * c]);
    // The weight is small beside the map, so its axes are moved rather than the map's.
    let weight = weight.permute([0, 2, 3, 1]).reshape([o, p * q * c]);
    linear(x, weight, bias)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::init::Init;
    use crate::layers::Conv2dSizes;
    use crate::params::floats;
    use crate::random::Generator;
    use crate::site::Site;

    fn noise(shape: [usize; 4]) -> Tensor<4> {
        let mut generator = Generator::new(3, "conv_grid");
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| generator.normal()).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn assert_close(got: Tensor<4>, expected: Tensor<4>, what: &str) {
        assert_eq!(got.dims(), expected.dims(), "{what}");
        let largest = |x: Tensor<4>| {
            let values = floats(x.into_data()).into_iter();
            values.fold(0.0f32, |most, value| most.max(value.abs()))
        };
        let error = largest(got - expected.clone());
        let largest = largest(expected);
        assert!(
            error <= 1e-5 * largest,
            "{what}: off by {error} of {largest}"
        );
    }

    /// The kinds of convolutions that are computed in ways of their own: of windows that do not overlap and leave
    /// a row over, of 1x1, depthwise, in groups, and with a stride.
    #[test]
    fn the_order_of_the_axes_changes_nothing() {
        let init = Init::seeded(&Device::flex(), 5);
        for ([inputs, outputs], [kernel, stride, padding], groups) in [
            ([6, 10], [2, 2, 0], 1),
            ([6, 10], [1, 1, 0], 1),
            ([6, 6], [7, 1, 3], 6),
            ([6, 10], [3, 1, 1], 2),
            ([6, 10], [3, 2, 1], 1),
        ] {
            let sizes = Conv2dSizes {
                inputs,
                outputs,
                kernel,
                stride,
                padding,
            };
            let site = Site::new("conv", 1, sizes.grouped(groups));
            let conv = Conv2d::new(site, true, &init);
            let x = noise([2, 9, 7, inputs]);
            let expected = conv.forward(x.clone().permute([0, 3, 1, 2]), &Hooks::none());
            let got = conv.forward_grid(x, &Hooks::none());
            let what = conv.site().kind.to_string();
            assert_close(got, expected.permute([0, 2, 3, 1]), &what);
        }
    }

    #[test]
    fn what_follows_a_convolution_of_1x1_may_be_joined() {
        let init = Init::seeded(&Device::flex(), 5);
        let sizes = Conv2dSizes {
            inputs: 6,
            outputs: 5,
            kernel: 1,
            stride: 1,
            padding: 0,
        };
        let conv = Conv2d::new(Site::new("conv", 1, sizes.kind()), true, &init);
        let (x, residual) = (noise([2, 3, 4, 6]), noise([2, 3, 4, 5]));
        let none = Hooks::none();
        let plain = |x| conv.forward_grid(x, &none);
        let sum = conv.forward_grid_onto(residual.clone(), x.clone(), &none);
        assert_close(sum, residual.clone() + plain(x.clone()), "sum");
        let sum = conv.forward_grid_gelu(Some(residual.clone()), x.clone(), Gelu::Exact, &none);
        assert_close(
            sum,
            residual + plain(Gelu::Exact.of(x.clone())),
            "sum after gelu",
        );
        let scale = Tensor::<1>::from_floats([1.0, -2.0, 0.5, 0.0, 3.0], &Device::flex());
        let scaled = conv.scaled(&scale).forward_grid(x.clone(), &none);
        assert_close(scaled, plain(x) * scale.reshape([1, 1, 1, 5]), "scaled");
    }
}
