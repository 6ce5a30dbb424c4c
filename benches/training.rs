//! Times one training step: the prefix without autodiff, the suffix with it, and a step of AdamW. Ids are
//! `method/backbone/batch`. `runner bench` measures memory.
//!
//! `cargo bench --features criterion --bench training`

mod common;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use criterion::{BenchmarkId, Criterion, Throughput};
use peft_adapter as _;
use peft_adaptformer as _;
use peft_ap as _;
use peft_bias as _;
use peft_boft as _;
use peft_compacter as _;
use peft_convpass as _;
use peft_core::loss::cross_entropy;
use peft_core::{Activation, AdaptationMethod};
use peft_fact as _;
use peft_fourierft as _;
use peft_full_finetune as _;
use peft_linear_probe as _;
use peft_loha as _;
use peft_lokr as _;
use peft_lora as _;
use peft_lst as _;
use peft_norm_tune as _;
use peft_oft as _;
use peft_partial as _;
use peft_rep_adapter as _;
use peft_ssf as _;
use peft_vera as _;
use peft_vp as _;
use peft_vpt as _;
use peft_vqt as _;
use replace_with::replace_with_or_abort;

/// Names and configurations.
const METHODS: [(&str, &str); 27] = [
    ("linear-probe", "name: linear-probe"),
    ("ap-early", "{name: ap, boundaries: [1]}"),
    ("ap-late", "{name: ap, boundaries: [-1]}"),
    ("vp", "name: vp"),
    ("vp-border", "{name: vp, kind: border, width: 4}"),
    ("vpt-shallow", "{name: vpt, mode: shallow}"),
    ("vpt-deep", "{name: vpt, mode: deep}"),
    ("lora", "name: lora"),
    ("dora", "{name: lora, dora: true}"),
    ("loha", "name: loha"),
    ("lokr", "name: lokr"),
    ("oft", "{name: oft, block_size: 16}"),
    ("boft", "{name: boft, block_size: 8, factors: 2}"),
    ("fourierft", "{name: fourierft, frequencies: 500}"),
    ("vera", "{name: vera, rank: 64}"),
    ("fact-tt", "{name: fact, kind: tt, rank: 8}"),
    ("fact-tk", "{name: fact, kind: tk, rank: 8}"),
    ("rep-adapter", "name: rep-adapter"),
    ("convpass", "name: convpass"),
    ("compacter", "name: compacter"),
    (
        "adapter-pfeiffer",
        "{name: adapter, kind: pfeiffer, bottleneck: 16}",
    ),
    (
        "adapter-houlsby",
        "{name: adapter, kind: houlsby, bottleneck: 16}",
    ),
    (
        "adapter-parallel",
        "{name: adapter, kind: parallel, bottleneck: 16}",
    ),
    ("adaptformer", "{name: adaptformer, bottleneck: 16}"),
    ("ssf", "name: ssf"),
    ("norm-tune", "name: norm-tune"),
    ("bias", "name: bias"),
    ("partial", "name: partial"),
    ("lst", "name: lst"),
    ("vqt", "name: vqt"),
    ("full-finetune", "name: full-finetune"),
];
/// Backbones with the size of their batch.
const BACKBONES: [(&str, &str, usize); 3] = [
    ("vit-micro", common::BACKBONES[0].1, 32),
    ("resnet-micro", common::BACKBONES[1].1, 32),
    ("vit-tiny", "{name: vit, variant: vit_tiny_patch16_224}", 16),
];
const LEARNING_RATE: f64 = 1e-3;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, method) in METHODS {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20);
        for (backbone, config, batch) in BACKBONES {
            let device = Device::flex();
            let parsed = parse(method);
            if parsed.formula(&*common::backbone(config, &device)).is_err() {
                continue; // The backbone cannot carry the method.
            }
            group.throughput(Throughput::Elements(batch as u64));
            let id = BenchmarkId::new(backbone, batch);
            group.bench_function(id, |bencher| {
                let mut step = training_step(config, parsed.clone(), batch, &device);
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

fn parse(method: &str) -> Box<dyn AdaptationMethod> {
    serde_yaml::from_str(method).unwrap_or_else(|e| panic!("{method}: {e}"))
}

/// A closure that trains one step on the same batch.
fn training_step(
    backbone: &str,
    method: Box<dyn AdaptationMethod>,
    batch: usize,
    device: &Device,
) -> impl FnMut() + use<> {
    let mut model = common::model(backbone, &[method], device).train();
    let mut optimizer = AdamWConfig::new().init();
    let images = common::images(backbone, batch, device);
    let labels: Vec<_> = (0..batch).map(|i| (i % common::CLASSES) as i64).collect();
    let labels = TensorData::new(labels, [batch]);
    let labels = Tensor::<1, Int>::from_data(labels, &device.clone().autodiff());
    let cut = model.first_cut();
    let prefix = model.backbone.valid();
    let mut number = 0;
    move || {
        let x = Activation::Map(images.clone());
        let x = model.taps().tap(&*prefix, x, 0).into_autodiff();
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
