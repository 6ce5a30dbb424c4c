//! `runner data show`: the split table of a data set, and a contact sheet of its images.

use std::path::PathBuf;

use clap::Args;
use peft_core::random::Generator;
use peft_datasets::Preprocess;

use super::check::{found, print};
use super::open::{read, unopened};
use super::sheet;
use crate::cli::args::{DatasetArgs, SplitChoice};
use crate::config::experiment::Experiment;
use crate::data::subset;
use crate::exit::Failure;
use crate::model::parts;

/// Print the split table and paint a contact sheet of images before and after the transforms.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner data show digits --out digits.png")]
pub struct ShowArgs {
    #[command(flatten)]
    pub which: DatasetArgs,
    /// The PNG to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The split of the images.
    #[arg(long, default_value = "train")]
    pub split: SplitChoice,
    /// Number of images.
    #[arg(long, default_value_t = 24)]
    pub images: usize,
    /// The backbone whose input is shown: a name under configs/backbones, or a YAML with one.
    #[arg(long, value_name = "CONFIG", default_value = "vit-micro")]
    pub backbone: String,
    /// Seed of the choice of images, and of a part of the training split.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Prints the split table and paints a contact sheet: some images of a split, each as it is and as
/// the backbone sees it.
///
/// # Errors
/// If the data set cannot be opened, an image cannot be read, or the file cannot be written.
pub fn show(args: &ShowArgs) -> Result<(), Failure> {
    let (config, about) = read(&args.which)?;
    let dataset = subset::open(&*config, args.seed);
    let dataset = dataset.map_err(|e| unopened(&e, about.as_ref()))?;
    print(&found(&*dataset, about.as_ref(), false)?);
    let backbone = Experiment::read_backbone(&args.backbone, &[])?;
    let input = parts::input(&*backbone, Some(&*config), &[])?;
    let split = args.split.into();
    // In random order, because many data sets list one class after the other.
    let mut order = Generator::new(args.seed, "contact sheet").permutation(dataset.len(split));
    order.truncate(args.images);
    let png = sheet::paint(&*dataset, split, &order, &Preprocess::new(&input))?;
    peft_core::files::write_atomically(&args.out, &png)?;
    println!(
        "{} of {split}, as {input}: {}",
        order.len(),
        args.out.display()
    );
    Ok(())
}
