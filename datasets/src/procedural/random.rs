//! The few distributions that drawing needs, on top of a ChaCha8 stream. They are written here so
//! that no change in a library can alter an image.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random numbers that is determined by its key.
pub(super) struct Random(ChaCha8Rng);

impl Random {
    pub fn new(key: [u8; 32]) -> Self {
        Self(ChaCha8Rng::from_seed(key))
    }

    /// The stream whose key is the blake3 hash of `text`.
    pub fn keyed(text: &str) -> Self {
        Self::new(*blake3::hash(text.as_bytes()).as_bytes())
    }

    /// Uniform in `[low, high)`, in steps of 2^-24 of the range.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        const STEP: f32 = 1.0 / (1 << 24) as f32;
        low + (high - low) * ((self.0.next_u32() >> 8) as f32 * STEP)
    }

    /// Uniform over `0..count`, with a bias of at most `count / 2^32`, which does not matter here.
    pub fn below(&mut self, count: usize) -> usize {
        ((u64::from(self.0.next_u32()) * count as u64) >> 32) as usize
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.uniform(0.0, 1.0) < probability
    }

    /// Nearly normal with mean 0 and deviation 1: the standardised sum of four uniform bytes. It
    /// needs no logarithm or sine, which platforms round differently.
    pub fn normal(&mut self) -> f32 {
        const DEVIATION: f32 = 147.801; // sqrt(4 (256^2 - 1) / 12)
        let sum: u32 = self
            .0
            .next_u32()
            .to_le_bytes()
            .into_iter()
            .map(u32::from)
            .sum();
        (sum as f32 - 510.0) / DEVIATION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_have_their_moments() {
        const COUNT: usize = 20_000;
        let mut random = Random::new([7; 32]);
        let mean = |values: &[f32]| values.iter().sum::<f32>() / COUNT as f32;
        let normal: Vec<f32> = (0..COUNT).map(|_| random.normal()).collect();
        let square: Vec<f32> = normal.iter().map(|value| value * value).collect();
        assert!(mean(&normal).abs() < 0.03 && (mean(&square) - 1.0).abs() < 0.05);
        let uniform: Vec<f32> = (0..COUNT).map(|_| random.uniform(-2.0, 4.0)).collect();
        assert!(
            (mean(&uniform) - 1.0).abs() < 0.05
                && uniform.iter().all(|value| (-2.0..4.0).contains(value))
        );
        let below: Vec<f32> = (0..COUNT).map(|_| random.below(5) as f32).collect();
        assert!(
            (mean(&below) - 2.0).abs() < 0.05
                && below.contains(&0.0)
                && below.contains(&4.0)
                && !below.contains(&5.0)
        );
        let hits = (0..COUNT).filter(|_| random.chance(0.25)).count();
        assert!((4_700..5_300).contains(&hits));
    }
}
