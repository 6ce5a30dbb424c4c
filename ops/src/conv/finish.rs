//! The steps after the sums of a convolution: a norm, a residual and a ReLU, in the pass that writes the output.

use crate::buffer::Unset;
use crate::simd::Simd;

/// What happens to each value before it is written: it becomes `(value - mean) scale + shift + residual`,
/// and zero if that is negative and `relu` is set.
#[derive(Clone, Copy, Default)]
pub(super) struct Finish<'a> {
    /// `[channels]`.
    pub(super) mean: Option<&'a [f32]>,
    /// `[channels]`.
    pub(super) scale: Option<&'a [f32]>,
    /// `[channels]`.
    pub(super) shift: Option<&'a [f32]>,
    /// Added to the result, whose shape it has.
    pub(super) residual: Option<&'a [f32]>,
    pub(super) relu: bool,
}

impl Finish<'_> {
    /// The steps for the values of a channel.
    #[inline(always)]
    pub(super) fn line(&self, channel: usize) -> Line {
        let of = |values: Option<&[f32]>, none: f32| values.map_or(none, |v| v[channel]);
        Line {
            mean: of(self.mean, 0.0),
            scale: of(self.scale, 1.0),
            shift: of(self.shift, 0.0),
            relu: self.relu,
        }
    }

    /// The residuals of `length` values from `start` on; empty if there are none.
    #[inline(always)]
    pub(super) fn residual(&self, start: usize, length: usize) -> &[f32] {
        self.residual
            .map_or(&[], |residual| &residual[start..start + length])
    }
}

/// The steps that finish the sums of a channel.
pub(super) struct Line {
    mean: f32,
    scale: f32,
    shift: f32,
    relu: bool,
}

impl Line {
    /// Finishes and writes one run. An empty residual is none.
    #[inline(always)]
    pub(super) fn write<S: Simd>(&self, sums: &[f32], residual: &[f32], out: &mut [Unset]) {
        // Most runs are as long as a panel of AVX2 is wide, and the compiler should know that.
        let run = (
            <&[f32; 16]>::try_from(sums),
            <&mut [Unset; 16]>::try_from(&mut *out),
        );
        if let (Ok(sums), Ok(out)) = run {
            return match <&[f32; 16]>::try_from(residual) {
                Ok(residual) => self.write_run::<S>(sums, residual, out),
                Err(_) => self.write_run::<S>(sums, &[], out),
            };
        }
        self.write_run::<S>(sums, residual, out);
    }

    #[inline(always)]
    fn write_run<S: Simd>(&self, sums: &[f32], residual: &[f32], out: &mut [Unset]) {
        // Without a ReLU the lower bound is minus infinity, so that one loop serves both. `f32::max` would
        // drop NaN; this comparison keeps it.
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let bounded = |value: f32| if value <= floor { floor } else { value };
        let affine = |sum: f32| S::fma(sum - self.mean, self.scale, self.shift);
        if residual.is_empty() {
            for (out, sum) in out.iter_mut().zip(sums) {
                out.write(bounded(affine(*sum)));
            }
        } else {
            for ((out, sum), residual) in out.iter_mut().zip(sums).zip(residual) {
                out.write(bounded(affine(*sum) + residual));
            }
        }
    }
}
