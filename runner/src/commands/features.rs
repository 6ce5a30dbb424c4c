//! `runner features`: writes activations at boundaries, features and logits to a safetensors file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use clap::Args;
use peft_core::backbone::Cut;
use peft_core::checkpoint::Checkpoint;
use peft_core::input::InputSpec;
use peft_core::method;
use peft_core::params::floats;
use peft_core::weights::Writer;
use peft_core::{Activation, BackboneSpec, DatasetConfig, Init, LinearHead, Model};
use peft_datasets::{Preprocess, decode};
use rayon::prelude::*;

use crate::cli::args::{ConfigArgs, PlaceArgs, SplitChoice};
use crate::commands::on_pool;
use crate::commands::print::row;
use crate::config::experiment::Experiment;
use crate::config::on_error::OnError;
use crate::config::stated::Stated;
use crate::data::images::Images;
use crate::data::loader::Loader;
use crate::data::random::Pass;
use crate::data::subset;
use crate::device::ComputeDevice;
use crate::exit::{At, Failure, config_error};
use crate::measure;
use crate::model::adapter::Adapter;
use crate::model::base::Base;
use crate::model::parts;

/// The number of images in a forward pass.
const BATCH: usize = 16;

/// Write activations at boundaries, features and logits of images as safetensors.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner features --config backbones/vit-micro.yaml --dataset digits --boundaries -1 \\
    --out features.safetensors")]
pub struct FeaturesArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Image files, or one safetensors file with normalised images.
    #[arg(long, required_unless_present = "dataset", conflicts_with = "dataset", num_args = 1..)]
    pub input: Vec<PathBuf>,
    /// A data set instead of files: a YAML file, or a name under configs/datasets.
    #[arg(long, value_name = "CONFIG")]
    pub dataset: Option<String>,
    /// The split of the data set.
    #[arg(long, default_value = "test")]
    pub split: SplitChoice,
    /// The tensor [n, 3, h, w] of a safetensors input.
    #[arg(long, default_value = "images")]
    pub tensor: String,
    /// all, or boundaries separated by commas; -1 is the input of the last block.
    #[arg(long, default_value = "all", allow_hyphen_values = true)]
    pub boundaries: String,
    /// The file to write: boundary.0 to boundary.L+1, features, and logits if there is a head.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// A trained adapter on the backbone: a run's folder, or one of HF PEFT.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Seed of random weights, where none are given, and of a part of the training split.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Runs the backbone, with an adapter if one is given, and writes the activations at its
/// boundaries.
pub fn features(args: &FeaturesArgs) -> Result<(), Failure> {
    let backbone = Experiment::read_backbone(&args.config.config, &args.config.set)?;
    let stated = Stated::of_config(&args.config.config, &args.config.set);
    on_pool(&args.place, |device| {
        let base = Base::open(backbone, args.seed, &device)?;
        for remark in &base.remarks {
            eprintln!("{remark}");
        }
        let folder = args.adapter.as_deref();
        let adapter = folder.map(|folder| Adapter::read(folder, &base));
        let adapter = adapter.transpose()?;
        for remark in adapter.iter().flat_map(|adapter| &adapter.remarks) {
            eprintln!("adapter: {remark}");
        }
        let methods = adapter.as_ref().map_or(&[][..], |adapter| &adapter.methods);
        let dataset = match &args.dataset {
            Some(name) => {
                let mut dataset = Experiment::read_dataset(name, &[])?.0;
                stated.override_transform(&mut *dataset, &base.config.source());
                Some(dataset)
            }
            None => None,
        };
        let input = parts::input(&*base.config, dataset.as_deref(), methods)?;
        eprintln!("input: {input}");

        let (model, has_head) = model(&base, adapter.as_ref(), args.seed, &device)?;
        let mut output = Output {
            path: &args.out,
            wanted: boundaries(&args.boundaries, model.spec())?,
            has_head,
            device: &device,
            writer: None,
        };
        let preprocess = Preprocess::new(&input);
        match &dataset {
            Some(dataset) => output.of_dataset(&model, &**dataset, args, preprocess)?,
            None => output.of_files(&model, args, &preprocess)?,
        }
        output.finish()
    })
}

/// Assembles the backbone with the adapter, and tells whether the model has a head: that of the
/// adapter or of the checkpoint. A model cannot be without one, so otherwise it gets one that is
/// not used.
fn model(
    base: &Base,
    adapter: Option<&Adapter>,
    seed: u64,
    device: &ComputeDevice,
) -> Result<(Model, bool), Failure> {
    let init = Init::seeded(&device.device, seed);
    let methods = adapter.map_or(&[][..], |adapter| &adapter.methods);
    let features = method::features(methods, &*base.backbone)?;
    let (head, has_head) = match (adapter.and_then(Adapter::outputs), &base.head) {
        (Some(classes), _) => (LinearHead::new(features, classes, &init), true),
        (None, Some(head)) => {
            let head = LinearHead::from_checkpoint(head.clone(), &device.device);
            (head, true)
        }
        (None, None) => (LinearHead::new(features, 1, &init), false),
    };
    let model = Model::assemble(base.backbone.clone(), methods, head, &init)?;
    // The values of the adapter come after assembly, which draws initial values for it.
    let model = match adapter {
        Some(adapter) => adapter.fill(model)?,
        None => model,
    };
    Ok((model, has_head))
}

/// Parses `all`, or indices separated by commas, which may be negative.
fn boundaries(text: &str, spec: &BackboneSpec) -> Result<BTreeSet<Cut>, Failure> {
    if text == "all" {
        return Ok((0..=spec.last_boundary()).collect());
    }
    let index = |index: &str| {
        let number = index.trim().parse::<i64>();
        let number = number.map_err(|_| format!("expected all or numbers, got {index:?}"));
        let boundary = spec.boundary(number.at("--boundaries")?);
        Ok(boundary.at("--boundaries")?.index)
    };
    text.split(',').map(index).collect()
}

/// The file, which grows with each batch.
struct Output<'a> {
    path: &'a Path,
    /// Boundaries to write.
    wanted: BTreeSet<Cut>,
    /// Whether there are logits to write.
    has_head: bool,
    device: &'a ComputeDevice,
    /// None before the first batch, because only a batch shows the shapes.
    writer: Option<Writer>,
}

impl Output<'_> {
    /// Adds a split of a data set, with its labels.
    fn of_dataset(
        &mut self,
        model: &Model,
        config: &dyn DatasetConfig,
        args: &FeaturesArgs,
        preprocess: Preprocess,
    ) -> Result<(), Failure> {
        let dataset = subset::open(config, args.seed).at("--dataset")?;
        if dataset.is_multi_label() {
            return Err(config_error(
                "--dataset: expected a data set with one label per image, which the file holds; its images have \
                 several: name their files instead",
            ));
        }
        let images = Images::new(dataset, OnError::Fail);
        let split = args.split.into();
        let loader = Loader::new(&images, &[split], preprocess, BATCH);
        let total = loader.len();
        if total == 0 {
            return Err(config_error(format!(
                "--dataset: the {split} split is empty"
            )));
        }
        let device = &self.device.device;
        loader.each(0..loader.batches(), Pass::Plain, device, |_, batch| {
            self.add(model, batch.x.single(), batch.targets.single(), total)?;
            Ok::<_, Failure>(true)
        })
    }

    /// Adds image files, or the tensor of a safetensors file.
    fn of_files(
        &mut self,
        model: &Model,
        args: &FeaturesArgs,
        preprocess: &Preprocess,
    ) -> Result<(), Failure> {
        let (input, values) = (preprocess.input, preprocess.values());
        let mut add = |pixels: Vec<f32>, total: usize| {
            let images = pixels.len() / values;
            let images = TensorData::new(pixels, input.batch(images));
            let images = Tensor::from_data(images, &self.device.device);
            self.add(model, Activation::Map(images), None, total)
        };
        if let [path] = &args.input[..]
            && path.extension().is_some_and(|e| e == "safetensors")
        {
            let images = images_of(path, &args.tensor, input)?;
            let total = images.len() / values;
            let mut batches = images.chunks(BATCH * values);
            return batches.try_for_each(|batch| add(batch.to_vec(), total));
        }
        let total = args.input.len();
        let mut batches = args.input.chunks(BATCH);
        batches.try_for_each(|paths| add(decoded(paths, preprocess)?, total))
    }

    /// Runs a batch of `total` images and writes its activations.
    fn add(
        &mut self,
        model: &Model,
        images: Activation,
        labels: Option<&[usize]>,
        total: usize,
    ) -> Result<(), Failure> {
        let mut values: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
        let mut x = images.clone();
        for cut in 0..model.spec().features_cut() {
            if self.wanted.contains(&cut) {
                values.insert(format!("boundary.{cut}"), (x.shape().to_vec(), x.to_vec()));
            }
            // Cut by cut, so that only the activations of one batch are in memory.
            x = model.span(x, cut..cut + 1, None);
        }
        // A side network makes its features of more than the last activation.
        let features = match model.taps().are_of_side() {
            true => model.features(images, 0, None),
            false => model.features(x, model.spec().features_cut(), None),
        };
        let shape = features.dims().to_vec();
        let own = floats(features.clone().into_data());
        values.insert("features".to_owned(), (shape, own));
        if self.has_head {
            let logits = model.head.forward(features);
            let shape = logits.dims().to_vec();
            values.insert("logits".to_owned(), (shape, floats(logits.into_data())));
        }
        // A failure of the device must not leave a file with wrong values.
        measure::sync(self.device)?;
        self.write(values, labels, total)
    }

    /// Appends a batch of tensors by name, each with its shape.
    fn write(
        &mut self,
        values: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
        labels: Option<&[usize]>,
        total: usize,
    ) -> Result<(), Failure> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let shapes = values.iter().map(|(name, (shape, _))| {
                    let shape = [&[total], &shape[1..]].concat();
                    row(name, format_args!("{shape:?}"));
                    (name.clone(), shape)
                });
                let shapes = shapes.collect();
                let integers = labels.map(|_| ("labels".to_owned(), vec![total]));
                let integers = integers.into_iter().collect();
                let writer = Writer::create(self.path, &shapes, &integers)?;
                self.writer.insert(writer)
            }
        };
        for (name, (_, values)) in values {
            let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
            writer.append(&name, &bytes)?;
        }
        if let Some(labels) = labels {
            let bytes = labels.iter().map(|&label| label as i64);
            let bytes: Vec<u8> = bytes.flat_map(i64::to_le_bytes).collect();
            writer.append("labels", &bytes)?;
        }
        Ok(())
    }

    /// Ends the file.
    fn finish(self) -> Result<(), Failure> {
        if let Some(writer) = self.writer {
            writer.finish()?;
            row("written", self.path.display());
        }
        Ok(())
    }
}

/// Reads the normalised images `[n, 3, size, size]` of a safetensors file.
fn images_of(path: &Path, tensor: &str, input: InputSpec) -> Result<Vec<f32>, Failure> {
    let data = Checkpoint::open(path)?.tensor(tensor)?;
    let shape = data.shape().to_vec();
    match &shape[..] {
        [n, ..] if *n > 0 && shape == input.batch(*n) => Ok(floats(data)),
        _ => {
            let [height, width] = input.size.sides();
            Err(config_error(format!(
                "{}: {tensor}: expected [n, 3, {height}, {width}], got {shape:?}",
                path.display(),
            )))
        }
    }
}

/// Decodes and preprocesses image files to the values of `[b, 3, h, w]`.
fn decoded(paths: &[PathBuf], preprocess: &Preprocess) -> Result<Vec<f32>, Failure> {
    let values = preprocess.values();
    let mut pixels = vec![0.0; values * paths.len()];
    pixels
        .par_chunks_mut(values)
        .zip(paths)
        .try_for_each(|(pixels, path)| {
            let image = decode(path).map_err(config_error)?;
            preprocess.apply(&image, pixels).at(path.display())
        })?;
    Ok(pixels)
}
