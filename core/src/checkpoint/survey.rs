//! Compares the names and shapes of a checkpoint with those of a backbone, before any value is read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use burn::tensor::TensorData;

use super::file::Checkpoint;
use super::head::CheckpointHead;
use super::prefix::wrappers;
use super::reading::{PROJECTION, Reading, Source};
use crate::backbone::Backbone;
use crate::error::{Error, Result, listed};
use crate::layout::Layout;
use crate::params::{self, floats};

/// The result of comparing the names and shapes of a checkpoint with those of a backbone.
pub struct Survey {
    pub(super) reading: Reading,
    /// Shapes of the backbone's parameters and buffers.
    pub(super) expected: Rc<BTreeMap<String, Vec<usize>>>,
    /// The tensors of the file that make up each parameter that was found.
    pub(crate) plan: BTreeMap<String, Vec<Source>>,
    /// Prefixes under each of which the file holds the whole backbone, if there are several.
    pub rivals: Vec<String>,
    /// Parameters that nothing fills.
    pub missing: Vec<String>,
    /// Parameters that files may lack and this one does: they keep a value of the backbone's.
    pub defaulted: Vec<String>,
    /// Keys of the file that nothing uses.
    pub unused: Vec<String>,
    /// Keys of the file that belong to no backbone (counters, indices, another tower), by the prefix or
    /// suffix by which they were recognised.
    pub ignored: BTreeMap<&'static str, Vec<String>>,
    /// Parameters that will be resized, as far as shapes are known before values are read.
    pub resized: Vec<String>,
    /// `name: expected [..], got [..]` for parameters that cannot be converted or resized.
    pub shapes: Vec<String>,
    /// Why the file's head does not read the backbone's features.
    headless: Option<&'static str>,
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
        let wrappers = wrappers(file.names());
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
        // A second network that is known not to be the backbone, such as the momentum encoder of a
        // self-supervised training, is no choice.
        let known = |tensors: &[String]| {
            let mut tensors = tensors.iter();
            tensors.all(|name| best.reading.ignored(name, backbone).is_some())
        };
        whole.retain(|(_, tensors)| !known(tensors));
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
        let mut defaulted = Vec::new();
        for (name, shape) in &*expected {
            let Some(sources) = reading.sources(name, backbone, file) else {
                match backbone.absent(name) {
                    Some(_) => defaulted.push(name.clone()),
                    None => missing.push(name.clone()),
                }
                continue;
            };
            used.extend(sources.iter().map(|source| source.theirs.clone()));
            // Shapes of joined or converted tensors are only known once they are read.
            if let ([source], None) = (&sources[..], reading.layout.convert)
                && let Some(own) = file.shape(&source.theirs)
                && own != shape
                && !is_vector(shape, own)
            {
                let zeros = TensorData::zeros::<f32, _>(own.to_vec());
                match backbone.resized(name, &zeros, file.image_size()) {
                    Ok(Some(data)) if data.shape()[..] == shape[..] => resized.push(name.clone()),
                    Ok(_) => shapes.push(format!("{name}: expected {shape:?}, got {own:?}")),
                    Err(why) => {
                        shapes.push(format!("{name}: expected {shape:?}, got {own:?}: {why}"));
                    }
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
            defaulted,
            unused,
            ignored,
            resized,
            shapes,
            headless: backbone.headless(),
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

    /// The distance from a perfect fit: number of mismatches, then of parameters that are resized or absent.
    pub(super) fn distance(&self) -> (usize, usize) {
        let wrong = self.missing.len() + self.unused.len() + self.shapes.len() + self.rivals.len();
        (wrong, self.resized.len() + self.defaulted.len())
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
        if self.unread_head(file).is_some() {
            return Ok(None);
        }
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

    /// Why the head of the file cannot be read: some networks have a hidden layer between the features
    /// and the head.
    pub fn unread_head(&self, file: &Checkpoint) -> Option<String> {
        if let Some(why) = self.headless {
            let mut places = self.reading.head("weight").into_iter();
            let head = places.find(|source| file.shape(&source.theirs).is_some())?;
            return Some(format!("the head {} {why}: it is not read", head.theirs));
        }
        let hidden = |start: &&&str| start.contains("pre_logits");
        let start = self.ignored.keys().find(hidden)?;
        let layer = self.ignored[start].first()?;
        let mut places = self.reading.head("weight").into_iter();
        let head = places.find(|source| file.shape(&source.theirs).is_some())?;
        Some(format!(
            "the head {} stands behind a hidden layer ({layer}), which is not supported: it is not read",
            head.theirs
        ))
    }

    pub(super) fn refusal(&self, backbone: &dyn Backbone, file: &Checkpoint) -> Error {
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

/// Whether `got` is the shape of as many values in a row as `expected`, the shape of a vector: libraries store
/// some vectors with further axes of length 1, to be broadcast.
pub(super) fn is_vector(expected: &[usize], got: &[usize]) -> bool {
    let longer = got.iter().filter(|length| **length != 1).count();
    expected.len() == 1 && longer <= 1 && got.iter().product::<usize>() == expected[0]
}
