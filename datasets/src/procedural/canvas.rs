//! A square picture in progress, with colours in floating point; it is rounded to 8 bits at the
//! end.

use peft_core::data::Image;

use super::colour::{Colour, mix};
use super::random::Random;

/// Samples per pixel along each axis, in [`Canvas::sampled`].
const SAMPLES: usize = 2;

/// Colours of `side` x `side` pixels, rows from the top.
pub(super) struct Canvas {
    pub side: usize,
    pub pixels: Vec<Colour>,
}

impl Canvas {
    /// A canvas of one colour.
    pub fn plain(side: usize, colour: Colour) -> Self {
        Self {
            side,
            pixels: vec![colour; side * side],
        }
    }

    /// Draws a colour that is a function of the place, antialiased: each pixel is the mean of four
    /// samples. Places run from 0 to 1, to the right and down.
    pub fn sampled(side: usize, mut colour: impl FnMut(f32, f32) -> Colour) -> Self {
        let place = |pixel: usize, sample: usize| {
            ((pixel * SAMPLES + sample) as f32 + 0.5) / (side * SAMPLES) as f32
        };
        let mut pixels = Vec::with_capacity(side * side);
        for i in 0..side * side {
            let mut sum = [0.0; 3];
            for sample in 0..SAMPLES * SAMPLES {
                let x = place(i % side, sample % SAMPLES);
                let y = place(i / side, sample / SAMPLES);
                let colour = colour(x, y);
                sum = [0, 1, 2].map(|channel| sum[channel] + colour[channel]);
            }
            pixels.push(sum.map(|value| value / (SAMPLES * SAMPLES) as f32));
        }
        Self { side, pixels }
    }

    /// Lays a colour over the picture, mixed in by `cover`, `[side, side]`: 1 hides what is below.
    pub fn lay(&mut self, cover: &[f32], colour: Colour) {
        for (pixel, &cover) in self.pixels.iter_mut().zip(cover) {
            *pixel = mix(*pixel, colour, cover);
        }
    }

    /// Rounds to 8 bits.
    pub fn develop(self) -> Image {
        Image {
            width: self.side,
            height: self.side,
            rgb: self.pixels.into_iter().flatten().map(level).collect(),
        }
    }

    /// Adds noise with a standard deviation of `strength`; in a `grey` picture it is the same in
    /// all channels.
    pub fn noisy(mut self, random: &mut Random, strength: f32, grey: bool) -> Self {
        for pixel in &mut self.pixels {
            let noise = if grey {
                [random.normal(); 3]
            } else {
                [0; 3].map(|_| random.normal())
            };
            *pixel = [0, 1, 2].map(|channel| pixel[channel] + strength * noise[channel]);
        }
        self
    }
}

/// A value of 0..=1 as 8 bits, rounded to the nearest; values outside are clipped.
pub(super) fn level(value: f32) -> u8 {
    (255.0 * value.clamp(0.0, 1.0) + 0.5) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_is_the_mean_of_its_four_samples() {
        let canvas = Canvas::sampled(2, |x, y| [x, y, f32::from(x < 0.2 && y < 0.2)]);
        assert_eq!(canvas.pixels[0], [0.25, 0.25, 0.25]);
        assert_eq!(canvas.pixels[3], [0.75, 0.75, 0.0]);
    }

    #[test]
    fn levels_are_rounded_and_bounded() {
        assert_eq!([-1.0, 0.0, 0.5, 1.0, 2.0].map(level), [0, 0, 128, 255, 255]);
    }

    #[test]
    fn without_noise_a_picture_is_its_colours() {
        let canvas = Canvas::plain(3, [0.0, 0.2, 1.0]);
        let image = canvas.develop();
        assert_eq!((image.width, image.height), (3, 3));
        assert_eq!(image.rgb, [0, 51, 255].repeat(9));
    }
}
