//! Tests of (IA)^3, and that the tutorial quotes the files of this crate.

use burn::tensor::Device;
use external_method::Ia3;
use peft_core::method::AdaptationMethod;
use peft_core::registry::{PluginKind, plugins};
use peft_core::site::Targets;
use peft_core::{Backbone, BackboneConfig, Init};
use peft_testing::{Verdict, conforms};
// Links the backbones on which the method is tried.
use peft_runner as _;

fn vit() -> Box<dyn Backbone> {
    let tiny = "{name: vit, img_size: 32, patch_size: 8, embed_dim: 48, depth: 4, num_heads: 3}";
    let config: Box<dyn BackboneConfig> = serde_yaml::from_str(tiny).unwrap();
    config.build(&Init::seeded(&Device::flex(), 0)).unwrap()
}

fn targets(names: &[&str]) -> Ia3 {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Ia3 {
        targets: Some(Targets::Suffixes(names)),
    }
}

/// The conformance suite on every backbone that the runner links; a scale always folds.
#[test]
fn it_conforms_and_merges_everywhere() {
    let verdicts = conforms(&[Box::new(Ia3::default())]);
    let merges = |verdict: &Verdict| matches!(verdict, Verdict::Conforms { merges: Ok(()) });
    assert!(verdicts.iter().all(merges), "{verdicts:?}");
}

#[test]
fn the_count_is_the_papers() {
    let formula = Ia3::default().formula(&*vit()).unwrap();
    assert_eq!(formula, 4 * (3 * 48 + 4 * 48));
}

#[test]
fn a_norm_and_a_part_of_a_layer_are_refused_with_the_reason() {
    let backbone = vit();
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
