//! Shorthands for tests against HF PEFT's files below `fixtures`.

use std::path::Path;

use peft_core::backbone::BackboneConfig;
use peft_core::hf_peft::{self, HfPeft};
use serde_json::Value;

use crate::golden::{FIXTURES, check_hf_peft};
use crate::tiny::built;

/// Gives the name in HF PEFT's files of a method's parameter with a canonical name, on a backbone whose
/// library calls the head `head`.
pub fn theirs(method: &str, head: &str) -> impl Fn(&str) -> String {
    let (start, head) = (format!("{method}."), format!("{head}."));
    move |name| {
        let own = name.strip_prefix(&start);
        let own = own.map_or_else(|| name.replacen("head.", &head, 1), str::to_owned);
        format!("base_model.model.{own}")
    }
}

/// [`check_hf_peft`] of the folder `hf_peft/<name>`, made for the tiny model of the backbone's family.
///
/// # Panics
/// At the first difference.
pub fn check_folder(name: &str, backbone: &dyn BackboneConfig) {
    let base = match backbone.typetag_name() {
        "resnet" => "resnet_bottleneck",
        _ => "vit_tiny",
    };
    check_hf_peft(
        &format!("{FIXTURES}/hf_peft/{name}"),
        &format!("{FIXTURES}/{base}"),
        backbone,
    );
}

/// The error that reading the folder `hf_peft/<name>` gives once a field of its configuration has another
/// value.
///
/// # Panics
/// If it is read nevertheless.
pub fn refusal(name: &str, backbone: &dyn BackboneConfig, field: &str, value: Value) -> String {
    let folder = Path::new(FIXTURES).join("hf_peft").join(name);
    let mut given = HfPeft::read(&folder).unwrap_or_else(|e| panic!("{e}"));
    given.config.insert(field.to_owned(), value);
    match hf_peft::import(given, &*built(backbone)) {
        Ok(_) => panic!("{name} is read with another {field}"),
        Err(error) => error.to_string(),
    }
}
