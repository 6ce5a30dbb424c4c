//! BOFT: the inputs of a frozen weight are rotated by a butterfly of trained orthogonal blocks.
//!
//! Reference: "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization", Liu et al., 2024, Sec. 4.
//! Names and sizes as in HF PEFT.
//!
//! `W' = diag(s) W B_1^T .. B_m^T` with factors `B_i = P_i diag(R_1, .., R_n) P_i^T` of blocks of size `b`. The
//! permutation `P_i` brings channels together that lie `2^(i - 1) b / 2` apart within blocks of `2^(i - 1) b`, so that
//! `m` factors mix `2^(m - 1) b` channels. A block is Cayley's `(I - Q) (I + Q)^-1` of `Q = (A - A^T) / 2`, where all
//! of `A [b, b]` is a parameter. `A` starts at zero and `s` at one, so that an adapted model starts as the backbone.
//! Parameters: `m b in + out` per site.
//!
//! Departures: there is no dropout of blocks. HF PEFT has more than one factor only where its CUDA extension is
//! built, and silently one elsewhere; here the factors are what the configuration or a file says. `query`, `key` and
//! `value` adapt those rows of a fused projection.

#![allow(non_snake_case, reason = "HF PEFT's name of the blocks")]

mod config;
mod exchange;
mod hf_peft;

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::backbone::{Backbone, Init};
use peft_core::described::{DescribedSite, Formula};
use peft_core::error::Result;
use peft_core::hooks::SiteAct;
use peft_core::layer_sites::LayerSite;
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::BySite;
use peft_core::random::Distribution;
use peft_core::rotation::exact;
use peft_core::site::{Site, SiteKind};

pub use crate::config::Boft;
use crate::config::PARTS;
use crate::exchange::Exchange;

#[typetag::serde(name = "boft")]
impl AdaptationMethod for Boft {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let sites = self.sites(backbone)?.into_iter();
        let butterflies = sites.map(|(site, size)| {
            let name = |part: &str| format!("{}.{part}", site.name());
            // HF PEFT's shape of a layer's scale, and of a convolution's.
            let scale = match site.picked.site.kind {
                SiteKind::Conv { .. } => [1, site.rows],
                _ => [site.rows, 1],
            };
            let blocks = [self.factors, site.columns / size, size, size];
            let butterfly = Butterfly {
                boft_R: init.param(&name(PARTS[0]), blocks, Distribution::Zeros),
                boft_s: init.param(&name(PARTS[1]), scale, Distribution::Ones),
            };
            (site.name().to_owned(), butterfly)
        });
        Ok(Attachment::adapter(BoftAdapter {
            butterflies: butterflies.collect(),
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let sites = self.sites(backbone)?;
        let count =
            |(site, size): &(LayerSite, usize)| self.factors * size * site.columns + site.rows;
        Ok(sites.iter().map(count).sum())
    }
}

/// The butterflies of a [`Boft`].
#[derive(Module, Debug)]
pub struct BoftAdapter {
    butterflies: BySite<Butterfly>,
}

impl Adapter for BoftAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        SiteAct::weights(&self.butterflies, site, Butterfly::rotated)
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let part = |(name, rows): (&str, Option<Range<usize>>)| {
            let value = self.butterflies.get(name)?.described(name, site.columns());
            Some(DescribedSite::Weight { value, rows })
        };
        site.parts().filter_map(part).collect()
    }
}

/// The blocks and the scale at one site, under HF PEFT's names.
#[derive(Module, Debug)]
struct Butterfly {
    /// `A [m, n, b, b]`.
    boft_R: Param<Tensor<4>>,
    /// `s [out, 1]`, at a convolution `[1, out]`.
    boft_s: Param<Tensor<2>>,
}

impl Butterfly {
    /// # Shapes
    /// `[out, n b] -> [out, n b]`.
    fn rotated(&self, weight: Tensor<2>) -> Tensor<2> {
        let [rows, columns] = weight.dims();
        let [factors, count, size, _] = self.boft_R.dims();
        let blocks = self.boft_R.val().reshape([factors * count, size, size]);
        let skew = (blocks.clone() - blocks.swap_dims(1, 2)) * 0.5;
        let rotations = exact(skew).swap_dims(1, 2); // [m n, b, b]
        let mut weight = weight;
        for level in 0..factors {
            let own = rotations.clone().narrow(0, level * count, count);
            let exchange = Exchange { size, level };
            let parts = exchange.of(weight, true).reshape([rows, count, size]);
            let parts = parts.swap_dims(0, 1).matmul(own).swap_dims(0, 1); // [out, n, b]
            weight = exchange.of(parts.reshape([rows, columns]), false);
        }
        weight * self.boft_s.val().reshape([rows, 1])
    }
}

impl Butterfly {
    /// [`rotated`](Self::rotated) as a formula, where the site is called `name`.
    fn described(&self, name: &str, columns: usize) -> Formula {
        let [factors, count, size, _] = self.boft_R.lazy_shape().dims();
        let rows = self.boft_s.lazy_shape().num_elements();
        let [blocks, scale] = PARTS.map(|part| Formula::parameter(format!("{name}.{part}")));
        let blocks = blocks.reshaped([factors * count, size, size]);
        let transposed = blocks.clone().permuted([0, 2, 1]).scaled(-1.0);
        let skew = blocks.plus(transposed).scaled(0.5);
        // Row by row what lies right of the diagonal.
        let narrow = |axis, start, count, of: Formula| Formula::Narrow {
            axis,
            start,
            count,
            of: Box::new(of),
        };
        let right = |row: usize| {
            let rest = size - 1 - row;
            let own = narrow(2, row + 1, rest, narrow(1, row, 1, skew.clone()));
            own.reshaped([factors * count, rest])
        };
        let entries: Vec<_> = (0..size - 1).map(right).collect();
        let rotations = Formula::Cayley {
            size,
            terms: None,
            of: Box::new(Formula::cat(1, entries)),
        };
        let rotations = rotations.permuted([0, 2, 1]);
        let mut weight = Formula::Weight;
        for level in 0..factors {
            let exchange = Exchange { size, level };
            let of = Box::new(narrow(0, level * count, count, rotations.clone()));
            let parts = exchange.described(weight, [rows, columns], true);
            let parts = parts.matmul(Formula::BlockDiagonal { of });
            weight = exchange.described(parts, [rows, columns], false);
        }
        let of = vec![weight, scale.reshaped([rows, 1])];
        Formula::Multiply { of }
    }
}

peft_core::register!(
    Method, Boft,
    name: "boft",
    summary: "butterfly products of rotations of the inputs of frozen weights",
    reference: "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization, Liu et al., 2024",
    example: "name: boft\nblock_size: 4\nfactors: 1\n",
    hf_peft: { peft_type: "BOFT", read: hf_peft::read, write: hf_peft::write },
);

#[cfg(test)]
mod tests;
