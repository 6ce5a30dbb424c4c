//! Loads a checkpoint into a backbone strictly: every key must be used, every parameter filled.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use burn::tensor::{DType, TensorData};

use super::file::Checkpoint;
use super::prefix::{outer, wrappers};
use crate::backbone::{Backbone, BoxedBackbone};
use crate::error::{Error, Result, listed};
use crate::input::{IMAGENET_MEAN, IMAGENET_STD};
use crate::layout::Layout;
use crate::params::{self, floats};
use crate::spec::BackboneSpec;

/// A head that came with a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointHead {
    /// `[classes, features]`.
    pub weight: TensorData,
    /// `[classes]`.
    pub bias: TensorData,
}

/// A backbone with the values of a checkpoint.
pub struct Loaded {
    /// The backbone.
    pub backbone: BoxedBackbone,
    /// The checkpoint's head, if it has one.
    pub head: Option<CheckpointHead>,
    /// The library whose names the checkpoint uses.
    pub layout: &'static str,
    /// Facts that the user should know: another layout, resized embeddings, values that are not finite.
    pub remarks: Vec<String>,
}

/// Suffix of the names of BatchNorm's batch counters in PyTorch.
const COUNTS: &str = ".num_batches_tracked";

/// PyTorch's counter of the models in an average.
const AVERAGES: &str = "n_averaged";

/// The name of the linear layer with which some backbones end.
const PROJECTION: &str = "projection.weight";

/// A tensor of the file, and the parameter or slice that it fills.
struct Source {
    ours: String,
    theirs: String,
}

/// A way to read the names of a checkpoint: a layout, one of its prefixes, and a wrapper's prefix before
/// that.
struct Reading {
    layout: Layout,
    wrapper: String,
    prefix: &'static str,
}

impl Reading {
    /// The tensors of the file that make up the parameter called `ours`, if the file has all of them. Only
    /// a projection may lie beside the prefix or at the top.
    fn sources(
        &self,
        ours: &str,
        backbone: &dyn Backbone,
        file: &Checkpoint,
    ) -> Option<Vec<Source>> {
        let bare = self.layout.sources(ours, backbone.spec())?;
        // The nearest place first. No place is outside the wrapper, which is before every name of the
        // backbone or is not one.
        let prefixes = [self.prefix, outer(self.prefix), ""];
        let count = if ours == PROJECTION { 3 } else { 1 };
        let there = bare.into_iter().map(|(ours, theirs)| {
            let prefixes = prefixes[..count].iter();
            let mut places = prefixes.map(|prefix| format!("{}{prefix}{theirs}", self.wrapper));
            let theirs = places.find(|name| file.shape(name).is_some())?;
            Some(Source { ours, theirs })
        });
        there.collect()
    }

    /// What stands before the names inside the backbone.
    fn whole_prefix(&self) -> String {
        format!("{}{}", self.wrapper, self.prefix)
    }

    /// All prefixes from the backbone's to the empty one, each without the last part of the one before.
    fn around(&self) -> impl Iterator<Item = String> {
        let whole = self.whole_prefix();
        std::iter::successors(Some(whole), |prefix| {
            (!prefix.is_empty()).then(|| outer(prefix).to_owned())
        })
    }

    /// Reads one of these tensors and converts it.
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

    /// The known prefix or suffix by which a name that nothing reads can be ignored, if it has one. A
    /// text tower lies outside the prefix. The ignored names of all layouts count, because a converted
    /// file may keep buffers of its origin: timm's Swins keep Microsoft's.
    fn ignored(&self, name: &str, backbone: &dyn Backbone) -> Option<&'static str> {
        if name.ends_with(COUNTS) {
            return Some(COUNTS);
        }
        let mut layouts = std::iter::once(&self.layout).chain(backbone.layouts());
        let known = layouts.find_map(|layout| {
            let mut around = self.around();
            around.find_map(|prefix| layout.ignores(name.strip_prefix(&prefix)?))
        });
        let averages = self
            .around()
            .any(|prefix| name.strip_prefix(&prefix) == Some(AVERAGES));
        known.or(averages.then_some(AVERAGES))
    }

    /// The possible places of a part of the head: under a rule of its own, inside the backbone, or beside
    /// it.
    fn head(&self, part: &str) -> Vec<Source> {
        let ours = format!("head.{part}");
        let name = format!("{}.{part}", self.layout.head);
        let ruled = self.layout.rules.iter().find(|(own, _)| *own == ours);
        let ruled = ruled.map(|(_, theirs)| format!("{}{theirs}", self.wrapper));
        let places = self.around().map(|prefix| format!("{prefix}{name}"));
        let places = ruled.into_iter().chain(places);
        let source = |theirs| Source {
            ours: ours.clone(),
            theirs,
        };
        places.map(source).collect()
    }
}

/// Loads a checkpoint into a backbone, one tensor at a time, and returns its head. The layout is
/// `forced`, or the one under which most parameters are found and fewest keys are left.
///
/// # Errors
/// [`Error::Weights`] with all keys that nothing uses, all parameters that nothing fills and all
/// shapes that differ; [`Error::Config`] for a layout that the backbone does not know.
pub fn load_backbone(
    backbone: BoxedBackbone,
    file: &Checkpoint,
    forced: Option<&str>,
) -> Result<Loaded> {
    let survey = Survey::of(&*backbone, file, forced)?;
    if !survey.fits() {
        return Err(survey.refusal(&*backbone, file));
    }
    let head = survey.head(&*backbone, file)?;
    let own = file.remarks().iter();
    let mut remarks: Vec<_> = own.map(|remark| format!("backbone: {remark}")).collect();
    if !survey.reading.wrapper.is_empty() {
        let wrapper = &survey.reading.wrapper;
        remarks.push(format!(
            "backbone: the names of the weights begin with {wrapper}, which is left out"
        ));
    }
    if survey.layout() != "timm" {
        let name = survey.layout();
        remarks.push(format!("backbone: the checkpoint has the names of {name}"));
        let input = &backbone.spec().input;
        if name.starts_with("torchvision") && input.mean != IMAGENET_MEAN {
            remarks.push(format!(
                "backbone: torchvision's own weights expect images with mean {IMAGENET_MEAN:?} and std \
                 {IMAGENET_STD:?}, got mean {:?} and std {:?}",
                input.mean, input.std
            ));
        }
    }
    let ignored = survey.ignored.iter().filter(|(start, _)| **start != COUNTS);
    let ignored: Vec<_> = ignored
        .map(|(start, names)| format!("{start} ({})", names.len()))
        .collect();
    if !ignored.is_empty() {
        let names = ignored.join(", ");
        remarks.push(format!("backbone: keys that are not read: {names}"));
    }
    let (mut strange, mut failure) = (Vec::new(), None);
    // A copy for names and sizes; its parameters are not initialised and take no memory.
    let empty = backbone.clone();
    let mut read = |name: &str| -> Result<TensorData> {
        let shape = &survey.expected[name];
        let mut data = joined(&*empty, file, &survey.reading, &survey.plan[name])?;
        if data.shape()[..] != shape[..] {
            let was = data.shape().to_vec();
            data = match empty.resized(name, data) {
                Some(data) if data.shape()[..] == shape[..] => data,
                _ => return Err(differing(empty.spec(), file, (name, shape, &was))),
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
    // `fill` cannot fail on the way; after the first error the rest is skipped.
    let mut backbone = params::fill(backbone, |name| match failure {
        Some(_) => None,
        None => read(name).map_err(|e| failure = Some(e)).ok(),
    });
    if let Some(error) = failure {
        return Err(error);
    }
    backbone.adopt(survey.layout());
    if !strange.is_empty() {
        let names = listed(&strange, 6);
        remarks.push(format!("backbone: values that are not finite in {names}"));
    }
    Ok(Loaded {
        backbone,
        head,
        layout: survey.reading.layout.name,
        remarks,
    })
}

/// The result of comparing the names and shapes of a checkpoint with those of a backbone.
pub struct Survey {
    reading: Reading,
    /// Shapes of the backbone's parameters and buffers.
    expected: Rc<BTreeMap<String, Vec<usize>>>,
    /// The tensors of the file that make up each parameter that was found.
    plan: BTreeMap<String, Vec<Source>>,
    /// Prefixes under each of which the file holds the whole backbone, if there are several.
    pub rivals: Vec<String>,
    /// Parameters that nothing fills.
    pub missing: Vec<String>,
    /// Keys of the file that nothing uses.
    pub unused: Vec<String>,
    /// Keys of the file that belong to no backbone (counters, indices, another tower), by the prefix or
    /// suffix by which they were recognised.
    pub ignored: BTreeMap<&'static str, Vec<String>>,
    /// Parameters that will be resized, as far as shapes are known before values are read.
    pub resized: Vec<String>,
    /// `name: expected [..], got [..]` for parameters that cannot be converted or resized.
    pub shapes: Vec<String>,
}

impl Survey {
    /// Compares the names and shapes of a file with those of a backbone, without reading values.
    ///
    /// # Errors
    /// [`Error::Config`] for a layout that the backbone does not know.
    pub fn of(backbone: &dyn Backbone, file: &Checkpoint, forced: Option<&str>) -> Result<Self> {
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
        let infos = params::infos_erased(backbone).into_iter();
        let expected: BTreeMap<_, _> = infos.map(|info| (info.name, info.shape)).collect();
        let expected = Rc::new(expected);
        let under = |reading| Self::under(reading, backbone, file, expected.clone());
        let wrappers = wrappers(file);
        let mut best: Option<Self> = None;
        // The places of the whole backbone: different tensors for the same parameters.
        let mut whole: Vec<(String, Vec<String>)> = Vec::new();
        for layout in &layouts {
            let names = expected.keys();
            let sources = names.filter_map(|name| layout.sources(name, backbone.spec()));
            let theirs: Vec<_> = sources.flatten().map(|(_, theirs)| theirs).collect();
            // Long names occur in the backbone and hardly anywhere else, so one of them and another one
            // tell which wrappers are worth comparing in full.
            let longest = theirs.iter().max_by_key(|name| name.len());
            let probes: Vec<_> = longest.into_iter().chain(theirs.last()).collect();
            for prefix in layout.prefixes {
                let is_there = |wrapper: &&String| {
                    let there = |name: &&String| file.shape(&format!("{wrapper}{prefix}{name}"));
                    wrapper.is_empty() || probes.iter().any(|name| there(name).is_some())
                };
                for wrapper in wrappers.iter().filter(is_there) {
                    let survey = under(Reading {
                        layout: *layout,
                        wrapper: wrapper.clone(),
                        prefix,
                    });
                    if survey.missing.is_empty() && survey.shapes.is_empty() {
                        let sources = survey.plan.values().flatten();
                        let tensors = sources.map(|source| source.theirs.clone()).collect();
                        if whole.iter().all(|(_, others)| *others != tensors) {
                            whole.push((survey.reading.whole_prefix(), tensors));
                        }
                    }
                    if best
                        .as_ref()
                        .is_none_or(|best| survey.score() > best.score())
                    {
                        best = Some(survey);
                    }
                }
            }
        }
        let mut best = best.unwrap_or_else(|| {
            under(Reading {
                layout: canonical,
                wrapper: String::new(),
                prefix: "",
            })
        });
        if whole.len() > 1 {
            best.rivals = whole.into_iter().map(|(prefix, _)| prefix).collect();
        }
        Ok(best)
    }

    fn under(
        reading: Reading,
        backbone: &dyn Backbone,
        file: &Checkpoint,
        expected: Rc<BTreeMap<String, Vec<usize>>>,
    ) -> Self {
        let head = ["weight", "bias"].iter().flat_map(|p| reading.head(p));
        let mut used: BTreeSet<String> = head.map(|source| source.theirs).collect();
        let (mut plan, mut missing) = (BTreeMap::new(), Vec::new());
        let (mut resized, mut shapes) = (Vec::new(), Vec::new());
        for (name, shape) in &*expected {
            let Some(sources) = reading.sources(name, backbone, file) else {
                missing.push(name.clone());
                continue;
            };
            used.extend(sources.iter().map(|source| source.theirs.clone()));
            // Shapes of joined or converted tensors are only known once they are read.
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
        if let Some(sources) = reading.sources(PROJECTION, backbone, file) {
            used.extend(sources.into_iter().map(|source| source.theirs));
        }
        let (mut unused, mut ignored) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
        for name in file.names().filter(|name| !used.contains(*name)) {
            match reading.ignored(name, backbone) {
                Some(start) => ignored.entry(start).or_default().push(name.to_owned()),
                None => unused.push(name.to_owned()),
            }
        }
        Self {
            reading,
            expected,
            plan,
            rivals: Vec::new(),
            missing,
            unused,
            ignored,
            resized,
            shapes,
        }
    }

    /// A better reading finds more parameters, then leaves fewer keys; of equal ones the layout's own
    /// prefix is better than a wrapper's.
    fn score(&self) -> (usize, Reverse<usize>, bool) {
        let plain = self.reading.wrapper.is_empty();
        (self.plan.len(), Reverse(self.unused.len()), plain)
    }

    /// The prefix of a wrapper before every name of the backbone; empty if there is none.
    pub fn wrapper(&self) -> &str {
        &self.reading.wrapper
    }

    /// The library whose names the file uses.
    pub fn layout(&self) -> &'static str {
        self.reading.layout.name
    }

    /// Whether every key is used and every parameter filled, as far as shapes are known before values are
    /// read.
    pub fn fits(&self) -> bool {
        self.distance().0 == 0
    }

    /// The distance from a perfect fit: number of mismatches, then of resized parameters.
    pub(super) fn distance(&self) -> (usize, usize) {
        let wrong = self.missing.len() + self.unused.len() + self.shapes.len() + self.rivals.len();
        (wrong, self.resized.len())
    }

    /// The file's head, if it has one; a missing bias is zero. A projection is read as a head if the
    /// backbone does not end with one: timm stores CLIP's there.
    ///
    /// # Errors
    /// [`Error::Weights`] for a bias beside a projection, which has none; [`Error::File`] if the head is
    /// not a matrix.
    pub fn head(
        &self,
        backbone: &dyn Backbone,
        file: &Checkpoint,
    ) -> Result<Option<CheckpointHead>> {
        let find = |part: &str| {
            let mut places = self.reading.head(part).into_iter();
            places.find(|source| file.shape(&source.theirs).is_some())
        };
        let projection = || self.reading.sources(PROJECTION, backbone, file)?.pop();
        let Some(weight) = find("weight").or_else(projection) else {
            return Ok(None);
        };
        let bias = find("bias");
        let bias = bias.map(|bias| Ok((self.reading.read(file, &bias, backbone)?, bias.theirs)));
        let bias = bias.transpose()?;
        // A tensor that fills a parameter of the backbone is not also a head.
        let mut taken = self.plan.values().flatten();
        if taken.any(|own| own.theirs == weight.theirs) {
            return match bias {
                Some((values, name)) if floats(values.clone()).iter().any(|x| *x != 0.0) => {
                    let place = &weight.theirs;
                    Err(Error::Weights {
                        path: file.path().to_owned(),
                        message: format!(
                            "{name}: expected zeros, because {place} is read as {PROJECTION}, which \
                             has no bias"
                        ),
                    })
                }
                _ => Ok(None),
            };
        }
        let name = weight.theirs.clone();
        let weight = self.reading.read(file, &weight, backbone)?;
        let &[outputs, _] = &weight.shape()[..] else {
            let message = format!(
                "{name}: expected [classes, features], got {:?}",
                weight.shape()
            );
            return Err(Error::file(file.path(), message));
        };
        let zeros = || TensorData::zeros::<f32, _>([outputs]);
        let bias = bias.map_or_else(zeros, |(values, _)| values);
        Ok(Some(CheckpointHead { weight, bias }))
    }

    fn refusal(&self, backbone: &dyn Backbone, file: &Checkpoint) -> Error {
        let part = |title: &str, names: &[String]| match names.len() {
            0 => String::new(),
            n => format!("\n  {n} {title}: {}", listed(names, 12)),
        };
        let reason = |name: &String| Some(format!("\n  {name}: {}", backbone.why_not(name)?));
        let spec = &backbone.spec().name;
        let refused = |message| Error::Weights {
            path: file.path().to_owned(),
            message,
        };
        if !self.rivals.is_empty() {
            let quoted: Vec<_> = self
                .rivals
                .iter()
                .map(|prefix| format!("{prefix:?}"))
                .collect();
            let prefixes = listed(&quoted, 12);
            return refused(format!(
                "the weights of {spec} are in it more than once, under the prefixes {prefixes}: \
                 `weights: {{path: .., prefix: ..}}` chooses"
            ));
        }
        let others = file.others().map(|(name, what)| format!("{name} ({what})"));
        let others: Vec<_> = others.filter(|_| !self.missing.is_empty()).collect();
        let sets = file.sets().iter().skip(1).map(ToString::to_string);
        let sets: Vec<_> = sets.collect();
        refused(format!(
            "these are not the weights of {spec} (names read as {}){}{}{}{}{}{}",
            self.layout(),
            self.unused.iter().find_map(reason).unwrap_or_default(),
            part("keys that nothing takes", &self.unused),
            part("parameters that nothing fills", &self.missing),
            part("of another shape", &self.shapes),
            part("keys whose values are not tensors", &others),
            part("other sets of weights in the file", &sets),
        ))
    }
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

/// Concatenates tensors along the first axis.
fn joined(
    backbone: &dyn Backbone,
    file: &Checkpoint,
    reading: &Reading,
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
    // Rows are contiguous, so joining along the first axis appends the values.
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
