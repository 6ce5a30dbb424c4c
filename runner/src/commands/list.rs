//! `runner list`: what is linked, by name.

use std::collections::BTreeMap;

use peft_core::registry::{PluginKind, plugins};
use serde_json::json;

use crate::cli::{Format, Listed};
use crate::config::find;
use crate::exit::Failure;

/// Lists plugins or shipped configs.
pub fn list(what: Listed, format: Format) -> Result<(), Failure> {
    let kind = match what {
        Listed::Methods => PluginKind::Method,
        Listed::Backbones => PluginKind::Backbone,
        Listed::Datasets => PluginKind::Dataset,
        Listed::Variants => {
            let families = plugins(PluginKind::Backbone).into_iter();
            let families = families.filter_map(|p| Some((p.name, (p.family?.variants)())));
            let families: BTreeMap<_, _> = families.collect();
            match format {
                Format::Text => families.iter().for_each(|(family, names)| {
                    names.iter().for_each(|name| println!("{family:<8}{name}"));
                }),
                Format::Json => println!("{}", json!(families)),
            }
            return Ok(());
        }
        Listed::Configs => {
            let names = find::names("");
            match format {
                Format::Text => names.iter().for_each(|name| println!("{name}")),
                Format::Json => println!("{}", json!(names)),
            }
            return Ok(());
        }
    };
    let plugins = plugins(kind);
    if format == Format::Json {
        let entry = |p: &&peft_core::registry::Plugin| {
            json!({
                "name": p.name,
                "summary": p.summary,
                "reference": p.reference,
                "crate": p.crate_name,
                "example": p.example,
            })
        };
        println!("{}", json!(plugins.iter().map(entry).collect::<Vec<_>>()));
        return Ok(());
    }
    let width = plugins.iter().map(|p| p.name.len()).max().unwrap_or(0);
    for plugin in plugins {
        println!("{:<width$}  {}", plugin.name, plugin.summary);
        println!("{:<width$}  {}", "", plugin.reference);
    }
    Ok(())
}
