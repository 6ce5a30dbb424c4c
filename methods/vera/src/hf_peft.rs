//! Reads and writes VeRA in HF PEFT's folders, which may hold the frozen pair.

use burn::tensor::TensorData;
use peft_core::backbone::Backbone;
use peft_core::error::{Error, Result};
use peft_core::hf_peft::{HfPeft, Imported, exactly, read_parts, write_parts};
use peft_core::layout::Layout;
use peft_core::params::{Tensors, floats};
use serde_json::json;

use crate::config::Vera;

const PARTS: [&str; 2] = ["vera_lambda_b", "vera_lambda_d"];
/// The names of the frozen pair, which belongs to no module.
const PAIR: [&str; 2] = ["base_model.vera_A", "base_model.vera_B"];

pub(crate) fn write(
    vera: &Vera,
    backbone: &dyn Backbone,
    layout: &Layout,
    values: &Tensors,
) -> Result<HfPeft> {
    let sites = vera.sites(backbone)?;
    let mut folder = write_parts(&sites, backbone, layout, "vera", &PARTS, values)?;
    let pair = PAIR.map(str::to_owned).into_iter().zip(vera.pair(&sites));
    folder.tensors.extend(pair);
    Ok(folder.with_fields(json!({
        "peft_type": "VERA",
        "r": vera.rank,
        "d_initial": vera.d_initial,
        "projection_prng_key": vera.seed,
        "save_projection": true,
        "vera_dropout": 0.0,
        "fan_in_fan_out": false,
        "bias": "none",
        "init_weights": true,
    })))
}

pub(crate) fn read(given: &HfPeft, backbone: &dyn Backbone, layout: &Layout) -> Result<Imported> {
    let any = [
        "r",
        "d_initial",
        "projection_prng_key",
        "save_projection",
        "bias",
        "init_weights",
        "layers_to_transform",
        "layers_pattern",
    ];
    given.refuse_all_but_any(&any, &["vera_dropout"])?;
    let mut given = given.clone();
    let pair = PAIR.map(|name| given.tensors.remove(name));
    let parts = read_parts(&given, backbone, layout, "vera", &PARTS)?;
    let method = json!({
        "name": "vera",
        "rank": given.number("r")? as usize,
        "d_initial": given.number("d_initial")?,
        "seed": given.number("projection_prng_key")? as u64,
        "targets": exactly(&parts.names),
    });
    let vera: Vera = serde_json::from_value(without_name(&method))
        .map_err(|e| Error::config("adapter_config.json", e.to_string()))?;
    let drawn = vera.pair(&vera.sites(backbone)?);
    for ((name, saved), drawn) in PAIR.iter().zip(pair).zip(drawn) {
        if saved.is_some_and(|saved| !equal(&saved, &drawn)) {
            let message = format!(
                "{name}: expected the matrix {:?} that PyTorch draws for projection_prng_key {}, got another",
                &drawn.shape()[..],
                vera.seed
            );
            return Err(Error::config("adapter_model.safetensors", message));
        }
    }
    Ok(Imported {
        methods: vec![method],
        tensors: parts.tensors,
        head_delta: None,
        remarks: parts.remarks,
    })
}

/// The fields of the method itself.
fn without_name(method: &serde_json::Value) -> serde_json::Value {
    let mut fields = method.clone();
    if let serde_json::Value::Object(fields) = &mut fields {
        fields.remove("name");
    }
    fields
}

/// Returns whether two tensors hold the same values, up to the rounding of a file of 16 bits.
fn equal(saved: &TensorData, drawn: &TensorData) -> bool {
    let values = [saved, drawn].map(|data| floats(data.clone()));
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 64.0;
    saved.shape() == drawn.shape() && values[0].iter().zip(&values[1]).all(near)
}
