//! bf16 values from `f32` and back.

use half::bf16;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::buffer::as_unset;
use crate::buffer::{Unset, written};
use crate::math::CHUNK;
use crate::simd::multiversion;

/// The same values in `f32`.
pub(crate) fn wide(narrow: &[bf16]) -> Vec<f32> {
    // SAFETY: the chunks cover the output, those of the input are as long, and `widen` writes each value of a chunk.
    unsafe {
        written(narrow.len(), |wide| {
            let chunks = wide.par_chunks_mut(CHUNK).zip(narrow.par_chunks(CHUNK));
            chunks.for_each(|(wide, narrow)| widen(narrow, wide));
        })
    }
}

/// The nearest values in bf16, halves to even.
pub(crate) fn rounded(wide: &[f32]) -> Vec<bf16> {
    // SAFETY: the chunks cover the output, those of the input are as long, and `round` writes each value of a chunk.
    unsafe {
        written(wide.len(), |narrow| {
            let chunks = narrow.par_chunks_mut(CHUNK).zip(wide.par_chunks(CHUNK));
            chunks.for_each(|(narrow, wide)| round(wide, narrow));
        })
    }
}

/// The value in `f32`. Unlike [`bf16::to_f32`] it keeps every NaN as it is, which costs no comparison.
#[inline(always)]
pub(crate) fn widened(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

multiversion! {
    /// [`wide`] of as many values on this thread.
    pub(crate) fn widen<S>(narrow: &[bf16], wide: &mut [Unset]) {
        for (wide, narrow) in wide.iter_mut().zip(narrow) {
            wide.write(widened(*narrow));
        }
    }

    /// [`rounded`], of as many values on this thread.
    pub(crate) fn round<S>(wide: &[f32], narrow: &mut [Unset<bf16>]) {
        for (narrow, wide) in narrow.iter_mut().zip(wide) {
            let bits = wide.to_bits();
            // Just below half of the last place, or half of it if that makes the result even: what carries is
            // rounded up, from the largest finite value to infinity too.
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
            // A NaN whose upper bits are all of the fraction's zeros would become an infinity.
            let bits = if wide.is_nan() { bits | 0x0040_0000 } else { rounded };
            narrow.write(bf16::from_bits((bits >> 16) as u16));
        }
    }
}

/// [`round`] to values that are replaced.
#[cfg(target_arch = "x86_64")]
pub(crate) fn round_to(wide: &[f32], narrow: &mut [bf16]) {
    // SAFETY: `round` writes nothing but values.
    round(wide, unsafe { as_unset(narrow) });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_are_rounded_as_the_library_rounds(bits in proptest::collection::vec(any::<u32>(), 1..70)) {
            let wide: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let got: Vec<u16> = rounded(&wide).iter().map(|x| x.to_bits()).collect();
            let expected: Vec<u16> = wide.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn every_narrow_value_is_widened_exactly_and_back() {
        let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let wide = wide(&all);
        for (wide, narrow) in wide.iter().zip(&all) {
            assert_eq!(wide.to_bits(), u32::from(narrow.to_bits()) << 16);
        }
        for (back, narrow) in rounded(&wide).iter().zip(&all) {
            assert!(back == narrow || back.is_nan() && narrow.is_nan());
        }
    }
}
