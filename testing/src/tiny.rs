//! Tiny models: the backbones that backbone crates register as `tiny`, by name.

use burn::tensor::Device;
use peft_core::registry::{PluginKind, plugins};
use peft_core::{Backbone, BackboneConfig, Init};

/// The tiny backbones of all backbone crates that are linked, by their YAML.
///
/// # Panics
/// If none is linked: a test needs `use a_backbone_crate as _;`.
pub fn tiny_backbones() -> Vec<(&'static str, Box<dyn BackboneConfig>)> {
    let all: Vec<_> = plugins(PluginKind::Backbone)
        .into_iter()
        .flat_map(|plugin| plugin.tiny)
        .map(|yaml| (*yaml, config(yaml)))
        .collect();
    assert!(!all.is_empty(), "no backbone crate is linked");
    all
}

/// The first tiny backbone of a family, on which the golden values of methods were made.
///
/// # Panics
/// If the crate of that family is not linked.
pub fn tiny(family: &str) -> Box<dyn BackboneConfig> {
    let mut families = plugins(PluginKind::Backbone).into_iter();
    let plugin = families.find(|plugin| plugin.name == family);
    match plugin.and_then(|plugin| plugin.tiny.first()) {
        Some(yaml) => config(yaml),
        None => panic!("no backbone crate that registers {family} is linked"),
    }
}

/// The tiny Vision Transformer: 4 blocks, 17 tokens of width 48.
///
/// # Panics
/// If its crate is not linked.
pub fn vit() -> Box<dyn BackboneConfig> {
    tiny("vit")
}

/// The tiny residual network: 5 bottleneck blocks, images of 64 pixels.
///
/// # Panics
/// If its crate is not linked.
pub fn resnet() -> Box<dyn BackboneConfig> {
    tiny("resnet")
}

/// A backbone's configuration from YAML.
///
/// # Panics
/// If it does not parse.
pub fn config(yaml: &str) -> Box<dyn BackboneConfig> {
    serde_yaml::from_str(yaml).unwrap_or_else(|e| panic!("{yaml}: {e}"))
}

/// Builds a backbone on the CPU with zeros for parameters, for names, shapes and formulas.
///
/// # Panics
/// If it cannot be built.
pub fn built(config: &dyn BackboneConfig) -> Box<dyn Backbone> {
    let built = config.build(&Init::empty(&Device::flex()));
    built.unwrap_or_else(|e| panic!("{config:?}: {e}"))
}
