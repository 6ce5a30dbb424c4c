//! Maps, convolutions and norms in either precision, written out plainly: the identities are checked against these.

/// A float type.
pub trait Real:
    Copy
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
{
    /// The nearest value.
    fn of(value: f64) -> Self;
    /// The same value in double precision.
    fn wide(self) -> f64;
    /// The square root.
    fn root(self) -> Self;
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn wide(self) -> f64 {
        self
    }
    fn root(self) -> Self {
        self.sqrt()
    }
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as Self
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn root(self) -> Self {
        self.sqrt()
    }
}

/// Values rounded to a type.
pub fn rounded<T: Real>(values: &[f64]) -> Vec<T> {
    values.iter().map(|value| T::of(*value)).collect()
}

/// Feature maps `[n, c, h, w]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Map<T> {
    /// `[n, c, h, w]`.
    pub shape: [usize; 4],
    /// The values, the last axis fastest.
    pub values: Vec<T>,
}

impl<T: Real> Map<T> {
    /// The map with a function of its channel and value at each place.
    pub fn each(&self, f: impl Fn(usize, T) -> T) -> Self {
        let [_, channels, height, width] = self.shape;
        let values = self.values.iter().enumerate();
        let values = values.map(|(place, value)| f(place / (height * width) % channels, *value));
        Self {
            shape: self.shape,
            values: values.collect(),
        }
    }

    /// The map with one value added to each channel.
    pub fn plus(&self, delta: &[T]) -> Self {
        self.each(|channel, value| value + delta[channel])
    }

    /// The sum of two maps.
    pub fn sum(&self, other: &Self) -> Self {
        let pairs = self.values.iter().zip(&other.values);
        Self {
            shape: self.shape,
            values: pairs.map(|(a, b)| *a + *b).collect(),
        }
    }

    /// The map where it is positive.
    pub fn relu(&self) -> Self {
        let zero = T::of(0.0);
        self.each(|_, value| if value > zero { value } else { zero })
    }

    /// The map without `border` rows and columns on each side.
    pub fn interior(&self, border: usize) -> Self {
        let [n, c, h, w] = self.shape;
        let mut values = Vec::new();
        for plane in self.values.chunks_exact(h * w) {
            for row in border..h - border {
                values.extend(&plane[row * w + border..row * w + w - border]);
            }
        }
        Self {
            shape: [n, c, h - 2 * border, w - 2 * border],
            values,
        }
    }
}

/// A convolution without bias.
#[derive(Clone, Debug)]
pub struct Conv<T> {
    /// `[outputs, inputs, kernel, kernel]`.
    pub shape: [usize; 4],
    /// The weights.
    pub weight: Vec<T>,
    /// Rows and columns by which the kernel moves.
    pub stride: usize,
    /// Rows and columns of zeros around the map.
    pub padding: usize,
}

impl<T: Real> Conv<T> {
    fn tap(&self, output: usize, input: usize, place: usize) -> T {
        let [_, inputs, height, width] = self.shape;
        self.weight[(output * inputs + input) * height * width + place]
    }

    /// # Shapes
    /// `[n, inputs, h, w] -> [n, outputs, h', w']`.
    pub fn forward(&self, x: &Map<T>) -> Map<T> {
        let [n, _, h, w] = x.shape;
        let [outputs, inputs, kernel, _] = self.shape;
        let size = |side: usize| (side + 2 * self.padding - kernel) / self.stride + 1;
        let (rows, columns) = (size(h), size(w));
        let mut values = Vec::with_capacity(n * outputs * rows * columns);
        for image in 0..n {
            for output in 0..outputs {
                for at in 0..rows * columns {
                    let (top, left) = (at / columns * self.stride, at % columns * self.stride);
                    let mut sum = T::of(0.0);
                    for input in 0..inputs {
                        let plane = &x.values[(image * inputs + input) * h * w..][..h * w];
                        for place in 0..kernel * kernel {
                            let row = (top + place / kernel).checked_sub(self.padding);
                            let column = (left + place % kernel).checked_sub(self.padding);
                            let (Some(row), Some(column)) = (row, column) else {
                                continue;
                            };
                            if row < h && column < w {
                                sum =
                                    sum + self.tap(output, input, place) * plane[row * w + column];
                            }
                        }
                    }
                    values.push(sum);
                }
            }
        }
        Map {
            shape: [n, outputs, rows, columns],
            values,
        }
    }

    /// Returns the output of the convolution, away from the border, for a map with one value in each channel.
    pub fn of_constant(&self, delta: &[T]) -> Vec<T> {
        let [outputs, inputs, height, width] = self.shape;
        let of = |output: usize| {
            let mut sum = T::of(0.0);
            for (input, delta) in delta.iter().enumerate().take(inputs) {
                for place in 0..height * width {
                    sum = sum + self.tap(output, input, place) * *delta;
                }
            }
            sum
        };
        (0..outputs).map(of).collect()
    }
}

/// A BatchNorm with frozen statistics.
#[derive(Clone, Debug)]
pub struct BatchNorm<T> {
    /// The scale `gamma`.
    pub weight: Vec<T>,
    /// The shift `beta`.
    pub bias: Vec<T>,
    /// The mean.
    pub mean: Vec<T>,
    /// The variance.
    pub variance: Vec<T>,
    /// The epsilon that is added to the variance.
    pub epsilon: f64,
}

impl<T: Real> BatchNorm<T> {
    fn scale(&self, channel: usize) -> T {
        self.weight[channel] / (self.variance[channel] + T::of(self.epsilon)).root()
    }

    /// # Shapes
    /// `[n, c, h, w] -> [n, c, h, w]`.
    pub fn forward(&self, x: &Map<T>) -> Map<T> {
        x.each(|channel, value| {
            (value - self.mean[channel]) * self.scale(channel) + self.bias[channel]
        })
    }

    /// The norm of the batch's own statistics.
    ///
    /// # Shapes
    /// `[n, c, h, w] -> [n, c, h, w]`.
    pub fn of_batch(&self, x: &Map<T>) -> Map<T> {
        let [n, channels, h, w] = x.shape;
        let count = T::of((n * h * w) as f64);
        let zero = T::of(0.0);
        let mean_of = |f: &dyn Fn(usize, T) -> T| -> Vec<T> {
            let mut sums = vec![zero; channels];
            for (place, value) in x.values.iter().enumerate() {
                let channel = place / (h * w) % channels;
                sums[channel] = sums[channel] + f(channel, *value);
            }
            sums.iter().map(|sum| *sum / count).collect()
        };
        let mean = mean_of(&|_, value| value);
        let variance = mean_of(&|channel, value| {
            let away = value - mean[channel];
            away * away
        });
        let own = Self {
            mean,
            variance,
            ..self.clone()
        };
        own.forward(x)
    }

    /// The norm with what a shift of its input by `delta` adds to its output.
    pub fn shifted(&self, delta: &[T]) -> Self {
        let shift =
            |(channel, delta): (usize, &T)| self.bias[channel] + self.scale(channel) * *delta;
        Self {
            bias: delta.iter().enumerate().map(shift).collect(),
            ..self.clone()
        }
    }

    /// The norm with `delta` added to its output.
    pub fn raised(&self, delta: &[T]) -> Self {
        let pairs = self.bias.iter().zip(delta);
        Self {
            bias: pairs.map(|(bias, delta)| *bias + *delta).collect(),
            ..self.clone()
        }
    }
}

/// A bottleneck block under torchvision's names.
#[derive(Clone, Debug)]
pub struct Bottleneck<T> {
    /// The convolutions of the branch.
    pub convs: [Conv<T>; 3],
    /// The norms after them.
    pub norms: [BatchNorm<T>; 3],
    /// The projection of the shortcut, if it has one.
    pub downsample: Option<(Conv<T>, BatchNorm<T>)>,
}

impl<T: Real> Bottleneck<T> {
    /// # Shapes
    /// `[n, c, h, w] -> [n, c', h', w']`.
    pub fn forward(&self, x: &Map<T>) -> Map<T> {
        let [first, second, third] = &self.convs;
        let [bn1, bn2, bn3] = &self.norms;
        let hidden = bn1.forward(&first.forward(x)).relu();
        let hidden = bn2.forward(&second.forward(&hidden)).relu();
        let branch = bn3.forward(&third.forward(&hidden));
        let shortcut = match &self.downsample {
            None => x.clone(),
            Some((conv, norm)) => norm.forward(&conv.forward(x)),
        };
        branch.sum(&shortcut).relu()
    }

    /// The block whose first norm has a shift in the place of a prompt `delta` at its input.
    pub fn with_first_norm_shifted(&self, delta: &[T]) -> Self {
        let mut block = self.clone();
        block.norms[0] = self.norms[0].shifted(&self.convs[0].of_constant(delta));
        block
    }

    /// The block whose norms have shifts in the place of a prompt `delta` at its input.
    pub fn with_norms_shifted(&self, delta: &[T]) -> Self {
        let mut block = self.with_first_norm_shifted(delta);
        match &mut block.downsample {
            None => block.norms[2] = self.norms[2].raised(delta),
            Some((conv, norm)) => *norm = norm.shifted(&conv.of_constant(delta)),
        }
        block
    }
}

/// `max|a - b| / max|b|`.
pub fn residual<T: Real>(a: &[T], b: &[T]) -> f64 {
    let largest =
        |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |m: f64, v| m.max(v.abs()));
    let pairs = a.iter().zip(b);
    largest(&mut pairs.map(|(a, b)| a.wide() - b.wide())) / largest(&mut b.iter().map(|b| b.wide()))
}
