//! Reads and writes LoRA and DoRA in HF PEFT's folders.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::TensorData;
use peft_core::backbone::Backbone;
use peft_core::error::{Error, Result};
use peft_core::hf_peft::{HfPeft, Imported, check_targets, exactly, layer_modules, module_of};
use peft_core::layout::Layout;
use peft_core::params::Tensors;
use peft_core::site::{Site, SiteKind, Targets};
use serde_json::{Map, Value, json};

use crate::config::Lora;

/// The parts of a tensor's name that follow the module.
const PARTS: [&str; 4] = [
    "lora_A.weight",
    "lora_B.weight",
    "lora_magnitude_vector",
    "lora_B.bias",
];

pub(crate) fn write(
    lora: &Lora,
    backbone: &dyn Backbone,
    layout: &Layout,
    values: &Tensors,
) -> Result<HfPeft> {
    let mut folder = HfPeft::default();
    let (mut modules, mut ranks, mut alphas) = (Vec::new(), Map::new(), Map::new());
    let alpha = lora.alpha.unwrap_or(lora.rank as f64);
    // Factors that started from the weight become ordinary ones, as PEFT converts them: what the weight
    // lost is a second product beside theirs, of the same scale.
    let (times, louder) = match (lora.init.is_of_weight(), lora.rslora) {
        (false, _) => (1, 1.0),
        (true, false) => (2, 2.0),
        (true, true) => (2, 2.0f64.sqrt()),
    };
    for place in lora.places(backbone)? {
        let name = place.picked.name();
        let module = module_of(&place.picked, backbone, layout, "lora")?;
        // PEFT matches patterns at the end of a name; `^` makes them match the whole name.
        let whole = || format!("^{}", exactly([&module]));
        if place.rank != lora.rank {
            ranks.insert(whole(), (times * place.rank).into());
        }
        if place.alpha != alpha {
            alphas.insert(whole(), (louder * place.alpha).into());
        }
        let taken = lora.taken(backbone, &place);
        for part in PARTS {
            if let Some(data) = values.get(&format!("lora.{name}.{part}")) {
                let data = match (part, place.picked.site.kind) {
                    ("lora_magnitude_vector", SiteKind::Conv { outputs, .. }) => {
                        TensorData::new(floats(data), [1, outputs, 1, 1])
                    }
                    _ => match (part, &taken) {
                        ("lora_A.weight", Some([a, _])) => above(data, a),
                        ("lora_B.weight", Some([_, b])) => beside(data, b),
                        _ => data.clone(),
                    },
                };
                folder.tensors.insert(format!("{module}.{part}"), data);
            }
        }
        modules.push(module);
    }
    let config = json!({
        "peft_type": "LORA",
        "target_modules": exactly(&modules),
        "r": times * lora.rank,
        "lora_alpha": louder * alpha,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "use_rslora": lora.rslora,
        "use_dora": lora.dora,
        "lora_bias": lora.lora_bias,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    });
    Ok(folder.with_fields(config))
}

/// `[A; A0]`.
fn above(a: &TensorData, taken: &TensorData) -> TensorData {
    let [rank, columns] = [a.shape()[0], a.shape()[1]];
    TensorData::new([floats(a), floats(taken)].concat(), [2 * rank, columns])
}

/// `[B, -B0]`.
fn beside(b: &TensorData, taken: &TensorData) -> TensorData {
    let [rows, rank] = [b.shape()[0], b.shape()[1]];
    let (b, taken) = (floats(b), floats(taken));
    let row = |i: usize| {
        let lost = taken[i * rank..][..rank].iter().map(|value| -value);
        b[i * rank..][..rank].iter().copied().chain(lost)
    };
    TensorData::new(
        (0..rows).flat_map(row).collect::<Vec<f32>>(),
        [rows, 2 * rank],
    )
}

fn floats(data: &TensorData) -> Vec<f32> {
    peft_core::params::floats(data.clone())
}

/// Initial values of the factors after which the base's weights are still those of the base.
const HARMLESS: [&str; 4] = ["gaussian", "orthogonal", "eva", "mica"];
/// Those that also change the base's weights, so that the factors fit no others.
const CHANGING: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Refuses fields whose features are not supported.
fn check_fields(given: &HfPeft) -> Result<()> {
    if let Some(start) = given.field("init_lora_weights").as_str()
        && CHANGING.iter().any(|name| start.starts_with(name))
    {
        let message = format!(
            "{start} also changes the weights of the base, which the folder does not hold; save it \
             with PEFT's save_pretrained(.., path_initial_model_for_weight_conversion=..), which makes \
             ordinary factors of it"
        );
        return Err(Error::config(
            "adapter_config.json: init_lora_weights",
            message,
        ));
    }
    let any = [
        "layers_to_transform",
        "layers_pattern",
        "r",
        "lora_alpha",
        "lora_dropout",
        "lora_bias",
        "bias",
        "use_rslora",
        "use_dora",
        "rank_pattern",
        "alpha_pattern",
        // HF PEFT switches it off at linear layers, and at convolutions it means nothing.
        "fan_in_fan_out",
        // How the factors started, which their values have forgotten.
        "eva_config",
        "corda_config",
        "loftq_config",
        "lora_ga_config",
        // Where the adapter was trained, and fields of features that are switched off.
        "runtime_config",
        "megatron_core",
        "qalora_group_size",
        "ensure_weight_tying",
    ];
    let mut starts: Vec<Value> = HARMLESS.iter().map(|name| (*name).into()).collect();
    starts.push(true.into());
    let mut known = any.map(|field| (field, &[][..])).to_vec();
    known.push(("init_lora_weights", &starts));
    given.refuse_all_but(&known)
}

pub(crate) fn read(given: &HfPeft, backbone: &dyn Backbone, layout: &Layout) -> Result<Imported> {
    check_fields(given)?;
    let (rank, alpha) = (given.number("r")? as usize, given.number("lora_alpha")?);
    let is_on = |field: &str| given.field(field) == &Value::Bool(true);
    let mut rank_of = Patterns::of(given, "rank_pattern")?;
    let mut alpha_of = Patterns::of(given, "alpha_pattern")?;

    let spec = backbone.spec();
    let sites = spec.sites.iter().flat_map(Site::parts);
    let sites: BTreeSet<&str> = sites.map(|(name, _)| name).collect();
    let (mut modules, mut tensors) = (BTreeSet::new(), Tensors::new());
    let (mut names, mut ranks, mut alphas) = (Vec::new(), Map::new(), Map::new());
    let mut of_head = BTreeMap::new();
    for (key, data) in &given.tensors {
        let unknown =
            |what: &str| Error::config("adapter_model.safetensors", format!("{key}: {what}"));
        // Some versions of HF PEFT call the magnitude a weight of its layer.
        let plain = key
            .strip_suffix("lora_magnitude_vector.weight")
            .map_or_else(
                || key.clone(),
                |rest| format!("{rest}lora_magnitude_vector"),
            );
        let part = PARTS
            .iter()
            .find_map(|part| Some((plain.strip_suffix(part)?.strip_suffix('.')?, *part)));
        let Some((module, part)) = part else {
            return Err(unknown("expected a factor, a bias or a magnitude of LoRA"));
        };
        if part == "lora_A.weight" {
            let own = data.shape()[0];
            let said = rank_of.value(&given.seen(module))?.unwrap_or(rank as f64);
            if own as f64 != said {
                return Err(unknown(&format!("expected rank {said}, got {own}")));
            }
        }
        if module == layout.head {
            of_head.insert(part, data);
            continue;
        }
        let name = layout.ours(module)?;
        if !sites.contains(name.as_str()) {
            return Err(unknown(&format!("{} has no module {name}", spec.name)));
        }
        if part == "lora_A.weight" {
            let own = data.shape()[0];
            let whole = format!("^{}", exactly([&name]));
            if own != rank {
                ranks.insert(whole.clone(), own.into());
            }
            if let Some(alpha) = alpha_of.value(&given.seen(module))? {
                alphas.insert(whole, alpha.into());
            }
            names.push(name.clone());
        }
        // HF PEFT stores the magnitude of a convolution as `[1, out, 1, 1]`.
        let data = if part == "lora_magnitude_vector" {
            TensorData::new(floats(data), [data.num_elements()])
        } else {
            data.clone()
        };
        tensors.insert(format!("lora.{name}.{part}"), data);
        modules.insert(module.to_owned());
    }
    let mut all = layer_modules(backbone, layout);
    let mut head_delta = None;
    if !of_head.is_empty() {
        let alpha = alpha_of.value(&given.seen(layout.head))?.unwrap_or(alpha);
        head_delta = Some(product(&of_head, alpha, is_on("use_rslora"), layout.head)?);
        all.push(layout.head.to_owned());
        modules.insert(layout.head.to_owned());
    }
    if names.is_empty() {
        let message = format!("expected factors at modules of {}, got none", spec.name);
        return Err(Error::config("adapter_model.safetensors", message));
    }
    let mut remarks = check_targets(given, &modules, &all, &spec.name)?;
    remarks.extend(rank_of.remarks(&spec.name));
    remarks.extend(alpha_of.remarks(&spec.name));
    if is_on("fan_in_fan_out") {
        remarks.push("fan_in_fan_out: true means nothing at these layers".to_owned());
    }
    let mut method = json!({
        "name": "lora",
        "rank": rank,
        "alpha": alpha,
        "dropout": given.number("lora_dropout").unwrap_or(0.0),
        "targets": exactly(&names),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "rslora": is_on("use_rslora"),
        "dora": is_on("use_dora"),
    });
    if is_on("lora_bias") {
        method["lora_bias"] = true.into();
    }
    Ok(Imported {
        methods: vec![method],
        tensors,
        head_delta,
        remarks,
    })
}

/// The scaled product of the head's factors.
fn product(
    parts: &BTreeMap<&str, &TensorData>,
    alpha: f64,
    rslora: bool,
    head: &str,
) -> Result<TensorData> {
    let refuse =
        |what: String| Error::config("adapter_model.safetensors", format!("{head}: {what}"));
    if let Some(other) = parts.keys().find(|part| !PARTS[..2].contains(part)) {
        return Err(refuse(format!("{other} is not supported at the head")));
    }
    let (Some(a), Some(b)) = (parts.get(PARTS[0]), parts.get(PARTS[1])) else {
        return Err(refuse(
            "expected lora_A.weight and lora_B.weight".to_owned(),
        ));
    };
    let (&[rank, inputs], &[outputs, same]) = (&a.shape()[..], &b.shape()[..]) else {
        return Err(refuse("expected two matrices".to_owned()));
    };
    if rank != same {
        return Err(refuse(format!("expected one rank, got {rank} and {same}")));
    }
    let (a, b) = (floats(a), floats(b));
    let divisor = if rslora {
        (rank as f64).sqrt()
    } else {
        rank as f64
    };
    let scale = (alpha / divisor) as f32;
    let entry = |(row, column): (usize, usize)| {
        let products = (0..rank).map(|k| b[row * rank + k] * a[k * inputs + column]);
        scale * products.sum::<f32>()
    };
    let all = (0..outputs).flat_map(|row| (0..inputs).map(move |column| (row, column)));
    let values: Vec<f32> = all.map(entry).collect();
    Ok(TensorData::new(values, [outputs, inputs]))
}

/// `rank_pattern` or `alpha_pattern`: values by regular expression over the end of a module's name. Where
/// several match, the first of the file counts.
struct Patterns<'a> {
    field: &'static str,
    entries: Vec<(&'a str, Targets, f64)>,
    /// The entries that matched a module.
    used: BTreeSet<usize>,
    /// Pairs of entries with different values for the same module, of which the first counts.
    overlaps: BTreeSet<(usize, usize)>,
}

impl<'a> Patterns<'a> {
    fn of(given: &'a HfPeft, field: &'static str) -> Result<Self> {
        let entries = given.entries(field).into_iter().map(|(pattern, value)| {
            let number = value.as_f64().ok_or_else(|| {
                let message = format!("expected a number, got {value}");
                Error::config(format!("adapter_config.json: {field}.{pattern}"), message)
            })?;
            let targets = Targets::Regex(format!("(.*\\.)?({pattern})"));
            Ok((pattern, targets, number))
        });
        Ok(Self {
            field,
            entries: entries.collect::<Result<_>>()?,
            used: BTreeSet::new(),
            overlaps: BTreeSet::new(),
        })
    }

    fn value(&mut self, module: &str) -> Result<Option<f64>> {
        let mut first: Option<(usize, f64)> = None;
        for (i, (pattern, targets, value)) in self.entries.iter().enumerate() {
            let field = || format!("adapter_config.json: {}.{pattern}", self.field);
            let matched = targets.matching(&[module]).map_err(|e| e.at(field()))?;
            if matched.is_empty() {
                continue;
            }
            self.used.insert(i);
            match first {
                None => first = Some((i, *value)),
                Some((earlier, other)) if other != *value => {
                    self.overlaps.insert((earlier, i));
                }
                Some(_) => {}
            }
        }
        Ok(first.map(|(_, value)| value))
    }

    fn remarks(&self, backbone: &str) -> Vec<String> {
        let Self { field, entries, .. } = self;
        let overlap = |(first, later): &(usize, usize)| {
            let ((first, _, value), (later, _, other)) = (&entries[*first], &entries[*later]);
            format!(
                "{field}: {first} and {later} match the same modules; the first of the file counts, {value} \
                 and not {other}"
            )
        };
        let unused = (0..entries.len()).filter(|i| !self.used.contains(i));
        let idle = unused.map(|i| {
            let pattern = entries[i].0;
            format!("{field}: {pattern} matches no adapted module of {backbone} and is passed over")
        });
        self.overlaps.iter().map(overlap).chain(idle).collect()
    }
}
