use peft_backbone_clip as _;
use peft_backbone_convnext as _;
use peft_backbone_resnet as _;
use peft_backbone_swin as _;
use peft_backbone_vit as _;
use peft_core::head::LinearHead;
use peft_core::params::{self, floats};
use peft_core::{Model, Plug};
use peft_testing::{Golden, built, config, conforms, resnet, vit};

use super::*;

fn lst(reduction: usize, every: usize, init: Start) -> Lst {
    Lst {
        reduction,
        every,
        heads: None,
        init,
    }
}

#[test]
fn it_agrees_with_the_reference() {
    let rename = |name: &str| name.trim_start_matches("lst.").to_owned();
    let method = Lst {
        heads: Some(3),
        ..lst(4, 1, Start::Random)
    };
    Golden::fixture("peft/lst").check_training(&*vit(), Box::new(method), rename);
    let method = lst(4, 3, Start::Random);
    Golden::fixture("peft/lst_every").check_training(&*vit(), Box::new(method), rename);
}

#[test]
fn it_conforms_and_does_not_merge() {
    let some = Lst {
        heads: Some(2),
        ..lst(4, 2, Start::Random)
    };
    for verdict in conforms(&[Box::new(Lst::default()), Box::new(some)]) {
        let reasons = [
            "its ladder needs tokens of one width",
            "init: random starts without them",
            "a network of its own",
        ];
        assert!(verdict.merges_or_says(&reasons), "{verdict:?}");
    }
}

#[test]
fn the_last_block_always_feeds_the_ladder() {
    let backbone = built(&*vit());
    let blocks = |every| {
        lst(8, every, Start::Random)
            .sizes(&*backbone)
            .unwrap()
            .blocks
    };
    assert_eq!(blocks(1), [1, 2, 3, 4]);
    assert_eq!(blocks(2), [2, 4]);
    assert_eq!(blocks(3), [1, 4]);
    assert_eq!(blocks(9), [4]);
}

/// Makes the weights of one channel of each kind the largest, and looks for them in the ladder.
#[test]
fn pruned_blocks_hold_the_strongest_channels() {
    let yaml = "{name: vit, img_size: 16, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}";
    let init = Init::seeded(&burn::tensor::Device::flex(), 3);
    let backbone = Plug::new(config(yaml).build(&init).unwrap());
    let values = params::read(&backbone, |info| info.name.starts_with("blocks"));
    // Weights are `row * 100 + column`: the last channels are the strongest.
    let values = values.into_iter().map(|(name, data)| {
        let shape = data.shape().clone();
        let columns = shape[shape.len() - 1];
        let value = |i: usize| (i / columns * 100 + i % columns) as f32;
        let own: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        (name, burn::tensor::TensorData::new(own, shape))
    });
    let backbone = params::write(backbone, values.collect()).unwrap();
    let method = lst(4, 1, Start::Pruned);
    let head = LinearHead::new(8, 2, &init);
    let model = Model::assemble(backbone, &[Box::new(method)], head, &init).unwrap();
    let started = params::read(&model, |info| info.name.starts_with("lst."));
    let value = |name: &str| floats(started[&format!("lst.blocks.0.block.{name}")].clone());
    // Channels 6 and 7 of queries, of keys and of values.
    let rows = [6.0f32, 7., 14., 15., 22., 23.];
    let expected: Vec<f32> = rows
        .iter()
        .flat_map(|row| [row * 100. + 6., row * 100. + 7.])
        .collect();
    assert_eq!(value("qkv.weight"), expected);
    assert_eq!(value("proj.weight"), [606., 607., 706., 707.]);
    assert_eq!(value("fc1.bias"), [24., 25., 26., 27., 28., 29., 30., 31.]);
    assert_eq!(value("fc2.weight")[..3], [624., 625., 626.]);
    assert_eq!(value("norm2.weight"), [6., 7.]);
}

#[test]
fn bad_values_and_maps_are_refused_with_the_reason() {
    let error = |method: Lst| method.formula(&*built(&*vit())).unwrap_err().to_string();
    let reduced = error(lst(5, 1, Start::Random));
    assert_eq!(
        reduced,
        "reduction: expected a divisor of the width 48, got 5"
    );
    assert_eq!(
        error(lst(8, 0, Start::Random)),
        "every: expected at least 1, got 0"
    );
    let heads = Lst {
        heads: Some(5),
        ..Lst::default()
    };
    assert_eq!(
        error(heads),
        "heads: expected a divisor of the width 6, got 5"
    );
    let maps = Lst::default().formula(&*built(&*resnet())).unwrap_err();
    assert!(
        maps.to_string()
            .contains("its ladder needs tokens of one width")
    );
}
