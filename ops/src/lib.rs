//! Operations with their own backward where Burn's are slow on a device.
//!
//! Each is a plain function on Burn tensors: where all inputs are `f32` on Burn's CPU backend it
//! runs a kernel of its own, otherwise it is Burn's own operation, so that every device and
//! element type works. Errors against an `f64` reference stand in each file's tests.

mod attention;
mod bridge;
mod gelu;
mod kernels;

pub use attention::{attention, attention_with_bias};
pub use gelu::{gelu, quick_gelu};
