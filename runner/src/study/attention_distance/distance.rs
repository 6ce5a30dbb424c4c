//! Attention distances of one block, in double precision.
//!
//! Raghu et al., "Do Vision Transformers See Like Convolutional Neural Networks?", 2021: the mean distance in pixels of the
//! patches that a query attends to, weighted by attention.

use peft_core::attention::AttentionGrid;
use serde::Serialize;

/// The means over images and queries of one block, by head.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// The block, from 1.
    pub layer: usize,
    /// `sum_j A_ij D_ij`: what prefix tokens hold counts as 0.
    pub pixels: Vec<f64>,
    /// The distance with the weights of the patches scaled to a sum of 1.
    pub renormalised: Vec<f64>,
    /// The sum of the weights of the prefix tokens.
    pub prefix_mass: Vec<f64>,
    /// `|i - argmax_j A_ij|`, in tokens.
    pub argmax_tokens: Vec<f64>,
    /// `D` of the largest weight.
    pub argmax_pixels: Vec<f64>,
}

/// A quantity of a [`Layer`], by head.
pub type Quantity = fn(&Layer) -> &[f64];

impl Layer {
    /// The mean of a quantity over heads.
    pub fn mean(&self, of: Quantity) -> f64 {
        let values = of(self);
        values.iter().sum::<f64>() / values.len() as f64
    }
}

/// Distances between the centres of patches in pixels.
///
/// # Shapes
/// `[n, n]`.
pub fn distances(grid: &AttentionGrid) -> Vec<f64> {
    let [rows, columns] = grid.grid;
    let count = rows * columns;
    let between = |place: usize| {
        let (i, j) = (place / count, place % count);
        let apart = |a: usize, b: usize| a.abs_diff(b) as f64;
        let (dr, dc) = (
            apart(i / columns, j / columns),
            apart(i % columns, j % columns),
        );
        grid.patch as f64 * (dr * dr + dc * dc).sqrt()
    };
    (0..count * count).map(between).collect()
}

/// The distance where every patch is attended to equally.
pub fn uniform(grid: &AttentionGrid) -> f64 {
    let all = distances(grid);
    all.iter().sum::<f64>() / all.len() as f64
}

/// Sums of one block over images and queries.
pub struct Sums {
    grid: AttentionGrid,
    distances: Vec<f64>,
    /// By quantity and head.
    sums: [Vec<f64>; 5],
    queries: usize,
}

impl Sums {
    /// Sums of zero for that many heads.
    pub fn new(grid: AttentionGrid, heads: usize) -> Self {
        Self {
            distances: distances(&grid),
            grid,
            sums: std::array::from_fn(|_| vec![0.0; heads]),
            queries: 0,
        }
    }

    /// Adds attention weights.
    ///
    /// # Shapes
    /// `weights [b, heads, n, n]`, prefix tokens first, a row for each query.
    pub fn add<T: Copy + Into<f64>>(&mut self, weights: &[T]) {
        let [rows, columns] = self.grid.grid;
        let (prefix, patches) = (self.grid.prefix, rows * columns);
        let (tokens, heads) = (prefix + patches, self.sums[0].len());
        for (index, square) in weights.chunks_exact(tokens * tokens).enumerate() {
            let head = index % heads;
            for query in 0..patches {
                let row = &square[(prefix + query) * tokens..][..tokens];
                let row: Vec<f64> = row.iter().map(|weight| (*weight).into()).collect();
                let (before, own) = row.split_at(prefix);
                let apart = &self.distances[query * patches..][..patches];
                let pixels: f64 = own.iter().zip(apart).map(|(a, d)| a * d).sum();
                let held: f64 = own.iter().sum();
                let mut largest = 0;
                for (key, weight) in own.iter().enumerate() {
                    // Of equal weights the lowest index counts.
                    if *weight > own[largest] {
                        largest = key;
                    }
                }
                let found = [
                    pixels,
                    pixels / held,
                    before.iter().sum(),
                    query.abs_diff(largest) as f64,
                    apart[largest],
                ];
                for (sums, value) in self.sums.iter_mut().zip(found) {
                    sums[head] += value;
                }
            }
            self.queries += usize::from(head == 0) * patches;
        }
    }

    /// The means of block `layer`.
    pub fn finish(self, layer: usize) -> Layer {
        let queries = self.queries as f64;
        let means = self.sums.map(|sums| {
            let means = sums.into_iter().map(|sum| sum / queries);
            means.collect::<Vec<f64>>()
        });
        let [
            pixels,
            renormalised,
            prefix_mass,
            argmax_tokens,
            argmax_pixels,
        ] = means;
        Layer {
            layer,
            pixels,
            renormalised,
            prefix_mass,
            argmax_tokens,
            argmax_pixels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(side: usize, patch: usize, prefix: usize) -> AttentionGrid {
        AttentionGrid {
            prefix,
            grid: [side; 2],
            patch,
            windows: false,
        }
    }

    fn close(found: f64, expected: f64) {
        let tolerance = 1e-9 * expected.abs().max(1e-12);
        assert!(
            (found - expected).abs() <= tolerance,
            "{found} instead of {expected}"
        );
    }

    #[test]
    fn uniform_attention_has_the_known_distance() {
        for (side, patch, known) in [
            (14, 16, 116.492_227_091_766_37),
            (4, 8, 16.064_119_755_040_704),
            (2, 16, 13.656_854_249_492_38),
        ] {
            close(uniform(&grid(side, patch, 0)), known);
        }
        let mut sums = Sums::new(grid(14, 16, 1), 2);
        sums.add(&vec![1.0 / 197.0; 2 * 197 * 197]);
        let layer = sums.finish(1);
        close(layer.pixels[1], 115.900_895_989_777_71);
        close(layer.renormalised[0], 116.492_227_091_766_37);
        close(layer.prefix_mass[0], 1.0 / 197.0);
    }

    #[test]
    fn a_token_that_attends_to_itself_has_no_distance() {
        let mut sums = Sums::new(grid(3, 8, 0), 1);
        let identity: Vec<f32> = (0..81)
            .map(|place| f32::from(u8::from(place / 9 == place % 9)))
            .collect();
        sums.add(&identity);
        let layer = sums.finish(1);
        assert_eq!(layer.pixels, [0.0]);
        assert_eq!(layer.argmax_tokens, [0.0]);
    }
}
