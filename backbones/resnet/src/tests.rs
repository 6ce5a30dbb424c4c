//! Golden values made with timm and torchvision.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use peft_core::checkpoint::{Checkpoint, load_backbone};
use peft_core::params;
use peft_core::testing::{Golden, assert_close};
use peft_core::{
    Activation, AdaptationMethod, Attachment, Backbone, BackboneConfig, BoxedBackbone, Hooks, Init,
    LinearHead, Model, Plug, Statistics, Tuned,
};
use serde::{Deserialize, Serialize};

use crate::{BlockKind, ResNet};

fn golden() -> Golden {
    Golden::open(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/resnet_bottleneck"
    ))
}

fn loaded(golden: &Golden, init: &Init) -> (BoxedBackbone, LinearHead) {
    let config = ResNet {
        img_size: Some(64),
        block: Some(BlockKind::Bottleneck),
        layers: Some([1, 2, 1, 1]),
        channels: Some([8, 16, 32, 64]),
        ..ResNet::default()
    };
    let backbone = Plug::new(config.build(init).unwrap());
    let file = Checkpoint::open(&golden.folder().join("weights.safetensors")).unwrap();
    let loaded = load_backbone(backbone, &file, None).unwrap();
    let (backbone, head) = (loaded.backbone, loaded.head);
    let head = LinearHead::from_checkpoint(head.unwrap(), init.device());
    (backbone, head)
}

#[test]
fn every_boundary_agrees_with_timm() {
    let (golden, init) = (golden(), Init::empty(&Device::flex()));
    let (backbone, head) = loaded(&golden, &init);
    let mut x = Activation::Map(Tensor::from_data(
        golden.io["images"].clone(),
        init.device(),
    ));
    let names = [
        "stem", "layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0", "features",
    ];
    for (cut, name) in names.iter().enumerate() {
        x = backbone.forward(x, cut..cut + 1, &Hooks::none());
        assert_close(name, &x.to_vec(), &golden.values(name), 1e-5, None);
        if let Some(boundary) = backbone.spec().boundaries.get(cut + 1) {
            assert_eq!(
                boundary.shape.elements() * 2,
                x.to_vec().len(),
                "{boundary}"
            );
        }
    }
    let logits = Activation::Features(head.forward(x.features().unwrap()));
    assert_close(
        "logits",
        &logits.to_vec(),
        &golden.values("logits"),
        1e-5,
        None,
    );
}

/// Tunes every norm with batch statistics.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct AllNorms;

#[typetag::serde(name = "all-norms-of-a-test")]
impl AdaptationMethod for AllNorms {
    fn attach(&self, backbone: &dyn Backbone, _: &Init) -> peft_core::Result<Attachment> {
        let norms = backbone
            .spec()
            .sites
            .iter()
            .filter(|site| matches!(site.kind, peft_core::SiteKind::Norm { .. }));
        let names = norms.flat_map(|site| ["weight", "bias"].map(|p| format!("{}.{p}", site.name)));
        Ok(Attachment::tuned(Tuned {
            names: names.collect(),
            statistics: Statistics::Batch,
            rates: Default::default(),
        }))
    }
    fn formula(&self, _: &dyn Backbone) -> peft_core::Result<usize> {
        Ok(0)
    }
}

#[test]
fn batch_statistics_and_their_running_means_agree_with_torch() {
    let (golden, init) = (golden(), Init::empty(&Device::flex()));
    let (backbone, head) = loaded(&golden, &init);
    let model = Model::assemble(backbone, &[Box::new(AllNorms)], head, &init).unwrap();
    let model = model.train();
    let images = Tensor::from_data(golden.io["images"].clone(), init.device());
    let step = model.step(0, 0, 0);
    let images = Activation::Map(images).into_autodiff();
    let logits = Activation::Features(model.logits(images, 0, Some(&step)));
    assert_close(
        "logits",
        &logits.to_vec(),
        &golden.values("train.logits"),
        1e-5,
        None,
    );

    let model = model.with_updates(step).valid();
    let buffers = params::read(&model.backbone, |info| info.buffer);
    assert_eq!(buffers.len(), 2 * 20);
    for (name, data) in buffers {
        let expected = golden.values(&format!("train.{name}"));
        assert_close(&name, &params::floats(data), &expected, 1e-5, None);
    }
}

#[test]
fn variants_have_the_published_numbers_of_parameters() {
    let count = |variant: &str| {
        let config = ResNet {
            variant: Some(variant.into()),
            ..ResNet::default()
        };
        let backbone = Plug::new(config.build(&Init::empty(&Device::flex())).unwrap());
        let infos = params::infos(&backbone);
        let count = infos
            .iter()
            .filter(|i| !i.buffer)
            .map(|i| i.count())
            .sum::<usize>();
        count + 1000 * (backbone.spec().features + 1)
    };
    assert_eq!(count("resnet18"), 11_689_512);
    assert_eq!(count("resnet34"), 21_797_672);
    assert_eq!(count("resnet50"), 25_557_032);
    assert_eq!(count("resnet101"), 44_549_160);
    assert_eq!(count("resnet152"), 60_192_808);
}

#[test]
fn transformers_names_are_read_and_its_logits_agree() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/checkpoints");
    let path = |name: &str| std::path::Path::new(folder).join(name);
    let basic = ResNet {
        img_size: Some(32),
        block: Some(BlockKind::Basic),
        layers: Some([1, 1, 2, 1]),
        channels: Some([8, 8, 16, 16]),
        ..ResNet::default()
    };
    let init = Init::empty(&Device::flex());
    let file = Checkpoint::open(&path("resnet-transformers.safetensors")).unwrap();
    let loaded = load_backbone(Plug::new(basic.build(&init).unwrap()), &file, None).unwrap();
    assert_eq!(loaded.layout, "transformers");
    let io = Checkpoint::open(&path("resnet-transformers-io.safetensors")).unwrap();
    let images = Tensor::<4>::from_data(io.tensor("images").unwrap(), init.device());
    let last = loaded.backbone.spec().features_cut();
    let x = loaded
        .backbone
        .forward(Activation::Map(images), 0..last, &Hooks::none());
    let head = LinearHead::from_checkpoint(loaded.head.unwrap(), init.device());
    let logits = head.forward(x.features().unwrap());
    let expected = peft_core::params::floats(io.tensor("logits").unwrap());
    let got = peft_core::params::floats(logits.into_data());
    assert_close("logits", &got, &expected, 1e-5, None);
}
