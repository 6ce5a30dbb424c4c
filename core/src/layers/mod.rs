//! Layers that carry their site: a backbone is built of them, and what acts at a site acts here.
//!
//! Weights have PyTorch's orientation, so that names and shapes in memory, in files and in HF PEFT
//! are the same. A layer computes in the element type of its input.

mod batch_norm;
mod conv;
mod layer_norm;
mod linear;

pub use batch_norm::BatchNorm2d;
pub use conv::{Conv2d, Conv2dSizes};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub(crate) use linear::linear;
