//! Activation prompts: one trained perturbation added to the activation at a layer boundary.
//!
//! Reference: "Visual Prompting Reimagined: The Power of Activation Prompts", 2026
//! (arXiv 2604.06440), Eq. 2.
//!
//! `z(l) <- z(l) + delta(l)`, one `delta` for all inputs, of the activation's full shape; `l = 0`
//! is additive visual prompting. Parameters: `N D` on tokens (the class token included), `C H W` on
//! maps, per boundary. `delta` starts at zero, so that an adapted model starts as the backbone.
//!
//! Departure: the paper's text puts the prompt at the input of the third block (ViT-L) and of the
//! third-to-last block (ResNet-101), which is the default rule here; its parameter count for
//! ResNet-101 (0.12 M) fits one block later.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::activation::{Activation, BoundaryShape};
use peft_core::backbone::{Backbone, BoundarySpec, Init};
use peft_core::error::{Error, Result};
use peft_core::hooks::BoundaryAct;
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::{Boundary, ByBoundary};
use peft_core::random::Distribution;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Add a trained perturbation at boundaries.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ap {
    /// Boundaries: 0 is the normalised image, `l` the input of block `l`, `-1` the input of the
    /// last block. Default: the input of the third block where the activation is a sequence of
    /// tokens, of the third-to-last where it is a map (paper, Sec. 5.1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub boundaries: Vec<i64>,
}

impl Ap {
    fn places<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<&'a BoundarySpec>> {
        let spec = backbone.spec();
        if self.boundaries.is_empty() {
            let third = spec.boundary(3.min(spec.depth as i64))?;
            return Ok(match third.shape {
                BoundaryShape::Map { .. } => vec![spec.boundary(-(3.min(spec.depth as i64)))?],
                _ => vec![third],
            });
        }
        let places: Vec<_> = self
            .boundaries
            .iter()
            .map(|&index| spec.boundary(index))
            .collect::<Result<_>>()?;
        for (i, place) in places.iter().enumerate() {
            if places[..i].iter().any(|other| other.index == place.index) {
                let message = format!("{place} is named twice");
                return Err(Error::config("boundaries", message));
            }
        }
        Ok(places)
    }
}

#[typetag::serde(name = "ap")]
impl AdaptationMethod for Ap {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let prompts = self.places(backbone)?.into_iter().map(|place| {
            let prompt = Prompt::new(place, init);
            (Boundary(place.index), prompt)
        });
        Ok(Attachment::adapter(ApAdapter {
            prompts: prompts.collect(),
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let places = self.places(backbone)?;
        Ok(places.iter().map(|place| place.shape.elements()).sum())
    }
}

/// The prompts of an [`Ap`].
#[derive(Module, Debug)]
pub struct ApAdapter {
    prompts: ByBoundary<Prompt>,
}

impl Adapter for ApAdapter {
    fn at_boundary(&self, index: usize) -> Option<BoundaryAct<'_>> {
        let prompt = self.prompts.get(&Boundary(index))?;
        Some(BoundaryAct::Add(prompt.delta()))
    }
}

/// One `delta`: `prompt` is `[N, D]` on tokens and `[C, H, W]` on maps.
#[derive(Module, Debug)]
struct Prompt {
    prompt: Delta,
}

#[derive(Module, Debug)]
enum Delta {
    Tokens(Param<Tensor<2>>),
    Map(Param<Tensor<3>>),
}

impl Prompt {
    fn new(place: &BoundarySpec, init: &Init) -> Self {
        let name = format!("{}.prompt", Boundary(place.index));
        let zeros = Distribution::Zeros;
        let prompt = match place.shape {
            BoundaryShape::Tokens { count, width } => {
                Delta::Tokens(init.param(&name, [count, width], zeros))
            }
            BoundaryShape::Map {
                channels,
                height,
                width,
            } => Delta::Map(init.param(&name, [channels, height, width], zeros)),
            BoundaryShape::Features { .. } => unreachable!("no boundary has features"),
        };
        Self { prompt }
    }

    /// With a batch of one.
    fn delta(&self) -> Activation {
        match &self.prompt {
            Delta::Tokens(prompt) => Activation::Tokens(prompt.val().unsqueeze()),
            Delta::Map(prompt) => Activation::Map(prompt.val().unsqueeze()),
        }
    }
}

peft_core::register!(
    Method, Ap,
    name: "ap",
    summary: "activation prompt: add one trained perturbation at a boundary",
    reference: "Visual Prompting Reimagined: The Power of Activation Prompts, 2026, arXiv 2604.06440",
    example: "name: ap\nboundaries: [3]\n",
);

#[cfg(test)]
mod tests;
