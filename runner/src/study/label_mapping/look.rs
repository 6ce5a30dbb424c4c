//! A quick look at how far a checkpoint's classes already go: their map by frequency before any training.

use serde::Serialize;

use crate::compare::tables::table::{Column, Entry, Table};
use crate::config::head::{HeadConfig, MapKind};
use crate::exit::{Exit, Failure, failure};
use crate::model::base::Base;
use crate::model::label_map::{Counts, count, greedy};
use crate::model::workshop::Workshop;
use crate::report::numbers::percent;
use crate::study::request::Request;
use crate::study::trained::Grid;
use crate::train::evaluate::evaluate;

/// The map of a backbone on a data set.
#[derive(Serialize)]
pub struct Look {
    /// The label of the backbone.
    backbone: String,
    /// The label of the data set.
    dataset: String,
    /// Training images by source class (row) and target class (column).
    counts: Counts,
    /// The names of the source classes that stand for each target class.
    mapping: Vec<(String, Vec<String>)>,
    /// The score on validation.
    validation: f64,
}

/// A look for each backbone and data set.
pub fn looks(grid: &Grid, sources: usize, request: &Request) -> Result<Vec<Look>, Failure> {
    let comparison = &grid.comparison;
    let mut workshop = Workshop::new(request.device, request.cache);
    let mut looks = Vec::new();
    for dataset in &comparison.datasets {
        for backbone in &comparison.backbones {
            let entry = &comparison.methods[0];
            let mut experiment =
                comparison.experiment(entry, backbone, dataset, comparison.seeds[0])?;
            experiment.head = HeadConfig::LabelMapping {
                kind: MapKind::Frequency,
                every: 1,
                sources,
            };
            let names =
                Base::open(experiment.backbone.clone(), experiment.seed, request.device)?.classes;
            let (trial, model) = workshop.open(experiment)?;
            let (images, size) = (trial.preprocess(), trial.experiment.recipe.batch_size);
            let (device, compute) = (request.device, trial.compute_type());
            let loader = trial.data.train(images, size);
            let counts = count(&model, &loader, device, compute)?;
            let counts =
                counts.ok_or_else(|| failure(Exit::Unexpected, "the head has no label map"))?;
            let mapping = greedy(&counts, trial.classes.len(), sources);
            let model = model.with_mapping(&mapping)?;
            let (metrics, _) = evaluate(
                &model,
                &trial.data.validation(images, size),
                device,
                compute,
            )?;
            let name = |source: &usize| match &names {
                Some(names) => names
                    .get(*source)
                    .cloned()
                    .unwrap_or_else(|| source.to_string()),
                None => format!("class {source}"),
            };
            let named = trial.classes.iter().zip(&mapping);
            looks.push(Look {
                backbone: backbone.label.clone(),
                dataset: dataset.label.clone(),
                mapping: named
                    .map(|(target, own)| (target.clone(), own.iter().map(name).collect()))
                    .collect(),
                counts,
                validation: metrics.score(trial.experiment.metric).unwrap_or(0.0),
            });
        }
    }
    Ok(looks)
}

impl Look {
    /// The map by names.
    pub fn table(&self) -> Table {
        let rows = self
            .mapping
            .iter()
            .map(|(target, sources)| (target.clone(), vec![Entry::text(sources.join(", "))]));
        Table {
            title: format!(
                "{}, {}: the map before training scores {} on validation",
                self.backbone,
                self.dataset,
                percent(self.validation)
            ),
            names: "class",
            columns: vec![Column::words("stands for it")],
            rows: rows.collect(),
            notes: Vec::new(),
        }
    }
}
