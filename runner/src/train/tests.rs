//! Recipes against golden values of timm in `fixtures/protocol`.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::tensor::{DType, Device, Tensor, TensorData};
use peft_core::checkpoint::{Checkpoint, load_backbone};
use peft_core::hooks::Hooks;
use peft_core::loss::CrossEntropy;
use peft_core::params::{self, Tensors, floats};
use peft_core::site::SiteKind;
use peft_core::{Activation, AdaptationMethod, Init, LinearHead, Model, Plug};
use peft_testing::{FIXTURES, Golden, assert_close, config};

use super::average::Averaged;
use super::loss::Loss;
use super::optimizers::Optimizers;
use super::rates::{self, Rates};
use super::selected::{Selected, chosen};
use super::step::{Images, Part, Stepper};
use crate::config::recipe::{Average, Decays, Recipe};
use crate::data::batch::Batch;
use crate::data::targets::Targets;

/// The bases of the golden values.
const BASES: [(&str, &str); 4] = [
    (
        "vit_registers",
        "{name: vit, img_size: 32, patch_size: 8, embed_dim: 24, depth: 3, num_heads: 3, mlp_ratio: 2.0, \
         reg_tokens: 3, no_embed_class: true, init_values: 1.0e-5}",
    ),
    (
        "swin_padded",
        "{name: swin, img_size: 36, patch_size: 4, embed_dim: 8, depths: [2, 2, 2], num_heads: [2, 2, 4], \
         window_size: 4, mlp_ratio: 2.0}",
    ),
    (
        "convnext_gradients",
        "{name: convnext, img_size: [36, 44], depths: [1, 2, 1, 1], dims: [8, 12, 16, 20]}",
    ),
    (
        "resnet_bottleneck",
        "{name: resnet, img_size: 64, block: bottleneck, layers: [1, 2, 1, 1], channels: [8, 16, 32, 64]}",
    ),
];

/// The second version of Swin, of which only the names count.
const SWIN_V2: &str = "{name: swin, version: 2, img_size: 32, patch_size: 4, embed_dim: 8, depths: [2, 2, 2], \
                       num_heads: [2, 2, 4], window_size: 4, mlp_ratio: 2.0}";

fn assembled(backbone: &str, method: &str, classes: usize) -> Model {
    let init = Init::seeded(&Device::flex(), 0);
    let backbone = Plug::new(config(backbone).build(&init).unwrap());
    let head = LinearHead::new(backbone.spec().features, classes, &init);
    let method: Box<dyn AdaptationMethod> = serde_yaml::from_str(method).unwrap();
    Model::assemble(backbone, &[method], head, &init).unwrap()
}

/// The model with the weights of its folder, the head too, and its images.
fn loaded(base: &str, backbone: &str, method: &str) -> (Model, Tensor<4>) {
    let folder = format!("{FIXTURES}/{base}");
    let open = |name: &str| Checkpoint::open(format!("{folder}/{name}").as_ref()).unwrap();
    let weights = open("weights.safetensors");
    let head: Tensors = weights.tensors().unwrap().into_iter().collect();
    let head: Tensors = ["head", "head.fc", "fc"]
        .into_iter()
        .flat_map(|name| ["weight", "bias"].map(|part| (name, part)))
        .filter_map(|(name, part)| {
            let value = head.get(&format!("{name}.{part}"))?.clone();
            Some((format!("head.{part}"), value))
        })
        .collect();
    let mut model = assembled(backbone, method, head["head.bias"].num_elements());
    model.backbone = load_backbone(model.backbone, &weights, None)
        .unwrap()
        .backbone;
    let model = params::write(model, head).unwrap();
    let images: TensorData = open("io.safetensors")
        .tensors()
        .unwrap()
        .into_iter()
        .collect::<Tensors>()["images"]
        .clone();
    (model, Tensor::from_data(images, &Device::flex()))
}

fn batch(images: &Tensor<4>) -> Batch {
    let targets: Vec<usize> = (0..images.dims()[0]).map(|i| i % 7).collect();
    Batch {
        x: Activation::Map(images.clone()).into(),
        from: 0,
        places: targets.clone(),
        targets: Targets::One(targets),
        groups: Vec::new(),
        mixed: None,
    }
}

/// The steps of a recipe in f32, in which all entries train.
fn stepper<'a>(recipe: &'a Recipe, loss: &'a Loss, model: &Model) -> Stepper<'a> {
    Stepper {
        recipe,
        loss,
        seed: 0,
        compute: DType::F32,
        prefix: None,
        rates: Rates::of(model, &recipe.rates).unwrap(),
        selected: None,
    }
}

#[test]
fn groups_schedule_and_average_are_timms() {
    let golden = Golden::fixture("protocol");
    let recipe = r"{optimizer: {name: adamw, lr: 0.02, weight_decay: 0.5, eps: 0.001}, decays: matrices,
        rates: {'head\..*': 3.0}, clip_norm: 1.0, label_smoothing: 0.1, epochs: 4, batch_size: 4,
        schedule: {name: cosine, per: epoch, warmup_epochs: 2, warmup_start: 0.1, floor: 0.05}}";
    let recipe: Recipe = serde_yaml::from_str(recipe).unwrap();
    recipe.check().unwrap();
    let (base, backbone) = BASES[0];
    let (model, images) = loaded(base, backbone, "{name: full-finetune}");
    let average = |warmup| {
        let average = Average { decay: 0.7, warmup };
        (warmup, Averaged::new(average, &model))
    };
    let mut averages = [average(true), average(false)];
    let spared = rates::spared(&model, recipe.decays);
    let mut optimizer = Optimizers::new(&recipe.optimizer, spared);
    let loss = Loss(CrossEntropy {
        smoothing: recipe.label_smoothing,
        weights: None,
    });
    let stepper = stepper(&recipe, &loss, &model);
    let mut model = model.train();
    let (mut losses, mut factors) = (Vec::new(), Vec::new());
    for number in 0..8 {
        let (images, part) = (Images::all(batch(&images)), Part { index: 0, of: 1 });
        let (loss, step, gradients) =
            stepper.gradients(&model, None, number, images, part, &mut |_| ());
        losses.extend(floats(loss.into_data()));
        let factor = recipe.schedule.factor(number as usize, 2, recipe.epochs);
        factors.push(factor as f32);
        let lr = recipe.optimizer.lr() * factor;
        model = stepper.update(model, &mut optimizer, lr, Some(step), Some(gradients));
        for (_, average) in &mut averages {
            average.follow(&model, number + 1);
        }
    }
    assert_close("factors", &factors, &golden.values("factors"), 1e-6, None);
    assert_close("losses", &losses, &golden.values("losses"), 1e-5, None);
    let model = model.valid();
    let all =
        [("after", &model)]
            .into_iter()
            .chain(averages.iter().map(|(rising, average)| {
                (if *rising { "rising" } else { "average" }, average.model())
            }));
    for (group, model) in all {
        let values = params::read(model, |info| model.trains(&info.name));
        let expected = golden.group(&format!("{group}."));
        assert_eq!(values.len(), expected.len());
        for (name, value) in values {
            let theirs = name.strip_prefix("backbone.").unwrap_or(&name);
            let expected = floats(expected[theirs].clone());
            assert_close(
                &format!("{group} {name}"),
                &floats(value),
                &expected,
                1e-4,
                None,
            );
        }
    }
}

#[test]
fn weight_decay_spares_what_timm_spares() {
    let golden = Golden::fixture("protocol");
    for (base, backbone) in BASES.into_iter().chain([("swinv2", SWIN_V2)]) {
        let model = assembled(backbone, "{name: full-finetune}", 5);
        let spared: BTreeSet<_> = rates::spared(&model, Decays::Matrices)
            .into_iter()
            .collect();
        let infos = params::infos(&model).into_iter();
        let names = infos
            .filter(|info| spared.contains(&info.id))
            .map(|info| info.name);
        let names: BTreeSet<String> = names
            .map(|name| name.strip_prefix("backbone.").unwrap_or(&name).to_owned())
            .collect();
        let expected = golden.config["spared"][base].as_array().unwrap().iter();
        let expected = expected.map(|name| match name.as_str().unwrap() {
            "head.fc.bias" | "fc.bias" => "head.bias".to_owned(),
            name => name.to_owned(),
        });
        assert_eq!(names, expected.collect(), "{base}");
        assert!(rates::spared(&model, Decays::Everything).is_empty());
    }
}

#[test]
fn the_first_step_leaves_nothing_of_the_start() {
    let average = Average {
        decay: 0.9,
        warmup: false,
    };
    let kept: BTreeMap<u64, f64> = (0..4).map(|step| (step, average.kept(step))).collect();
    assert_eq!(
        kept,
        BTreeMap::from([(0, 0.0), (1, 0.0), (2, 0.9), (3, 0.9)])
    );
}

/// Which images keep which branch at step 5 of seed 3, as a fixed list that timm's modules are given too.
fn masks() -> BTreeMap<String, BTreeMap<String, Vec<u8>>> {
    let text = std::fs::read_to_string(format!("{FIXTURES}/protocol/drop_path_masks.json"));
    text.map_or_else(
        |_| BTreeMap::new(),
        |text| serde_json::from_str(&text).unwrap(),
    )
}

#[test]
fn dropped_paths_give_timms_logits() {
    let golden = Golden::fixture("protocol");
    let largest = golden.config["drop_path"].as_f64().unwrap();
    let expected = masks();
    let mut drawn = BTreeMap::new();
    let mut check: Vec<Box<dyn FnOnce()>> = Vec::new();
    for (base, backbone) in BASES {
        let (model, images) = loaded(base, backbone, "{name: linear-probe}");
        let count = images.dims()[0];
        let step = model
            .step(3, 5, 0)
            .with_drop_path(largest, model.spec().depth);
        let branches = model
            .spec()
            .sites
            .iter()
            .filter(|site| matches!(site.kind, SiteKind::Branch { .. }));
        let mut own = BTreeMap::new();
        for site in branches {
            let rate = golden.config["rates"][base][&site.name].as_f64();
            if let Some(rate) = rate {
                assert!(
                    (step.drop_path(site) - rate).abs() < 1e-7,
                    "{base}: {}",
                    site.name
                );
            }
            let kept = step.kept(site, count).into_iter();
            let kept = kept.map(|factor| u8::from(factor > 0.0));
            own.insert(site.name.clone(), kept.collect::<Vec<u8>>());
        }
        drawn.insert(base.to_owned(), own);
        let logits = model.logits(Activation::Map(images.clone()), 0, Some(&step));
        let whole = model.logits(Activation::Map(images), 0, None);
        let theirs = format!("logits.{base}");
        let golden = &golden;
        check.push(Box::new(move || {
            let [logits, whole] = [logits, whole].map(|x| floats(x.into_data()));
            assert_ne!(logits, whole, "{base}: nothing is dropped");
            assert_close(base, &logits, &golden.values(&theirs), 1e-5, None);
        }));
    }
    let text = serde_json::to_string(&drawn).unwrap();
    assert!(drawn == expected, "drop_path_masks.json should hold {text}");
    check.into_iter().for_each(|check| check());
}

#[test]
fn blocks_of_the_prefix_are_not_dropped() {
    let (base, backbone) = BASES[0];
    let method = "{name: ap, boundaries: [-1]}";
    let (model, images) = loaded(base, backbone, method);
    let recipe = "{optimizer: {name: adamw, lr: 0.01}, epochs: 1, batch_size: 4, drop_path: 0.9}";
    let recipe: Recipe = serde_yaml::from_str(recipe).unwrap();
    let plain = Loss::default();
    let loss = |prefix: Option<peft_core::BoxedBackbone>, batch: Batch| {
        let stepper = stepper(&recipe, &plain, &model);
        let part = Part { index: 0, of: 1 };
        let model = model.clone().train();
        let images = Images::all(batch);
        let (loss, ..) = stepper.gradients(&model, prefix.as_ref(), 7, images, part, &mut |_| ());
        floats(loss.into_data())
    };
    // What the cache stores is the plain output of the prefix.
    let cut = model.first_cut();
    let x = Activation::Map(images.clone());
    let stored = model.backbone.forward(x, 0..cut, &Hooks::none());
    let stored = Batch {
        x: stored.into(),
        from: cut,
        ..batch(&images)
    };
    let computed = loss(Stepper::prefix_of(&model), batch(&images));
    assert_eq!(computed, loss(None, stored));
    let plain = model.logits(Activation::Map(images.clone()), 0, None);
    let step = model.step(0, 7, 0).with_drop_path(0.9, model.spec().depth);
    let x = Activation::Map(images);
    let x = model.backbone.forward(x, 0..cut, &Hooks::none());
    let dropped = model.logits(x, cut, Some(&step));
    let [plain, dropped] = [plain, dropped].map(|x| floats(x.into_data()));
    assert_ne!(plain, dropped, "the last block drops");
}

#[test]
fn selected_entries_train_as_in_the_reference() {
    let golden = Golden::fixture("protocol");
    let fraction = golden.config["fraction"].as_f64().unwrap();
    let (base, backbone) = BASES[0];
    let method = format!("{{name: full-finetune, select: {{fraction: {fraction}, batches: 2}}}}");
    let (model, images) = loaded(base, backbone, &method);
    let recipe = "{optimizer: {name: adamw, lr: 0.01, weight_decay: 0.5, eps: 0.001}, epochs: 1, batch_size: 4}";
    let recipe: Recipe = serde_yaml::from_str(recipe).unwrap();
    let plain = Loss::default();
    let mut stepper = stepper(&recipe, &plain, &model);
    let start = params::read(&model, |info| model.trains(&info.name));
    let mut model = model.train();
    let whole = batch(&images);
    let half = whole.targets.len() / 2;
    let mut sums = GradientsAccumulator::new();
    for (index, rows) in [0..half, half..2 * half].into_iter().enumerate() {
        let images = Images::all(whole.clone().rows(rows, &Device::flex()));
        let part = Part { index, of: 2 };
        let (_, _, gradients) = stepper.gradients(&model, None, 0, images, part, &mut |_| ());
        sums.accumulate(&model, gradients);
    }
    let mut gradients = params::gradients(&model, &sums.grads());
    gradients.retain(|name, _| name.starts_with("backbone."));
    let masks = chosen(&gradients, model.counts().tuned).unwrap();
    let expected = golden.group("selected.");
    assert_eq!(masks.len(), expected.len());
    for (name, mask) in &masks {
        let expected = expected[name.strip_prefix("backbone.").unwrap()].clone();
        assert_eq!(floats(mask.clone()), floats(expected), "{name}");
    }
    stepper.selected = Some(Selected::new(&model, &masks, &Device::flex()));
    let mut optimizer = Optimizers::new(&recipe.optimizer, Vec::new());
    for number in 0..3 {
        let (images, part) = (Images::all(whole.clone()), Part { index: 0, of: 1 });
        let (_, step, gradients) =
            stepper.gradients(&model, None, number, images, part, &mut |_| ());
        model = stepper.update(model, &mut optimizer, 0.01, Some(step), Some(gradients));
    }
    let after = params::read(&model.valid(), |info| start.contains_key(&info.name));
    let mut trained = Vec::new();
    for (name, mask) in &masks {
        let (before, after) = (floats(start[name].clone()), floats(after[name].clone()));
        for ((mask, before), after) in floats(mask.clone()).into_iter().zip(before).zip(after) {
            match mask == 1.0 {
                true => trained.push(after),
                false => assert_eq!(before.to_bits(), after.to_bits(), "{name}"),
            }
        }
    }
    let expected = golden.values("selected_values");
    assert_eq!(trained.len(), model.counts().tuned);
    assert_close("selected", &trained, &expected, 1e-4, None);
    let head = floats(after["head.weight"].clone());
    assert_close("head", &head, &golden.values("selected_head"), 1e-4, None);
}
