//! PyTorch's random numbers on the CPU, for constants that an adapter file leaves out and that HF PEFT
//! draws anew from a seed.

use rand_mt::Mt;

/// PyTorch's generator on the CPU, a Mersenne Twister of 32 bits.
pub struct TorchGenerator(Mt);

impl TorchGenerator {
    /// The generator after `manual_seed`, which uses the lower 32 bits.
    pub fn new(seed: u64) -> Self {
        Self(Mt::new(seed as u32))
    }

    /// The values of `uniform_(-bound, bound)` in f32.
    pub fn uniform(&mut self, count: usize, bound: f32) -> Vec<f32> {
        let step = 1.0 / (1 << 24) as f32;
        let mut unit = || (self.0.next_u32() & 0xff_ffff) as f32 * step;
        // PyTorch rounds once: its compiler makes a fused operation of the product and the sum.
        let mut value = || unit().mul_add(bound + bound, -bound);
        (0..count).map(|_| value()).collect()
    }

    /// The order of `randperm(n)`.
    ///
    /// # Panics
    /// From 2^32 / 20 on, where PyTorch draws 64 bits for each index.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        assert!(
            n < u32::MAX as usize / 20,
            "a permutation of {n} is too long"
        );
        let mut order: Vec<usize> = (0..n).collect();
        for i in 0..n.saturating_sub(1) {
            let offset = self.0.next_u32() as usize % (n - i);
            order.swap(i, i + offset);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_pytorch() {
        // torch.empty(4).uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(777))
        let drawn = TorchGenerator::new(777).uniform(4, 0.5);
        assert_eq!(drawn, [-0.41808468, -0.008862555, -0.09670669, -0.11408007]);
        // torch.randperm(8, generator=torch.Generator().manual_seed(777))
        assert_eq!(
            TorchGenerator::new(777).permutation(8),
            [7, 0, 3, 6, 1, 4, 5, 2]
        );
    }
}
