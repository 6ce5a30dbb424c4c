//! The layers whose weight a method changes, as its `targets` select them.

use std::ops::Range;

use crate::error::Result;
use crate::site::{Picked, Site, SiteKind, Targets};
use crate::spec::BackboneSpec;

/// A linear layer, a convolution or a slice of a fused projection, with the matrix that is its weight.
#[derive(Clone, Debug)]
pub struct LayerSite<'a> {
    /// The site, and the slice of it if that was selected.
    pub picked: Picked<'a>,
    /// Rows of the weight: the outputs, or those of the slice.
    pub rows: usize,
    /// Columns of the weight: the inputs, or `in / groups * kh * kw` of a convolution.
    pub columns: usize,
    /// Columns for each input channel: `kh * kw` of a convolution, else 1.
    pub taps: usize,
}

impl LayerSite<'_> {
    /// The name under which its parameters are saved: that of the slice or of the site.
    pub fn name(&self) -> &str {
        self.picked.name()
    }

    /// The rows of the slice; none if the layer is adapted whole.
    pub fn slice(&self) -> Option<Range<usize>> {
        self.picked.slice.map(|slice| slice.rows.clone())
    }
}

/// The layers that `targets` select for a method; without targets `qkv`, or on a backbone that has no attention
/// to adapt, the layers of its MLPs, or every convolution if it has none.
///
/// # Errors
/// [`Error::Target`](crate::Error::Target) for a target that matches nothing,
/// [`Error::Unfit`](crate::Error::Unfit) for a norm or a branch.
pub fn layer_sites<'a>(
    method: &str,
    targets: Option<&Targets>,
    spec: &'a BackboneSpec,
) -> Result<Vec<LayerSite<'a>>> {
    let picked = match targets {
        Some(targets) => targets.pick(&spec.sites, &spec.name)?,
        None => by_default(spec),
    };
    let layer = |picked: Picked<'a>| {
        let [outputs, channels, taps] = matrix(picked.site.kind).ok_or_else(|| {
            let (name, kind) = (picked.name(), picked.site.kind);
            let reason = format!("{name} is a {kind}; expected a linear layer or a convolution");
            spec.unfit(method, reason)
        })?;
        let rows = picked.slice.map_or(outputs, |slice| slice.rows.len());
        Ok(LayerSite {
            picked,
            rows,
            columns: channels * taps,
            taps,
        })
    };
    picked.into_iter().map(layer).collect()
}

fn by_default(spec: &BackboneSpec) -> Vec<Picked<'_>> {
    let is_conv = |site: &&Site| matches!(site.kind, SiteKind::Conv { .. });
    let whole = |site| Picked { site, slice: None };
    let of = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned());
        Targets::Suffixes(names.collect()).pick(&spec.sites, &spec.name)
    };
    of(&["qkv"])
        .or_else(|_| of(&["mlp.fc1", "mlp.fc2"]))
        .unwrap_or_else(|_| spec.sites.iter().filter(is_conv).map(whole).collect())
}

/// The outputs of a layer, the input channels that each reads and the taps of a kernel; none for a norm
/// or a branch.
fn matrix(kind: SiteKind) -> Option<[usize; 3]> {
    match kind {
        SiteKind::Linear { inputs, outputs } => Some([outputs, inputs, 1]),
        SiteKind::Conv {
            inputs,
            outputs,
            kernel: [kh, kw],
            groups,
            ..
        } => Some([outputs, inputs / groups, kh * kw]),
        SiteKind::Norm { .. } | SiteKind::Branch { .. } => None,
    }
}
