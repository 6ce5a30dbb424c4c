//! Times one forward pass from image to logits. Ids are `backbone/batch`.
//!
//! `cargo bench --features criterion --bench inference`

mod common;

use burn::tensor::Device;
use criterion::{BenchmarkId, Criterion, Throughput};
use peft_core::Activation;

const BATCHES: [usize; 2] = [1, 32];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let device = Device::flex();
    for (name, config) in common::BACKBONES {
        let model = common::model(config, &[], &device);
        let mut group = criterion.benchmark_group(name);
        for batch in BATCHES {
            let images = common::images(config, batch, &device);
            group
                .sample_size(20)
                .throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
                bencher.iter(|| {
                    let logits = model.logits(Activation::Map(images.clone()), 0, None);
                    common::sync(&device);
                    logits
                });
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
