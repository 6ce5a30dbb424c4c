//! Reads and writes LoKr in HF PEFT's folders, where the second factor of a convolution is a kernel.

use burn::tensor::TensorData;
use peft_core::backbone::Backbone;
use peft_core::error::{Error, Result};
use peft_core::hf_peft::{HfPeft, Imported, exactly, read_parts, write_parts};
use peft_core::layout::Layout;
use peft_core::params::{Tensors, floats};
use peft_core::site::SiteKind;
use serde_json::{Value, json};

use crate::config::{FIRST, Lokr, SECOND};

const WHOLE: &str = "lokr_w2";

pub(crate) fn write(
    lokr: &Lokr,
    backbone: &dyn Backbone,
    layout: &Layout,
    values: &Tensors,
) -> Result<HfPeft> {
    let mut values = values.clone();
    let sites = lokr.sites(backbone)?;
    for site in &sites {
        let name = format!("lokr.{}.{WHOLE}", site.name());
        if let (
            SiteKind::Conv {
                kernel: [kh, kw], ..
            },
            Some(data),
        ) = (site.picked.site.kind, values.get_mut(&name))
        {
            let [rows, columns] = [data.shape()[0], data.shape()[1]];
            let shape = [rows, columns / site.taps, kh, kw];
            *data = TensorData::new(floats(data.clone()), shape);
        }
    }
    let parts = [FIRST, SECOND].concat();
    let folder = write_parts(&sites, backbone, layout, "lokr", &parts, &values)?;
    let factor = lokr
        .decompose_factor
        .map_or(json!(-1), |factor| json!(factor));
    Ok(folder.with_fields(json!({
        "peft_type": "LOKR",
        "r": lokr.rank,
        "alpha": lokr.alpha(),
        "rank_dropout": 0.0,
        "module_dropout": 0.0,
        "use_effective_conv2d": false,
        "decompose_both": lokr.decompose_both,
        "decompose_factor": factor,
        "rank_dropout_scale": false,
        "init_weights": true,
        "rank_pattern": {},
        "alpha_pattern": {},
    })))
}

pub(crate) fn read(given: &HfPeft, backbone: &dyn Backbone, layout: &Layout) -> Result<Imported> {
    let any = [
        "r",
        "alpha",
        "decompose_both",
        "decompose_factor",
        "rank_dropout_scale",
        "init_weights",
        "layers_to_transform",
        "layers_pattern",
    ];
    given.refuse_all_but_any(&any, &["rank_dropout", "module_dropout"])?;
    let mut parts = read_parts(given, backbone, layout, "lokr", &[FIRST, SECOND].concat())?;
    for (name, data) in &mut parts.tensors {
        if name.ends_with(WHOLE) && data.shape().len() == 4 {
            let rows = data.shape()[0];
            let columns = data.num_elements() / rows;
            *data = TensorData::new(floats(data.clone()), [rows, columns]);
        }
    }
    let mut method = json!({
        "name": "lokr",
        "rank": given.number("r")? as usize,
        "alpha": given.number("alpha")?,
        "decompose_both": given.field("decompose_both") == &Value::Bool(true),
        "targets": exactly(&parts.names),
    });
    match given.field("decompose_factor").as_i64() {
        Some(-1) | None => {}
        Some(factor) if factor > 0 => method["decompose_factor"] = factor.into(),
        Some(factor) => {
            let message = format!("expected -1 or at least 1, got {factor}");
            return Err(Error::config(
                "adapter_config.json: decompose_factor",
                message,
            ));
        }
    }
    Ok(Imported {
        methods: vec![method],
        tensors: parts.tensors,
        head_delta: None,
        remarks: parts.remarks,
    })
}
