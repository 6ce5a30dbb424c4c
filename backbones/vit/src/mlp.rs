//! The MLP of a block.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::backbone::Init;
use peft_core::hooks::Hooks;
use peft_core::layers::{LayerNorm, Linear};
use peft_core::plug::Named;
use peft_core::site::Site;
use peft_ops::{swiglu, swiglu_packed};

use crate::architecture::{Architecture, MlpActivation, MlpKind};
use crate::place::Place;

/// Linear layers with an activation or a gate between them.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    /// `fc1`, or the gate `fc1_g` and the gated value `fc1_x`.
    inputs: Named<&'static str, Linear>,
    /// Over the hidden values.
    norm: Option<LayerNorm>,
    pub fc2: Linear,
    #[module(skip)]
    kind: MlpKind,
    #[module(skip)]
    act_layer: MlpActivation,
}

impl Mlp {
    /// The MLP whose layers are called `mlp.fc1` and so on at `place`.
    pub fn new(sizes: &Architecture, kind: MlpKind, place: &Place, init: &Init) -> Self {
        let (d, hidden) = (sizes.embed_dim, sizes.mlp_hidden());
        let layer = |name: &'static str, site: Site| (name, Linear::new(site, true, init));
        let input = |part: &str, outputs| place.linear(&format!("mlp.{part}"), d, outputs);
        let inputs = match kind {
            MlpKind::Plain => vec![layer("fc1", input("fc1", hidden))],
            MlpKind::Swiglu => ["fc1_g", "fc1_x"]
                .map(|name| layer(name, input(name, hidden).with_aliases(&["fc1"])))
                .into(),
            MlpKind::SwigluPacked => {
                let site = input("fc1", 2 * hidden).with_slices(&["fc1_g", "fc1_x"], hidden);
                vec![layer("fc1", site)]
            }
        };
        let norm = |site| LayerNorm::new(site, sizes.epsilon(), init);
        let scaled = sizes.scale_mlp && kind != MlpKind::SwigluPacked;
        Self {
            inputs: inputs.into_iter().collect(),
            norm: scaled.then(|| norm(place.norm("mlp.norm", hidden))),
            fc2: Linear::new(place.linear("mlp.fc2", hidden, d), true, init),
            kind,
            act_layer: sizes.act_layer,
        }
    }

    /// Its sites in the order of the forward pass.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        let inputs = self.inputs.iter().map(|(_, layer)| layer.site());
        let norm = self.norm.iter().map(LayerNorm::site);
        inputs.chain(norm).chain([self.fc2.site()])
    }

    /// Changes the activation.
    pub fn set_activation(&mut self, act_layer: MlpActivation) {
        self.act_layer = act_layer;
    }

    /// Changes the epsilon of its norm.
    pub fn set_epsilon(&mut self, epsilon: f64) {
        let norm = self.norm.iter_mut();
        norm.for_each(|norm| norm.set_epsilon(epsilon));
    }

    /// The MLP's output, added to `residual` if there is one.
    ///
    /// # Shapes
    /// `[b, n, d] -> [b, n, d]`.
    pub fn forward(&self, residual: Option<Tensor<3>>, x: Tensor<3>, hooks: &Hooks) -> Tensor<3> {
        let gelu = self.act_layer.gelu();
        let mut layers = self.inputs.iter().map(|(_, layer)| layer);
        // The last of them takes `x`, so that its memory is free before the next layer.
        let (gate, input) = match (layers.next(), layers.next()) {
            (Some(gate), Some(value)) => {
                let gate = gate.forward(x.clone(), hooks);
                (Some(gate), value.forward(x, hooks))
            }
            // GELU and a linear layer run in one pass unless a norm comes between.
            (Some(only), None) if self.kind == MlpKind::Plain && self.norm.is_none() => {
                return only.forward_mlp(&self.fc2, residual, x, gelu, hooks);
            }
            (Some(only), None) => (None, only.forward(x, hooks)),
            (None, _) => unreachable!("an MLP has a first layer"),
        };
        let hidden = match (gate, self.kind) {
            (Some(gate), _) => swiglu(gate, input),
            (None, MlpKind::Plain) => gelu.of(input),
            (None, _) => swiglu_packed(input),
        }; // [b, n, hidden]
        let hidden = match &self.norm {
            Some(norm) => norm.forward(hidden, hooks),
            None => hidden,
        };
        match residual {
            Some(residual) => self.fc2.forward_onto(residual, hidden, hooks),
            None => self.fc2.forward(hidden, hooks),
        }
    }
}
