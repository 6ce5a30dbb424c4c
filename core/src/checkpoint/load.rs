//! Loading a checkpoint into a backbone, strictly: every key consumed, every parameter filled.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{DType, TensorData};

use super::Checkpoint;
use crate::backbone::{Backbone, BoxedBackbone};
use crate::error::{Error, Result, listed};
use crate::layout::Layout;
use crate::params::{self, Tensors, floats};

/// A head that came with a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointHead {
    /// `[classes, features]`.
    pub weight: TensorData,
    /// `[classes]`.
    pub bias: TensorData,
}

/// A filled backbone and what was said on the way.
pub struct Loaded {
    /// The backbone.
    pub backbone: BoxedBackbone,
    /// The checkpoint's head, if it has one.
    pub head: Option<CheckpointHead>,
    /// The library whose names the checkpoint has.
    pub layout: &'static str,
    /// What the user should know: another layout, resized embeddings, values that are not finite.
    pub remarks: Vec<String>,
}

/// A tensor of the file, and which parameter or slice of one it is.
struct Source {
    ours: String,
    theirs: String,
}

/// How the names of a checkpoint are read: a layout and the prefix that stands before them.
#[derive(Clone, Copy)]
struct Reading {
    layout: Layout,
    prefix: &'static str,
}

impl Reading {
    /// The tensors of the file that make up the parameter called `ours`.
    fn sources(&self, ours: &str, backbone: &dyn Backbone) -> Option<Vec<Source>> {
        let bare = self.layout.sources(ours, backbone.spec())?;
        let prefixed = bare.into_iter().map(|(ours, theirs)| Source {
            ours,
            theirs: format!("{}{theirs}", self.prefix),
        });
        Some(prefixed.collect())
    }

    /// One of them, as it is here.
    fn read(&self, file: &Checkpoint, source: &Source) -> Result<TensorData> {
        let data = file.tensor(&source.theirs)?;
        if data.dtype() != DType::F32 {
            let message = format!("{}: expected floats, got {:?}", source.theirs, data.dtype());
            return Err(Error::file(file.path(), message));
        }
        Ok(match self.layout.convert {
            Some(convert) => convert(&source.ours, data),
            None => data,
        })
    }

    /// Names that nothing reads: PyTorch counts BatchNorm's batches; the head may lie outside the
    /// prefix.
    fn ignores(&self, name: &str) -> bool {
        let bare = name.strip_prefix(self.prefix).unwrap_or(name);
        name.ends_with(".num_batches_tracked")
            || self.layout.ignores(bare).is_some()
            || self.layout.ignores(name).is_some()
    }

    /// Where a part of the head may be: under a rule of its own, or beside the backbone.
    fn head(&self, part: &str) -> [Source; 3] {
        let ours = format!("head.{part}");
        let name = format!("{}.{part}", self.layout.head);
        let ruled = self.layout.rules.iter().find(|(own, _)| *own == ours);
        let ruled = ruled.map_or(name.clone(), |(_, theirs)| (*theirs).to_owned());
        [ruled, format!("{}{name}", self.prefix), name].map(|theirs| Source {
            ours: ours.clone(),
            theirs,
        })
    }
}

/// Loads a checkpoint into a backbone, one tensor at a time; its head is handed back. The layout is
/// the one under which most parameters are found, or `forced`.
///
/// # Errors
/// [`Error::Weights`] with both sets: keys of the file that nothing takes, parameters that nothing
/// fills, and shapes that differ; [`Error::Config`] for a layout that the backbone does not know.
pub fn load_backbone(
    mut backbone: BoxedBackbone,
    file: &Checkpoint,
    forced: Option<&str>,
) -> Result<Loaded> {
    let expected: BTreeMap<String, Vec<usize>> = params::infos(&backbone)
        .into_iter()
        .map(|info| (info.name, info.shape))
        .collect();
    let reading = detect(&*backbone, file, &expected, forced)?;
    let plan = plan(&*backbone, file, &expected, reading)?;

    let mut remarks = Vec::new();
    if reading.layout.name != "timm" {
        let name = reading.layout.name;
        remarks.push(format!("backbone: the checkpoint has the names of {name}"));
    }
    let mut strange = Vec::new();
    for (name, sources) in plan {
        let shape = &expected[&name];
        let mut data = joined(file, reading, &sources)?;
        if data.shape()[..] != shape[..] {
            let was = data.shape().to_vec();
            data = match backbone.resized(&name, data) {
                Some(data) if data.shape()[..] == shape[..] => data,
                _ => return Err(differing(&*backbone, file, &[(name, shape, was)])),
            };
            remarks.push(format!(
                "backbone: {name} is resized from {was:?} to {shape:?}"
            ));
        }
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        if !data.as_slice::<f32>().is_ok_and(finite) {
            strange.push(name.clone());
        }
        let tensors = Tensors::from([(name, data)]);
        backbone = params::write(backbone, tensors)
            .map_err(|(_, mismatch)| Error::file(file.path(), format!("{mismatch:?}")))?;
    }
    if !strange.is_empty() {
        let names = listed(&strange, 6);
        remarks.push(format!("backbone: values that are not finite in {names}"));
    }
    let find = |part: &str| {
        let places = reading.head(part);
        places
            .into_iter()
            .find(|source| file.shape(&source.theirs).is_some())
    };
    let head = match (find("weight"), find("bias")) {
        (Some(weight), Some(bias)) => Some(CheckpointHead {
            weight: reading.read(file, &weight)?,
            bias: reading.read(file, &bias)?,
        }),
        _ => None,
    };
    Ok(Loaded {
        backbone,
        head,
        layout: reading.layout.name,
        remarks,
    })
}

/// The layout and prefix under which most parameters are found.
fn detect(
    backbone: &dyn Backbone,
    file: &Checkpoint,
    expected: &BTreeMap<String, Vec<usize>>,
    forced: Option<&str>,
) -> Result<Reading> {
    let mut layouts = vec![Layout::canonical(backbone.spec().head_name)];
    layouts.extend(backbone.layouts());
    if let Some(name) = forced {
        let known: Vec<_> = layouts.iter().map(|layout| layout.name).collect();
        layouts.retain(|layout| layout.name == name);
        if layouts.is_empty() {
            let known = known.join(", ");
            let message = format!("expected one of {known}, got {name:?}");
            return Err(Error::config("layout", message));
        }
    }
    let mut best: Option<(usize, Reading)> = None;
    for layout in layouts {
        // A training script may have wrapped the model.
        for prefix in layout.prefixes.iter().copied().chain(["module.", "model."]) {
            let reading = Reading { layout, prefix };
            let found = expected.keys().filter(|name| {
                let sources = reading.sources(name, backbone);
                sources.is_some_and(|all| all.iter().all(|one| file.shape(&one.theirs).is_some()))
            });
            let found = found.count();
            if best.as_ref().is_none_or(|(most, _)| found > *most) {
                best = Some((found, reading));
            }
        }
    }
    let canonical = Reading {
        layout: Layout::canonical(backbone.spec().head_name),
        prefix: "",
    };
    Ok(best.map_or(canonical, |(_, reading)| reading))
}

/// Which tensors make up each parameter.
fn plan(
    backbone: &dyn Backbone,
    file: &Checkpoint,
    expected: &BTreeMap<String, Vec<usize>>,
    reading: Reading,
) -> Result<Vec<(String, Vec<Source>)>> {
    let (mut plan, mut missing) = (Vec::new(), Vec::new());
    let mut used: BTreeSet<String> = ["weight", "bias"]
        .iter()
        .flat_map(|part| reading.head(part))
        .map(|source| source.theirs)
        .collect();
    for name in expected.keys() {
        let sources = reading.sources(name, backbone);
        let there = |sources: &Vec<Source>| sources.iter().all(|s| file.shape(&s.theirs).is_some());
        match sources.filter(there) {
            Some(sources) => {
                used.extend(sources.iter().map(|source| source.theirs.clone()));
                plan.push((name.clone(), sources));
            }
            None => missing.push(name.clone()),
        }
    }
    // A file keeps buffers of the library that it was converted from: timm's Swins keep Microsoft's.
    let ignored = |name: &str| {
        let mut others = backbone.layouts().iter();
        reading.ignores(name) || others.any(|layout| layout.ignores(name).is_some())
    };
    let unused: Vec<String> = file
        .names()
        .filter(|name| !used.contains(*name) && !ignored(name))
        .map(str::to_owned)
        .collect();
    // Shapes that nothing converts or resizes are told together.
    let shapes: Vec<_> = plan
        .iter()
        .filter(|(_, sources)| reading.layout.convert.is_none() && sources.len() == 1)
        .filter_map(|(name, sources)| {
            let (own, shape) = (file.shape(&sources[0].theirs)?, &expected[name]);
            let resizes = || {
                let data = TensorData::zeros::<f32, _>(own.to_vec());
                backbone.resized(name, data).is_some()
            };
            (own != shape && !resizes()).then(|| (name.clone(), shape, own.to_vec()))
        })
        .collect();
    if unused.is_empty() && missing.is_empty() && shapes.is_empty() {
        return Ok(plan);
    }
    let part = |title: &str, names: &[String]| match names.len() {
        0 => String::new(),
        n => format!("\n  {n} {title}: {}", listed(names, 12)),
    };
    let shapes = shapes
        .iter()
        .map(|(name, shape, own)| format!("{name}: expected {shape:?}, got {own:?}"));
    let message = format!(
        "these are not the weights of {} (names read as {}){}{}{}",
        backbone.spec().name,
        reading.layout.name,
        part("keys that nothing takes", &unused),
        part("parameters that nothing fills", &missing),
        part("of another shape", &shapes.collect::<Vec<_>>()),
    );
    Err(Error::Weights {
        path: file.path().to_owned(),
        message,
    })
}

fn differing(
    backbone: &dyn Backbone,
    file: &Checkpoint,
    shapes: &[(String, &Vec<usize>, Vec<usize>)],
) -> Error {
    let shapes = shapes
        .iter()
        .map(|(name, shape, own)| format!("{name}: expected {shape:?}, got {own:?}"));
    Error::Weights {
        path: file.path().to_owned(),
        message: format!(
            "these are not the weights of {}\n  of another shape: {}",
            backbone.spec().name,
            shapes.collect::<Vec<_>>().join(", ")
        ),
    }
}

/// The tensors one behind the other along the first axis.
fn joined(file: &Checkpoint, reading: Reading, sources: &[Source]) -> Result<TensorData> {
    let mut parts = sources.iter().map(|source| reading.read(file, source));
    let Some(first) = parts.next() else {
        return Err(Error::file(file.path(), "a parameter has no source"));
    };
    let first = first?;
    if sources.len() == 1 {
        return Ok(first);
    }
    let mut shape = first.shape().to_vec();
    let mut values = floats(first);
    for part in parts {
        let part = part?;
        shape[0] += part.shape()[0];
        values.extend(floats(part));
    }
    if shape.iter().product::<usize>() != values.len() {
        let names: Vec<_> = sources
            .iter()
            .map(|source| source.theirs.as_str())
            .collect();
        let message = format!("{} cannot be joined", names.join(", "));
        return Err(Error::file(file.path(), message));
    }
    Ok(TensorData::new(values, shape))
}
