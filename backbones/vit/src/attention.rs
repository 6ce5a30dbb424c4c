//! Global self-attention.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use peft_core::backbone::Init;
use peft_core::hooks::Hooks;
use peft_core::layers::{LayerNorm, Linear};
use peft_core::plug::Named;
use peft_core::random::Distribution;
use peft_core::site::Site;
use peft_ops::{Rotation, attention, attention_weights, linear, rotate};

use crate::architecture::{Architecture, Qkv, QkvBias};
use crate::place::Place;

/// Softmax attention between all tokens, with heads of `d / heads` contiguous channels.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    /// `qkv`, or `q_proj`, `k_proj` and `v_proj`.
    projections: Named<&'static str, Linear>,
    /// The bias of the queries in `qkv`, if keys have none.
    q_bias: Option<Param<Tensor<1>>>,
    /// The bias of the values in `qkv`, if keys have none.
    v_bias: Option<Param<Tensor<1>>>,
    q_norm: Option<LayerNorm>,
    k_norm: Option<LayerNorm>,
    /// Over all heads, before the last projection.
    norm: Option<LayerNorm>,
    pub proj: Linear,
    heads: usize,
    #[module(skip)]
    pub site: Site,
}

impl Attention {
    pub fn new(sizes: &Architecture, place: &Place, site: Site, init: &Init) -> Self {
        let d = sizes.embed_dim;
        let Qkv { fused, bias, norm } = sizes.qkv;
        let projections = match fused {
            true => vec![("qkv", fused_projection(d, bias, place, init))],
            false => separate_projections(d, bias, place, init),
        };
        let beside = |part: &str| {
            let beside = fused && bias == QkvBias::QueryValue;
            beside.then(|| init.param(&place.name(part), [d], Distribution::Zeros))
        };
        let of_head = |part: &str| {
            let site = place.norm(part, d / sizes.num_heads);
            norm.then(|| LayerNorm::new(site, sizes.epsilon(), init))
        };
        let inner = sizes.scale_attn_inner;
        Self {
            projections: projections.into_iter().collect(),
            q_bias: beside("attn.q_bias"),
            v_bias: beside("attn.v_bias"),
            q_norm: of_head("attn.q_norm"),
            k_norm: of_head("attn.k_norm"),
            norm: inner.then(|| LayerNorm::new(place.norm("attn.norm", d), sizes.epsilon(), init)),
            proj: Linear::new(place.linear("attn.proj", d, d), true, init),
            heads: sizes.num_heads,
            site,
        }
    }

    /// Its sites in the order of the forward pass.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        let projections = self.projections.iter().map(|(_, layer)| layer.site());
        let norms = [&self.q_norm, &self.k_norm, &self.norm];
        let norms = norms.into_iter().flatten().map(LayerNorm::site);
        projections
            .chain(norms)
            .chain([self.proj.site(), &self.site])
    }

    /// Changes the epsilon of its norms.
    pub fn set_epsilon(&mut self, epsilon: f64) {
        let norms = [&mut self.q_norm, &mut self.k_norm, &mut self.norm];
        let norms = norms.into_iter().flatten();
        norms.for_each(|norm| norm.set_epsilon(epsilon));
    }

    /// The mixed values, before the last projection: the caller may fuse that one with the sum.
    ///
    /// # Shapes
    /// `[b, n, d] -> [b, n, d]`.
    pub fn mixed(&self, x: Tensor<3>, rotation: Option<&Rotation>, hooks: &Hooks) -> Tensor<3> {
        let qkv = self.normed(self.projected(x, hooks), hooks); // [b, n, 3 d]
        let qkv = match rotation {
            Some(rotation) => rotate(qkv, self.heads, rotation),
            None => qkv,
        };
        hooks.attended(&self.site, || {
            attention_weights(qkv.clone(), self.heads, None)
        });
        let mixed = attention(qkv, self.heads);
        match &self.norm {
            Some(norm) => norm.forward(mixed, hooks),
            None => mixed,
        }
    }

    /// Attends from `queries` to the tokens `x`, which do not see them, up to the last projection. Extra tokens
    /// have no place, so that a rotation leaves the queries as they are.
    ///
    /// # Shapes
    /// `x`: `[b, n, d]`, `queries`: `[b, t, d]`; the result has the shape of the queries.
    pub fn queried(
        &self,
        x: Tensor<3>,
        queries: Tensor<3>,
        rotation: Option<&Rotation>,
    ) -> Tensor<3> {
        let [b, t, d] = queries.dims();
        let (heads, width) = (self.heads, d / self.heads);
        let none = &Hooks::none();
        let of_heads = |x: Tensor<3>| {
            let [b, n, _] = x.dims();
            x.reshape([b, n, heads, width]).swap_dims(1, 2) // [b, h, n, w]
        };
        let (weight, bias) = self.part(0);
        let q = linear(queries, weight, bias);
        let q = match &self.q_norm {
            Some(norm) => norm.forward(q.reshape([b, t, heads, width]), none),
            None => q.reshape([b, t, heads, width]),
        };
        let q = q.swap_dims(1, 2) * (width as f64).powf(-0.5); // [b, h, t, w]
        let mixed = if self.k_norm.is_none() && rotation.is_none() && t < width {
            // `q (W z)^T = (q W) z^T`: a few queries meet the tokens before the projections of keys and values,
            // which cost `d` products for each value of a token. The bias of the keys shifts all scores alike.
            let [key, value] = [1, 2].map(|i| self.part(i));
            let by_head = |weight: Tensor<2>| weight.reshape([heads, width, d]);
            let asking = q.swap_dims(0, 1).reshape([heads, b * t, width]);
            let asked = asking.matmul(by_head(key.0)); // [h, b t, d]
            let asked = asked.reshape([heads, b, t, d]).swap_dims(0, 1);
            let scores = asked.reshape([b, heads * t, d]);
            let scores = scores.matmul(x.clone().transpose()); // [b, h t, n]
            let mixed = softmax(scores, 2).matmul(x).reshape([b, heads, t, d]);
            let mixed = mixed.swap_dims(0, 1).reshape([heads, b * t, d]);
            let mixed = mixed.matmul(by_head(value.0).transpose()); // [h, b t, w]
            let mixed = mixed.reshape([heads, b, t, width]).permute([1, 2, 0, 3]);
            let mixed = mixed.reshape([b, t, d]);
            match value.1 {
                Some(bias) => mixed + bias.unsqueeze::<3>(),
                None => mixed,
            }
        } else {
            let qkv = self.normed(self.projected(x, none), none); // [b, n, 3 d]
            let qkv = match rotation {
                Some(rotation) => rotate(qkv, heads, rotation),
                None => qkv,
            };
            let [k, v] = [1, 2].map(|i| of_heads(qkv.clone().narrow(2, i * d, d)));
            let mixed = softmax(q.matmul(k.transpose()), 3).matmul(v);
            mixed.swap_dims(1, 2).reshape([b, t, d])
        };
        match &self.norm {
            Some(norm) => norm.forward(mixed, none),
            None => mixed,
        }
    }

    /// Weight and bias of the queries (0), keys (1) or values (2).
    ///
    /// # Shapes
    /// `[d, d]` and `[d]`.
    fn part(&self, i: usize) -> (Tensor<2>, Option<Tensor<1>>) {
        match self.projections.get("qkv") {
            Some(qkv) => {
                let weight = qkv.weight.val();
                let d = weight.dims()[1];
                let bias = match &qkv.bias {
                    Some(bias) => Some(bias.val().narrow(0, i * d, d)),
                    None => [self.q_bias.as_ref(), None, self.v_bias.as_ref()][i].map(Param::val),
                };
                (weight.narrow(0, i * d, d), bias)
            }
            None => match self.projections.iter().nth(i) {
                Some((_, layer)) => (layer.weight.val(), layer.bias.as_ref().map(Param::val)),
                None => unreachable!("attention has one projection or three"),
            },
        }
    }

    /// All queries, then keys, then values.
    ///
    /// # Shapes
    /// `[b, n, d] -> [b, n, 3 d]`.
    fn projected(&self, x: Tensor<3>, hooks: &Hooks) -> Tensor<3> {
        let mut layers = self.projections.iter().map(|(_, layer)| layer);
        if let (Some(q), Some(v), Some(qkv)) =
            (&self.q_bias, &self.v_bias, self.projections.get("qkv"))
        {
            let (q, v) = (q.val(), v.val());
            let bias = Tensor::cat(vec![q.clone(), q.zeros_like(), v], 0);
            return qkv.forward_with_bias(x, bias, hooks);
        }
        match (layers.next(), layers.next(), layers.next()) {
            (Some(q), Some(k), Some(v)) => {
                let parts = [q, k, v].map(|layer| layer.forward(x.clone(), hooks));
                Tensor::cat(parts.into(), 2)
            }
            (Some(qkv), ..) => qkv.forward(x, hooks),
            _ => unreachable!("attention has one projection or three"),
        }
    }

    /// Queries and keys after the norm of each head, if there are norms.
    ///
    /// # Shapes
    /// `[b, n, 3 d] -> [b, n, 3 d]`.
    fn normed(&self, qkv: Tensor<3>, hooks: &Hooks) -> Tensor<3> {
        let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) else {
            return qkv;
        };
        let [b, n, d3] = qkv.dims();
        let (d, heads) = (d3 / 3, self.heads);
        let part = |i: usize| qkv.clone().narrow(2, i * d, d);
        let of_heads = |x: Tensor<3>, norm: &LayerNorm| {
            let x = x.reshape([b, n, heads, d / heads]);
            norm.forward(x, hooks).reshape([b, n, d])
        };
        let (q, k) = (of_heads(part(0), q_norm), of_heads(part(1), k_norm));
        Tensor::cat(vec![q, k, part(2)], 2)
    }
}

/// One layer for queries, keys and values. If only queries and values have a bias, it lies beside the layer.
fn fused_projection(d: usize, bias: QkvBias, place: &Place, init: &Init) -> Linear {
    let site = place.linear("attn.qkv", d, 3 * d);
    let site = site.with_slices(&["query", "key", "value"], d);
    let site = match bias {
        QkvBias::QueryValue => site.with_slice_biases(&[Some("q_bias"), None, Some("v_bias")]),
        QkvBias::All | QkvBias::None => site,
    };
    Linear::new(site, bias == QkvBias::All, init)
}

/// A layer each for queries, keys and values.
fn separate_projections(
    d: usize,
    bias: QkvBias,
    place: &Place,
    init: &Init,
) -> Vec<(&'static str, Linear)> {
    let layer = |name: &'static str, alias: &str| {
        let site = place.linear(&format!("attn.{name}"), d, d);
        let has_bias = match bias {
            QkvBias::None => false,
            QkvBias::QueryValue => name != "k_proj",
            QkvBias::All => true,
        };
        let site = site.with_aliases(&["qkv", alias]);
        (name, Linear::new(site, has_bias, init))
    };
    vec![
        layer("q_proj", "query"),
        layer("k_proj", "key"),
        layer("v_proj", "value"),
    ]
}
