//! Computes the rows of a table.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use peft_core::Hooks;
use rayon::prelude::*;

use crate::cache::key::Wanted;
use crate::cache::prefix::Prefix;
use crate::data::loader::Loader;
use crate::data::random::Pass;
use crate::data::table::{Table, Writer};
use crate::exit::{Exit, Failure, failure};
use crate::run::progress::Reporter;

/// Why a table is not to be had.
pub enum Unfit {
    /// Said to people, once a trial.
    Because(String),
    Failed(Failure),
}

impl From<Failure> for Unfit {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A table in the making, row by row in the data set's order.
struct Filling<'a> {
    writer: Writer,
    wanted: &'a Wanted<'a>,
    /// The images of the split.
    source: Loader<'a>,
    interrupt: &'a AtomicBool,
    reporter: &'a mut Reporter,
}

/// Computes all rows.
pub fn fill(
    writer: Writer,
    wanted: &Wanted,
    loader: &Loader,
    interrupt: &AtomicBool,
    reporter: &mut Reporter,
) -> Result<Table, Unfit> {
    let what = match wanted.prefix.cut {
        0 => format!("images of {}", wanted.split),
        _ => format!("prefix of {}", wanted.split),
    };
    reporter.start_filling(&what, wanted.shape.rows);
    let images = loader.images();
    let mut filling = Filling {
        writer,
        wanted,
        source: Loader::new(
            images,
            &[wanted.split],
            *loader.preprocess(),
            loader.batch_size(),
        ),
        interrupt,
        reporter,
    };
    match (wanted.random, wanted.prefix.cut) {
        (None, 0) => filling.pixels()?,
        (None, _) => filling.activations(Pass::Plain)?,
        (Some(random), _) => {
            for view in 0..random.views {
                filling.activations(Pass::View(random.of_epoch(view)))?;
            }
        }
    }
    filling.writer.finish().map_err(|e| unwritten(&e))
}

fn unwritten(error: &io::Error) -> Unfit {
    Unfit::Because(format!("it cannot be written: {error}"))
}

impl Filling<'_> {
    fn check_interrupt(&self) -> Result<(), Failure> {
        match self.interrupt.load(Ordering::Relaxed) {
            true => Err(failure(
                Exit::Interrupted,
                "interrupted; run the same command to go on",
            )),
            false => Ok(()),
        }
    }

    /// Rows without a value up to `place`, of which `base` were there before.
    fn skip_to(&mut self, base: usize, place: usize) -> Result<(), Unfit> {
        while self.writer.written() < base + place {
            let index = self.writer.written() - base;
            let why = self.source.images().why(self.wanted.split, index);
            self.writer.skip(&why).map_err(|e| unwritten(&e))?;
        }
        Ok(())
    }

    /// The resized images.
    fn pixels(&mut self) -> Result<(), Unfit> {
        let (images, split) = (self.source.images(), self.wanted.split);
        let preprocess = *self.source.preprocess();
        let read = |index: usize| match images.read(split, index)? {
            None => Ok(None),
            Some(sample) => match preprocess.pixels(&sample.image) {
                Ok(pixels) => Ok(Some(pixels.into_owned())),
                Err(e) => {
                    let message = format_args!("dataset: {split} image {index}: {e}");
                    Err(failure(Exit::Config, message))
                }
            },
        };
        let total = self.source.len();
        for start in (0..total).step_by(self.source.batch_size()) {
            self.check_interrupt()?;
            let batch = start..(start + self.source.batch_size()).min(total);
            let rows: Result<Vec<Option<Vec<u8>>>, Failure> =
                batch.clone().into_par_iter().map(read).collect();
            for (index, row) in batch.clone().zip(rows?) {
                match row {
                    Some(row) => self.writer.push(&row).map_err(|e| unwritten(&e))?,
                    None => self.skip_to(0, index + 1)?,
                }
            }
            self.reporter.filled(batch.len());
        }
        Ok(())
    }

    /// The activations at the cut.
    fn activations(&mut self, pass: Pass) -> Result<(), Unfit> {
        let prefix = *self.wanted.prefix;
        let Prefix {
            backbone,
            cut,
            device,
            ..
        } = prefix;
        let (base, values_as) = (self.writer.written(), prefix.value_type());
        let images = self.source.images();
        let source = Loader::new(
            images,
            &[self.wanted.split],
            *self.source.preprocess(),
            self.source.batch_size(),
        );
        let mut bytes = Vec::new();
        source.each(0..source.batches(), pass, &device.device, |_, batch| {
            self.check_interrupt()?;
            let mut x = batch.x.cast(prefix.compute_type());
            if let Some(backbone) = backbone {
                x = backbone.forward(x, 0..cut, &Hooks::none());
            }
            let values = x.to_vec();
            let width = values.len() / batch.places.len();
            for (row, &place) in values.chunks_exact(width).zip(&batch.places) {
                self.skip_to(base, place)?;
                values_as.write(row, &mut bytes);
                self.writer.push(&bytes).map_err(|e| unwritten(&e))?;
            }
            self.reporter.filled(batch.places.len());
            Ok::<_, Unfit>(true)
        })?;
        self.skip_to(base, source.len())
    }
}
