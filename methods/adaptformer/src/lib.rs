//! AdaptFormer: a trained bottleneck beside the MLP of every frozen block.
//!
//! Reference: "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", Chen et
//! al., 2022, Eqs. 2 and 3.
//!
//! `x_l = MLP(LN(x'_l)) + x'_l + s B(x'_l)`, `B(x) = W_up dropout(relu(W_down x + b_down)) + b_up`
//! with `W_down [d, D]` kaiming-uniform (`a = sqrt 5`), `W_up [D, d]` and the biases zero, so that
//! an adapted model starts as the backbone. Parameters: `2 D d + d + D` per branch, so
//! `L (2 D d + d + D)` on a Transformer.
//!
//! Departures: the paper and the official code disagree on what `B` reads. The default here is the
//! code's, the stream before the norm; the paper's Eq. 2 is `input: normed`. The code's learned `s` is
//! not implemented. Where a backbone has LayerScale, the bottleneck acts before it. A residual block of
//! convolutions counts as one branch, and `B` reads its shortcut in both cases.

use peft_core::backbone::{Backbone, Init};
use peft_core::error::Result;
use peft_core::layers::{BranchBottlenecks, Nonlinearity, Reads};
use peft_core::method::{AdaptationMethod, Attachment};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Put a bottleneck beside every MLP.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptFormer {
    /// Hidden width `d`, at least 1. Default 64.
    pub bottleneck: usize,
    /// Factor `s` of the bottleneck's output, any finite number. Default 0.1.
    pub scale: f64,
    /// Probability in `[0, 1)` of dropping a hidden value while training. Default 0.1.
    pub dropout: f64,
    /// The value that the bottleneck reads. Default `residual`.
    pub input: Input,
}

/// The value that the bottleneck reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// The residual stream before the norm (the official code).
    #[default]
    Residual,
    /// The input of the MLP, after the norm (the paper).
    Normed,
}

impl Default for AdaptFormer {
    fn default() -> Self {
        Self {
            bottleneck: 64,
            scale: 0.1,
            dropout: 0.1,
            input: Input::default(),
        }
    }
}

impl AdaptFormer {
    fn bottlenecks(&self) -> BranchBottlenecks {
        BranchBottlenecks {
            method: "adaptformer",
            blocks: Vec::new(),
            attention: false,
            reads: match self.input {
                Input::Residual => Reads::Residual,
                Input::Normed => Reads::Normed,
            },
            hidden: self.bottleneck,
            nonlinearity: Nonlinearity::Relu,
            dropout: self.dropout,
            scale: self.scale,
        }
    }
}

#[typetag::serde(name = "adaptformer")]
impl AdaptationMethod for AdaptFormer {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        self.bottlenecks().attach(backbone.spec(), init)
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        self.bottlenecks().formula(backbone.spec())
    }
}

peft_core::register!(
    Method, AdaptFormer,
    name: "adaptformer",
    summary: "a scaled bottleneck beside every MLP",
    reference: "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition, Chen et al., 2022",
    example: "name: adaptformer\nbottleneck: 64\nscale: 0.1\ndropout: 0.1\ninput: residual\n",
);

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use peft_backbone_clip as _;
    use peft_backbone_convnext as _;
    use peft_backbone_resnet as _;
    use peft_backbone_swin as _;
    use peft_backbone_vit as _;
    use peft_testing::{Golden, built, conforms, vit};

    use super::*;

    fn adaptformer(input: Input) -> AdaptFormer {
        AdaptFormer {
            bottleneck: 6,
            scale: 0.5,
            dropout: 0.0,
            input,
        }
    }

    fn check(name: &str, input: Input) {
        let rename = |name: &str| {
            let name = name.trim_start_matches("adaptformer.");
            name.replace(".mlp.", ".")
        };
        let method = Box::new(adaptformer(input));
        Golden::fixture(&format!("peft/{name}")).check_training(&*vit(), method, rename);
    }

    #[test]
    fn the_official_codes_input_agrees_with_the_reference() {
        check("adaptformer_code", Input::Residual);
    }

    #[test]
    fn the_papers_input_agrees_with_the_reference() {
        check("adaptformer_paper", Input::Normed);
    }

    #[test]
    fn it_conforms() {
        conforms(&[
            Box::new(AdaptFormer::default()),
            Box::new(adaptformer(Input::Residual)),
            Box::new(adaptformer(Input::Normed)),
        ]);
    }

    #[test]
    fn the_formula_counts_each_mlp() {
        let backbone = built(&*vit());
        let count = adaptformer(Input::Residual).formula(&*backbone).unwrap();
        assert_eq!(count, 4 * (2 * 48 * 6 + 6 + 48));
    }

    #[test]
    fn a_bottleneck_wider_than_its_layer_gives_one_remark() {
        let init = Init::seeded(&Device::flex(), 0);
        let backbone = vit().build(&init).unwrap();
        let remarks = |method: AdaptFormer| method.attach(&*backbone, &init).unwrap().remarks;
        let expected = "adaptformer: bottleneck 64 is wider than blocks.0.mlp (48)";
        assert_eq!(remarks(AdaptFormer::default()), [expected]);
        assert!(remarks(adaptformer(Input::Normed)).is_empty());
    }

    #[test]
    fn bad_values_are_refused_by_field() {
        let backbone = built(&*vit());
        let error = |change: fn(&mut AdaptFormer)| {
            let mut method = AdaptFormer::default();
            change(&mut method);
            method.formula(&*backbone).unwrap_err().to_string()
        };
        let bottleneck = error(|m| m.bottleneck = 0);
        assert_eq!(bottleneck, "bottleneck: expected at least 1, got 0");
        let scale = error(|m| m.scale = f64::INFINITY);
        assert_eq!(scale, "scale: expected a finite number, got inf");
        let dropout = error(|m| m.dropout = 1.0);
        let expected = "dropout: expected at least 0 and less than 1, got 1";
        assert_eq!(dropout, expected);
    }
}
