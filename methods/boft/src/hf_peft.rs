//! BOFT in HF PEFT's folders, both ways.

use peft_core::backbone::Backbone;
use peft_core::error::Result;
use peft_core::hf_peft::{HfPeft, Imported, exactly, read_parts, write_parts};
use peft_core::layout::Layout;
use peft_core::params::Tensors;
use serde_json::json;

use crate::config::{Boft, PARTS};

pub(crate) fn write(
    boft: &Boft,
    backbone: &dyn Backbone,
    layout: &Layout,
    values: &Tensors,
) -> Result<HfPeft> {
    let sites: Vec<_> = boft
        .sites(backbone)?
        .into_iter()
        .map(|(site, _)| site)
        .collect();
    let folder = write_parts(&sites, backbone, layout, "boft", &PARTS, values)?;
    Ok(folder.with_fields(json!({
        "peft_type": "BOFT",
        "boft_block_size": match boft.blocks {
            Some(_) => 0,
            None => boft.block_size.unwrap_or(4),
        },
        "boft_block_num": boft.blocks.unwrap_or(0),
        "boft_n_butterfly_factor": boft.factors,
        "boft_dropout": 0.0,
        "fan_in_fan_out": false,
        "bias": "none",
        "init_weights": true,
    })))
}

pub(crate) fn read(given: &HfPeft, backbone: &dyn Backbone, layout: &Layout) -> Result<Imported> {
    let any = [
        "boft_block_size",
        "boft_block_num",
        "boft_n_butterfly_factor",
        "bias",
        "init_weights",
        "layers_to_transform",
        "layers_pattern",
    ];
    given.refuse_all_but_any(&any, &["boft_dropout"])?;
    let mut parts = read_parts(given, backbone, layout, "boft", &PARTS)?;
    let stated = given.number("boft_n_butterfly_factor")? as usize;
    let blocks = parts
        .tensors
        .iter()
        .find(|(name, _)| name.ends_with(PARTS[0]));
    let factors = blocks.map_or(stated, |(_, blocks)| blocks.shape()[0]);
    if factors != stated {
        parts.remarks.push(format!(
            "boft_n_butterfly_factor is {stated}, but the file has {factors}: without its CUDA extension HF PEFT \
             trains one"
        ));
    }
    let size = given.number("boft_block_size")? as usize;
    let (field, value) = match size {
        0 => ("blocks", given.number("boft_block_num")? as usize),
        size => ("block_size", size),
    };
    Ok(Imported {
        methods: vec![json!({
            "name": "boft",
            field: value,
            "factors": factors,
            "targets": exactly(&parts.names),
        })],
        tensors: parts.tensors,
        head_delta: None,
        remarks: parts.remarks,
    })
}
