//! Runs small comparisons.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param,
};
use burn::tensor::{Device, Tensor};
use peft_core::random::Distribution;
use peft_core::{AdaptationMethod, Adapter, Attachment, Backbone, BoundaryAct, Init};
use serde::{Deserialize, Serialize};

use super::config::Comparison;
use super::execute::Executor;
use super::manifest::collect;
use super::plan::{Plan, plan};
use super::report::Report;
use super::results::Results;
use super::run::run;
use crate::device::ComputeDevice;
use crate::exit::Exit;
use crate::model::workshop::Workshop;

const SMALL: &str = "
trial:
  recipe: {extends: micro, epochs: 1, batch_size: 32}
seeds: [0, 1]
backbones:
  - label: vit
    use: {name: vit, img_size: 16, patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2}
datasets:
  - label: shapes
    use: {name: shapes, size: 16, train: 64, validation: 32, test: 32}
methods: [linear-probe, norm-tune]
baseline: linear-probe
";

fn comparison(folder: &Path) -> Comparison {
    let path = folder.join("small.yaml");
    std::fs::write(&path, SMALL).unwrap();
    let read = Comparison::read(path.to_str().unwrap(), &[]);
    read.map_err(|failure| failure.error).unwrap()
}

#[test]
fn a_comparison_is_a_call_that_returns_values() {
    let folder = tempfile::tempdir().unwrap();
    let comparison = comparison(folder.path());
    let out = folder.path().join("out");
    let results = || {
        run(&comparison, &out, &ComputeDevice::cpu(), Arc::default())
            .map_err(|failure| failure.error)
    };
    let first = results().unwrap();
    assert_eq!((first.done.len(), first.planned()), (4, 4));
    let report = Report::of(&first);
    let trials = report.scores.at("vit", "norm-tune", "shapes").unwrap();
    let mean = trials.score().unwrap();
    assert!(mean.complete() && (0.0..=1.0).contains(&mean.mean));
    let versus = &report.backbones[0].standing.versus;
    let difference = versus[0].difference.unwrap();
    assert_eq!((versus[0].method, difference.units), ("norm-tune", 2));
    // The second time every trial is done already.
    assert_eq!(results().unwrap(), first);
}

/// Rows at a boundary are computed from those of a lower one where these are held.
#[test]
fn a_prefix_goes_on_from_a_lower_boundary_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = [1, 2, 3].map(|boundary| {
        format!("{{label: b{boundary}, use: {{name: ap, boundaries: [{boundary}]}}}}")
    });
    let scores = |store: &str| {
        let text = SMALL
            .replace("linear-probe, norm-tune", &prompts.join(", "))
            .replace("baseline: linear-probe", "")
            .replace("seeds: [0, 1]", "seeds: [0]")
            .replace("trial:", &format!("trial:\n  prefix_cache: {store}"));
        let path = folder.path().join(format!("{store}.yaml"));
        std::fs::write(&path, text).unwrap();
        let comparison = Comparison::read(path.to_str().unwrap(), &[]);
        let comparison = comparison.map_err(|failure| failure.error).unwrap();
        let out = folder.path().join(store);
        let results = run(&comparison, &out, &ComputeDevice::cpu(), Arc::default());
        let results = results.map_err(|failure| failure.error).unwrap();
        let scores = results.done.into_iter();
        let scores: Vec<_> = scores
            .map(|summary| (summary.test, summary.validation, summary.memory.cache_bytes))
            .collect();
        assert_eq!(scores.len(), 3);
        scores
    };
    let (cached, plain) = (scores("memory"), scores("off"));
    for (cached, plain) in cached.iter().zip(&plain) {
        assert_eq!((&cached.0, &cached.1), (&plain.0, &plain.1));
        assert!(cached.2 > 0 && plain.2 == 0);
    }
}

/// A method that panics in the first training step of every trial.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Panics {
    /// Whether it panics in the forward pass, rather than when the optimiser steps.
    forward: bool,
}

#[typetag::serde(name = "panics")]
impl AdaptationMethod for Panics {
    fn attach(&self, _: &dyn Backbone, init: &Init) -> peft_core::Result<Attachment> {
        Ok(Attachment::adapter(PanicsAdapter {
            x: Fragile {
                x: init.param("panics.x", [1], Distribution::Ones),
                armed: Arc::default(),
            },
            forward: self.forward,
        }))
    }

    fn formula(&self, _: &dyn Backbone) -> peft_core::Result<usize> {
        Ok(1)
    }
}

#[derive(Module, Debug)]
struct PanicsAdapter {
    x: Fragile,
    #[module(skip)]
    forward: bool,
}

/// A parameter that panics when it is written after a forward pass, which is what the optimiser does.
#[derive(Clone, Debug)]
struct Fragile {
    x: Param<Tensor<1>>,
    armed: Arc<AtomicBool>,
}

impl Fragile {
    fn with(self, x: impl FnOnce(Param<Tensor<1>>) -> Param<Tensor<1>>) -> Self {
        Self {
            x: x(self.x),
            armed: self.armed,
        }
    }
}

impl Module for Fragile {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.x.visit(visitor);
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let armed = self.armed.load(Ordering::Relaxed);
        assert!(!armed, "this method always panics");
        self.with(|x| Module::map(x, mapper))
    }
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.x.collect_devices(devices)
    }
    fn to_device(self, device: &Device) -> Self {
        self.with(|x| x.to_device(device))
    }
    fn fork(self, device: &Device) -> Self {
        self.with(|x| x.fork(device))
    }
    fn valid(&self) -> Self {
        self.clone().with(|x| x.valid())
    }
    fn train(self) -> Self {
        self.with(Module::train)
    }
    fn materialize(self) -> Self {
        self.with(Module::materialize)
    }
}

impl ModuleDisplayDefault for Fragile {
    fn content(&self, content: Content) -> Option<Content> {
        content.optional()
    }
}

impl ModuleDisplay for Fragile {}

impl Adapter for PanicsAdapter {
    fn at_boundary(&self, index: usize) -> Option<BoundaryAct<'_>> {
        (index == 1).then(|| {
            BoundaryAct::Function(Box::new(|x, _| match self.forward {
                true => panic!("this method always panics"),
                false => {
                    self.x.armed.store(true, Ordering::Relaxed);
                    x
                }
            }))
        })
    }
}

/// Runs the comparison with its first trial replaced by one that panics.
fn with_a_panic(forward: bool) -> Results {
    let folder = tempfile::tempdir().unwrap();
    let comparison = comparison(folder.path());
    let device = ComputeDevice::cpu();
    let mut executor = Executor {
        root: folder.path(),
        workshop: Workshop::new(&device, folder.path()),
        interrupt: Arc::new(AtomicBool::new(false)),
    };
    let plan = plan(&comparison, &mut executor.workshop);
    let mut plan: Plan = plan.map_err(|failure| failure.error).unwrap();
    let bad = &mut plan.tasks[0];
    bad.experiment["method"] = serde_json::json!({"name": "panics", "forward": forward});
    let experiment = bad.experiment();
    let opened = experiment.and_then(|experiment| executor.workshop.open(experiment));
    bad.id = opened.map_err(|failure| failure.error).unwrap().0.hash;
    let ended = executor.execute_all(&plan.tasks, &mut |_| {});
    ended.map_err(|failure| failure.error).unwrap();
    collect(folder.path(), plan)
}

fn only_the_first_failed(results: &Results) {
    assert_eq!((results.done.len(), results.failed.len()), (3, 1));
    let failed = &results.failed[0];
    assert_eq!(failed.exit, Exit::Unexpected as u8);
    assert_eq!(failed.error, "this method always panics");
}

#[test]
fn a_panic_in_the_forward_pass_fails_one_trial_only() {
    only_the_first_failed(&with_a_panic(true));
}

#[test]
fn a_panic_in_the_optimiser_fails_one_trial_only() {
    only_the_first_failed(&with_a_panic(false));
}
