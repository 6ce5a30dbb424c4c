//! `runner list`: the methods, backbones, data sets, configs and studies that this binary knows, and the
//! devices that answer it here.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use peft_core::registry::{PluginKind, plugins};
use serde::Serialize;
use serde_json::json;

use crate::cli::args::Format;
use crate::commands::print::json as print_json;
use crate::commands::study;
use crate::config::find;
use crate::device::{Answer, ComputeDevice, Kind, answering};
use crate::exit::Failure;

/// List methods, backbones, variants, data sets, shipped configs, studies, or devices.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner list methods")]
pub struct ListArgs {
    /// The kind of things to list.
    pub what: Listed,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// The kinds of things that can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Listed {
    /// Methods of adaptation.
    Methods,
    /// Architectures.
    Backbones,
    /// Published variants of the architectures.
    Variants,
    /// Data sets.
    Datasets,
    /// Shipped configs.
    Configs,
    /// The paper's studies.
    Studies,
    /// Devices that answer, and what the other kinds lack here.
    Devices,
}

/// Lists plugins or shipped configs.
pub fn list(args: &ListArgs) -> Result<(), Failure> {
    let &ListArgs { what, format } = args;
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
        Listed::Studies => return study::list(format),
        Listed::Devices => return list_devices(format),
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

/// A device, or a kind of which none can be used.
#[derive(Serialize)]
struct DeviceEntry {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Whether it computes in bf16.
    bf16: bool,
    /// Whether it is a driver that computes on the CPU.
    software: bool,
    /// What this binary or this machine lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

impl DeviceEntry {
    fn of(device: &ComputeDevice, model: String, software: bool) -> Self {
        Self {
            name: device.name.clone(),
            model: Some(model),
            bf16: device.has_bf16(),
            software,
            missing: None,
        }
    }

    fn text(&self) -> String {
        let what = match (&self.model, &self.missing) {
            (_, Some(missing)) => format!("not usable: {missing}"),
            (model, None) => model.clone().unwrap_or_default(),
        };
        let bf16 = match self.bf16 {
            true if self.name == "cpu" => format!(", {}", ComputeDevice::bf16_of_cpu()),
            true => ", bf16".to_owned(),
            false => String::new(),
        };
        let software = if self.software {
            ", a software rasteriser"
        } else {
            ""
        };
        format!("{:<10}{what}{bf16}{software}", self.name)
    }
}

/// Lists the CPU, and for each kind of accelerator its devices or what it lacks.
fn list_devices(format: Format) -> Result<(), Failure> {
    let cpu = ComputeDevice::cpu();
    let mut entries = vec![DeviceEntry::of(
        &cpu,
        std::env::consts::ARCH.to_owned(),
        false,
    )];
    for kind in Kind::ALL {
        match answering(kind) {
            Ok(found) => entries.extend(found.into_iter().map(|answer| {
                let Answer {
                    device,
                    software,
                    model,
                } = answer;
                DeviceEntry::of(&device, model, software)
            })),
            Err(missing) => entries.push(DeviceEntry {
                name: kind.name().to_owned(),
                model: None,
                bf16: false,
                software: false,
                missing: Some(missing),
            }),
        }
    }
    match format {
        Format::Text => entries
            .iter()
            .for_each(|entry| println!("{}", entry.text())),
        Format::Json => print_json(&entries)?,
    }
    Ok(())
}
