//! Layers that know their site, of which backbones are built, and the trained layers that methods
//! share. The acts at a site are applied here.
//!
//! Weights have PyTorch's orientation, so that names and shapes in memory, in files and in HF PEFT
//! are the same. A layer computes in the element type of its input.

mod batch_norm;
mod bottleneck;
mod boundary_tensor;
mod branch_bottlenecks;
mod conv;
mod conv_grid;
mod dense;
mod layer_norm;
mod linear;
mod wide;

pub use crate::described::Reads;
pub use batch_norm::{BatchNorm2d, Then};
pub use bottleneck::{Bottleneck, Nonlinearity};
pub use boundary_tensor::BoundaryTensor;
pub use branch_bottlenecks::BranchBottlenecks;
pub use conv::{Conv2d, Conv2dSizes};
pub use dense::Dense;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub(crate) use linear::linear;
pub use wide::wide;
