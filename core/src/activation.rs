//! What flows through a backbone and what a boundary looks like.

use std::fmt;

use burn::tensor::{DType, Device, Shape, Tensor};

/// The value at a cut: a batch of images, token sequences, feature maps or feature vectors.
#[derive(Clone, Debug)]
pub enum Activation {
    /// Images or feature maps `[b, c, h, w]`.
    Map(Tensor<4>),
    /// Token sequences `[b, n, d]`, class token (if any) first.
    Tokens(Tensor<3>),
    /// What the head sees `[b, d]`.
    Features(Tensor<2>),
}

/// Applies a tensor expression to whichever variant is there and wraps the result again.
macro_rules! each {
    ($value:expr, $x:ident => $body:expr) => {
        match $value {
            Activation::Map($x) => Activation::Map($body),
            Activation::Tokens($x) => Activation::Tokens($body),
            Activation::Features($x) => Activation::Features($body),
        }
    };
}

/// Reads something off whichever variant is there.
macro_rules! read {
    ($value:expr, $x:ident => $body:expr) => {
        match $value {
            Activation::Map($x) => $body,
            Activation::Tokens($x) => $body,
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

    /// The same values with another element type.
    pub fn cast(self, dtype: DType) -> Self {
        if self.dtype() == dtype {
            return self;
        }
        each!(self, x => x.cast(dtype))
    }

    /// A constant on the autodiff device: the frozen prefix hands this to what trains.
    pub fn into_autodiff(self) -> Self {
        each!(self, x => Tensor::from_inner(x))
    }

    /// The features `[b, d]`, if it is those.
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
    /// Image or feature map.
    Map {
        /// Channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// Token sequence.
    Tokens {
        /// Tokens, class token included.
        count: usize,
        /// Width of each.
        width: usize,
    },
    /// Feature vector.
    Features {
        /// Width.
        width: usize,
    },
}

impl BoundaryShape {
    /// Values an image has here.
    pub fn elements(&self) -> usize {
        match *self {
            Self::Map {
                channels,
                height,
                width,
            } => channels * height * width,
            Self::Tokens { count, width } => count * width,
            Self::Features { width } => width,
        }
    }
}

impl fmt::Display for BoundaryShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map {
                channels,
                height,
                width,
            } => write!(f, "map [{channels}, {height}, {width}]"),
            Self::Tokens { count, width } => write!(f, "tokens [{count}, {width}]"),
            Self::Features { width } => write!(f, "features [{width}]"),
        }
    }
}
