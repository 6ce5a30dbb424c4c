//! Reads and writes LoRA and DoRA in HF PEFT's folders.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::TensorData;
use peft_core::backbone::Backbone;
use peft_core::error::{Error, Result};
use peft_core::hf_peft::{HfPeft, Imported, check_targets, exactly};
use peft_core::layout::Layout;
use peft_core::params::Tensors;
use peft_core::site::{Site, SiteKind};
use serde_json::{Map, Value, json};

use crate::config::Lora;

/// The parts of a tensor's name that follow the module.
const PARTS: [&str; 3] = ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"];

pub(crate) fn write(
    lora: &Lora,
    backbone: &dyn Backbone,
    layout: &Layout,
    values: &Tensors,
) -> Result<HfPeft> {
    let mut folder = HfPeft::default();
    let (mut modules, mut ranks, mut alphas) = (Vec::new(), Map::new(), Map::new());
    let alpha = lora.alpha.unwrap_or(lora.rank as f64);
    for place in lora.places(backbone)? {
        let name = place.picked.name();
        if place.picked.slice.is_some() && layout.theirs(&place.picked.site.name).is_ok() {
            return Err(Error::Unfit {
                method: "lora in HF PEFT's form".to_owned(),
                backbone: backbone.spec().name.clone(),
                reason: format!(
                    "{name} is a part of {}, which {} adapts whole; another layout may have it as \
                     a module",
                    place.picked.site.name, layout.name
                ),
            });
        }
        let module = layout.theirs(name)?;
        // PEFT matches patterns at the end of a name; `^` makes them match the whole name.
        let whole = || format!("^{}", exactly([&module]));
        if place.rank != lora.rank {
            ranks.insert(whole(), place.rank.into());
        }
        if place.alpha != alpha {
            alphas.insert(whole(), place.alpha.into());
        }
        for part in PARTS {
            if let Some(data) = values.get(&format!("lora.{name}.{part}")) {
                let data = match (part, place.picked.site.kind) {
                    ("lora_magnitude_vector", SiteKind::Conv { outputs, .. }) => {
                        TensorData::new(floats(data), [1, outputs, 1, 1])
                    }
                    _ => data.clone(),
                };
                folder.tensors.insert(format!("{module}.{part}"), data);
            }
        }
        modules.push(module);
    }
    let config = json!({
        "peft_type": "LORA",
        "target_modules": exactly(&modules),
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "use_rslora": lora.rslora,
        "use_dora": lora.dora,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    });
    if let Value::Object(config) = config {
        folder.config = config;
    }
    Ok(folder)
}

fn floats(data: &TensorData) -> Vec<f32> {
    peft_core::params::floats(data.clone())
}

/// The supported fields, each with its supported values; an empty list stands for any value.
fn known() -> Vec<(&'static str, Vec<Value>)> {
    let any = |field| (field, Vec::new());
    vec![
        any("peft_type"),
        any("peft_version"),
        any("auto_mapping"),
        any("base_model_name_or_path"),
        any("revision"),
        any("task_type"),
        any("inference_mode"),
        any("modules_to_save"),
        any("target_modules"),
        any("exclude_modules"),
        any("r"),
        any("lora_alpha"),
        any("lora_dropout"),
        any("use_rslora"),
        any("use_dora"),
        any("rank_pattern"),
        any("alpha_pattern"),
        ("bias", vec!["none".into()]),
        // How the factors were initialised. Methods that also change the base weights are refused.
        ("init_lora_weights", vec![true.into(), "gaussian".into()]),
        // Fields of features that are switched off.
        any("megatron_core"),
        any("qalora_group_size"),
        any("ensure_weight_tying"),
    ]
}

pub(crate) fn read(given: &HfPeft, backbone: &dyn Backbone, layout: &Layout) -> Result<Imported> {
    let known = known();
    let known: Vec<_> = known.iter().map(|(name, v)| (*name, &v[..])).collect();
    given.refuse_all_but(&known)?;
    let number = |field: &str| {
        let message = || format!("expected a number, got {}", given.field(field));
        let value = given.field(field).as_f64();
        value.ok_or_else(|| Error::config(format!("adapter_config.json: {field}"), message()))
    };
    let (rank, alpha) = (number("r")? as usize, number("lora_alpha")?);

    let spec = backbone.spec();
    let sites: BTreeMap<&str, &Site> = (spec.sites.iter())
        .flat_map(|site| {
            let slices = site.slices.iter().map(|slice| slice.name.as_str());
            slices
                .chain([site.name.as_str()])
                .map(move |name| (name, site))
        })
        .collect();
    let (mut modules, mut tensors) = (BTreeSet::new(), Tensors::new());
    let (mut names, mut ranks, mut alphas) = (Vec::new(), Map::new(), Map::new());
    for (key, data) in &given.tensors {
        let part = PARTS.iter().find(|part| key.ends_with(&format!(".{part}")));
        let unknown =
            |what: &str| Error::config("adapter_model.safetensors", format!("{key}: {what}"));
        let Some(part) = part else {
            return Err(unknown("expected a factor or a magnitude of LoRA"));
        };
        let module = key[..key.len() - part.len()]
            .trim_end_matches('.')
            .to_owned();
        let name = layout.ours(&module)?;
        if !sites.contains_key(name.as_str()) {
            return Err(unknown(&format!("{} has no module {name}", spec.name)));
        }
        if *part == PARTS[0] {
            let own = data.shape()[0];
            let said = pattern(given.field("rank_pattern"), &module)?.unwrap_or(rank as f64);
            if own as f64 != said {
                return Err(unknown(&format!("expected rank {said}, got {own}")));
            }
            let whole = format!("^{}", exactly([&name]));
            if own != rank {
                ranks.insert(whole.clone(), own.into());
            }
            if let Some(alpha) = pattern(given.field("alpha_pattern"), &module)? {
                alphas.insert(whole, alpha.into());
            }
            names.push(name.clone());
        }
        // HF PEFT stores the magnitude of a convolution as `[1, out, 1, 1]`.
        let data = if *part == PARTS[2] {
            TensorData::new(floats(data), [data.num_elements()])
        } else {
            data.clone()
        };
        tensors.insert(format!("lora.{name}.{part}"), data);
        modules.insert(module);
    }
    let all: Vec<String> = sites
        .iter()
        .filter(|(_, site)| matches!(site.kind, SiteKind::Linear { .. } | SiteKind::Conv { .. }))
        .filter_map(|(name, _)| layout.theirs(name).ok())
        .collect();
    check_targets(given, &modules, &all, &spec.name)?;
    let method = json!({
        "name": "lora",
        "rank": rank,
        "alpha": alpha,
        "dropout": number("lora_dropout").unwrap_or(0.0),
        "targets": exactly(&names),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "rslora": given.field("use_rslora") == &Value::Bool(true),
        "dora": given.field("use_dora") == &Value::Bool(true),
    });
    Ok(Imported {
        method,
        tensors,
        remarks: Vec::new(),
    })
}

/// The value of the first pattern that matches a module, in the order of the file; a pattern is matched
/// as `(.*\.)?(pattern)$`.
fn pattern(patterns: &Value, module: &str) -> Result<Option<f64>> {
    let Value::Object(patterns) = patterns else {
        return Ok(None);
    };
    for (pattern, value) in patterns {
        let targets = peft_core::Targets::Regex(format!("(.*\\.)?({pattern})"));
        if !targets.matching(&[module])?.is_empty() {
            return Ok(value.as_f64());
        }
    }
    Ok(None)
}
