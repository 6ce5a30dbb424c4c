//! Kernels write every value of their outputs, and nothing between or behind their rows.

use burn::backend::{DType, Shape};
use burn::tensor::TensorData;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::zspace::metadata::Metadata;

use super::{cube_device, types};
use crate::check::noise;
use crate::composed::Gate;
use crate::cube::batch_norm::{self, Maps};
use crate::cube::rows::Rows;
use crate::cube::step::Step;
use crate::cube::{adam_w, cross_entropy, gelu, heads, layer_norm, softmax};

/// What memory is filled with where nothing may be written, and where everything must be.
const PATTERN: u8 = 0x5a;

/// Bytes behind an output.
const BEHIND: usize = 4096;

/// A tensor of this shape, each row of which is followed by `gap` values.
fn tensor(bytes: &[u8], shape: &[usize], gap: usize, dtype: DType) -> CubeTensor {
    let device = cube_device();
    let client = device.client();
    let mut strides = vec![1; shape.len()];
    let mut next = shape[shape.len() - 1] + gap;
    for axis in (0..shape.len() - 1).rev() {
        strides[axis] = next;
        next *= shape[axis];
    }
    let metadata = Metadata::new(Shape::from(shape.to_vec()), strides);
    CubeTensor::new(
        client.clone(),
        client.create_from_slice(bytes),
        metadata,
        device,
        dtype,
    )
}

/// Noise in rows without gaps.
fn input(shape: &[usize], seed: u32, dtype: DType) -> CubeTensor {
    let values = noise(shape.iter().product(), seed);
    let data = TensorData::new(values, shape.to_vec()).convert_dtype(dtype);
    tensor(data.as_bytes(), shape, 0, dtype)
}

/// An output that is guarded.
struct Guarded {
    tensor: CubeTensor,
    rows: usize,
    width: usize,
    pitch: usize,
}

impl Guarded {
    fn new(shape: &[usize], gap: usize, dtype: DType) -> Self {
        let (width, outer) = shape.split_last().unwrap();
        let (rows, pitch) = (outer.iter().product::<usize>(), width + gap);
        let bytes = vec![PATTERN; rows * pitch * dtype.size() + BEHIND];
        Self {
            tensor: tensor(&bytes, shape, gap, dtype),
            rows,
            width: *width,
            pitch,
        }
    }

    fn rows(&self) -> Rows {
        let rows = Rows::of(self.tensor.clone());
        assert_eq!((rows.count, rows.width), (self.rows, self.width));
        rows
    }

    /// How many bytes were written outside of rows, and how many values in them were not written.
    fn wrong(&self) -> [usize; 2] {
        let handle = self.tensor.handle.clone();
        let bytes = self.tensor.client.read_one_unchecked(handle);
        let size = self.tensor.dtype.size();
        assert_eq!(bytes.len(), self.rows * self.pitch * size + BEHIND);
        let (rows, behind) = bytes.split_at(self.rows * self.pitch * size);
        let mut outside: usize = behind.iter().filter(|&&byte| byte != PATTERN).count();
        let mut unset = 0;
        for row in rows.chunks(self.pitch * size) {
            let (values, gap) = row.split_at(self.width * size);
            outside += gap.iter().filter(|&&byte| byte != PATTERN).count();
            let pattern = |value: &&[u8]| value.iter().all(|&byte| byte == PATTERN);
            unset += values.chunks(size).filter(pattern).count();
        }
        [outside, unset]
    }
}

/// Runs a kernel on outputs of these shapes, with and without gaps, and looks around them.
fn guard(name: &str, outputs: &[(&[usize], DType)], gaps: &[usize], run: impl Fn(&[Rows])) {
    for &gap in gaps {
        let outputs: Vec<_> = outputs
            .iter()
            .map(|&(shape, dtype)| Guarded::new(shape, gap, dtype))
            .collect();
        let rows: Vec<_> = outputs.iter().map(Guarded::rows).collect();
        run(&rows);
        for (i, output) in outputs.iter().enumerate() {
            assert_eq!(output.wrong(), [0, 0], "{name}, output {i}, gap {gap}");
        }
    }
}

#[cube(launch_unchecked)]
fn one_too_many(output: &mut [f32], count: usize) {
    if ABSOLUTE_POS <= count {
        output[ABSOLUTE_POS] = 1.0;
    }
}

#[cube(launch_unchecked)]
fn one_too_few(output: &mut [f32], count: usize) {
    if ABSOLUTE_POS + 1 < count {
        output[ABSOLUTE_POS] = 1.0;
    }
}

#[test]
#[ignore = "needs an accelerator: scripts/lavapipe.sh kernels"]
fn guards_see_a_value_too_many_and_one_too_few() {
    let launch = (CubeCount::Static(2, 1, 1), CubeDim::new_1d(32));
    let output = Guarded::new(&[5, 7], 0, DType::F32);
    let rows = output.rows();
    // SAFETY: the value that is too much is in the guard.
    unsafe {
        one_too_many::launch_unchecked(
            &rows.tensor.client,
            launch.0.clone(),
            launch.1,
            rows.arg(),
            35,
        );
    }
    assert_eq!(output.wrong(), [4, 0]);
    let output = Guarded::new(&[5, 7], 0, DType::F32);
    let rows = output.rows();
    // SAFETY: all values are inside.
    unsafe {
        one_too_few::launch_unchecked(&rows.tensor.client, launch.0, launch.1, rows.arg(), 35);
    }
    assert_eq!(output.wrong(), [0, 1]);
}

#[test]
#[ignore = "needs an accelerator: scripts/lavapipe.sh kernels"]
fn rows_stay_inside() {
    for dtype in types() {
        // Rows of odd length, rows that vectors tile, and more rows than cubes that sum over them.
        for [rows, d] in [[5, 33], [3, 200], [1031, 6]] {
            let shape = [rows, d];
            let of = |shape: &[usize], seed| Rows::of(input(shape, seed, dtype));
            let (x, gradient) = (of(&shape, 1), of(&shape, 2));
            let (gamma, beta) = (of(&[d], 3), of(&[d], 4));
            let statistics = Rows::of(input(&[rows, 2], 5, DType::F32));
            let own = (&shape[..], dtype);
            let name = |name: &str| format!("{name} {dtype:?} {shape:?}");
            let pairs = [rows, 2];
            let outputs = [own, (&pairs[..], DType::F32)];
            guard(&name("layer_norm"), &outputs, &[0, 3, 8], |out| {
                layer_norm::forward(&x, &gamma, &beta, 1e-6, &out[0], &out[1]);
            });
            guard(&name("layer_norm_slopes"), &[own], &[0, 3], |out| {
                layer_norm::backward(&x, &gamma, &statistics, &gradient, &out[0], None);
            });
            let sums = layer_norm::sums_of(&Shape::from(shape.to_vec()));
            let outputs = [own, (&sums.shape[..], sums.dtype)];
            guard(&name("layer_norm_all_slopes"), &outputs, &[0, 8], |out| {
                let sums = Some(&out[1]);
                layer_norm::backward(&x, &gamma, &statistics, &gradient, &out[0], sums);
            });
            guard(&name("softmax"), &[own], &[0, 3, 8], |out| {
                softmax::forward(&x, None, 0.5, &out[0]);
                softmax::forward(&x, Some(&gradient), 0.5, &out[0]);
            });
            guard(&name("softmax_slopes"), &[own], &[0, 3, 8], |out| {
                softmax::backward(&x, &gradient, 0.5, &out[0]);
            });
            let single = [rows, 1];
            let outputs = [(&single[..], DType::F32), own];
            guard(&name("cross_entropy"), &outputs, &[0, 3, 8], |out| {
                cross_entropy::forward(&x, &gradient, 0.5, &out[0], &out[1]);
            });
            for gate in [Gate::Normal, Gate::Tanh, Gate::Sigmoid] {
                guard(&name("gelu"), &[own], &[0, 3, 8], |out| {
                    gelu::forward(&x, None, gate, &out[0]);
                    gelu::forward(&x, Some(&beta), gate, &out[0]);
                });
                guard(&name("gelu_slopes"), &[own], &[0, 3, 8], |out| {
                    gelu::backward(&x, Some(&beta), &gradient, gate, &out[0]);
                });
            }
            let step = Step {
                betas: [0.9, 0.999],
                epsilon: 1e-8,
                corrections: [0.1, 0.001],
                lr: 0.1,
                decay: 0.99,
            };
            guard(&name("adam_w"), &[own; 3], &[0, 3, 8], |out| {
                let old = [x.clone(), gradient.clone(), of(&shape, 6), of(&shape, 7)];
                let new = [out[0].clone(), out[1].clone(), out[2].clone()];
                adam_w::advance(&old, step, &new);
            });
        }
    }
}

#[test]
#[ignore = "needs an accelerator: scripts/lavapipe.sh kernels"]
fn heads_stay_inside() {
    for dtype in types() {
        for [b, n, heads, w] in [[2, 5, 3, 8], [1, 3, 2, 7]] {
            let packed_shape = [b, n, 3 * heads * w];
            let split_shape = [b, heads, n, w];
            let packed = Rows::of(input(&packed_shape, 1, dtype));
            let split = Rows::of(input(&split_shape, 2, dtype));
            let name = format!("heads {dtype:?} {split_shape:?}");
            for part in 0..3 {
                guard(&name, &[(&split_shape, dtype)], &[0], |out| {
                    heads::copy(&packed, &out[0], part, heads, n, false);
                });
            }
            guard(&name, &[(&packed_shape, dtype)], &[0, 3, 8], |out| {
                for part in 0..3 {
                    heads::copy(&out[0], &split, part, heads, n, true);
                }
            });
        }
    }
}

#[test]
#[ignore = "needs an accelerator: scripts/lavapipe.sh kernels"]
fn maps_stay_inside() {
    for dtype in types() {
        let shape = [2, 6, 5, 3];
        let maps = |seed| {
            let [maps] = Maps::of([input(&shape, seed, dtype)]);
            maps
        };
        let constants = Rows::of(input(&[4, 6], 3, DType::F32));
        // The pattern would be cut to zero by a ReLU only if it were read.
        let out = [0, 1].map(|_| Guarded::new(&shape, 0, dtype));
        let [y, cut] = out.each_ref().map(|out| {
            let [maps] = Maps::of([out.tensor.clone()]);
            maps
        });
        batch_norm::forward(&maps(1), &constants, Some(&maps(2)), 9.0, true, &y);
        assert_eq!(out[0].wrong(), [0, 0], "{dtype:?}");
        batch_norm::backward(&maps(1), &maps(2), &constants, 9.0, true, [&y, &cut]);
        assert_eq!(out.map(|out| out.wrong()), [[0, 0]; 2], "{dtype:?}");
    }
}
