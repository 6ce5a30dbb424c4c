//! `runner features`: activations at boundaries, features and logits as a safetensors file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use peft_core::backbone::Cut;
use peft_core::checkpoint::Checkpoint;
use peft_core::params::{Tensors, floats};
use peft_core::weights;
use peft_core::{Activation, BackboneSpec, Init, LinearHead, Model};
use peft_datasets::{Preprocess, decode};
use rayon::prelude::*;

use crate::adapter::Adapter;
use crate::base::Base;
use crate::cli::FeaturesArgs;
use crate::commands::on_pool;
use crate::device::Chosen;
use crate::exit::{Failure, config_error};
use crate::experiment::Experiment;

/// Images of one forward pass.
const BATCH: usize = 16;

/// Runs the backbone, adapted if asked, and writes what lies at its boundaries.
pub fn features(args: &FeaturesArgs) -> Result<(), Failure> {
    let Some(config) = &args.config.config else {
        return Err(config_error(
            "--config is missing: a YAML file or a name under configs/",
        ));
    };
    let backbone = Experiment::read_backbone(config, &args.config.set)?;
    on_pool(&args.place, |device| {
        let base = Base::open(backbone, args.seed, &device)?;
        for remark in &base.remarks {
            eprintln!("{remark}");
        }
        let adapter = match &args.adapter {
            None => None,
            Some(folder) => Some(Adapter::read(folder, &base)?),
        };
        let methods = adapter.as_ref().map_or(&[][..], |adapter| &adapter.methods);
        let mut methods_input = methods.iter();
        let input = methods_input.try_fold(base.config.input()?, |input, m| m.input(input))?;

        let init = Init::seeded(&device.device, args.seed);
        let own = adapter.as_ref().and_then(Adapter::outputs);
        let (head, has_head) = match (own, &base.head) {
            (Some(classes), _) => {
                let features = base.backbone.spec().features;
                (LinearHead::new(features, classes, &init), true)
            }
            (None, Some(head)) => (
                LinearHead::from_checkpoint(head.clone(), &device.device),
                true,
            ),
            (None, None) => (
                LinearHead::new(base.backbone.spec().features, 1, &init),
                false,
            ),
        };
        let mut model = Model::assemble(base.backbone.clone(), methods, head, &init)?;
        if let Some(adapter) = &adapter {
            model = adapter.fill(model)?;
        }
        let wanted = boundaries(&args.boundaries, model.spec())?;
        let mut out = Collected::default();
        for images in batches(args, &Preprocess::new(&input))? {
            let images = Tensor::<4>::from_data(images, &device.device);
            run(&model, images, &wanted, has_head, &device, &mut out)?;
        }
        let tensors = out.tensors();
        weights::write(&args.out, &tensors, [].into())?;
        for (name, data) in &tensors {
            println!("{name:<14}{:?}", &data.shape()[..]);
        }
        println!("written       {}", args.out.display());
        Ok(())
    })
}

/// `all`, or indices that may be negative, separated by commas.
fn boundaries(text: &str, spec: &BackboneSpec) -> Result<BTreeSet<Cut>, Failure> {
    if text == "all" {
        return Ok((0..=spec.last_boundary()).collect());
    }
    text.split(',')
        .map(|index| {
            let number = index.trim().parse::<i64>();
            let number = number.map_err(|_| {
                let message = format!("--boundaries: expected all or numbers, got {index:?}");
                config_error(message)
            })?;
            let boundary = spec.boundary(number);
            Ok(boundary
                .map_err(|e| config_error(format!("--boundaries: {e}")))?
                .index)
        })
        .collect()
}

/// The images in batches `[b, 3, s, s]`: of a tensor in a safetensors file, or of image files.
fn batches(args: &FeaturesArgs, preprocess: &Preprocess) -> Result<Vec<TensorData>, Failure> {
    let size = preprocess.input.size;
    let values = preprocess.values();
    let is_tensors = |path: &Path| path.extension().is_some_and(|e| e == "safetensors");
    if let [path] = &args.input[..]
        && is_tensors(path)
    {
        let data = Checkpoint::open(path)?.tensor(&args.tensor)?;
        let shape = data.shape().to_vec();
        if shape.len() != 4 || shape[1..] != [3, size, size] {
            return Err(config_error(format!(
                "{}: {}: expected [n, 3, {size}, {size}], got {shape:?}",
                path.display(),
                args.tensor
            )));
        }
        let all = floats(data);
        let chunks = all.chunks(BATCH * values);
        let batch =
            |part: &[f32]| TensorData::new(part.to_vec(), [part.len() / values, 3, size, size]);
        return Ok(chunks.map(batch).collect());
    }
    let read = |paths: &[PathBuf]| -> Result<TensorData, Failure> {
        let mut pixels = vec![0.0; values * paths.len()];
        pixels
            .par_chunks_mut(values)
            .zip(paths)
            .try_for_each(|(pixels, path)| {
                let image = decode(path).map_err(config_error)?;
                let applied = preprocess.apply(&image, pixels);
                applied.map_err(|e| config_error(format_args!("{}: {e}", path.display())))
            })?;
        Ok(TensorData::new(pixels, [paths.len(), 3, size, size]))
    };
    args.input.chunks(BATCH).map(read).collect()
}

/// Values by name, batch behind batch.
#[derive(Default)]
struct Collected(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Collected {
    fn add(&mut self, name: String, shape: &[usize], values: Vec<f32>) {
        let (all, own) = self.0.entry(name).or_default();
        match all.is_empty() {
            true => *all = shape.to_vec(),
            false => all[0] += shape[0],
        }
        own.extend(values);
    }

    fn tensors(self) -> Tensors {
        let tensor = |(name, (shape, values))| (name, TensorData::new(values, shape));
        self.0.into_iter().map(tensor).collect()
    }
}

fn run(
    model: &Model,
    images: Tensor<4>,
    wanted: &BTreeSet<Cut>,
    has_head: bool,
    device: &Chosen,
    out: &mut Collected,
) -> Result<(), Failure> {
    let mut x = Activation::Map(images);
    for cut in 0..model.spec().features_cut() {
        if wanted.contains(&cut) {
            let shape = x.shape();
            out.add(format!("boundary.{cut}"), &shape[..], x.to_vec());
        }
        x = model.span(x, cut..cut + 1, None);
    }
    let shape = x.shape();
    out.add("features".to_owned(), &shape[..], x.to_vec());
    if let (true, Some(features)) = (has_head, x.features()) {
        let logits = model.head.forward(features);
        let shape = logits.dims();
        out.add("logits".to_owned(), &shape, floats(logits.into_data()));
    }
    let synced = device.device.sync();
    synced.map_err(|e| config_error(format_args!("{}: {e:?}", device.name)))
}
