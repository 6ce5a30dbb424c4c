//! The side network: narrow blocks that a frozen trunk feeds.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use peft_core::activation::{Activation, BoundaryShape};
use peft_core::backbone::Init;
use peft_core::hooks::{Draws, like};
use peft_core::layers::Dense;
use peft_core::method::Adapter;
use peft_core::plug::BySite;
use peft_core::random::Distribution;
use peft_core::side::{Operations, SideNetwork, Trunk};
use peft_core::spec::{BackboneSpec, Cut};
use peft_ops::{Gelu, attention, layer_norm, linear_gelu, linear_residual};

/// The temperature of the gates.
const TEMPERATURE: f64 = 0.1;
const EPSILON: f64 = 1e-6;

/// The sizes of a side network.
pub(crate) struct Sizes {
    /// The trunk's width `D`.
    pub wide: usize,
    /// Its own width `d`.
    pub narrow: usize,
    pub heads: usize,
    /// The blocks of the trunk that feed it, from 1.
    pub blocks: Vec<usize>,
}

/// The side network of an [`Lst`](crate::Lst).
#[derive(Module, Debug)]
pub struct Ladder {
    pub(crate) rungs: BySite<Rung>,
    pub(crate) first: Dense,
    pub(crate) last: Dense,
    /// The blocks of the trunk that feed it, from 1.
    #[module(skip)]
    pub(crate) blocks: Vec<usize>,
}

impl Adapter for Ladder {
    fn side(&self) -> Option<&dyn SideNetwork> {
        Some(self)
    }
}

impl SideNetwork for Ladder {
    fn taps(&self) -> Vec<Cut> {
        // The output of block `l` is the value at boundary `l + 1`.
        let outputs = self.blocks.iter().map(|block| block + 1);
        std::iter::once(1).chain(outputs).collect()
    }

    fn features(&self, trunk: &dyn Trunk, tapped: Vec<Activation>, _: &Draws) -> Tensor<2> {
        let mut tapped = tapped.into_iter().map(tokens);
        let mut taps = || match tapped.next() {
            Some(x) => x,
            None => unreachable!("a ladder taps every rung"),
        };
        let mut h = self.first.on_rows(taps()); // [b, n, d]
        for (_, rung) in self.rungs.iter() {
            h = rung.forward(taps(), h);
        }
        let last = trunk.spec().last_boundary();
        let end = self.last.on_rows(h).into(); // [b, n, D]
        match trunk.run(end, last..last + 1) {
            Activation::Features(features) => features,
            other => panic!("expected features, got {:?}", other.shape()),
        }
    }

    fn operations(&self, spec: &BackboneSpec) -> Operations {
        let positions = match spec.shape_at(1) {
            BoundaryShape::Tokens { count, .. } => count,
            shape => unreachable!("a ladder has tokens, got a {shape}"),
        };
        let [narrow, wide] = self.first.weight.lazy_shape().dims();
        let down = Operations::layer(wide * narrow, positions, true);
        let up = Operations::layer(wide * narrow, positions, false);
        let block = Operations::layer(12 * narrow * narrow, positions, false);
        let mixed = (4 * positions * positions * narrow) as u64;
        // Both factors of each of attention's products are activations.
        let mix = Operations {
            forward: mixed,
            activations: 2 * mixed,
            weights: 0,
        };
        let rungs = self.blocks.iter().flat_map(|_| [down, block, mix]);
        rungs.chain([down, up]).sum()
    }
}

fn tokens(x: Activation) -> Tensor<3> {
    match x {
        Activation::Tokens(tokens) => tokens.x,
        other => panic!("a ladder reads tokens, got {:?}", other.shape()),
    }
}

/// One rung of the ladder.
#[derive(Module, Debug)]
pub(crate) struct Rung {
    pub down: Dense,
    /// `alpha [1]`.
    pub gate: Param<Tensor<1>>,
    pub block: Block,
}

impl Rung {
    /// # Shapes
    /// `x`: `[b, n, D]`, `h`: `[b, n, d]`; the result has the shape of `h`.
    fn forward(&self, x: Tensor<3>, h: Tensor<3>) -> Tensor<3> {
        let down = self.down.on_rows(x);
        let gate = like(sigmoid(self.gate.val() / TEMPERATURE), &down).unsqueeze();
        self.block.forward(h.clone() + (down - h) * gate)
    }
}

/// A pre-norm Transformer block.
#[derive(Module, Debug)]
pub(crate) struct Block {
    pub norm1: Norm,
    pub qkv: Dense,
    pub proj: Dense,
    pub norm2: Norm,
    pub fc1: Dense,
    pub fc2: Dense,
    pub heads: usize,
}

impl Block {
    pub fn new(name: &str, d: usize, heads: usize, init: &Init) -> Self {
        let normal = Distribution::TruncatedNormal(0.02);
        let dense =
            |part: &str, shape| Dense::new(&format!("{name}.block.{part}"), shape, normal, init);
        let norm = |part: &str| Norm::new(&format!("{name}.block.{part}"), d, init);
        Self {
            norm1: norm("norm1"),
            qkv: dense("qkv", [3 * d, d]),
            proj: dense("proj", [d, d]),
            norm2: norm("norm2"),
            fc1: dense("fc1", [4 * d, d]),
            fc2: dense("fc2", [d, 4 * d]),
            heads,
        }
    }

    /// # Shapes
    /// `[b, n, d] -> [b, n, d]`.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let of = |layer: &Dense| (like(layer.weight.val(), &x), like(layer.bias.val(), &x));
        let (proj, fc2) = (of(&self.proj), of(&self.fc2));
        let mixed = attention(self.qkv.on_rows(self.norm1.forward(x.clone())), self.heads);
        let x = linear_residual(mixed, proj.0, Some(proj.1), x);
        let hidden = self.fc1.on_rows(self.norm2.forward(x.clone()));
        linear_gelu(hidden, Gelu::Exact, fc2.0, Some(fc2.1), Some(x))
    }
}

/// A layer normalisation that trains.
#[derive(Module, Debug)]
pub(crate) struct Norm {
    /// `[d]`.
    pub weight: Param<Tensor<1>>,
    /// `[d]`.
    pub bias: Param<Tensor<1>>,
}

impl Norm {
    fn new(name: &str, d: usize, init: &Init) -> Self {
        Self {
            weight: init.param(&format!("{name}.weight"), [d], Distribution::Ones),
            bias: init.param(&format!("{name}.bias"), [d], Distribution::Zeros),
        }
    }

    /// # Shapes
    /// `[b, n, d] -> [b, n, d]`.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (weight, bias) = (like(self.weight.val(), &x), like(self.bias.val(), &x));
        layer_norm(x, weight, bias, EPSILON)
    }
}
