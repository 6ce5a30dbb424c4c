//! Visual prompt tuning: trained tokens that are appended to the sequence before frozen blocks.
//!
//! Reference: "Visual Prompt Tuning", Jia et al., 2022, Eqs. 4 to 6.
//!
//! Shallow: `[x_1, Z_1, E_1] = B_1([x_0, P, E_0])`, and the prompts' outputs `Z` stay in the
//! sequence. Deep: `[x_l, _, E_l] = B_l([x_{l-1}, P_{l-1}, E_{l-1}])`, where new prompts replace `Z`
//! before every block. Parameters: `p D` shallow, `p D L` deep, `p D` for each boundary of a
//! list. Prompts start as `U(+-sqrt(6 / (3 P^2 + D)))` with `P` the patch size, so an adapted model
//! does not start as the backbone. Prompts never merge.
//!
//! Departures: prompts come after the patches, not between them and the class token. This changes
//! nothing, because prompts have no position embedding and attention does not depend on the order. The
//! reference code's projection of narrower prompts is not implemented. The paper searches for the
//! length; the default here is that of the comparisons in "Visual Prompting Reimagined" (2026).

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::backbone::{Backbone, BoundarySpec, Init};
use peft_core::check;
use peft_core::described::{DescribedBoundary, Formula};
use peft_core::error::{Error, Result};
use peft_core::hooks::{BoundaryAct, Extras};
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::{Boundary, ByBoundary};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Append trained tokens to the sequence.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Vpt {
    /// The blocks before which prompts are appended. Default `shallow`. Not with `boundaries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Boundaries instead of a mode: `l` is the input of block `l`, `1..=L`, `-1` that of the last
    /// block. The prompts of each replace those of the one before; a single boundary is the paper's
    /// single-layer prompt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub boundaries: Vec<i64>,
    /// Number of prompts `p` at each boundary, at least 1. Default 10.
    pub length: usize,
    /// Probability in `[0, 1)` of dropping an entry of a prompt while training, drawn for each
    /// image. Default 0.
    pub dropout: f64,
}

/// The blocks before which prompts are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Before the first block; they stay in the sequence.
    Shallow,
    /// Before every block, where they replace those of the block before.
    Deep,
}

impl Default for Vpt {
    fn default() -> Self {
        Self {
            mode: None,
            boundaries: Vec::new(),
            length: 10,
            dropout: 0.0,
        }
    }
}

impl Vpt {
    fn check(&self) -> Result<()> {
        if self.mode.is_some() && !self.boundaries.is_empty() {
            let message = "expected either `mode` or `boundaries`, got both";
            return Err(Error::config("mode", message));
        }
        check::at_least_one("length", self.length)?;
        check::dropout("dropout", self.dropout)
    }

    fn places<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<&'a BoundarySpec>> {
        self.check()?;
        let spec = backbone.spec();
        let indices: Vec<i64> = match (self.mode, &self.boundaries[..]) {
            (Some(Mode::Deep), _) => (1..=spec.depth as i64).collect(),
            (_, []) => vec![1],
            (_, boundaries) => boundaries.to_vec(),
        };
        let places = spec.distinct_boundaries(&indices)?;
        spec.check_extras("vpt", &places)?;
        Ok(places)
    }
}

#[typetag::serde(name = "vpt")]
impl AdaptationMethod for Vpt {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let prompts = self.places(backbone)?.into_iter().map(|place| {
            let boundary = Boundary(place.index);
            let width = place.shape.channels();
            let values = backbone.spec().prompt_distribution(width);
            let shape = [self.length, width];
            let prompt = init.param(&format!("{boundary}.prompt"), shape, values);
            (boundary, Prompts { prompt })
        });
        Ok(Attachment::adapter(VptAdapter {
            prompts: prompts.collect(),
            dropout: self.dropout,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let places = self.places(backbone)?.into_iter();
        let widths = places.map(|place| place.shape.channels());
        Ok(self.length * widths.sum::<usize>())
    }

    fn starts_as_backbone(&self) -> bool {
        false
    }
}

/// The prompts of a [`Vpt`].
#[derive(Module, Debug)]
pub struct VptAdapter {
    prompts: ByBoundary<Prompts>,
    dropout: f64,
}

/// `P [p, D]` at one boundary.
#[derive(Module, Debug)]
struct Prompts {
    prompt: Param<Tensor<2>>,
}

impl Adapter for VptAdapter {
    fn at_boundary(&self, index: usize) -> Option<BoundaryAct<'_>> {
        let at = self.prompts.get(&Boundary(index))?;
        Some(BoundaryAct::Extras(Extras {
            tokens: at.prompt.val(),
            dropout: self.dropout,
            // At a single boundary nothing is there to replace. In deep mode each block has its own
            // prompts.
            replace: true,
        }))
    }

    fn describe_boundary(&self, index: usize) -> Option<DescribedBoundary> {
        let boundary = Boundary(index);
        self.prompts.get(&boundary)?;
        Some(DescribedBoundary::Extras {
            tokens: Formula::parameter(format!("{boundary}.prompt")),
            replace: true,
        })
    }
}

peft_core::register!(
    Method, Vpt,
    name: "vpt",
    summary: "visual prompt tuning: trained tokens before the first block or before every block",
    reference: "Visual Prompt Tuning, Jia et al., 2022",
    example: "name: vpt\nmode: shallow\nlength: 10\ndropout: 0.0\n",
);

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use peft_backbone_clip as _;
    use peft_backbone_convnext as _;
    use peft_backbone_resnet as _;
    use peft_backbone_swin as _;
    use peft_backbone_vit as _;
    use peft_core::params::floats;
    use peft_testing::{Golden, Reference, Verdict, built, conforms, vit};

    use super::*;

    fn vpt(mode: Mode) -> Vpt {
        Vpt {
            mode: Some(mode),
            length: 5,
            ..Vpt::default()
        }
    }

    fn at(boundaries: &[i64]) -> Vpt {
        Vpt {
            boundaries: boundaries.to_vec(),
            ..Vpt::default()
        }
    }

    #[test]
    fn shallow_prompts_agree_with_the_reference() {
        let rename = |name: &str| match name {
            "vpt.boundary.1.prompt" => Reference::slice("prompt", &[0..1, 0..5]),
            name => name.into(),
        };
        Golden::fixture("peft/vpt_shallow").check_training(
            &*vit(),
            Box::new(vpt(Mode::Shallow)),
            rename,
        );
    }

    #[test]
    fn deep_prompts_agree_with_the_reference() {
        let rename = |name: &str| {
            let boundary = name.strip_prefix("vpt.boundary.");
            match boundary.and_then(|name| name.strip_suffix(".prompt")?.parse::<usize>().ok()) {
                Some(l) => Reference::slice("prompts", &[l - 1..l, 0..5]),
                None => name.into(),
            }
        };
        Golden::fixture("peft/vpt_deep").check_training(&*vit(), Box::new(vpt(Mode::Deep)), rename);
    }

    #[test]
    fn it_conforms() {
        let dropping = Vpt {
            dropout: 0.2,
            ..vpt(Mode::Deep)
        };
        let verdicts = conforms(&[
            Box::new(Vpt::default()),
            Box::new(vpt(Mode::Deep)),
            Box::new(dropping),
            Box::new(at(&[2])),
            Box::new(at(&[-1, 1])),
        ]);
        for verdict in verdicts {
            let refused =
                matches!(&verdict, Verdict::Refused(reason) if reason.contains("a sequence"));
            let unmerged = matches!(verdict, Verdict::Conforms { merges: Err(_) });
            assert!(refused || unmerged, "{verdict:?}");
        }
    }

    #[test]
    fn prompts_start_within_xaviers_bound() {
        let init = Init::seeded(&Device::flex(), 0);
        let backbone = vit().build(&init).unwrap();
        let attachment = Vpt::default().attach(&*backbone, &init).unwrap();
        let adapter = attachment.adapter.unwrap();
        let Some(BoundaryAct::Extras(extras)) = adapter.at_boundary(1) else {
            panic!("no prompts at boundary 1")
        };
        let values = floats(extras.tokens.into_data());
        let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let bound = (6.0f32 / (3.0 * 64.0 + 48.0)).sqrt();
        assert!(largest <= bound && largest > 0.9 * bound, "{largest}");
        assert!(adapter.at_boundary(2).is_none());
    }

    #[test]
    fn the_formula_counts_each_boundary() {
        let backbone = built(&*vit());
        let count = |method: Vpt| method.formula(&*backbone).unwrap();
        assert_eq!(count(vpt(Mode::Shallow)), 5 * 48);
        assert_eq!(count(vpt(Mode::Deep)), 5 * 48 * 4);
        assert_eq!(count(at(&[2, -1])), 10 * 48 * 2);
    }

    #[test]
    fn bad_values_are_refused_by_field() {
        let backbone = built(&*vit());
        let error = |change: fn(&mut Vpt)| {
            let mut method = at(&[2]);
            change(&mut method);
            method.formula(&*backbone).unwrap_err().to_string()
        };
        let length = error(|m| m.length = 0);
        assert_eq!(length, "length: expected at least 1, got 0");
        let dropout = error(|m| m.dropout = -0.1);
        let expected = "dropout: expected at least 0 and less than 1, got -0.1";
        assert_eq!(dropout, expected);
        let both = error(|m| m.mode = Some(Mode::Shallow));
        assert!(both.starts_with("mode: expected either `mode` or `boundaries`"));
        let at = |boundaries| at(boundaries).formula(&*backbone).unwrap_err().to_string();
        assert!(at(&[4, -1]).contains("boundary 4 (input of blocks.3) is named twice"));
        assert!(at(&[6]).contains("expected 0..=5"));
        assert!(at(&[0]).contains("boundary 0 (normalised image) it has a map"));
        assert!(at(&[5]).contains("no block follows that could read tokens at boundary 5"));
    }
}
