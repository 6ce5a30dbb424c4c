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

mod config;
mod hf_peft;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use peft_core::backbone::{Backbone, Init};
use peft_core::described::{DescribedSite, Formula};
use peft_core::error::Result;
use peft_core::hooks::{SiteAct, like};
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::{Buffer, BySite};
use peft_core::random::Distribution;
use peft_core::site::Site;

pub use config::Vera;

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

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let columns = site.columns();
        DescribedSite::changed_weights(site, |name, rows| {
            self.vectors.get(name)?;
            let own = |part: &str| Formula::parameter(format!("{name}.{part}"));
            let [b, d] = ["vera_lambda_b", "vera_lambda_d"].map(own);
            let first = Formula::parameter("vera_A").first(1, columns);
            let second = Formula::parameter("vera_B").first(0, rows);
            let scaled = Formula::Multiply {
                of: vec![second, d],
            };
            let of = vec![scaled.matmul(first), b.reshaped([rows, 1])];
            Some(Formula::Multiply { of })
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
