//! Random erasing (Zhong et al. 2020) of normalised images, like timm's `RandomErasing`.

use peft_core::input::ImageSize;
use peft_core::random::Generator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::random::uniform;
use crate::error::Error;

/// Smallest and largest part of the area that the rectangles of an image erase together.
const AREA: [f64; 2] = [0.02, 1.0 / 3.0];
/// Smallest and largest height over width.
const ASPECT: [f64; 2] = [0.3, 1.0 / 0.3];

/// How erased rectangles are filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EraseMode {
    /// With zero, the mean colour.
    #[default]
    Const,
    /// With one colour, drawn from a standard normal distribution.
    Rand,
    /// With a colour for each pixel, drawn in the same way.
    Pixel,
}

/// A rectangle of the normalised image and its new values.
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

/// The new values of a rectangle.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// One value for each channel.
    Color([f32; 3]),
    /// `[3, height, width]`.
    Pixels(Vec<f32>),
}

/// Draws 1 to `most` rectangles of an image of that `size`, less those that do not fit.
pub(super) fn draw(
    generator: &mut Generator,
    mode: EraseMode,
    most: usize,
    size: ImageSize,
) -> Vec<Erased> {
    let count = 1 + generator.below(most);
    // As in timm, the rectangles of an image share one area.
    let area = size.pixels() as f64 / count as f64;
    (0..count)
        .filter_map(|_| rectangle(generator, mode, area, size))
        .collect()
}

/// A rectangle that covers a part of `area`, or `None` if ten tries do not fit into the image.
fn rectangle(
    generator: &mut Generator,
    mode: EraseMode,
    area: f64,
    size: ImageSize,
) -> Option<Erased> {
    let (width, height) = (0..10).find_map(|_| {
        let area = area * uniform(generator, AREA[0], AREA[1]);
        let aspect = uniform(generator, ASPECT[0].ln(), ASPECT[1].ln()).exp();
        let height = (area * aspect).sqrt().round_ties_even() as usize;
        let width = (area / aspect).sqrt().round_ties_even() as usize;
        (width < size.width && height < size.height).then_some((width, height))
    })?;
    let top = generator.below(size.height - height + 1);
    let left = generator.below(size.width - width + 1);
    let fill = match mode {
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
}

impl Erased {
    /// Overwrites the rectangle.
    ///
    /// # Shapes
    /// - image: `[3, h, w]` of that `size`
    pub(super) fn erase(&self, size: ImageSize, image: &mut [f32]) -> Result<(), Error> {
        let area = self.width * self.height;
        let values = match &self.fill {
            Fill::Color(_) => 3 * area,
            Fill::Pixels(values) => values.len(),
        };
        // The fields are public, so a rectangle may come from elsewhere than a draw.
        let ImageSize { height, width } = size;
        if self.left + self.width > width || self.top + self.height > height || values != 3 * area {
            return Err(Error::Invalid {
                field: "erased",
                expected: format!("a rectangle of {height} x {width} pixels and its values"),
                got: format!(
                    "{} x {} pixels at {}, {} with {values} values",
                    self.width, self.height, self.left, self.top
                ),
            });
        }
        for (channel, plane) in image.chunks_exact_mut(size.pixels()).enumerate() {
            let rows = plane
                .chunks_exact_mut(width)
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
