//! Linear CKA by Gram matrices, from unbiased HSIC over batches, and the biased one over all images.
//!
//! Kornblith et al., "Similarity of Neural Network Representations Revisited", 2019; Song et al., "Feature Selection via
//! Dependence Maximization", 2012, for the unbiased HSIC; Nguyen et al., "Do Wide and Deep Networks Learn the Same
//! Things?", 2020, for sums over batches. In double precision; Gram matrices are not centred.

use rayon::prelude::*;

/// The least images of a batch: the unbiased HSIC divides by `b - 3`.
pub const LEAST: usize = 4;
/// A self sum that is no more than this share of the squared Gram matrices is a constant activation's.
const CONSTANT: f64 = 1e-12;

/// A Gram matrix `K = X X^T` of `b` images.
#[derive(Clone, Debug)]
pub struct Gram {
    size: usize,
    values: Vec<f64>,
}

/// The products of the rows of `a` with those of `b`, which have the same width.
///
/// # Shapes
/// `a [n, p], b [m, p] -> [n, m]`.
pub fn products<T: Copy + Into<f64> + Sync>(a: &[T], b: &[T], width: usize) -> Vec<f64> {
    let columns = b.len() / width;
    let mut values = vec![0.0; a.len() / width * columns];
    values
        .par_iter_mut()
        .enumerate()
        .for_each(|(place, value)| {
            let row = &a[place / columns * width..][..width];
            let column = &b[place % columns * width..][..width];
            // Eight sums side by side, which a CPU adds at once.
            let mut sums = [0.0; 8];
            let (rows, row_rest) = row.as_chunks::<8>();
            let (columns, column_rest) = column.as_chunks::<8>();
            for (x, y) in rows.iter().zip(columns) {
                for lane in 0..8 {
                    sums[lane] += x[lane].into() * y[lane].into();
                }
            }
            let rest = row_rest.iter().zip(column_rest);
            let rest: f64 = rest.map(|(x, y)| (*x).into() * (*y).into()).sum();
            *value = sums.iter().sum::<f64>() + rest;
        });
    values
}

impl Gram {
    /// The Gram matrix of rows of that width.
    pub fn of<T: Copy + Into<f64> + Sync>(rows: &[T], width: usize) -> Self {
        Self {
            size: rows.len() / width,
            values: products(rows, rows, width),
        }
    }

    /// A matrix of these values.
    pub fn from_values(size: usize, values: Vec<f64>) -> Self {
        Self { size, values }
    }

    fn row(&self, index: usize) -> &[f64] {
        &self.values[index * self.size..][..self.size]
    }

    /// The sum of the squares of all entries.
    fn squares(&self) -> f64 {
        self.values.iter().map(|value| value * value).sum()
    }

    /// The sum of each row without the diagonal.
    fn off_diagonal(&self) -> Vec<f64> {
        let sum = |index| self.row(index).iter().sum::<f64>() - self.row(index)[index];
        (0..self.size).map(sum).collect()
    }

    /// The unbiased HSIC of two Gram matrices of the same images.
    pub fn unbiased(&self, other: &Self) -> f64 {
        let b = self.size as f64;
        let (own, others) = (self.off_diagonal(), other.off_diagonal());
        let mut product = 0.0;
        for i in 0..self.size {
            let pairs = self.row(i).iter().zip(other.row(i)).enumerate();
            product += pairs
                .filter(|(j, _)| *j != i)
                .map(|(_, (k, l))| k * l)
                .sum::<f64>();
        }
        let (sum, other_sum) = (own.iter().sum::<f64>(), others.iter().sum::<f64>());
        let mixed: f64 = own.iter().zip(&others).map(|(k, l)| k * l).sum();
        (product + sum * other_sum / ((b - 1.0) * (b - 2.0)) - 2.0 / (b - 2.0) * mixed)
            / (b * (b - 3.0))
    }

    /// The matrix with the mean of each row and column taken out: `H K H`.
    fn centred(&self) -> Self {
        let n = self.size as f64;
        let means: Vec<f64> = (0..self.size)
            .map(|row| self.row(row).iter().sum::<f64>() / n)
            .collect();
        let all = means.iter().sum::<f64>() / n;
        let place = |place: usize| {
            let (row, column) = (place / self.size, place % self.size);
            self.values[place] - means[row] - means[column] + all
        };
        Self {
            size: self.size,
            values: (0..self.values.len()).map(place).collect(),
        }
    }

    /// The biased HSIC of two Gram matrices of the same images.
    pub fn biased(&self, other: &Self) -> f64 {
        let n = self.size as f64;
        let pairs = self.centred().values.into_iter().zip(&other.values);
        pairs.map(|(k, l)| k * l).sum::<f64>() / (n - 1.0).powi(2)
    }
}

/// Sums over batches of the HSIC between all boundaries of two networks, and of each with itself.
#[derive(Clone, Debug)]
pub struct Sums {
    cross: Vec<Vec<f64>>,
    own: [Vec<f64>; 2],
    squares: [Vec<f64>; 2],
    batch: usize,
}

impl Sums {
    /// Sums of zero for that many boundaries, over batches of `batch` images.
    pub fn new(counts: [usize; 2], batch: usize) -> Self {
        Self {
            cross: vec![vec![0.0; counts[1]]; counts[0]],
            own: counts.map(|count| vec![0.0; count]),
            squares: counts.map(|count| vec![0.0; count]),
            batch,
        }
    }

    /// Adds a batch: the Gram matrices of both networks by boundary.
    pub fn add(&mut self, grams: [&[Gram]; 2]) {
        for (side, grams) in grams.into_iter().enumerate() {
            for (place, gram) in grams.iter().enumerate() {
                self.own[side][place] += gram.unbiased(gram);
                self.squares[side][place] += gram.squares();
            }
        }
        for (row, a) in self.cross.iter_mut().zip(grams[0]) {
            for (cell, b) in row.iter_mut().zip(grams[1]) {
                *cell += a.unbiased(b);
            }
        }
    }

    /// CKA by boundary of the first network and of the second; none where an activation is constant.
    pub fn finish(&self) -> Vec<Vec<Option<f64>>> {
        let varies = |side: usize, place: usize| {
            let least = CONSTANT * self.squares[side][place] / (self.batch as f64).powi(2);
            self.own[side][place] > least
        };
        let cell = |row: usize, column: usize| {
            let both = varies(0, row) && varies(1, column);
            let scale = (self.own[0][row] * self.own[1][column]).sqrt();
            both.then(|| self.cross[row][column] / scale)
        };
        let rows = 0..self.own[0].len();
        rows.map(|row| (0..self.own[1].len()).map(|c| cell(row, c)).collect())
            .collect()
    }
}

/// The biased CKA over all images at once; none where an activation is constant.
pub fn plain(a: &[Gram], b: &[Gram]) -> Vec<Vec<Option<f64>>> {
    let own = |grams: &[Gram]| -> Vec<Option<f64>> {
        let own = |gram: &Gram| {
            let hsic = gram.biased(gram);
            let least = CONSTANT * gram.squares() / (gram.size as f64).powi(2);
            (hsic > least).then_some(hsic)
        };
        grams.iter().map(own).collect()
    };
    let (own_a, own_b) = (own(a), own(b));
    let cell = |(k, own_k): (&Gram, &Option<f64>), (l, own_l): (&Gram, &Option<f64>)| {
        Some(k.biased(l) / ((*own_k)? * (*own_l)?).sqrt())
    };
    let rows = a.iter().zip(&own_a);
    rows.map(|k| b.iter().zip(&own_b).map(|l| cell(k, l)).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use peft_core::random::Generator;
    use serde_json::Value;

    use super::*;

    fn close(found: f64, expected: f64) {
        let tolerance = 1e-9 * expected.abs().max(1.0);
        assert!(
            (found - expected).abs() < tolerance,
            "{found} instead of {expected}"
        );
    }

    /// The small case in which every number can be checked by hand.
    #[test]
    fn the_hand_case_agrees() {
        let text = include_str!("../../../../fixtures/studies/hand.json");
        let hand: Value = serde_json::from_str(text).unwrap();
        let rows = |key: &str| -> (Vec<f64>, usize) {
            let rows: Vec<Vec<f64>> = serde_json::from_value(hand[key].clone()).unwrap();
            (rows.concat(), rows[0].len())
        };
        let [k, l] = ["X", "Y"].map(|key| {
            let (values, width) = rows(key);
            Gram::of(&values, width)
        });
        let expected = |key: &str| hand[key].as_f64().unwrap();
        close(k.biased(&l), expected("hsic0"));
        close(k.unbiased(&l), expected("hsic1"));
        close(k.unbiased(&k), expected("hsic1_KK"));
        close(l.unbiased(&l), expected("hsic1_LL"));
        let [k, l] = [vec![k], vec![l]];
        close(plain(&k, &l)[0][0].unwrap(), expected("cka_plain"));
        let mut sums = Sums::new([1, 1], 6);
        sums.add([&k, &l]);
        close(sums.finish()[0][0].unwrap(), expected("cka_hsic1"));
    }

    #[test]
    fn it_is_one_for_the_same_thing_rotated_scaled_and_shifted() {
        let mut generator = Generator::new(5, "cka");
        let x: Vec<f64> = (0..12 * 2).map(|_| f64::from(generator.normal())).collect();
        let (sine, cosine) = 0.7f64.sin_cos();
        let moved = x.chunks_exact(2).flat_map(|row| {
            let turned = [
                cosine * row[0] - sine * row[1],
                sine * row[0] + cosine * row[1],
            ];
            turned.map(|value| 3.0 * value)
        });
        let moved: Vec<f64> = moved
            .zip([5.0, -2.0].into_iter().cycle())
            .map(|(v, s)| v + s)
            .collect();
        let (k, l) = (vec![Gram::of(&x, 2)], vec![Gram::of(&moved, 2)]);
        let mut sums = Sums::new([1, 1], 12);
        sums.add([&k, &l]);
        close(sums.finish()[0][0].unwrap(), 1.0);
        close(plain(&k, &l)[0][0].unwrap(), 1.0);
    }

    /// Features that have nothing to do with each other look alike to the biased form where there are fewer
    /// images than features.
    #[test]
    fn only_the_biased_form_finds_similarity_where_there_is_none() {
        let draw = |seed| {
            let mut generator = Generator::new(seed, "independent");
            let values: Vec<f64> = (0..16 * 512)
                .map(|_| f64::from(generator.normal()))
                .collect();
            vec![Gram::of(&values, 512)]
        };
        let mut sum = 0.0;
        for pair in 0..20 {
            let (k, l) = (draw(2 * pair), draw(2 * pair + 1));
            assert!(plain(&k, &l)[0][0].unwrap() > 0.9);
            let mut sums = Sums::new([1, 1], 16);
            sums.add([&k, &l]);
            sum += sums.finish()[0][0].unwrap();
        }
        let mean = sum / 20.0;
        assert!(mean.abs() < 0.2, "{mean}");
    }
}
