//! `runner inspect FILE`: recognises the model of a checkpoint, and lists the keys that it would
//! not use.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use peft_core::Init;
use peft_core::checkpoint::{Checkpoint, Survey, foreign, recognise};
use peft_core::error::listed;
use peft_core::facts::{Published, Shown, Stated, contradictions, resolve};
use peft_core::input::InputSpec;
use peft_core::params::floats;
use peft_core::source::{WeightsFile, WeightsPart};
use serde::Serialize;
use serde_json::Value;

use crate::cli::args::Format;
use crate::commands::print::{json, row};
use crate::config::find;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::report::numbers::mebibytes;

/// Recognise a checkpoint: its layout, family, variant and sizes, and its unused keys.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner inspect assets/vit-micro.safetensors")]
pub struct InspectArgs {
    /// Any checkpoint that backbone.weights may name: safetensors (or its .index.json), .pth, .bin,
    /// .npz, hf://owner/name.
    pub file: PathBuf,
    /// The key of one of several sets of weights in the file, as in `weights: {path: .., key: ..}`.
    #[arg(long)]
    pub key: Option<String>,
    /// The text that the names of the backbone's weights begin with, as in `weights: {path: ..,
    /// prefix: ..}`.
    #[arg(long)]
    pub prefix: Option<String>,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// The contents of a checkpoint.
#[derive(Serialize)]
struct Contents {
    path: String,
    /// `safetensors`, `pytorch` or `npz`.
    format: &'static str,
    /// Size of the files.
    bytes: usize,
    tensors: usize,
    /// Values of all tensors.
    values: usize,
    /// Values by element type.
    dtypes: BTreeMap<&'static str, usize>,
    /// Tensors with values that are not finite.
    not_finite: Vec<String>,
    /// The sets of weights in the file, the one that is described here first.
    sets: Vec<Set>,
    /// Keys whose values are not tensors, with a description of each.
    not_tensors: BTreeMap<String, String>,
    /// Keys of the file beside its sets of weights, with a description of each.
    beside: BTreeMap<String, String>,
    metadata: BTreeMap<String, String>,
    /// The functions and classes that a pickle names, other than those of tensors. None of them was
    /// called.
    named_functions: Vec<String>,
    /// The recognised model; none if no linked family knows the names.
    model: Option<Model>,
    /// What the checkpoint is, if it is known and no family has it: a tensor that shows it, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<String>,
}

/// A set of weights.
#[derive(Serialize)]
struct Set {
    /// Its key; empty for the whole file.
    key: String,
    /// Number of its tensors.
    tensors: usize,
}

/// The backbone that fits the checkpoint best.
#[derive(Serialize)]
struct Model {
    family: &'static str,
    /// The library whose names it has.
    layout: &'static str,
    /// The prefix of a wrapper before every name of the backbone; empty if there is none.
    wrapper: String,
    /// Prefixes under each of which the file holds the whole backbone, if there are several.
    prefixes: Vec<String>,
    /// The published variant with these sizes, if there is one.
    variant: Option<String>,
    /// The YAML of its backbone.
    backbone: Value,
    blocks: usize,
    input: InputSpec,
    features: usize,
    /// Parameters of the backbone, the head not counted.
    parameters: usize,
    /// Outputs of its head.
    classes: Option<usize>,
    /// Whether a backbone of this configuration loads it.
    loads: bool,
    /// Keys that the backbone would not take: these make loading fail.
    unused: Vec<String>,
    /// Keys that are known not to belong to a backbone and are not read.
    ignored: Vec<String>,
    /// Parameters that nothing fills.
    missing: Vec<String>,
    /// Parameters whose shape differs in the file.
    shapes: Vec<String>,
    remarks: Vec<String>,
}

/// Prints the contents of a checkpoint.
pub fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let file = match (&args.key, &args.prefix) {
        (None, None) => WeightsFile::Path(args.file.clone()),
        (key, prefix) => WeightsFile::Part(WeightsPart {
            path: args.file.clone(),
            key: key.clone(),
            prefix: prefix.clone(),
        }),
    };
    let contents = contents(&find::checkpoint(&file)?, file).map_err(config_error)?;
    match args.format {
        Format::Json => json(&contents),
        Format::Text => print(&contents),
    }
}

fn contents(file: &Checkpoint, named: WeightsFile) -> peft_core::Result<Contents> {
    let mut dtypes = BTreeMap::new();
    let mut not_finite = Vec::new();
    let (mut tensors, mut values) = (0, 0);
    for name in file.names() {
        let count: usize = file.shape(name).unwrap_or_default().iter().product();
        let dtype = file.dtype(name).unwrap_or_default();
        (tensors, values) = (tensors + 1, values + count);
        *dtypes.entry(dtype).or_insert(0) += count;
        // Values that are not finite load without an error and make the first loss NaN, so they are
        // worth a full read.
        let is_float = dtype.starts_with('F') || dtype == "BF16";
        if is_float && !floats(file.tensor(name)?).iter().all(|x| x.is_finite()) {
            not_finite.push(name.to_owned());
        }
    }
    let model = model(file, named)?;
    let known = model.as_ref().is_some_and(|model| model.loads);
    let foreign = foreign(file).filter(|_| !known);
    Ok(Contents {
        path: file.path().display().to_string(),
        format: file.format(),
        bytes: file.bytes(),
        tensors,
        values,
        dtypes,
        not_finite,
        sets: file
            .sets()
            .iter()
            .map(|set| Set {
                key: set.key.clone(),
                tensors: set.tensors,
            })
            .collect(),
        not_tensors: owned(file.others()),
        beside: owned(file.beside()),
        metadata: file.metadata().clone().into_iter().collect(),
        named_functions: file.named_functions().map(str::to_owned).collect(),
        model,
        foreign: foreign.map(|(name, why)| format!("{name}: {why}")),
    })
}

fn owned<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    let pairs = pairs.map(|(name, what)| (name.to_owned(), what.to_owned()));
    pairs.collect()
}

fn model(file: &Checkpoint, named: WeightsFile) -> peft_core::Result<Option<Model>> {
    let published = Published::beside(file.path())?;
    let Some(mut found) = recognise(file, published.as_ref())? else {
        return Ok(None);
    };
    let mut remarks = file.remarks().to_vec();
    remarks.append(&mut found.unsure);
    let mut source = found.config.source();
    source.weights = Some(match named {
        WeightsFile::Path(_) => file.path().into(),
        WeightsFile::Part(part) => WeightsFile::Part(WeightsPart {
            path: file.path().to_owned(),
            ..part
        }),
    });
    if let Some(published) = &published {
        remarks.extend(published.remarks.iter().cloned());
        remarks.extend(source.unfollowed(published, false));
        remarks.extend(source.take(published));
    }
    found.config.set_source(source);
    let mut known = false;
    if let Some(published) = &published {
        let evidence = |name: &str, other: &Value| found.evidence(name, Some(other), file);
        let shown = Shown {
            facts: found.shown_by(),
            evidence: &evidence,
        };
        let resolved = resolve(&*found.config, published, Stated::Shapes(shown))?;
        remarks.extend(resolved.remarks);
        // Only this fact cannot be seen in the shapes at all, so a guess is marked as one.
        let of_heads = |fact: &String| fact.starts_with("num_heads ");
        known = published.num_heads.is_some() || resolved.followed.iter().any(of_heads);
        if !resolved.followed.is_empty() {
            // Facts may change the modules that the backbone has, so it is compared with the file
            // again.
            found.backbone = resolved.config.build(&Init::empty(&Device::flex()))?;
            found.survey = Survey::of(&*found.backbone, file, None)?;
            if !found.survey.fits() {
                let written = &*found.config;
                remarks.extend(contradictions(
                    &*resolved.config,
                    written,
                    Some(published),
                    file,
                ));
            }
        }
        found.config = resolved.config;
    }
    let backbone = serde_json::to_value(&found.config).unwrap_or_default();
    if backbone["num_heads"].is_number() && !known {
        remarks
            .push("num_heads is a guess (64 channels per head): shapes do not show it".to_owned());
    }
    let spec = found.backbone.spec();
    let head = found.survey.head(&*found.backbone, file)?;
    remarks.extend(found.survey.unread_head(file));
    Ok(Some(Model {
        family: found.plugin.name,
        layout: found.survey.layout(),
        wrapper: found.survey.wrapper().to_owned(),
        variant: backbone["variant"].as_str().map(str::to_owned),
        input: found.config.input()?,
        backbone,
        blocks: spec.depth,
        features: spec.features,
        parameters: found.parameters,
        classes: head.map(|head| head.bias.shape()[0]),
        loads: found.survey.fits(),
        prefixes: found.survey.rivals,
        unused: found.survey.unused,
        ignored: found.survey.ignored.into_values().flatten().collect(),
        missing: found.survey.missing,
        shapes: found.survey.shapes,
        remarks,
    }))
}

/// Prints the result for people on stdout.
fn print(contents: &Contents) -> Result<(), Failure> {
    row("file", &contents.path);
    let size = mebibytes(contents.bytes);
    row("format", format_args!("{}, {size}", contents.format));
    let dtypes = contents.dtypes.iter();
    let dtypes: Vec<_> = dtypes.map(|(dtype, n)| format!("{n} {dtype}")).collect();
    let (tensors, dtypes) = (contents.tensors, dtypes.join(", "));
    row("tensors", format_args!("{tensors} ({dtypes})"));
    names("not finite", &contents.not_finite);
    if contents.sets.len() > 1 {
        for (index, Set { key, tensors }) in contents.sets.iter().enumerate() {
            let key = match &**key {
                "" => "the whole file",
                key => key,
            };
            let read = if index == 0 { ", read here" } else { "" };
            let title = if index == 0 { "sets" } else { "" };
            row(title, format_args!("{key}: {tensors} tensors{read}"));
        }
    }
    for (title, keys) in [
        ("not tensors", &contents.not_tensors),
        ("beside", &contents.beside),
    ] {
        let keys = keys.iter().map(|(name, what)| format!("{name} ({what})"));
        names(title, &keys.collect::<Vec<_>>());
    }
    for (key, value) in &contents.metadata {
        row("metadata", format_args!("{key}: {value}"));
    }
    if !contents.named_functions.is_empty() {
        names("names functions", &contents.named_functions);
        row(
            "",
            "none of them was called: reading a checkpoint runs no code",
        );
    }
    if let Some(foreign) = &contents.foreign {
        row("not supported", foreign);
    }
    match &contents.model {
        Some(model) => print_model(model),
        None => {
            row("family", "no linked backbone has these names");
            Ok(())
        }
    }
}

fn print_model(model: &Model) -> Result<(), Failure> {
    row("family", model.family);
    row("layout", format_args!("names of {}", model.layout));
    if !model.wrapper.is_empty() {
        row("prefix", format_args!("{}, left out", model.wrapper));
    }
    if !model.prefixes.is_empty() {
        let quoted = model.prefixes.iter().map(|prefix| format!("{prefix:?}"));
        let quoted: Vec<_> = quoted.collect();
        names("prefixes that fit", &quoted);
    }
    let variant = model.variant.as_deref();
    row("variant", variant.unwrap_or("none of the published ones"));
    let (blocks, parameters, features) = (model.blocks, model.parameters, model.features);
    row(
        "backbone",
        format_args!("{blocks} blocks, {parameters} parameters, features [{features}]"),
    );
    row("input", model.input);
    match model.classes {
        Some(classes) => row("head", format_args!("{classes} outputs")),
        None => row("head", "none"),
    }
    names("unused", &model.unused);
    names("ignored", &model.ignored);
    names("missing", &model.missing);
    names("shapes", &model.shapes);
    for remark in &model.remarks {
        row("remark", remark);
    }
    let loads = if model.loads {
        "yes, with this backbone:"
    } else {
        "no: keys are left over, parameters are not filled, or several prefixes fit; the nearest backbone:"
    };
    row("loads", loads);
    let yaml = serde_yaml::to_string(&model.backbone);
    let yaml = yaml.map_err(|e| failure(Exit::Unexpected, e))?;
    yaml.lines().for_each(|line| println!("  {line}"));
    Ok(())
}

/// Prints the number of names and the first of them, or nothing if there are none.
fn names(title: &str, names: &[String]) {
    if !names.is_empty() {
        let count = names.len();
        row(title, format_args!("{count}: {}", listed(names, 12)));
    }
}
