//! Import and export of HF PEFT's folders: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Keys on disk are `base_model.model.` + module + parameter. The method that registered the format
//! translates its own values; this module finds it, handles the head, and refuses everything that does
//! not fit. PEFT itself silently loads adapters of which nothing matches.

pub(crate) mod folder;
mod parts;
mod saved;
mod targets;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::backbone::Backbone;
use crate::checkpoint::prefixes;
use crate::error::{Error, Result, listed};
use crate::layout::Layout;
use crate::method::{AdaptationMethod, name_of};
use crate::params::{self, Tensors};
use crate::registry::{Plugin, PluginKind, plugins};
use crate::site::Site;
use crate::spec::BackboneSpec;

use folder::{CONFIG, TENSORS};
pub use folder::{Format, HfPeft, Imported, Write};
pub use parts::{Parts, layer_modules, module_of, read_parts, write_parts};
pub use targets::{check_targets, exactly};

/// The layout in which the tensors name the backbone's modules: the canonical one, or the one of the
/// backbone's others that knows most of them.
pub fn layout_of(given: &HfPeft, backbone: &dyn Backbone) -> Layout {
    reading_of(given, backbone).0
}

/// That layout, and what wrappers put before the names. A wrapper is one only if no module of the
/// backbone is named without it.
fn reading_of(given: &HfPeft, backbone: &dyn Backbone) -> (Layout, String) {
    let spec = backbone.spec();
    let canonical = Layout::canonical(spec.head_name);
    // A layout with a rule for every name differs from the canonical one in weights only.
    let own = |layout: &&Layout| layout.rules.iter().all(|(ours, _)| *ours != "{*}");
    let modules = modules(backbone);
    let mut wrappers: Vec<&str> = given.tensors.keys().flat_map(|n| prefixes(n)).collect();
    wrappers.sort_unstable_by_key(|wrapper| (wrapper.len(), *wrapper));
    wrappers.dedup();
    // How many tensors a reading knows, and of how many it would write the very name.
    let known = |layout: &Layout, wrapper: &str| {
        let (mut count, mut exact) = (0, 0);
        for name in given.tensors.keys() {
            let (bare, inside) = match name.strip_prefix(wrapper) {
                Some(bare) => (bare, true),
                None => (name.as_str(), false),
            };
            let of_head = bare.starts_with(&format!("{}.", layout.head));
            let module = owner(layout, &modules, bare);
            if module.is_some() && !of_head && !inside {
                return (0, 0);
            }
            let again = |ours: &String| {
                layout
                    .theirs(ours)
                    .is_ok_and(|theirs| is_part(bare, &theirs))
            };
            exact += usize::from(module.as_ref().is_some_and(again));
            let read = module.is_some() || of_head || ignored(layout, &modules, bare).is_some();
            count += usize::from(read);
        }
        (count, exact)
    };
    let others = backbone.layouts().iter().filter(own).copied();
    // A model that was saved alone lacks the prefix that it has inside another.
    let written = |layout: Layout| {
        let starts = 0..layout.prefixes.len();
        starts.map(move |first| Layout {
            prefixes: &layout.prefixes[first..],
            ..layout
        })
    };
    let layouts: Vec<Layout> = std::iter::once(canonical)
        .chain(others)
        .flat_map(written)
        .collect();
    let mut best = ((0, 0), canonical, "");
    for wrapper in wrappers {
        for layout in &layouts {
            let count = known(layout, wrapper);
            // Of equal readings the one with the shortest wrapper counts.
            let better = match wrapper == best.2 {
                true => count > best.0,
                false => count.0 > best.0.0,
            };
            if better {
                best = (count, *layout, wrapper);
            }
        }
    }
    (best.1, best.2.to_owned())
}

/// The names of the backbone's sites, slices and parameters.
fn modules(backbone: &dyn Backbone) -> BTreeSet<String> {
    let sites = backbone.spec().sites.iter();
    let named = |site: &Site| {
        let slices = site.slices.iter().map(|slice| slice.name.clone());
        slices.chain([site.name.clone()]).collect::<Vec<_>>()
    };
    let parameters = params::infos_erased(backbone).into_iter();
    sites
        .flat_map(named)
        .chain(parameters.map(|info| info.name))
        .collect()
}

/// The module of the backbone that a tensor belongs to. Its name extends the module's, so that some prefix of it must
/// be one.
fn owner(layout: &Layout, modules: &BTreeSet<String>, name: &str) -> Option<String> {
    let ends = name.match_indices('.').map(|(end, _)| &name[..end]);
    let mut ours = ends
        .chain([name])
        .filter_map(|module| layout.ours(module).ok());
    ours.find(|ours| modules.contains(ours))
}

/// Whether `name` is that of a module or of a part of it.
fn is_part(name: &str, module: &str) -> bool {
    name.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The entry of the layout's list of other parts, such as a text tower, that a tensor belongs to.
fn ignored(layout: &Layout, modules: &BTreeSet<String>, name: &str) -> Option<&'static str> {
    if is_part(name, layout.head) || owner(layout, modules, name).is_some() {
        return None;
    }
    let prefixes = layout.prefixes.iter();
    let mut bare = prefixes.filter_map(|prefix| name.strip_prefix(prefix));
    bare.find_map(|bare| layout.ignores(bare))
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
    let (layout, wrapper) = reading_of(&given, backbone);
    given.unwrap(&wrapper);
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
    let name = &backbone.spec().name;
    let mut remarks = given.remarks.clone();
    match given.field("base_model_name_or_path").as_str() {
        Some(base) if base != name => {
            remarks.push(format!(
                "the adapter says it belongs to {base}; this is {name}"
            ));
        }
        _ => {}
    }
    remarks.extend(saved::not_there(&given)?);
    remarks.extend(leave_alone(&mut given, backbone, &layout)?);
    // The head has the library's name there, so it must be taken out before modules are translated.
    let saved = saved::take(&mut given, backbone, &layout)?;
    remarks.splice(0..0, saved.remarks);
    let idle = functional(&given.tensors, backbone.spec(), &layout);
    if !idle.is_empty() {
        remarks.push(format!(
            "adapters at {} never run in the library, whose attention reads these weights itself: they have no effect \
             there, but they act here",
            listed(&idle, 3)
        ));
    }

    let mut imported = (format.read)(&given, backbone, &layout)?;
    let (tuning, values) = saved::tuning(saved.own, backbone);
    imported.methods.extend(tuning);
    imported.tensors.extend(values);
    imported.tensors.extend(saved.head);
    imported.remarks.splice(0..0, remarks);
    Ok(imported)
}

/// The modules that have an adapter and never run in the library, by its names.
fn functional<'a>(tensors: &'a Tensors, spec: &BackboneSpec, layout: &Layout) -> Vec<&'a str> {
    let adapted = tensors.keys().filter_map(|name| {
        let (module, part) = name.rsplit_once('.')?;
        match part {
            // Of a layer of the adapter: `MODULE.lora_A.weight`.
            "weight" | "bias" => module.rsplit_once('.').map(|(module, _)| module),
            _ => Some(module),
        }
    });
    let never_runs = |module: &&str| {
        let ours = layout.ours(module).ok();
        let site = ours.and_then(|ours| spec.site(&ours));
        site.is_some_and(|site| layout.is_functional(site))
    };
    let modules: BTreeSet<&str> = adapted.filter(never_runs).collect();
    modules.into_iter().collect()
}

/// Drops the tensors of other parts than the backbone, for example those of CLIP's text tower, and says
/// which.
fn leave_alone(
    given: &mut HfPeft,
    backbone: &dyn Backbone,
    layout: &Layout,
) -> Result<Option<String>> {
    let modules = modules(backbone);
    let all = given.tensors.len();
    let mut parts = BTreeSet::new();
    given
        .tensors
        .retain(|name, _| match ignored(layout, &modules, name) {
            Some(part) => {
                parts.insert(part.trim_end_matches('.'));
                false
            }
            None => true,
        });
    let left = all - given.tensors.len();
    if left == 0 {
        return Ok(None);
    }
    let parts: Vec<_> = parts.into_iter().collect();
    let parts = listed(&parts, 12);
    let name = &backbone.spec().name;
    if left == all {
        let message = format!("expected tensors of {name}, got only those of {parts}");
        return Err(Error::config(TENSORS, message));
    }
    Ok(Some(format!(
        "{left} of {all} tensors belong to {parts}, which are no part of {name}, and are left alone"
    )))
}

/// Builds the folder that HF PEFT would have written for the values of methods (by canonical name,
/// including the head); none if that library does not have the methods. One of them has a form there;
/// the others may tune the backbone's own parameters, which are saved beside it.
///
/// # Errors
/// [`Error::Layout`] for a site that the layout has no name for, [`Error::Unfit`] for something that
/// HF PEFT cannot express.
pub fn export(
    methods: &[Box<dyn AdaptationMethod>],
    backbone: &dyn Backbone,
    layout: &Layout,
    values: &Tensors,
) -> Result<Option<HfPeft>> {
    let known = plugins(PluginKind::Method);
    let format = |method: &dyn AdaptationMethod| {
        let name = name_of(method);
        let plugin: Option<&&Plugin> = known.iter().find(|plugin| plugin.name == name);
        plugin.and_then(|plugin| plugin.hf_peft)
    };
    let with_values = |method: &dyn AdaptationMethod| {
        let start = format!("{}.", name_of(method));
        values.keys().any(|name| name.starts_with(&start))
    };
    // A method with values of its own comes first: tuned norms can be saved beside it.
    let mut chosen = methods.iter().filter(|m| with_values(&***m));
    let chosen = match (chosen.next(), chosen.next(), methods) {
        (Some(only), None, _) | (None, None, [only]) => only,
        _ => return Ok(None),
    };
    let Some(own_format) = format(&**chosen) else {
        return Ok(None);
    };
    let mut own = (own_format.write)(&**chosen, backbone, layout, values)?;
    let idle = functional(&own.tensors, backbone.spec(), layout);
    if !idle.is_empty() {
        let reason = format!(
            "an adapter of HF PEFT has no effect at {}, whose weight the attention of {} reads itself; merge it, or \
             export it for timm with --format pytorch",
            listed(&idle, 3),
            layout.name
        );
        return Err(backbone.spec().unfit(&name_of(&**chosen), reason));
    }
    let has_head = values.keys().any(|name| name.starts_with("head."));
    let mut modules: Vec<String> = has_head
        .then(|| layout.head.to_owned())
        .into_iter()
        .collect();
    if methods.len() > 1 {
        let tuned = values.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix("backbone.")?.to_owned(), value.clone()))
        });
        modules.extend(saved::put(&mut own, &tuned.collect(), backbone, layout)?);
    }
    Ok(Some(with_head(own, modules, layout, values)))
}

/// Completes the folder that a method wrote with the head and the fields that every configuration
/// has.
fn with_head(mut own: HfPeft, modules: Vec<String>, layout: &Layout, tensors: &Tensors) -> HfPeft {
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
        ("modules_to_save", modules.into()),
        ("revision", Value::Null),
        ("task_type", Value::Null),
    ];
    for (field, value) in common {
        own.config.entry(field).or_insert(value);
    }
    own
}
