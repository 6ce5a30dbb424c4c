//! The waves of chosen frequencies over a matrix.

use std::f64::consts::TAU;
use std::fmt;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use peft_core::hooks::like;
use peft_core::plug::Buffer;
use peft_core::torch_random::TorchGenerator;

/// Rows and columns of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize, pub usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.0, self.1)
    }
}

/// Cosines and sines of `n` frequencies along both sides: `cos(a + b) = cos a cos b - sin a sin b` makes
/// a wave over the matrix a product of one over its rows and one over its columns.
#[derive(Module, Debug)]
pub(crate) struct Waves {
    /// `[out, 2 n]`: cosines, then negative sines.
    rows: Buffer<2>,
    /// `[2 n, in]`: cosines, then sines.
    columns: Buffer<2>,
}

impl Waves {
    /// The waves at the first `count` places of a random order of the matrix.
    pub(crate) fn new(Size(rows, columns): Size, count: usize, seed: u64, device: &Device) -> Self {
        let order = TorchGenerator::new(seed).permutation(rows * columns);
        let places = &order[..count];
        // The angle is reduced as an integer, so that it is exact however large the product.
        let angle = |frequency: usize, at: usize, length: usize| {
            TAU * (frequency * at % length) as f64 / length as f64
        };
        let wave =
            |turn: fn(f64) -> f64, frequency, at, length| turn(angle(frequency, at, length)) as f32;
        let down = (0..rows).flat_map(|at| {
            let cosines = places
                .iter()
                .map(move |place| wave(f64::cos, place / columns, at, rows));
            let sines = places
                .iter()
                .map(move |place| wave(|a| -a.sin(), place / columns, at, rows));
            cosines.chain(sines)
        });
        let turns = [f64::cos as fn(f64) -> f64, f64::sin];
        let along = turns.into_iter().flat_map(|turn| {
            places.iter().flat_map(move |place| {
                (0..columns).map(move |at| wave(turn, place % columns, at, columns))
            })
        });
        let buffer = |values: Vec<f32>, shape: [usize; 2]| {
            Buffer::new(Tensor::from_data(TensorData::new(values, shape), device))
        };
        Self {
            rows: buffer(down.collect(), [rows, 2 * count]),
            columns: buffer(along.collect(), [2 * count, columns]),
        }
    }

    /// The sum of all waves, each times its coefficient.
    ///
    /// # Shapes
    /// `[n] -> [out, in]`.
    pub(crate) fn sum(&self, coefficients: Tensor<1>) -> Tensor<2> {
        let both = Tensor::cat(vec![coefficients.clone(), coefficients], 0).unsqueeze::<2>(); // [1, 2 n]
        let (rows, columns) = (
            like(self.rows.val(), &both),
            like(self.columns.val(), &both),
        );
        (rows * both).matmul(columns)
    }
}
