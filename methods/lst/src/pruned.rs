//! Initial values of a ladder's blocks: the parts of the trunk's blocks that weigh most.
//!
//! Magnitudes as in "Pruning Filters for Efficient ConvNets", Li et al., 2017: a channel weighs as much as the
//! absolute values of the weights that read or write it. Channels of the stream are the same in all blocks; of each
//! head of attention those of queries and keys are pruned together, since they meet in a product.

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use peft_core::backbone::Backbone;
use peft_core::error::Result;
use peft_core::layers::Dense;
use peft_core::params::{self, floats};
use peft_core::site::{Site, SiteKind};

use crate::ladder::{Block, Norm, Sizes};

/// The layers of a block that have a counterpart in the side network.
const LAYERS: [&str; 4] = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"];

/// Checks that every block which feeds the ladder has the layers that are pruned.
///
/// # Errors
/// [`peft_core::Error::Unfit`] with the layer that is missing.
pub(crate) fn check(backbone: &dyn Backbone, sizes: &Sizes) -> Result<()> {
    let (spec, wide) = (backbone.spec(), sizes.wide);
    let names = spec.block_names();
    for block in &sizes.blocks {
        for layer in LAYERS {
            let name = format!("{}.{layer}", names[block - 1]);
            let fits = |site: &Site| match site.kind {
                SiteKind::Linear { inputs, outputs } => match layer {
                    "attn.qkv" => (inputs, outputs) == (wide, 3 * wide),
                    "attn.proj" => (inputs, outputs) == (wide, wide),
                    "mlp.fc1" => inputs == wide && outputs >= 4 * sizes.narrow,
                    _ => outputs == wide && inputs >= 4 * sizes.narrow,
                },
                _ => false,
            };
            // A gated MLP has two first layers, or one whose output is halved.
            let plain = |site: &Site| !layer.starts_with("mlp") || site.slices.is_empty();
            if !spec
                .site(&name)
                .is_some_and(|site| fits(site) && plain(site))
            {
                let reason = format!(
                    "init: pruned needs the layers of a plain Transformer block, and {name} is missing or another; \
                     init: random starts without them"
                );
                return Err(spec.unfit("lst", reason));
            }
        }
    }
    Ok(())
}

/// The trunk's weights, and the channels that are kept of its stream.
pub(crate) struct Kept<'a> {
    backbone: &'a dyn Backbone,
    /// Channels of the trunk's stream, in their order.
    stream: Vec<usize>,
    heads: usize,
    wide: usize,
}

/// A matrix, row by row.
struct Matrix {
    values: Vec<f32>,
    columns: usize,
}

impl Matrix {
    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// The sum of the magnitudes of each row, or of each column.
    fn weigh(&self, by_row: bool) -> Vec<f32> {
        let count = if by_row { self.rows() } else { self.columns };
        let mut sums = vec![0.0; count];
        for row in 0..self.rows() {
            for (column, value) in self.row(row).iter().enumerate() {
                sums[if by_row { row } else { column }] += value.abs();
            }
        }
        sums
    }

    fn part(&self, rows: &[usize], columns: &[usize]) -> TensorData {
        let row = |&row: &usize| columns.iter().map(move |&column| self.row(row)[column]);
        let values: Vec<f32> = rows.iter().flat_map(row).collect();
        TensorData::new(values, [rows.len(), columns.len()])
    }
}

/// The places of the `count` largest values, in their order; of equal ones the first.
fn strongest(values: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    places.truncate(count);
    places.sort_unstable();
    places
}

fn add(sum: &mut [f32], other: &[f32]) {
    sum.iter_mut()
        .zip(other)
        .for_each(|(sum, value)| *sum += value);
}

impl<'a> Kept<'a> {
    /// Chooses the channels of the stream of a backbone that passed [`check`].
    pub fn of(backbone: &'a dyn Backbone, sizes: &Sizes) -> Self {
        let wide = sizes.wide;
        let mut kept = Self {
            backbone,
            stream: Vec::new(),
            heads: sizes.heads,
            wide,
        };
        let names = backbone.spec().block_names();
        let mut weights = vec![0.0; wide];
        for block in &sizes.blocks {
            for (layer, writes) in LAYERS.into_iter().zip([false, true, false, true]) {
                let layer = format!("{}.{layer}", names[block - 1]);
                add(&mut weights, &kept.matrix(&layer).weigh(writes));
            }
        }
        kept.stream = strongest(&weights, sizes.narrow);
        kept
    }

    fn value(&self, name: &str) -> Option<Vec<f32>> {
        params::value(self.backbone, name).map(floats)
    }

    fn matrix(&self, layer: &str) -> Matrix {
        let weight = params::value(self.backbone, &format!("{layer}.weight"));
        let Some(weight) = weight else {
            panic!("{layer} has no weight")
        };
        Matrix {
            columns: weight.shape()[1],
            values: floats(weight),
        }
    }

    /// The block with the values of the trunk's block `name`.
    pub fn start(&self, block: Block, name: &str) -> Block {
        let layers = LAYERS.map(|layer| format!("{name}.{layer}"));
        let [qkv, proj, fc1, fc2] = layers.each_ref().map(|layer| self.matrix(layer));
        let (stream, width) = (&self.stream, self.stream.len());
        // Attention, head by head.
        let (of_head, kept_of_head) = (self.wide / self.heads, width / self.heads);
        let mut scores = qkv.weigh(true);
        let values = scores.split_off(2 * self.wide);
        let keys = scores.split_off(self.wide);
        add(&mut scores, &keys);
        let mut weights = values;
        add(&mut weights, &proj.weigh(false));
        let channels = |weights: &[f32]| -> Vec<usize> {
            let head = |head: usize| {
                let start = head * of_head;
                let own = &weights[start..start + of_head];
                strongest(own, kept_of_head)
                    .into_iter()
                    .map(move |channel| start + channel)
            };
            (0..self.heads).flat_map(head).collect()
        };
        let (compared, mixed) = (channels(&scores), channels(&weights));
        let keys = compared.iter().map(|channel| self.wide + channel);
        let values = mixed.iter().map(|channel| 2 * self.wide + channel);
        let rows: Vec<usize> = compared.iter().copied().chain(keys).chain(values).collect();
        // The MLP.
        let mut weights = fc1.weigh(true);
        add(&mut weights, &fc2.weigh(false));
        let hidden = strongest(&weights, 4 * width);
        let all = [
            (&qkv, &layers[0], &rows, stream),
            (&proj, &layers[1], stream, &mixed),
            (&fc1, &layers[2], &hidden, stream),
            (&fc2, &layers[3], stream, &hidden),
        ];
        let [qkv, proj, fc1, fc2] = all.map(|(matrix, layer, rows, columns)| {
            (
                matrix.part(rows, columns),
                self.vector(&format!("{layer}.bias"), rows),
            )
        });
        let filled = |layer: Dense, (weight, bias): (TensorData, Option<TensorData>)| Dense {
            weight: set(layer.weight, Some(weight)),
            bias: set(layer.bias, bias),
        };
        let norm = |norm: Norm, part: &str| Norm {
            weight: set(
                norm.weight,
                self.vector(&format!("{name}.{part}.weight"), stream),
            ),
            bias: set(
                norm.bias,
                self.vector(&format!("{name}.{part}.bias"), stream),
            ),
        };
        Block {
            norm1: norm(block.norm1, "norm1"),
            qkv: filled(block.qkv, qkv),
            proj: filled(block.proj, proj),
            norm2: norm(block.norm2, "norm2"),
            fc1: filled(block.fc1, fc1),
            fc2: filled(block.fc2, fc2),
            heads: block.heads,
        }
    }

    fn vector(&self, name: &str, places: &[usize]) -> Option<TensorData> {
        let values = self.value(name)?;
        let own: Vec<f32> = places.iter().map(|&place| values[place]).collect();
        Some(TensorData::new(own, [places.len()]))
    }
}

/// The parameter with another value, if there is one.
fn set<const D: usize>(param: Param<Tensor<D>>, value: Option<TensorData>) -> Param<Tensor<D>> {
    match value {
        Some(value) => param.map(|old| Tensor::from_data(value, &old.device())),
        None => param,
    }
}
