//! A `Reading` translates the names of a checkpoint into those of a backbone.

use burn::tensor::{DType, TensorData};

use super::file::Checkpoint;
use super::prefix::outer;
use crate::backbone::Backbone;
use crate::error::{Error, Result};
use crate::layout::Layout;

/// Suffix of the names of BatchNorm's batch counters in PyTorch.
pub(super) const COUNTS: &str = ".num_batches_tracked";

/// PyTorch's counter of the models in an average.
const AVERAGES: &str = "n_averaged";

/// The name of the linear layer with which some backbones end.
pub(super) const PROJECTION: &str = "projection.weight";

/// A tensor of the file, and the parameter or slice that it fills.
pub(crate) struct Source {
    pub(super) ours: String,
    pub(crate) theirs: String,
}

/// A way to read the names of a checkpoint: a layout, one of its prefixes, and a wrapper's prefix before
/// that.
pub(super) struct Reading {
    pub(super) layout: Layout,
    pub(super) wrapper: String,
    pub(super) prefix: &'static str,
}

impl Reading {
    /// The tensors of the file that make up the parameter called `ours`, if the file has all of them. Only
    /// a projection may lie beside the prefix or at the top.
    pub(super) fn sources(
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

    /// Returns the prefix that all names of the backbone have in the file.
    pub(super) fn whole_prefix(&self) -> String {
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
    pub(super) fn read(
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
    pub(super) fn ignored(&self, name: &str, backbone: &dyn Backbone) -> Option<&'static str> {
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
    pub(super) fn head(&self, part: &str) -> Vec<Source> {
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
