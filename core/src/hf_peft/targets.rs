//! Which modules the configuration of a folder selects, by the rules of HF PEFT: `target_modules`,
//! `exclude_modules`, `layers_to_transform` and `layers_pattern`.
//!
//! The tensors themselves name the modules. The selection is a second opinion: where both differ, the
//! file or its configuration is damaged, or this is another model than the one that was trained.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::{Error, Result, listed};
use crate::hf_peft::folder::{CONFIG, HfPeft};
use crate::pattern::Pattern;
use crate::site::{Targets, is_suffix};

/// Checks that the configuration selects exactly the `modules` for which the file has tensors, among
/// `all` that the backbone has; both without what a wrapper put before their names. Returns remarks
/// about entries of a list that select nothing.
///
/// # Errors
/// [`Error::Config`] for an invalid pattern, or for modules that only one side has.
pub fn check_targets(
    given: &HfPeft,
    modules: &BTreeSet<String>,
    all: &[String],
    backbone: &str,
) -> Result<Vec<String>> {
    let seen = |name: &String| given.seen(name).into_owned();
    let all: Vec<String> = all.iter().map(seen).collect();
    let modules: BTreeSet<String> = modules.iter().map(seen).collect();
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let (mut readings, idle) = match given.field("target_modules") {
        Value::Null => return Ok(Vec::new()),
        // Other layers than those of this backbone may count as linear there.
        Value::String(special) if special == "all-linear" => return Ok(Vec::new()),
        Value::String(pattern) => {
            let matched = Targets::Regex(pattern.clone()).matching(&names);
            let matched = matched.map_err(|e| e.at(format!("{CONFIG}: target_modules")))?;
            (vec![matched], Vec::new())
        }
        Value::Array(_) => from_list(given, &names)?,
        other => {
            let message = format!("expected a string or a list, got {other}");
            return Err(Error::config(format!("{CONFIG}: target_modules"), message));
        }
    };
    let excluded: BTreeSet<&str> = match given.field("exclude_modules") {
        Value::String(pattern) => {
            let whole = Targets::Regex(pattern.clone()).matching(&names);
            let matched = whole.map_err(|e| e.at(format!("{CONFIG}: exclude_modules")))?;
            matched.into_iter().collect()
        }
        list => {
            let suffixes = Targets::Suffixes(strings("exclude_modules", list)?);
            suffixes.matching(&names)?.into_iter().collect()
        }
    };
    let saved = strings("modules_to_save", given.field("modules_to_save"))?;
    // A module that is saved whole gets no factors.
    for selected in &mut readings {
        selected.retain(|name| !excluded.contains(name) && !lies_in(name, &saved));
    }
    let modules: BTreeSet<&str> = modules.iter().map(String::as_str).collect();
    let readings = readings.into_iter();
    let readings: Vec<BTreeSet<&str>> = readings.map(|names| names.into_iter().collect()).collect();
    if readings.contains(&modules) {
        let remark = |entry: &String| {
            format!("target_modules: {entry} matches no module of {backbone} and is passed over")
        };
        return Ok(idle.iter().map(remark).collect());
    }
    let missing: Vec<_> = readings[0].difference(&modules).collect();
    let extra: Vec<_> = modules.difference(&readings[0]).collect();
    let mut message = format!(
        "it does not match the tensors\n  targets without tensors: {}\n  tensors of no target: {}",
        listed(&missing, 12),
        listed(&extra, 12)
    );
    if !idle.is_empty() {
        message += &format!("\n  targets that match nothing: {}", listed(&idle, 12));
    }
    Err(Error::config(format!("{CONFIG}: target_modules"), message))
}

/// The `names` that a list of targets selects within the chosen layers, in each of the ways in which
/// versions of the library read the fields, and the entries that match none of the names.
fn from_list<'n>(given: &HfPeft, names: &[&'n str]) -> Result<(Vec<Vec<&'n str>>, Vec<String>)> {
    let targets = strings("target_modules", given.field("target_modules"))?;
    let saved = strings("modules_to_save", given.field("modules_to_save"))?;
    let is_idle = |target: &&String| !names.iter().any(|name| is_suffix(name, target));
    // `all-linear` is saved as a list that holds the head, although it is saved whole.
    let idle = targets.iter().filter(is_idle);
    let idle = idle
        .filter(|name| !lies_in(name, &saved))
        .cloned()
        .collect();
    let selected = Targets::Suffixes(targets).matching(names)?;
    let layers = match given.field("layers_to_transform") {
        Value::Null => return Ok((vec![selected], idle)),
        Value::Array(layers) if layers.is_empty() => return Ok((vec![selected], idle)),
        Value::Array(layers) => layers.iter().map(index).collect::<Result<Vec<_>>>()?,
        layer => vec![index(layer)?],
    };
    let patterns = strings("layers_pattern", given.field("layers_pattern"))?;
    // Where names hold several numbers, newer versions take the first and older ones the last.
    let readings = [".*?", ".*"].map(|start| {
        let whole = |pattern: &String| format!(r"^(?:{start}\.)?(?:{pattern})\.(\d+)\.");
        let mut whole: Vec<String> = patterns.iter().map(whole).collect();
        if patterns.is_empty() {
            whole.push(format!(r"^{start}\.[^.]*\.(\d+)\."));
        }
        in_layers(&selected, &layers, &whole)
    });
    Ok((readings.into_iter().collect::<Result<_>>()?, idle))
}

/// The `names` whose number, by the first pattern that finds one, is among `layers`.
fn in_layers<'n>(names: &[&'n str], layers: &[u64], patterns: &[String]) -> Result<Vec<&'n str>> {
    let bad = |e| Error::config(format!("{CONFIG}: layers_pattern"), e);
    let patterns = patterns.iter().map(|pattern| Pattern::new(pattern));
    let patterns: Vec<Pattern> = patterns.collect::<Result<_, _>>().map_err(bad)?;
    let mut found = Vec::new();
    for name in names {
        let mut number = None;
        for pattern in &patterns {
            number = match number {
                Some(number) => Some(number),
                None => pattern.number(name).map_err(bad)?,
            };
        }
        if number.is_some_and(|number| layers.contains(&number)) {
            found.push(*name);
        }
    }
    Ok(found)
}

fn index(layer: &Value) -> Result<u64> {
    layer.as_u64().ok_or_else(|| {
        let message = format!("expected the number of a layer or a list of numbers, got {layer}");
        Error::config(format!("{CONFIG}: layers_to_transform"), message)
    })
}

/// The strings of a list; none for null, and one for a string alone.
///
/// # Errors
/// [`Error::Config`] for any other value.
pub(super) fn strings(field: &str, value: &Value) -> Result<Vec<String>> {
    let refuse = || {
        let message = format!("expected a list of names, got {value}");
        Error::config(format!("{CONFIG}: {field}"), message)
    };
    match value {
        Value::Null => Ok(Vec::new()),
        // The library makes a string of letters of it in some versions; one name is meant.
        Value::String(name) if name.is_empty() => Ok(Vec::new()),
        Value::String(name) => Ok(vec![name.clone()]),
        Value::Array(items) => {
            let names = items.iter().map(|item| item.as_str().map(str::to_owned));
            names.collect::<Option<_>>().ok_or_else(refuse)
        }
        _ => Err(refuse()),
    }
}

/// Whether a module, or one that contains it, ends with one of `names` after a dot.
pub(super) fn lies_in(module: &str, names: &[String]) -> bool {
    let ends = module.match_indices('.').map(|(end, _)| &module[..end]);
    let mut around = ends.chain([module]);
    around.any(|module| names.iter().any(|name| is_suffix(module, name)))
}

/// A regular expression for `target_modules` that matches exactly these modules.
pub fn exactly<'a>(modules: impl IntoIterator<Item = &'a String>) -> String {
    let escaped: Vec<String> = modules
        .into_iter()
        .map(|name| regex::escape(name))
        .collect();
    escaped.join("|")
}
