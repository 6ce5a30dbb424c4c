//! Loading a checkpoint into a backbone, strictly: every key consumed, every parameter filled.

use std::cmp::Reverse;
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

/// How PyTorch ends the names of BatchNorm's counts of batches.
const COUNTS: &str = ".num_batches_tracked";

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
    /// The tensors of the file that make up the parameter called `ours`, if all are there; one may
    /// lie outside the prefix, as a projection does.
    fn sources(
        &self,
        ours: &str,
        backbone: &dyn Backbone,
        file: &Checkpoint,
    ) -> Option<Vec<Source>> {
        let bare = self.layout.sources(ours, backbone.spec())?;
        let there = bare.into_iter().map(|(ours, theirs)| {
            let places = [format!("{}{theirs}", self.prefix), theirs];
            let theirs = places.into_iter().find(|name| file.shape(name).is_some())?;
            Some(Source { ours, theirs })
        });
        there.collect()
    }

    /// One of them, as it is here.
    fn read(
        &self,
        file: &Checkpoint,
        source: &Source,
        backbone: &dyn Backbone,
    ) -> Result<TensorData> {
        let floats = |name: &str| {
            let data = file.tensor(name)?;
            if data.dtype() != DType::F32 {
                let message = format!("{name}: expected floats, got {:?}", data.dtype());
                return Err(Error::file(file.path(), message));
            }
            Ok(data)
        };
        let data = floats(&source.theirs)?;
        let other = |ours: &str| {
            let sources = self.sources(ours, backbone, file)?;
            floats(&sources.first()?.theirs).ok()
        };
        Ok(match self.layout.convert {
            Some(convert) => convert(&source.ours, data, &other),
            None => data,
        })
    }

    /// How those names begin (or end) that nothing reads, if this is one; a text tower lies outside
    /// the prefix.
    fn ignored(&self, name: &str) -> Option<&'static str> {
        let bare = name.strip_prefix(self.prefix).unwrap_or(name);
        let starts = |start: &str| bare.starts_with(start) || name.starts_with(start);
        match name.ends_with(COUNTS) {
            true => Some(COUNTS),
            false => self.layout.ignored.iter().copied().find(|s| starts(s)),
        }
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

/// What a reading finds in a file.
struct Fit {
    reading: Reading,
    /// Each parameter with the tensors that make it up.
    plan: Vec<(String, Vec<Source>)>,
    /// Parameters that nothing fills.
    missing: Vec<String>,
    /// Keys that nothing takes.
    unused: Vec<String>,
    /// How many keys are not read, by the start that the layout gives.
    ignored: BTreeMap<&'static str, usize>,
}

/// Names and shapes of a backbone's parameters.
type Expected = BTreeMap<String, Vec<usize>>;

impl Fit {
    fn of(
        reading: Reading,
        backbone: &dyn Backbone,
        file: &Checkpoint,
        expected: &Expected,
    ) -> Self {
        let mut fit = Self {
            reading,
            plan: Vec::new(),
            missing: Vec::new(),
            unused: Vec::new(),
            ignored: BTreeMap::new(),
        };
        let head = ["weight", "bias"].iter().flat_map(|p| reading.head(p));
        let mut used: BTreeSet<String> = head.map(|source| source.theirs).collect();
        for name in expected.keys() {
            match reading.sources(name, backbone, file) {
                Some(sources) => {
                    used.extend(sources.iter().map(|source| source.theirs.clone()));
                    fit.plan.push((name.clone(), sources));
                }
                None => fit.missing.push(name.clone()),
            }
        }
        for name in file.names().filter(|name| !used.contains(*name)) {
            match reading.ignored(name) {
                Some(start) => *fit.ignored.entry(start).or_default() += 1,
                None => fit.unused.push(name.to_owned()),
            }
        }
        fit
    }

    /// Most parameters found, then fewest keys left.
    fn score(&self) -> (usize, Reverse<usize>) {
        (self.plan.len(), Reverse(self.unused.len()))
    }

    /// Every key consumed, every parameter filled, every shape right or made so.
    fn check(&self, backbone: &dyn Backbone, file: &Checkpoint, expected: &Expected) -> Result<()> {
        // Shapes that nothing converts or resizes are told together.
        let shapes: Vec<_> = (self.plan.iter())
            .filter(|(_, sources)| self.reading.layout.convert.is_none() && sources.len() == 1)
            .filter_map(|(name, sources)| {
                let (own, shape) = (file.shape(&sources[0].theirs)?, &expected[name]);
                let resizes = || {
                    let data = TensorData::zeros::<f32, _>(own.to_vec());
                    backbone.resized(name, data).is_some()
                };
                (own != shape && !resizes())
                    .then(|| format!("{name}: expected {shape:?}, got {own:?}"))
            })
            .collect();
        if self.unused.is_empty() && self.missing.is_empty() && shapes.is_empty() {
            return Ok(());
        }
        let part = |title: &str, names: &[String]| match names.len() {
            0 => String::new(),
            n => format!("\n  {n} {title}: {}", listed(names, 12)),
        };
        let reason = |name: &String| Some(format!("\n  {name}: {}", backbone.why_not(name)?));
        let message = format!(
            "these are not the weights of {} (names read as {}){}{}{}{}",
            backbone.spec().name,
            self.reading.layout.name,
            self.unused.iter().find_map(reason).unwrap_or_default(),
            part("keys that nothing takes", &self.unused),
            part("parameters that nothing fills", &self.missing),
            part("of another shape", &shapes),
        );
        Err(Error::Weights {
            path: file.path().to_owned(),
            message,
        })
    }

    /// The file's head, unless what stands in its place is none: timm keeps CLIP's projection
    /// there, with a bias of zeros.
    fn head(
        &self,
        backbone: &dyn Backbone,
        file: &Checkpoint,
        expected: &Expected,
        remarks: &mut Vec<String>,
    ) -> Result<Option<CheckpointHead>> {
        let find = |part: &str| {
            let mut places = self.reading.head(part).into_iter();
            places.find(|source| file.shape(&source.theirs).is_some())
        };
        let (Some(weight), Some(bias)) = (find("weight"), find("bias")) else {
            return Ok(None);
        };
        let head = CheckpointHead {
            weight: self.reading.read(file, &weight, backbone)?,
            bias: self.reading.read(file, &bias, backbone)?,
        };
        let unbiased = floats(head.bias.clone()).iter().all(|value| *value == 0.0);
        let takes = |sources: &[Source]| sources.iter().any(|own| own.theirs == weight.theirs);
        if let Some((name, _)) = self.plan.iter().find(|(_, sources)| takes(sources)) {
            return match unbiased {
                true => Ok(None),
                false => Err(Error::Weights {
                    path: file.path().to_owned(),
                    message: format!(
                        "{}: expected zeros, because {} is read as {name}, which has no bias",
                        bias.theirs, weight.theirs
                    ),
                }),
            };
        }
        let place = weight.theirs.strip_prefix(self.reading.prefix);
        let mut rules = backbone.layouts().iter().flat_map(|layout| layout.rules);
        let kept = rules.find(|(ours, theirs)| {
            Some(*theirs) == place && !ours.starts_with("head.") && !expected.contains_key(*ours)
        });
        match kept {
            Some((ours, _)) if unbiased => {
                let name = &weight.theirs;
                remarks.push(format!(
                    "backbone: {name} has no bias but zeros, so it is {ours} and no head; it is \
                     not read"
                ));
                Ok(None)
            }
            _ => Ok(Some(head)),
        }
    }
}

/// Loads a checkpoint into a backbone, one tensor at a time; its head is handed back. The layout is
/// the one under which most parameters are found and fewest keys are left, or `forced`.
///
/// # Errors
/// [`Error::Weights`] with both sets: keys of the file that nothing takes, parameters that nothing
/// fills, and shapes that differ; [`Error::Config`] for a layout that the backbone does not know.
pub fn load_backbone(
    mut backbone: BoxedBackbone,
    file: &Checkpoint,
    forced: Option<&str>,
) -> Result<Loaded> {
    let expected: Expected = params::infos(&backbone)
        .into_iter()
        .map(|info| (info.name, info.shape))
        .collect();
    let fit = detect(&*backbone, file, &expected, forced)?;
    fit.check(&*backbone, file, &expected)?;

    let (mut remarks, reading) = (Vec::new(), fit.reading);
    if reading.layout.name != "timm" {
        let name = reading.layout.name;
        remarks.push(format!("backbone: the checkpoint has the names of {name}"));
    }
    let silent = |(start, _): &(&&str, &usize)| **start != COUNTS;
    let ignored = fit.ignored.iter().filter(silent);
    let ignored: Vec<_> = ignored.map(|(name, n)| format!("{name} ({n})")).collect();
    if !ignored.is_empty() {
        let names = ignored.join(", ");
        remarks.push(format!("backbone: keys that are not read: {names}"));
    }
    let head = fit.head(&*backbone, file, &expected, &mut remarks)?;
    let mut strange = Vec::new();
    for (name, sources) in fit.plan {
        let shape = &expected[&name];
        let mut data = joined(&*backbone, file, reading, &sources)?;
        if data.shape()[..] != shape[..] {
            let was = data.shape().to_vec();
            data = match backbone.resized(&name, data) {
                Some(data) if data.shape()[..] == shape[..] => data,
                _ => return Err(differing(&*backbone, file, &name, [shape, &was])),
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
    Ok(Loaded {
        backbone,
        head,
        layout: reading.layout.name,
        remarks,
    })
}

/// The layout and prefix that fit best; of equal ones the first.
fn detect(
    backbone: &dyn Backbone,
    file: &Checkpoint,
    expected: &Expected,
    forced: Option<&str>,
) -> Result<Fit> {
    let canonical = Layout::canonical(backbone.spec().head_name);
    let mut layouts = vec![canonical];
    layouts.extend(backbone.layouts());
    if let Some(name) = forced {
        let mut known: Vec<_> = layouts.iter().map(|layout| layout.name).collect();
        layouts.retain(|layout| layout.name == name);
        if layouts.is_empty() {
            known.dedup();
            let known = known.join(", ");
            let message = format!("expected one of {known}, got {name:?}");
            return Err(Error::config("layout", message));
        }
    }
    let fit = |layout, prefix| Fit::of(Reading { layout, prefix }, backbone, file, expected);
    let mut best: Option<Fit> = None;
    for layout in layouts {
        // A training script may have wrapped the model.
        for prefix in layout.prefixes.iter().copied().chain(["module.", "model."]) {
            let fit = fit(layout, prefix);
            if best.as_ref().is_none_or(|best| fit.score() > best.score()) {
                best = Some(fit);
            }
        }
    }
    Ok(best.unwrap_or_else(|| fit(canonical, "")))
}

fn differing(
    backbone: &dyn Backbone,
    file: &Checkpoint,
    name: &str,
    [shape, own]: [&[usize]; 2],
) -> Error {
    Error::Weights {
        path: file.path().to_owned(),
        message: format!(
            "these are not the weights of {}\n  of another shape: {name}: expected {shape:?}, got \
             {own:?}",
            backbone.spec().name,
        ),
    }
}

/// The tensors one behind the other along the first axis.
fn joined(
    backbone: &dyn Backbone,
    file: &Checkpoint,
    reading: Reading,
    sources: &[Source],
) -> Result<TensorData> {
    let read = |source| reading.read(file, source, backbone);
    let mut parts = sources.iter().map(read);
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
