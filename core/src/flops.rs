//! Floating-point operations of one image, counted from sites, boundaries and what acts there.
//!
//! A multiplication and an addition are two operations. Forward, at each of a site's output positions:
//! `2 in out` for a linear layer, `2 (in / groups) out kh kw` for a convolution; `4 n^2 d` for the two
//! products of attention among `n` tokens of width `d`, on a grid `4 n m d` for windows of `m` positions.
//! A low-rank path and a bottleneck cost twice the entries of their weights at each position; a scale, a shift or
//! a prompt one operation for each value that it meets. Extra tokens lengthen the sequence.
//!
//! Backward: every operation above the first trained parameter passes a gradient down, which costs as
//! much as its forward pass (for attention's products twice as much, because both factors are
//! activations). A trained weight also gets a gradient of its own, which costs the same again.
//!
//! A layer after the last block counts at one position, also those of pooling by attention that read every
//! token.
//!
//! Not counted: norms, nonlinearities, softmax, pooling and sums; gradients of biases and norms; the
//! loss and the optimiser; work that a step does once whatever the batch size (DoRA's row norms, a
//! function of a weight, of which only the weight's gradient counts); and values that an implementation computes twice to save memory.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::activation::BoundaryShape;
use crate::acts::{BoundaryAct, Side, SiteAct};
use crate::adapter::BoxedAdapter;
use crate::low_rank::Factors;
use crate::model::Model;
use crate::named::Named;
use crate::params::{self, ParamInfo};
use crate::side::Operations;
use crate::site::{Branch, Site, SiteKind};
use crate::spec::{BackboneSpec, Cut};

/// Operations per image, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flops {
    /// Forward pass of the backbone below the first cut: the work that a cache of the prefix saves.
    pub prefix: u64,
    /// Forward pass of the backbone from the first cut, and of the head.
    pub suffix: u64,
    /// Forward pass of the adapters.
    pub adapter: u64,
    /// Gradients of activations.
    pub activations: u64,
    /// Gradients of trained weights: in the head, in adapters and in the backbone.
    pub weights: u64,
}

impl Flops {
    /// The operations of a training step of this model.
    pub fn of(model: &Model) -> Self {
        let infos = params::infos(model).into_iter();
        let own = |mut info: ParamInfo| {
            let trains = model.trains(&info.name);
            info.name = info.name.strip_prefix("backbone.")?.to_owned();
            Some((info, trains))
        };
        let classes = model.head.classes();
        let mut walk = Walk::new(model.spec(), &model.adapters, infos.filter_map(own));
        let blocks = 1..=model.spec().depth;
        let grids = blocks.filter_map(|block| Some((block, model.backbone.attention_grid(block)?)));
        walk.windows = grids
            .filter(|(_, grid)| grid.windows)
            .map(|(block, grid)| (block, grid.grid.iter().product()))
            .collect();
        let flops = walk.run(model.first_cut(), [model.head.features(), classes]);
        match model.side() {
            Some((_, _, side)) => flops.beside(side.operations(model.spec())),
            None => flops,
        }
    }

    /// These operations and those of a side network.
    fn beside(self, side: Operations) -> Self {
        Self {
            adapter: self.adapter + side.forward,
            // The features pass a gradient to the network that makes them.
            activations: self.activations + self.suffix + side.activations,
            weights: self.weights + side.weights,
            ..self
        }
    }

    /// The forward pass, from image to logits.
    pub fn forward(&self) -> u64 {
        self.prefix + self.suffix + self.adapter
    }

    /// The backward pass, from the loss to the gradients.
    pub fn backward(&self) -> u64 {
        self.activations + self.weights
    }

    /// A training step: forward and backward.
    pub fn step(&self) -> u64 {
        self.forward() + self.backward()
    }
}

/// The forward pass, operation by operation.
struct Walk<'a> {
    spec: &'a BackboneSpec,
    adapters: &'a Named<String, BoxedAdapter>,
    /// Names of the backbone's own parameters that train.
    tuned: BTreeSet<String>,
    /// Positions of a window in each block whose attention is cut into windows.
    windows: BTreeMap<usize, usize>,
    /// Whether anything trains so far, so that later operations pass a gradient down.
    live: bool,
    /// Number of extra tokens of each adapter, by its place in the list.
    extras: Vec<usize>,
    flops: Flops,
}

impl<'a> Walk<'a> {
    fn new(
        spec: &'a BackboneSpec,
        adapters: &'a Named<String, BoxedAdapter>,
        parameters: impl Iterator<Item = (ParamInfo, bool)>,
    ) -> Self {
        Self {
            spec,
            adapters,
            tuned: parameters
                .filter_map(|(info, trains)| trains.then_some(info.name))
                .collect(),
            windows: BTreeMap::new(),
            live: false,
            extras: vec![0; adapters.iter().count()],
            flops: Flops::default(),
        }
    }

    fn run(mut self, first_cut: Cut, [features, classes]: [usize; 2]) -> Flops {
        for cut in 0..self.spec.features_cut() {
            if cut == first_cut {
                // Up to here only the backbone ran, so all of it is prefix.
                self.flops.prefix = std::mem::take(&mut self.flops.suffix);
            }
            self.boundary(cut);
            self.block(cut);
        }
        // In a linear probe the whole backbone is prefix.
        if first_cut == self.spec.features_cut() {
            self.flops.prefix = std::mem::take(&mut self.flops.suffix);
        }
        self.layer((2 * features * classes) as u64, true);
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
                // A frame around the image only moves pixels.
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
        // Parameters that belong to no site: the class token, the position embedding, LayerScale.
        // Only after the sites of the block: their inputs come before such a parameter acts.
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
            Some(BoundaryShape::Grid { .. }) => {
                self.windows.get(&branch.block).copied().unwrap_or(0)
            }
            _ => n,
        };
        let operations = (4 * n * seen * width) as u64;
        self.flops.suffix += operations;
        if self.live {
            // Each product has two factors that are activations, and each factor gets a gradient.
            self.flops.activations += 2 * operations;
        }
    }

    fn site(&mut self, site: &Site, map: &mut Option<Map>) {
        let adapters = self.adapters;
        let acts = adapters.iter().flat_map(|(name, adapter)| {
            let acts = adapter.at_site(site).into_iter();
            acts.map(move |act| (name, act))
        });
        let on_input = |act: &SiteAct| match act {
            SiteAct::InputLowRank(_) => true,
            SiteAct::ScaleShift { on, .. } => *on == Side::Input,
            _ => false,
        };
        let (inputs, outputs): (Vec<_>, Vec<_>) = acts.partition(|(_, act)| on_input(act));
        let before = match *map {
            Some(map) => map.positions(),
            None => self.positions(site),
        };
        for (_, act) in inputs {
            self.act(act, before, 0);
        }
        // A side path passes a gradient to its input only if something before the site trains, so
        // this is noted before the site itself counts.
        let live = self.live;
        let positions = self.operation(site, map);
        self.live |= self.tuned.iter().any(|name| parent(name) == site.name);
        for (name, act) in outputs {
            let inside = format!("{}.", site.name);
            let size = match act {
                SiteAct::Branch(_) => {
                    let adapter = adapters.get(name.as_str());
                    let products = |adapter: &BoxedAdapter| {
                        adapter.products(site).unwrap_or_else(|| {
                            let infos = params::infos_erased(&**adapter).into_iter();
                            let own = infos.filter(|info| info.name.starts_with(&inside));
                            own.map(|info| info.count()).sum()
                        })
                    };
                    adapter.map_or(0, products)
                }
                SiteAct::Weight(_) => products(site.kind).unwrap_or_default(),
                _ => 0,
            };
            // Acts at one site are beside each other, so each is judged by what came before the
            // site.
            let after = std::mem::replace(&mut self.live, live);
            self.act(act, positions, size);
            self.live |= after;
        }
    }

    /// Counts the frozen or tuned layer itself; returns the number of positions that it writes.
    fn operation(&mut self, site: &Site, map: &mut Option<Map>) -> usize {
        let positions = match site.kind {
            SiteKind::Linear { .. } => self.positions(site),
            SiteKind::Conv {
                kernel,
                stride,
                padding,
                ..
            } => {
                let written = match stride {
                    [1, 1] => *map,
                    // Strided convolutions in one block run in parallel: a branch and its shortcut.
                    _ => self.input_map(site.block),
                };
                *map = written.map(|map| map.after(kernel, stride, padding));
                map.map_or_else(|| self.positions(site), Map::positions)
            }
            SiteKind::Norm { .. } | SiteKind::Branch { .. } => {
                map.map_or_else(|| self.positions(site), Map::positions)
            }
        };
        let Some(each) = products(site.kind) else {
            return positions;
        };
        let trains = self.tuned.contains(&format!("{}.weight", site.name));
        self.layer((2 * each * positions) as u64, trains);
        positions
    }

    /// Counts an act at a site; `size` is the number of parameters of a function of a branch, or of
    /// products at each position of a layer whose weight is a function.
    fn act(&mut self, act: SiteAct, positions: usize, size: usize) {
        // The operations per position: of the forward pass, and of its part above the first trained
        // layer.
        let (forward, above) = match act {
            SiteAct::LowRank(path) | SiteAct::InputLowRank(path) => {
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
                // A shift adds to the forward pass and gets a gradient, but passes its own on
                // unchanged.
                self.flops.adapter += (shift * positions) as u64;
                self.flops.weights += (shift * positions) as u64;
                (scale, 0)
            }
            SiteAct::Weight(_) => {
                self.flops.weights += (2 * size * positions) as u64;
                (0, 0)
            }
            SiteAct::Branch(_) => (2 * size, size),
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

    /// The number of positions that a site outside a chain of convolutions writes, extra tokens
    /// included: that of its block's output, and 1 after the last block. In a block that merges patches
    /// at its end, a site that is as wide as the block's input (itself or its branch) comes before the
    /// merge.
    fn positions(&self, site: &Site) -> usize {
        if site.block > self.spec.depth {
            return 1;
        }
        let width = |site: &Site| match site.kind {
            SiteKind::Branch { width, .. } => Some(width),
            SiteKind::Norm { channels } => Some(channels),
            _ => None,
        };
        // The nearest module around it that has a width.
        let modules = std::iter::successors(Some(parent(&site.name)), |name| {
            Some(parent(name)).filter(|name| !name.is_empty())
        });
        let mut around = modules.filter_map(|name| width(self.spec.site(name)?));
        let width = width(site).or_else(|| around.next());
        let input = self.shape(site.block);
        let input = input.filter(|shape| Some(shape.channels()) == width);
        match input.or_else(|| self.shape(site.block + 1)) {
            Some(BoundaryShape::Tokens { count, .. }) => count + self.extras.iter().sum::<usize>(),
            Some(BoundaryShape::Map { height, width, .. })
            | Some(BoundaryShape::Grid { height, width, .. }) => height * width,
            Some(BoundaryShape::Features { .. }) | None => 1,
        }
    }

    /// The map that the convolutions of a block read, if the block reads a map.
    fn input_map(&self, block: Cut) -> Option<Map> {
        match self.shape(block)? {
            BoundaryShape::Map { height, width, .. } => Some(Map([height, width])),
            _ => None,
        }
    }
}

/// Rows and columns on the way through a block of convolutions. A convolution without stride reads
/// what the one before it wrote; one with a stride reads the block's input, so that a shortcut is
/// counted correctly. The second of two strided convolutions in a row would be counted wrongly.
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

/// The products of a layer at each position that it writes; none if it has no weight matrix.
fn products(kind: SiteKind) -> Option<usize> {
    match kind {
        SiteKind::Linear { inputs, outputs } => Some(inputs * outputs),
        SiteKind::Conv {
            inputs,
            outputs,
            kernel: [kh, kw],
            groups,
            ..
        } => Some(inputs / groups * outputs * kh * kw),
        SiteKind::Norm { .. } | SiteKind::Branch { .. } => None,
    }
}

/// Whether the products of the attention in `branch` run just before site `i`: the last layer of the
/// branch projects their result.
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

/// The name of the module that contains a parameter or a site.
fn parent(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests;
