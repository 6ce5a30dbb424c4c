//! Where attention weights come from: a network that runs block by block, or a file.

use std::path::Path;
use std::sync::atomic::Ordering;

use burn::module::Module;
use peft_core::attention::{AttentionGrid, AttentionRecord};
use peft_core::{BackboneConfig, DatasetConfig, Hooks, Init, Split};
use peft_datasets::Preprocess;
use serde_json::json;

use super::distance::{Sums, uniform};
use super::settings::{CLAIM, Found, Settings};
use crate::config::on_error::OnError;
use crate::data::images::Images;
use crate::data::loader::Loader;
use crate::data::random::Pass;
use crate::exit::{At, Failure, config_error};
use crate::model::base::Base;
use crate::study::claim::{Verdict, all};
use crate::study::components::{
    backbone, dataset, is_bundled, missing_images, missing_weights, title,
};
use crate::study::outcome::{Outcome, json};
use crate::study::request::{Request, TensorFile};

/// Images of a forward pass, if none are stated.
const BATCH: usize = 16;

/// The distances of weights in a file.
pub fn of_file(path: &Path, settings: &Settings) -> Result<Found, Failure> {
    let (Some(grid), Some(patch)) = (settings.grid, settings.patch) else {
        let message = "--attention: expected --set grid=[rows,columns] and --set patch=pixels too";
        return Err(config_error(message));
    };
    let [rows, columns] = grid;
    if rows == 0 || columns == 0 || patch == 0 {
        return Err(config_error("grid and patch: expected at least 1, got 0"));
    }
    let grid = AttentionGrid {
        prefix: settings.prefix,
        grid,
        patch,
        windows: false,
    };
    let file = TensorFile::open("--attention", path)?;
    let (mut layers, mut images) = (Vec::new(), 0);
    for (layer, name) in file.numbered("attention")? {
        let found = file.get(&name)?;
        let tokens = grid.prefix + rows * columns;
        let &[count, heads, queries, keys] = &found.shape[..] else {
            let message = format!(
                "{}: {name}: expected [n, heads, tokens, tokens], got {:?}",
                file.path(),
                found.shape
            );
            return Err(config_error(message));
        };
        if [queries, keys] != [tokens; 2] || count == 0 || heads == 0 {
            let message = format!(
                "{}: {name}: expected {tokens} tokens ({} before {rows} x {columns} patches), got {:?}",
                file.path(),
                grid.prefix,
                found.shape
            );
            return Err(config_error(message));
        }
        let mut sums = Sums::new(grid, heads);
        sums.add(&found.values);
        layers.push(sums.finish(layer));
        images = count;
    }
    Ok(Found {
        layers,
        uniform: uniform(&grid),
        title: path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        images,
        windows: false,
    })
}

/// A network and the images that it sees.
pub struct Network {
    pub title: String,
    config: Box<dyn BackboneConfig>,
    dataset: Box<dyn DatasetConfig>,
    split: Split,
    /// By block.
    grids: Vec<AttentionGrid>,
}

impl Network {
    /// Reads what the settings name.
    pub fn read(settings: &Settings) -> Result<Self, Failure> {
        let (Some(network), Some(images)) = (&settings.backbone, &settings.dataset) else {
            return Err(config_error(
                "expected backbone and dataset, or --attention",
            ));
        };
        let config = backbone(network)?;
        let built = config.build(&Init::empty(&burn::tensor::Device::flex()));
        let built = built.at("backbone")?;
        let depth = built.spec().depth;
        let grids: Vec<AttentionGrid> = (1..=depth)
            .filter_map(|l| built.attention_grid(l))
            .collect();
        let title = title(network);
        if grids.len() < depth {
            return Err(config_error(format!("backbone: {title} has no attention")));
        }
        Ok(Self {
            title,
            config,
            dataset: dataset(images)?.0,
            split: settings.split.unwrap_or(Split::Test),
            grids,
        })
    }

    /// Whether its weights are bundled: a miniature.
    pub fn is_bundled(&self) -> bool {
        is_bundled(&*self.config)
    }

    /// Says which files are missing; none if all are there.
    pub fn missing(&self) -> Option<String> {
        let weights = missing_weights(&*self.config);
        let all: Vec<String> = weights
            .into_iter()
            .chain(missing_images(&*self.dataset))
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The plan: no weights and no images are read.
    pub fn plan(&self, settings: &Settings) -> Result<Outcome, Failure> {
        Ok(Outcome {
            claims: all(&[CLAIM], Verdict::Undecided, "a dry run computes nothing"),
            result: json!({ "layers": [], "uniform_pixels": uniform(&self.grids[0]) }),
            settings: json(settings)?,
            notes: vec![format!(
                "No training: {} images of the {} split go through the {} blocks of {} once.",
                settings
                    .images
                    .map_or("all".to_owned(), |images| images.to_string()),
                self.split,
                self.grids.len(),
                self.title
            )],
            ..Outcome::default()
        })
    }

    /// Runs the network. The weights of one block at a time are in memory.
    pub fn distances(&self, settings: &Settings, request: &Request) -> Result<Found, Failure> {
        let device = request.device;
        let images = Images::new(self.dataset.open().at("dataset")?, OnError::Fail);
        let there = images.dataset().len(self.split);
        let total = settings.images.unwrap_or(there);
        let batch = settings.batch.unwrap_or(BATCH);
        if total > there || total == 0 || batch == 0 {
            let message =
                format!("images: expected 1 to {there} in batches of at least 1, got {total}");
            return Err(config_error(message));
        }
        let base = Base::open(self.config.clone(), settings.seed, device)?;
        for remark in &base.remarks {
            eprintln!("{remark}");
        }
        let input = base.config.input().at("backbone")?;
        let input = self.dataset.transform().over(input);
        let loader = Loader::new(&images, &[self.split], Preprocess::new(&input), batch);
        let backbone = base.backbone.valid();
        let mut sums: Vec<Option<Sums>> = self.grids.iter().map(|_| None).collect();
        let record = AttentionRecord::default();
        let batches = 0..total.div_ceil(batch);
        let mut seen = 0;
        loader.each(batches, Pass::Plain, &device.device, |_, batch| {
            // The last batch may hold more images than are wanted.
            let wanted = batch.targets.len().min(total - seen);
            seen += wanted;
            let hooks = Hooks::none();
            let mut x = backbone.forward(batch.x.single(), 0..1, &hooks);
            for (block, (sums, grid)) in sums.iter_mut().zip(&self.grids).enumerate() {
                x = backbone.forward(x, block + 1..block + 2, &hooks.recording(&record));
                for attended in record.take() {
                    let [count, heads, ..] = attended.weights.dims();
                    let per_image = count / batch.targets.len();
                    let own = attended.weights.narrow(0, 0, wanted * per_image);
                    let values: Vec<f32> = own.into_data().iter::<f32>().collect();
                    let sums = sums.get_or_insert_with(|| Sums::new(*grid, heads));
                    sums.add(&values);
                }
            }
            Ok::<_, Failure>(!request.interrupt.load(Ordering::Relaxed))
        })?;
        if request.interrupt.load(Ordering::Relaxed) {
            return Err(Failure::interrupted());
        }
        let finished = (1..).zip(sums);
        Ok(Found {
            layers: finished
                .filter_map(|(layer, sums)| Some(sums?.finish(layer)))
                .collect(),
            uniform: uniform(&self.grids[0]),
            title: self.title.clone(),
            images: seen,
            windows: self.grids.iter().any(|grid| grid.windows),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use burn::module::Param;
    use burn::tensor::{Device, Tensor, TensorData};
    use peft_core::hooks::BranchValues;
    use peft_core::params::{self, floats};
    use peft_core::random::Distribution;
    use peft_core::site::{Branch, Site, SiteKind};
    use peft_core::{
        Activation, AdaptationMethod, Adapter, Attachment, Backbone, LinearHead, Model, Plug,
        SiteAct,
    };
    use serde::{Deserialize, Serialize};
    use serde_json::Value;

    use super::*;

    #[test]
    fn files_give_the_golden_distances() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/studies");
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        for name in ["attention_square", "attention_registers"] {
            let golden = &expected[name];
            let settings: Settings = serde_json::from_value(json!({
                "grid": golden["grid"], "patch": golden["patch"], "prefix": golden["prefix"],
            }))
            .unwrap();
            let path = folder.join(name).with_extension("safetensors");
            let found = of_file(&path, &settings).map_err(|f| f.error).unwrap();
            let layers = json!(found.layers);
            assert_eq!(
                found.layers.len(),
                golden["layers"].as_array().unwrap().len()
            );
            for (own, golden) in layers
                .as_array()
                .unwrap()
                .iter()
                .zip(golden["layers"].as_array().unwrap())
            {
                assert_eq!(own["layer"], golden["layer"]);
                for (key, _) in super::super::QUANTITIES {
                    let values = |value: &Value| -> Vec<f64> {
                        serde_json::from_value(value[key].clone()).unwrap()
                    };
                    for (own, golden) in values(own).iter().zip(values(golden)) {
                        assert!(
                            (own / golden - 1.0).abs() < 1e-9,
                            "{name} {key}: {own} {golden}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_file_needs_a_grid_that_fits() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fixtures/studies/attention_square.safetensors");
        let error = |settings: Settings| of_file(&path, &settings).err().unwrap().to_string();
        let message = error(Settings::default());
        assert!(message.contains("expected --set grid"), "{message}");
        let message = error(Settings {
            grid: Some([4, 4]),
            patch: Some(8),
            ..Settings::default()
        });
        assert!(
            message.contains("expected 16 tokens (0 before 4 x 4 patches)"),
            "{message}"
        );
    }

    /// Keeps what attention branches put out.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct Watches;

    type Outputs = Arc<Mutex<Vec<Vec<f32>>>>;

    #[derive(burn::module::Module, Debug)]
    struct Watching {
        /// An adapter needs something that trains.
        unused: Param<Tensor<1>>,
        #[module(skip)]
        outputs: Outputs,
    }

    static OUTPUTS: Mutex<Option<Outputs>> = Mutex::new(None);

    #[typetag::serde(name = "watches")]
    impl AdaptationMethod for Watches {
        fn attach(&self, _: &dyn Backbone, init: &Init) -> peft_core::Result<Attachment> {
            let outputs = Outputs::default();
            *OUTPUTS.lock().unwrap() = Some(outputs.clone());
            Ok(Attachment::adapter(Watching {
                unused: init.param("watches.unused", [1], Distribution::Zeros),
                outputs,
            }))
        }

        fn formula(&self, _: &dyn Backbone) -> peft_core::Result<usize> {
            Ok(1)
        }
    }

    impl Adapter for Watching {
        fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
            let SiteKind::Branch {
                branch: Branch::Attention,
                ..
            } = site.kind
            else {
                return Vec::new();
            };
            let outputs = self.outputs.clone();
            vec![SiteAct::Branch(Box::new(move |values: BranchValues, _| {
                outputs.lock().unwrap().push(values.output.to_vec());
                values.output
            }))]
        }
    }

    /// The mixed values after the norm before the last projection, where attention has one (EVA's).
    fn normed(mixed: Tensor<3>, backbone: &dyn Backbone, branch: &str) -> Tensor<3> {
        let value = |part: &str| params::value(backbone, &format!("{branch}.norm.{part}"));
        let (Some(weight), Some(bias)) = (value("weight"), value("bias")) else {
            return mixed;
        };
        let device = mixed.device();
        let [weight, bias] =
            [weight, bias].map(|own| Tensor::<1>::from_data(own, &device).unsqueeze());
        let (variance, mean) = mixed.clone().var_mean_bias(2);
        (mixed - mean) / (variance + 1e-6).sqrt() * weight + bias
    }

    /// For every registered family with global attention; Swin's windows are tested in its crate.
    #[test]
    fn recorded_weights_reproduce_what_the_fused_attention_puts_out() {
        let device = Device::flex();
        let mut families = Vec::new();
        for (yaml, config) in peft_testing::tiny_backbones() {
            let init = Init::seeded(&device, 3);
            let backbone = Plug::new(config.build(&init).unwrap());
            let spec = backbone.spec().clone();
            let Some(grid) = backbone.attention_grid(1).filter(|grid| !grid.windows) else {
                continue;
            };
            let methods: [Box<dyn AdaptationMethod>; 1] = [Box::new(Watches)];
            let head = LinearHead::new(spec.features, 2, &init);
            let model = Model::assemble(backbone.clone(), &methods, head, &init).unwrap();
            let outputs = OUTPUTS.lock().unwrap().take().unwrap();
            let shape = spec.input.batch(2);
            let pixels: Vec<f32> = (0..shape.iter().product::<usize>())
                .map(|i| (i as f32 * 0.37).sin())
                .collect();
            let images = Tensor::from_data(TensorData::new(pixels, shape), &device);
            let record = AttentionRecord::default();
            let mut x = backbone.forward(Activation::Map(images), 0..1, &Hooks::none());
            for cut in 1..=spec.depth {
                model.span(x.clone(), cut..cut + 1, None);
                let fused = outputs.lock().unwrap().pop().unwrap();
                let next =
                    backbone.forward(x.clone(), cut..cut + 1, &Hooks::none().recording(&record));
                let plain = backbone.forward(x, cut..cut + 1, &Hooks::none());
                assert_eq!(
                    next.to_vec(),
                    plain.to_vec(),
                    "{yaml}: recording changes nothing"
                );
                let attended = &record.take()[..];
                let [attended] = attended else {
                    panic!("{yaml}: expected one record, got {}", attended.len())
                };
                let tokens = grid.prefix + grid.grid[0] * grid.grid[1];
                assert_eq!(attended.weights.dims()[2..], [tokens; 2], "{yaml}");
                let sums = floats(attended.weights.clone().sum_dim(3).into_data());
                assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{yaml}");
                let value = |part: &str| {
                    let name = format!("{}.proj.{part}", attended.branch);
                    params::value(&*backbone, &name).unwrap_or_else(|| panic!("{yaml}: {name}"))
                };
                let weight: Tensor<2> = Tensor::from_data(value("weight"), &device);
                let bias: Tensor<1> = Tensor::from_data(value("bias"), &device);
                let mixed = normed(attended.mixed(), &*backbone, &attended.branch);
                let own = mixed.matmul(weight.transpose().unsqueeze()) + bias.unsqueeze();
                let own = floats(own.into_data());
                let largest = fused.iter().fold(1.0, |most: f32, v| most.max(v.abs()));
                for (own, fused) in own.iter().zip(&fused) {
                    assert!(
                        (own - fused).abs() <= 1e-5 * largest,
                        "{yaml}: {own} {fused}"
                    );
                }
                x = plain;
            }
            families.push(config.typetag_name());
        }
        families.dedup();
        assert_eq!(families, ["clip", "vit"]);
    }
}
