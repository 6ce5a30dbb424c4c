//! The conformance suite: what must hold of every method on every backbone that it accepts.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use peft_core::activation::Activation;
use peft_core::adapter_file::{self, AdapterInfo};
use peft_core::backbone::{BackboneConfig, BoxedBackbone, Cut, Init};
use peft_core::error::Error;
use peft_core::head::LinearHead;
use peft_core::hooks::Hooks;
use peft_core::loss::cross_entropy;
use peft_core::method::AdaptationMethod;
use peft_core::model::Model;
use peft_core::params::{self, Tensors, floats};
use peft_core::plug::Plug;
use peft_core::random::Generator;

use crate::golden::assert_close;
use crate::tiny::tiny_backbones;

/// What became of a method on one backbone.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It attached and everything held.
    Conforms {
        /// Whether it folds into the weights; if not, why.
        merges: Result<(), String>,
    },
    /// It cannot be attached there, for this reason.
    Refused(String),
}

/// Checks every method on every tiny backbone that is linked; each must accept at least one.
///
/// What must hold: the configuration survives YAML; parameters are as many as the formula says; the
/// model starts as the backbone where the method promises it; exactly what is declared has a
/// gradient, an optimiser state and changes, and no other byte does; the first cut is the true one;
/// an adapter file restores the model, and training goes on from it, to the bit; a step is a pure
/// function of its number and evaluation drops nothing; merged equals unmerged and merges once;
/// scaled by 0 it is the backbone and by 1 itself; bf16 stays finite; a refusal says why.
///
/// # Panics
/// At the first thing that does not hold, naming method and backbone.
pub fn conforms(methods: &[Box<dyn AdaptationMethod>]) -> Vec<Verdict> {
    let backbones = tiny_backbones();
    let mut verdicts = Vec::new();
    for method in methods {
        let first = verdicts.len();
        for (yaml, backbone) in &backbones {
            let what = format!("{method:?} on {yaml}");
            verdicts.push(check(&what, &**method, &**backbone));
        }
        let accepted = |verdict: &Verdict| matches!(verdict, Verdict::Conforms { .. });
        assert!(
            verdicts[first..].iter().any(accepted),
            "{method:?} accepts no backbone: {verdicts:?}"
        );
    }
    verdicts
}

/// A method on a backbone, with a batch.
struct Case<'a> {
    what: &'a str,
    method: &'a (dyn AdaptationMethod + 'static),
    backbone: BoxedBackbone,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
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
    let size = input.unwrap_or_else(|e| panic!("{what}: {e}")).size;
    let mut generator = Generator::new(5, "images");
    let pixels: Vec<f32> = (0..BATCH * 3 * size * size)
        .map(|_| generator.normal())
        .collect();
    let labels: Vec<i64> = (0..BATCH as i64).map(|i| i % CLASSES as i64).collect();
    let case = Case {
        what,
        method,
        backbone,
        images: Tensor::from_data(TensorData::new(pixels, [BATCH, 3, size, size]), &device),
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
    case.bf16_is_finite();
    Verdict::Conforms {
        merges: case.merges(),
    }
}

/// Random values everywhere, so that nothing holds only because a bias is zero.
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
        let noise = |value: f32| match buffers.contains(&name) {
            true => value + 0.1 * generator.normal().abs(),
            false => value + 0.1 * generator.normal(),
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
    /// Assembled with initial values from `seed`, on the plain device.
    fn model(&self, seed: u64) -> Model {
        self.assemble(&[dyn_clone::clone_box(self.method)], seed)
    }

    fn assemble(&self, methods: &[Box<dyn AdaptationMethod>], seed: u64) -> Model {
        let init = Init::seeded(&Device::flex(), seed);
        let head = LinearHead::new(self.backbone.spec().features, CLASSES, &init);
        Model::assemble(self.backbone.clone(), methods, head, &init)
            .unwrap_or_else(|e| panic!("{}: {e}", self.what))
    }

    /// With random values in everything that trains.
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

    /// Loss and gradients of step `number`, the part below `cut` run on the plain device.
    fn gradients(&self, model: &Model, cut: Cut, number: u64) -> (f32, GradientsParams, Tensors) {
        let prefix = model.backbone.valid();
        let x = Activation::Map(self.images.clone());
        let x = prefix.forward(x, 0..cut, &Hooks::none()).into_autodiff();
        let step = model.step(3, number, 0);
        let logits = model.logits(x, cut, Some(&step));
        let loss = cross_entropy(logits, self.labels.clone(), 0.0);
        let value = floats(loss.clone().into_data())[0];
        assert!(value.is_finite(), "{}: the loss is {value}", self.what);
        let gradients = GradientsParams::from_grads(loss.backward(), model);
        let named = params::gradients(model, &gradients);
        (value, gradients, named)
    }

    fn step(&self, model: Model, optimizer: &mut ModuleOptimizer, number: u64) -> Model {
        let (_, gradients, _) = self.gradients(&model, model.first_cut(), number);
        optimizer.step(0.01, model, gradients)
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
        let buffers: BTreeSet<_> = params::infos(&model)
            .into_iter()
            .filter(|info| info.buffer)
            .map(|info| info.name)
            .collect();
        let before = params::read(&model, |_| true);
        let mut model = model.train();
        let mut optimizer = adamw();
        for number in 0..3 {
            let (_, gradients, named) = self.gradients(&model, model.first_cut(), number);
            let with_gradient: BTreeSet<_> = named.into_keys().collect();
            assert_eq!(with_gradient, names, "{}: what has a gradient", self.what);
            model = optimizer.step(0.01, model, gradients);
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
                changed == names.contains(&name) || buffers.contains(&name),
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

    fn first_cut_is_true(&self) {
        let model = self.trained().train();
        let cut = model.first_cut();
        let (whole, _, expected) = self.gradients(&model, 0, 0);
        let (split, _, got) = self.gradients(&model, cut, 0);
        let what = format!("{}: loss from cut {cut}", self.what);
        assert_close(&what, &[split], &[whole], 1e-6, None);
        assert!(got.keys().eq(expected.keys()), "{what}");
        for (name, gradient) in got {
            let what = format!("{}: gradient of {name} from cut {cut}", self.what);
            let expected = floats(expected[&name].clone());
            assert_close(&what, &floats(gradient), &expected, 1e-5, None);
        }
        // A backbone that is fed a framed image's inside cannot run past the frame without it.
        let fits = self.images.dims()[2] == model.spec().input.size;
        if fits && cut < model.spec().features_cut() {
            let (_, _, late) = self.gradients(&model, cut + 1, 0);
            assert!(
                late.len() < self.names(&model).len(),
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
        // Another seed: what the file does not restore would differ.
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
        let saved = params::read(&model, |info| model.trains(&info.name));
        let state = optimizer.into_bytes().unwrap_or_else(|e| panic!("{e:?}"));
        model = self.step(model, &mut optimizer, 1);
        let again = written(self.model(2), saved).train();
        let mut optimizer = adamw()
            .from_bytes(state)
            .unwrap_or_else(|e| panic!("{e:?}"));
        let again = self.step(again, &mut optimizer, 1);
        let own = |model: &Model| params::read(model, |info| model.trains(&info.name));
        assert!(
            own(&model) == own(&again),
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
            once.0 == twice.0 && once.2 == twice.2,
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

    fn bf16_is_finite(&self) {
        if !Device::flex().supports_dtype(DType::BF16) {
            return;
        }
        let model = self.trained().with_compute_type(DType::BF16);
        let images = Activation::Map(self.images.clone()).cast(DType::BF16);
        let logits = floats(model.logits(images, 0, None).into_data());
        let finite = logits.iter().all(|value| value.is_finite());
        assert!(finite, "{}: bf16 gives {logits:?}", self.what);
    }
}
