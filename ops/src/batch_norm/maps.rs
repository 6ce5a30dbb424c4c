//! Where the maps of each channel lie, and short maps gathered by channel.

use std::borrow::Cow;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use crate::buffer::{Unset, written};

/// A map of fewer values is not worth the calls that it costs.
const SHORT: usize = 64;

/// Sizes of maps `[b, c, h, w]`, with rows and columns as one area.
#[derive(Clone, Copy)]
pub(super) struct Maps {
    pub(super) images: usize,
    pub(super) channels: usize,
    pub(super) area: usize,
}

impl Maps {
    pub(super) fn of(x: &FlexTensor) -> Self {
        let shape = x.shape();
        Self {
            images: shape[0],
            channels: shape[1],
            area: shape[2] * shape[3],
        }
    }

    /// Where the maps of a channel start.
    pub(super) fn starts(self, channel: usize) -> impl Iterator<Item = usize> {
        (0..self.images).map(move |image| (image * self.channels + channel) * self.area)
    }

    /// The maps of each channel as one map of one image, if they are short: kernels are called map by
    /// map, and a call for a few values takes longer than gathering them. Long maps stay as they are.
    pub(super) fn gathered(self, x: &[f32]) -> (Self, Cow<'_, [f32]>) {
        if self.area >= SHORT || self.images < 2 {
            return (self, Cow::Borrowed(x));
        }
        let one = Self {
            images: 1,
            area: self.images * self.area,
            ..self
        };
        // SAFETY: the output has one chunk for each channel, and the channel's maps, one for each
        // image, fill it.
        let gathered = unsafe {
            written(x.len(), |out| {
                let channels = out.par_chunks_mut(one.area.max(1)).enumerate();
                channels.for_each(|(channel, out)| {
                    for (out, start) in out.chunks_mut(self.area).zip(self.starts(channel)) {
                        out.write_copy_of_slice(&x[start..start + self.area]);
                    }
                });
            })
        };
        (one, Cow::Owned(gathered))
    }

    /// Puts maps that were [`gathered`](Self::gathered) back into the order of `[b, c, h, w]`. Every
    /// value of `out` is written.
    pub(super) fn scatter(self, gathered: &[f32], out: &mut [Unset]) {
        let images = out.par_chunks_mut((self.channels * self.area).max(1));
        images.enumerate().for_each(|(image, out)| {
            for (channel, out) in out.chunks_mut(self.area).enumerate() {
                let start = (channel * self.images + image) * self.area;
                out.write_copy_of_slice(&gathered[start..start + self.area]);
            }
        });
    }
}
