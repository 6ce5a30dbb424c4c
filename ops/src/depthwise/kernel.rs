//! The loops of a depthwise convolution. A register holds neighbouring channels of one position, so maps of
//! any size fill it.

use super::sizes::Sizes;
use crate::buffer::Unset;
#[cfg(target_arch = "x86_64")]
use crate::level::{self, Level};
use crate::matmul::{Baseline, RUN, Register};

/// The most values of a register.
const LANES: usize = 16;

/// Rows of output positions, and what they are computed from.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    pub(super) sizes: &'a Sizes,
    /// `[rows, columns, channels]`.
    pub(super) image: &'a [f32],
    /// `[taps, channels]`.
    pub(super) taps: &'a [f32],
    /// `[channels]`.
    pub(super) bias: Option<&'a [f32]>,
    /// The first row of the output.
    pub(super) first: usize,
}

/// Some maps, and the gradients of what was computed from them.
#[derive(Clone, Copy)]
pub(super) struct Maps<'a> {
    pub(super) sizes: &'a Sizes,
    /// `[images, rows, columns, channels]` of the input.
    pub(super) images: &'a [f32],
    /// The same of the output.
    pub(super) gradient: &'a [f32],
}

/// Neighbouring channels: the first of them, and how many of a register's values they are.
#[derive(Clone, Copy)]
struct Strip {
    first: usize,
    count: usize,
    /// Channels that an earlier strip has already covered.
    covered: usize,
}

/// Calls a function with the registers of the current level.
macro_rules! of_registers {
    ($of:ident($($arg:ident: $ty:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{__m256, __m512};

            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            unsafe fn avx512($($arg: $ty),*) {
                // SAFETY: this function is called at the level of these registers only.
                unsafe { $of::<__m512>($($arg),*) }
            }
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $ty),*) {
                // SAFETY: this function is called at the level of these registers only.
                unsafe { $of::<__m256>($($arg),*) }
            }
            match level::current() {
                // SAFETY: this level is current only where the CPU has all of its features.
                Level::Avx512 => return unsafe { avx512($($arg),*) },
                // SAFETY: this level is current only where the CPU has AVX2 and FMA.
                Level::Avx2 => return unsafe { avx2($($arg),*) },
                _ => {}
            }
        }
        // SAFETY: every CPU has these registers.
        unsafe { $of::<Baseline>($($arg),*) }
    }};
}

/// Computes rows of the output, `[rows, columns, channels]`.
///
/// # Panics
/// If a slice has another length than the sizes say.
pub(super) fn convolve(lines: Lines, out: &mut [Unset]) {
    let sizes = lines.sizes;
    assert_eq!(lines.image.len(), sizes.input());
    assert_eq!(lines.taps.len(), sizes.taps() * sizes.channels);
    assert!(lines.bias.is_none_or(|bias| bias.len() == sizes.channels));
    assert!(out.len().is_multiple_of(sizes.grid()[1] * sizes.channels));
    of_registers!(convolve_lines(lines: Lines, out: &mut [Unset]));
}

/// Adds the gradient of the weight, `[taps, channels]`, to `sums`.
///
/// # Panics
/// If a slice has another length than the sizes say.
pub(super) fn weight_slopes(maps: Maps, sums: &mut [f64]) {
    let sizes = maps.sizes;
    let images = maps.images.len() / sizes.input().max(1);
    assert_eq!(maps.images.len(), images * sizes.input());
    assert_eq!(maps.gradient.len(), images * sizes.output());
    assert_eq!(sums.len(), sizes.taps() * sizes.channels);
    of_registers!(slopes(maps: Maps, sums: &mut [f64]));
}

/// The strips of `channels`, each of a whole register where there are enough channels: the last one begins
/// earlier if it has to.
fn strips(channels: usize, lanes: usize) -> impl Iterator<Item = Strip> {
    (0..channels).step_by(lanes).map(move |start| {
        let first = start.min(channels.saturating_sub(lanes));
        Strip {
            first,
            count: lanes.min(channels),
            covered: start - first,
        }
    })
}

/// # Safety
/// The level of the register is current.
#[inline(always)]
unsafe fn convolve_lines<R: Register>(lines: Lines, out: &mut [Unset]) {
    // Sums that do not wait for each other hide the latency of a product; 7 of them divide the maps of images
    // of 224 pixels without a rest.
    let width = lines.sizes.grid()[1];
    let waste = |columns: usize| width.next_multiple_of(columns) - width;
    // All rows of a strip, then the next strip: rows read most of what the ones before have read, which stays in
    // the first cache meanwhile.
    for strip in strips(lines.sizes.channels, R::LANES) {
        let rows = out.chunks_exact_mut(width * lines.sizes.channels);
        for (row, out) in rows.enumerate() {
            let row = lines.first + row;
            // SAFETY: the level is current, and a tile is at most as wide as the row.
            unsafe {
                match width {
                    _ if strip.count < R::LANES => tiles::<R, 1, false>(lines, row, strip, out),
                    ..4 => tiles::<R, 1, true>(lines, row, strip, out),
                    4..7 => tiles::<R, 4, true>(lines, row, strip, out),
                    7 => tiles::<R, 7, true>(lines, row, strip, out),
                    _ if waste(7) < waste(8) => tiles::<R, 7, true>(lines, row, strip, out),
                    _ => tiles::<R, 8, true>(lines, row, strip, out),
                }
            }
        }
    }
}

/// Computes a row of a strip, `T` positions at a time. The last of them overlap the ones before if they have to.
///
/// # Safety
/// The level of the register is current, the row has at least `T` positions, and the strip is a whole register if
/// `WHOLE` says so.
#[inline(always)]
unsafe fn tiles<R: Register, const T: usize, const WHOLE: bool>(
    lines: Lines,
    row: usize,
    strip: Strip,
    out: &mut [Unset],
) {
    let (c, width) = (lines.sizes.channels, lines.sizes.grid()[1]);
    for column in (0..width).step_by(T) {
        let column = column.min(width - T);
        // SAFETY: the level is current, and the tile ends within the row.
        let sums = unsafe { tile::<R, T, WHOLE>(lines, strip, [row, column]) };
        for (t, sum) in sums.into_iter().enumerate() {
            let to = &mut out[(column + t) * c + strip.first..][..strip.count];
            if WHOLE {
                // SAFETY: the level is current, and there is room for a register.
                unsafe { sum.store(to.as_mut_ptr().cast()) };
            } else {
                let mut values = [0.0; LANES];
                // SAFETY: the level is current, and no register has more values.
                unsafe { sum.store(values.as_mut_ptr()) };
                to.write_copy_of_slice(&values[..strip.count]);
            }
        }
    }
}

/// The outputs of `T` positions of a row from a column on.
///
/// # Safety
/// The level of the register is current, these positions lie in the output, and the strip is a whole register if
/// `WHOLE` says so.
#[inline(always)]
unsafe fn tile<R: Register, const T: usize, const WHOLE: bool>(
    lines: Lines,
    strip: Strip,
    [row, column]: [usize; 2],
) -> [R; T] {
    let Sizes {
        channels: c,
        size: [height, width],
        kernel: [down, across],
        padding: [above, before],
    } = *lines.sizes;
    // SAFETY: the level is current, and bias, taps and positions of the map have the channels of the strip.
    // Rows and columns outside the map are left out.
    unsafe {
        let mut sums = [match lines.bias {
            Some(bias) => load::<R, WHOLE>(bias.as_ptr().add(strip.first), strip.count),
            None => R::splat(0.0),
        }; T];
        let inside = column >= before && column + T + across <= width + before + 1;
        for tap in 0..down {
            let Some(row) = (row + tap).checked_sub(above).filter(|y| *y < height) else {
                continue;
            };
            let row = lines.image.as_ptr().add(row * width * c + strip.first);
            let taps = lines.taps.as_ptr().add(tap * across * c + strip.first);
            for tap in 0..across {
                let factor = load::<R, WHOLE>(taps.add(tap * c), strip.count);
                if inside {
                    let from = row.add((column + tap - before) * c);
                    for t in 0..T {
                        let x = load::<R, WHOLE>(from.add(t * c), strip.count);
                        sums[t] = sums[t].plus_product(x, factor);
                    }
                } else {
                    for t in 0..T {
                        let x = (column + t + tap).checked_sub(before);
                        if let Some(x) = x.filter(|x| *x < width) {
                            let x = load::<R, WHOLE>(row.add(x * c), strip.count);
                            sums[t] = sums[t].plus_product(x, factor);
                        }
                    }
                }
            }
        }
        sums
    }
}

/// # Safety
/// The level of the register is current.
#[inline(always)]
unsafe fn slopes<R: Register>(maps: Maps, sums: &mut [f64]) {
    let sizes = maps.sizes;
    let [rows, columns] = sizes.grid();
    // The sums of all taps of a strip in `f32`. A product more or less makes no difference to their errors, so
    // they are added to the totals after whole rows.
    let mut totals = vec![0.0; sizes.taps() * LANES];
    for strip in strips(sizes.channels, R::LANES) {
        let mut summed = 0;
        let images = maps.images.chunks_exact(sizes.input());
        for (image, gradient) in images.zip(maps.gradient.chunks_exact(sizes.output())) {
            for row in 0..rows {
                if summed + columns > RUN {
                    flush(&mut totals, strip, sums, sizes.channels);
                    summed = 0;
                }
                summed += columns;
                let gradient = &gradient[row * columns * sizes.channels..];
                let maps = (image, gradient);
                // SAFETY: the level is current, and the taps of a row are a multiple of those at a time.
                unsafe {
                    match sizes.kernel[1] {
                        _ if strip.count < R::LANES => {
                            row_slopes::<R, 1, false>(sizes, strip, maps, row, &mut totals)
                        }
                        7 => row_slopes::<R, 7, true>(sizes, strip, maps, row, &mut totals),
                        5 => row_slopes::<R, 5, true>(sizes, strip, maps, row, &mut totals),
                        3 => row_slopes::<R, 3, true>(sizes, strip, maps, row, &mut totals),
                        _ => row_slopes::<R, 1, true>(sizes, strip, maps, row, &mut totals),
                    }
                }
            }
        }
        flush(&mut totals, strip, sums, sizes.channels);
    }
}

/// Adds what one row of the output contributes to the taps of a strip, `K` neighbouring taps at a time.
///
/// # Safety
/// The level of the register is current, `K` divides the columns of the kernel, the image and the row have the sizes
/// of the input and the output, `totals` has [`LANES`] values for each tap, and the strip is a whole register if
/// `WHOLE` says so.
#[inline(always)]
unsafe fn row_slopes<R: Register, const K: usize, const WHOLE: bool>(
    sizes: &Sizes,
    strip: Strip,
    (image, gradient): (&[f32], &[f32]),
    row: usize,
    totals: &mut [f32],
) {
    let (c, [height, width], [above, before]) = (sizes.channels, sizes.size, sizes.padding);
    let ([down, across], [_, columns]) = (sizes.kernel, sizes.grid());
    // SAFETY: the level is current, and positions of both maps have the channels of the strip. Positions
    // outside the input are left out.
    unsafe {
        let gradient = gradient.as_ptr().add(strip.first);
        for tap in 0..down {
            let Some(line) = (row + tap).checked_sub(above).filter(|y| *y < height) else {
                continue;
            };
            let line = image.as_ptr().add(line * width * c + strip.first);
            for first in (0..across).step_by(K) {
                let own = totals.as_mut_ptr().add((tap * across + first) * LANES);
                let mut sums = [R::splat(0.0); K];
                for k in 0..K {
                    sums[k] = R::load(own.add(k * LANES));
                }
                for x in 0..columns {
                    let g = load::<R, WHOLE>(gradient.add(x * c), strip.count);
                    let x = x + first;
                    if x >= before && x + K <= width + before {
                        let from = line.add((x - before) * c);
                        for k in 0..K {
                            let x = load::<R, WHOLE>(from.add(k * c), strip.count);
                            sums[k] = sums[k].plus_product(g, x);
                        }
                    } else {
                        for k in 0..K {
                            let x = (x + k).checked_sub(before);
                            if let Some(x) = x.filter(|x| *x < width) {
                                let x = load::<R, WHOLE>(line.add(x * c), strip.count);
                                sums[k] = sums[k].plus_product(g, x);
                            }
                        }
                    }
                }
                for k in 0..K {
                    sums[k].store(own.add(k * LANES));
                }
            }
        }
    }
}

/// Adds the totals of a strip to the sums of all channels, and clears them.
fn flush(totals: &mut [f32], strip: Strip, sums: &mut [f64], channels: usize) {
    let own = strip.covered..strip.count;
    for (totals, sums) in totals
        .chunks_exact_mut(LANES)
        .zip(sums.chunks_exact_mut(channels))
    {
        let sums = &mut sums[strip.first..];
        for (sum, total) in sums[own.clone()].iter_mut().zip(&totals[own.clone()]) {
            *sum += f64::from(*total);
        }
        totals.fill(0.0);
    }
}

/// A register of values: of `count`, and zeros behind them, if they are not a whole one.
///
/// # Safety
/// The level of the register is current. From `from` on a register may be read if it is a whole one, else `count`
/// values, which are fewer.
#[inline(always)]
unsafe fn load<R: Register, const WHOLE: bool>(from: *const f32, count: usize) -> R {
    if WHOLE {
        // SAFETY: what the caller vouches for.
        return unsafe { R::load(from) };
    }
    let mut values = [0.0; LANES];
    // SAFETY: the caller vouches for `count` values, which are fewer than those of a register.
    unsafe {
        std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count);
        R::load(values.as_ptr())
    }
}
