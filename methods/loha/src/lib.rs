//! LoHa: the change of a weight is the element-wise product of two low-rank products.
//!
//! References: "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning",
//! Hyeon-Woo et al., 2022, Prop. 2; "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to
//! Model Evaluation", Yeh et al., 2024, Sec. 3. Sites, names and initial values as in HF PEFT.
//!
//! `W' = W + (alpha / r) (A1 B1) * (A2 B2)`, `A [out, r]`, `B [r, in]`, so that the change can have rank
//! `r^2`. `B2` starts at zero and the others kaiming-uniform with `a = sqrt 5`: an adapted model starts as
//! the backbone. The kernel of a convolution is the matrix `[out, in / groups * kh * kw]`. Parameters:
//! `2 r (out + in)` per site.
//!
//! Departures: `query`, `key` and `value` adapt those rows of a fused projection. There is no dropout of
//! rows or of whole sites and no factorised kernel (`use_effective_conv2d`).

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::backbone::{Backbone, Init};
use peft_core::check;
use peft_core::described::{DescribedSite, Formula};
use peft_core::error::Result;
use peft_core::hf_peft::{HfPeft, Imported, exactly, read_parts, write_parts};
use peft_core::hooks::SiteAct;
use peft_core::layer_sites::{LayerSite, layer_sites};
use peft_core::layout::Layout;
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::params::Tensors;
use peft_core::plug::BySite;
use peft_core::random::Distribution;
use peft_core::site::{Site, Targets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Add a Hadamard product of two low-rank products to weights.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Loha {
    /// Rank `r` of both products, at least 1. Default 8.
    pub rank: usize,
    /// Scale: the change is multiplied by `alpha / rank`. Default: the rank, which gives a factor of 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Sites by suffix (a list) or regular expression over the whole name (a string); `query`, `key` and
    /// `value` are rows of a fused `qkv`. Default: `[qkv]` where there is one, else the
    /// layers of the MLPs (`mlp.fc1`, `mlp.fc2`), else every convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

impl Default for Loha {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: None,
            targets: None,
        }
    }
}

impl Loha {
    fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<LayerSite<'a>>> {
        check::at_least_one("rank", self.rank)?;
        check::finite("alpha", self.alpha())?;
        layer_sites("loha", self.targets.as_ref(), backbone.spec())
    }

    fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }
}

#[typetag::serde(name = "loha")]
impl AdaptationMethod for Loha {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let rank = self.rank;
        let factors = self.sites(backbone)?.into_iter().map(|site| {
            let (rows, columns) = (site.rows, site.columns);
            let param = |part: &str, shape, values| {
                init.param(&format!("{}.{part}", site.name()), shape, values)
            };
            let (narrow, wide) = (Distribution::kaiming(rank), Distribution::kaiming(columns));
            let factors = Factors {
                hada_w1_a: param("hada_w1_a", [rows, rank], narrow),
                hada_w1_b: param("hada_w1_b", [rank, columns], wide),
                hada_w2_a: param("hada_w2_a", [rows, rank], narrow),
                hada_w2_b: param("hada_w2_b", [rank, columns], Distribution::Zeros),
                scale: self.alpha() / rank as f64,
            };
            (site.name().to_owned(), factors)
        });
        Ok(Attachment::adapter(LohaAdapter {
            factors: factors.collect(),
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let sites = self.sites(backbone)?;
        Ok(sites
            .iter()
            .map(|site| 2 * self.rank * (site.rows + site.columns))
            .sum())
    }
}

/// The factors of a [`Loha`].
#[derive(Module, Debug)]
pub struct LohaAdapter {
    factors: BySite<Factors>,
}

impl Adapter for LohaAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        SiteAct::weights(&self.factors, site, Factors::changed)
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        DescribedSite::changed_weights(site, |name, _| {
            let factors = self.factors.get(name)?;
            let [a1, b1, a2, b2] = PARTS.map(|part| Formula::parameter(format!("{name}.{part}")));
            let of = vec![a1.matmul(b1), a2.matmul(b2)];
            Some(Formula::Multiply { of }.scaled(factors.scale))
        })
    }
}

/// `A1`, `B1`, `A2` and `B2` at one site, under HF PEFT's names.
#[derive(Module, Debug)]
struct Factors {
    hada_w1_a: Param<Tensor<2>>,
    hada_w1_b: Param<Tensor<2>>,
    hada_w2_a: Param<Tensor<2>>,
    hada_w2_b: Param<Tensor<2>>,
    scale: f64,
}

impl Factors {
    /// # Shapes
    /// `[out, in] -> [out, in]`.
    fn changed(&self, weight: Tensor<2>) -> Tensor<2> {
        let product = |a: &Param<Tensor<2>>, b: &Param<Tensor<2>>| a.val().matmul(b.val());
        let first = product(&self.hada_w1_a, &self.hada_w1_b); // [out, in]
        let second = product(&self.hada_w2_a, &self.hada_w2_b); // [out, in]
        weight + first * second * self.scale
    }
}

const PARTS: [&str; 4] = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"];

fn write(
    loha: &Loha,
    backbone: &dyn Backbone,
    layout: &Layout,
    values: &Tensors,
) -> Result<HfPeft> {
    let sites = loha.sites(backbone)?;
    let folder = write_parts(&sites, backbone, layout, "loha", &PARTS, values)?;
    Ok(folder.with_fields(json!({
        "peft_type": "LOHA",
        "r": loha.rank,
        "alpha": loha.alpha(),
        "rank_dropout": 0.0,
        "module_dropout": 0.0,
        "use_effective_conv2d": false,
        "init_weights": true,
        "rank_pattern": {},
        "alpha_pattern": {},
    })))
}

fn read(given: &HfPeft, backbone: &dyn Backbone, layout: &Layout) -> Result<Imported> {
    let any = [
        "r",
        "alpha",
        "init_weights",
        "layers_to_transform",
        "layers_pattern",
    ];
    given.refuse_all_but_any(&any, &["rank_dropout", "module_dropout"])?;
    let parts = read_parts(given, backbone, layout, "loha", &PARTS)?;
    Ok(Imported {
        methods: vec![json!({
            "name": "loha",
            "rank": given.number("r")? as usize,
            "alpha": given.number("alpha")?,
            "targets": exactly(&parts.names),
        })],
        tensors: parts.tensors,
        head_delta: None,
        remarks: parts.remarks,
    })
}

peft_core::register!(
    Method, Loha,
    name: "loha",
    summary: "a Hadamard product of two low-rank products, added to frozen weights",
    reference: "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning, Hyeon-Woo et al., 2022",
    example: "name: loha\nrank: 8\n",
    hf_peft: { peft_type: "LOHA", read: read, write: write },
);

#[cfg(test)]
mod tests {
    use peft_backbone_clip as _;
    use peft_backbone_convnext as _;
    use peft_backbone_resnet as _;
    use peft_backbone_swin as _;
    use peft_backbone_vit as _;
    use peft_full_finetune as _;
    use peft_testing::{
        Golden, Verdict, built, check_folder, conforms, refusal, resnet, theirs, vit,
    };

    use super::*;

    fn loha(targets: &[&str]) -> Loha {
        let targets = targets.iter().map(|target| (*target).to_owned());
        Loha {
            rank: 4,
            alpha: Some(8.0),
            targets: Some(Targets::Suffixes(targets.collect())),
        }
    }

    #[test]
    fn linear_layers_and_convolutions_agree_with_hf_peft() {
        let golden = Golden::fixture("peft/loha");
        golden.check_training(
            &*vit(),
            Box::new(loha(&["qkv", "fc1"])),
            theirs("loha", "head"),
        );
        let convolutions = Loha {
            targets: Some(Targets::Regex(r"conv1|layer[12]\.\d\.conv[12]".to_owned())),
            ..loha(&[])
        };
        let golden = Golden::fixture("peft/loha_conv");
        golden.check_training(&*resnet(), Box::new(convolutions), theirs("loha", "fc"));
    }

    #[test]
    fn folders_of_hf_peft_are_read_and_written() {
        check_folder("loha", &*vit());
        check_folder("loha_transformers", &*vit());
        let dropout = refusal("loha", &*vit(), "rank_dropout", json!(0.1));
        assert_eq!(
            dropout,
            "adapter_config.json: rank_dropout: 0.1 is not supported"
        );
    }

    #[test]
    fn it_conforms_and_merges() {
        let everywhere = Loha {
            targets: Some(Targets::Regex(
                r".*\.(key|value|fc1|proj|conv\d)".to_owned(),
            )),
            ..loha(&[])
        };
        for verdict in conforms(&[Box::new(Loha::default()), Box::new(everywhere)]) {
            assert!(
                matches!(verdict, Verdict::Conforms { merges: Ok(()) }),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn the_formula_counts_both_products() {
        let backbone = built(&*vit());
        let count = |targets: &[&str]| loha(targets).formula(&*backbone).unwrap();
        assert_eq!(count(&["qkv"]), 4 * 2 * 4 * (144 + 48));
        assert_eq!(count(&["value"]), 4 * 2 * 4 * (48 + 48));
    }

    #[test]
    fn bad_values_are_refused_by_field() {
        let backbone = built(&*vit());
        let error = |method: Loha| method.formula(&*backbone).unwrap_err().to_string();
        let rank = Loha {
            rank: 0,
            ..Loha::default()
        };
        assert_eq!(error(rank), "rank: expected at least 1, got 0");
        let alpha = Loha {
            alpha: Some(f64::NAN),
            ..Loha::default()
        };
        assert_eq!(error(alpha), "alpha: expected a finite number, got NaN");
        let norm = "blocks.0.norm1 is a norm 48; expected a linear layer or a convolution";
        assert!(error(loha(&["norm1"])).contains(norm));
    }
}
