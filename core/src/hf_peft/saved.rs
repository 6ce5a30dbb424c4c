//! What a folder holds of the model itself, beside the values of its method: the head and whatever else
//! `modules_to_save` and `bias` name, in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use burn::tensor::TensorData;
use serde_json::{Value, json};

use crate::backbone::Backbone;
use crate::error::{Error, Result, listed};
use crate::hf_peft::folder::{CONFIG, HfPeft, TENSORS};
use crate::hf_peft::targets::{exactly, strings};
use crate::layout::Layout;
use crate::params::{self, ParamInfo, Tensors, floats};

/// How the library marks the layer inside an adapted one.
const INNER: &str = ".base_layer.";
/// How it marks a module that is saved, and the one that this replaces.
const COPY: &str = ".modules_to_save.";
const REPLACED: &str = ".original_module.";

/// What a folder held of the model.
pub(super) struct Saved {
    /// `head.weight` and `head.bias`, as far as they are there.
    pub head: Tensors,
    /// Parameters and buffers of the backbone by canonical name.
    pub own: Tensors,
    /// Facts that the user should know.
    pub remarks: Vec<String>,
}

/// Takes the tensors out of a folder that are the model's own; what remains belongs to the method.
///
/// # Errors
/// [`Error::Config`] for a parameter that the configuration does not name, or one of another shape.
pub(super) fn take(given: &mut HfPeft, backbone: &dyn Backbone, layout: &Layout) -> Result<Saved> {
    let names = strings("modules_to_save", given.field("modules_to_save"))?;
    let bias = match given.field("bias") {
        Value::Null => "none".to_owned(),
        Value::String(word) if ["none", "all", "lora_only"].contains(&word.as_str()) => {
            word.clone()
        }
        other => {
            let message = format!("expected none, all or lora_only, got {other}");
            return Err(Error::config(format!("{CONFIG}: bias"), message));
        }
    };
    let adapted = adapted(&given.tensors);
    let own = Own::of(backbone, layout);
    let (mut head, mut parts) = (Tensors::new(), Tensors::new());
    let mut biases = 0;
    let tensors = std::mem::take(&mut given.tensors);
    let names_there: BTreeSet<String> = tensors.keys().cloned().collect();
    for (key, data) in tensors {
        let plain = key.replacen(INNER, ".", 1).replacen(COPY, ".", 1);
        let (module, part) = plain.rsplit_once('.').unwrap_or(("", &plain));
        // `bias: all` also catches a copy of what is saved and the modules that the saved ones replace;
        // a count of batches matters to nothing.
        let is_copy = key.contains(COPY) && names_there.contains(&plain);
        if is_copy || key.contains(REPLACED) || part == "num_batches_tracked" {
            continue;
        }
        let is_head = module == layout.head && ["weight", "bias"].contains(&part);
        let name = own.name(&plain);
        if !is_head && name.is_none() {
            given.tensors.insert(key, data);
            continue;
        }
        let is_bias =
            part == "bias" && (bias == "all" || (bias == "lora_only" && adapted.contains(module)));
        biases += usize::from(is_bias);
        if let Some(name) = name.filter(|_| !is_head) {
            if !is_bias
                && !names
                    .iter()
                    .any(|saved| ends_in(&given.seen(module), saved))
            {
                let message = format!(
                    "{key}: a parameter of the backbone that neither modules_to_save nor bias names"
                );
                return Err(Error::config(TENSORS, message));
            }
            parts.insert(name, data);
        } else {
            head.insert(format!("head.{part}"), data);
        }
    }
    let mut remarks = Vec::new();
    if head.is_empty() {
        remarks.push("the adapter's folder does not contain a head".to_owned());
    }
    if bias != "none" && biases == 0 {
        remarks.push(format!(
            "bias: {bias}, but the file holds no bias, as some versions of HF PEFT save it; those of \
             the backbone are used"
        ));
    }
    let own = own.assembled(parts)?;
    Ok(Saved { head, own, remarks })
}

/// A remark on the names in `modules_to_save` of which the file holds nothing, if there are any.
///
/// # Errors
/// [`Error::Config`] if it is no list of names.
pub(super) fn not_there(given: &HfPeft) -> Result<Option<String>> {
    let mut names = strings("modules_to_save", given.field("modules_to_save"))?;
    for key in given.tensors.keys() {
        let module = key.rsplit_once('.').map_or("", |(module, _)| module);
        names.retain(|name| !ends_in(&given.seen(module), name));
    }
    let remark = || {
        let names = listed(&names, 12);
        format!("modules_to_save: the file holds nothing of {names}; the backbone's own is used")
    };
    Ok((!names.is_empty()).then(remark))
}

/// The beginnings of the library's names of what a method adds to a module.
const FACTORS: [&str; 7] = [
    ".lora_",
    ".hada_",
    ".lokr_",
    ".oft_",
    ".boft_",
    ".fourierft_",
    ".vera_",
];

/// The modules, as the library calls them, that have factors.
fn adapted(tensors: &Tensors) -> BTreeSet<String> {
    let module = |key: &String| {
        FACTORS
            .iter()
            .find_map(|part| Some(key.split_once(part)?.0.to_owned()))
    };
    tensors.keys().filter_map(module).collect()
}

/// Whether the library saves a module, or one that contains it, under this name: it compares ends of
/// names, at whatever letter they begin.
fn ends_in(module: &str, name: &str) -> bool {
    let ends = module.match_indices('.').map(|(end, _)| &module[..end]);
    ends.chain([module]).any(|module| module.ends_with(name))
}

/// The method that tunes what a folder held of the backbone, and the values with those of the buffers
/// that such a method saves.
pub(super) fn tuning(own: Tensors, backbone: &dyn Backbone) -> (Option<Value>, Tensors) {
    let infos = params::infos_erased(backbone);
    let buffers: BTreeSet<&String> = infos.iter().filter(|i| i.buffer).map(|i| &i.name).collect();
    let names: Vec<&String> = own.keys().filter(|name| !buffers.contains(name)).collect();
    if names.is_empty() {
        return (None, Tensors::new());
    }
    // The library's BatchNorm layers use and update the batch's statistics while they train.
    let counts = own.keys().any(|name| buffers.contains(name));
    let method = json!({
        "name": "full-finetune",
        "parameters": exactly(names),
        "statistics": if counts { "batch" } else { "running" },
    });
    let mut values = Tensors::new();
    for name in buffers.into_iter().filter(|_| counts) {
        if let Some(value) = params::value(backbone, name) {
            values.insert(format!("backbone.{name}"), value);
        }
    }
    let own = own.into_iter();
    values.extend(own.map(|(name, value)| (format!("backbone.{name}"), value)));
    (Some(method), values)
}

/// The backbone's parameters under a library's names.
struct Own<'a> {
    backbone: &'a dyn Backbone,
    layout: &'a Layout,
    infos: BTreeMap<String, ParamInfo>,
}

impl<'a> Own<'a> {
    fn of(backbone: &'a dyn Backbone, layout: &'a Layout) -> Self {
        let infos = params::infos_erased(backbone).into_iter();
        Self {
            backbone,
            layout,
            infos: infos.map(|info| (info.name.clone(), info)).collect(),
        }
    }

    /// The canonical name of a parameter, or of the rows of one that a slice has.
    fn name(&self, theirs: &str) -> Option<String> {
        self.layout.prefixes.iter().find_map(|prefix| {
            let ours = self.layout.own(theirs.strip_prefix(prefix)?)?;
            let known = self.infos.contains_key(&ours) || self.slice(&ours).is_some();
            known.then_some(ours)
        })
    }

    /// The parameter in whose rows a slice's parameter lies.
    fn slice(&self, name: &str) -> Option<(String, Range<usize>)> {
        let (module, part) = name.rsplit_once('.')?;
        let sites = self.backbone.spec().sites.iter();
        let mut slices = sites.flat_map(|s| s.slices.iter().map(move |slice| (s, slice)));
        let (site, slice) = slices.find(|(_, slice)| slice.name == module)?;
        let whole = format!("{}.{part}", site.name);
        let known = self.infos.contains_key(&whole);
        known.then(|| (whole, slice.rows.clone()))
    }

    /// Whole parameters from those of the file: converted, and slices put into the backbone's values.
    fn assembled(&self, parts: Tensors) -> Result<Tensors> {
        let mut whole = Tensors::new();
        for (name, data) in &parts {
            let data = match self.layout.convert {
                Some(convert) => convert(name, data.clone(), &|other| parts.get(other).cloned()),
                None => data.clone(),
            };
            let Some(info) = self.infos.get(name) else {
                self.put_slice(name, data, &mut whole)?;
                continue;
            };
            check_shape(name, &info.shape, &data)?;
            whole.insert(name.clone(), data);
        }
        Ok(whole)
    }

    fn put_slice(&self, name: &str, data: TensorData, whole: &mut Tensors) -> Result<()> {
        let Some((parameter, rows)) = self.slice(name) else {
            return Ok(());
        };
        let mut shape = self.infos[&parameter].shape.clone();
        let row: usize = shape[1..].iter().product();
        let before = match whole.remove(&parameter) {
            Some(value) => Some(value),
            None => params::value(self.backbone, &parameter),
        };
        let mut values = before.map(floats).unwrap_or_default();
        let whole_shape = shape.clone();
        shape[0] = rows.len();
        check_shape(name, &shape, &data)?;
        values[rows.start * row..rows.end * row].copy_from_slice(&floats(data));
        whole.insert(parameter, TensorData::new(values, whole_shape));
        Ok(())
    }

    /// Some rows of a parameter or buffer: of the tuned value, or else of the backbone's.
    fn rows(&self, info: &ParamInfo, rows: &Range<usize>, tuned: &Tensors) -> Option<TensorData> {
        let tuned = tuned.get(&info.name).cloned();
        let value = tuned.or_else(|| params::value(self.backbone, &info.name))?;
        let mut shape = info.shape.clone();
        if shape.first().is_none_or(|all| *all == rows.len()) {
            return Some(value);
        }
        let row: usize = shape[1..].iter().product();
        shape[0] = rows.len();
        let values = &floats(value)[rows.start * row..rows.end * row];
        Some(TensorData::new(values.to_vec(), shape))
    }

    /// Every parameter and buffer with the library's name of it and the rows that it holds there.
    fn theirs(&self) -> Vec<(&ParamInfo, String, Option<Range<usize>>)> {
        let mut all = Vec::new();
        for info in self.infos.values() {
            let sources = self.layout.sources(&info.name, self.backbone.spec());
            for (ours, theirs) in sources.into_iter().flatten() {
                let rows = (ours != info.name).then(|| self.slice(&ours));
                let rows = rows.flatten().map(|(_, rows)| rows);
                all.push((info, self.layout.prefixed(&theirs), rows));
            }
        }
        all
    }
}

fn check_shape(name: &str, expected: &[usize], data: &TensorData) -> Result<()> {
    if expected == &data.shape()[..] {
        return Ok(());
    }
    let got = &data.shape()[..];
    let message = format!("{name}: expected the shape {expected:?}, got {got:?}");
    Err(Error::config(TENSORS, message))
}

/// Adds the backbone's own parameters that were tuned (by canonical name) to the folder of a method, in the
/// way in which HF PEFT saves them: biases by `bias`, everything else as whole modules.
///
/// # Errors
/// [`Error::Unfit`] for a parameter that the library cannot save.
pub(super) fn put(
    folder: &mut HfPeft,
    tuned: &Tensors,
    backbone: &dyn Backbone,
    layout: &Layout,
) -> Result<Vec<String>> {
    if tuned.is_empty() {
        return Ok(Vec::new());
    }
    let unfit = |reason: String| Error::Unfit {
        method: "HF PEFT's form".to_owned(),
        backbone: backbone.spec().name.clone(),
        reason,
    };
    let own = Own::of(backbone, layout);
    let adapted = adapted(&folder.tensors);
    let is_tuned = |info: &ParamInfo| !info.buffer && tuned.contains_key(&info.name);
    let all = own.theirs();
    for name in tuned.keys() {
        if !all.iter().any(|(info, ..)| info.name == *name) {
            return Err(unfit(format!("{} has no name for {name}", layout.name)));
        }
    }
    let is_bias = |info: &ParamInfo| !info.buffer && params::is_bias(&info.name);
    let mut parameters = own.infos.values().filter(|info| !info.buffer);
    let (mut modules, mut bias) = (BTreeSet::new(), "none");
    if parameters.all(|info| is_tuned(info) == is_bias(info)) {
        bias = "all";
    } else {
        for (info, name, rows) in all.iter().filter(|(info, ..)| is_tuned(info)) {
            // Some rows of a fused parameter may be those of the backbone.
            if let Some(rows) = rows
                && own.rows(info, rows, tuned) == own.rows(info, rows, &Tensors::new())
            {
                continue;
            }
            let Some((module, _)) = name.rsplit_once('.') else {
                return Err(unfit(format!(
                    "{name} lies in no module that could be saved"
                )));
            };
            if !adapted.contains(module) {
                modules.insert(module.to_owned());
            } else if is_bias(info) {
                bias = "lora_only";
            } else {
                return Err(unfit(format!("{name} has factors and is tuned")));
            }
        }
    }
    for (info, name, rows) in &all {
        let (module, part) = name.rsplit_once('.').unwrap_or(("", name));
        let inner = adapted.contains(module);
        // A saved module is saved with all that it contains.
        let inside = |saved: &String| name.starts_with(&format!("{saved}."));
        let saved = modules.iter().any(inside);
        if saved && inner {
            return Err(unfit(format!(
                "{name} has factors and lies in a saved module"
            )));
        }
        let alone = bias == "all" || (bias == "lora_only" && inner);
        let is_lone_bias = alone && is_bias(info) && is_tuned(info);
        if !(saved || is_lone_bias) {
            continue;
        }
        let every = 0..info.shape.first().copied().unwrap_or(1);
        let Some(value) = own.rows(info, rows.as_ref().unwrap_or(&every), tuned) else {
            continue;
        };
        if let Some(convert) = layout.convert
            && convert(&info.name, value.clone(), &|_| None) != value
        {
            let reason = format!("{} stores {name} in another form", layout.name);
            return Err(unfit(reason));
        }
        let name = if inner {
            format!("{module}{INNER}{part}")
        } else {
            name.clone()
        };
        folder.tensors.insert(name, value);
    }
    if bias != "none" {
        folder.config.insert("bias".to_owned(), bias.into());
    }
    Ok(modules.into_iter().collect())
}
