//! The values that flow through a backbone, and the shape of a boundary.

use std::fmt;
use std::ops::Range;

use burn::tensor::{DType, Device, Shape, Tensor, TensorData};

use crate::image_size::ImageSize;

/// The value at a cut: a batch of images, token sequences, feature maps or feature vectors.
#[derive(Clone, Debug)]
pub enum Activation {
    /// Images or feature maps, channels first `[b, c, h, w]`.
    Map(Tensor<4>),
    /// Feature maps, channels last `[b, h, w, c]`: what windowed attention works on.
    Grid(Tensor<4>),
    /// Token sequences `[b, n, d]`, class token (if any) first.
    Tokens(Tokens),
    /// Feature vectors, which the head reads `[b, d]`.
    Features(Tensor<2>),
}

/// Token sequences: the image's own tokens, then extra ones that adapters put behind them.
///
/// Attention, and everything that works on each token alone, sees both. Acts at a boundary, and
/// pooling, touch only the own tokens of the image.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// `[b, n + extras, d]`.
    pub x: Tensor<3>,
    extras: Vec<Extra>,
}

/// Extra tokens of one adapter, in the order of the sequence.
#[derive(Clone, Copy, Debug)]
struct Extra {
    owner: usize,
    count: usize,
}

impl From<Tensor<3>> for Tokens {
    fn from(x: Tensor<3>) -> Self {
        let extras = Vec::new();
        Self { x, extras }
    }
}

impl From<Tensor<3>> for Activation {
    fn from(x: Tensor<3>) -> Self {
        Self::Tokens(x.into())
    }
}

impl Tokens {
    /// The number of the image's own tokens.
    pub fn own(&self) -> usize {
        let extras: usize = self.extras.iter().map(|extra| extra.count).sum();
        self.x.dims()[1] - extras
    }

    /// Applies a function to the whole sequence; it must keep the length.
    ///
    /// # Shapes
    /// `f: [b, n + extras, d] -> [b, n + extras, d']`.
    pub fn map(self, f: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Self {
        Self {
            x: f(self.x),
            extras: self.extras,
        }
    }

    /// Applies a function to the image's own tokens; it must keep their number.
    ///
    /// # Shapes
    /// `f: [b, n, d] -> [b, n, d]`.
    pub(crate) fn map_own(self, f: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Self {
        // Without extras there is nothing to cut off and to append again, so the usual case makes
        // no copy.
        if self.extras.is_empty() {
            return self.map(f);
        }
        let (own, all) = (self.own(), self.x.dims()[1]);
        self.map(|x| {
            let extras = x.clone().narrow(1, own, all - own);
            Tensor::cat(vec![f(x.narrow(1, 0, own)), extras], 1)
        })
    }

    /// Appends `tokens` to the sequence; with `replace` the owner's earlier ones are removed.
    ///
    /// # Shapes
    /// `tokens: [b, p, d]`.
    pub(crate) fn with_extras(self, owner: usize, tokens: Tensor<3>, replace: bool) -> Self {
        // New tokens always come last, so that the own tokens of the image stay one slice at the
        // front.
        let mut start = self.own();
        let mut parts = vec![self.x.clone().narrow(1, 0, start)];
        let mut extras = Vec::new();
        for extra in self.extras {
            if !(replace && extra.owner == owner) {
                parts.push(self.x.clone().narrow(1, start, extra.count));
                extras.push(extra);
            }
            start += extra.count;
        }
        let count = tokens.dims()[1];
        extras.push(Extra { owner, count });
        parts.push(tokens);
        Self {
            x: Tensor::cat(parts, 1),
            extras,
        }
    }
}

/// Applies a tensor expression to the value of any variant and wraps the result again.
macro_rules! each {
    ($value:expr, $x:ident => $body:expr) => {
        match $value {
            Activation::Map($x) => Activation::Map($body),
            Activation::Grid($x) => Activation::Grid($body),
            Activation::Tokens(tokens) => Activation::Tokens(tokens.map(|$x| $body)),
            Activation::Features($x) => Activation::Features($body),
        }
    };
}

/// Reads a property of the value of any variant.
macro_rules! read {
    ($value:expr, $x:ident => $body:expr) => {
        match $value {
            Activation::Map($x) | Activation::Grid($x) => $body,
            Activation::Tokens(Tokens { x: $x, .. }) => $body,
            Activation::Features($x) => $body,
        }
    };
}

impl Activation {
    /// The batch size.
    pub fn batch(&self) -> usize {
        read!(self, x => x.dims()[0])
    }

    /// The shape, batch first.
    pub fn shape(&self) -> Shape {
        read!(self, x => x.shape())
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        read!(self, x => x.dtype())
    }

    /// The device it lives on.
    pub fn device(&self) -> Device {
        read!(self, x => x.device())
    }

    /// The values in row-major order, as `f32`.
    pub fn to_vec(&self) -> Vec<f32> {
        read!(self, x => crate::params::floats(x.clone().into_data()))
    }

    /// The activations of the images `rows` alone, on `device`.
    pub fn rows(self, rows: Range<usize>, device: &Device) -> Self {
        let (first, count) = (rows.start, rows.len());
        each!(self, x => x.narrow(0, first, count).to_device(device))
    }

    /// The same values with another element type.
    pub fn cast(self, dtype: DType) -> Self {
        if self.dtype() == dtype {
            return self;
        }
        each!(self, x => x.cast(dtype))
    }

    /// The value as a constant on the autodiff device: this is what the frozen prefix hands to the
    /// part that trains.
    pub fn into_autodiff(self) -> Self {
        each!(self, x => Tensor::from_inner(x))
    }

    /// The activation with every value multiplied by `factor`.
    pub fn scaled(self, factor: f64) -> Self {
        // Most scales are 1, and a product would keep a copy of the activation for the backward
        // pass.
        if factor == 1.0 {
            return self;
        }
        each!(self, x => x * factor)
    }

    /// The sum of two activations of the same shape, where `other` may have a batch of 1. The extra
    /// tokens are those of `self`.
    ///
    /// # Panics
    /// If the two are different variants.
    pub fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Map(x), Self::Map(y)) => Self::Map(x + y),
            (Self::Grid(x), Self::Grid(y)) => Self::Grid(x + y),
            (Self::Tokens(x), Self::Tokens(y)) => Self::Tokens(x.map(|x| x + y.x)),
            (Self::Features(x), Self::Features(y)) => Self::Features(x + y),
            (x, y) => panic!(
                "expected activations of the same kind, got shapes {:?} and {:?}",
                x.shape(),
                y.shape()
            ),
        }
    }

    /// Applies a function to the channels at every position.
    ///
    /// # Shapes
    /// `f: [positions, c] -> [positions, c']`.
    pub fn per_position(self, f: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Self {
        fn last<const D: usize>(x: Tensor<D>, f: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<D> {
            let mut shape = x.dims();
            let positions = shape[..D - 1].iter().product::<usize>();
            let y = f(x.reshape([positions, shape[D - 1]]));
            shape[D - 1] = y.dims()[1];
            y.reshape(shape)
        }
        match self {
            Self::Map(x) => {
                // A matrix product over the channels needs them last.
                let x = last(x.permute([0, 2, 3, 1]), f); // [b, h, w, c]
                Self::Map(x.permute([0, 3, 1, 2]))
            }
            Self::Grid(x) => Self::Grid(last(x, f)),
            Self::Tokens(tokens) => Self::Tokens(tokens.map(|x| last(x, f))),
            Self::Features(x) => Self::Features(f(x)),
        }
    }

    /// The features `[b, d]`; none for any other variant.
    pub fn features(self) -> Option<Tensor<2>> {
        match self {
            Self::Features(x) => Some(x),
            _ => None,
        }
    }
}

/// The shape of the activation at a boundary, without the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BoundaryShape {
    /// Image or feature map, channels first.
    Map {
        /// Channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// Feature map, channels last.
    Grid {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Channels.
        channels: usize,
    },
    /// Token sequence under global attention: extra tokens can join it.
    Tokens {
        /// Tokens, class token included.
        count: usize,
        /// Width of each token.
        width: usize,
    },
    /// Feature vector.
    Features {
        /// Width.
        width: usize,
    },
}

impl BoundaryShape {
    /// An image of three channels.
    pub fn image(size: ImageSize) -> Self {
        Self::Map {
            channels: 3,
            height: size.height,
            width: size.width,
        }
    }

    /// Number of values per image.
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }

    /// Number of channels at each position.
    pub fn channels(&self) -> usize {
        match *self {
            Self::Map { channels, .. } | Self::Grid { channels, .. } => channels,
            Self::Tokens { width, .. } | Self::Features { width } => width,
        }
    }

    /// The sizes of the activation's axes in order, without the batch.
    pub fn dims(&self) -> Vec<usize> {
        match *self {
            Self::Map {
                channels,
                height,
                width,
            } => vec![channels, height, width],
            Self::Grid {
                height,
                width,
                channels,
            } => vec![height, width, channels],
            Self::Tokens { count, width } => vec![count, width],
            Self::Features { width } => vec![width],
        }
    }

    /// The shape with a single position, to be broadcast: `[1, d]`, `[c, 1, 1]`, `[1, 1, c]`.
    pub fn shared(self) -> Self {
        match self {
            Self::Map { channels, .. } => Self::Map {
                channels,
                height: 1,
                width: 1,
            },
            Self::Grid { channels, .. } => Self::Grid {
                height: 1,
                width: 1,
                channels,
            },
            Self::Tokens { width, .. } => Self::Tokens { count: 1, width },
            Self::Features { width } => Self::Features { width },
        }
    }

    /// Builds an activation of this shape from its values, image by image.
    ///
    /// # Shapes
    /// `values`: [`elements`](Self::elements) per image.
    pub fn activation(&self, values: Vec<f32>, device: &Device) -> Activation {
        let batch = values.len() / self.elements();
        let data = TensorData::new(values, [batch, self.elements()]);
        self.of_rows(Tensor::from_data(data, device))
    }

    /// Builds an activation from a matrix with one image per row.
    ///
    /// # Shapes
    /// `[b, elements]`.
    pub fn of_rows(&self, rows: Tensor<2>) -> Activation {
        let shape = [&[rows.dims()[0]], &self.dims()[..]].concat();
        match self {
            Self::Map { .. } => Activation::Map(rows.reshape(Shape::from(shape))),
            Self::Grid { .. } => Activation::Grid(rows.reshape(Shape::from(shape))),
            Self::Tokens { .. } => rows.reshape::<3, _>(Shape::from(shape)).into(),
            Self::Features { .. } => Activation::Features(rows),
        }
    }

    /// The name of the variant, for messages.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Map { .. } => "map",
            Self::Grid { .. } => "grid",
            Self::Tokens { .. } => "tokens",
            Self::Features { .. } => "features",
        }
    }
}

impl fmt::Display for BoundaryShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.word(), self.dims())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_are_replaced_by_their_owner_only() {
        let device = Device::flex();
        let token = |value: f32, count: usize| Tensor::<3>::full([1, count, 1], value, &device);
        let values = |tokens: &Tokens| crate::params::floats(tokens.x.clone().into_data());
        let tokens = Tokens::from(token(0.0, 2));
        let tokens = tokens.with_extras(0, token(1.0, 1), true);
        let tokens = tokens.with_extras(1, token(2.0, 2), true);
        assert_eq!(
            (tokens.own(), values(&tokens)),
            (2, vec![0., 0., 1., 2., 2.])
        );
        let tokens = tokens.with_extras(0, token(3.0, 2), true);
        assert_eq!(
            (tokens.own(), values(&tokens)),
            (2, vec![0., 0., 2., 2., 3., 3.])
        );
        let tokens = tokens
            .with_extras(0, token(4.0, 1), false)
            .map_own(|x| x + 9.0);
        assert_eq!(values(&tokens), vec![9., 9., 2., 2., 3., 3., 4.]);
    }

    #[test]
    fn a_map_is_seen_channel_by_channel_at_each_position() {
        let x = Tensor::<1>::from_floats([1., 2., 3., 4.], &Device::flex()).reshape([1, 2, 1, 2]);
        // The two channels swap at every position.
        let swapped = Activation::Map(x).per_position(|x| x.flip([1]));
        assert_eq!(swapped.to_vec(), vec![3., 4., 1., 2.]);
    }
}
