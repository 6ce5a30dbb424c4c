//! Tensors that HF PEFT stores by module and part, `<module>.<part>`, in both directions: the form of
//! every method whose parameters belong to one layer each.

use std::collections::BTreeSet;

use crate::backbone::Backbone;
use crate::error::{Error, Result};
use crate::hf_peft::folder::{HfPeft, TENSORS};
use crate::hf_peft::targets::{check_targets, exactly};
use crate::layer_sites::LayerSite;
use crate::layout::Layout;
use crate::params::Tensors;
use crate::site::{Picked, Site};

/// The tensors of a method in a folder.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Canonical names of the adapted layers and slices.
    pub names: BTreeSet<String>,
    /// Values by canonical name, `<method>.<site>.<part>`.
    pub tensors: Tensors,
    /// Facts that the user should know.
    pub remarks: Vec<String>,
}

/// Reads the `parts` of a method's parameters at each adapted layer.
///
/// # Errors
/// For a tensor that is no such part, a module that is no layer of the backbone, or a configuration that
/// selects other modules.
pub fn read_parts(
    given: &HfPeft,
    backbone: &dyn Backbone,
    layout: &Layout,
    method: &str,
    parts: &[&str],
) -> Result<Parts> {
    let spec = backbone.spec();
    let (mut names, mut modules, mut tensors) = (BTreeSet::new(), BTreeSet::new(), Tensors::new());
    for (key, data) in &given.tensors {
        let refuse = |what: String| Error::config(TENSORS, format!("{key}: {what}"));
        let of = |part: &str| key.strip_suffix(part)?.strip_suffix('.');
        let Some((module, part)) = parts.iter().find_map(|part| Some((of(part)?, *part))) else {
            return Err(refuse(format!("expected one of {}", parts.join(", "))));
        };
        let name = layout.ours(module)?;
        let known = |site: &Site| site.parts().any(|(own, _)| own == name);
        if !spec.sites.iter().any(known) {
            return Err(refuse(format!("{} has no module {name}", spec.name)));
        }
        tensors.insert(format!("{method}.{name}.{part}"), data.clone());
        modules.insert(module.to_owned());
        names.insert(name);
    }
    if names.is_empty() {
        let message = format!("expected factors at modules of {}, got none", spec.name);
        return Err(Error::config(TENSORS, message));
    }
    let remarks = check_targets(
        given,
        &modules,
        &layer_modules(backbone, layout),
        &spec.name,
    )?;
    Ok(Parts {
        names,
        tensors,
        remarks,
    })
}

/// Builds the folder of a method's `parts` at these layers; its fields are those that every method has.
///
/// # Errors
/// See [`module_of`].
pub fn write_parts(
    sites: &[LayerSite],
    backbone: &dyn Backbone,
    layout: &Layout,
    method: &str,
    parts: &[&str],
    values: &Tensors,
) -> Result<HfPeft> {
    let mut folder = HfPeft::default();
    let mut modules = Vec::with_capacity(sites.len());
    for site in sites {
        let module = module_of(&site.picked, backbone, layout, method)?;
        for part in parts {
            if let Some(data) = values.get(&format!("{method}.{}.{part}", site.name())) {
                folder
                    .tensors
                    .insert(format!("{module}.{part}"), data.clone());
            }
        }
        modules.push(module);
    }
    let targets = exactly(&modules).into();
    folder.config.insert("target_modules".to_owned(), targets);
    Ok(folder)
}

/// The library's module of an adapted layer.
///
/// # Errors
/// [`Error::Unfit`] for a part of a layer that the layout has as one module, [`Error::Layout`] for a
/// layer that it does not have.
pub fn module_of(
    picked: &Picked,
    backbone: &dyn Backbone,
    layout: &Layout,
    method: &str,
) -> Result<String> {
    let (name, site) = (picked.name(), &picked.site.name);
    if picked.slice.is_some() && layout.theirs(site).is_ok() {
        let reason = format!(
            "{name} is a part of {site}, which {} adapts whole; another layout may have it as a module",
            layout.name
        );
        let method = format!("{method} in HF PEFT's form");
        return Err(backbone.spec().unfit(&method, reason));
    }
    layout.theirs(name)
}

/// The library's names of all linear layers and convolutions.
pub fn layer_modules(backbone: &dyn Backbone, layout: &Layout) -> Vec<String> {
    let spec = backbone.spec();
    let mut modules = Vec::new();
    for site in spec.sites.iter().filter(|site| site.kind.has_matrix()) {
        // Where the layout has the fused layer as a module, its parts are none.
        match layout.theirs(&site.name) {
            Ok(whole) => modules.push(whole),
            Err(_) => modules.extend(
                site.slices
                    .iter()
                    .filter_map(|s| layout.theirs(&s.name).ok()),
            ),
        }
    }
    modules
}
