//! Windows for local attention: how a grid is shifted, padded and cut, which row of the bias table
//! belongs to a pair of positions, and which pairs are masked.

use burn::tensor::ops::PadMode;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Added to the score of two positions that must not attend to each other (timm's value).
const MASKED: f32 = -100.0;

/// A square grid cut into square windows, after a cyclic shift if there is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    /// Rows and columns of the grid.
    grid: usize,
    /// Rows and columns of a window.
    size: usize,
    /// Rows and columns by which the grid moves up and left before it is cut.
    shift: usize,
}

impl Windows {
    /// Windows of `size`, shifted by half of it if `shifted`. A grid no larger than a window becomes
    /// one window without a shift.
    pub fn new(grid: usize, size: usize, shifted: bool) -> Self {
        Self {
            grid,
            size: size.min(grid),
            shift: if shifted && grid > size { size / 2 } else { 0 },
        }
    }

    /// Rows and columns of a window.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of windows along one side, the last of which may be padded.
    fn count(&self) -> usize {
        self.grid.div_ceil(self.size)
    }

    /// Number of relative positions in a window, which is that of the bias table's rows.
    pub fn offsets(&self) -> usize {
        (2 * self.size - 1).pow(2)
    }

    /// Shifts, pads and cuts a grid.
    ///
    /// # Shapes
    /// `[b, grid, grid, c] -> [b * windows, size * size, c]`.
    pub fn cut(&self, x: Tensor<4>) -> Tensor<3> {
        let (n, s) = (self.count(), self.size);
        // Padding comes after the shift, as in timm; the other order would mix zeros into the middle.
        let x = rolled(x, -(self.shift as i64));
        let x = padded(x, n * s - self.grid);
        let [b, _, _, c] = x.dims();
        x.reshape([b, n, s, n, s, c])
            .swap_dims(2, 3) // [b, n, n, s, s, c]
            .reshape([b * n * n, s * s, c])
    }

    /// The inverse of [`Windows::cut`].
    ///
    /// # Shapes
    /// `[b * windows, size * size, c] -> [b, grid, grid, c]`.
    pub fn join(&self, x: Tensor<3>) -> Tensor<4> {
        let (n, s) = (self.count(), self.size);
        let [all, _, c] = x.dims();
        let b = all / (n * n);
        let x = x
            .reshape([b, n, n, s, s, c])
            .swap_dims(2, 3) // [b, n, s, n, s, c]
            .reshape([b, n * s, n * s, c]);
        let x = match n * s - self.grid {
            0 => x,
            _ => x.slice([0..b, 0..self.grid, 0..self.grid]),
        };
        rolled(x, self.shift as i64)
    }

    /// The row of the bias table for each pair of positions in a window.
    ///
    /// # Shapes
    /// `[size^4]`, the second position of a pair fastest.
    pub fn index(&self, device: &Device) -> Tensor<1, Int> {
        let (size, side) = (self.size, 2 * self.size - 1);
        let positions = || (0..size).flat_map(|row| (0..size).map(move |column| (row, column)));
        let rows: Vec<i64> = positions()
            .flat_map(|(r, c)| {
                // Offsets lie between -(size - 1) and size - 1; rows count them from 0.
                let row = move |(other_r, other_c)| {
                    ((r + size - 1 - other_r) * side + c + size - 1 - other_c) as i64
                };
                positions().map(row)
            })
            .collect();
        Tensor::from_data(&rows[..], device)
    }

    /// The mask of a shifted grid, to be added to the scores; `None` without a shift. Windows at the end
    /// of a shifted grid hold parts from both ends of the image, which must not attend to each other.
    ///
    /// # Shapes
    /// `[windows, size * size, size * size]`.
    pub fn mask(&self, device: &Device) -> Option<Tensor<3>> {
        if self.shift == 0 {
            return None;
        }
        let (n, s) = (self.count(), self.size);
        let end = n * s;
        // The part of the image that a row or a column of the padded grid comes from: 0 before the
        // last window, then 1, and 2 for those that were shifted in from the other end.
        let part = |at: usize| usize::from(at >= end - s) + usize::from(at >= end - self.shift);
        let mut values = Vec::with_capacity(n * n * s.pow(4));
        for window in 0..n * n {
            let (top, left) = (window / n * s, window % n * s);
            let parts: Vec<_> = (0..s * s)
                .map(|i| (part(top + i / s), part(left + i % s)))
                .collect();
            for one in &parts {
                let value = |other| if one == other { 0.0 } else { MASKED };
                values.extend(parts.iter().map(value));
            }
        }
        let data = TensorData::new(values, [n * n, s * s, s * s]);
        Some(Tensor::from_data(data, device))
    }
}

/// Pads with zeros below and to the right.
///
/// # Shapes
/// `[b, h, w, c] -> [b, h + by, w + by, c]`.
pub(crate) fn padded(x: Tensor<4>, by: usize) -> Tensor<4> {
    match by {
        0 => x,
        by => x.pad([(0, 0), (0, by), (0, by), (0, 0)], PadMode::Constant(0.0)),
    }
}

/// Moves all positions down and right by `by`; those that leave come in on the other side.
fn rolled(x: Tensor<4>, by: i64) -> Tensor<4> {
    match by {
        0 => x,
        by => x.roll(&[by, by], &[1, 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_windows_undoes_cutting_them() {
        let device = Device::flex();
        for (grid, size, shifted) in [(8, 4, true), (7, 3, true), (10, 4, false), (3, 7, true)] {
            let values = Tensor::<1, Int>::arange(0..(2 * grid * grid * 3) as i64, &device);
            let x: Tensor<4> = values.float().reshape([2, grid, grid, 3]);
            let windows = Windows::new(grid, size, shifted);
            let again = windows.join(windows.cut(x.clone()));
            assert_eq!(again.into_data(), x.into_data(), "{windows:?}");
        }
    }

    #[test]
    fn a_grid_no_larger_than_a_window_is_one_window_without_a_shift() {
        for grid in [3, 4] {
            let windows = Windows::new(grid, 4, true);
            assert_eq!((windows.count(), windows.size, windows.shift), (1, grid, 0));
            assert!(windows.mask(&Device::flex()).is_none());
        }
    }
}
