//! What (IA)^3 must keep, and that the tutorial quotes the files of this crate.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor};
use external_method::Ia3;
use peft_backbone_resnet::{BlockKind, ResNet};
use peft_backbone_vit::Vit;
use peft_core::backbone::{Backbone, BackboneConfig, Init};
use peft_core::loss::cross_entropy;
use peft_core::method::AdaptationMethod;
use peft_core::params::{self, floats};
use peft_core::random::Distribution;
use peft_core::registry::{PluginKind, plugins};
use peft_core::site::Targets;
use peft_core::{Activation, LinearHead, Model, Plug};

const CLASSES: usize = 7;

fn vit() -> Vit {
    Vit {
        img_size: Some(32),
        patch_size: Some(8),
        embed_dim: Some(48),
        depth: Some(4),
        num_heads: Some(3),
        ..Vit::default()
    }
}

fn resnet() -> ResNet {
    ResNet {
        img_size: Some(32),
        block: Some(BlockKind::Basic),
        layers: Some([1, 1, 1, 1]),
        channels: Some([8, 16, 24, 32]),
        ..ResNet::default()
    }
}

fn targets(names: &[&str]) -> Ia3 {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Ia3 {
        targets: Some(Targets::Suffixes(names)),
    }
}

fn built(config: &dyn BackboneConfig) -> Box<dyn Backbone> {
    config.build(&Init::seeded(&Device::flex(), 0)).unwrap()
}

fn model(config: &dyn BackboneConfig, methods: &[Box<dyn AdaptationMethod>]) -> Model {
    let init = Init::seeded(&Device::flex(), 0);
    let backbone = Plug::new(built(config));
    let head = LinearHead::new(backbone.spec().features, CLASSES, &init);
    Model::assemble(backbone, methods, head, &init).unwrap()
}

fn adapted(config: &dyn BackboneConfig) -> Model {
    model(config, &[Box::new(Ia3::default())])
}

fn images() -> Activation {
    let init = Init::seeded(&Device::flex(), 1);
    Activation::Map(init.tensor("images", [2, 3, 32, 32], Distribution::Normal(0.0, 1.0)))
}

#[test]
fn an_adapted_model_starts_as_the_backbone() {
    let configs: [&dyn BackboneConfig; 2] = [&vit(), &resnet()];
    for config in configs {
        let images = images();
        let logits = |model: Model| floats(model.logits(images.clone(), 0, None).into_data());
        assert_eq!(logits(adapted(config)), logits(model(config, &[])));
    }
}

#[test]
fn the_count_is_the_formulas() {
    let configs: [&dyn BackboneConfig; 2] = [&vit(), &resnet()];
    for config in configs {
        let formula = Ia3::default().formula(&*built(config)).unwrap();
        assert_eq!(adapted(config).counts().adapter, formula);
    }
    let formula = Ia3::default().formula(&*built(&vit())).unwrap();
    assert_eq!(formula, 4 * (3 * 48 + 4 * 48));
}

#[test]
fn only_the_factors_and_the_head_get_gradients() {
    let configs: [&dyn BackboneConfig; 2] = [&vit(), &resnet()];
    for config in configs {
        let model = adapted(config).train();
        let labels = Tensor::<1, Int>::from_data([0, 3], &Device::flex().autodiff());
        let logits = model.logits(images().into_autodiff(), 0, None);
        let loss = cross_entropy(logits, labels, 0.0);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let factors = params::infos(&model).into_iter().map(|info| info.name);
        let mut expected: Vec<_> = factors
            .filter(|name| name.starts_with("ia3.") && name.ends_with(".l"))
            .chain(["head.weight".to_owned(), "head.bias".to_owned()])
            .collect();
        expected.sort();
        let gradients = params::gradients(&model, &gradients);
        assert!(gradients.keys().eq(&expected), "{:?}", gradients.keys());
        let zero = |name: &&String| floats(gradients[*name].clone()).iter().all(|v| *v == 0.0);
        assert_eq!(expected.iter().find(zero), None, "a gradient that is zero");
    }
}

#[test]
fn what_is_no_whole_layer_is_refused_with_the_reason() {
    let backbone = built(&vit());
    let error = |names: &[&str]| targets(names).formula(&*backbone).unwrap_err().to_string();
    let norm = "ia3 cannot be attached to vit: blocks.0.norm1 is a norm 48; \
                expected a linear layer or a convolution";
    assert_eq!(error(&["norm1"]), norm);
    let slice = "ia3 cannot be attached to vit: blocks.0.attn.key is a part of \
                 blocks.0.attn.qkv; expected a whole layer";
    assert_eq!(error(&["key", "value"]), slice);
    assert!(error(&["conv1"]).contains("\"conv1\" matches no site"));
}

#[test]
fn the_example_of_the_registration_is_this_method() {
    let methods = plugins(PluginKind::Method);
    let plugin = methods.iter().find(|plugin| plugin.name == "ia3").unwrap();
    let method: Box<dyn AdaptationMethod> = serde_yaml::from_str(plugin.example).unwrap();
    assert_eq!(method.typetag_name(), "ia3");
    assert!(serde_yaml::from_str::<Box<dyn AdaptationMethod>>("name: ia3\ntarget: qkv").is_err());
}

/// The page's blocks in that language, without their fences.
fn blocks(language: &str) -> Vec<&'static str> {
    let page = include_str!("../../../docs/your-own-method.md");
    let fenced = page.split("```").skip(1).step_by(2);
    fenced
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

#[test]
fn the_tutorial_holds_the_files_of_this_crate() {
    let rust = blocks("rust");
    let (main, lib) = rust.split_last().unwrap();
    assert_eq!(lib.join("\n"), include_str!("../src/lib.rs"));
    assert_eq!(*main, include_str!("../src/main.rs"));
    assert_eq!(blocks("yaml"), [include_str!("../ia3.yaml")]);
    let workspace = include_str!("../../../Cargo.toml");
    let burn = workspace
        .lines()
        .find(|line| line.starts_with("burn = "))
        .unwrap();
    let pin = burn.split(", features").next().unwrap();
    assert!(
        blocks("toml").concat().contains(pin),
        "the page does not hold {pin}"
    );
}
