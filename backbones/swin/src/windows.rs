//! Windows for local attention: how a grid is shifted, padded and cut, which row of the bias table
//! belongs to a pair of positions, and which pairs are masked.

use burn::tensor::ops::PadMode;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Added to the score of two positions that must not attend to each other (timm's value).
const MASKED: f32 = -100.0;

/// How a library cuts a grid that windows do not divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cutting {
    /// timm: a window has no more rows or columns than the grid, and the grid is shifted, then padded.
    Timm,
    /// transformers: the same windows, but the grid is padded, then shifted.
    Transformers,
    /// torchvision: a window keeps its size, and the grid is padded, then shifted.
    Torchvision,
}

impl Cutting {
    /// That of the library with this layout of names.
    pub fn of(layout: &str) -> Self {
        match layout {
            "torchvision" => Self::Torchvision,
            "transformers" | "transformers-4" => Self::Transformers,
            _ => Self::Timm,
        }
    }
}

/// A grid cut into windows, after a cyclic shift if there is one. All sizes are rows, then columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    grid: [usize; 2],
    /// The size of a window.
    size: [usize; 2],
    /// The rows and columns by which the grid moves up and left before it is cut.
    shift: [usize; 2],
    /// Whether the grid is padded before it is shifted.
    pads_first: bool,
}

impl Windows {
    /// Windows of `size` rows and columns, shifted by half of it if `shifted`, but not along rows or columns
    /// of which the grid has no more than a window.
    pub fn new(grid: [usize; 2], size: usize, shifted: bool, cutting: Cutting) -> Self {
        Self {
            grid,
            size: grid.map(|side| match cutting {
                Cutting::Torchvision => size,
                Cutting::Timm | Cutting::Transformers => size.min(side),
            }),
            shift: grid.map(|side| if shifted && side > size { size / 2 } else { 0 }),
            pads_first: cutting != Cutting::Timm,
        }
    }

    /// The same grid and windows as another library cuts them; `size` and `shifted` are those of
    /// [`new`](Self::new).
    pub fn cut_as(self, size: usize, shifted: bool, cutting: Cutting) -> Self {
        Self::new(self.grid, size, shifted, cutting)
    }

    /// Rows and columns of a window.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Positions in a window.
    fn positions(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Number of windows along each side, the last of which may be padded.
    fn count(&self) -> [usize; 2] {
        [0, 1].map(|side| self.grid[side].div_ceil(self.size[side]))
    }

    /// Rows and columns of the padded grid.
    fn padded(&self) -> [usize; 2] {
        [0, 1].map(|side| self.count()[side] * self.size[side])
    }

    /// Number of relative positions in a window, which is that of the bias table's rows.
    pub fn offsets(&self) -> usize {
        self.size.iter().map(|side| 2 * side - 1).product()
    }

    /// Shifts, pads and cuts a grid.
    ///
    /// # Shapes
    /// `[b, h, w, c] -> [b * windows, rows * columns, c]`, rows and columns of a window.
    pub fn cut(&self, x: Tensor<4>) -> Tensor<3> {
        let ([down, along], [rows, columns]) = (self.count(), self.size);
        // The order matters: what is padded first has its zeros shifted into the middle.
        let pad = |x| padded(x, [0, 1].map(|side| self.padded()[side] - self.grid[side]));
        let roll = |x| rolled(x, self.shift.map(|by| -(by as i64)));
        let x = match self.pads_first {
            true => roll(pad(x)),
            false => pad(roll(x)),
        };
        let [b, _, _, c] = x.dims();
        x.reshape([b, down, rows, along, columns, c])
            .swap_dims(2, 3) // [b, down, along, rows, columns, c]
            .reshape([b * down * along, rows * columns, c])
    }

    /// The inverse of [`Windows::cut`].
    ///
    /// # Shapes
    /// `[b * windows, rows * columns, c] -> [b, h, w, c]`.
    pub fn join(&self, x: Tensor<3>) -> Tensor<4> {
        let ([down, along], [rows, columns]) = (self.count(), self.size);
        let [all, _, c] = x.dims();
        let b = all / (down * along);
        let [height, width] = self.padded();
        let x = x
            .reshape([b, down, along, rows, columns, c])
            .swap_dims(2, 3) // [b, down, rows, along, columns, c]
            .reshape([b, height, width, c]);
        let inside = |x: Tensor<4>| match [height, width] == self.grid {
            true => x,
            false => x.slice([0..b, 0..self.grid[0], 0..self.grid[1]]),
        };
        let back = |x| rolled(x, self.shift.map(|by| by as i64));
        match self.pads_first {
            true => inside(back(x)),
            false => back(inside(x)),
        }
    }

    /// The row of the bias table for each pair of positions in a window.
    ///
    /// # Shapes
    /// `[positions^2]`, the second position of a pair fastest.
    pub fn index(&self, device: &Device) -> Tensor<1, Int> {
        let [rows, columns] = self.size;
        let positions = || (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let index: Vec<i64> = positions()
            .flat_map(|(r, c)| {
                // Offsets lie between -(side - 1) and side - 1; the table counts them from 0.
                let row = move |(other_r, other_c)| {
                    let (down, along) = (r + rows - 1 - other_r, c + columns - 1 - other_c);
                    (down * (2 * columns - 1) + along) as i64
                };
                positions().map(row)
            })
            .collect();
        Tensor::from_data(&index[..], device)
    }

    /// The mask of a shifted grid, to be added to the scores; `None` without a shift. Windows at the end
    /// of a shifted grid hold parts from both ends of the image, which must not attend to each other.
    ///
    /// # Shapes
    /// `[windows, positions, positions]`.
    pub fn mask(&self, device: &Device) -> Option<Tensor<3>> {
        if self.shift == [0; 2] {
            return None;
        }
        let (n, count, [rows, columns]) = (self.positions(), self.count(), self.size);
        let end = self.padded();
        // The part of the image that a row or a column of the padded grid comes from: 0 before the
        // last window, then 1, and 2 for those that were shifted in from the other end.
        let part = |side: usize, at: usize| {
            let last = at >= end[side] - self.size[side];
            usize::from(last) + usize::from(at >= end[side] - self.shift[side])
        };
        let windows = count[0] * count[1];
        let mut values = Vec::with_capacity(windows * n * n);
        for window in 0..windows {
            let (top, left) = (window / count[1] * rows, window % count[1] * columns);
            let parts: Vec<_> = (0..n)
                .map(|i| (part(0, top + i / columns), part(1, left + i % columns)))
                .collect();
            for one in &parts {
                let value = |other| if one == other { 0.0 } else { MASKED };
                values.extend(parts.iter().map(value));
            }
        }
        let data = TensorData::new(values, [windows, n, n]);
        Some(Tensor::from_data(data, device))
    }
}

/// Pads with rows of zeros below and columns of zeros to the right.
///
/// # Shapes
/// `[b, h, w, c] -> [b, h + below, w + right, c]`.
pub(crate) fn padded(x: Tensor<4>, [below, right]: [usize; 2]) -> Tensor<4> {
    match [below, right] {
        [0, 0] => x,
        _ => x.pad(
            [(0, 0), (0, below), (0, right), (0, 0)],
            PadMode::Constant(0.0),
        ),
    }
}

/// Moves all positions down and right by these rows and columns; those that leave come in on the other
/// side.
fn rolled(x: Tensor<4>, by: [i64; 2]) -> Tensor<4> {
    match by {
        [0, 0] => x,
        by => x.roll(&by, &[1, 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_windows_undoes_cutting_them() {
        let device = Device::flex();
        for (grid, size, shifted) in [
            ([8, 8], 4, true),
            ([7, 7], 3, true),
            ([10, 10], 4, false),
            ([3, 3], 7, true),
            ([8, 6], 4, true),
            ([3, 9], 4, true),
        ] {
            let [h, w] = grid;
            let values = Tensor::<1, Int>::arange(0..(2 * h * w * 3) as i64, &device);
            let x: Tensor<4> = values.float().reshape([2, h, w, 3]);
            for cutting in [Cutting::Timm, Cutting::Transformers, Cutting::Torchvision] {
                let windows = Windows::new(grid, size, shifted, cutting);
                let again = windows.join(windows.cut(x.clone()));
                assert_eq!(again.into_data(), x.clone().into_data(), "{windows:?}");
            }
        }
    }

    #[test]
    fn a_grid_no_larger_than_a_window_is_one_window_without_a_shift() {
        for grid in [[3, 3], [4, 4], [3, 4]] {
            let windows = Windows::new(grid, 4, true, Cutting::Timm);
            assert_eq!((windows.count(), windows.size), ([1, 1], grid));
            assert_eq!(windows.shift, [0, 0]);
            assert!(windows.mask(&Device::flex()).is_none());
        }
    }

    #[test]
    fn torchvision_keeps_the_window_and_pads_before_it_shifts() {
        let windows = Windows::new([2, 5], 3, true, Cutting::Torchvision);
        assert_eq!((windows.size, windows.shift), ([3, 3], [0, 1]));
        let values = Tensor::<1, Int>::arange(1..11, &Device::flex());
        let x = values.float().reshape([1, 2, 5, 1]);
        let cut: Vec<f32> = windows.cut(x).into_data().try_to_vec().unwrap();
        let expected = [
            [2.0, 3.0, 4.0, 7.0, 8.0, 9.0, 0.0, 0.0, 0.0],
            [5.0, 0.0, 1.0, 10.0, 0.0, 6.0, 0.0, 0.0, 0.0],
        ];
        assert_eq!(cut, expected.concat());
    }

    #[test]
    fn windows_shrink_and_shift_along_each_side_alone() {
        let windows = Windows::new([3, 8], 4, true, Cutting::Timm);
        assert_eq!((windows.size, windows.shift), ([3, 4], [0, 2]));
        assert_eq!((windows.count(), windows.offsets()), ([1, 2], 35));
        let mask = windows.mask(&Device::flex()).unwrap();
        assert_eq!(mask.dims(), [2, 12, 12]);
        // Columns 0 and 1 of the last window are the image's last, 2 and 3 its first.
        let row: Vec<f32> = mask.slice([1..2, 0..1]).into_data().try_to_vec().unwrap();
        assert_eq!(row, [0.0, 0.0, MASKED, MASKED].repeat(3));
    }
}
