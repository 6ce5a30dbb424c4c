//! Import and export of HF PEFT's folders: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Keys on disk are `base_model.model.` + module + parameter. The method that registered the format
//! translates its own values; this module finds it, handles the head, and refuses everything that does
//! not fit. PEFT itself silently loads adapters of which nothing matches.

pub(crate) mod folder;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::backbone::Backbone;
use crate::error::{Error, Result, listed};
use crate::layout::Layout;
use crate::method::{AdaptationMethod, name_of};
use crate::params::Tensors;
use crate::registry::{PluginKind, plugins};
use crate::site::{Site, Targets};

use folder::CONFIG;
pub use folder::{Format, HfPeft, Imported, Write};

/// The layout in which the tensors name the backbone's modules: the canonical one, or one of the
/// backbone's others.
pub fn layout_of(given: &HfPeft, backbone: &dyn Backbone) -> Layout {
    let spec = backbone.spec();
    let canonical = Layout::canonical(spec.head_name);
    let is_module = |name: &str| {
        let slices = |site: &Site| site.slices.iter().any(|slice| slice.name == name);
        spec.sites
            .iter()
            .any(|site| site.name == name || slices(site))
    };
    // A parameter's name extends its module's, so some prefix of it must be a module.
    let known = |layout: &Layout, name: &str| {
        let ends = name.match_indices('.').map(|(end, _)| &name[..end]);
        let mut modules = ends.chain([name]);
        modules.any(|module| {
            module == layout.head || layout.ours(module).is_ok_and(|ours| is_module(&ours))
        })
    };
    // A layout with a rule for every name differs from the canonical one in weights only.
    let own = |layout: &&Layout| layout.rules.iter().all(|(ours, _)| *ours != "{*}");
    let fits = |layout: &&Layout| given.tensors.keys().all(|name| known(layout, name));
    [canonical]
        .iter()
        .chain(backbone.layouts().iter().filter(own))
        .find(fits)
        .copied()
        .unwrap_or(canonical)
}

/// Finds a layout by its name.
///
/// # Errors
/// [`Error::Config`] with the list of the layouts that the backbone has.
pub fn layout(name: &str, backbone: &dyn Backbone) -> Result<Layout> {
    let canonical = Layout::canonical(backbone.spec().head_name);
    let mut all = vec![canonical];
    all.extend(backbone.layouts());
    let found = all.iter().find(|layout| layout.name == name);
    found.copied().ok_or_else(|| {
        let mut known: Vec<_> = all.iter().map(|layout| layout.name).collect();
        known.dedup();
        let message = format!("expected one of {}, got {name:?}", known.join(", "));
        Error::config("layout", message)
    })
}

/// Translates a folder for this backbone.
///
/// # Errors
/// For an unknown `peft_type`, an unsupported field, or a name that matches nothing.
pub fn import(mut given: HfPeft, backbone: &dyn Backbone) -> Result<Imported> {
    let layout = layout_of(&given, backbone);
    let peft_type = given.field("peft_type").as_str().unwrap_or("").to_owned();
    let formats: Vec<Format> = plugins(PluginKind::Method)
        .into_iter()
        .filter_map(|plugin| plugin.hf_peft)
        .collect();
    let Some(format) = formats.iter().find(|f| f.peft_type == peft_type) else {
        let known: Vec<_> = formats.iter().map(|format| format.peft_type).collect();
        let message = format!("expected one of {}, got {peft_type:?}", known.join(", "));
        return Err(Error::config(format!("{CONFIG}: peft_type"), message));
    };
    let saved: BTreeSet<&str> = match given.field("modules_to_save") {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => BTreeSet::new(),
    };
    if let Some(other) = saved.iter().find(|name| **name != layout.head) {
        let message = format!("expected only the head ({}), got {other}", layout.head);
        return Err(Error::config(format!("{CONFIG}: modules_to_save"), message));
    }
    let mut remarks = Vec::new();
    if saved.is_empty() {
        remarks.push("the adapter's folder does not contain a head".to_owned());
    }
    // The head has the library's name there, so it must be taken out before modules are translated.
    let mut head = Tensors::new();
    for part in ["weight", "bias"] {
        if let Some(data) = given.tensors.remove(&format!("{}.{part}", layout.head)) {
            head.insert(format!("head.{part}"), data);
        }
    }
    let name = &backbone.spec().name;
    match given.field("base_model_name_or_path").as_str() {
        Some(base) if base != name => {
            remarks.push(format!(
                "the adapter says it belongs to {base}; this is {name}"
            ));
        }
        _ => {}
    }
    let mut imported = (format.read)(&given, backbone, &layout)?;
    imported.tensors.extend(head);
    imported.remarks.splice(0..0, remarks);
    Ok(imported)
}

/// Builds the folder that HF PEFT would have written for a method's values (by canonical name,
/// including the head); none if that library does not have the method.
///
/// # Errors
/// [`Error::Layout`] for a site that the layout has no name for, [`Error::Unfit`] for something that
/// HF PEFT cannot express.
pub fn export(
    method: &dyn AdaptationMethod,
    backbone: &dyn Backbone,
    layout: &Layout,
    values: &Tensors,
) -> Result<Option<HfPeft>> {
    let name = name_of(method);
    let mut methods = plugins(PluginKind::Method).into_iter();
    let plugin = methods.find(|plugin| plugin.name == name);
    let Some(format) = plugin.and_then(|plugin| plugin.hf_peft) else {
        return Ok(None);
    };
    let own = (format.write)(method, backbone, layout, values)?;
    Ok(Some(with_head(own, layout, values)))
}

/// Completes the folder that a method wrote with the head and the fields that every configuration
/// has.
fn with_head(mut own: HfPeft, layout: &Layout, tensors: &Tensors) -> HfPeft {
    for part in ["weight", "bias"] {
        if let Some(data) = tensors.get(&format!("head.{part}")) {
            own.tensors
                .insert(format!("{}.{part}", layout.head), data.clone());
        }
    }
    let common = [
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", Value::Null),
        ("inference_mode", true.into()),
        ("modules_to_save", vec![layout.head].into()),
        ("revision", Value::Null),
        ("task_type", Value::Null),
    ];
    for (field, value) in common {
        own.config.entry(field).or_insert(value);
    }
    own
}

/// A regular expression for `target_modules` that matches exactly these modules.
pub fn exactly<'a>(modules: impl IntoIterator<Item = &'a String>) -> String {
    let escaped: Vec<String> = modules
        .into_iter()
        .map(|name| regex::escape(name))
        .collect();
    escaped.join("|")
}

/// Checks that `target_modules` selects exactly the `modules` for which the file has tensors.
///
/// # Errors
/// [`Error::Target`] for a target without a match, [`Error::Config`] for modules that only one side
/// has.
pub fn check_targets(
    given: &HfPeft,
    modules: &BTreeSet<String>,
    all: &[String],
    backbone: &str,
) -> Result<()> {
    let targets = match given.field("target_modules") {
        Value::String(special) if special == "all-linear" => return Ok(()),
        Value::String(pattern) => vec![Targets::Regex(pattern.clone())],
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str);
            names
                .map(|name| Targets::Suffixes(vec![name.to_owned()]))
                .collect()
        }
        Value::Null => return Ok(()),
        other => {
            let message = format!("expected a string or a list, got {other}");
            return Err(Error::config(format!("{CONFIG}: target_modules"), message));
        }
    };
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut matched = BTreeSet::new();
    for target in &targets {
        let found = target.matching(&names)?;
        if found.is_empty() {
            return Err(Error::Target {
                target: match target {
                    Targets::Regex(pattern) => pattern.clone(),
                    Targets::Suffixes(names) => names.join(", "),
                },
                backbone: backbone.to_owned(),
                sites: listed(&names, 60),
            });
        }
        matched.extend(found.into_iter().map(str::to_owned));
    }
    let missing: Vec<_> = matched.difference(modules).collect();
    let extra: Vec<_> = modules.difference(&matched).collect();
    if missing.is_empty() && extra.is_empty() {
        return Ok(());
    }
    let message = format!(
        "it does not match the tensors\n  targets without tensors: {}\n  tensors of no target: {}",
        listed(&missing, 12),
        listed(&extra, 12)
    );
    Err(Error::config(format!("{CONFIG}: target_modules"), message))
}
