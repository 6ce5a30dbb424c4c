//! Floating-point operations of one image, counted from sites, boundaries and what acts there.
//!
//! A multiplication and an addition are two operations. Forward, at each of a site's output positions:
//! `2 in out` for a linear layer, `2 (in / groups) out kh kw` for a convolution; `4 n^2 d` for the two
//! products of attention among `n` tokens of width `d`, on a grid `4 n w^2 d` for windows of `w x w`.
//! A low-rank path and a bottleneck cost twice their parameters at each position; a scale, a shift or
//! a prompt one operation for each value that it meets. Extra tokens lengthen the sequence.
//!
//! Backward: what lies above the first thing that trains hands a gradient down, which costs its
//! forward once more (attention's products twice, because both factors are activations); a weight that
//! trains gets a gradient, which costs the same again.
//!
//! Left out: norms, nonlinearities, softmax, pooling and sums; gradients of biases and norms; the loss
//! and the optimiser; what a step does once, however large the batch (DoRA's row norms); and what an
//! implementation computes twice to save memory.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::activation::BoundaryShape;
use crate::acts::{BoundaryAct, Side, SiteAct};
use crate::adapter::BoxedAdapter;
use crate::low_rank::Factors;
use crate::model::Model;
use crate::named::Named;
use crate::params::{self, ParamInfo};
use crate::site::{Branch, Site, SiteKind};
use crate::spec::{BackboneSpec, Cut};

/// Operations of one image by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flops {
    /// Forward of the backbone below the first cut: what a cache of the prefix saves.
    pub prefix: u64,
    /// Forward of the backbone from the first cut, and of the head.
    pub suffix: u64,
    /// Forward of what adapters do.
    pub adapter: u64,
    /// Gradients of activations.
    pub activations: u64,
    /// Gradients of weights: of the head, of adapters, of what is tuned.
    pub weights: u64,
}

impl Flops {
    /// What a training step, or inference without the backward pass, costs a model.
    pub fn of(model: &Model) -> Self {
        let infos = params::infos(model).into_iter();
        let own = |mut info: ParamInfo| {
            let trains = model.trains(&info.name);
            info.name = info.name.strip_prefix("backbone.")?.to_owned();
            Some((info, trains))
        };
        let classes = model.head.classes();
        let walk = Walk::new(model.spec(), &model.adapters, infos.filter_map(own));
        walk.run(model.first_cut(), classes)
    }

    /// From image to logits.
    pub fn forward(&self) -> u64 {
        self.prefix + self.suffix + self.adapter
    }

    /// From the loss to the gradients.
    pub fn backward(&self) -> u64 {
        self.activations + self.weights
    }

    /// A training step.
    pub fn step(&self) -> u64 {
        self.forward() + self.backward()
    }
}

/// The forward pass, operation by operation.
struct Walk<'a> {
    spec: &'a BackboneSpec,
    adapters: &'a Named<String, BoxedAdapter>,
    /// The backbone's own parameters, and those that train.
    parameters: Vec<ParamInfo>,
    tuned: BTreeSet<String>,
    /// Whether something so far trains, so that what follows hands a gradient down.
    live: bool,
    /// Extra tokens by the adapter's place.
    extras: Vec<usize>,
    flops: Flops,
}

impl<'a> Walk<'a> {
    fn new(
        spec: &'a BackboneSpec,
        adapters: &'a Named<String, BoxedAdapter>,
        parameters: impl Iterator<Item = (ParamInfo, bool)>,
    ) -> Self {
        let (mut infos, mut tuned) = (Vec::new(), BTreeSet::new());
        for (info, trains) in parameters {
            if trains {
                tuned.insert(info.name.clone());
            }
            infos.push(info);
        }
        Self {
            spec,
            adapters,
            parameters: infos,
            tuned,
            live: false,
            extras: vec![0; adapters.iter().count()],
            flops: Flops::default(),
        }
    }

    fn run(mut self, first_cut: Cut, classes: usize) -> Flops {
        for cut in 0..self.spec.features_cut() {
            if cut == first_cut {
                // So far only the backbone ran.
                self.flops.prefix = std::mem::take(&mut self.flops.suffix);
            }
            self.boundary(cut);
            self.block(cut);
        }
        if first_cut == self.spec.features_cut() {
            self.flops.prefix = std::mem::take(&mut self.flops.suffix);
        }
        self.layer((2 * self.spec.features * classes) as u64, true);
        self.flops
    }

    /// A matrix product of the backbone or the head.
    fn layer(&mut self, operations: u64, trains: bool) {
        self.flops.suffix += operations;
        if self.live {
            self.flops.activations += operations;
        }
        if trains {
            self.flops.weights += operations;
        }
    }

    fn boundary(&mut self, index: Cut) {
        let Some(shape) = self.spec.boundaries.get(index).map(|at| at.shape) else {
            return;
        };
        for (owner, (_, adapter)) in self.adapters.iter().enumerate() {
            let values = match adapter.at_boundary(index) {
                None => continue,
                Some(BoundaryAct::Add(_)) => shape.elements() as u64,
                Some(BoundaryAct::Multiply(_)) => {
                    if self.live {
                        self.flops.activations += shape.elements() as u64;
                    }
                    shape.elements() as u64
                }
                Some(BoundaryAct::Extras(extras)) => {
                    let before = if extras.replace {
                        0
                    } else {
                        self.extras[owner]
                    };
                    self.extras[owner] = before + extras.tokens.dims()[0];
                    0
                }
                // It moves pixels.
                Some(BoundaryAct::Function(_)) => 0,
            };
            self.flops.adapter += values;
            self.flops.weights += values;
            self.live = true;
        }
    }

    fn block(&mut self, block: Cut) {
        let spec = self.spec;
        let sites: Vec<&Site> = spec.sites.iter().filter(|s| s.block == block).collect();
        let mut map = self.input_map(block);
        for (i, site) in sites.iter().enumerate() {
            for branch in sites
                .iter()
                .filter(|branch| mixes_before(branch, i, &sites))
            {
                self.mix(branch);
            }
            self.site(site, &mut map);
        }
        // Of no site: the class token, the position embedding, LayerScale.
        let of_no_site = |name: &&String| spec.site(parent(name)).is_none();
        let mut others = self.tuned.iter().filter(of_no_site);
        self.live |= others.any(|name| spec.block_of(name) == block);
    }

    /// The two products of attention.
    fn mix(&mut self, branch: &Site) {
        let SiteKind::Branch { width, .. } = branch.kind else {
            return;
        };
        let n = self.positions(branch);
        let seen = match self.shape(branch.block + 1) {
            Some(BoundaryShape::Grid { .. }) => self.window(branch).unwrap_or(0),
            _ => n,
        };
        let operations = (4 * n * seen * width) as u64;
        self.flops.suffix += operations;
        if self.live {
            self.flops.activations += 2 * operations;
        }
    }

    /// Positions of an attention window: a table of relative positions has `(2 w - 1)^2` rows.
    fn window(&self, branch: &Site) -> Option<usize> {
        let table = format!("{}.relative_position_bias_table", branch.name);
        let table = self.parameters.iter().find(|info| info.name == table)?;
        let side = table.shape.first()?.isqrt().div_ceil(2);
        Some(side * side)
    }

    fn site(&mut self, site: &Site, map: &mut Option<Map>) {
        let adapters = self.adapters;
        let acts = adapters.iter().flat_map(|(name, adapter)| {
            let acts = adapter.at_site(site).into_iter();
            acts.map(move |act| (name, act))
        });
        let on_input = |act: &SiteAct| {
            matches!(
                act,
                SiteAct::ScaleShift {
                    on: Side::Input,
                    ..
                }
            )
        };
        let (inputs, outputs): (Vec<_>, Vec<_>) = acts.partition(|(_, act)| on_input(act));
        let before = match *map {
            Some(map) => map.positions(),
            None => self.positions(site),
        };
        for (_, act) in inputs {
            self.act(act, before, 0);
        }
        // What a side path reads, it hands a gradient to if something before it trains.
        let live = self.live;
        let positions = self.operation(site, map);
        self.live |= self.tuned.iter().any(|name| parent(name) == site.name);
        for (name, act) in outputs {
            let inside = format!("{}.", site.name);
            let of_branch = match act {
                SiteAct::Branch(_) => {
                    let adapter = adapters.get(name.as_str());
                    let infos = adapter
                        .map(|a| params::infos_erased(&**a))
                        .unwrap_or_default();
                    let own = infos.iter().filter(|info| info.name.starts_with(&inside));
                    own.map(ParamInfo::count).sum()
                }
                _ => 0,
            };
            let after = std::mem::replace(&mut self.live, live);
            self.act(act, positions, of_branch);
            self.live |= after;
        }
    }

    /// The frozen or tuned layer itself; the positions that it writes.
    fn operation(&mut self, site: &Site, map: &mut Option<Map>) -> usize {
        let (each, positions) = match site.kind {
            SiteKind::Linear { inputs, outputs } => (inputs * outputs, self.positions(site)),
            SiteKind::Conv {
                inputs,
                outputs,
                kernel,
                stride,
                padding,
                groups,
            } => {
                let written = match stride {
                    [1, 1] => *map,
                    // Two in one block stand side by side: a branch and its shortcut.
                    _ => self.input_map(site.block),
                };
                *map = written.map(|map| map.after(kernel, stride, padding));
                let positions = map.map_or_else(|| self.positions(site), Map::positions);
                (inputs / groups * outputs * kernel[0] * kernel[1], positions)
            }
            SiteKind::Norm { .. } | SiteKind::Branch { .. } => {
                let positions = map.map_or_else(|| self.positions(site), Map::positions);
                return positions;
            }
        };
        let trains = self.tuned.contains(&format!("{}.weight", site.name));
        self.layer((2 * each * positions) as u64, trains);
        positions
    }

    /// What an adapter does at a site, with `of_branch` parameters if it is a function of a branch.
    fn act(&mut self, act: SiteAct, positions: usize, of_branch: usize) {
        // Operations for each position: forward, of which those after the first trained layer.
        let (forward, above) = match act {
            SiteAct::LowRank(path) => {
                let [a, b] = match &path.factors {
                    Factors::Linear(a, b) => [a.shape(), b.shape()],
                    Factors::Conv(a, b) => [a.shape(), b.shape()],
                }
                .map(|shape| 2 * shape.num_elements());
                (a + b, b)
            }
            SiteAct::ScaleShift { scale, shift, .. } => {
                let count = |v: Option<burn::tensor::Tensor<1>>| v.map_or(0, |v| v.dims()[0]);
                let (scale, shift) = (count(scale), count(shift));
                self.flops.adapter += (shift * positions) as u64;
                self.flops.weights += (shift * positions) as u64;
                (scale, 0)
            }
            SiteAct::Branch(_) => (2 * of_branch, of_branch),
        };
        let [forward, above] = [forward, above].map(|each| (each * positions) as u64);
        self.flops.adapter += forward;
        self.flops.weights += forward;
        self.flops.activations += if self.live { forward } else { above };
        self.live = true;
    }

    fn shape(&self, boundary: Cut) -> Option<BoundaryShape> {
        self.spec.boundaries.get(boundary).map(|at| at.shape)
    }

    /// Positions that a site outside a chain of convolutions writes, extra tokens included: those of
    /// its block's output, and one after the last block. If a block merges patches at its end, what is
    /// as wide as the block's input, by itself or by its branch, comes before that.
    fn positions(&self, site: &Site) -> usize {
        if site.block > self.spec.depth {
            return 1;
        }
        let width = |site: &Site| match site.kind {
            SiteKind::Branch { width, .. } => Some(width),
            SiteKind::Norm { channels } => Some(channels),
            _ => None,
        };
        let around = self.spec.site(parent(&site.name));
        let width = width(site).or_else(|| around.and_then(width));
        let input = self.shape(site.block);
        let input = input.filter(|shape| Some(shape.channels()) == width);
        match input.or_else(|| self.shape(site.block + 1)) {
            Some(BoundaryShape::Tokens { count, .. }) => count + self.extras.iter().sum::<usize>(),
            Some(BoundaryShape::Map { height, width, .. })
            | Some(BoundaryShape::Grid { height, width, .. }) => height * width,
            Some(BoundaryShape::Features { .. }) | None => 1,
        }
    }

    /// What the convolutions of a block read, if it is a map.
    fn input_map(&self, block: Cut) -> Option<Map> {
        match self.shape(block)? {
            BoundaryShape::Map { height, width, .. } => Some(Map([height, width])),
            _ => None,
        }
    }
}

/// Rows and columns on the way through a block of convolutions: one without stride reads what the one
/// before it wrote, one with a stride what the block reads, so that a shortcut is counted right. The
/// second of two strides in a row is not.
#[derive(Clone, Copy)]
struct Map([usize; 2]);

impl Map {
    fn positions(self) -> usize {
        self.0[0] * self.0[1]
    }

    fn after(self, kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Self {
        let side = |i: usize| (self.0[i] + 2 * padding[i] - kernel[i]) / stride[i] + 1;
        Self([side(0), side(1)])
    }
}

/// Whether the attention of `branch` mixes just before site `i`: its last layer projects the result.
fn mixes_before(branch: &Site, i: usize, sites: &[&Site]) -> bool {
    let attention = Branch::Attention;
    if !matches!(branch.kind, SiteKind::Branch { branch, .. } if branch == attention) {
        return false;
    }
    let inside = |site: &&Site| parent(&site.name) == branch.name;
    match sites.iter().rposition(inside) {
        Some(last) => last == i,
        None => sites[i].name == branch.name,
    }
}

/// The name of the module around a parameter or a site.
fn parent(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, ParamId};
    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::acts::Extras;
    use crate::adapter::Adapter;
    use crate::input::{CropMode, InputSpec, Interpolation};
    use crate::low_rank::LowRank;
    use crate::plug::Plug;

    fn spec(shapes: &[BoundaryShape], sites: Vec<Site>) -> BackboneSpec {
        let image = BoundaryShape::Map {
            channels: 3,
            height: 8,
            width: 8,
        };
        let names: Vec<_> = (1..shapes.len()).map(|i| format!("blocks.{i}")).collect();
        BackboneSpec {
            name: "toy".to_owned(),
            depth: names.len(),
            boundaries: BackboneSpec::boundaries(image, &names, shapes),
            sites,
            input: InputSpec {
                size: 8,
                mean: [0.5; 3],
                std: [0.5; 3],
                interpolation: Interpolation::Bicubic,
                crop_pct: 1.0,
                crop_mode: CropMode::Center,
            },
            features: 8,
            head_name: "head",
        }
    }

    fn conv(
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        stride: usize,
        groups: usize,
    ) -> SiteKind {
        SiteKind::Conv {
            inputs,
            outputs,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [if stride == kernel { 0 } else { kernel / 2 }; 2],
            groups,
        }
    }

    /// Two blocks of width 8 with an MLP of 16 on 4 patches of 4 x 4 pixels and a class token.
    fn vit() -> BackboneSpec {
        let shape = BoundaryShape::Tokens { count: 5, width: 8 };
        let mut sites = vec![Site::new("patch_embed.proj", 0, conv([3, 8], 4, 4, 1))];
        for i in [0, 1] {
            let branch = |branch| SiteKind::Branch { branch, width: 8 };
            let linear = |inputs, outputs| SiteKind::Linear { inputs, outputs };
            let parts = [
                ("norm1", SiteKind::Norm { channels: 8 }),
                ("attn.qkv", linear(8, 24)),
                ("attn.proj", linear(8, 8)),
                ("attn", branch(Branch::Attention)),
                ("norm2", SiteKind::Norm { channels: 8 }),
                ("mlp.fc1", linear(8, 16)),
                ("mlp.fc2", linear(16, 8)),
                ("mlp", branch(Branch::Mlp)),
            ];
            sites.extend(
                parts.map(|(part, kind)| Site::new(format!("blocks.{i}.{part}"), i + 1, kind)),
            );
        }
        spec(&[shape; 3], sites)
    }

    /// This many tokens before the second block; without, a path of rank 2 at its `attn.qkv`.
    #[derive(Module, Debug)]
    struct Toy {
        tokens: usize,
    }

    impl Adapter for Toy {
        fn at_boundary(&self, index: usize) -> Option<BoundaryAct<'_>> {
            (index == 2 && self.tokens > 0).then(|| {
                BoundaryAct::Extras(Extras {
                    tokens: Tensor::zeros([self.tokens, 8], &Device::flex()),
                    dropout: 0.0,
                    replace: true,
                })
            })
        }
        fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
            if site.name != "blocks.1.attn.qkv" || self.tokens > 0 {
                return Vec::new();
            }
            let matrix = |shape: [usize; 2]| Tensor::zeros(shape, &Device::flex());
            let factors = Factors::Linear(matrix([2, 8]), matrix([24, 2]));
            vec![SiteAct::LowRank(LowRank::new(factors, 1.0))]
        }
    }

    fn count(spec: &BackboneSpec, toy: Option<Toy>, tuned: bool, first_cut: Cut) -> Flops {
        let adapters: Named<String, BoxedAdapter> = toy
            .map(|toy| {
                (
                    "toy".to_owned(),
                    Plug::new(Box::new(toy) as Box<dyn Adapter>),
                )
            })
            .into_iter()
            .collect();
        let weight = |site: &Site| ParamInfo {
            name: format!("{}.weight", site.name),
            shape: vec![],
            bytes: 0,
            id: ParamId::new(),
            buffer: false,
        };
        let parameters = spec.sites.iter().map(|site| (weight(site), tuned));
        Walk::new(spec, &adapters, parameters).run(first_cut, 3)
    }

    const STEM: u64 = 2 * 48 * 8 * 4;
    const QKV: u64 = 2 * 8 * 24 * 5;
    const MIX: u64 = 4 * 5 * 5 * 8;
    const PROJ: u64 = 2 * 8 * 8 * 5;
    const MLP: u64 = 2 * (2 * 8 * 16 * 5);
    const BLOCK: u64 = QKV + MIX + PROJ + MLP;
    const HEAD: u64 = 2 * 8 * 3;

    #[test]
    fn a_probe_pays_for_the_head_alone_and_full_tuning_three_times() {
        let expected = Flops {
            prefix: STEM + 2 * BLOCK,
            suffix: HEAD,
            weights: HEAD,
            ..Flops::default()
        };
        assert_eq!(count(&vit(), None, false, 4), expected);
        let expected = Flops {
            suffix: STEM + 2 * BLOCK + HEAD,
            // The image needs none; both factors of attention's products do.
            activations: 2 * (BLOCK + MIX) + HEAD,
            weights: STEM + 2 * (BLOCK - MIX) + HEAD,
            ..Flops::default()
        };
        assert_eq!(count(&vit(), None, true, 0), expected);
    }

    #[test]
    fn a_low_rank_path_pays_for_its_factors_and_for_what_lies_above() {
        let path = Toy { tokens: 0 };
        let expected = Flops {
            prefix: STEM + BLOCK,
            suffix: BLOCK + HEAD,
            adapter: 2 * 2 * (8 + 24) * 5,
            // Of the path only the upper factor; `qkv` itself stands beside it.
            activations: 2 * 2 * 24 * 5 + 2 * MIX + PROJ + MLP + HEAD,
            weights: 2 * 2 * (8 + 24) * 5 + HEAD,
        };
        assert_eq!(count(&vit(), Some(path), false, 2), expected);
    }

    #[test]
    fn extra_tokens_lengthen_the_sequence() {
        let tokens = Toy { tokens: 2 };
        let (layers, mix) = ((QKV + PROJ + MLP) / 5 * 7, MIX / 25 * 49);
        let expected = Flops {
            prefix: STEM + BLOCK,
            suffix: layers + mix + HEAD,
            adapter: 0,
            activations: layers + 2 * mix + HEAD,
            weights: HEAD,
        };
        assert_eq!(count(&vit(), Some(tokens), false, 2), expected);
    }

    #[test]
    fn a_strided_convolution_reads_what_its_block_reads() {
        let map = |channels, side| BoundaryShape::Map {
            channels,
            height: side,
            width: side,
        };
        let sites = [
            ("conv1", conv([4, 2], 1, 1, 1)),
            ("conv2", conv([2, 2], 3, 2, 2)),
            ("conv3", conv([2, 8], 1, 1, 1)),
            ("downsample.0", conv([4, 8], 1, 2, 1)),
        ]
        .map(|(name, kind)| Site::new(name, 1, kind));
        let spec = spec(&[map(4, 8), map(8, 4)], sites.into());
        let operations = 2 * (4 * 2 * 64 + 2 * 9 * 16 + 2 * 8 * 16 + 4 * 8 * 16);
        assert_eq!(count(&spec, None, false, 3).prefix, operations);
    }
}
