//! Adapters: a small trained network of two layers after or beside the branches of frozen blocks.
//!
//! References: "Parameter-Efficient Transfer Learning for NLP", Houlsby et al., 2019;
//! "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", Pfeiffer et al., 2021;
//! "Towards a Unified View of Parameter-Efficient Transfer Learning", He et al., 2022, Tab. 1.
//!
//! `B(h) = W_up f(W_down h + b_down) + b_up` with `W_down [d, D]`, `W_up [D, d]`. A branch's output
//! `h` becomes `h + s B(h)`, after the MLP (Pfeiffer) or after the attention and after the MLP
//! (Houlsby), or `h + s B(norm x)` beside the MLP (parallel). Parameters: `2 D d + d + D` per
//! branch, so `L (2 D d + d + D)` on a Transformer and twice that for Houlsby. `W_up` and the biases
//! start at zero, so that an adapted model starts as the backbone; `W_down` does not, or only
//! `b_up` would ever learn.
//!
//! Departures: the norms of the backbone are not trained along. Where a backbone has LayerScale, the
//! bottleneck acts before it. A residual block of convolutions counts as one branch: Pfeiffer and
//! Houlsby act after it, and parallel reads its shortcut.

use peft_core::backbone::{Backbone, Init};
use peft_core::error::Result;
use peft_core::layers::{BranchBottlenecks, Nonlinearity, Reads};
use peft_core::method::{AdaptationMethod, Attachment};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Put bottlenecks after or beside branches.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterMethod {
    /// The place of the bottlenecks and the value that they read. Default `pfeiffer`.
    pub kind: Kind,
    /// Hidden width `d`, at least 1. Default 64.
    pub bottleneck: usize,
    /// The function between the two layers. Default `gelu`.
    pub activation: Nonlinearity,
    /// Factor `s` of the bottleneck's output, any finite number. Default 1.
    pub scale: f64,
    /// The blocks that have bottlenecks, counted from 1. Default: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<usize>,
}

/// The place of bottlenecks and the value that they read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// After the MLP, reading its output.
    #[default]
    Pfeiffer,
    /// After the attention and after the MLP, reading their outputs.
    Houlsby,
    /// Beside the MLP, reading its normalised input.
    Parallel,
}

impl Default for AdapterMethod {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            bottleneck: 64,
            activation: Nonlinearity::default(),
            scale: 1.0,
            blocks: Vec::new(),
        }
    }
}

impl AdapterMethod {
    fn bottlenecks(&self) -> BranchBottlenecks {
        BranchBottlenecks {
            method: "adapter",
            blocks: self.blocks.clone(),
            attention: self.kind == Kind::Houlsby,
            reads: match self.kind {
                Kind::Pfeiffer | Kind::Houlsby => Reads::Output,
                Kind::Parallel => Reads::Normed,
            },
            hidden: self.bottleneck,
            nonlinearity: self.activation,
            dropout: 0.0,
            scale: self.scale,
        }
    }
}

#[typetag::serde(name = "adapter")]
impl AdaptationMethod for AdapterMethod {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        self.bottlenecks().attach(backbone.spec(), init)
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        self.bottlenecks().formula(backbone.spec())
    }
}

peft_core::register!(
    Method, AdapterMethod,
    name: "adapter",
    summary: "bottleneck adapters after or beside the branches of blocks",
    reference: "Parameter-Efficient Transfer Learning for NLP, Houlsby et al., 2019",
    example: "name: adapter\nkind: pfeiffer\nbottleneck: 64\nactivation: gelu\nscale: 1.0\n",
);

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use peft_backbone_clip as _;
    use peft_backbone_convnext as _;
    use peft_backbone_resnet as _;
    use peft_backbone_swin as _;
    use peft_backbone_vit as _;
    use peft_core::backbone::BackboneConfig;
    use peft_testing::{Golden, built, config, conforms, vit};

    use super::*;

    fn adapter(kind: Kind) -> AdapterMethod {
        AdapterMethod {
            kind,
            bottleneck: 6,
            ..AdapterMethod::default()
        }
    }

    /// A Vision Transformer with registers and LayerScale.
    const SCALED: &str = "{name: vit, img_size: 32, patch_size: 8, embed_dim: 24, depth: 3, \
                          num_heads: 3, mlp_ratio: 2.0, reg_tokens: 3, no_embed_class: true, \
                          init_values: 1.0e-5}";

    /// `mlp` is the name of a bottleneck at the MLP in the reference.
    fn check(name: &str, vit: &dyn BackboneConfig, kind: Kind, mlp: &str) {
        let rename = |name: &str| {
            let name = name.trim_start_matches("adapter.");
            let name = name.replace(".attn.", ".attn_out.");
            name.replace(".mlp.", mlp)
        };
        let method = Box::new(adapter(kind));
        Golden::fixture(&format!("peft/{name}")).check_training(vit, method, rename);
    }

    #[test]
    fn after_the_mlp_agrees_with_the_reference() {
        check("adapter_pfeiffer", &*vit(), Kind::Pfeiffer, ".mlp_out.");
    }

    #[test]
    fn after_both_branches_agrees_with_the_reference() {
        check("adapter_houlsby", &*vit(), Kind::Houlsby, ".mlp_out.");
    }

    #[test]
    fn before_layer_scale_agrees_with_the_reference() {
        let name = "adapter_houlsby_scaled";
        check(name, &*config(SCALED), Kind::Houlsby, ".mlp_out.");
    }

    #[test]
    fn beside_the_mlp_agrees_with_the_reference() {
        check("adapter_parallel", &*vit(), Kind::Parallel, ".");
    }

    #[test]
    fn it_conforms() {
        let scaled = AdapterMethod {
            activation: Nonlinearity::Silu,
            scale: 0.5,
            ..adapter(Kind::Parallel)
        };
        let first = AdapterMethod {
            blocks: vec![1],
            ..adapter(Kind::Houlsby)
        };
        conforms(&[
            Box::new(first),
            Box::new(adapter(Kind::Pfeiffer)),
            Box::new(adapter(Kind::Houlsby)),
            Box::new(adapter(Kind::Parallel)),
            Box::new(scaled),
        ]);
    }

    #[test]
    fn the_formula_counts_each_branch() {
        let backbone = built(&*vit());
        let count = |kind| adapter(kind).formula(&*backbone).unwrap();
        let one = 2 * 48 * 6 + 6 + 48;
        assert_eq!(count(Kind::Pfeiffer), 4 * one);
        assert_eq!(count(Kind::Parallel), 4 * one);
        assert_eq!(count(Kind::Houlsby), 8 * one);
        let some = AdapterMethod {
            blocks: vec![2, 4],
            ..adapter(Kind::Houlsby)
        };
        assert_eq!(some.formula(&*backbone).unwrap(), 4 * one);
    }

    #[test]
    fn a_bottleneck_wider_than_its_layer_gives_one_remark() {
        let init = Init::seeded(&Device::flex(), 0);
        let backbone = vit().build(&init).unwrap();
        let remarks = |method: AdapterMethod| method.attach(&*backbone, &init).unwrap().remarks;
        let expected = "adapter: bottleneck 64 is wider than blocks.0.mlp (48)";
        assert_eq!(remarks(AdapterMethod::default()), [expected]);
        assert!(remarks(adapter(Kind::Houlsby)).is_empty());
    }

    #[test]
    fn bad_values_are_refused_by_field() {
        let backbone = built(&*vit());
        let error = |change: fn(&mut AdapterMethod)| {
            let mut method = AdapterMethod::default();
            change(&mut method);
            method.formula(&*backbone).unwrap_err().to_string()
        };
        let bottleneck = error(|m| m.bottleneck = 0);
        assert_eq!(bottleneck, "bottleneck: expected at least 1, got 0");
        let blocks = error(|m| m.blocks = vec![1, 5]);
        assert_eq!(blocks, "blocks: expected 1 to 4, the blocks of vit, got 5");
        let scale = error(|m| m.scale = f64::NAN);
        assert_eq!(scale, "scale: expected a finite number, got NaN");
    }
}
