//! Operations with their own backward where Burn's are slow on a device.
//!
//! Each is a plain function on Burn tensors: where all inputs are `f32` on Burn's CPU backend it
//! runs a kernel of its own, otherwise it is Burn's own operation, so that every device and
//! element type works. Results do not depend on the number of threads. Tests hold values and
//! gradients against `f64`, beside Burn's `f32`.
//!
//! Kernels are compiled for several instruction sets, and the best that the CPU has is picked when
//! the program runs. The environment variable `PEFT_OPS` picks another, for comparisons and tests:
//! `avx512`, `avx2`, `baseline` (what every CPU of the architecture has) or `off` (Burn's own
//! operations). One that the CPU has not, or any other word, is an error ([`level`]).
//!
//! Other devices run GELU, LayerNorm and attention composed of Burn's operations, but with a backward
//! of their own; `PEFT_OPS_CUDA=off` leaves these to Burn too. [`check`] holds operations against
//! their formulas on a device.

#![allow(
    clippy::needless_range_loop,
    reason = "registers of a kernel are arrays that are indexed side by side"
)]

mod attention;
mod batch_norm;
mod bridge;
mod buffer;
mod check;
mod composed;
mod constant;
mod conv;
mod cross_entropy;
mod gelu;
mod layer_norm;
mod level;
mod linear;
mod math;
mod matmul;
mod optimizers;
mod patches;
mod pool;
mod relu;
mod scale_shift;
mod simd;
#[cfg(test)]
mod testing;

pub use attention::{attention, attention_with_bias};
pub use batch_norm::{FixedNorm, batch_norm, batch_norm_train};
pub use check::{Check, check};
pub use conv::{conv2d, conv2d_norm, conv2d_residual};
pub use cross_entropy::cross_entropy;
pub use gelu::{Gelu, gelu, quick_gelu};
pub use layer_norm::layer_norm;
pub use level::{Level, level};
pub use linear::{linear, linear_gelu, linear_low_rank, linear_residual};
pub use optimizers::{AdamOptions, SgdOptions, adam, adam_w, sgd};
pub use patches::patches;
pub use pool::max_pool2d;
pub use relu::{add_relu, relu};
pub use scale_shift::scale_shift;
