//! Our own random numbers. Every value is a pure function of a seed and a path, never of process-wide
//! state, so that resuming and parallel runs do not change it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random numbers for one purpose: ChaCha with 8 rounds, keyed by BLAKE3 of seed and
/// path, the same on every platform.
pub struct Generator(ChaCha8Rng);

impl Generator {
    /// The stream of `path` under `seed`.
    pub fn new(seed: u64, path: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(path.as_bytes());
        Self(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-24.
    pub fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Standard normal (Box and Muller, in f64).
    pub fn normal(&mut self) -> f32 {
        // Half a step above zero keeps the logarithm finite.
        let scale = 1.0 / (1u64 << 53) as f64;
        let u = ((self.bits() >> 11) as f64 + 0.5) * scale;
        let v = (self.bits() >> 11) as f64 * scale;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }

    /// Normal with standard deviation `std`; values beyond two standard deviations are redrawn.
    pub fn truncated_normal(&mut self, std: f32) -> f32 {
        loop {
            let value = self.normal();
            if value.abs() <= 2.0 {
                return value * std;
            }
        }
    }

    /// Uniform in `0..n` without bias (Lemire's multiplication with rejection).
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        let threshold = n.wrapping_neg() % n.max(1);
        loop {
            let wide = u128::from(self.bits()) * u128::from(n);
            if wide as u64 >= threshold {
                return (wide >> 64) as usize;
            }
        }
    }

    /// A random order of `0..n` (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    /// A dropout mask of `n` values: 0 with probability `p`, else `1 / (1 - p)`.
    pub fn dropout_mask(&mut self, n: usize, p: f64) -> Vec<f32> {
        // Comparing integers keeps the mask the same on every platform.
        let threshold = (p * f64::from(u32::MAX)) as u32;
        let keep = (1.0 / (1.0 - p)) as f32;
        let mut draw = || {
            if self.0.next_u32() < threshold {
                0.0
            } else {
                keep
            }
        };
        (0..n).map(|_| draw()).collect()
    }
}

/// A distribution of initial values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Uniform in `[-bound, bound)`.
    Uniform(f32),
    /// Normal with this standard deviation, truncated at two standard deviations.
    TruncatedNormal(f32),
    /// Normal with this mean and standard deviation.
    Normal(f32, f32),
}

impl Distribution {
    /// PyTorch's `kaiming_uniform_(a=sqrt(5))`: uniform within `1/sqrt(fan_in)`.
    pub fn kaiming(fan_in: usize) -> Self {
        Self::Uniform(1.0 / (fan_in.max(1) as f32).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_seed_and_path() {
        let draw = |seed, path| Generator::new(seed, path).bits();
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Generator::new(7, "order").permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut g = Generator::new(3, "moments");
        let n = 50_000;
        let (mut sum, mut square) = (0.0, 0.0);
        for _ in 0..n {
            let x = f64::from(g.normal());
            sum += x;
            square += x * x;
        }
        assert!((sum / n as f64).abs() < 0.02);
        assert!((square / n as f64 - 1.0).abs() < 0.03);
        let mask = g.dropout_mask(n, 0.25);
        let dropped = mask.iter().filter(|v| **v == 0.0).count() as f64 / n as f64;
        assert!((dropped - 0.25).abs() < 0.01);
        assert!(
            mask.iter()
                .all(|v| *v == 0.0 || (*v - 4.0 / 3.0).abs() < 1e-6)
        );
    }
}
