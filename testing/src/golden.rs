//! Golden values made with a reference library, and their tolerances.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};

use peft_core::activation::Activation;
use peft_core::adapter_file;
use peft_core::backbone::{BackboneConfig, Init};
use peft_core::checkpoint::{Checkpoint, load_backbone};
use peft_core::head::LinearHead;
use peft_core::hf_peft::{self, HfPeft};
use peft_core::loss::cross_entropy;
use peft_core::method::AdaptationMethod;
use peft_core::model::Model;
use peft_core::params::{self, Tensors, floats};
use peft_core::plug::Plug;

/// Where the reference keeps the values of one of our parameters.
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
    /// A block of the reference's tensor, one range for each of its first axes; the rest is whole.
    pub fn slice(name: impl Into<String>, ranges: &[Range<usize>]) -> Self {
        Self {
            name: name.into(),
            ranges: ranges.to_vec(),
        }
    }

    /// Its values in row-major order.
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
    /// If it is not there or not whole: a test cannot go on without it.
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
    /// As [`open`](Self::open).
    pub fn fixture(name: &str) -> Self {
        Self::open(Path::new(FIXTURES).join(name))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The tensors whose names start with `prefix`, without it.
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
    /// says where the case keeps the parameter of a canonical name.
    ///
    /// # Panics
    /// At the first value that is off.
    pub fn check_training<R: Into<Reference>>(
        &self,
        backbone: &dyn BackboneConfig,
        method: Box<dyn AdaptationMethod>,
        rename: impl Fn(&str) -> R,
    ) {
        let reference = |name: &str| -> Reference { rename(name).into() };
        let expected = |group: &str, name: &str| {
            let reference = reference(name);
            let data = self.io.get(&format!("{group}.{}", reference.name));
            data.map(|data| reference.pick(data))
        };
        let required = |group: &str, name: &str| {
            let message = || panic!("{}: no {group}.{name}", self.folder.display());
            expected(group, name).unwrap_or_else(message)
        };
        let device = Device::flex();
        let init = Init::seeded(&device, 0);
        let base = self.config["base"].as_str().unwrap_or_default();
        let base = base.rsplit('/').next().unwrap_or_default();
        let folder = self.folder.join("../..").join(base);
        let file =
            Checkpoint::open(&folder.join("weights.safetensors")).unwrap_or_else(|e| panic!("{e}"));
        let built = backbone.build(&init).unwrap_or_else(|e| panic!("{e}"));
        let loaded = load_backbone(Plug::new(built), &file, None);
        let backbone = loaded.unwrap_or_else(|e| panic!("{e}")).backbone;
        let classes = self.io["logits_after"].shape()[1];
        let head = LinearHead::new(backbone.spec().features, classes, &init);
        let formula = method.formula(&*backbone).unwrap_or_else(|e| panic!("{e}"));
        let model =
            Model::assemble(backbone, &[method], head, &init).unwrap_or_else(|e| panic!("{e}"));
        let counts = model.counts();
        assert_eq!(counts.trainable - counts.head, formula, "formula");
        let trained: Vec<_> = params::infos(&model)
            .into_iter()
            .filter(|info| model.trains(&info.name))
            .collect();
        let names: Vec<&String> = trained.iter().map(|info| &info.name).collect();
        let touched: BTreeSet<String> = names.iter().map(|name| reference(name).name).collect();
        let size = |name: &String| self.io[&format!("param.{name}")].num_elements();
        // A reference may hold a whole image behind a mask of which only a border is trained here.
        if touched.iter().map(size).sum::<usize>() == counts.trainable {
            let count = self.config["trainable_count"].as_u64();
            assert_eq!(Some(counts.trainable as u64), count, "trainable");
        }
        let start = trained.iter().map(|info| {
            let values = required("param", &info.name);
            (
                info.name.clone(),
                TensorData::new(values, info.shape.clone()),
            )
        });
        let model =
            params::write(model, start.collect()).unwrap_or_else(|mismatch| panic!("{mismatch:?}"));

        let frozen = |model: &Model| params::read(model, |info| !model.trains(&info.name));
        let before = frozen(&model);
        let mut model = model.train();
        let images = Tensor::<4>::from_data(self.io["images"].clone(), &device);
        let labels = Tensor::<1, Int>::from_data(self.io["labels"].clone(), &device.autodiff());
        let optimizer = &self.config["optimizer"];
        let number = |key: &str| optimizer[key].as_f64().unwrap_or(f64::NAN);
        let mut adamw = AdamWConfig::new()
            .with_weight_decay(number("weight_decay") as f32)
            .with_epsilon(number("eps") as f32)
            .init();
        let mut logits = Vec::new();
        let mut losses = Vec::new();
        for number_of_step in 0..4 {
            // The prefix alone, on the plain device, then what trains: as a run does it.
            let cut = model.first_cut();
            let prefix = model.backbone.valid();
            let x = Activation::Map(images.clone());
            let x = prefix
                .forward(x, 0..cut, &peft_core::Hooks::none())
                .into_autodiff();
            let step = model.step(0, number_of_step, 0);
            let output = model.logits(x, cut, Some(&step));
            logits.push(floats(output.clone().into_data()));
            let loss = cross_entropy(output, labels.clone(), 0.0);
            losses.push(floats(loss.clone().into_data())[0]);
            if number_of_step == 3 {
                break;
            }
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            if number_of_step == 0 {
                let gradients = params::gradients(&model, &gradients);
                let got: Vec<_> = gradients.keys().collect();
                let mut sorted = names.clone();
                sorted.sort();
                assert_eq!(got, sorted, "what has a gradient");
                for (name, gradient) in &gradients {
                    let gradient = floats(gradient.clone());
                    let what = format!("gradient of {name}");
                    assert_close(&what, &gradient, &required("grad", name), 2e-5, None);
                }
            }
            model = adamw.step(number("lr"), model, gradients);
        }
        // Frozen costs nothing: two moments for each trained tensor, and not a bit changed.
        assert_eq!(adamw.to_record().len(), 2 * names.len(), "optimiser state");
        assert!(before == frozen(&model.valid()), "a frozen value changed");
        assert_close("logits", &logits[0], &self.values("act.logits"), 1e-5, None);
        assert_close("losses", &losses, &self.values("losses"), 1e-5, None);
        for (name, data) in params::read(&model, |info| model.trains(&info.name)) {
            let (noisy, after) = (expected("noisy", &name), required("after", &name));
            let what = format!("{name} after three steps");
            assert_close(&what, &floats(data), &after, 1e-4, noisy.as_deref());
        }
    }
}

/// Checks a folder that HF PEFT wrote for the model in `base`: its values give the library's logits
/// here, and what is written of them is the same folder again.
///
/// # Panics
/// At the first difference.
pub fn check_hf_peft(folder: &str, base: &str, backbone: &dyn BackboneConfig) {
    let init = Init::seeded(&Device::flex(), 0);
    let unwrap = |e: peft_core::Error| -> ! { panic!("{folder}: {e}") };
    let file = Checkpoint::open(&Path::new(base).join("weights.safetensors"));
    let file = file.unwrap_or_else(|e| unwrap(e));
    let built = backbone.build(&init).unwrap_or_else(|e| unwrap(e));
    let loaded = load_backbone(Plug::new(built), &file, None);
    let backbone = loaded.unwrap_or_else(|e| unwrap(e)).backbone;
    let io = Checkpoint::open(&Path::new(folder).join("io.safetensors"));
    let io = io.and_then(|io| io.tensors()).unwrap_or_else(|e| unwrap(e));

    let given = HfPeft::read(Path::new(folder)).unwrap_or_else(|e| unwrap(e));
    let imported = hf_peft::import(given.clone(), &*backbone).unwrap_or_else(|e| unwrap(e));
    let method: Box<dyn AdaptationMethod> =
        serde_json::from_value(imported.method.clone()).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let classes = io["logits"].shape()[1];
    let head = LinearHead::new(backbone.spec().features, classes, &init);
    let model = Model::assemble(backbone.clone(), std::slice::from_ref(&method), head, &init);
    let model = model.unwrap_or_else(|e| unwrap(e));
    let model = adapter_file::fill(model, imported.tensors.clone(), Path::new(folder));
    let model = model.unwrap_or_else(|e| unwrap(e));
    let images = Activation::Map(Tensor::from_data(io["images"].clone(), init.device()));
    let logits = floats(model.logits(images, 0, None).into_data());
    assert_close(folder, &logits, &floats(io["logits"].clone()), 1e-5, None);

    let layout = hf_peft::layout_of(&given, &*backbone);
    let values = adapter_file::tensors(&model);
    let own = hf_peft::export(&*method, &*backbone, &layout, &values);
    let own = own.unwrap_or_else(|e| unwrap(e));
    let own = own.unwrap_or_else(|| panic!("{folder}: it is not written"));
    assert!(
        own.tensors == given.tensors,
        "{folder}: other tensors are written"
    );
    let again = hf_peft::import(own, &*backbone).unwrap_or_else(|e| unwrap(e));
    assert_eq!(
        again.method, imported.method,
        "{folder}: another method is written"
    );
    assert!(again.tensors == imported.tensors);
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
