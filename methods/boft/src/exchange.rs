//! The permutations of a butterfly.

use burn::tensor::Tensor;
use peft_core::described::Formula;

/// The permutation of a factor: in each block of `2^level` of `size`, the halves of even number come first.
#[derive(Clone, Copy)]
pub(crate) struct Exchange {
    /// Channels of a block.
    pub size: usize,
    /// The factor, from 0.
    pub level: usize,
}

impl Exchange {
    /// The columns as blocks, pairs of halves, the two halves of a pair, and the channels of a half. The two axes in the
    /// middle change places.
    fn axes(self, [rows, columns]: [usize; 2], back: bool) -> [usize; 5] {
        let pairs = 1 << self.level;
        let (blocks, half) = (columns / (pairs * self.size), self.size / 2);
        match back {
            false => [rows, blocks, pairs, 2, half],
            true => [rows, blocks, 2, pairs, half],
        }
    }

    /// The permuted columns, or with `back` those before the permutation.
    ///
    /// # Shapes
    /// `[out, in] -> [out, in]`.
    pub fn of(self, weight: Tensor<2>, back: bool) -> Tensor<2> {
        // The first factor leaves channels where they are.
        if self.level == 0 {
            return weight;
        }
        let shape = weight.dims();
        let weight = weight.reshape(self.axes(shape, back));
        weight.permute([0, 1, 3, 2, 4]).reshape(shape)
    }

    /// Rearranges a formula of that shape in the same way.
    pub fn described(self, weight: Formula, shape: [usize; 2], back: bool) -> Formula {
        if self.level == 0 {
            return weight;
        }
        let weight = weight.reshaped(self.axes(shape, back));
        weight.permuted([0, 1, 3, 2, 4]).reshaped(shape)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use peft_core::params::floats;

    use super::*;

    #[test]
    fn halves_of_even_number_come_first() {
        let order = |columns: usize, size: usize, level: usize| -> Vec<f32> {
            let row: Vec<f32> = (0..columns).map(|column| column as f32).collect();
            let row = TensorData::new(row, [1, columns]);
            let row = Tensor::<2>::from_data(row, &Device::flex());
            let exchange = Exchange { size, level };
            let permuted = exchange.of(row.clone(), false);
            let back = exchange.of(permuted.clone(), true);
            assert_eq!(floats(back.into_data()), floats(row.into_data()));
            floats(permuted.into_data())
        };
        assert_eq!(order(4, 2, 0), [0., 1., 2., 3.]);
        assert_eq!(order(8, 2, 1), [0., 2., 1., 3., 4., 6., 5., 7.]);
        assert_eq!(order(8, 4, 1), [0., 1., 4., 5., 2., 3., 6., 7.]);
        assert_eq!(order(8, 2, 2), [0., 2., 4., 6., 1., 3., 5., 7.]);
    }
}
