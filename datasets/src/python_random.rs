//! Python's `random.sample`, so that the few-shot sets that CoOp's code draws with a seed are drawn
//! here too.
//!
//! Python's generator is the Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998), seeded with
//! the words of the seed. A number below `n` is as many leading bits of an output as `n` has, drawn
//! again until it is below.

use std::collections::HashSet;

use rand_mt::Mt;

/// The state after `random.seed(seed)`.
pub(crate) struct PythonRandom(Mt);

impl PythonRandom {
    /// `random.seed(seed)`.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        // Python takes as many words as the number needs, and the length of the key changes the
        // state.
        Self(match high {
            0 => Mt::new_with_key([low]),
            _ => Mt::new_with_key([low, high]),
        })
    }

    /// A number below `n`, which is at least 1 and below 2^32.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = (self.0.next_u32() >> (u32::BITS - bits)) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `random.sample(range(n), k)`, `k` at most `n`: different numbers in the order they are
    /// drawn.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        // Python draws from a list where that takes less memory than a set of the drawn numbers,
        // whose size it takes for the smallest power of 4 that is at least 3 k. The two draw
        // differently.
        let set = match k {
            0..=5 => 21,
            _ => {
                let mut powers = std::iter::successors(Some(1), |power| Some(power * 4));
                21 + powers.find(|&power| power >= 3 * k).unwrap_or(0)
            }
        };
        if n <= set {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..k)
                .map(|_| pool.swap_remove(self.below(pool.len())))
                .collect();
        }
        let mut seen = HashSet::new();
        let mut draw = || loop {
            let drawn = self.below(n);
            if seen.insert(drawn) {
                return drawn;
            }
        };
        (0..k).map(|_| draw()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `random.seed(seed); [random.sample(range(n), k) for n, k in ..]` by CPython 3.
    #[test]
    fn samples_are_pythons() {
        let sample = |seed, calls: &[(usize, usize)]| -> Vec<Vec<usize>> {
            let mut random = PythonRandom::new(seed);
            let calls = calls.iter();
            calls.map(|&(n, k)| random.sample(n, k)).collect()
        };
        // From a list and from a set of 21, then at the border of a set of 85.
        let few = [(10, 4), (21, 5), (22, 5), (3, 3), (1, 1), (5000, 4)];
        let expected: [&[usize]; 6] = [
            &[2, 1, 4, 0],
            &[15, 14, 20, 12, 6],
            &[3, 15, 0, 12, 13],
            &[2, 0, 1],
            &[0],
            &[1874, 4842, 837, 2600],
        ];
        assert_eq!(sample(1, &few), expected);
        let expected = [
            [
                78, 81, 73, 60, 32, 84, 16, 66, 48, 77, 46, 50, 56, 57, 47, 28,
            ],
            [56, 76, 23, 17, 67, 73, 20, 4, 32, 9, 47, 16, 75, 3, 72, 19],
        ];
        assert_eq!(sample((1 << 40) + 7, &[(85, 16), (86, 16)]), expected);
        // Past the first 624 words.
        let later = sample(3, &[(100_000, 1_000), (9, 3)]);
        assert_eq!(later[1], [0, 6, 2]);
    }
}
