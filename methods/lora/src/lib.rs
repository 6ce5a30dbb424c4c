//! LoRA, a trained low-rank product beside frozen weights, and its weight-decomposed form, DoRA.
//!
//! References: "LoRA: Low-Rank Adaptation of Large Language Models", Hu et al., 2022, Eq. 3; "DoRA:
//! Weight-Decomposed Low-Rank Adaptation", Liu et al., 2024, Eq. 5; "A Rank Stabilization Scaling
//! Factor for Fine-Tuning with LoRA", Kalajdzievski, 2023. Sites, names and patterns as in HF PEFT.
//!
//! `y = W x + (alpha / r) B A dropout(x)`, `A [r, in]` kaiming-uniform with `a = sqrt 5`, `B [out,
//! r]` zero, so that an adapted model starts as the backbone; rsLoRA scales by `alpha / sqrt r`.
//! DoRA trains the norm of every row of the sum separately: `y = m / ||W + s B A|| (W + s B A) x`,
//! where `m` starts at `||W||` and the norm in the denominator is a constant. On a convolution `A` has
//! the site's kernel, stride and padding and reads all channels, and `B` is 1x1 in the site's groups.
//! Parameters: `r (in + out)` per linear site and `r in kh kw + out r / groups` per convolution, where
//! `query`, `key` and `value` count the rows of their slice; DoRA adds one per row,
//! and so does the bias of `B` (`lora_bias`), which is scaled like the product.
//!
//! `init: pissa` ("PiSSA: Principal Singular Values and Singular Vectors Adaptation", Meng et al., 2024) and
//! `olora` ("OLoRA: Orthonormal Low-Rank Adaptation", Buyukakyuz, 2024) start the factors from the weight
//! and take their product from it, so that an adapted model still starts as the backbone. LoRA+ ("LoRA+:
//! Efficient Low Rank Adaptation of Large Models", Hayou et al., 2024) is `b_rate`.
//!
//! Departures: `query`, `key` and `value` adapt those rows of a fused projection, which HF PEFT can
//! only do on models whose projections are separate. A pattern that matches nothing is an error
//! here; HF PEFT ignores it, and reading its folders reports it.

#![allow(non_snake_case, reason = "HF PEFT's names of the factors")]

mod adapter;
mod config;
mod decompose;
mod hf_peft;

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use peft_core::backbone::{Backbone, Init};
use peft_core::error::Result;
use peft_core::method::{AdaptationMethod, Attachment};

use adapter::{SiteFactors, row_norms, weight};
use config::{Place, sizes};
use decompose::{singular, triangular};

pub use adapter::LoraAdapter;
pub use config::{Lora, Start};

impl Lora {
    /// `A` and `B` whose product the frozen weight loses, if they start from it.
    fn taken(&self, backbone: &dyn Backbone, place: &Place) -> Option<[TensorData; 2]> {
        match self.init {
            Start::Default | Start::Gaussian => None,
            Start::Pissa => Some(singular(&weight(backbone, place), place.rank, place.scale)),
            Start::Olora => Some(triangular(&weight(backbone, place), place.rank)),
        }
    }
}

#[typetag::serde(name = "lora")]
impl AdaptationMethod for Lora {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let (mut factors, mut rates) = (Vec::new(), BTreeMap::new());
        for place in self.places(backbone)? {
            let name = place.picked.name();
            let magnitude = self.dora.then(|| row_norms(backbone, &place.picked, init));
            let own = SiteFactors::new(&place, magnitude, self, init);
            let own = match self.taken(backbone, &place) {
                Some(taken) => own.starting_from(taken, init),
                None => own,
            };
            if self.b_rate != 1.0 {
                rates.insert(format!("{name}.lora_B.weight"), self.b_rate);
            }
            factors.push((name.to_owned(), own));
        }
        let adapter = LoraAdapter {
            factors: factors.into_iter().collect(),
            dropout: self.dropout,
        };
        Ok(Attachment::adapter(adapter).with_rates(rates))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let site = |place: &Place| {
            let [fan_in, rows, groups] = sizes(&place.picked);
            let magnitude = if self.dora { rows } else { 0 };
            let bias = if self.lora_bias { rows } else { 0 };
            place.rank * fan_in + rows * place.rank / groups + magnitude + bias
        };
        Ok(self.places(backbone)?.iter().map(site).sum())
    }
}

peft_core::register!(
    Method, Lora,
    name: "lora",
    summary: "low-rank side paths beside frozen linear layers and convolutions; rsLoRA, DoRA",
    reference: "LoRA: Low-Rank Adaptation of Large Language Models, Hu et al., 2022",
    example: "name: lora\nrank: 10\nalpha: 10\ndropout: 0.0\n",
    hf_peft: { peft_type: "LORA", read: hf_peft::read, write: hf_peft::write },
);

#[cfg(test)]
mod tests;
