//! Self-attention inside windows, with a bias for each relative position.

use burn::module::{Module, Param};
use burn::tensor::{DType, Int, Tensor};
use peft_core::backbone::Init;
use peft_core::hooks::{Hooks, like};
use peft_core::layers::Linear;
use peft_core::random::Distribution;
use peft_core::site::{Branch, Site, SiteKind};
use peft_ops::{attention_weights, attention_with_bias};

use crate::architecture::{StageSizes, Version};
use crate::continuous_bias::{self, ContinuousBias};
use crate::place::Place;
use crate::windows::{Cutting, Windows};

/// Largest logarithm of the factor of cosine attention.
const MOST: f32 = 4.605_170_2; // ln 100

/// Softmax attention inside each window, with heads of `c / heads` contiguous channels.
///
/// In version 2 the scores are cosines of queries and keys times a factor of the head, and there is no
/// bias of keys; those of queries and values are parameters beside the projection.
#[derive(Module, Debug)]
pub(crate) struct WindowAttention {
    /// Queries, keys and values in one product.
    pub qkv: Linear,
    /// `[c]`, in version 2.
    q_bias: Option<Param<Tensor<1>>>,
    /// `[c]`, in version 2.
    v_bias: Option<Param<Tensor<1>>>,
    pub proj: Linear,
    /// A bias for each relative position and head, `[(2 rows - 1)(2 columns - 1), heads]`; version 1.
    relative_position_bias_table: Option<Param<Tensor<2>>>,
    /// The logarithm of each head's factor, `[heads, 1, 1]`; version 2.
    logit_scale: Option<Param<Tensor<3>>>,
    /// The network that makes the biases of version 2.
    cpb_mlp: Option<ContinuousBias>,
    // Constants, not parameters: Burn moves plain tensors with the module and does nothing else with
    // them.
    index: Tensor<1, Int>,
    mask: Option<Tensor<3>>,
    offsets: Option<Tensor<2>>,
    heads: usize,
    #[module(skip)]
    pub windows: Windows,
    #[module(skip)]
    of_block: OfBlock,
    #[module(skip)]
    pub site: Site,
}

/// The settings of a block from which its windows follow.
#[derive(Clone, Copy, Debug)]
struct OfBlock {
    window: usize,
    pretrained: usize,
    shifted: bool,
}

impl WindowAttention {
    /// Attention inside windows, shifted by half their size if `shifted`, with initial values for its
    /// layers.
    pub fn new(place: &Place, sizes: &StageSizes, shifted: bool) -> Self {
        let (init, d, heads) = (place.init, sizes.width, sizes.heads);
        let windows = Windows::new(sizes.grid, sizes.window, shifted, Cutting::Timm);
        let kind = SiteKind::Linear {
            inputs: d,
            outputs: 3 * d,
        };
        let qkv = place.site("attn.qkv", kind);
        let qkv = qkv.with_slices(&["query", "key", "value"], d);
        let (second, bias) = (sizes.version == Version::Two, sizes.qkv_bias);
        let qkv = match second && bias {
            true => qkv.with_slice_biases(&[Some("q_bias"), None, Some("v_bias")]),
            false => qkv,
        };
        let name = |part: &str| format!("{}.attn.{part}", place.name);
        let part = |part: &str| {
            (second && bias).then(|| init.param(&name(part), [d], Distribution::Zeros))
        };
        // ln 10, as in the paper's code.
        let scale = || {
            let ones = init.tensor(&name("logit_scale"), [heads, 1, 1], Distribution::Ones);
            Param::from_tensor(ones * std::f32::consts::LN_10)
        };
        Self {
            qkv: Linear::new(qkv, bias && !second, init),
            q_bias: part("q_bias"),
            v_bias: part("v_bias"),
            proj: place.linear("attn.proj", [d, d], true),
            relative_position_bias_table: (!second)
                .then(|| table(&name("relative_position_bias_table"), &windows, heads, init)),
            logit_scale: second.then(scale),
            cpb_mlp: second.then(|| continuous_bias::new(&name("cpb_mlp"), heads, init)),
            index: windows.index(init.device()),
            mask: windows.mask(init.device()),
            offsets: second.then(|| {
                let (size, pretrained) = (windows.size(), sizes.pretrained_window);
                continuous_bias::offsets(size, pretrained, init.device())
            }),
            heads,
            windows,
            of_block: OfBlock {
                window: sizes.window,
                pretrained: sizes.pretrained_window,
                shifted,
            },
            site: place.branch("attn", Branch::Attention, d),
        }
    }

    /// Cuts windows as another library does; a table of another size is then left without values.
    pub fn cut_as(&mut self, cutting: Cutting) {
        let OfBlock {
            window,
            pretrained,
            shifted,
        } = self.of_block;
        let windows = self.windows.cut_as(window, shifted, cutting);
        if windows == self.windows {
            return;
        }
        let device = self.index.device();
        if windows.size() != self.windows.size() {
            let name = format!("{}.relative_position_bias_table", self.site.name);
            let init = Init::empty(&device);
            let empty = |_| table(&name, &windows, self.heads, &init);
            self.relative_position_bias_table = self.relative_position_bias_table.take().map(empty);
        }
        self.index = windows.index(&device);
        self.mask = windows.mask(&device);
        let offsets = |_| continuous_bias::offsets(windows.size(), pretrained, &device);
        self.offsets = self.offsets.take().map(offsets);
        self.windows = windows;
    }

    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]`.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        // The windows are padded before the projections, as in timm: keys and values of a padded
        // position are the projections' biases.
        let x = self.windows.cut(x);
        let qkv = match self.qkv_bias() {
            Some(bias) => self.qkv.forward_with_bias(x, bias, hooks),
            None => self.qkv.forward(x, hooks),
        }; // [b * windows, n, 3c]
        let narrow = qkv.dtype();
        let qkv = self.scaled(qkv);
        let bias = self.bias(&qkv); // [windows or 1, heads, n, n]
        hooks.attended(&self.site, || {
            attention_weights(qkv.clone(), self.heads, Some(bias.clone()))
        });
        let mut mixed = attention_with_bias(qkv, bias);
        if mixed.dtype() != narrow {
            mixed = mixed.cast(narrow);
        }
        let y = self.proj.forward(mixed, hooks);
        self.windows.join(y)
    }

    /// The bias of queries, keys and values where those of queries and values are parameters of their own.
    ///
    /// # Shapes
    /// `[3c]`.
    fn qkv_bias(&self) -> Option<Tensor<1>> {
        let (q, v) = (self.q_bias.as_ref()?.val(), self.v_bias.as_ref()?.val());
        Some(Tensor::cat(vec![q.clone(), q.zeros_like(), v], 0))
    }

    /// For cosine attention: queries of the length of the head's factor and keys of length 1, and the
    /// factor that undoes attention's own division by the root of the head's width. They are in f32, because
    /// the factor multiplies what narrower types round.
    ///
    /// # Shapes
    /// `[b, n, 3c] -> [b, n, 3c]`.
    fn scaled(&self, qkv: Tensor<3>) -> Tensor<3> {
        let Some(scale) = &self.logit_scale else {
            return qkv;
        };
        let qkv = match qkv.dtype() {
            DType::F32 => qkv,
            _ => qkv.cast(DType::F32),
        };
        let [b, n, all] = qkv.dims();
        let (c, heads) = (all / 3, self.heads);
        let part = |index: usize| {
            let part = qkv.clone().narrow(2, index * c, c);
            part.reshape([b, n, heads, c / heads])
        };
        let unit = |x: Tensor<4>| {
            // Clamped before the root, whose gradient at 0 is infinite: a padded position's key is 0.
            let length = x.clone().square().sum_dim(3).clamp_min(1e-24).sqrt();
            x / length // [b, n, heads, d]
        };
        let factor = scale.val().clamp_max(MOST).exp().reshape([1, 1, heads, 1]);
        let factor = like(factor * ((c / heads) as f32).sqrt(), &qkv);
        let parts = [unit(part(0)) * factor, unit(part(1))];
        let [q, k] = parts.map(|part| part.reshape([b, n, c]));
        Tensor::cat(vec![q, k, qkv.narrow(2, 2 * c, c)], 2)
    }

    /// Relative position biases with the mask added, in the element type of `x`.
    ///
    /// # Shapes
    /// `[windows, heads, n, n]`, or `[1, heads, n, n]` where no mask tells windows apart.
    fn bias(&self, x: &Tensor<3>) -> Tensor<4> {
        let n = x.dims()[1];
        let made = || {
            Some(continuous_bias::biases(
                self.cpb_mlp.as_ref()?,
                self.offsets.clone()?,
            ))
        };
        let table = self.relative_position_bias_table.as_ref().map(Param::val);
        let Some(table) = table.or_else(made) else {
            panic!("{}: no position biases", self.site.name)
        };
        let bias = like(table, x)
            .select(0, self.index.clone()) // [n * n, heads]
            .reshape([n, n, self.heads])
            .permute([2, 0, 1])
            .unsqueeze::<4>();
        match &self.mask {
            Some(mask) => bias + like(mask.clone(), x).unsqueeze_dim::<4>(1),
            None => bias,
        }
    }
}

/// A new table of biases for these windows.
fn table(name: &str, windows: &Windows, heads: usize, init: &Init) -> Param<Tensor<2>> {
    let normal = Distribution::TruncatedNormal(0.02);
    init.param(name, [windows.offsets(), heads], normal)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use peft_core::attention::AttentionRecord;
    use peft_core::backbone::Init;
    use peft_core::params::floats;

    use super::*;

    /// In windows of every kind: plain, shifted with a mask, padded, and one for the whole grid.
    #[test]
    fn recorded_weights_reproduce_what_the_fused_attention_puts_out() {
        let device = Device::flex();
        let init = Init::seeded(&device, 5);
        for (grid, window, shifted, version) in [
            ([8, 8], 4, false, Version::One),
            ([8, 8], 4, true, Version::One),
            ([7, 7], 3, true, Version::One),
            ([3, 3], 7, true, Version::One),
            ([3, 8], 4, true, Version::One),
            ([3, 8], 4, true, Version::Two),
        ] {
            let place = Place {
                name: "layers.0.blocks.0".to_owned(),
                block: 1,
                init: &init,
                epsilon: 1e-5,
            };
            let sizes = StageSizes {
                width: 12,
                hidden: 24,
                heads: 3,
                grid,
                window,
                pretrained_window: 0,
                version,
                qkv_bias: true,
            };
            let attention = WindowAttention::new(&place, &sizes, shifted);
            let windows = attention.windows;
            let [h, w] = grid;
            let values: Vec<f32> = (0..2 * h * w * 12)
                .map(|i| (i as f32 * 0.71).sin())
                .collect();
            let x = Tensor::from_data(TensorData::new(values, [2, h, w, 12]), &device);
            let record = AttentionRecord::default();
            let fused = attention.forward(x.clone(), &Hooks::none().recording(&record));
            let plain = attention.forward(x, &Hooks::none());
            assert_eq!(
                fused.to_data(),
                plain.into_data(),
                "recording changes nothing"
            );
            let attended = record.take().remove(0);
            let own = attention.proj.forward(attended.mixed(), &Hooks::none());
            let own = floats(windows.join(own).into_data());
            for (own, fused) in own.into_iter().zip(floats(fused.into_data())) {
                assert!((own - fused).abs() < 1e-5, "{windows:?}: {own} {fused}");
            }
        }
    }
}
