//! Loads a checkpoint into a backbone strictly: every key must be used, every parameter filled.

use burn::tensor::TensorData;

use super::file::Checkpoint;
use super::head::CheckpointHead;
use super::reading::{COUNTS, Reading, Source};
use super::survey::{Survey, is_vector};
use crate::backbone::{Backbone, BoxedBackbone};
use crate::error::{Error, Result, listed};
use crate::input::{IMAGENET_MEAN, IMAGENET_STD};
use crate::params::{self, floats};
use crate::spec::BackboneSpec;

/// A backbone with the values of a checkpoint.
pub struct Loaded {
    /// The backbone.
    pub backbone: BoxedBackbone,
    /// The checkpoint's head, if it has one.
    pub head: Option<CheckpointHead>,
    /// Why the head that the checkpoint has cannot be read, if it cannot.
    pub unread_head: Option<String>,
    /// The library whose names the checkpoint uses.
    pub layout: &'static str,
    /// Facts that the user should know: another layout, resized embeddings, values that are not finite.
    pub remarks: Vec<String>,
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
    let mut backbone = backbone;
    let survey = Survey::of(&*backbone, file, forced)?;
    // Shapes may depend on the library.
    backbone.adopt(survey.layout());
    let survey = Survey::of(&*backbone, file, Some(survey.layout()))?;
    if !survey.fits() {
        return Err(survey.refusal(&*backbone, file));
    }
    let head = survey.head(&*backbone, file)?;
    let unread_head = survey.unread_head(file);
    let own = file.remarks().iter();
    let mut remarks: Vec<_> = own.map(|remark| format!("backbone: {remark}")).collect();
    if !survey.reading.wrapper.is_empty() {
        let wrapper = &survey.reading.wrapper;
        remarks.push(format!(
            "backbone: the names of the weights begin with {wrapper}, which is left out"
        ));
    }
    let Reading { layout, prefix, .. } = &survey.reading;
    let usual = prefix.is_empty() || layout.prefixes.first() == Some(prefix);
    if survey.reading.wrapper.is_empty() && !usual {
        remarks.push(format!(
            "backbone: the names of the weights begin with {prefix}, which is left out"
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
    remarks.extend(unread_head.iter().map(|why| format!("backbone: {why}")));
    let ignored = survey.ignored.iter().filter(|(start, _)| **start != COUNTS);
    let ignored: Vec<_> = ignored
        .map(|(start, names)| format!("{start} ({})", names.len()))
        .collect();
    if !ignored.is_empty() {
        let names = ignored.join(", ");
        remarks.push(format!("backbone: keys that are not read: {names}"));
    }
    if !survey.defaulted.is_empty() {
        let names = listed(&survey.defaulted, 6);
        remarks.push(format!(
            "backbone: the file lacks {names}, as such files do; the values are those of a new layer"
        ));
    }
    let (mut strange, mut failure) = (Vec::new(), None);
    // A copy for names and sizes; its parameters are not initialised and take no memory.
    let empty = backbone.clone();
    let mut read = |name: &str| -> Result<TensorData> {
        let shape = &survey.expected[name];
        let none =
            |got: &[usize], why: &str| differing(empty.spec(), file, (name, shape, got), why);
        let Some(sources) = survey.plan.get(name) else {
            return empty.absent(name).ok_or_else(|| none(&[], ""));
        };
        let mut data = joined(&*empty, file, &survey.reading, sources)?;
        if data.shape()[..] != shape[..] && is_vector(shape, &data.shape()[..]) {
            data = TensorData::new(floats(data), shape.clone());
        }
        let was = data.shape().to_vec();
        let refused = |why: &str| none(&was, why);
        let resized = empty.resized(name, &data, file.image_size());
        if let Some(resized) = resized.map_err(|why| refused(&format!(": {why}")))? {
            data = resized;
            remarks.push(match was[..] == shape[..] {
                true => format!("backbone: {name} is resized to the aspect of the image"),
                false => format!("backbone: {name} is resized from {was:?} to {shape:?}"),
            });
        }
        if data.shape()[..] != shape[..] {
            return Err(refused(""));
        }
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        if !data.as_slice::<f32>().is_ok_and(finite) {
            strange.push(name.to_owned());
        }
        Ok(data)
    };
    // `fill` cannot fail on the way; after the first error the rest is skipped.
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
        head,
        unread_head,
        layout: survey.reading.layout.name,
        remarks,
    })
}

fn differing(
    spec: &BackboneSpec,
    file: &Checkpoint,
    (name, expected, got): (&str, &[usize], &[usize]),
    why: &str,
) -> Error {
    let spec = &spec.name;
    Error::Weights {
        path: file.path().to_owned(),
        message: format!(
            "these are not the weights of {spec}\n  of another shape: {name}: expected {expected:?}, got {got:?}{why}"
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
