//! Factors that start otherwise, and the rate of `B`.

use burn::tensor::Device;
use peft_core::backbone::Init;
use peft_core::hf_peft as folders;
use peft_core::layout::Layout;
use peft_core::method::AdaptationMethod;
use peft_core::params::{self, Tensors};
use peft_core::{LinearHead, Model, Plug, adapter_file};
use peft_testing::{assert_close, built, conforms, vit};

use super::{check, lora, noise};
use crate::{Lora, Start};

fn starting(init: Start) -> Lora {
    Lora {
        init,
        ..lora(&["qkv", "fc2"])
    }
}

#[test]
fn factors_from_the_weight_agree_with_hf_peft() {
    check("lora_pissa", &*vit(), starting(Start::Pissa));
    check("lora_olora", &*vit(), starting(Start::Olora));
}

#[test]
fn every_start_conforms_and_merges() {
    let methods: [Box<dyn AdaptationMethod>; 3] = [
        Box::new(Lora {
            init: Start::Gaussian,
            b_rate: 16.0,
            ..Lora::default()
        }),
        Box::new(Lora {
            init: Start::Pissa,
            rank: 4,
            ..Lora::default()
        }),
        Box::new(Lora {
            init: Start::Olora,
            ..lora(&["query", "value"])
        }),
    ];
    for verdict in conforms(&methods) {
        let reasons = ["groups", "need a linear layer", "matches no site"];
        assert!(verdict.merges_or_says(&reasons), "{verdict:?}");
    }
}

/// The folder has twice the rank, so that it fits the weights as they were.
#[test]
fn what_the_weight_lost_is_exported() {
    for (init, rslora) in [(Start::Pissa, false), (Start::Olora, true)] {
        let seed = Init::seeded(&Device::flex(), 3);
        let backbone = Plug::new(vit().build(&seed).unwrap());
        let assemble = |methods: &[Box<dyn AdaptationMethod>]| {
            let head = LinearHead::new(48, 7, &seed);
            Model::assemble(backbone.clone(), methods, head, &seed).unwrap()
        };
        let method = Lora {
            rslora,
            ..starting(init)
        };
        let methods: Vec<Box<dyn AdaptationMethod>> = vec![Box::new(method)];
        let model = assemble(&methods);
        let trained: Tensors = params::read(&model, |info| info.name.contains("lora_B"))
            .into_iter()
            .map(|(name, data)| {
                let shape = data.shape().clone();
                let values = noise(shape.num_elements(), &name);
                (name, burn::tensor::TensorData::new(values, shape))
            })
            .collect();
        let model = params::write(model, trained).unwrap();
        let values = adapter_file::tensors(&model);
        let layout = Layout::canonical("head");
        let folder = folders::export(&methods, &*backbone, &layout, &values);
        let folder = folder.unwrap().unwrap();
        assert_eq!(folder.field("r"), 8);
        let imported = folders::import(folder, &*backbone).unwrap();
        let plain = serde_json::Value::Array(imported.methods);
        let plain: Vec<Box<dyn AdaptationMethod>> = serde_json::from_value(plain).unwrap();
        let again = assemble(&plain);
        let again = adapter_file::fill(again, imported.tensors, std::path::Path::new("folder"));
        let [got, expected] = [again.unwrap(), model].map(|model| {
            let images = super::images(&seed);
            params::floats(model.logits(images, 0, None).into_data())
        });
        assert_close("logits", &got, &expected, 1e-5, None);
    }
}

#[test]
fn the_rate_of_b_is_a_factor_of_the_learning_rate() {
    let seed = Init::seeded(&Device::flex(), 0);
    let method = Lora {
        b_rate: 16.0,
        ..lora(&["qkv"])
    };
    let backbone = Plug::new(vit().build(&seed).unwrap());
    let head = LinearHead::new(48, 7, &seed);
    let model = Model::assemble(backbone, &[Box::new(method)], head, &seed).unwrap();
    assert_eq!(model.rate("lora.blocks.0.attn.qkv.lora_B.weight"), 16.0);
    assert_eq!(model.rate("lora.blocks.0.attn.qkv.lora_A.weight"), 1.0);
}

#[test]
fn bad_starts_are_refused_by_field() {
    let backbone = built(&*vit());
    let error = |method: Lora| method.formula(&*backbone).unwrap_err().to_string();
    let dora = Lora {
        dora: true,
        ..starting(Start::Olora)
    };
    assert_eq!(
        error(dora),
        "init: expected default or gaussian beside dora, got another"
    );
    let rank = Lora {
        rank: 49,
        ..starting(Start::Pissa)
    };
    assert_eq!(
        error(rank),
        "rank: expected at most 48, got 49 at blocks.0.attn.qkv"
    );
    let rate = Lora {
        b_rate: 0.0,
        ..Lora::default()
    };
    assert_eq!(
        error(rate),
        "b_rate: expected a finite number more than 0, got 0"
    );
    let convolution = Lora {
        targets: lora(&["patch_embed.proj"]).targets,
        ..starting(Start::Pissa)
    };
    assert!(error(convolution).contains("factors that start from the weight need a linear layer"));
}
