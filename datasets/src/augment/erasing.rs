//! Random erasing (Zhong et al. 2020) of normalised images, as timm's `RandomErasing`.

use peft_core::random::Generator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Augment, chance, uniform};
use crate::Error;

/// Least and largest part of the area that the rectangles of an image erase together.
const AREA: [f64; 2] = [0.02, 1.0 / 3.0];
/// Least and largest height over width.
const ASPECT: [f64; 2] = [0.3, 1.0 / 0.3];

/// What erased rectangles are filled with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EraseMode {
    /// Zero: the mean colour.
    #[default]
    Const,
    /// One colour from a standard normal distribution.
    Rand,
    /// A colour for each pixel, likewise.
    Pixel,
}

/// A rectangle of the normalised image and what it becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct Erased {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The new values.
    pub fill: Fill,
}

/// Normalised values.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// One of each channel.
    Color([f32; 3]),
    /// `[3, height, width]`.
    Pixels(Vec<f32>),
}

impl Augment {
    pub(super) fn draw_erased(&self, generator: &mut Generator, size: usize) -> Vec<Erased> {
        if !chance(generator, self.re_prob) {
            return Vec::new();
        }
        let count = 1 + generator.below(self.re_count);
        let area = (size * size) as f64 / count as f64;
        let rectangle = |_| {
            // What does not fit is drawn again, ten times at most.
            let (width, height) = (0..10).find_map(|_| {
                let area = area * uniform(generator, AREA[0], AREA[1]);
                let aspect = uniform(generator, ASPECT[0].ln(), ASPECT[1].ln()).exp();
                let height = (area * aspect).sqrt().round_ties_even() as usize;
                let width = (area / aspect).sqrt().round_ties_even() as usize;
                (width < size && height < size).then_some((width, height))
            })?;
            let top = generator.below(size - height + 1);
            let left = generator.below(size - width + 1);
            let fill = match self.re_mode {
                EraseMode::Const => Fill::Color([0.0; 3]),
                EraseMode::Rand => Fill::Color(std::array::from_fn(|_| generator.normal())),
                EraseMode::Pixel => Fill::Pixels(
                    (0..3 * height * width)
                        .map(|_| generator.normal())
                        .collect(),
                ),
            };
            Some(Erased {
                left,
                top,
                width,
                height,
                fill,
            })
        };
        (0..count).filter_map(rectangle).collect()
    }
}

impl Erased {
    /// Overwrites the rectangle.
    ///
    /// # Shapes
    /// - image: `[3, size, size]`
    pub(super) fn erase(&self, size: usize, image: &mut [f32]) -> Result<(), Error> {
        let area = self.width * self.height;
        let values = match &self.fill {
            Fill::Color(_) => 3 * area,
            Fill::Pixels(values) => values.len(),
        };
        if self.left + self.width > size || self.top + self.height > size || values != 3 * area {
            return Err(Error::Invalid {
                field: "erased",
                expected: format!("a rectangle of {size} x {size} pixels and its values"),
                got: format!(
                    "{} x {} pixels at {}, {} with {values} values",
                    self.width, self.height, self.left, self.top
                ),
            });
        }
        for (channel, plane) in image.chunks_exact_mut(size * size).enumerate() {
            let rows = plane
                .chunks_exact_mut(size)
                .skip(self.top)
                .take(self.height);
            for (y, row) in rows.enumerate() {
                let row = &mut row[self.left..self.left + self.width];
                match &self.fill {
                    Fill::Color(color) => row.fill(color[channel]),
                    Fill::Pixels(values) => {
                        let start = channel * area + y * self.width;
                        row.copy_from_slice(&values[start..start + self.width]);
                    }
                }
            }
        }
        Ok(())
    }
}
