//! Bottlenecks at the branches of blocks, which adapters and AdaptFormer have in common.

use burn::module::Module;

use crate::acts::{BranchValues, SiteAct};
use crate::adapter::Adapter;
use crate::check;
use crate::described::{DescribedSite, Reads};
use crate::error::{Error, Result};
use crate::init::Init;
use crate::method::Attachment;
use crate::named::BySite;
use crate::site::{Branch, Site, SiteKind};
use crate::spec::BackboneSpec;
use crate::step::Draws;

use super::bottleneck::{Bottleneck, Nonlinearity};

/// Bottlenecks `B` whose scaled output is added to that of a branch, `h + s B(..)`, as a method
/// configures them.
#[derive(Clone, Debug)]
pub struct BranchBottlenecks {
    /// The method's name, for messages.
    pub method: &'static str,
    /// The field `blocks`: the blocks that have them, counted from 1; empty for all.
    pub blocks: Vec<usize>,
    /// Whether they are also at attention, not only at the MLP or the convolutions.
    pub attention: bool,
    /// The value that they read.
    pub reads: Reads,
    /// Hidden width `d`, the field `bottleneck`; at least 1.
    pub hidden: usize,
    /// The function between the two layers.
    pub nonlinearity: Nonlinearity,
    /// Probability in `[0, 1)` of dropping a hidden value while training.
    pub dropout: f64,
    /// Factor `s`, any finite number.
    pub scale: f64,
}

impl BranchBottlenecks {
    /// Makes a bottleneck for each branch.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a value out of range, [`Error::Unfit`](crate::Error::Unfit)
    /// if the backbone has no branch.
    pub fn attach(&self, spec: &BackboneSpec, init: &Init) -> Result<Attachment> {
        let places = self.places(spec)?;
        let remarks = self.remarks(&places);
        let bottlenecks = places.into_iter().map(|(site, width)| {
            let sizes = [width, self.hidden];
            let bottleneck =
                Bottleneck::new(&site.name, sizes, self.nonlinearity, self.dropout, init);
            (site.name.clone(), bottleneck)
        });
        let adapter = BranchAdapter {
            bottlenecks: bottlenecks.collect(),
            reads: self.reads,
            scale: self.scale,
        };
        Ok(Attachment::adapter(adapter).with_remarks(remarks))
    }

    /// Trainable parameters: `2 D d + d + D` for each branch.
    ///
    /// # Errors
    /// See [`attach`](Self::attach).
    pub fn formula(&self, spec: &BackboneSpec) -> Result<usize> {
        let places = self.places(spec)?.into_iter();
        let count = |(_, width)| Bottleneck::count([width, self.hidden]);
        Ok(places.map(count).sum())
    }

    /// The branches with their widths.
    fn places<'a>(&self, spec: &'a BackboneSpec) -> Result<Vec<(&'a Site, usize)>> {
        check::at_least_one("bottleneck", self.hidden)?;
        check::finite("scale", self.scale)?;
        check::dropout("dropout", self.dropout)?;
        let outside = |block: &&usize| !(1..=spec.depth).contains(*block);
        if let Some(block) = self.blocks.iter().find(outside) {
            let message = format!(
                "expected 1 to {}, the blocks of {}, got {block}",
                spec.depth, spec.name
            );
            return Err(Error::config("blocks", message));
        }
        let here = |site: &Site| self.blocks.is_empty() || self.blocks.contains(&site.block);
        let place = |site: &'a Site| match site.kind {
            SiteKind::Branch { branch, width } if here(site) => {
                (branch != Branch::Attention || self.attention).then_some((site, width))
            }
            _ => None,
        };
        let places: Vec<_> = spec.sites.iter().filter_map(place).collect();
        if places.is_empty() {
            let reason = "it has neither an mlp nor a residual branch";
            return Err(spec.unfit(self.method, reason));
        }
        Ok(places)
    }

    /// Warns if the hidden width exceeds that of a branch: allowed, but rarely intended.
    fn remarks(&self, places: &[(&Site, usize)]) -> Vec<String> {
        let Self { method, hidden, .. } = self;
        let narrower = places.iter().find(|(_, width)| width < hidden);
        let remark = narrower.map(|(site, width)| {
            let name = &site.name;
            format!("{method}: bottleneck {hidden} is wider than {name} ({width})")
        });
        remark.into_iter().collect()
    }
}

/// The bottlenecks of a method, by branch.
#[derive(Module, Debug)]
struct BranchAdapter {
    bottlenecks: BySite<Bottleneck>,
    #[module(skip)]
    reads: Reads,
    scale: f64,
}

impl Adapter for BranchAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let Some(bottleneck) = self.bottlenecks.get(site.name.as_str()) else {
            return Vec::new();
        };
        // The act is a function and not data: a nonlinearity cannot be folded into weights, so core
        // has only to call it.
        let act = move |values: BranchValues, draws: &Draws| {
            let input = match self.reads {
                Reads::Residual => values.residual,
                Reads::Normed => values.normed,
                Reads::Output => values.output.clone(),
            };
            let delta = bottleneck.forward(input, draws).scaled(self.scale);
            values.output.plus(delta)
        };
        vec![SiteAct::Branch(Box::new(act))]
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let described = |bottleneck: &Bottleneck| DescribedSite::Branch {
            reads: self.reads,
            layers: bottleneck.described(&site.name),
            scale: self.scale,
        };
        let bottleneck = self.bottlenecks.get(site.name.as_str());
        bottleneck.map(described).into_iter().collect()
    }
}
