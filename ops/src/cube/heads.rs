//! Packed tokens to heads and back: each value is read once and written once, where a permutation of Burn's is copied
//! for each of its three parts again.
//!
//! Splitting: `y[b, h, t, c] = x[b, t, part d + h w + c]` with `d = heads w`. Joining is the opposite; each is the
//! gradient of the other.

use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Shape, backend_extension};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::node::element;
use super::rows::{Rows, UNITS, cubes, vector};

#[backend_extension(Cube, Fusion)]
pub(super) trait Heads: Backend {
    /// Queries, keys and values.
    ///
    /// # Shapes
    /// `x [b, n, 3 d] -> [b, heads, n, d / heads]` each.
    #[fusion(meta = |x, heads| (split_of(x, 3, *heads), split_of(x, 3, *heads), split_of(x, 3, *heads)))]
    fn split_qkv(
        x: FloatTensor<Self>,
        heads: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// # Shapes
    /// `q`, `k`, `v [b, heads, n, w] -> [b, n, 3 heads w]`.
    #[fusion(meta = |q, _k, _v| joined(q, 3))]
    fn join_qkv(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// # Shapes
    /// `x [b, n, d] -> [b, heads, n, d / heads]`.
    #[fusion(meta = |x, heads| split_of(x, 1, *heads))]
    fn split_heads(x: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;

    /// # Shapes
    /// `x [b, heads, n, w] -> [b, n, heads w]`.
    #[fusion(meta = |x| joined(x, 1))]
    fn join_heads(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Heads for CubeBackend {
    fn split_qkv(x: CubeTensor, heads: usize) -> (CubeTensor, CubeTensor, CubeTensor) {
        let x = Rows::of(x);
        let [q, k, v] = [0, 1, 2].map(|part| split(&x, [part, 3], heads));
        (q, k, v)
    }

    fn join_qkv(q: CubeTensor, k: CubeTensor, v: CubeTensor) -> CubeTensor {
        let [b, heads, n, w] = dims(q.meta.shape());
        let y = Rows::unset(&q, [b, n, 3 * heads * w], q.dtype);
        for (part, x) in [q, k, v].into_iter().enumerate() {
            copy(&y, &Rows::of(into_contiguous(x)), part, heads, n, true);
        }
        y.tensor
    }

    fn split_heads(x: CubeTensor, heads: usize) -> CubeTensor {
        split(&Rows::of(x), [0, 1], heads)
    }

    fn join_heads(x: CubeTensor) -> CubeTensor {
        let [b, heads, n, w] = dims(x.meta.shape());
        let y = Rows::unset(&x, [b, n, heads * w], x.dtype);
        copy(&y, &Rows::of(into_contiguous(x)), 0, heads, n, true);
        y.tensor
    }
}

fn dims<const D: usize>(shape: &Shape) -> [usize; D] {
    std::array::from_fn(|i| shape[i])
}

/// The shape of one of the parts that a packed tensor is split into.
fn split_of(x: &TensorSpec, parts: usize, heads: usize) -> TensorSpec {
    let [b, n, d] = dims(&x.shape);
    TensorSpec::new([b, heads, n, d / parts / heads].into(), x.dtype)
}

/// The shape of as many parts packed into one tensor.
fn joined(x: &TensorSpec, parts: usize) -> TensorSpec {
    let [b, heads, n, w] = dims(&x.shape);
    TensorSpec::new([b, n, parts * heads * w].into(), x.dtype)
}

/// The heads of one of the parts of packed tokens.
fn split(x: &Rows, [part, parts]: [usize; 2], heads: usize) -> CubeTensor {
    let [b, n, d] = dims(x.tensor.meta.shape());
    let shape = Shape::new([b, heads, n, d / parts / heads]);
    let (client, device) = (x.tensor.client.clone(), x.tensor.device.clone());
    let y = empty_device_contiguous_dtype(client, device, shape, x.tensor.dtype);
    let y = Rows::of(y);
    copy(x, &y, part, heads, n, false);
    y.tensor
}

/// Copies all values of `split [b, heads, n, w]`, which is contiguous, from their places in `packed`, or to them.
pub(super) fn copy(
    packed: &Rows,
    split: &Rows,
    part: usize,
    heads: usize,
    tokens: usize,
    join: bool,
) {
    // Parts and heads start at multiples of the width of a head, which vectors tile.
    let size = vector(&[packed, split]);
    let client = &split.tensor.client;
    let width = split.width / size;
    let count = split.count * width;
    let (from, to) = if join {
        (split, packed)
    } else {
        (packed, split)
    };
    // SAFETY: the kernel leaves what is beyond `count` vectors alone, and places in packed tokens follow from the
    // shape of which `count` is the product.
    unsafe {
        copied::launch_unchecked(
            client,
            cubes(client, count.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            size,
            from.arg(),
            to.arg(),
            count,
            width,
            tokens,
            heads,
            packed.pitch / size,
            part * heads * width,
            join,
            element(split.tensor.dtype),
        );
    }
}

#[cube(launch_unchecked)]
fn copied<F: Float, N: Size>(
    from: &[Vector<F, N>],
    to: &mut [Vector<F, N>],
    count: usize,
    width: usize,
    tokens: usize,
    heads: usize,
    pitch: usize,
    first: usize,
    #[comptime] join: bool,
    #[define(F)] _element: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    let packed = first + place_in_packed(place, width, tokens, heads, pitch);
    if join {
        to[packed] = from[place];
    } else {
        to[place] = from[packed];
    }
}

/// Where the value at `place` of `[b, heads, tokens, width]` is in the first part of `[b, tokens, pitch]`.
#[cube]
fn place_in_packed(place: usize, width: usize, tokens: usize, heads: usize, pitch: usize) -> usize {
    let (row, column) = (place / width, place % width);
    let (head, token) = ((row / tokens) % heads, row % tokens);
    let sequence = row / (tokens * heads);
    (sequence * tokens + token) * pitch + head * width + column
}
