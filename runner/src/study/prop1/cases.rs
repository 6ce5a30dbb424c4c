//! The identities behind Proposition 1, and the readings of it that do not hold.

use peft_core::random::Generator;

use super::tensor::{BatchNorm, Bottleneck, Conv, Map, Real, residual, rounded};

/// Sizes of what a case is checked on.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Images, channels, and sides of the maps.
    pub input: [usize; 4],
    /// Channels that a convolution writes.
    pub outputs: usize,
    /// The stride of convolutions.
    pub stride: usize,
    /// The epsilon that the norms add to a variance.
    pub epsilon: f64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            input: [3, 6, 8, 8],
            outputs: 5,
            stride: 1,
            epsilon: 1e-5,
        }
    }
}

/// Draws the tensors of a case: the same values in both precisions.
pub struct Draw {
    generator: Generator,
    sizes: Sizes,
}

impl Draw {
    /// A stream of values for a case.
    pub fn new(seed: u64, case: &str, sizes: Sizes) -> Self {
        Self {
            generator: Generator::new(seed, &format!("prop1/{case}")),
            sizes,
        }
    }

    fn values<T: Real>(&mut self, count: usize) -> Vec<T> {
        let values: Vec<f64> = (0..count)
            .map(|_| f64::from(self.generator.normal()))
            .collect();
        rounded(&values)
    }

    /// Values around 1, away from 0.
    fn positive<T: Real>(&mut self, count: usize) -> Vec<T> {
        let mut draw = |_| f64::from(self.generator.uniform(0.5, 1.5));
        let values: Vec<f64> = (0..count).map(&mut draw).collect();
        rounded(&values)
    }

    fn map<T: Real>(&mut self) -> Map<T> {
        let shape = self.sizes.input;
        Map {
            shape,
            values: self.values(shape.iter().product()),
        }
    }

    fn conv<T: Real>(&mut self, [inputs, outputs]: [usize; 2], kernel: usize) -> Conv<T> {
        let shape = [outputs, inputs, kernel, kernel];
        let count: usize = shape.iter().product();
        let fan = (inputs * kernel * kernel) as f64;
        let weight: Vec<T> = self.values(count);
        Conv {
            shape,
            weight: weight.iter().map(|w| *w / T::of(fan.sqrt())).collect(),
            stride: self.sizes.stride,
            padding: 0,
        }
    }

    fn norm<T: Real>(&mut self, channels: usize) -> BatchNorm<T> {
        BatchNorm {
            weight: self.positive(channels),
            bias: self.values(channels),
            mean: self.values(channels),
            variance: self.positive(channels),
            epsilon: self.sizes.epsilon,
        }
    }

    fn bottleneck<T: Real>(&mut self, projected: bool) -> Bottleneck<T> {
        let (inputs, inner) = (self.sizes.input[1], self.sizes.outputs);
        let stride = if projected { self.sizes.stride } else { 1 };
        let outputs = if projected { 2 * inputs } else { inputs };
        let plain = |conv: Conv<T>, stride, padding| Conv {
            stride,
            padding,
            ..conv
        };
        let convs = [
            plain(self.conv([inputs, inner], 1), 1, 0),
            plain(self.conv([inner, inner], 3), stride, 1),
            plain(self.conv([inner, outputs], 1), 1, 0),
        ];
        Bottleneck {
            convs,
            norms: [self.norm(inner), self.norm(inner), self.norm(outputs)],
            downsample: projected.then(|| {
                let conv = self.conv([inputs, outputs], 1);
                (plain(conv, stride, 0), self.norm(outputs))
            }),
        }
    }
}

/// The residual of a prompt before a convolution and a frozen norm against the shifted norm.
fn conv_residual<T: Real>(draw: &mut Draw, kernel: usize, padding: usize, whole: bool) -> f64 {
    let (inputs, outputs) = (draw.sizes.input[1], draw.sizes.outputs);
    let x: Map<T> = draw.map();
    let delta: Vec<T> = draw.values(inputs);
    let conv = draw.conv([inputs, outputs], kernel);
    // The interior of a padded map is simple to say for stride 1 only.
    let stride = if padding > 0 { 1 } else { conv.stride };
    let conv = Conv {
        padding,
        stride,
        ..conv
    };
    let norm = draw.norm(outputs);
    let prompted = norm.forward(&conv.forward(&x.plus(&delta)));
    let shifted = norm
        .shifted(&conv.of_constant(&delta))
        .forward(&conv.forward(&x));
    let part = |map: &Map<T>| match whole {
        true => map.clone(),
        false => map.interior(padding),
    };
    residual(&part(&prompted).values, &part(&shifted).values)
}

pub fn bn_conv1x1<T: Real>(draw: &mut Draw) -> f64 {
    conv_residual::<T>(draw, 1, 0, true)
}

/// Without padding everywhere, with padding in the interior.
pub fn bn_conv3x3_valid<T: Real>(draw: &mut Draw) -> f64 {
    let valid = conv_residual::<T>(draw, 3, 0, true);
    valid.max(conv_residual::<T>(draw, 3, 1, false))
}

pub fn bn_conv3x3_padded<T: Real>(draw: &mut Draw) -> f64 {
    conv_residual::<T>(draw, 3, 1, true)
}

fn bottleneck<T: Real>(draw: &mut Draw, projected: bool, first_only: bool) -> f64 {
    let x: Map<T> = draw.map();
    let delta: Vec<T> = draw.values(draw.sizes.input[1]);
    let block: Bottleneck<T> = draw.bottleneck(projected);
    of_block(&block, &x, &delta, first_only)
}

/// The residual of a prompt at the input of a bottleneck against its norms with shifts.
pub fn of_block<T: Real>(block: &Bottleneck<T>, x: &Map<T>, delta: &[T], first_only: bool) -> f64 {
    let shifted = match first_only {
        true => block.with_first_norm_shifted(delta),
        false => block.with_norms_shifted(delta),
    };
    let prompted = block.forward(&x.plus(delta));
    residual(&prompted.values, &shifted.forward(x).values)
}

pub fn bottleneck_identity<T: Real>(draw: &mut Draw) -> f64 {
    bottleneck::<T>(draw, false, false)
}

pub fn bottleneck_downsample<T: Real>(draw: &mut Draw) -> f64 {
    bottleneck::<T>(draw, true, false)
}

/// The smaller residual of both bottlenecks.
pub fn bn1_only<T: Real>(draw: &mut Draw) -> f64 {
    let identity = bottleneck::<T>(draw, false, true);
    identity.min(bottleneck::<T>(draw, true, true))
}

/// The residual between a norm of batch statistics with a prompt before it and without.
pub fn bn_batch_statistics<T: Real>(draw: &mut Draw) -> f64 {
    let (inputs, outputs) = (draw.sizes.input[1], draw.sizes.outputs);
    let x: Map<T> = draw.map();
    let delta: Vec<T> = draw.values(inputs);
    let (conv, norm): (Conv<T>, BatchNorm<T>) =
        (draw.conv([inputs, outputs], 1), draw.norm(outputs));
    // As many positions as there are make the batch's statistics as exact as they can be.
    let conv = Conv { stride: 1, ..conv };
    let prompted = norm.of_batch(&conv.forward(&x.plus(&delta)));
    residual(&prompted.values, &norm.of_batch(&conv.forward(&x)).values)
}

/// LayerNorm of rows.
fn layer_norm<T: Real>(rows: &[T], weight: &[T], bias: &[T], epsilon: f64) -> Vec<T> {
    let width = weight.len();
    let count = T::of(width as f64);
    let mut normed = Vec::with_capacity(rows.len());
    for row in rows.chunks_exact(width) {
        let sum = |f: &dyn Fn(T) -> T| row.iter().fold(T::of(0.0), |sum, value| sum + f(*value));
        let mean = sum(&|value| value) / count;
        let variance = sum(&|value| (value - mean) * (value - mean)) / count;
        let scale = (variance + T::of(epsilon)).root();
        let affine = row.iter().zip(weight.iter().zip(bias));
        normed.extend(affine.map(|(value, (w, b))| (*value - mean) / scale * *w + *b));
    }
    normed
}

/// Tokens, a prompt, and a LayerNorm's scale and shift.
fn tokens<T: Real>(draw: &mut Draw) -> [Vec<T>; 4] {
    let [n, width, h, w] = draw.sizes.input;
    let rows = draw.values(n * h * w * width);
    [
        rows,
        draw.values(width),
        draw.positive(width),
        draw.values(width),
    ]
}

/// A prompt after a LayerNorm and before a linear layer, against the norm with the prompt in its shift.
pub fn ln_after<T: Real>(draw: &mut Draw) -> f64 {
    let [rows, delta, weight, bias] = tokens::<T>(draw);
    let width = weight.len();
    let linear: Vec<T> = draw.values(width * width);
    let through = |rows: &[T]| -> Vec<T> {
        let row = |row: &[T]| -> Vec<T> {
            let output = |weights: &[T]| {
                let terms = weights.iter().zip(row);
                terms.fold(T::of(0.0), |sum, (w, x)| sum + *w * *x)
            };
            linear.chunks_exact(width).map(output).collect()
        };
        rows.chunks_exact(width).flat_map(row).collect()
    };
    let sums = |a: &[T]| -> Vec<T> {
        let pairs = a.iter().zip(delta.iter().cycle());
        pairs.map(|(a, d)| *a + *d).collect()
    };
    let epsilon = draw.sizes.epsilon;
    let prompted = sums(&layer_norm(&rows, &weight, &bias, epsilon));
    let shifted = layer_norm(&rows, &weight, &sums(&bias), epsilon);
    residual(&prompted, &shifted).max(residual(&through(&prompted), &through(&shifted)))
}

/// A prompt before a LayerNorm against the best affine map of the norm's output in each dimension: what
/// least squares leave, relative to the centred output.
pub fn ln_before<T: Real>(draw: &mut Draw) -> f64 {
    let [rows, delta, weight, bias] = tokens::<T>(draw);
    let (width, epsilon) = (weight.len(), draw.sizes.epsilon);
    let moved: Vec<T> = rows
        .iter()
        .zip(delta.iter().cycle())
        .map(|(x, d)| *x + *d)
        .collect();
    let normed = |rows: &[T]| layer_norm(rows, &weight, &bias, epsilon);
    let (x, y) = (normed(&rows), normed(&moved));
    let (mut left, mut all) = (0.0, 0.0);
    for dimension in 0..width {
        let column = |rows: &[T]| -> Vec<f64> {
            let column: Vec<f64> = rows
                .iter()
                .skip(dimension)
                .step_by(width)
                .map(|v| v.wide())
                .collect();
            let mean = column.iter().sum::<f64>() / column.len() as f64;
            column.iter().map(|value| value - mean).collect()
        };
        let (x, y) = (column(&x), column(&y));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (xx, xy, yy) = (dot(&x, &x), dot(&x, &y), dot(&y, &y));
        left += yy - xy * xy / xx;
        all += yy;
    }
    (left / all).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name, and the residual in both precisions.
    type Identity = (&'static str, fn(&mut Draw) -> f64, fn(&mut Draw) -> f64);

    /// Over random shapes, strides and epsilons.
    #[test]
    fn the_identities_hold_whatever_the_sizes() {
        let equal: [Identity; 6] = [
            ("bn-conv1x1", bn_conv1x1::<f64>, bn_conv1x1::<f32>),
            (
                "bn-conv3x3-valid",
                bn_conv3x3_valid::<f64>,
                bn_conv3x3_valid::<f32>,
            ),
            (
                "bottleneck-identity",
                bottleneck_identity::<f64>,
                bottleneck_identity::<f32>,
            ),
            (
                "bottleneck-downsample",
                bottleneck_downsample::<f64>,
                bottleneck_downsample::<f32>,
            ),
            (
                "bn-batch-statistics",
                bn_batch_statistics::<f64>,
                bn_batch_statistics::<f32>,
            ),
            ("ln-after", ln_after::<f64>, ln_after::<f32>),
        ];
        let mut generator = Generator::new(1, "prop1 sizes");
        for round in 0..40 {
            let sizes = Sizes {
                input: [
                    1 + generator.below(3),
                    4 + generator.below(5),
                    4 + generator.below(6),
                    4 + generator.below(6),
                ],
                outputs: 1 + generator.below(6),
                stride: 1 + generator.below(2),
                epsilon: [1e-6, 1e-5, 1e-3][generator.below(3)],
            };
            for (id, wide, narrow) in equal {
                let of = |case: fn(&mut Draw) -> f64| case(&mut Draw::new(round, id, sizes));
                let (f64s, f32s) = (of(wide), of(narrow));
                assert!(f64s < 1e-12, "{id} {sizes:?}: {f64s}");
                assert!(f32s < 1e-5, "{id} {sizes:?}: {f32s}");
            }
        }
    }

    #[test]
    fn a_prompt_map_is_a_shift_by_what_the_convolution_makes_of_it() {
        let mut draw = Draw::new(3, "map", Sizes::default());
        let (x, delta): (Map<f64>, Map<f64>) = (draw.map(), draw.map());
        let conv = Conv {
            padding: 1,
            ..draw.conv([6, 5], 3)
        };
        let norm = draw.norm(5);
        let prompted = norm.forward(&conv.forward(&x.sum(&delta)));
        let zero = BatchNorm {
            bias: vec![0.0; 5],
            mean: vec![0.0; 5],
            ..norm.clone()
        };
        let shift = zero.forward(&conv.forward(&delta));
        let shifted = norm.forward(&conv.forward(&x)).sum(&shift);
        assert!(residual(&prompted.values, &shifted.values) < 1e-12);
    }
}
