//! What was drawn for one image, and how it makes the pixels.

use std::borrow::Cow;

use peft_core::data::Image;
use peft_core::input::InputSpec;

use super::crop::Crop;
use super::erasing::Erased;
use super::ops::Op;
use crate::error::Error;
use crate::transform::Preprocess;

/// The changes of one image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawn {
    /// The part that is taken; without it, the part that evaluation takes.
    pub crop: Option<Crop>,
    /// Mirrored left to right.
    pub hflip: bool,
    /// Turned upside down, not rotated.
    pub vflip: bool,
    /// Operations on grey levels, in order.
    pub ops: Vec<Op>,
    /// Rectangles of the normalised image, in order.
    pub erased: Vec<Erased>,
}

impl Drawn {
    /// Writes the changed and normalised image into `out`.
    ///
    /// # Shapes
    /// - image: `[height, width, 3]`, grey levels
    /// - out: `[3, h, w]`, the input's size
    ///
    /// # Errors
    /// Those of [`Preprocess::apply`], and a crop or an erased rectangle that does not fit.
    pub fn apply(&self, image: &Image, input: &InputSpec, out: &mut [f32]) -> Result<(), Error> {
        let preprocess = Preprocess::new(input);
        preprocess.check(image, out)?;
        let rgb = match &self.crop {
            Some(crop) => crop.resize(image, input.size)?.into(),
            None => preprocess.pixels(image)?,
        };
        self.apply_to_pixels(rgb, input, out)
    }

    /// Applies everything but the crop to pixels that have the input's size, such as those of
    /// [`Preprocess::pixels`].
    ///
    /// # Shapes
    /// - rgb: `[h, w, 3]`, grey levels
    /// - out: `[3, h, w]`, the input's size
    ///
    /// # Errors
    /// An erased rectangle that does not fit.
    pub fn apply_to_pixels(
        &self,
        rgb: Cow<[u8]>,
        input: &InputSpec,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let preprocess = Preprocess::new(input);
        // Pixels that nothing changes are normalised where they are, without a copy.
        if self.hflip || self.vflip || !self.ops.is_empty() {
            let mut canvas = Image {
                width: input.size.width,
                height: input.size.height,
                rgb: rgb.into_owned(),
            };
            self.paint(&mut canvas, fill(input));
            preprocess.normalise(&canvas.rgb, out);
        } else {
            preprocess.normalise(&rgb, out);
        }
        self.erased
            .iter()
            .try_for_each(|rectangle| rectangle.erase(input.size, out))
    }

    /// Flips and changes grey levels, in place.
    fn paint(&self, canvas: &mut Image, fill: [u8; 3]) {
        let row = 3 * canvas.width;
        if self.hflip {
            for row in canvas.rgb.chunks_exact_mut(row) {
                let (pixels, _) = row.as_chunks_mut::<3>();
                pixels.reverse();
            }
        }
        // The middle row of an odd height is in neither half and stays.
        if self.vflip {
            let (top, bottom) = canvas.rgb.split_at_mut(canvas.height / 2 * row);
            let rows = top.chunks_exact_mut(row);
            for (upper, lower) in rows.zip(bottom.rchunks_exact_mut(row)) {
                upper.swap_with_slice(lower);
            }
        }
        let mut spare = Vec::new();
        for op in &self.ops {
            op.apply(canvas, fill, &mut spare);
        }
    }
}

/// The colour that fills in beyond the edge of a moved image: the mean, in grey levels, as timm
/// rounds it.
pub(super) fn fill(input: &InputSpec) -> [u8; 3] {
    input.mean.map(|mean| {
        // The decimal that was written: 0.1 is 25.5 grey levels, which rounds to the even 26.
        let mean = (f64::from(mean) * 1e7).round() / 1e7;
        (mean * 255.0).round_ties_even() as u8
    })
}
