//! The layers between the pooled map and the features.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::hooks::Hooks;
use peft_core::layers::{LayerNorm, Linear};
use peft_core::site::{Site, SiteKind};
use peft_ops::gelu;

use crate::architecture::{Architecture, FeaturesAt};
use crate::place::Place;

/// The last norm, and the hidden layer of a classifier. A network that norms before pooling has neither.
#[derive(Module, Debug)]
pub(crate) struct Head {
    pub norm: Option<LayerNorm>,
    pre_logits: Option<PreLogits>,
    /// Whether the features are those behind the hidden layer.
    after: bool,
}

#[derive(Module, Debug)]
struct PreLogits {
    fc: Linear,
}

impl Head {
    /// The part behind `width` channels.
    pub fn new(place: &Place, width: usize) -> Self {
        let Architecture {
            head_norm_first,
            head_hidden_size,
            features,
            ..
        } = *place.sizes;
        let hidden = head_hidden_size.map(|outputs| {
            let inputs = width;
            let site = place.site("pre_logits.fc", SiteKind::Linear { inputs, outputs });
            PreLogits {
                fc: Linear::new(site, true, place.init),
            }
        });
        Self {
            norm: (!head_norm_first).then(|| place.norm("norm", width)),
            pre_logits: hidden,
            after: features == FeaturesAt::After,
        }
    }

    /// Returns its sites in the order of the forward pass; only those of layers that act on the features.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        let hidden = self.pre_logits.as_ref().filter(|_| self.after);
        let norm = self.norm.iter().map(LayerNorm::site);
        norm.chain(hidden.map(|hidden| hidden.fc.site()))
    }

    /// Whether there is a hidden layer that the features do not pass.
    pub fn leaves_a_layer_out(&self) -> bool {
        self.pre_logits.is_some() && !self.after
    }

    /// # Shapes
    /// `[b, c] -> [b, features]`.
    pub fn forward(&self, x: Tensor<2>, hooks: &Hooks) -> Tensor<2> {
        let x = match &self.norm {
            Some(norm) => norm.forward(x, hooks),
            None => x,
        };
        match &self.pre_logits {
            Some(hidden) if self.after => gelu(hidden.fc.forward(x, hooks)),
            _ => x,
        }
    }
}
