//! Loading a checkpoint into a backbone, strictly: every key consumed, every parameter filled.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{DType, TensorData};

use super::Checkpoint;
use crate::backbone::{Backbone, BackboneSpec, BoxedBackbone};
use crate::error::{Error, Result, listed};
use crate::layout::Layout;
use crate::params::{self, floats};

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

    /// The head of the file, if it has one; one without a bias has zeros.
    fn head_of(&self, file: &Checkpoint) -> Result<Option<CheckpointHead>> {
        let find = |part: &str| {
            let mut places = self.head(part).into_iter();
            places.find(|source| file.shape(&source.theirs).is_some())
        };
        let Some(weight) = find("weight") else {
            return Ok(None);
        };
        let at = weight.theirs.clone();
        let weight = self.read(file, &weight)?;
        let &[outputs, _] = &weight.shape()[..] else {
            let message = format!(
                "{at}: expected [classes, features], got {:?}",
                weight.shape()
            );
            return Err(Error::file(file.path(), message));
        };
        let bias = match find("bias") {
            Some(bias) => self.read(file, &bias)?,
            None => TensorData::zeros::<f32, _>([outputs]),
        };
        Ok(Some(CheckpointHead { weight, bias }))
    }
}

/// Loads a checkpoint into a backbone, one tensor at a time; its head is handed back. The layout is
/// the one under which most parameters are found, or `forced`.
///
/// # Errors
/// [`Error::Weights`] with both sets: keys of the file that nothing takes, parameters that nothing
/// fills, and shapes that differ; [`Error::Config`] for a layout that the backbone does not know.
pub fn load_backbone(
    backbone: BoxedBackbone,
    file: &Checkpoint,
    forced: Option<&str>,
) -> Result<Loaded> {
    let survey = Survey::of(&*backbone, file, forced)?;
    if !survey.fits() {
        return Err(survey.refusal(backbone.spec(), file));
    }
    let Survey {
        reading,
        expected,
        plan,
        ..
    } = survey;
    let mut remarks = Vec::new();
    if reading.layout.name != "timm" {
        let name = reading.layout.name;
        remarks.push(format!("backbone: the checkpoint has the names of {name}"));
    }
    let (mut strange, mut failure) = (Vec::new(), None);
    let resizer = backbone.clone();
    let mut read = |name: &str| -> Result<TensorData> {
        let shape = &expected[name];
        let mut data = joined(file, reading, &plan[name])?;
        if data.shape()[..] != shape[..] {
            let was = data.shape().to_vec();
            data = match resizer.resized(name, data) {
                Some(data) if data.shape()[..] == shape[..] => data,
                _ => return Err(differing(resizer.spec(), file, (name, shape, &was))),
            };
            remarks.push(format!(
                "backbone: {name} is resized from {was:?} to {shape:?}"
            ));
        }
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        if !data.as_slice::<f32>().is_ok_and(finite) {
            strange.push(name.to_owned());
        }
        Ok(data)
    };
    let backbone = params::fill(backbone, |name| match failure {
        Some(_) => None,
        None => read(name).map_err(|e| failure = Some(e)).ok(),
    });
    if let Some(error) = failure {
        return Err(error);
    }
    if !strange.is_empty() {
        let names = listed(&strange, 6);
        remarks.push(format!("backbone: values that are not finite in {names}"));
    }
    Ok(Loaded {
        backbone,
        head: reading.head_of(file)?,
        layout: reading.layout.name,
        remarks,
    })
}

/// How far a checkpoint and a backbone fit each other.
pub struct Survey {
    reading: Reading,
    /// Shapes of the backbone's parameters and buffers.
    expected: BTreeMap<String, Vec<usize>>,
    /// The tensors that make up each of those that are there.
    plan: BTreeMap<String, Vec<Source>>,
    /// Parameters that nothing fills.
    pub missing: Vec<String>,
    /// Keys of the file that nothing takes.
    pub unused: Vec<String>,
    /// Keys of the file that belong to no backbone: counters, indices, another tower.
    pub ignored: Vec<String>,
    /// Parameters that are resized, as far as shapes are known before values are read.
    pub resized: Vec<String>,
    /// `name: expected [..], got [..]`, of what nothing converts or resizes.
    pub shapes: Vec<String>,
}

impl Survey {
    /// Holds the names and shapes of a file against those of a backbone; no values are read.
    ///
    /// # Errors
    /// [`Error::Config`] for a layout that the backbone does not know.
    pub fn of(backbone: &dyn Backbone, file: &Checkpoint, forced: Option<&str>) -> Result<Self> {
        let infos = params::infos_erased(backbone).into_iter();
        let expected: BTreeMap<_, _> = infos.map(|info| (info.name, info.shape)).collect();
        let reading = detect(backbone, file, &expected, forced)?;
        let mut used: BTreeSet<String> = ["weight", "bias"]
            .iter()
            .flat_map(|part| reading.head(part))
            .map(|source| source.theirs)
            .collect();
        let (mut plan, mut missing) = (BTreeMap::new(), Vec::new());
        let (mut resized, mut shapes) = (Vec::new(), Vec::new());
        for (name, shape) in &expected {
            let there =
                |sources: &Vec<Source>| sources.iter().all(|s| file.shape(&s.theirs).is_some());
            let Some(sources) = reading.sources(name, backbone).filter(there) else {
                missing.push(name.clone());
                continue;
            };
            used.extend(sources.iter().map(|source| source.theirs.clone()));
            if let ([source], None) = (&sources[..], reading.layout.convert)
                && let Some(own) = file.shape(&source.theirs)
                && own != shape
            {
                let zeros = TensorData::zeros::<f32, _>(own.to_vec());
                match backbone.resized(name, zeros) {
                    Some(_) => resized.push(name.clone()),
                    None => shapes.push(format!("{name}: expected {shape:?}, got {own:?}")),
                }
            }
            plan.insert(name.clone(), sources);
        }
        // A file keeps buffers of the library that it was converted from: timm's Swins keep
        // Microsoft's.
        let ignores = |name: &str| {
            let mut others = backbone.layouts().iter();
            reading.ignores(name) || others.any(|layout| layout.ignores(name).is_some())
        };
        let rest = file.names().filter(|name| !used.contains(*name));
        let (ignored, unused) = rest
            .map(str::to_owned)
            .partition(|name: &String| ignores(name));
        Ok(Self {
            reading,
            expected,
            plan,
            missing,
            unused,
            ignored,
            resized,
            shapes,
        })
    }

    /// The library whose names the file has.
    pub fn layout(&self) -> &'static str {
        self.reading.layout.name
    }

    /// Whether every key is taken and every parameter filled, as far as shapes are known before
    /// values are read.
    pub fn fits(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.shapes.is_empty()
    }

    /// How far they are from fitting: 0 is as they are.
    pub(super) fn distance(&self) -> (usize, usize) {
        let wrong = self.missing.len() + self.unused.len() + self.shapes.len();
        (wrong, self.resized.len())
    }

    /// Parameters that the file fills.
    pub fn found(&self) -> usize {
        self.plan.len()
    }

    /// The head of the file, if it has one.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read.
    pub fn head(&self, file: &Checkpoint) -> Result<Option<CheckpointHead>> {
        self.reading.head_of(file)
    }

    fn refusal(&self, spec: &BackboneSpec, file: &Checkpoint) -> Error {
        let part = |title: &str, names: &[String]| match names.len() {
            0 => String::new(),
            n => format!("\n  {n} {title}: {}", listed(names, 12)),
        };
        let message = format!(
            "these are not the weights of {} (names read as {}){}{}{}",
            spec.name,
            self.layout(),
            part("keys that nothing takes", &self.unused),
            part("parameters that nothing fills", &self.missing),
            part("of another shape", &self.shapes),
        );
        Error::Weights {
            path: file.path().to_owned(),
            message,
        }
    }
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
    for layout in &layouts {
        for (layout, prefix) in layout.readings() {
            let reading = Reading {
                layout: *layout,
                prefix,
            };
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

fn differing(
    spec: &BackboneSpec,
    file: &Checkpoint,
    (name, expected, got): (&str, &[usize], &[usize]),
) -> Error {
    let spec = &spec.name;
    Error::Weights {
        path: file.path().to_owned(),
        message: format!(
            "these are not the weights of {spec}\n  of another shape: {name}: expected {expected:?}, got {got:?}"
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
