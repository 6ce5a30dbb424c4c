//! Computes the rows of a table, in the order of the data set.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::cache::key::Request;
use crate::data::images::bad;
use crate::data::loader::Loader;
use crate::data::random::Pass;
use crate::data::rows::Rows;
use crate::data::table::{Table, Writer};
use crate::exit::Failure;
use crate::run::progress::Reporter;

/// Why a table is unavailable.
pub enum Unavailable {
    /// Filling it would take as long as working without it.
    Pointless,
    /// The trial goes on without it, and this reason is reported once.
    Because(String),
    /// The trial cannot go on.
    Failed(Failure),
}

impl From<Failure> for Unavailable {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Computes all rows of a table: from the images, or from the rows of a lower cut if there are some.
///
/// # Errors
/// If an image cannot be read and `on_error` is `fail`, if the run is interrupted, or if the disk is full.
pub fn fill(
    writer: Writer,
    request: &Request,
    loader: &Loader,
    below: Option<Rows>,
    interrupt: &AtomicBool,
    reporter: &Reporter,
) -> Result<Table, Unavailable> {
    let what = match request.prefix.cut() {
        0 => format!("images of {}", request.split),
        _ => format!("prefix of {}", request.split),
    };
    reporter.start_filling(&what, request.shape.rows);
    let images = loader.of_split(request.split);
    let mut filling = Filling {
        writer,
        request,
        source: match below {
            Some(rows) => images.with_rows(rows),
            None => images,
        },
        interrupt,
        reporter,
    };
    match (request.random, request.prefix.cut()) {
        // Pixels are decoded by all threads at once. Activations go through the loader, whose
        // batches the network needs anyway.
        (None, 0) => filling.pixels()?,
        (None, _) => filling.activations(Pass::Plain)?,
        (Some(random), _) => {
            // The rows of one view follow each other, in the order in which epochs ask for them.
            for view in 0..random.views {
                filling.activations(Pass::View(random.of_epoch(view)))?;
            }
        }
    }
    filling.writer.finish().map_err(|e| unwritten(&e))
}

fn unwritten(error: &io::Error) -> Unavailable {
    Unavailable::Because(format!("it cannot be written: {error}"))
}

/// A table that is being filled.
struct Filling<'a> {
    writer: Writer,
    request: &'a Request<'a>,
    /// The images of the split, or what a part of the prefix made of them.
    source: Loader<'a>,
    interrupt: &'a AtomicBool,
    reporter: &'a Reporter,
}

impl Filling<'_> {
    fn check_interrupt(&self) -> Result<(), Failure> {
        if self.interrupt.load(Ordering::Relaxed) {
            return Err(Failure::interrupted());
        }
        Ok(())
    }

    /// Writes rows without a value until the next row is that of image `index`. `base` rows were written
    /// before this view.
    fn skip_to(&mut self, base: usize, index: usize) -> Result<(), Unavailable> {
        while self.writer.written() < base + index {
            let index = self.writer.written() - base;
            let why = self.source.images().why(self.request.split, index);
            self.writer.skip(&why).map_err(|e| unwritten(&e))?;
        }
        Ok(())
    }

    /// Writes the pixels of all resized images, a batch at a time: the threads of the pool decode, and this
    /// thread writes in order.
    fn pixels(&mut self) -> Result<(), Unavailable> {
        let (total, step) = (self.source.len(), self.source.batch_size());
        for start in (0..total).step_by(step) {
            // On an interrupt the writer is dropped and takes its partial file with it.
            self.check_interrupt()?;
            let batch = start..(start + step).min(total);
            for (index, row) in batch.clone().zip(self.resized(batch.clone())?) {
                match row {
                    Some(row) => self.writer.push(&row).map_err(|e| unwritten(&e))?,
                    None => self.skip_to(0, index + 1)?,
                }
            }
            self.reporter.filled(batch.len());
        }
        Ok(())
    }

    /// The pixels of some images, `[h, w, 3]`; `None` for those that are left out.
    fn resized(&self, batch: Range<usize>) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        let (images, split) = (self.source.images(), self.request.split);
        let (preprocess, warn) = (self.source.preprocess(), self.source.warn());
        let resize = |index: usize| {
            let Some((image, _)) = images.read(split, index, warn)? else {
                return Ok(None);
            };
            let pixels = preprocess.pixels(&image);
            let pixels = pixels.map_err(|e| bad(split, index, &e.to_string()))?;
            Ok(Some(pixels.into_owned()))
        };
        batch.into_par_iter().map(resize).collect()
    }

    /// Writes the activations of all images at the cut.
    fn activations(&mut self, pass: Pass) -> Result<(), Unavailable> {
        let prefix = *self.request.prefix;
        let (base, values_as) = (self.writer.written(), prefix.value_type());
        let source = self.source.clone();
        let device = &prefix.device.device;
        let mut bytes = Vec::new();
        source.each(0..source.batches(), pass, device, |_, batch| {
            self.check_interrupt()?;
            let mut x = batch.x.cast(prefix.compute_type());
            if let Some(backbone) = prefix.backbone {
                x = prefix.taps.tap(&**backbone, x, batch.from);
            }
            // Rows must not depend on the batch that they are computed in: the exactness of the cache rests on
            // operations that treat each image alone, in an order of sums that the batch's size does not change.
            let images = batch.places.len();
            // Activations at several cuts are large: of them no whole batch is copied.
            let step = match prefix.taps.are_of_side() {
                true => 1,
                false => images,
            };
            let width = prefix.shape().elements();
            for (start, places) in (0..images).step_by(step).zip(batch.places.chunks(step)) {
                let rows = x.clone().rows(start..start + places.len(), device);
                let values = rows.to_vec();
                for (row, &place) in values.chunks_exact(width).zip(places) {
                    // The batch lacks the images that are left out, but the table has a row for each.
                    self.skip_to(base, place)?;
                    values_as.write(row, &mut bytes);
                    self.writer.push(&bytes).map_err(|e| unwritten(&e))?;
                }
            }
            self.reporter.filled(images);
            Ok::<_, Unavailable>(true)
        })?;
        self.skip_to(base, source.len())
    }
}
