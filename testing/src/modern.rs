//! Golden folders of whole networks: a library's own file, recognised by its keys and shapes alone.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use peft_core::activation::Activation;
use peft_core::backbone::{BackboneConfig, BoxedBackbone, Init};
use peft_core::checkpoint::{Checkpoint, CheckpointHead, Recognised, load_backbone, recognise};
use peft_core::head::LinearHead;
use peft_core::hooks::Hooks;
use peft_core::params::{Tensors, floats};
use peft_core::plug::Plug;
use serde_json::Value;

use crate::golden::{FIXTURES, HfPeftCase, assert_close, read_onto, written_again};

/// Largest difference, over the largest value of a tensor.
const TOLERANCE: f32 = 2e-5;

/// A folder below `fixtures`: a file of weights, what their keys and shapes do not show, and the values that
/// the library computes with them.
pub struct Modern {
    /// The configuration that the file shows, completed by what it does not show.
    pub config: Box<dyn BackboneConfig>,
    /// The network with the weights of the file.
    pub backbone: BoxedBackbone,
    /// Its classifier, if the file has one.
    pub head: Option<CheckpointHead>,
    /// The remarks of loading.
    pub remarks: Vec<String>,
    /// The library's description of the case.
    pub about: Value,
    /// The images, and the values at boundaries, of features and of logits.
    pub io: Tensors,
    name: String,
}

impl Modern {
    /// Recognises and loads the file of the folder `name`, for example `modern/vit_rect`.
    ///
    /// # Panics
    /// If no linked family recognises it, or if it does not load.
    pub fn open(name: &str) -> Self {
        let folder = Path::new(FIXTURES).join(name);
        let text = std::fs::read_to_string(folder.join("config.json"));
        let text = text.unwrap_or_else(|e| panic!("{name}: {e}"));
        let about: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let unwrap = |e: peft_core::Error| -> ! { panic!("{name}: {e}") };
        let open = |file: &str| Checkpoint::open(&folder.join(file)).unwrap_or_else(|e| unwrap(e));
        let file = open(about["weights_file"].as_str().unwrap_or_default());
        let found = recognise(&file, None).unwrap_or_else(|e| unwrap(e));
        let found = found.unwrap_or_else(|| panic!("{name}: no family recognises it"));
        let config = completed(&*found.config, &about["not_in_shapes"]);
        let built = config.build(&Init::empty(&Device::flex()));
        let built = Plug::new(built.unwrap_or_else(|e| unwrap(e)));
        let layout = config.source().layout;
        let loaded = load_backbone(built, &file, layout.as_deref());
        let loaded = loaded.unwrap_or_else(|e| unwrap(e));
        let io = open("io.safetensors")
            .tensors()
            .unwrap_or_else(|e| unwrap(e));
        Self {
            config,
            backbone: loaded.backbone,
            head: loaded.head,
            remarks: loaded.remarks,
            about,
            io,
            name: name.to_owned(),
        }
    }

    /// The network that the file of the folder `name` shows, without what it does not show.
    ///
    /// # Panics
    /// If no linked family recognises it.
    pub fn recognised(name: &str) -> Recognised {
        let folder = Path::new(FIXTURES).join(name);
        let text = std::fs::read_to_string(folder.join("config.json"));
        let text = text.unwrap_or_else(|e| panic!("{name}: {e}"));
        let about: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let file = about["weights_file"].as_str().unwrap_or_default();
        let file = Checkpoint::open(&folder.join(file)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = recognise(&file, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        found.unwrap_or_else(|| panic!("{name}: no family recognises it"))
    }

    /// Compares the activation at every boundary, the features and the logits with the library's, and the
    /// number of parameters.
    ///
    /// # Panics
    /// At the first difference.
    pub fn check(&self) {
        let (io, spec) = (&self.io, self.backbone.spec());
        let mut x = Activation::Map(Tensor::from_data(io["images"].clone(), &Device::flex()));
        for cut in 0..spec.features_cut() {
            x = self.backbone.forward(x, cut..cut + 1, &Hooks::none());
            let name = match cut + 1 == spec.features_cut() {
                true => "features".to_owned(),
                false => format!("boundary.{}", cut + 1),
            };
            let shape = x.shape().to_vec();
            assert_eq!(spec.shape_at(cut + 1).dims(), shape[1..], "{name}");
            self.compare(&name, &x);
        }
        let classifies = self.about["has_logits"] == Value::Bool(true);
        assert_eq!(
            self.head.is_some(),
            classifies,
            "{}: a classifier",
            self.name
        );
        if let Some(head) = self.head.clone() {
            let head = LinearHead::from_checkpoint(head, &Device::flex());
            let features = x.features().unwrap_or_else(|| panic!("features"));
            self.compare("logits", &Activation::Features(head.forward(features)));
        }
    }

    fn compare(&self, name: &str, x: &Activation) {
        let what = format!("{}: {name}", self.name);
        let expected = self.io.get(name);
        let expected = expected.unwrap_or_else(|| panic!("{what} is not in the folder"));
        let expected = floats(expected.clone());
        // `assert_close` measures small values by 1; the libraries' noise is relative to the largest.
        let largest = expected
            .iter()
            .fold(0.0f32, |most, value| most.max(value.abs()));
        assert_close(
            &what,
            &x.to_vec(),
            &expected,
            TOLERANCE * largest.min(1.0),
            None,
        );
    }
}

/// The configuration with the fields of `stated` that the family has.
fn completed(config: &dyn BackboneConfig, stated: &Value) -> Box<dyn BackboneConfig> {
    let unwrap = |e: serde_json::Error| -> ! { panic!("{config:?}: {e}") };
    let mut value = serde_json::to_value(config).unwrap_or_else(|e| unwrap(e));
    for (name, own) in stated.as_object().into_iter().flatten() {
        if config.has_field(name) {
            value[name] = own.clone();
        }
    }
    serde_json::from_value(value).unwrap_or_else(|e| unwrap(e))
}

/// [`check_hf_peft`](crate::check_hf_peft) for a folder below `fixtures/hf_peft`, on the network that the library's
/// own file below `fixtures/modern` shows.
///
/// # Panics
/// At the first difference.
pub fn check_modern_hf_peft(folder: &str, base: &str) -> HfPeftCase {
    let base = Modern::open(&format!("modern/{base}"));
    let folder = format!("{FIXTURES}/hf_peft/{folder}");
    let case = read_onto(&folder, base.backbone, &Init::seeded(&Device::flex(), 0));
    written_again(&folder, case)
}
