//! CKA between two networks that run side by side, batch by batch. Of a batch only Gram matrices are kept.

use burn::module::Module;
use peft_core::activation::BoundaryShape;
use peft_core::{BackboneConfig, BackboneSpec, BoxedBackbone, DatasetConfig, Hooks, Init, Split};
use peft_datasets::Preprocess;
use serde_json::json;
use serde_yaml::Value;

use super::settings::{CLAIM, Kind, Layers, Settings, Side, Similarity};
use super::similarity::{Gram, LEAST, Sums, plain, products};
use crate::config::on_error::OnError;
use crate::data::images::Images;
use crate::data::loader::Loader;
use crate::data::random::Pass;
use crate::device::ComputeDevice;
use crate::exit::{At, Exit, Failure, config_error, failure};
use crate::model::base::Base;
use crate::study::claim::{Verdict, all};
use crate::study::components::{
    backbone, dataset, is_bundled, missing_images, missing_weights, title,
};
use crate::study::outcome::{Outcome, json};
use crate::study::request::Request;
use crate::study::table::{count, numbers};

/// Two networks, or one, and the images that they see.
pub struct Networks {
    configs: Vec<(String, Box<dyn BackboneConfig>)>,
    dataset: Box<dyn DatasetConfig>,
    split: Split,
}

impl Networks {
    /// Reads what the settings name.
    pub fn read(settings: &Settings) -> Result<Self, Failure> {
        let (Some(first), Some(images)) = (&settings.backbone, &settings.dataset) else {
            return Err(config_error("expected backbone and dataset, or --features"));
        };
        let names: Vec<&Value> = [Some(first), settings.other.as_ref()]
            .into_iter()
            .flatten()
            .collect();
        let config = |value: &&Value| Ok((title(value), backbone(value)?));
        let mut configs = names
            .iter()
            .map(config)
            .collect::<Result<Vec<_>, Failure>>()?;
        // A second network of the same name needs another one in the figure.
        if let [(a, _), (b, _)] = &mut configs[..]
            && a == b
        {
            b.push_str(" (2)");
        }
        let (dataset, _) = dataset(images)?;
        Ok(Self {
            configs,
            dataset,
            split: settings.split.unwrap_or(Split::Test),
        })
    }

    /// Says which files are missing; none if all are there.
    pub fn missing(&self) -> Option<String> {
        let weights = self
            .configs
            .iter()
            .filter_map(|(_, config)| missing_weights(&**config));
        let all: Vec<String> = weights.chain(missing_images(&*self.dataset)).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The names of the networks.
    pub fn title(&self) -> String {
        let titles: Vec<&str> = self
            .configs
            .iter()
            .map(|(title, _)| title.as_str())
            .collect();
        titles.join(" and ")
    }

    /// Whether all weights are bundled: miniatures.
    pub fn are_bundled(&self) -> bool {
        let mut configs = self.configs.iter();
        configs.all(|(_, config)| is_bundled(&**config))
    }

    fn sides(&self) -> Result<Vec<Side>, Failure> {
        let side = |(title, config): &(String, Box<dyn BackboneConfig>)| {
            let init = Init::empty(&burn::tensor::Device::flex());
            let built = config.build(&init).at("backbone")?;
            Ok(Side::of(title, built.spec()))
        };
        self.configs.iter().map(side).collect()
    }

    /// The plan: no weights and no images are read.
    pub fn plan(&self, settings: &Settings) -> Result<Outcome, Failure> {
        let sides = self.sides()?;
        let rows = sides.iter().map(|side| {
            let boundaries = side.names.len() as u64;
            (
                side.title.clone(),
                vec![count(side.depth as u64), count(boundaries)],
            )
        });
        let table = numbers(
            "Networks",
            "backbone",
            &["blocks", "boundaries"],
            rows.collect(),
        );
        let [a, b] = [&sides[0], sides.last().unwrap_or(&sides[0])];
        Ok(Outcome {
            claims: all(&[CLAIM], Verdict::Undecided, "a dry run computes nothing"),
            result: json!({
                "a": a.names, "b": b.names, "cka": [], "plain": null, "batch": settings.batch, "images_used": 0,
            }),
            settings: json(settings)?,
            tables: vec![table],
            notes: vec![format!(
                "No training: {} images of the {} split go through each network once.",
                settings
                    .images
                    .map_or("all".to_owned(), |images| images.to_string()),
                self.split
            )],
            ..Outcome::default()
        })
    }

    /// Runs the networks.
    pub fn similarity(
        &self,
        settings: &Settings,
        request: &Request,
    ) -> Result<Similarity, Failure> {
        let device = request.device;
        let images = Images::new(self.dataset.open().at("dataset")?, OnError::Fail);
        let there = images.dataset().len(self.split);
        let total = settings.images.unwrap_or(there);
        if total > there {
            let message = format!("images: expected at most {there}, got {total}");
            return Err(config_error(message));
        }
        let batch = settings.batch.unwrap_or(total);
        if batch > total || batch < LEAST {
            let message = format!(
                "images: expected at least {}, got {total}",
                batch.max(LEAST)
            );
            return Err(config_error(message));
        }
        let open = |(title, config): &(String, Box<dyn BackboneConfig>)| {
            Network::open(title, config.clone(), settings.seed, device)
        };
        let networks = self
            .configs
            .iter()
            .map(open)
            .collect::<Result<Vec<_>, Failure>>()?;
        let loaders: Vec<Loader> = networks
            .iter()
            .map(|network| {
                let input = self.dataset.transform().over(network.input);
                Loader::new(&images, &[self.split], Preprocess::new(&input), batch)
            })
            .collect();
        let [a, b] = [&networks[0], networks.last().unwrap_or(&networks[0])];
        let mut sums = Sums::new([a.side.names.len(), b.side.names.len()], batch);
        for index in 0..total / batch {
            if request.interrupt.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(failure(Exit::Interrupted, "interrupted"));
            }
            let grams = networks.iter().zip(&loaders).map(|(network, loader)| {
                let mut grams = Vec::new();
                network.each_boundary(loader, index, device, |_, rows, width| {
                    grams.push(Gram::of(rows, width));
                })?;
                Ok(grams)
            });
            let grams = grams.collect::<Result<Vec<_>, Failure>>()?;
            sums.add([&grams[0], grams.last().unwrap_or(&grams[0])]);
        }
        let plain = match settings.kind {
            Kind::Minibatch => None,
            Kind::Plain => {
                let whole = networks.iter().zip(&loaders);
                let whole = whole.map(|(network, loader)| network.whole(loader, total, device));
                let whole = whole.collect::<Result<Vec<_>, Failure>>()?;
                Some(plain(&whole[0], whole.last().unwrap_or(&whole[0])))
            }
        };
        Ok(Similarity {
            sides: [a.side.clone(), b.side.clone()],
            cka: sums.finish(),
            plain,
            batch,
            used: total / batch * batch,
        })
    }
}

impl Side {
    fn of(title: &str, spec: &BackboneSpec) -> Self {
        let last = spec.boundaries.last().map(|boundary| boundary.shape);
        Self {
            names: (0..=spec.last_boundary())
                .map(|index| format!("boundary.{index}"))
                .collect(),
            title: title.to_owned(),
            kind: match last {
                Some(BoundaryShape::Map { .. }) => Some(Layers::Maps),
                Some(BoundaryShape::Tokens { .. }) => Some(Layers::Tokens),
                _ => None,
            },
            depth: spec.depth,
        }
    }
}

/// A network with its weights.
struct Network {
    side: Side,
    backbone: BoxedBackbone,
    input: peft_core::input::InputSpec,
}

impl Network {
    fn open(
        title: &str,
        config: Box<dyn BackboneConfig>,
        seed: u64,
        device: &ComputeDevice,
    ) -> Result<Self, Failure> {
        let base = Base::open(config, seed, device)?;
        for remark in &base.remarks {
            eprintln!("{title}: {remark}");
        }
        Ok(Self {
            side: Side::of(title, base.backbone.spec()),
            input: base.config.input().at("backbone")?,
            backbone: base.backbone.valid(),
        })
    }

    /// Hands over the activations of a batch, boundary by boundary: all values of an image are one row.
    fn each_boundary(
        &self,
        loader: &Loader,
        index: usize,
        device: &ComputeDevice,
        mut take: impl FnMut(usize, &[f32], usize),
    ) -> Result<(), Failure> {
        loader.each(index..index + 1, Pass::Plain, &device.device, |_, batch| {
            let (mut x, images) = (batch.x.single(), batch.targets.len());
            let last = self.side.names.len() - 1;
            for cut in 0..=last {
                let rows = x.to_vec();
                take(cut, &rows, rows.len() / images);
                if cut < last {
                    x = self.backbone.forward(x, cut..cut + 1, &Hooks::none());
                }
            }
            Ok::<_, Failure>(true)
        })
    }

    /// The Gram matrices of all images at once. The network runs for every pair of batches, so that no more
    /// than the activations of one batch are kept.
    fn whole(
        &self,
        loader: &Loader,
        total: usize,
        device: &ComputeDevice,
    ) -> Result<Vec<Gram>, Failure> {
        let (size, batches) = (loader.batch_size(), total.div_ceil(loader.batch_size()));
        let mut values = vec![vec![0.0; total * total]; self.side.names.len()];
        for first in 0..batches {
            let mut kept: Vec<Vec<f32>> = Vec::new();
            self.each_boundary(loader, first, device, |_, rows, _| kept.push(rows.to_vec()))?;
            for second in first..batches {
                self.each_boundary(loader, second, device, |at, rows, width| {
                    let block = products(&kept[at], rows, width);
                    let columns = rows.len() / width;
                    for (place, value) in block.into_iter().enumerate() {
                        let (i, j) = (
                            first * size + place / columns,
                            second * size + place % columns,
                        );
                        // A last batch may reach beyond the images that are wanted.
                        if i < total && j < total {
                            values[at][i * total + j] = value;
                            values[at][j * total + i] = value;
                        }
                    }
                })?;
            }
        }
        Ok(values
            .into_iter()
            .map(|values| Gram::from_values(total, values))
            .collect())
    }
}
