//! Activation prompts: one trained perturbation of the activation at a layer boundary.
//!
//! Reference: "Visual Prompting Reimagined: The Power of Activation Prompts", 2026
//! (arXiv 2604.06440), Eq. 2 and Tab. A6.
//!
//! `z(l) <- z(l) + delta(l)`, one `delta` for all inputs, of the activation's full shape; `l = 0`
//! is additive visual prompting. `product` multiplies element by element, `concat` appends `p` trained
//! tokens to the sequence. Parameters: `N D` on tokens (the class token included) or `(N - 1) D` without
//! it, `C H W` on maps, per boundary; `D` or `C` if shared over positions; `p D` for `concat`. A delta
//! starts at zero and a factor at one, so that an adapted model starts as the backbone; concatenated
//! tokens start as VPT's prompts do.
//!
//! Departure: the paper's text puts the prompt at the input of the third block (ViT-L) and of the
//! third-to-last block (ResNet-101), which is the default rule here; its parameter count for
//! ResNet-101 (0.12 M) fits one block later, and that for ViT-L (0.16 M) fits no place of a ViT-L, with
//! or without the class token.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::activation::{Activation, BoundaryShape, Tokens};
use peft_core::backbone::{Backbone, BoundarySpec, Init};
use peft_core::described::{DescribedBoundary, Formula};
use peft_core::error::{Error, Result};
use peft_core::hooks::{BoundaryAct, Extras};
use peft_core::layers::BoundaryTensor;
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::params;
use peft_core::plug::{Boundary, ByBoundary};
use peft_core::random::Distribution;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Perturb the activation at boundaries.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ap {
    /// Boundaries: 0 is the normalised image, `l` the input of block `l`, `-1` the input of the
    /// last block. Default: the input of the third block where the activation is a sequence of
    /// tokens, of the third-to-last where it is a map (paper, Sec. 5.1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub boundaries: Vec<i64>,
    /// The inputs of the first `k` blocks instead of `boundaries` (the paper's AP-3 and AP-5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<usize>,
    /// The way in which the prompt is combined with the activation. Default `additive`.
    pub kind: Kind,
    /// Whether there is one value per channel, shared over all positions. Not with `concat`. Default
    /// false.
    pub shared: bool,
    /// Whether the prompt covers the class token too. False needs a backbone that has one and an
    /// unshared prompt on its tokens. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_token: Option<bool>,
    /// Number of tokens of `concat`, at least 1. Default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
}

/// The way in which a prompt is combined with the activation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `z + delta`.
    #[default]
    Additive,
    /// `z * factor`, element by element.
    Product,
    /// `[z; prompt]`, along the tokens.
    Concat,
}

/// Number of tokens of `concat`, as in the paper's VPT.
const LENGTH: usize = 10;

impl Ap {
    fn places<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<&'a BoundarySpec>> {
        self.check()?;
        let spec = backbone.spec();
        let depth = spec.depth as i64;
        let indices: Vec<i64> = match (self.first, &self.boundaries[..]) {
            (Some(k), _) => {
                if k == 0 || k > spec.depth {
                    let message = format!("expected 1 to {depth} (the blocks), got {k}");
                    return Err(Error::config("first", message));
                }
                (1..=k as i64).collect()
            }
            (None, []) => {
                // A backbone with fewer than three blocks has no third one.
                let third = 3.min(depth);
                match spec.boundary(third)?.shape {
                    BoundaryShape::Map { .. } => vec![-third],
                    _ => vec![third],
                }
            }
            (None, boundaries) => boundaries.to_vec(),
        };
        let places = spec.distinct_boundaries(&indices)?;
        if self.kind == Kind::Concat {
            spec.check_extras("ap with kind concat", &places)?;
        }
        if !self.covers_class() {
            check_class(backbone, &places)?;
        }
        Ok(places)
    }

    fn check(&self) -> Result<()> {
        if self.first.is_some() && !self.boundaries.is_empty() {
            let message = "expected either `first` or `boundaries`, got both";
            return Err(Error::config("first", message));
        }
        if !self.covers_class() && (self.shared || self.kind == Kind::Concat) {
            let message =
                "expected true with shared or with kind concat, whose values have no position";
            return Err(Error::config("class_token", message));
        }
        match (self.kind, self.length) {
            (Kind::Concat, Some(0)) => Err(Error::config("length", "expected at least 1, got 0")),
            (Kind::Concat, _) if self.shared => {
                let message = "expected false with kind concat, whose tokens have no position";
                Err(Error::config("shared", message))
            }
            (Kind::Additive | Kind::Product, Some(_)) => {
                let message = "only kind concat has a length";
                Err(Error::config("length", message))
            }
            _ => Ok(()),
        }
    }

    fn covers_class(&self) -> bool {
        self.class_token.unwrap_or(true)
    }

    /// The shape of the prompt at a boundary.
    fn shape(&self, place: &BoundarySpec) -> BoundaryShape {
        match (self.kind, place.shape) {
            (Kind::Concat, shape) => BoundaryShape::Tokens {
                count: self.length.unwrap_or(LENGTH),
                width: shape.channels(),
            },
            (_, shape) if self.shared => shape.shared(),
            (_, BoundaryShape::Tokens { count, width }) if !self.covers_class() => {
                let count = count - 1;
                BoundaryShape::Tokens { count, width }
            }
            (_, shape) => shape,
        }
    }
}

/// Checks that the activation at these boundaries begins with a class token.
fn check_class(backbone: &dyn Backbone, places: &[&BoundarySpec]) -> Result<()> {
    let has_class = params::value(backbone, "cls_token").is_some();
    let begins =
        |place: &BoundarySpec| has_class && matches!(place.shape, BoundaryShape::Tokens { .. });
    match places.iter().find(|place| !begins(place)) {
        None => Ok(()),
        Some(place) => Err(backbone.spec().unfit(
            "ap with class_token: false",
            format!("{place} has no class token that could be left out"),
        )),
    }
}

#[typetag::serde(name = "ap")]
impl AdaptationMethod for Ap {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let prompts = self.places(backbone)?.into_iter().map(|place| {
            let name = format!("{}.prompt", Boundary(place.index));
            let shape = self.shape(place);
            let tensor = |values| Prompt::Tensor(BoundaryTensor::new(&name, shape, values, init));
            let prompt = match self.kind {
                Kind::Additive => tensor(Distribution::Zeros),
                Kind::Product => tensor(Distribution::Ones),
                Kind::Concat => {
                    let values = backbone.spec().prompt_distribution(shape.channels());
                    let count = self.length.unwrap_or(LENGTH);
                    Prompt::Tokens(init.param(&name, [count, shape.channels()], values))
                }
            };
            (Boundary(place.index), AtBoundary { prompt })
        });
        Ok(Attachment::adapter(ApAdapter {
            prompts: prompts.collect(),
            kind: self.kind,
            covers_class: self.covers_class(),
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let places = self.places(backbone)?.into_iter();
        Ok(places.map(|place| self.shape(place).elements()).sum())
    }

    fn starts_as_backbone(&self) -> bool {
        self.kind != Kind::Concat
    }
}

/// The prompts of an [`Ap`].
#[derive(Module, Debug)]
pub struct ApAdapter {
    prompts: ByBoundary<AtBoundary>,
    #[module(skip)]
    kind: Kind,
    #[module(skip)]
    covers_class: bool,
}

#[derive(Module, Debug)]
struct AtBoundary {
    prompt: Prompt,
}

/// A delta, a factor or tokens.
#[derive(Module, Debug)]
enum Prompt {
    /// A tensor with the boundary's shape, or shared over its positions.
    Tensor(BoundaryTensor),
    /// `[p, d]`.
    Tokens(Param<Tensor<2>>),
}

impl ApAdapter {
    /// The value at all positions: one that leaves out the class token does nothing there.
    ///
    /// # Shapes
    /// `[1, n - 1, d] -> [1, n, d]` without the class token.
    fn whole(&self, value: Activation) -> Activation {
        match value {
            Activation::Tokens(Tokens { x, .. }) if !self.covers_class => {
                let class = x.clone().narrow(1, 0, 1); // [1, 1, d]
                let class = match self.kind {
                    Kind::Product => class.ones_like(),
                    Kind::Additive | Kind::Concat => class.zeros_like(),
                };
                Tensor::cat(vec![class, x], 1).into()
            }
            value => value,
        }
    }
}

impl Adapter for ApAdapter {
    fn at_boundary(&self, index: usize) -> Option<BoundaryAct<'_>> {
        let at = self.prompts.get(&Boundary(index))?;
        Some(match &at.prompt {
            Prompt::Tensor(factor) if self.kind == Kind::Product => {
                BoundaryAct::Multiply(self.whole(factor.value()))
            }
            Prompt::Tensor(delta) => BoundaryAct::Add(self.whole(delta.value())),
            Prompt::Tokens(tokens) => BoundaryAct::Extras(Extras {
                tokens: tokens.val(),
                dropout: 0.0,
                replace: false,
            }),
        })
    }

    fn describe_boundary(&self, index: usize) -> Option<DescribedBoundary> {
        let boundary = Boundary(index);
        let at = self.prompts.get(&boundary)?;
        let value = Formula::parameter(format!("{boundary}.prompt"));
        let width = match &at.prompt {
            Prompt::Tokens(_) => {
                let (tokens, replace) = (value, false);
                return Some(DescribedBoundary::Extras { tokens, replace });
            }
            Prompt::Tensor(tensor) => match tensor.value() {
                Activation::Tokens(Tokens { x, .. }) if !self.covers_class => Some(x.dims()[2]),
                _ => None,
            },
        };
        let start = if self.kind == Kind::Product { 1.0 } else { 0.0 };
        let class = width.map(|width| Formula::Full {
            shape: vec![1, width],
            value: start,
        });
        let value = match class {
            Some(class) => Formula::cat(0, [class, value]),
            None => value,
        };
        Some(match self.kind {
            Kind::Product => DescribedBoundary::Multiply { value },
            Kind::Additive | Kind::Concat => DescribedBoundary::Add { value },
        })
    }
}

peft_core::register!(
    Method, Ap,
    name: "ap",
    summary: "activation prompt: one trained perturbation at a boundary",
    reference: "Visual Prompting Reimagined: The Power of Activation Prompts, 2026, arXiv 2604.06440",
    example: "name: ap\nboundaries: [3]\nkind: additive\nshared: false\n# class_token: false\n",
);

#[cfg(test)]
mod tests;
