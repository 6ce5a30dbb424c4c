//! Golden values made with HF PEFT, the conformance suite, and refusals.

mod hf_peft;
mod networks;
mod starts;

use burn::tensor::{Device, Tensor, TensorData};
use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::backbone::{BackboneConfig, Init};
use peft_core::method::AdaptationMethod;
use peft_core::params::{self, Tensors, floats};
use peft_core::random::Generator;
use peft_core::site::Targets;
use peft_core::{Activation, LinearHead, Model, Plug};
use peft_full_finetune as _;
use peft_testing::{Golden, assert_close, built, config, conforms, resnet, theirs, vit};

use crate::Lora;

fn lora(targets: &[&str]) -> Lora {
    Lora {
        rank: 4,
        alpha: Some(8.0),
        targets: Some(Targets::Suffixes(
            targets.iter().map(|t| (*t).into()).collect(),
        )),
        ..Lora::default()
    }
}

fn check(name: &str, backbone: &dyn BackboneConfig, method: Lora) {
    let head = match backbone.typetag_name() {
        "resnet" => "fc",
        _ => "head",
    };
    let golden = Golden::fixture(&format!("peft/{name}"));
    golden.check_training(backbone, Box::new(method), theirs("lora", head));
}

#[test]
fn the_fused_qkv_agrees_with_hf_peft() {
    check("lora_qkv", &*vit(), lora(&["qkv"]));
}

#[test]
fn every_linear_and_the_patch_embedding_agree_with_hf_peft() {
    check("lora_all", &*vit(), lora(&["qkv", "proj", "fc1", "fc2"]));
}

#[test]
fn rank_stabilisation_agrees_with_hf_peft() {
    let method = Lora {
        rslora: true,
        ..lora(&["qkv", "fc1"])
    };
    check("lora_rslora", &*vit(), method);
}

#[test]
fn patterns_agree_with_hf_peft() {
    let targets = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc1)";
    let method = Lora {
        targets: Some(Targets::Regex(targets.to_owned())),
        rank_pattern: [("blocks.0.attn.qkv".to_owned(), 2), ("fc1".to_owned(), 6)].into(),
        alpha_pattern: [("fc1".to_owned(), 3.0)].into(),
        ..lora(&[])
    };
    check("lora_patterns", &*vit(), method);
}

#[test]
fn dora_agrees_with_hf_peft_on_linears_and_convolutions() {
    let linear = Lora {
        dora: true,
        ..lora(&["qkv", "fc2"])
    };
    check("dora_linear", &*vit(), linear);
    let conv = Lora {
        dora: true,
        targets: Some(Targets::Regex(r"layer2\.0\.(conv2|downsample\.0)".into())),
        ..lora(&[])
    };
    check("dora_conv", &*resnet(), conv);
}

#[test]
fn strided_and_padded_convolutions_agree_with_hf_peft() {
    let targets = r"conv1|layer[12]\.\d\.conv[12]|layer3\.0\.conv2";
    let method = Lora {
        targets: Some(Targets::Regex(targets.to_owned())),
        ..lora(&[])
    };
    check("lora_conv", &*resnet(), method);
}

#[test]
fn a_deep_stem_and_averaging_shortcuts_agree_with_hf_peft() {
    let d = config(
        "{name: resnet, img_size: 36, block: bottleneck, layers: [1, 1, 2, 1], \
         channels: [8, 8, 16, 16], stem_type: deep, stem_width: 8, avg_down: true}",
    );
    let method = Lora {
        targets: Some(Targets::Regex(r"conv1\.[036]|.*downsample\.1".into())),
        ..lora(&[])
    };
    check("lora_d", &*d, method);
}

#[test]
fn slices_of_a_fused_projection_count_their_own_rows() {
    let backbone = built(&*vit());
    let count = |targets: &[&str]| lora(targets).formula(&*backbone).unwrap();
    assert_eq!(count(&["qkv"]), 4 * 4 * (48 + 144));
    assert_eq!(count(&["query", "value"]), 4 * 4 * 2 * (48 + 48));
}

#[test]
fn the_default_on_a_resnet_is_every_convolution() {
    let backbone = built(&*resnet());
    let picked = Lora::default();
    let picked = picked.picked(&*backbone).unwrap();
    assert_eq!(picked.len(), 1 + 5 * 3 + 4);
    assert!(
        Lora::default()
            .attach(&*backbone, &Init::seeded(&Device::flex(), 0))
            .is_ok()
    );
}

#[test]
fn bad_values_are_refused_by_field() {
    let backbone = built(&*vit());
    let error = |method: Lora| method.formula(&*backbone).unwrap_err().to_string();
    let rank = Lora {
        rank: 0,
        ..Lora::default()
    };
    assert_eq!(error(rank), "rank: expected at least 1, got 0");
    let dropout = Lora {
        dropout: 1.0,
        ..Lora::default()
    };
    assert_eq!(
        error(dropout),
        "dropout: expected at least 0 and less than 1, got 1"
    );
    assert!(error(lora(&["norm1"])).contains("blocks.0.norm1 is a norm 48"));
    assert!(error(lora(&["conv1"])).contains("\"conv1\" matches no site"));
}

/// The side path on the rows of `value` is equivalent to adding `s B A` to those rows of the fused
/// weight.
#[test]
fn a_slice_equals_the_weight_with_the_product_in_its_rows() {
    let init = Init::seeded(&Device::flex(), 3);
    let assemble = |methods: &[Box<dyn AdaptationMethod>]| {
        let backbone = Plug::new(vit().build(&init).unwrap());
        let head = LinearHead::new(48, 7, &init);
        Model::assemble(backbone, methods, head, &init).unwrap()
    };
    let logits = |model: &Model| floats(model.logits(images(&init), 0, None).into_data());

    let adapted = assemble(&[Box::new(lora(&["value"]))]);
    let factors: Tensors = params::read(&adapted, |info| info.name.starts_with("lora."))
        .into_iter()
        .map(|(name, data)| {
            let shape = data.shape().clone();
            let values = noise(shape.num_elements(), &name);
            (name, TensorData::new(values, shape))
        })
        .collect();
    assert_eq!(factors.len(), 2 * 4);
    let adapted = params::write(adapted, factors.clone()).unwrap();

    let bare = assemble(&[]);
    let is_qkv = |name: &str| name.ends_with("attn.qkv.weight");
    let mut weights = params::read(&bare, |info| is_qkv(&info.name));
    for (name, data) in &mut weights {
        let site = name
            .trim_start_matches("backbone.")
            .trim_end_matches("qkv.weight");
        let factor =
            |part: &str| floats(factors[&format!("lora.{site}value.{part}.weight")].clone());
        let (a, b) = (factor("lora_A"), factor("lora_B"));
        let mut w = floats(data.clone());
        for row in 0..48 {
            for column in 0..48 {
                let product: f32 = (0..4).map(|k| b[row * 4 + k] * a[k * 48 + column]).sum();
                w[(96 + row) * 48 + column] += 2.0 * product;
            }
        }
        *data = TensorData::new(w, [144, 48]);
    }
    let before = logits(&bare);
    let edited = params::write(bare, weights).unwrap();
    let (got, expected) = (logits(&adapted), logits(&edited));
    assert!(before != expected, "the product has no effect");
    assert_close("logits", &got, &expected, 1e-5, None);
}

/// Two random images.
fn images(init: &Init) -> Activation {
    let pixels = TensorData::new(noise(2 * 3 * 32 * 32, "images"), [2, 3, 32, 32]);
    Activation::Map(Tensor::from_data(pixels, init.device()))
}

/// Random values with deviation 0.3, determined by a name.
fn noise(count: usize, name: &str) -> Vec<f32> {
    let mut generator = Generator::new(0, name);
    (0..count).map(|_| 0.3 * generator.normal()).collect()
}

#[test]
fn every_form_conforms_and_merges() {
    let dora = Lora {
        dora: true,
        ..Lora::default()
    };
    let patterns = Lora {
        rank: 4,
        alpha: Some(8.0),
        rslora: true,
        targets: Some(Targets::Regex(r".*\.(qkv|fc1|proj|conv\d)".into())),
        ..Lora::default()
    };
    let dropped = Lora {
        dropout: 0.3,
        ..dora.clone()
    };
    let verdicts = conforms(&[
        Box::new(Lora::default()),
        Box::new(dora),
        Box::new(dropped),
        Box::new(patterns),
    ]);
    for verdict in verdicts {
        // Beside a grouped convolution no path merges, and DoRA does not attach.
        assert!(verdict.merges_or_says(&["groups"]), "{verdict:?}");
    }
}

#[test]
fn slices_conform() {
    let slices = Lora {
        dora: true,
        ..lora(&["query", "value"])
    };
    conforms(&[Box::new(lora(&["key"])), Box::new(slices)]);
}

#[test]
fn patterns_give_sites_their_own_rank_and_scale() {
    let backbone = built(&*vit());
    let places = |method: &Lora| {
        let places = method.places(&*backbone).unwrap();
        places
            .iter()
            .map(|place| (place.picked.name().to_owned(), place.rank, place.scale))
            .collect::<Vec<_>>()
    };
    let method = Lora {
        rank_pattern: [("blocks.0.attn.qkv".to_owned(), 2)].into(),
        alpha_pattern: [(r"blocks\.[01]\.attn\.qkv".to_owned(), 6.0)].into(),
        ..lora(&["qkv"])
    };
    let got: Vec<_> = places(&method)
        .into_iter()
        .map(|(_, r, s)| (r, s))
        .collect();
    assert_eq!(got, [(2, 3.0), (4, 1.5), (4, 2.0), (4, 2.0)]);
    let rslora = Lora {
        rslora: true,
        ..lora(&["qkv"])
    };
    assert_eq!(places(&rslora)[0].2, 4.0);

    let error = |method: &Lora| method.formula(&*backbone).unwrap_err().to_string();
    let unmatched = Lora {
        rank_pattern: [("fc1".to_owned(), 2)].into(),
        ..lora(&["qkv"])
    };
    assert_eq!(
        error(&unmatched),
        "rank_pattern.fc1: matches no site that is adapted"
    );
    let twice = Lora {
        rank_pattern: [("qkv".to_owned(), 2), ("attn.qkv".to_owned(), 3)].into(),
        ..lora(&["qkv"])
    };
    assert!(error(&twice).contains("another pattern gives blocks.0.attn.qkv another value"));
}
