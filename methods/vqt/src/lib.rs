//! VQT, visual query tuning: query tokens in every block summarise what it works on, for the head alone.
//!
//! Reference: "Visual Query Tuning: Towards Effective Usage of Intermediate Representations for Parameter and
//! Memory Efficient Transfer Learning", Tu, Mai and Chao, 2023, Sec. 3.
//!
//! Block `l` runs for `T` trained tokens `P_l [T, D]` besides its own: they ask as queries, but are neither keys
//! nor values, so that the tokens of the image do not see them and the backbone's features stay as they are. What
//! the blocks make of the queries, `L T D` values, stands behind these features, and the head reads both. Each
//! block's share and the features themselves are scaled to length 1, as in the reference code. Prompts start as
//! VPT's do. Parameters: `L T D`.
//!
//! Departures: the selection of features by a group lasso after a first training (Head2Toe) is left out; the
//! head reads all of them.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::activation::Activation;
use peft_core::backbone::{Backbone, Init};
use peft_core::check;
use peft_core::error::Result;
use peft_core::hooks::{Draws, like};
use peft_core::layers::wide;
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::{Boundary, ByBoundary};
use peft_core::side::{Operations, SideNetwork, Trunk};
use peft_core::site::{Site, SiteKind};
use peft_core::spec::{BackboneSpec, Cut};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Let trained query tokens summarise every block.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Vqt {
    /// Query tokens `T` of each block, at least 1. Default 5.
    pub length: usize,
    /// Probability in `[0, 1)` of dropping an entry of a token while training, drawn for each image. Default 0.
    pub dropout: f64,
    /// Whether each block's share of the features is scaled to length 1. Default true.
    pub normalized: bool,
}

impl Default for Vqt {
    fn default() -> Self {
        Self {
            length: 5,
            dropout: 0.0,
            normalized: true,
        }
    }
}

impl Vqt {
    /// Checks the fields; returns the number of blocks and the width of tokens.
    fn sizes(&self, backbone: &dyn Backbone) -> Result<[usize; 2]> {
        check::at_least_one("length", self.length)?;
        check::dropout("dropout", self.dropout)?;
        let spec = backbone.spec();
        let inputs: Vec<_> = spec.boundaries[1..=spec.depth].iter().collect();
        spec.check_extras("vqt", &inputs)?;
        match backbone.takes_queries() {
            true => Ok([spec.depth, spec.shape_at(1).channels()]),
            false => Err(spec.unfit("vqt", "its blocks take no queries")),
        }
    }
}

#[typetag::serde(name = "vqt")]
impl AdaptationMethod for Vqt {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let [depth, width] = self.sizes(backbone)?;
        let values = backbone.spec().prompt_distribution(width);
        let queries = (1..=depth).map(|block| {
            let name = format!("{}.queries", Boundary(block));
            let queries = init.param(&name, [self.length, width], values);
            (Boundary(block), Queries { queries })
        });
        Ok(Attachment::adapter(VqtAdapter {
            queries: queries.collect(),
            dropout: self.dropout,
            normalized: self.normalized,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let [depth, width] = self.sizes(backbone)?;
        Ok(depth * self.length * width)
    }

    fn features(&self, backbone: &dyn Backbone) -> Result<usize> {
        Ok(backbone.spec().features + self.formula(backbone)?)
    }

    fn starts_as_backbone(&self) -> bool {
        false
    }
}

/// The queries of a [`Vqt`], by the input of their block.
#[derive(Module, Debug)]
pub struct VqtAdapter {
    queries: ByBoundary<Queries>,
    dropout: f64,
    normalized: bool,
}

/// The queries of one block.
#[derive(Module, Debug)]
struct Queries {
    /// `[T, D]`.
    queries: Param<Tensor<2>>,
}

impl Adapter for VqtAdapter {
    fn side(&self) -> Option<&dyn SideNetwork> {
        Some(self)
    }
}

impl SideNetwork for VqtAdapter {
    fn taps(&self) -> Vec<Cut> {
        let depth = self.queries.iter().count();
        // The inputs of the blocks, and the backbone's own features.
        (1..=depth).chain([depth + 2]).collect()
    }

    fn features(&self, trunk: &dyn Trunk, mut tapped: Vec<Activation>, draws: &Draws) -> Tensor<2> {
        let own = match tapped.pop() {
            Some(Activation::Features(features)) => features,
            other => panic!("expected features behind the blocks, got {other:?}"),
        };
        let mut features = vec![self.scaled(own)];
        for (x, (Boundary(block), own)) in tapped.into_iter().zip(self.queries.iter()) {
            let Activation::Tokens(x) = x else {
                panic!("block {block} reads {:?}, no tokens", x.shape())
            };
            let [b, _, d] = x.x.dims();
            let [t, _] = own.queries.dims();
            let queries = like(own.queries.val(), &x.x).unsqueeze::<3>();
            let queries = queries.expand([b, t, d]);
            let queries = draws.dropout(queries, self.dropout, &format!("queries/{block}"));
            let summary = trunk.query(*block, x.x, queries); // [b, t, d]
            features.push(self.scaled(summary.reshape([b, t * d])));
        }
        Tensor::cat(features, 1)
    }

    fn operations(&self, spec: &BackboneSpec) -> Operations {
        let matrix = |site: &Site| match site.kind {
            SiteKind::Linear { inputs, outputs } => (1..=spec.depth)
                .contains(&site.block)
                .then_some(inputs * outputs),
            _ => None,
        };
        let weights: usize = spec.sites.iter().filter_map(matrix).sum();
        let sum = |(Boundary(block), own): &(Boundary, Queries)| {
            let [t, _] = own.queries.lazy_shape().dims();
            (t * 4 * spec.shape_at(*block).elements()) as u64
        };
        let tokens = self.queries.iter().next();
        let length = tokens.map_or(0, |(_, own)| own.queries.lazy_shape().dims::<2>()[0]);
        // The layers run for the queries; keys and values of the tokens are folded into the weights. Of attention's
        // products one factor is constant.
        let mixed: u64 = self.queries.iter().map(sum).sum();
        let layers = (2 * weights * length) as u64;
        Operations {
            forward: layers + mixed,
            activations: layers + mixed,
            weights: 0,
        }
    }
}

impl VqtAdapter {
    /// # Shapes
    /// `[b, values] -> [b, values]`, in f32 at least.
    fn scaled(&self, x: Tensor<2>) -> Tensor<2> {
        let x = wide(x);
        if !self.normalized {
            return x;
        }
        let length = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
        x / length
    }
}

peft_core::register!(
    Method, Vqt,
    name: "vqt",
    summary: "query tokens that summarise every block for the head; no gradient enters the blocks",
    reference: "Visual Query Tuning: Towards Effective Usage of Intermediate Representations, Tu, Mai and Chao, 2023",
    example: "name: vqt\nlength: 5\ndropout: 0.0\nnormalized: true\n",
);

#[cfg(test)]
mod tests {
    use peft_backbone_clip as _;
    use peft_backbone_convnext as _;
    use peft_backbone_resnet as _;
    use peft_backbone_swin as _;
    use peft_backbone_vit as _;
    use peft_testing::{Golden, built, conforms, resnet, vit};

    use super::*;

    fn vqt(length: usize) -> Vqt {
        Vqt {
            length,
            ..Vqt::default()
        }
    }

    #[test]
    fn it_agrees_with_the_reference() {
        for (name, length) in [("vqt", 2), ("vqt_many", 18)] {
            let rename = |name: &str| name.trim_start_matches("vqt.").to_owned();
            let golden = Golden::fixture(&format!("peft/{name}"));
            golden.check_training(&*vit(), Box::new(vqt(length)), rename);
        }
    }

    #[test]
    fn it_conforms_and_does_not_merge() {
        let plain = Vqt {
            length: 14,
            dropout: 0.2,
            normalized: false,
        };
        for verdict in conforms(&[Box::new(vqt(1)), Box::new(plain)]) {
            let reasons = ["extra tokens need a sequence", "a network of its own"];
            assert!(verdict.merges_or_says(&reasons), "{verdict:?}");
        }
    }

    #[test]
    fn the_head_reads_the_features_and_the_queries() {
        let backbone = built(&*vit());
        assert_eq!(vqt(3).formula(&*backbone).unwrap(), 4 * 3 * 48);
        assert_eq!(vqt(3).features(&*backbone).unwrap(), 48 + 4 * 3 * 48);
    }

    #[test]
    fn bad_values_and_maps_are_refused_with_the_reason() {
        let error = |method: Vqt| method.formula(&*built(&*vit())).unwrap_err().to_string();
        assert_eq!(error(vqt(0)), "length: expected at least 1, got 0");
        let dropout = Vqt {
            dropout: 1.0,
            ..Vqt::default()
        };
        assert_eq!(
            error(dropout),
            "dropout: expected at least 0 and less than 1, got 1"
        );
        let maps = vqt(1).formula(&*built(&*resnet())).unwrap_err();
        assert!(maps.to_string().contains("extra tokens need a sequence"));
    }
}
