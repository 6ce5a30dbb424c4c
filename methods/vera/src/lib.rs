//! VeRA: two trained vectors around a frozen random pair of matrices that all layers share.
//!
//! Reference: "VeRA: Vector-based Random Matrix Adaptation", Kopiczko et al., 2024, Eq. 2. Sites, names and
//! initial values as in HF PEFT.
//!
//! `W' = W + diag(b) B diag(d) A`, with `b [out]` from zero, so that an adapted model starts as the backbone,
//! and `d [r]` from `d_initial`. `A [r, in]` and `B [out, r]` are as large as the largest site needs; each
//! takes their first columns and rows. They follow from `seed` by PyTorch's generator, so that they are
//! those of HF PEFT, and are neither counted nor saved. Parameters: `out + r` per site.
//!
//! Departures: HF PEFT adapts linear layers only; here the kernel of a convolution is the matrix `[out, in /
//! groups * kh * kw]`. `query`, `key` and `value` adapt those rows of a fused projection. There is no
//! dropout of the inputs.

#![allow(non_snake_case, reason = "HF PEFT's names of the matrices")]

mod hf_peft;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use peft_core::backbone::{Backbone, Init};
use peft_core::check;
use peft_core::error::Result;
use peft_core::hooks::{SiteAct, like};
use peft_core::layer_sites::{LayerSite, layer_sites};
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::{Buffer, BySite};
use peft_core::random::Distribution;
use peft_core::site::{Site, Targets};
use peft_core::torch_random::TorchGenerator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Scale the rows and columns of a frozen random product that is added to weights.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Vera {
    /// Rank `r` of the frozen pair, at least 1. Default 256.
    pub rank: usize,
    /// The initial value of `d`, any finite number. Default 0.1.
    pub d_initial: f64,
    /// The seed of the frozen pair, HF PEFT's `projection_prng_key`. Default 0.
    pub seed: u64,
    /// Sites by suffix (a list) or regular expression over the whole name (a string); `query`, `key` and
    /// `value` are rows of a fused `qkv`. Default: `[qkv]` where there is one, else every convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

impl Default for Vera {
    fn default() -> Self {
        Self {
            rank: 256,
            d_initial: 0.1,
            seed: 0,
            targets: None,
        }
    }
}

impl Vera {
    fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<LayerSite<'a>>> {
        check::at_least_one("rank", self.rank)?;
        check::finite("d_initial", self.d_initial)?;
        layer_sites("vera", self.targets.as_ref(), backbone.spec())
    }

    /// `A [r, in]` and `B [out, r]` for the largest of these sites.
    fn pair(&self, sites: &[LayerSite]) -> [TensorData; 2] {
        let largest = |size: fn(&LayerSite) -> usize| sites.iter().map(size).max().unwrap_or(0);
        let (rows, columns) = (largest(|site| site.rows), largest(|site| site.columns));
        let mut generator = TorchGenerator::new(self.seed);
        [[self.rank, columns], [rows, self.rank]].map(|shape| {
            // Kaiming's bound, computed in f64 as PyTorch does.
            let bound = 3.0f64.sqrt() * (2.0f64.sqrt() / (shape[1] as f64).sqrt());
            let values = generator.uniform(shape[0] * shape[1], bound as f32);
            TensorData::new(values, shape)
        })
    }
}

#[typetag::serde(name = "vera")]
impl AdaptationMethod for Vera {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let sites = self.sites(backbone)?;
        let [vera_A, vera_B] = self.pair(&sites).map(|data| frozen(data, init.device()));
        let vectors = sites.iter().map(|site| {
            let param = |part: &str, count, values| {
                init.param(&format!("{}.{part}", site.name()), [count], values)
            };
            let start = Distribution::Normal(self.d_initial as f32, 0.0);
            let vectors = Vectors {
                vera_lambda_b: param("vera_lambda_b", site.rows, Distribution::Zeros),
                vera_lambda_d: param("vera_lambda_d", self.rank, start),
            };
            (site.name().to_owned(), vectors)
        });
        Ok(Attachment::adapter(VeraAdapter {
            vectors: vectors.collect(),
            vera_A,
            vera_B,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let sites = self.sites(backbone)?;
        Ok(sites.iter().map(|site| site.rows + self.rank).sum())
    }
}

fn frozen(data: TensorData, device: &Device) -> Buffer<2> {
    Buffer::new(Tensor::from_data(data, device))
}

/// The vectors of a [`Vera`] and the pair that they share.
#[derive(Module, Debug)]
pub struct VeraAdapter {
    vectors: BySite<Vectors>,
    vera_A: Buffer<2>,
    vera_B: Buffer<2>,
}

/// `b [out]` and `d [r]` at one site, under HF PEFT's names.
#[derive(Module, Debug)]
struct Vectors {
    vera_lambda_b: Param<Tensor<1>>,
    vera_lambda_d: Param<Tensor<1>>,
}

impl Adapter for VeraAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        SiteAct::weights(&self.vectors, site, move |vectors, weight| {
            self.changed(vectors, weight)
        })
    }
}

impl VeraAdapter {
    /// # Shapes
    /// `[out, in] -> [out, in]`.
    fn changed(&self, vectors: &Vectors, weight: Tensor<2>) -> Tensor<2> {
        let [rows, columns] = weight.dims();
        let (b, d) = (vectors.vera_lambda_b.val(), vectors.vera_lambda_d.val());
        let first = like(self.vera_A.val(), &d).narrow(1, 0, columns); // [r, in]
        let second = like(self.vera_B.val(), &b).narrow(0, 0, rows); // [out, r]
        let product = (second * d.unsqueeze::<2>()).matmul(first); // [out, in]
        weight + product * b.unsqueeze_dim(1)
    }
}

peft_core::register!(
    Method, Vera,
    name: "vera",
    summary: "two trained vectors around a frozen random pair that all layers share",
    reference: "VeRA: Vector-based Random Matrix Adaptation, Kopiczko et al., 2024",
    example: "name: vera\nrank: 256\nd_initial: 0.1\n",
    hf_peft: { peft_type: "VERA", read: hf_peft::read, write: hf_peft::write },
);

#[cfg(test)]
mod tests;
