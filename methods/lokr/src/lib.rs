//! LoKr: the change of a weight is a Kronecker product of two small factors.
//!
//! References: "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation",
//! Yeh et al., 2024, Sec. 3; "KronA: Parameter Efficient Tuning with Kronecker Adapter", Edalati et al.,
//! 2022. Sites, names, sizes and initial values as in HF PEFT.
//!
//! `W' = W + (alpha / r) W1 (x) W2` with `W1 [l, m]` and `W2 [k, n]`, where `out = l k` and `in = m n` are
//! split near their roots, or at `decompose_factor`. `W2` is a product of rank `r` where `r` is below half
//! of its longer side, and so is `W1` with `decompose_both`. `W1`, or its first factor, starts at zero, and
//! the others kaiming-uniform with `a = sqrt 5`: an adapted model starts as the backbone. `W2` holds the
//! taps of a convolution's kernel. Parameters: `l m + r (k + n)` per site, or `k n` and `r (l + m)`.
//!
//! Departures: `query`, `key` and `value` adapt those rows of a fused projection. There is no dropout of
//! rows or of whole sites and no factorised kernel (`use_effective_conv2d`).

mod config;
mod hf_peft;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::backbone::{Backbone, Init};
use peft_core::described::{DescribedSite, Formula};
use peft_core::error::Result;
use peft_core::hooks::SiteAct;
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::{BySite, Named};
use peft_core::random::Distribution;
use peft_core::site::Site;

use config::{FIRST, SECOND, Start};

pub use config::Lokr;

#[typetag::serde(name = "lokr")]
impl AdaptationMethod for Lokr {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let factors = self.sites(backbone)?.into_iter().map(|site| {
            let param = |(part, shape, starts): (&str, [usize; 2], Start)| {
                let values = match starts {
                    Start::Zero => Distribution::Zeros,
                    Start::Drawn => Distribution::kaiming(shape[1]),
                };
                let name = format!("{}.{part}", site.name());
                (part.to_owned(), init.param(&name, shape, values))
            };
            let factors = Factors {
                parts: self.parts(&site).into_iter().map(param).collect(),
                scale: self.alpha() / self.rank as f64,
            };
            (site.name().to_owned(), factors)
        });
        Ok(Attachment::adapter(LokrAdapter {
            factors: factors.collect(),
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let sites = self.sites(backbone)?;
        let parts = sites.iter().flat_map(|site| self.parts(site));
        Ok(parts.map(|(_, [rows, columns], _)| rows * columns).sum())
    }
}

/// The factors of a [`Lokr`].
#[derive(Module, Debug)]
pub struct LokrAdapter {
    factors: BySite<Factors>,
}

impl Adapter for LokrAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        SiteAct::weights(&self.factors, site, Factors::changed)
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        DescribedSite::changed_weights(site, |name, _| {
            let factors = self.factors.get(name)?;
            let of = [FIRST, SECOND]
                .map(|parts| factors.described(name, parts))
                .to_vec();
            Some(Formula::Kronecker { of }.scaled(factors.scale))
        })
    }
}

/// The factors at one site, under HF PEFT's names.
#[derive(Module, Debug)]
struct Factors {
    parts: Named<String, Param<Tensor<2>>>,
    scale: f64,
}

impl Factors {
    /// # Shapes
    /// `[l k, m n] -> [l k, m n]`.
    fn changed(&self, weight: Tensor<2>) -> Tensor<2> {
        let (w1, w2) = (self.factor(FIRST), self.factor(SECOND));
        let ([l, m], [k, n]) = (w1.dims(), w2.dims());
        let product = w1.reshape([l, 1, m, 1]) * w2.reshape([1, k, 1, n]); // [l, k, m, n]
        weight + product.reshape([l * k, m * n]) * self.scale
    }

    /// [`factor`](Self::factor) as data at the site or slice `name`.
    fn described(&self, name: &str, [whole, a, b]: [&str; 3]) -> Formula {
        let part = |part: &str| Formula::parameter(format!("{name}.{part}"));
        match self.parts.get(whole) {
            Some(_) => part(whole),
            None => part(a).matmul(part(b)),
        }
    }

    /// A factor that is held whole, or the product of its own two.
    fn factor(&self, [whole, a, b]: [&str; 3]) -> Tensor<2> {
        let part = |name: &str| self.parts.get(name).map(Param::val);
        match (part(whole), part(a), part(b)) {
            (Some(whole), ..) => whole,
            (None, Some(a), Some(b)) => a.matmul(b),
            _ => unreachable!("a factor is held whole or as two"),
        }
    }
}

peft_core::register!(
    Method, Lokr,
    name: "lokr",
    summary: "a Kronecker product of two small factors, added to frozen weights",
    reference: "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation, Yeh et al., 2024",
    example: "name: lokr\nrank: 8\ndecompose_both: false\n",
    hf_peft: { peft_type: "LOKR", read: hf_peft::read, write: hf_peft::write },
);

#[cfg(test)]
mod tests;
