//! Trained adapters on disk: a run folder of this program, a folder that it exported for PyTorch, or one that HF PEFT
//! wrote.

use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use peft_core::hf_peft::{self, HfPeft};
use peft_core::mapped_head::MAPPING;
use peft_core::params::{self, Tensors};
use peft_core::{AdaptationMethod, Model, adapter_file};

use crate::config::experiment::Experiment;
use crate::exit::{Failure, config_error};
use crate::model::base::Base;
use crate::model::classes::select;
use crate::model::pytorch::PyTorch;

pub use crate::model::pytorch::ADAPTER;

/// The file of a run folder that holds its configuration.
pub const RESOLVED: &str = "config.resolved.yaml";

/// Trained values, and the methods that they belong to.
pub struct Adapter {
    /// The file or folder that it was read from.
    path: PathBuf,
    /// The methods, in the order in which they act.
    pub methods: Vec<Box<dyn AdaptationMethod>>,
    /// The classes' names, if the folder has them.
    pub classes: Option<Vec<String>>,
    /// Whether an image may show several classes, or none; unknown if the folder does not say.
    pub multi_label: Option<bool>,
    /// Remarks for the user, for example about modules that were left out.
    pub remarks: Vec<String>,
    values: Tensors,
}

impl Adapter {
    /// Reads a folder for this backbone.
    ///
    /// # Errors
    /// If it is neither kind of folder, is not complete, or belongs to another backbone.
    pub fn read(folder: &Path, base: &Base) -> Result<Self, Failure> {
        if let Some(PyTorch { method, .. }) = PyTorch::find(folder)? {
            return Self::filed(folder, method, base);
        }
        // A run's folder may hold an exported adapter a level below.
        if !folder.join(RESOLVED).is_file()
            && let Some(found) = HfPeft::find(folder)?
        {
            return Self::imported(folder, &found, base);
        }
        Self::filed(folder, resolved(folder)?.method, base)
    }

    /// Reads the adapter file of a folder whose methods are these.
    fn filed(
        folder: &Path,
        methods: Vec<Box<dyn AdaptationMethod>>,
        base: &Base,
    ) -> Result<Self, Failure> {
        let path = folder.join(ADAPTER);
        let weights = base.weights_hash.as_deref();
        let (info, values, remarks) = adapter_file::read(&path, &base.backbone, weights)?;
        Ok(Self {
            path,
            methods,
            classes: Some(info.classes),
            multi_label: Some(info.multi_label),
            remarks,
            values,
        })
    }

    /// Reads the adapter of HF PEFT at `found`, in `folder` or a level below.
    fn imported(folder: &Path, found: &Path, base: &Base) -> Result<Self, Failure> {
        let at = |e: &dyn std::fmt::Display| config_error(format!("{}: {e}", found.display()));
        let imported =
            hf_peft::import(HfPeft::read(found)?, &*base.backbone).map_err(|e| at(&e))?;
        let methods = imported.methods.into_iter().map(serde_json::from_value);
        let methods = methods.collect::<Result<_, _>>().map_err(|e| at(&e))?;
        let mut remarks = imported.remarks;
        if found != folder {
            let path = found.display();
            remarks.insert(0, format!("the only adapter of the folder is {path}"));
        }
        let mut values = imported.tensors;
        complete_head(&mut values, imported.head_delta, base).map_err(|e| at(&e))?;
        Ok(Self {
            path: found.to_owned(),
            methods,
            classes: None,
            multi_label: None,
            remarks,
            values,
        })
    }

    /// The number of classes of its head; none if it has no head.
    pub fn outputs(&self) -> Option<usize> {
        self.values.get("head.bias").map(|bias| bias.shape()[0])
    }

    /// Drops a label map: training makes another one.
    pub fn drop_label_map(&mut self) {
        self.values.remove(MAPPING);
    }

    /// Drops the head, because the data set has other classes.
    pub fn drop_head(&mut self) {
        self.values.retain(|name, _| !name.starts_with("head."));
        self.classes = None;
    }

    /// Keeps these rows of the head, in this order.
    pub fn select_classes(&mut self, rows: &[usize]) {
        for (name, data) in &mut self.values {
            if name.starts_with("head.") {
                *data = select(data, rows);
            }
        }
        if let Some(classes) = &mut self.classes {
            *classes = rows.iter().map(|&row| classes[row].clone()).collect();
        }
    }

    /// A hash of the values.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, data) in &self.values {
            hasher.update(format!("{name} {:?}\n", data.shape()).as_bytes());
            hasher.update(data.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Writes the values into a model that was assembled from its methods.
    ///
    /// # Errors
    /// If names or shapes do not match; both sets are listed.
    pub fn fill(&self, model: Model) -> Result<Model, Failure> {
        Ok(adapter_file::fill(model, self.values.clone(), &self.path)?)
    }
}

/// Completes an adapter's head from that of the checkpoint: HF PEFT saves its bias alone where every bias
/// was trained, and factors where it was adapted as any linear layer is.
fn complete_head(
    values: &mut Tensors,
    delta: Option<TensorData>,
    base: &Base,
) -> Result<(), String> {
    let parts = ["head.weight", "head.bias"];
    let lacking = parts.iter().any(|part| !values.contains_key(*part));
    let untouched = !parts.iter().any(|part| values.contains_key(*part));
    if !lacking && delta.is_none() || untouched && delta.is_none() {
        return Ok(());
    }
    let Some(head) = &base.head else {
        return Err(
            "its head changes that of the checkpoint, and the backbone's weights come without a head"
                .to_owned(),
        );
    };
    for (part, value) in parts.into_iter().zip([&head.weight, &head.bias]) {
        let own = values.entry(part.to_owned()).or_insert(value.clone());
        if own.shape() != value.shape() {
            return Err(format!(
                "{part}: expected the shape of the checkpoint's head, {:?}, got {:?}",
                value.shape(),
                own.shape()
            ));
        }
    }
    let Some(delta) = delta else {
        return Ok(());
    };
    let Some(weight) = values.get_mut("head.weight") else {
        return Ok(());
    };
    if delta.shape() != weight.shape() {
        return Err(format!(
            "factors of the head: expected the shape {:?}, got {:?}",
            weight.shape(),
            delta.shape()
        ));
    }
    let shape = weight.shape().clone();
    let (own, delta) = (params::floats(weight.clone()), params::floats(delta));
    let sum: Vec<f32> = own.iter().zip(&delta).map(|(w, d)| w + d).collect();
    *weight = TensorData::new(sum, shape);
    Ok(())
}

/// The experiment of a run folder.
///
/// # Errors
/// If the folder is not a run folder.
pub fn resolved(folder: &Path) -> Result<Experiment, Failure> {
    let at = |message: String| config_error(format_args!("{}: {message}", folder.display()));
    let text = std::fs::read_to_string(folder.join(RESOLVED)).map_err(|e| {
        at(format!(
            "neither a run folder ({RESOLVED}: {e}) nor one of HF PEFT (adapter_config.json, here or a level \
             below) nor one for PyTorch (config.json)"
        ))
    })?;
    let value = serde_yaml::from_str(&text).map_err(|e| at(e.to_string()))?;
    Experiment::typed(value).map_err(at)
}
