//! Tensors as rows of their last axis, how a kernel's units share a row, and sums over a row.

use burn::backend::{DType, Shape, TensorMetadata};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, empty_device_dtype};
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::features::Plane;
use cubecl::prelude::*;

/// The most units that share a row; every device that CubeCL knows of has as many, but the CPU.
pub(super) const UNITS: usize = 256;

/// The most vectors of a row that a unit holds in registers.
const EACH: usize = 16;

/// The longest row that kernels take, even if they have to read it value by value.
pub(super) const LONGEST: usize = UNITS * EACH;

/// A tensor whose rows lie one after another, perhaps with a gap between them, as devices allocate rows whose
/// length is not a multiple of their alignment.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub tensor: CubeTensor,
    pub count: usize,
    pub width: usize,
    /// Values from the start of a row to that of the next one.
    pub pitch: usize,
}

impl Rows {
    /// The rows of the last axis, copied if they do not lie as described.
    pub fn of(tensor: CubeTensor) -> Self {
        let width = tensor.meta.shape().last().copied().unwrap_or(1);
        let (tensor, pitch) = match pitch(&tensor) {
            Some(pitch) => (tensor, pitch),
            None => (into_contiguous(tensor), width),
        };
        let count = tensor.shape().num_elements() / width.max(1);
        Self {
            tensor,
            count,
            width,
            pitch,
        }
    }

    /// Unset rows on the device of `like`.
    pub fn unset(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> Self {
        let (client, device) = (like.client.clone(), like.device.clone());
        Self::of(empty_device_dtype(client, device, shape.into(), dtype))
    }

    /// Unset rows without gaps: short ones would be mostly gaps.
    pub fn packed(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> Self {
        let (client, device) = (like.client.clone(), like.device.clone());
        let tensor = empty_device_contiguous_dtype(client, device, shape.into(), dtype);
        Self::of(tensor)
    }

    /// Returns unset rows of the same shape and type.
    pub fn like(&self) -> Self {
        Self::unset(&self.tensor, self.tensor.shape(), self.tensor.dtype)
    }

    /// The argument of a kernel: all values from the first row's first to the last row's last.
    pub fn arg(&self) -> BufferArg {
        let length = self.count.saturating_sub(1) * self.pitch + self.width;
        // SAFETY: that many values belong to the tensor.
        unsafe { BufferArg::from_raw_parts(self.tensor.handle.clone(), length) }
    }

    /// Whether vectors of `size` values tile each row, and start where the device can load them.
    fn divisible(&self, size: usize) -> bool {
        let bytes = size * self.tensor.dtype.size();
        let start = self.tensor.handle.offset_start.unwrap_or(0) as usize;
        self.width.is_multiple_of(size)
            && self.pitch.is_multiple_of(size)
            && start.is_multiple_of(bytes)
    }
}

/// The distance of rows, if the values of each lie side by side and all rows are equally far apart.
fn pitch(tensor: &CubeTensor) -> Option<usize> {
    if tensor.meta.is_tiled() {
        return None;
    }
    let (width, outer) = tensor.meta.shape().split_last()?;
    let (step, strides) = tensor.meta.strides().split_last()?;
    if *width > 1 && *step != 1 {
        return None;
    }
    let mut pitch = None;
    let mut next = 0;
    for (&size, &stride) in outer.iter().zip(strides).rev() {
        if size == 1 {
            continue;
        }
        if pitch.is_some() && stride != next {
            return None;
        }
        pitch.get_or_insert(stride);
        next = stride * size;
    }
    let pitch = pitch.unwrap_or(*width);
    (pitch >= *width).then_some(pitch)
}

/// How units share the rows of a launch. A kernel is compiled for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Share {
    /// Values that are loaded at once.
    pub vector: usize,
    /// Units that share a row.
    pub units: usize,
    /// Vectors of a row that each of them has.
    pub each: usize,
    /// Units of a plane, if all planes have as many and can add; 0 otherwise.
    pub plane: usize,
}

impl Share {
    /// How rows as long as those of the first are shared, all of `tensors` read or written together.
    ///
    /// # Panics
    /// If rows are longer than [`LONGEST`].
    pub fn of(tensors: &[&Rows]) -> Self {
        let (client, width) = (&tensors[0].tensor.client, tensors[0].width);
        let vector = vector(tensors);
        let vectors = width / vector;
        // A few vectors each hide the latency of loads; fewer units leave room for more rows at a time.
        let units = vectors.div_ceil(4).next_power_of_two().clamp(32, UNITS);
        let each = vectors.div_ceil(units);
        assert!(
            each <= EACH,
            "expected rows of at most {LONGEST} values, got {width}"
        );
        Self {
            vector,
            units,
            each,
            plane: plane(client),
        }
    }

    pub fn dim(&self) -> CubeDim {
        CubeDim::new_1d(self.units as u32)
    }
}

/// The largest number of values that can be loaded at once from all of the rows.
pub(super) fn vector(tensors: &[&Rows]) -> usize {
    let fits = |size: &usize| tensors.iter().all(|rows| rows.divisible(*size));
    [4, 2].into_iter().find(fits).unwrap_or(1)
}

/// Units of a plane, if all planes have as many and can add; 0 otherwise.
pub(super) fn plane(client: &Client) -> usize {
    let properties = client.properties();
    let (least, most) = (
        properties.hardware.plane_size_min,
        properties.hardware.plane_size_max,
    );
    if least == most && properties.features.plane.contains(Plane::Ops) {
        least as usize
    } else {
        0
    }
}

/// Returns the cubes of a launch with a row for each. There may be more cubes than rows, as devices limit the sides of a
/// launch.
pub(super) fn cubes(client: &Client, rows: usize) -> CubeCount {
    cubecl::calculate_cube_count_elemwise(client, rows, CubeDim::new_1d(1))
}

/// Reduces one value of each unit of a cube, and returns the result to all of them. All units must call it.
///
/// `shared` holds a value for each unit. Which values are added to which depends on the numbers of units only.
#[cube]
pub(super) fn reduced(
    value: f32,
    shared: &mut Shared<[f32]>,
    #[comptime] share: Share,
    #[comptime] largest: bool,
) -> f32 {
    // What a reduction before this one left there has been read by all.
    sync_cube();
    let Share { units, plane, .. } = comptime!(share);
    if comptime!(plane > 1 && units >= plane) {
        let part = if largest {
            plane_max(value)
        } else {
            plane_sum(value)
        };
        if UNIT_POS_PLANE == 0 {
            shared[PLANE_POS as usize] = part;
        }
        sync_cube();
        let mut all = shared[0];
        #[unroll]
        for i in 1usize..comptime!(units / plane) {
            all = combined(all, shared[i], largest);
        }
        all
    } else {
        let unit = UNIT_POS as usize;
        shared[unit] = value;
        sync_cube();
        #[unroll]
        for step in 0..comptime!(units.ilog2() as usize) {
            let half = comptime!(units >> (step + 1));
            if unit < half {
                shared[unit] = combined(shared[unit], shared[unit + half], largest);
            }
            sync_cube();
        }
        shared[0]
    }
}

#[cube]
fn combined(a: f32, b: f32, #[comptime] largest: bool) -> f32 {
    if largest { max(a, b) } else { a + b }
}

/// Returns the sum over a row to all units of a cube, each of which has added up its own vectors.
#[cube]
pub(super) fn sum_of_row<N: Size>(
    own: Vector<f32, N>,
    shared: &mut Shared<[f32]>,
    #[comptime] share: Share,
) -> f32 {
    reduced(lanes(own), shared, share, false)
}

/// Returns the largest value of a row to all units of a cube, each of which has the largest of its own vectors.
#[cube]
pub(super) fn largest_of_row<N: Size>(
    own: Vector<f32, N>,
    shared: &mut Shared<[f32]>,
    #[comptime] share: Share,
) -> f32 {
    reduced(largest_lane(own), shared, share, true)
}

/// The sum of the values of a vector.
#[cube]
fn lanes<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut sum = vector.extract(0usize);
    #[unroll]
    for i in 1usize..N::value() {
        sum += vector.extract(i);
    }
    sum
}

/// The largest of the values of a vector.
#[cube]
fn largest_lane<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut largest = vector.extract(0usize);
    #[unroll]
    for i in 1usize..N::value() {
        largest = max(largest, vector.extract(i));
    }
    largest
}
