//! Golden values made with a reference library, and their tolerances.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};

use peft_core::activation::Activation;
use peft_core::adapter_file;
use peft_core::backbone::{BackboneConfig, BoxedBackbone, Init};
use peft_core::checkpoint::{Checkpoint, load_backbone};
use peft_core::head::LinearHead;
use peft_core::hf_peft::{self, HfPeft, Imported};
use peft_core::loss::cross_entropy;
use peft_core::method::AdaptationMethod;
use peft_core::model::Model;
use peft_core::params::{self, Tensors, floats};
use peft_core::plug::Plug;

/// The place of one of our parameters in the reference.
#[derive(Clone, Debug)]
pub struct Reference {
    name: String,
    ranges: Vec<Range<usize>>,
}

impl<S: Into<String>> From<S> for Reference {
    fn from(name: S) -> Self {
        let (name, ranges) = (name.into(), Vec::new());
        Self { name, ranges }
    }
}

impl Reference {
    /// A block of the reference's tensor: a range for each of its first axes, all of the others.
    pub fn slice(name: impl Into<String>, ranges: &[Range<usize>]) -> Self {
        Self {
            name: name.into(),
            ranges: ranges.to_vec(),
        }
    }

    /// Returns its values in row-major order.
    fn pick(&self, data: &TensorData) -> Vec<f32> {
        let mut blocks = vec![floats(data.clone())];
        for (axis, &size) in data.shape().iter().enumerate() {
            let Range { start, end } = self.ranges.get(axis).cloned().unwrap_or(0..size);
            blocks = blocks
                .into_iter()
                .flat_map(|block| {
                    let step = block.len() / size;
                    let parts = block[start * step..end * step].chunks(step);
                    parts.map(<[f32]>::to_vec).collect::<Vec<_>>()
                })
                .collect();
        }
        blocks.concat()
    }
}

/// The folder of all golden values of this repository.
pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");

/// A folder of golden values made with a reference library: `config.json`, `weights.safetensors`
/// or a `base`, and `io.safetensors`.
pub struct Golden {
    folder: PathBuf,
    /// The case's description.
    pub config: serde_json::Value,
    /// Inputs and expected values.
    pub io: Tensors,
}

impl Golden {
    /// Reads a folder.
    ///
    /// # Panics
    /// If it is missing or damaged: a test cannot continue without it.
    pub fn open(folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref().to_owned();
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let config = serde_json::from_str(&read("config.json"))
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let io = Checkpoint::open(&folder.join("io.safetensors"))
            .and_then(|file| file.tensors())
            .unwrap_or_else(|e| panic!("{e}"));
        Self { folder, config, io }
    }

    /// A folder below [`FIXTURES`], for example `peft/lora_qkv`.
    ///
    /// # Panics
    /// See [`open`](Self::open).
    pub fn fixture(name: &str) -> Self {
        Self::open(Path::new(FIXTURES).join(name))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The tensors whose names start with `prefix`, by the rest of the name.
    pub fn group(&self, prefix: &str) -> Tensors {
        self.io
            .iter()
            .filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_owned(), data.clone())))
            .collect()
    }

    /// An expected tensor as `f32`.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn values(&self, name: &str) -> Vec<f32> {
        match self.io.get(name) {
            Some(data) => floats(data.clone()),
            None => panic!("{}: no {name}", self.folder.display()),
        }
    }
}

impl Golden {
    /// Attaches `method` to the case's base with its head and checks, at the case's tolerances,
    /// logits, every gradient, the losses and the parameters after three AdamW steps. `rename`
    /// gives the place in the case of the parameter with a canonical name.
    ///
    /// # Panics
    /// At the first value outside the tolerance.
    pub fn check_training<R: Into<Reference>>(
        &self,
        backbone: &dyn BackboneConfig,
        method: Box<dyn AdaptationMethod>,
        rename: impl Fn(&str) -> R,
    ) {
        let case = Case {
            golden: self,
            reference: &|name| rename(name).into(),
        };
        let model = case.assembled(backbone, method);
        case.check_sizes(&model);
        let model = case.at_start(model);
        let frozen = |model: &Model| params::read(model, |info| !model.trains(&info.name));
        let before = frozen(&model);
        let (model, run) = case.trained(model.train());
        // Frozen parameters cost nothing: only trained tensors have moments, two each, and nothing else
        // changed by a bit.
        let trained = params::read(&model, |info| model.trains(&info.name));
        assert_eq!(run.moments, 2 * trained.len(), "optimiser state");
        assert!(before == frozen(&model.valid()), "a frozen value changed");
        let logits = self.values("act.logits");
        assert_close("logits", &run.logits, &logits, 1e-5, None);
        assert_close("losses", &run.losses, &self.values("losses"), 1e-5, None);
        for (name, data) in trained {
            let noisy = case.expected("noisy", &name);
            let what = format!("{name} after three steps");
            let after = case.required("after", &name);
            assert_close(&what, &floats(data), &after, 1e-4, noisy.as_deref());
        }
    }
}

/// A training case, with the places of our parameters in it.
struct Case<'a> {
    golden: &'a Golden,
    reference: &'a dyn Fn(&str) -> Reference,
}

/// The results of three training steps.
struct Run {
    /// Logits before the first step.
    logits: Vec<f32>,
    /// The losses before each step, and after the last.
    losses: Vec<f32>,
    /// Tensors in the optimiser's state.
    moments: usize,
}

impl Case<'_> {
    /// The values of a parameter in a group of the case, if there are any.
    fn expected(&self, group: &str, name: &str) -> Option<Vec<f32>> {
        let reference = (self.reference)(name);
        let data = self.golden.io.get(&format!("{group}.{}", reference.name))?;
        Some(reference.pick(data))
    }

    fn required(&self, group: &str, name: &str) -> Vec<f32> {
        let folder = self.golden.folder.display();
        let values = self.expected(group, name);
        values.unwrap_or_else(|| panic!("{folder}: no {group}.{name}"))
    }

    /// The base with its weights, adapted, with a new head.
    fn assembled(&self, backbone: &dyn BackboneConfig, method: Box<dyn AdaptationMethod>) -> Model {
        let init = Init::seeded(&Device::flex(), 0);
        let base = self.golden.config["base"].as_str().unwrap_or_default();
        let base = base.rsplit('/').next().unwrap_or_default();
        let base = self.golden.folder.join("../..").join(base);
        let backbone = loaded(&base, backbone, &init);
        let classes = self.golden.io["logits_after"].shape()[1];
        let features = method
            .features(&*backbone)
            .unwrap_or_else(|e| panic!("{e}"));
        let head = LinearHead::new(features, classes, &init);
        let formula = method.formula(&*backbone).unwrap_or_else(|e| panic!("{e}"));
        let model = Model::assemble(backbone, &[method], head, &init);
        let model = model.unwrap_or_else(|e| panic!("{e}"));
        let counts = model.counts();
        assert_eq!(counts.trainable - counts.head, formula, "formula");
        model
    }

    /// Checks the number of trained values.
    fn check_sizes(&self, model: &Model) {
        let names = trained_names(model);
        let touched: BTreeSet<String> = (names.iter())
            .map(|name| (self.reference)(name).name)
            .collect();
        let size = |name: &String| self.golden.io[&format!("param.{name}")].num_elements();
        let trainable = model.counts().trainable;
        // The reference may hold a whole image behind a mask, of which only the border is trained here.
        if touched.iter().map(size).sum::<usize>() == trainable {
            let count = self.golden.config["trainable_count"].as_u64();
            assert_eq!(Some(trainable as u64), count, "trainable");
        }
    }

    /// The model with the reference's initial values in everything that trains.
    fn at_start(&self, model: Model) -> Model {
        let trained = params::infos(&model).into_iter();
        let trained = trained.filter(|info| model.trains(&info.name));
        let start = trained.map(|info| {
            let values = self.required("param", &info.name);
            (info.name, TensorData::new(values, info.shape))
        });
        let start = start.collect();
        params::write(model, start).unwrap_or_else(|mismatch| panic!("{mismatch:?}"))
    }

    /// Runs three steps of AdamW and checks the gradients of the first.
    fn trained(&self, mut model: Model) -> (Model, Run) {
        let device = Device::flex();
        let images = Tensor::<4>::from_data(self.golden.io["images"].clone(), &device);
        let labels = self.golden.io["labels"].clone();
        let labels = Tensor::<1, Int>::from_data(labels, &device.autodiff());
        let optimizer = &self.golden.config["optimizer"];
        let number = |key: &str| optimizer[key].as_f64().unwrap_or(f64::NAN);
        let mut adamw = AdamWConfig::new()
            .with_weight_decay(number("weight_decay") as f32)
            .with_epsilon(number("eps") as f32)
            .init();
        let (mut first, mut losses) = (None, Vec::new());
        for step in 0..=3 {
            let logits = logits(&model, &images, step);
            first.get_or_insert_with(|| floats(logits.clone().into_data()));
            let loss = cross_entropy(logits, labels.clone(), 0.0);
            losses.push(floats(loss.clone().into_data())[0]);
            if step == 3 {
                break;
            }
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            if step == 0 {
                self.check_gradients(&model, &gradients);
            }
            model = adamw.step(number("lr"), model, gradients);
        }
        let run = Run {
            logits: first.unwrap_or_default(),
            losses,
            moments: adamw.to_record().len(),
        };
        (model, run)
    }

    /// Checks that exactly the trained parameters have a gradient, and that it is the reference's.
    fn check_gradients(&self, model: &Model, gradients: &GradientsParams) {
        let gradients = params::gradients(model, gradients);
        let mut names = trained_names(model);
        names.sort();
        let got: Vec<_> = gradients.keys().cloned().collect();
        assert_eq!(got, names, "what has a gradient");
        for (name, gradient) in gradients {
            let what = format!("gradient of {name}");
            let expected = self.required("grad", &name);
            assert_close(&what, &floats(gradient), &expected, 2e-5, None);
        }
    }
}

fn trained_names(model: &Model) -> Vec<String> {
    let infos = params::infos(model).into_iter();
    let trained = infos.filter(|info| model.trains(&info.name));
    trained.map(|info| info.name).collect()
}

/// The logits of a step. The prefix runs without autodiff, then the part that trains, as in a run.
fn logits(model: &Model, images: &Tensor<4>, step: u64) -> Tensor<2> {
    let cut = model.first_cut();
    let x = Activation::Map(images.clone());
    let x = model.taps().tap(&*model.backbone.valid(), x, 0);
    let step = model.step(0, step, 0);
    model.logits(x.into_autodiff(), cut, Some(&step))
}

/// Builds a backbone with the weights in `folder`.
fn loaded(folder: &Path, backbone: &dyn BackboneConfig, init: &Init) -> BoxedBackbone {
    let unwrap = |e: peft_core::Error| -> ! { panic!("{}: {e}", folder.display()) };
    let file = Checkpoint::open(&folder.join("weights.safetensors"));
    let file = file.unwrap_or_else(|e| unwrap(e));
    let built = backbone.build(init).unwrap_or_else(|e| unwrap(e));
    let loaded = load_backbone(Plug::new(built), &file, None);
    loaded.unwrap_or_else(|e| unwrap(e)).backbone
}

/// A folder that HF PEFT wrote, on the model for which it was written.
pub struct HfPeftCase {
    /// The folder's content.
    pub given: HfPeft,
    /// The folder as it was read.
    pub imported: Imported,
    /// The backbone without it.
    pub backbone: BoxedBackbone,
    /// The methods of the folder.
    pub methods: Vec<Box<dyn AdaptationMethod>>,
    /// The adapted model.
    pub model: Model,
}

/// Reads a folder that HF PEFT wrote for the model in `base`: its values must give that library's logits
/// here, or its features where the model has no head.
///
/// # Panics
/// At the first difference.
pub fn read_hf_peft(folder: &str, base: &str, backbone: &dyn BackboneConfig) -> HfPeftCase {
    let init = Init::seeded(&Device::flex(), 0);
    let backbone = loaded(Path::new(base), backbone, &init);
    read_onto(folder, backbone, &init)
}

pub(crate) fn read_onto(folder: &str, backbone: BoxedBackbone, init: &Init) -> HfPeftCase {
    let unwrap = |e: peft_core::Error| -> ! { panic!("{folder}: {e}") };
    let io = Checkpoint::open(&Path::new(folder).join("io.safetensors"));
    let io = io.and_then(|io| io.tensors()).unwrap_or_else(|e| unwrap(e));

    let given = HfPeft::read(Path::new(folder)).unwrap_or_else(|e| unwrap(e));
    let imported = hf_peft::import(given.clone(), &*backbone).unwrap_or_else(|e| unwrap(e));
    let methods = serde_json::Value::Array(imported.methods.clone());
    let methods: Vec<Box<dyn AdaptationMethod>> =
        serde_json::from_value(methods).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let outputs = io.get("logits").unwrap_or_else(|| &io["features"]);
    let head = LinearHead::new(backbone.spec().features, outputs.shape()[1], init);
    let model = Model::assemble(backbone.clone(), &methods, head, init);
    let model = model.unwrap_or_else(|e| unwrap(e));
    let model = adapter_file::fill(model, imported.tensors.clone(), Path::new(folder));
    let model = model.unwrap_or_else(|e| unwrap(e));
    let images = Activation::Map(Tensor::from_data(io["images"].clone(), init.device()));
    let got = match io.contains_key("logits") {
        true => floats(model.logits(images, 0, None).into_data()),
        false => {
            let last = model.spec().features_cut();
            model.span(images, 0..last, None).to_vec()
        }
    };
    assert_close(folder, &got, &floats(outputs.clone()), 1e-5, None);
    HfPeftCase {
        given,
        imported,
        backbone,
        methods,
        model,
    }
}

/// [`read_hf_peft`], after which exporting must give the same folder again.
///
/// # Panics
/// At the first difference.
pub fn check_hf_peft(folder: &str, base: &str, backbone: &dyn BackboneConfig) -> HfPeftCase {
    written_again(folder, read_hf_peft(folder, base, backbone))
}

pub(crate) fn written_again(folder: &str, case: HfPeftCase) -> HfPeftCase {
    let own = exported(folder, &case);
    // `bias: all` makes HF PEFT save some biases twice, and those of modules that were replaced.
    let twice = [".modules_to_save.", ".original_module."];
    let mut given = case.given.tensors.clone();
    given.retain(|name, _| !twice.iter().any(|mark| name.contains(mark)));
    let names = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&own.tensors), names(&given), "{folder}");
    assert!(
        own.tensors == given,
        "{folder}: different tensors are exported"
    );
    case
}

/// Exports a folder again and checks that reading that gives the same methods and values.
///
/// # Panics
/// At the first difference.
pub fn exported(folder: &str, case: &HfPeftCase) -> HfPeft {
    let unwrap = |e: peft_core::Error| -> ! { panic!("{folder}: {e}") };
    let HfPeftCase {
        given,
        imported,
        backbone,
        methods,
        model,
    } = case;
    let layout = hf_peft::layout_of(given, &**backbone);
    let mut values = adapter_file::tensors(model);
    if !imported.tensors.contains_key("head.weight") {
        values.retain(|name, _| !name.starts_with("head."));
    }
    let own = hf_peft::export(methods, &**backbone, &layout, &values);
    let own = own.unwrap_or_else(|e| unwrap(e));
    let own = own.unwrap_or_else(|| panic!("{folder}: the methods are not exported"));
    let again = hf_peft::import(own.clone(), &**backbone).unwrap_or_else(|e| unwrap(e));
    assert_eq!(
        again.methods, imported.methods,
        "{folder}: another method is written"
    );
    assert!(again.tensors == imported.tensors, "{folder}: other values");
    own
}

/// Panics unless `|got - expected| <= tolerance * max(1, max |expected|)` everywhere outside
/// `noisy` (1 where a value is rounding noise in the reference itself). Returns the largest error
/// over that scale.
pub fn assert_close(
    what: &str,
    got: &[f32],
    expected: &[f32],
    tolerance: f32,
    noisy: Option<&[f32]>,
) -> f32 {
    assert_eq!(got.len(), expected.len(), "{what}: number of values");
    let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let mut worst = (0.0, 0);
    for (i, (a, b)) in got.iter().zip(expected).enumerate() {
        if noisy.is_some_and(|mask| mask[i] != 0.0) {
            continue;
        }
        let error = (a - b).abs() / scale;
        assert!(!error.is_nan(), "{what}[{i}]: got {a}, expected {b}");
        if error > worst.0 {
            worst = (error, i);
        }
    }
    let (error, i) = worst;
    assert!(
        error <= tolerance,
        "{what}[{i}]: got {}, expected {}, off by {error:e} of the scale {scale}, allowed {tolerance:e}",
        got[i],
        expected[i]
    );
    error
}
