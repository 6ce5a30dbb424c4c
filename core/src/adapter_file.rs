//! Adapter files. They hold only what was trained, head included, and what is needed to refuse a
//! wrong backbone.
//!
//! An adapter file is a safetensors file whose names are canonical (see [`crate::params`]) and
//! whose metadata holds the name of the backbone, a hash of its structure, the hash of its weights
//! file and the classes. Where few entries of a tensor train, only they are in the file: `X.indices` and `X.values`.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

use crate::backbone::BoxedBackbone;
use crate::checkpoint::{Checkpoint, unwrapped};
use crate::error::{Error, Result, listed};
use crate::model::Model;
use crate::params::{self, Tensors, floats};
use crate::weights;

/// The only key of the metadata, so that equal adapters are equal files. It names the version of
/// the format and holds [`AdapterInfo`] as JSON.
const FORMAT: &str = "peft-adapter/1";

/// The description in an adapter file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterInfo {
    /// The backbone's name, for messages.
    pub backbone: String,
    /// Hash of the names and shapes of the backbone's parameters.
    pub structure: String,
    /// Hash of the backbone's weights file; absent for random weights.
    pub weights: Option<String>,
    /// The classes' names, in the order of the logits.
    pub classes: Vec<String>,
    /// Whether an image may show several classes, or none: each has a probability of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub multi_label: bool,
}

impl AdapterInfo {
    /// Describes a file written from this model.
    pub fn of(model: &Model, weights: Option<String>, classes: Vec<String>) -> Self {
        Self {
            backbone: model.spec().name.clone(),
            structure: structure(&model.backbone),
            weights,
            classes,
            multi_label: false,
        }
    }

    /// Returns the same information with another answer to whether an image may show several classes.
    pub fn with_multi_label(self, multi_label: bool) -> Self {
        Self {
            multi_label,
            ..self
        }
    }
}

/// Hash of the names and shapes of the backbone's parameters and buffers.
fn structure(backbone: &BoxedBackbone) -> String {
    // Names and shapes identify an architecture, whatever its variant is called.
    let mut hasher = blake3::Hasher::new();
    for info in params::infos(backbone) {
        hasher.update(format!("{} {:?}\n", info.name, info.shape).as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Returns the part of a model that the file holds: everything that trained, and buffers that
/// changed.
pub fn tensors(model: &Model) -> Tensors {
    params::read(model, |info| model.saved(info))
}

/// The suffixes of the two tensors that stand for one of which few entries differ from the backbone's.
const SPARSE: [&str; 2] = [".indices", ".values"];

/// Replaces each tensor of the backbone that `base` has too by the entries in which they differ: their indices
/// `[k]` in row-major order and their values `[k]`, wherever that takes less room.
pub fn sparse(tensors: Tensors, base: &BoxedBackbone) -> Tensors {
    let mut sparse = Tensors::new();
    for (name, data) in tensors {
        let own = name.strip_prefix("backbone.");
        let Some(before) = own.and_then(|own| params::value(&**base, own)) else {
            sparse.insert(name, data);
            continue;
        };
        let (before, after) = (floats(before), floats(data.clone()));
        let differ = |(_, (a, b)): &(usize, (f32, &f32))| a.to_bits() != b.to_bits();
        let entries = before.into_iter().zip(&after).enumerate().filter(differ);
        let (indices, values): (Vec<i64>, Vec<f32>) = entries
            .map(|(index, (_, value))| (index as i64, *value))
            .unzip();
        let count = values.len();
        if count * (size_of::<i64>() + size_of::<f32>()) >= size_of_val(&after[..]) {
            sparse.insert(name, data);
            continue;
        }
        let [of_indices, of_values] = SPARSE.map(|suffix| format!("{name}{suffix}"));
        sparse.insert(of_indices, TensorData::new(indices, [count]));
        sparse.insert(of_values, TensorData::new(values, [count]));
    }
    sparse
}

/// Undoes [`sparse`].
///
/// # Errors
/// The name of a tensor whose entries do not fit the backbone.
fn dense(mut tensors: Tensors, base: &BoxedBackbone) -> std::result::Result<Tensors, String> {
    let known = params::infos(base).into_iter().map(|info| info.name);
    let known: BTreeSet<String> = known.collect();
    let whole = |name: &String| {
        let whole = name.strip_suffix(SPARSE[0])?;
        let own = whole.strip_prefix("backbone.")?;
        known
            .contains(own)
            .then(|| (whole.to_owned(), own.to_owned()))
    };
    let found: Vec<(String, String)> = tensors.keys().filter_map(whole).collect();
    for (name, own) in found {
        let parts = SPARSE.map(|suffix| tensors.remove(&format!("{name}{suffix}")));
        let ([Some(indices), Some(values)], Some(before)) = (parts, params::value(&**base, &own))
        else {
            return Err(format!("{name}: expected both indices and values"));
        };
        let shape = before.shape().clone();
        let mut dense = floats(before);
        let (indices, values) = (indices.iter::<i64>().collect::<Vec<_>>(), floats(values));
        if indices.len() != values.len() {
            return Err(format!("{name}: expected as many values as indices"));
        }
        for (index, value) in indices.into_iter().zip(values) {
            let count = dense.len();
            let place = usize::try_from(index).ok().and_then(|i| dense.get_mut(i));
            *place
                .ok_or_else(|| format!("{name}: expected indices below {count}, got {index}"))? =
                value;
        }
        tensors.insert(name, TensorData::new(dense, shape));
    }
    Ok(tensors)
}

/// Writes an adapter file, atomically.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn write(path: &Path, tensors: &Tensors, info: &AdapterInfo) -> Result<()> {
    let info = serde_json::to_string(info).map_err(|e| Error::file(path, e.to_string()))?;
    let metadata = HashMap::from([(FORMAT.to_owned(), info)]);
    weights::write(path, tensors, metadata)
}

/// Reads an adapter file of this backbone: what it says of itself, its values, and what its user should
/// know, for example that a wrapper's prefix before the names was left out.
///
/// # Errors
/// [`Error::File`] if the file is incomplete or not an adapter file; [`Error::Weights`] if it
/// belongs to another backbone or to other weights of it.
pub fn read(
    path: &Path,
    backbone: &BoxedBackbone,
    weights: Option<&str>,
) -> Result<(AdapterInfo, Tensors, Vec<String>)> {
    let file = Checkpoint::open(path)?;
    let metadata = file.metadata();
    let refuse = |message: String| Error::Weights {
        path: path.to_owned(),
        message,
    };
    let info: AdapterInfo = metadata
        .get(FORMAT)
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| refuse(format!("expected an adapter file (metadata {FORMAT})")))?;
    if info.structure != structure(backbone) {
        return Err(refuse(format!(
            "the adapter was trained on {}, whose parameters differ from those of {}",
            info.backbone,
            backbone.spec().name
        )));
    }
    // The shapes fit, but an adapter is a difference from the very weights that it was trained on.
    if info.weights.as_deref() != weights {
        let short = |hash: Option<&str>| match hash {
            Some(hash) => format!("weights {}", hash.get(..8).unwrap_or(hash)),
            None => "random weights".to_owned(),
        };
        return Err(refuse(format!(
            "the adapter was trained on {} of {}, but {} are loaded",
            short(info.weights.as_deref()),
            info.backbone,
            short(weights)
        )));
    }
    let (tensors, wrapper) = unwrapped(file.tensors()?);
    let tensors = dense(tensors, backbone).map_err(refuse)?;
    let mut remarks = file.remarks().to_vec();
    if !wrapper.is_empty() {
        remarks.push(format!(
            "the names of the tensors begin with {wrapper}, which is left out"
        ));
    }
    Ok((info, tensors, remarks))
}

/// Writes the trained values into a model that was assembled from the same configuration; the head
/// may be missing as a whole.
///
/// # Errors
/// [`Error::Weights`] with both sets if the values belong to another method or size.
pub fn fill(model: Model, values: Tensors, path: &Path) -> Result<Model> {
    let refuse = |message: String| Error::Weights {
        path: path.to_owned(),
        message,
    };
    // A folder of HF PEFT may come without a head; half a head is an error.
    let of_head = |name: &str| name.starts_with("head.");
    let has_head = values.keys().any(|name| of_head(name));
    let expected: Vec<String> = params::infos(&model)
        .into_iter()
        .filter(|info| model.saved(info) && (has_head || !of_head(&info.name)))
        .map(|info| info.name)
        .collect();
    let missing: Vec<_> = expected
        .iter()
        .filter(|n| !values.contains_key(*n))
        .collect();
    let extra: Vec<_> = values.keys().filter(|n| !expected.contains(n)).collect();
    if !(missing.is_empty() && extra.is_empty()) {
        return Err(refuse(format!(
            "the adapter does not fit this method\n  missing: {}\n  not expected: {}",
            listed(&missing, 12),
            listed(&extra, 12)
        )));
    }
    params::write(model, values).map_err(|mismatch| {
        refuse(format!(
            "the adapter does not fit this model: {}",
            listed(&mismatch.shapes, 12)
        ))
    })
}

/// Calls [`read`] and [`fill`].
///
/// # Errors
/// The errors of both.
pub fn load(path: &Path, model: Model, weights: Option<&str>) -> Result<(Model, AdapterInfo)> {
    let (info, values, _) = read(path, &model.backbone, weights)?;
    Ok((fill(model, values, path)?, info))
}
