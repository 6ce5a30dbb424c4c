//! The types of values that a linear layer computes with.

use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;
#[cfg(target_arch = "x86_64")]
use half::bf16;

#[cfg(target_arch = "x86_64")]
use crate::buffer::Unset;
use crate::buffer::Value;
use crate::gelu::Gelu;
use crate::math::{self, Map, Slopes};
use crate::matmul::Product;
use crate::operation;
#[cfg(target_arch = "x86_64")]
use crate::{narrow, rounding};

/// A type of values.
pub(super) trait Element: Value + Default + 'static {
    /// The nearest value.
    fn from_f32(value: f32) -> Self;

    /// The value in `f32`.
    fn to_f32(self) -> f32;

    /// The values of a contiguous tensor of the type.
    fn values(x: &FlexTensor) -> &[Self];

    /// A tensor of these values.
    fn tensor(values: Vec<Self>, shape: impl Into<Shape>) -> FlexTensor;

    /// The value of a product.
    fn run(product: &Product<Self>) -> Vec<Self>;

    /// The sum of each of `columns` columns.
    fn column_sums(values: &[Self], columns: usize) -> Vec<Self>;

    /// GELU of this kind.
    fn gelu(kind: Gelu) -> Map<Self>;

    /// The gradient through [`gelu`](Self::gelu).
    fn gelu_slopes(kind: Gelu) -> Slopes<Self>;
}

impl Element for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn values(x: &FlexTensor) -> &[Self] {
        operation::values(x)
    }

    fn tensor(values: Vec<Self>, shape: impl Into<Shape>) -> FlexTensor {
        operation::tensor(values, shape)
    }

    fn run(product: &Product) -> Vec<Self> {
        product.run()
    }

    fn column_sums(values: &[Self], columns: usize) -> Vec<Self> {
        math::column_sums(values, columns)
    }

    fn gelu(kind: Gelu) -> Map {
        kind.kernel()
    }

    fn gelu_slopes(kind: Gelu) -> Slopes {
        kind.slopes()
    }
}

/// Products of pairs, and everything else in `f32`, rounded to bf16.
#[cfg(target_arch = "x86_64")]
impl Element for bf16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn values(x: &FlexTensor) -> &[Self] {
        match x.as_slice() {
            Some(values) => values,
            None => unreachable!("all inputs have one type"),
        }
    }

    fn tensor(values: Vec<Self>, shape: impl Into<Shape>) -> FlexTensor {
        narrow::narrow_tensor(values, shape)
    }

    fn run(product: &Product<Self>) -> Vec<Self> {
        product.run()
    }

    fn column_sums(values: &[Self], columns: usize) -> Vec<Self> {
        rounding::rounded(&math::column_sums(&rounding::wide(values), columns))
    }

    fn gelu(kind: Gelu) -> Map<Self> {
        match kind {
            Gelu::Exact => |x, y| image(Gelu::Exact.kernel(), x, y),
            Gelu::Tanh => |x, y| image(Gelu::Tanh.kernel(), x, y),
            Gelu::Quick => |x, y| image(Gelu::Quick.kernel(), x, y),
        }
    }

    fn gelu_slopes(kind: Gelu) -> Slopes<Self> {
        match kind {
            Gelu::Exact => |x, g| slope(Gelu::Exact.slopes(), x, g),
            Gelu::Tanh => |x, g| slope(Gelu::Tanh.slopes(), x, g),
            Gelu::Quick => |x, g| slope(Gelu::Quick.slopes(), x, g),
        }
    }
}

/// Values that are in `f32` at a time: few enough for the first cache.
#[cfg(target_arch = "x86_64")]
const PART: usize = 512;

/// Some values in `f32`, in `space`.
#[cfg(target_arch = "x86_64")]
fn widened<'a>(narrow: &[bf16], space: &'a mut [Unset; PART]) -> &'a mut [f32] {
    let space = &mut space[..narrow.len()];
    rounding::widen(narrow, space);
    // SAFETY: `widen` has written each of them.
    unsafe { space.assume_init_mut() }
}

/// A map of `f32` on bf16 values.
#[cfg(target_arch = "x86_64")]
fn image(map: Map, x: &[bf16], y: &mut [Unset<bf16>]) {
    let mut space = [[Unset::uninit(); PART]; 2];
    for (x, y) in x.chunks(PART).zip(y.chunks_mut(PART)) {
        let [wide, images] = &mut space;
        let images = &mut images[..x.len()];
        map(widened(x, wide), images);
        // SAFETY: a map writes each value.
        rounding::round(unsafe { images.assume_init_ref() }, y);
    }
}

/// A gradient through a map of `f32`, of bf16 values.
#[cfg(target_arch = "x86_64")]
fn slope(slopes: Slopes, x: &[bf16], gradient: &mut [bf16]) {
    let mut space = [[Unset::uninit(); PART]; 2];
    for (x, gradient) in x.chunks(PART).zip(gradient.chunks_mut(PART)) {
        let [wide, of_y] = &mut space;
        let of_x = widened(gradient, of_y);
        slopes(widened(x, wide), of_x);
        rounding::round_to(of_x, gradient);
    }
}
