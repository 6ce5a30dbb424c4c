//! Products of bf16 matrices with AVX512-BF16, whose instruction adds the products of two pairs of values to a sum in
//! `f32`.
//!
//! Two neighbours along the inner dimension are one unit of 32 bits, and a product of pairs is cut, packed and run as
//! one of `f32` with half of the inner dimension. A matrix whose neighbours lie across it is interleaved
//! first. The instruction takes subnormal numbers for zero. Bias and residual are added to the sum, which is rounded once.

use std::borrow::Cow;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::kernel::Kernels;
use super::{Matrix, Product, SCRATCH, Term};
use crate::buffer::{Shared, Unset, written};
use crate::math::images;
use crate::rounding::{round, widened};
use crate::simd::multiversion;

impl Product<'_, bf16> {
    /// The result, contiguous, computed on all threads.
    pub(crate) fn run(&self) -> Vec<bf16> {
        let images: Vec<_> = self.terms.iter().map(Term::images_of_a).collect();
        let terms = self.terms.iter().zip(&images);
        let factors = terms.map(|(term, images)| {
            let values = images.as_deref().unwrap_or(term.a.values);
            let a = Pairs::new(Matrix { values, ..term.a }, self.rows, term.inner);
            let b = Pairs::new(term.b.transposed(), self.columns, term.inner);
            (term.inner.div_ceil(2), a, b)
        });
        let factors: Vec<_> = factors.collect();
        let empty = Product::<f32>::empty(self.rows, self.columns);
        let product = factors.iter().fold(empty, |product, (inner, a, b)| {
            product.plus(*inner, a.matrix(), b.matrix().transposed())
        });
        let plan = product.plan(Kernels::of_pairs());
        let packed = product.pack(&plan);
        // SAFETY: the blocks of the tasks fill the result, no two of them overlap, and each task writes
        // all of its own.
        unsafe {
            written(self.rows * self.columns, |out| {
                let out = Shared::unset(out);
                let tasks = (0..plan.tasks()).into_par_iter().with_min_len(plan.least());
                tasks.for_each(|task| {
                    SCRATCH.with_borrow_mut(|scratch| {
                        let (rows, panels) = plan.task(task);
                        let columns = plan.columns(panels);
                        let size = rows.len() * columns.len();
                        let scratch = scratch.take(size + plan.scratch());
                        let (sums, scratch) = scratch.split_at_mut(size);
                        let place = Shared::new(sums);
                        let mut block = product.block(&plan, task, &packed, place, columns.len());
                        block.origin = [rows.start, columns.start];
                        block.compute(scratch);
                        let sums = sums.chunks_exact_mut(columns.len().max(1));
                        for (row, sums) in rows.zip(sums) {
                            let start = row * self.columns + columns.start;
                            self.finish(start, &columns, sums);
                            round(sums, out.unset_part(start, columns.len()));
                        }
                    });
                });
            })
        }
    }

    /// Adds bias and residual to the sums of some columns of a row, which begin at the place `start` of the result.
    fn finish(&self, start: usize, columns: &Range<usize>, sums: &mut [f32]) {
        if let Some(bias) = self.bias {
            add(sums, &bias[columns.clone()]);
        }
        if let Some(residual) = self.residual {
            add(sums, &residual[start..][..columns.len()]);
        }
    }
}

impl Term<'_, bf16> {
    /// The values of `a` under the map, if there is one.
    fn images_of_a(&self) -> Option<Vec<bf16>> {
        self.map.map(|map| images(map, self.a.values))
    }
}

/// The pairs of neighbours along the lines of a matrix. The last pair of a line of odd length has a zero.
struct Pairs<'a> {
    /// The bits of two values each, the first of them below.
    values: Cow<'a, [f32]>,
    /// From a line to the next.
    line: usize,
    /// From a pair to the next.
    pair: usize,
}

impl<'a> Pairs<'a> {
    /// Of `lines` lines of `length` values.
    fn new(matrix: Matrix<'a, bf16>, lines: usize, length: usize) -> Self {
        let half = length.div_ceil(2);
        if matrix.column != 1 && length > 1 {
            let values = interleaved(matrix, lines, length);
            return Self {
                values: values.into(),
                line: 1,
                pair: lines,
            };
        }
        // SAFETY: any bits are an `f32`, and the middle holds the values that begin at a multiple of its size.
        let (before, values, _) = unsafe { matrix.values.align_to::<f32>() };
        if before.is_empty() && length.is_multiple_of(2) && matrix.row.is_multiple_of(2) {
            return Self {
                values: values.into(),
                line: matrix.row / 2,
                pair: 1,
            };
        }
        let lines = (0..lines).map(|line| &matrix.values[line * matrix.row..][..length]);
        let pairs = lines.flat_map(|line| line.chunks(2));
        Self {
            values: pairs
                .map(|pair| unit(pair[0], pair.get(1).copied()))
                .collect(),
            line: half,
            pair: 1,
        }
    }

    /// Lines of pairs.
    fn matrix(&self) -> Matrix<'_> {
        Matrix {
            values: &self.values,
            row: self.line,
            column: self.pair,
        }
    }
}

/// A pair of values in the bits of one.
fn unit(low: bf16, high: Option<bf16>) -> f32 {
    let high = high.map_or(0, bf16::to_bits);
    f32::from_bits(u32::from(low.to_bits()) | u32::from(high) << 16)
}

/// The pairs of `lines` lines of `length` values, for lines that begin with neighbours: the first of each line, then the
/// second ones.
///
/// # Shapes
/// `[length / 2, lines]`, rounded up.
fn interleaved(matrix: Matrix<bf16>, lines: usize, length: usize) -> Vec<f32> {
    assert_eq!(matrix.row, 1);
    let across = |i: usize| &matrix.values[i * matrix.column..][..lines];
    // SAFETY: the rows cover the output, and each value of a row is written.
    unsafe {
        written(length.div_ceil(2) * lines, |pairs| {
            let rows = pairs
                .par_chunks_exact_mut(lines.max(1))
                .with_min_len(16)
                .enumerate();
            rows.for_each(|(i, pairs)| {
                let low = across(2 * i);
                if 2 * i + 1 < length {
                    interleave(low, across(2 * i + 1), pairs);
                } else {
                    pairs
                        .iter_mut()
                        .zip(low)
                        .for_each(|(pair, low)| _ = pair.write(unit(*low, None)));
                }
            });
        })
    }
}

multiversion! {
    fn interleave<S>(low: &[bf16], high: &[bf16], pairs: &mut [Unset]) {
        for ((pair, low), high) in pairs.iter_mut().zip(low).zip(high) {
            pair.write(unit(*low, Some(*high)));
        }
    }

    fn add<S>(sums: &mut [f32], values: &[bf16]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += widened(*value);
        }
    }
}
