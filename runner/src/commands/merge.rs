//! `runner merge RUN --out FILE`: a checkpoint with the adapter folded into its weights.

use std::path::PathBuf;

use burn::tensor::{Tensor, TensorData};
use clap::Args;
use peft_core::params::floats;
use peft_core::random::Generator;
use peft_core::{Activation, Model, weights};

use crate::cli::args::{PlaceArgs, TrainedArgs};
use crate::commands::print::row;
use crate::commands::{assemble, on_pool};
use crate::data::held_out::Data;
use crate::data::random::Pass;
use crate::device::ComputeDevice;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::assembled::{Assembled, Source};
use crate::model::export::checkpoint_tensors;

/// The largest difference between merged and unmerged logits that passes, relative to the largest
/// of them or 1.
const TOLERANCE: f32 = 1e-4;

/// Fold a trained adapter into the backbone's weights, where that is exact.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner merge runs/lora-r10/TRIAL --out merged.safetensors")]
pub struct MergeArgs {
    #[command(flatten)]
    pub trained: TrainedArgs,
    /// The checkpoint to write: safetensors under the backbone's own keys, head included.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Folds the adapter, checks the logits on validation images, and writes.
pub fn merge(args: &MergeArgs) -> Result<(), Failure> {
    let out = &args.out;
    // Checked first: the work takes a while, and a checkpoint must never be overwritten.
    if out.exists() {
        let message = format!("--out {}: it is there already", out.display());
        return Err(config_error(message));
    }
    on_pool(&args.place, |device| {
        let (source, assembled) = assemble(&args.trained, &device)?;
        let merged = assembled.model.merged()?;
        let mut check = Check::new(&assembled, &merged);
        let on = check.run(&source, &device)?;
        let Check { images, error, .. } = check;
        if error.is_nan() || error > TOLERANCE {
            return Err(failure(
                Exit::Unexpected,
                format_args!(
                    "merged and unmerged logits differ by {error:.1e} of the largest one, allowed \
                     {TOLERANCE:.0e}; nothing was written"
                ),
            ));
        }
        let metadata = [("format".to_owned(), "pt".to_owned())];
        weights::write(out, &checkpoint_tensors(&merged), metadata.into())?;
        row(
            "checked",
            format_args!("{images} {on} images, logits within {error:.1e}"),
        );
        row("checkpoint", out.display());
        Ok(())
    })
}

/// Compares merged logits with unmerged ones.
struct Check<'a> {
    assembled: &'a Assembled,
    merged: &'a Model,
    /// Images so far.
    images: usize,
    /// The largest difference so far, relative to the largest logit of its batch or 1; NaN if a
    /// logit is NaN.
    error: f32,
}

impl<'a> Check<'a> {
    fn new(assembled: &'a Assembled, merged: &'a Model) -> Self {
        Self {
            assembled,
            merged,
            images: 0,
            error: 0.0,
        }
    }

    /// Checks two batches of the validation split, or of random images if the data set is not on
    /// this machine. Returns which of the two it was.
    fn run(&mut self, source: &Source, device: &ComputeDevice) -> Result<&'static str, Failure> {
        let Self { assembled, .. } = *self;
        let experiment = &source.experiment;
        let data = match Data::open(&*experiment.dataset, experiment.on_error, experiment.seed) {
            Ok(data) => data,
            Err(failure) => {
                eprintln!("checked on random images: {:#}", failure.error);
                self.random(device);
                return Ok("random");
            }
        };
        let loader = data.validation(assembled.preprocess(), assembled.batch_size);
        let batches = loader.batches().min(2);
        loader.each(0..batches, Pass::Plain, &device.device, |_, batch| {
            self.add(batch.x.single());
            // One NaN decides the check, and more batches cannot change it.
            Ok::<_, Failure>(!self.error.is_nan())
        })?;
        Ok("validation")
    }

    /// Checks two batches of normally distributed pixels, which have the mean and deviation of
    /// normalised images.
    fn random(&mut self, device: &ComputeDevice) {
        let shape = self.assembled.input.batch(self.assembled.batch_size);
        let mut generator = Generator::new(0, "merge");
        for _ in 0..2 {
            let count: usize = shape.iter().product();
            let pixels: Vec<f32> = (0..count).map(|_| generator.normal()).collect();
            let pixels = TensorData::new(pixels, shape);
            self.add(Activation::Map(Tensor::from_data(pixels, &device.device)));
        }
    }

    fn add(&mut self, images: Activation) {
        let x = images.cast(self.assembled.compute);
        let logits = |model: &Model| floats(model.logits(x.clone(), 0, None).into_data());
        let (expected, got) = (logits(&self.assembled.model), logits(self.merged));
        let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        let differences = expected.iter().zip(got).map(|(a, b)| (a - b).abs());
        self.error = larger(self.error, differences.fold(0.0, larger) / scale);
        self.images += x.shape()[0];
    }
}

/// Returns the larger of two errors. If one is NaN, the result is NaN, so that it fails the check;
/// `max` would drop it.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        f32::NAN
    } else {
        a.max(b)
    }
}
