//! The conformance suite: the properties of every method on every backbone that it accepts.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use peft_core::activation::Activation;
use peft_core::adapter_file::{self, AdapterInfo};
use peft_core::backbone::{BackboneConfig, BoxedBackbone, Cut, Init};
use peft_core::error::Error;
use peft_core::head::LinearHead;
use peft_core::hooks::Step;
use peft_core::loss::cross_entropy;
use peft_core::method::{self, AdaptationMethod, Statistics};
use peft_core::model::Model;
use peft_core::params::{self, ParamInfo, Tensors, floats};
use peft_core::plug::Plug;
use peft_core::random::Generator;
use peft_core::taps::Taps;

use crate::golden::assert_close;
use crate::tiny::tiny_backbones;

/// The result for a method on one backbone.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It attached, and everything holds.
    Conforms {
        /// Whether it folds into the weights, or the reason why not.
        merges: Result<(), String>,
    },
    /// It cannot be attached, for this reason.
    Refused(String),
}

impl Verdict {
    /// Returns whether the method merges, or the reason why it does not, or is refused, contains one of these
    /// texts.
    pub fn merges_or_says(&self, reasons: &[&str]) -> bool {
        match self {
            Self::Conforms { merges: Ok(()) } => true,
            Self::Conforms { merges: Err(why) } | Self::Refused(why) => {
                reasons.iter().any(|reason| why.contains(reason))
            }
        }
    }
}

/// Checks every method on every tiny backbone that is linked; each must accept at least one.
///
/// These properties must hold:
/// - the configuration survives YAML;
/// - the number of parameters is that of the formula;
/// - the model starts as the backbone, if the method promises it;
/// - exactly the declared parameters have a gradient and optimiser state, and change; of the buffers
///   only the statistics of BatchNorm layers change that are tuned with batch statistics; nothing else
///   changes by a bit;
/// - running from the first cut gives the losses and gradients of the whole model, and nothing less
///   would do;
/// - an adapter file restores the model to the bit, and training continues from it;
/// - a step is a pure function of its number, and evaluation drops nothing;
/// - a merged model gives the same logits, and merges only once;
/// - scaled by 0 the model is the backbone, and by 1 itself;
/// - in bf16 the logits are those of f32 up to rounding;
/// - a refusal states what the backbone lacks.
///
/// # Panics
/// At the first property that does not hold, with the method and the backbone.
pub fn conforms(methods: &[Box<dyn AdaptationMethod>]) -> Vec<Verdict> {
    let backbones = tiny_backbones();
    let mut verdicts = Vec::new();
    for method in methods {
        // On the pool's threads, where small operations need not wake another one.
        let of_method: Vec<_> = backbones
            .par_iter()
            .map(|(yaml, backbone)| check(&format!("{method:?} on {yaml}"), &**method, &**backbone))
            .collect();
        let accepted = |verdict: &Verdict| matches!(verdict, Verdict::Conforms { .. });
        assert!(
            of_method.iter().any(accepted),
            "{method:?} accepts no backbone: {of_method:?}"
        );
        verdicts.extend(of_method);
    }
    verdicts
}

/// A method on a backbone, and a batch.
struct Case<'a> {
    what: &'a str,
    method: &'a (dyn AdaptationMethod + 'static),
    backbone: BoxedBackbone,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
}

/// The results of a training step before the optimiser.
struct Gradients {
    loss: f32,
    /// The gradients by canonical name.
    named: Tensors,
    gradients: GradientsParams,
    step: Step,
}

const CLASSES: usize = 5;
const BATCH: usize = 4;

fn check(
    what: &str,
    method: &(dyn AdaptationMethod + 'static),
    backbone: &dyn BackboneConfig,
) -> Verdict {
    let device = Device::flex();
    let built = backbone.build(&Init::seeded(&device, 11));
    let backbone = noisy_backbone(Plug::new(built.unwrap_or_else(|e| panic!("{what}: {e}"))));
    survives_yaml(what, method);
    if let Err(error) = method.attach(&*backbone, &Init::seeded(&device, 1)) {
        assert!(
            matches!(
                error,
                Error::Unfit { .. } | Error::Target { .. } | Error::Boundary { .. }
            ),
            "{what}: refused by {error}, which does not say what the backbone lacks"
        );
        assert!(
            method.formula(&*backbone).is_err(),
            "{what}: the formula accepts it"
        );
        return Verdict::Refused(error.to_string());
    }
    let input = method.input(backbone.spec().input);
    let shape = input.unwrap_or_else(|e| panic!("{what}: {e}")).batch(BATCH);
    let mut generator = Generator::new(5, "images");
    let pixels: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| generator.normal())
        .collect();
    let labels: Vec<i64> = (0..BATCH as i64).map(|i| i % CLASSES as i64).collect();
    let case = Case {
        what,
        method,
        backbone,
        images: Tensor::from_data(TensorData::new(pixels, shape), &device),
        labels: Tensor::from_data(&labels[..], &device.autodiff()),
    };
    case.counts();
    case.starts_as_backbone();
    case.trains_what_it_declares();
    case.first_cut_is_true();
    case.is_restored_by_its_file();
    case.goes_on_to_the_bit();
    case.steps_are_pure();
    case.scales();
    case.bf16_is_close();
    Verdict::Conforms {
        merges: case.merges(),
    }
}

/// The backbone with random values everywhere, so that no property holds only because a bias is zero.
fn noisy_backbone(backbone: BoxedBackbone) -> BoxedBackbone {
    let buffers: BTreeSet<_> = params::infos(&backbone)
        .into_iter()
        .filter(|info| info.buffer)
        .map(|info| info.name)
        .collect();
    let values = params::read(&backbone, |_| true);
    let noisy = values.into_iter().map(|(name, data)| {
        let mut generator = Generator::new(6, &name);
        // A variance stays positive.
        let noise = |value: f32| {
            if buffers.contains(&name) {
                value + 0.1 * generator.normal().abs()
            } else {
                value + 0.1 * generator.normal()
            }
        };
        let shape = data.shape().clone();
        let values: Vec<f32> = floats(data).into_iter().map(noise).collect();
        (name, TensorData::new(values, shape))
    });
    written(backbone, noisy.collect())
}

fn written<M: Module>(module: M, tensors: Tensors) -> M {
    params::write(module, tensors).unwrap_or_else(|mismatch| panic!("{mismatch:?}"))
}

fn survives_yaml(what: &str, method: &dyn AdaptationMethod) {
    let yaml = serde_yaml::to_string(method).unwrap_or_else(|e| panic!("{what}: {e}"));
    let again: Box<dyn AdaptationMethod> =
        serde_yaml::from_str(&yaml).unwrap_or_else(|e| panic!("{what}: {e} in\n{yaml}"));
    assert_eq!(
        Some(yaml),
        serde_yaml::to_string(&again).ok(),
        "{what}: its YAML"
    );
}

fn adamw() -> ModuleOptimizer {
    AdamWConfig::new().with_weight_decay(0.01).init()
}

impl Case<'_> {
    /// The model with initial values from `seed`, on the device without autodiff.
    fn model(&self, seed: u64) -> Model {
        self.assemble(&[dyn_clone::clone_box(self.method)], seed)
    }

    fn assemble(&self, methods: &[Box<dyn AdaptationMethod>], seed: u64) -> Model {
        let init = Init::seeded(&Device::flex(), seed);
        let features = method::features(methods, &*self.backbone);
        let features = features.unwrap_or_else(|e| panic!("{}: {e}", self.what));
        let head = LinearHead::new(features, CLASSES, &init);
        Model::assemble(self.backbone.clone(), methods, head, &init)
            .unwrap_or_else(|e| panic!("{}: {e}", self.what))
    }

    /// The model with random values in everything that trains.
    fn trained(&self) -> Model {
        let model = self.model(1);
        let values = params::read(&model, |info| model.trains(&info.name));
        let noisy = values.into_iter().map(|(name, data)| {
            let mut generator = Generator::new(8, &name);
            let shape = data.shape().clone();
            let noise = |value: f32| value + 0.1 * generator.normal();
            let values: Vec<f32> = floats(data).into_iter().map(noise).collect();
            (name, TensorData::new(values, shape))
        });
        let noisy = noisy.collect();
        written(model, noisy)
    }

    fn logits(&self, model: &Model) -> Vec<f32> {
        let images = Activation::Map(self.images.clone());
        floats(model.logits(images, 0, None).into_data())
    }

    /// Loss and gradients of step `number`; the part below `cut` runs without autodiff.
    fn gradients(&self, model: &Model, cut: Cut, number: u64) -> Gradients {
        let prefix = model.backbone.valid();
        let x = Activation::Map(self.images.clone());
        let taps = match cut == model.first_cut() {
            true => model.taps().clone(),
            false => Taps::at(cut),
        };
        let x = taps.tap(&*prefix, x, 0).into_autodiff();
        let step = model.step(3, number, 0);
        let logits = model.logits(x, cut, Some(&step));
        let loss = cross_entropy(logits, self.labels.clone(), 0.0);
        let value = floats(loss.clone().into_data())[0];
        assert!(value.is_finite(), "{}: the loss is {value}", self.what);
        let gradients = GradientsParams::from_grads(loss.backward(), model);
        Gradients {
            loss: value,
            named: params::gradients(model, &gradients),
            gradients,
            step,
        }
    }

    /// A complete training step, with the updates of the optimiser and of buffers.
    fn step(&self, model: Model, optimizer: &mut ModuleOptimizer, number: u64) -> Model {
        let taken = self.gradients(&model, model.first_cut(), number);
        optimizer
            .step(0.01, model, taken.gradients)
            .with_updates(taken.step)
    }

    fn names(&self, model: &Model) -> BTreeSet<String> {
        params::infos(model)
            .into_iter()
            .filter(|info| model.trains(&info.name))
            .map(|info| info.name)
            .collect()
    }

    fn counts(&self) {
        let counts = self.model(1).counts();
        let formula = self.method.formula(&*self.backbone);
        assert_eq!(
            formula.ok(),
            Some(counts.trainable - counts.head),
            "{}: formula and count",
            self.what
        );
    }

    fn starts_as_backbone(&self) {
        if self.method.starts_as_backbone() {
            let bare = self.logits(&self.assemble(&[], 1));
            let adapted = self.logits(&self.model(1));
            let what = format!("{}: logits at the start", self.what);
            assert_close(&what, &adapted, &bare, 1e-5, None);
        }
    }

    fn trains_what_it_declares(&self) {
        let model = self.model(1);
        let names = self.names(&model);
        let changing: BTreeSet<_> = names.union(&self.updated(&model)).cloned().collect();
        let before = params::read(&model, |_| true);
        let mut model = model.train();
        let mut optimizer = adamw();
        for number in 0..3 {
            let taken = self.gradients(&model, model.first_cut(), number);
            let with_gradient: BTreeSet<_> = taken.named.into_keys().collect();
            assert_eq!(with_gradient, names, "{}: what has a gradient", self.what);
            model = optimizer.step(0.01, model, taken.gradients);
            model = model.with_updates(taken.step);
        }
        assert_eq!(
            optimizer.to_record().len(),
            2 * names.len(),
            "{}: optimiser state",
            self.what
        );
        for (name, after) in params::read(&model.valid(), |_| true) {
            let changed = before[&name] != after;
            assert!(
                changed == changing.contains(&name),
                "{}: {name} {}",
                self.what,
                if changed {
                    "is frozen and changed"
                } else {
                    "trains and did not change"
                }
            );
        }
    }

    /// The buffers that a step changes: the statistics of BatchNorm layers that are tuned, where the
    /// method asks for the batch's. Those of every other layer stay as they are.
    fn updated(&self, model: &Model) -> BTreeSet<String> {
        let init = Init::seeded(&Device::flex(), 1);
        let attachment = self.method.attach(&*self.backbone, &init);
        let tuned = attachment.map(|attachment| attachment.tuned);
        let tuned = tuned.unwrap_or_else(|e| panic!("{}: {e}", self.what));
        let is_updated = |info: &ParamInfo| {
            let layer = info.name.rsplit_once('.').map_or("", |(layer, _)| layer);
            let parts = ["weight", "bias"].map(|part| format!("{layer}.{part}"));
            info.buffer
                && tuned.statistics == Statistics::Batch
                && parts.iter().any(|part| model.trains(part))
        };
        let infos = params::infos(model).into_iter().filter(is_updated);
        infos.map(|info| info.name).collect()
    }

    fn first_cut_is_true(&self) {
        let model = self.trained().train();
        let cut = model.first_cut();
        let whole = self.gradients(&model, 0, 0);
        let split = self.gradients(&model, cut, 0);
        let what = format!("{}: loss from cut {cut}", self.what);
        assert_close(&what, &[split.loss], &[whole.loss], 1e-6, None);
        assert!(split.named.keys().eq(whole.named.keys()), "{what}");
        for (name, gradient) in split.named {
            let what = format!("{}: gradient of {name} from cut {cut}", self.what);
            let expected = floats(whole.named[&name].clone());
            assert_close(&what, &floats(gradient), &expected, 1e-5, None);
        }
        // The inside of a framed image is too small for the backbone: the frame cannot be skipped.
        let fits = self.images.dims() == model.spec().input.batch(BATCH);
        if fits && cut < model.spec().features_cut() {
            let late = self.gradients(&model, cut + 1, 0);
            assert!(
                late.named.len() < self.names(&model).len(),
                "{}: nothing trains at the first cut, {cut}",
                self.what
            );
        }
    }

    fn is_restored_by_its_file(&self) {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join("adapter.safetensors");
        let model = self.trained();
        let info = AdapterInfo::of(&model, None, vec![]);
        let tensors = adapter_file::tensors(&model);
        adapter_file::write(&path, &tensors, &info).unwrap_or_else(|e| panic!("{e}"));
        // With another seed, everything that the file does not restore would differ.
        let (again, _) = adapter_file::load(&path, self.model(2), None)
            .unwrap_or_else(|e| panic!("{}: {e}", self.what));
        assert!(
            self.logits(&again) == self.logits(&model),
            "{}: the file does not restore the model",
            self.what
        );
    }

    fn goes_on_to_the_bit(&self) {
        let mut optimizer = adamw();
        let mut model = self.model(1).train();
        model = self.step(model, &mut optimizer, 0);
        let saved = adapter_file::tensors(&model);
        let state = optimizer.into_bytes().unwrap_or_else(|e| panic!("{e:?}"));
        model = self.step(model, &mut optimizer, 1);
        let again = written(self.model(2), saved).train();
        let mut optimizer = adamw()
            .from_bytes(state)
            .unwrap_or_else(|e| panic!("{e:?}"));
        let again = self.step(again, &mut optimizer, 1);
        assert!(
            adapter_file::tensors(&model) == adapter_file::tensors(&again),
            "{}: it does not resume",
            self.what
        );
    }

    fn steps_are_pure(&self) {
        let model = self.trained();
        assert!(
            self.logits(&model) == self.logits(&model),
            "{}: evaluation is random",
            self.what
        );
        let model = model.train();
        let once = self.gradients(&model, 0, 4);
        let twice = self.gradients(&model, 0, 4);
        assert!(
            once.loss == twice.loss && once.named == twice.named,
            "{}: a step is not a function of its number",
            self.what
        );
    }

    fn scales(&self) {
        let bare = self.assemble(&[], 1);
        let model = self.trained();
        let frozen = params::read(&bare, |info| {
            info.name.starts_with("backbone.") && model.trains(&info.name)
        });
        let Ok(none) = model.clone().scaled(0.0, &frozen) else {
            return;
        };
        let head = params::read(&model, |info| info.name.starts_with("head."));
        let bare = written(bare, head);
        let what = format!("{}: scaled by 0", self.what);
        assert_close(&what, &self.logits(&none), &self.logits(&bare), 1e-5, None);
        let whole = model.clone().scaled(1.0, &frozen).map(|m| self.logits(&m));
        let what = format!("{}: scaled by 1", self.what);
        let whole = whole.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_close(&what, &whole, &self.logits(&model), 1e-5, None);
    }

    fn merges(&self) -> Result<(), String> {
        let model = self.trained();
        let merged = match model.merged() {
            Ok(merged) => merged,
            Err(error @ Error::Unfoldable { .. }) => return Err(error.to_string()),
            Err(error) => panic!("{}: {error}", self.what),
        };
        assert!(merged.adapters.is_empty());
        let what = format!("{}: merged", self.what);
        assert_close(
            &what,
            &self.logits(&merged),
            &self.logits(&model),
            2e-5,
            None,
        );
        let twice = merged.merged().err().map(|e| e.to_string());
        assert!(twice.is_some(), "{what}: it merges twice");
        Ok(())
    }

    /// Checks that the logits in bf16 are those of f32 up to rounding.
    ///
    /// A bf16 has 8 significant bits, so rounding to it is off by at most `u = 2^-8` of a value, with a
    /// standard deviation of at most `u / sqrt 3`. The image is rounded once, and each of `s` sites
    /// rounds its weights and its output. To first order these `n = 2 s + 1` errors add up, and because
    /// they are independent, three standard deviations of their sum are `sqrt(3 n) u`: as far may a
    /// logit be off, relative to the largest.
    fn bf16_is_close(&self) {
        if !Device::flex().supports_dtype(DType::BF16) {
            return;
        }
        let model = self.trained();
        let expected = self.logits(&model);
        let model = model.with_compute_type(DType::BF16);
        let images = Activation::Map(self.images.clone()).cast(DType::BF16);
        let logits = floats(model.logits(images, 0, None).into_data());
        let roundings = 2 * self.backbone.spec().sites.len() + 1;
        let bound = (3.0 * roundings as f32).sqrt() * 2.0f32.powi(-8);
        let scale = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (got, expected) in logits.iter().zip(&expected) {
            let error = (got - expected).abs() / scale;
            assert!(
                error <= bound,
                "{}: bf16 gives {got}, f32 {expected}: off by {error:e} of the largest logit, \
                 allowed {bound:e}",
                self.what
            );
        }
    }
}
