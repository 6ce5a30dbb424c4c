//! `random.sample` of Python, so that a few-shot set drawn by CoOp's code with a seed is drawn here too.
//!
//! Python's generator is the Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998), seeded with
//! the words of the seed by its authors' `init_by_array`; a number below `n` is as many leading bits
//! of an output as `n` has, drawn again until it is below.

use std::collections::HashSet;

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// The state after `random.seed(seed)`.
pub(crate) struct PythonRandom {
    words: [u32; WORDS],
    /// The next word that is handed out.
    next: usize,
}

impl PythonRandom {
    /// `random.seed(seed)`.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key = match high {
            0 => &[low][..],
            _ => &[low, high],
        };
        let mut words = [0; WORDS];
        words[0] = 19_650_218;
        let mixed = |last: u32| last ^ (last >> 30);
        for i in 1..WORDS {
            words[i] = mixed(words[i - 1])
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        let (mut i, mut j) = (1, 0);
        let advance = |words: &mut [u32; WORDS], i: &mut usize| {
            *i += 1;
            if *i == WORDS {
                words[0] = words[WORDS - 1];
                *i = 1;
            }
        };
        for _ in 0..WORDS {
            words[i] = (words[i] ^ mixed(words[i - 1]).wrapping_mul(1_664_525))
                .wrapping_add(key[j])
                .wrapping_add(j as u32);
            advance(&mut words, &mut i);
            j = (j + 1) % key.len();
        }
        for _ in 0..WORDS - 1 {
            words[i] =
                (words[i] ^ mixed(words[i - 1]).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            advance(&mut words, &mut i);
        }
        words[0] = 1 << 31;
        Self { words, next: WORDS }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            for i in 0..WORDS {
                let joined =
                    (self.words[i] & (1 << 31)) | (self.words[(i + 1) % WORDS] & !(1 << 31));
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.words[i] = self.words[(i + SHIFT) % WORDS] ^ (joined >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A number below `n`, which is at least 1 and below 2^32.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = (self.word() >> (u32::BITS - bits)) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `random.sample(range(n), k)`, `k` at most `n`: different numbers in the order they are drawn.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        // Python weighs the memory of a list against that of a set: the smallest power of 4 that is
        // at least 3 k.
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
