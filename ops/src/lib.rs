//! Operations with a backward pass of their own, where Burn's are slow on a device.
//!
//! Each is a plain function of Burn tensors. If all inputs are `f32` on Burn's CPU backend, or all bf16, it runs a
//! kernel of this crate, otherwise Burn's own operations, so that every device and element type works.
//! Results do not depend on the number of threads. Tests compare values and gradients with `f64`, and
//! their errors with those of Burn's `f32`.
//!
//! Kernels are compiled for several instruction sets, and the best that the CPU has is picked when the
//! program runs. The environment variable `PEFT_OPS` picks another, for comparisons and tests: `avx512-bf16`
//! (which multiplies bf16 as it is), `avx512`, `avx2`, `baseline` (what every CPU of the architecture has),
//! `composed` (what other devices run) or `off` (Burn's own operations). A level that the CPU lacks, or an unknown name, is an error ([`level`]).
//!
//! On accelerators LayerNorm, GELU, attention, batch norm with fixed statistics, cross-entropy and AdamW have kernels
//! too; convolutions, and the first three where a kernel does not apply, are composed of Burn's operations with a
//! backward pass of their own. `PEFT_OPS_CUDA=composed` turns the kernels off, and `PEFT_OPS_CUDA=off` leaves all but
//! convolutions to Burn ([`accelerated`]). [`check`] compares operations on a device with their formulas.

#![allow(
    clippy::needless_range_loop,
    reason = "the registers of a kernel are arrays, several of which share an index"
)]

mod accelerated;
mod attention;
mod batch_norm;
mod binary_cross_entropy;
mod bridge;
mod buffer;
mod check;
mod composed;
mod constant;
mod conv;
mod cross_entropy;
mod cube;
mod depthwise;
mod gelu;
mod grn;
mod layer_norm;
mod level;
mod linear;
mod machine;
mod math;
mod matmul;
mod narrow;
mod operation;
mod optimizers;
mod patches;
mod pool;
mod relu;
mod results;
mod rotary;
mod rounding;
mod row_loss;
mod scale_shift;
mod simd;
mod swiglu;
#[cfg(test)]
mod testing;

pub use accelerated::{Accelerated, accelerated};
pub use attention::{attention, attention_weights, attention_with_bias};
pub use batch_norm::{FixedNorm, batch_norm, batch_norm_train};
pub use binary_cross_entropy::binary_cross_entropy;
pub use check::{Check, check};
pub use conv::{conv2d, conv2d_norm, conv2d_residual};
pub use cross_entropy::cross_entropy;
pub use depthwise::depthwise_conv2d;
pub use gelu::{Gelu, gelu, gelu_adds_bias, gelu_tanh, gelu_with_bias, quick_gelu};
pub use grn::global_response_norm;
pub use layer_norm::layer_norm;
pub use level::{Level, level};
pub use linear::{linear, linear_gelu, linear_low_rank, linear_residual};
pub use machine::{Caches, caches};
pub use optimizers::{AdamOptions, SgdOptions, adam, adam_w, sgd};
pub use patches::patches;
pub use pool::max_pool2d;
pub use relu::{add_relu, relu};
pub use results::RESULTS;
pub use rotary::{Pairs, Rotation, rotate};
pub use scale_shift::scale_shift;
pub use swiglu::{swiglu, swiglu_packed};
