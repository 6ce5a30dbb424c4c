//! Seconds of one training step by `method/backbone/batch`: the prefix without autodiff, the
//! suffix with it, one step of AdamW. Memory is measured by `runner bench`.
//!
//! `cargo bench -p peft-benches --bench training`

mod common;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use criterion::{BenchmarkId, Criterion, Throughput};
use peft_ap as _;
use peft_core::loss::cross_entropy;
use peft_core::{Activation, AdaptationMethod, Hooks};
use peft_full_finetune as _;
use peft_linear_probe as _;
use peft_lora as _;
use replace_with::replace_with_or_abort;

/// Names and configurations.
const METHODS: [(&str, &str); 5] = [
    ("linear-probe", "name: linear-probe"),
    ("ap-early", "{name: ap, boundaries: [1]}"),
    ("ap-late", "{name: ap, boundaries: [-1]}"),
    ("lora", "name: lora"),
    ("full-finetune", "name: full-finetune"),
];
const BATCH: usize = 32;
const LEARNING_RATE: f64 = 1e-3;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, method) in METHODS {
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(20)
            .throughput(Throughput::Elements(BATCH as u64));
        for (backbone, config) in common::BACKBONES {
            let id = BenchmarkId::new(backbone, BATCH);
            group.bench_function(id, |bencher| {
                let device = Device::flex();
                let mut step = training_step(config, method, &device);
                bencher.iter(|| {
                    step();
                    common::sync(&device);
                });
            });
        }
        group.finish();
    }
    criterion.final_summary();
}

/// A closure that trains one step on the same batch.
fn training_step(backbone: &str, method: &str, device: &Device) -> impl FnMut() + use<> {
    let method: Box<dyn AdaptationMethod> =
        serde_yaml::from_str(method).unwrap_or_else(|e| panic!("{e}"));
    let mut model = common::model(backbone, &[method], device).train();
    let mut optimizer = AdamWConfig::new().init();
    let images = common::images(backbone, BATCH, device);
    let labels: Vec<_> = (0..BATCH).map(|i| (i % common::CLASSES) as i64).collect();
    let labels = TensorData::new(labels, [BATCH]);
    let labels = Tensor::<1, Int>::from_data(labels, &device.clone().autodiff());
    let cut = model.first_cut();
    let prefix = model.backbone.valid();
    let mut number = 0;
    move || {
        let x = Activation::Map(images.clone());
        let x = prefix.forward(x, 0..cut, &Hooks::none()).into_autodiff();
        let step = model.step(0, number, 0);
        number += 1;
        let loss = cross_entropy(model.logits(x, cut, Some(&step)), labels.clone(), 0.0);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        replace_with_or_abort(&mut model, |model| {
            let model = optimizer.step(LEARNING_RATE, model, gradients);
            model.with_updates(step)
        });
    }
}
