//! The network: stem, stages of blocks, average pooling.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use peft_core::activation::{Activation, BoundaryShape};
use peft_core::backbone::{Backbone, BackboneSpec, Cut, ImageSize, Init, InputSpec, run_span};
use peft_core::hooks::Hooks;
use peft_core::layers::{Conv2d, LayerNorm};
use peft_core::layout::Layout;
use peft_core::params::{Tensors, floats};
use peft_core::site::{Site, SiteKind};

use crate::architecture::Architecture;
use crate::block::Block;
use crate::downsample::{Downsample, Layer, downsample};
use crate::foreign::foreign;
use crate::head::Head;
use crate::layouts::{V1, V2};
use crate::place::Place;

/// Epsilon of the last norm of transformers' ConvNeXts.
const TRANSFORMERS_EPSILON: f64 = 1e-12;

/// A ConvNeXt whose fields have timm's names.
#[derive(Module, Debug)]
pub struct ConvNextNetwork {
    stem: Vec<StemLayer>,
    stages: Vec<Stage>,
    norm_pre: Option<LayerNorm>,
    head: Head,
    /// Whether the configuration states the epsilon of the last norm.
    own_epsilon: bool,
    #[module(skip)]
    layouts: &'static [Layout],
    #[module(skip)]
    spec: BackboneSpec,
}

/// A layer of the stem, which checkpoints number.
#[derive(Module, Debug)]
enum StemLayer {
    Conv(Conv2d),
    Norm(LayerNorm),
}

/// Blocks at one resolution, and the downsampling that leads to it in all stages but the first.
#[derive(Module, Debug)]
struct Stage {
    downsample: Option<Downsample>,
    blocks: Vec<Block>,
}

impl StemLayer {
    fn site(&self) -> &Site {
        match self {
            Self::Conv(conv) => conv.site(),
            Self::Norm(norm) => norm.site(),
        }
    }
}

impl Stage {
    /// The stage behind `before` blocks of earlier stages.
    fn new(stage: usize, before: usize, sizes: &Architecture, init: &Init) -> Self {
        let place = |name: String, block| Place {
            name,
            block,
            sizes,
            init,
        };
        let width = sizes.dims[stage];
        let block = |index| {
            let place = place(block_name(stage, index), before + index + 1);
            Block::new(&place, width)
        };
        let between = |stage: usize| {
            let place = place(format!("stages.{stage}.downsample"), before);
            downsample(&place, [sizes.dims[stage - 1], width])
        };
        Self {
            downsample: (stage > 0).then(|| between(stage)),
            blocks: (0..sizes.depths[stage]).map(block).collect(),
        }
    }

    /// Returns its sites in the order of the forward pass.
    fn sites(&self) -> impl Iterator<Item = Site> {
        let downsample = self.downsample.iter().flatten().map(Layer::site).cloned();
        downsample.chain(self.blocks.iter().flat_map(Block::sites))
    }
}

impl ConvNextNetwork {
    /// The network with initial values from `init`.
    pub(crate) fn new(sizes: Architecture, input: InputSpec, init: &Init) -> Self {
        let mut depth = 0;
        let stages: Vec<Stage> = (sizes.depths.iter().enumerate())
            .map(|(stage, blocks)| {
                let layers = Stage::new(stage, depth, &sizes, init);
                depth += blocks;
                layers
            })
            .collect();
        let at = |name: &str, block| Place {
            name: name.to_owned(),
            block,
            sizes: &sizes,
            init,
        };
        let stem = at("stem", 0);
        let stem = vec![
            StemLayer::Conv(stem.merging("0", [3, sizes.dims[0]], sizes.patch_size)),
            StemLayer::Norm(stem.norm("1", sizes.dims[0])),
        ];
        let width = sizes.dims[sizes.dims.len() - 1];
        let mut head = Head::new(&at("head", depth + 1), width);
        let mut norm_pre = sizes.head_norm_first.then(|| {
            let kind = SiteKind::Norm { channels: width };
            LayerNorm::new(Site::new("norm_pre", depth + 1, kind), sizes.norm_eps, init)
        });
        let last = head.norm.iter_mut().chain(&mut norm_pre);
        last.for_each(|norm| norm.set_epsilon(sizes.last_epsilon()));

        // Messages and tables list the sites in the order of the forward pass.
        let mut sites: Vec<Site> = stem.iter().map(StemLayer::site).cloned().collect();
        sites.extend(stages.iter().flat_map(Stage::sites));
        sites.extend(norm_pre.iter().map(LayerNorm::site).cloned());
        sites.extend(head.sites().cloned());
        Self {
            stem,
            stages,
            norm_pre,
            head,
            own_epsilon: sizes.head_norm_eps.is_some(),
            layouts: if sizes.use_grn { &V2 } else { &V1 },
            spec: spec(sizes, sites, input),
        }
    }

    /// Block `index` of `1..=L`, counted across stages, and the downsampling that follows it, if any.
    fn block(&self, index: usize) -> (&Block, Option<&Downsample>) {
        let mut index = index - 1;
        for (stage, Stage { blocks, .. }) in self.stages.iter().enumerate() {
            match blocks.get(index) {
                Some(block) => {
                    // Only the last block of a stage is followed by a downsampling: the next stage's.
                    let next = self.stages.get(stage + 1);
                    let next = next.filter(|_| index + 1 == blocks.len());
                    return (block, next.and_then(|next| next.downsample.as_ref()));
                }
                None => index -= blocks.len(),
            }
        }
        panic!("block {} of {}", index + 1, self.spec.depth)
    }

    /// Turns an image into a grid of normed patches.
    ///
    /// # Shapes
    /// `[b, 3, h, w] -> [b, h / patch, w / patch, c]`.
    fn embed(&self, image: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let [StemLayer::Conv(conv), StemLayer::Norm(norm)] = &self.stem[..] else {
            unreachable!("a stem is a convolution and a norm")
        };
        let patches = conv.forward(image, hooks); // [b, c, h / patch, w / patch]
        norm.forward(patches.permute([0, 2, 3, 1]), hooks)
    }

    /// The features of the last map.
    ///
    /// # Shapes
    /// `[b, h, w, c] -> [b, features]`.
    fn pool(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<2> {
        let x = match &self.norm_pre {
            Some(norm) => norm.forward(x, hooks),
            None => x,
        };
        let mean = x.flatten::<3>(1, 2).mean_dim(1).squeeze_dim(1); // [b, c]
        self.head.forward(mean, hooks)
    }
}

/// Boundaries, sites and sizes of the network.
fn spec(sizes: Architecture, sites: Vec<Site>, input: InputSpec) -> BackboneSpec {
    let image = BoundaryShape::image(sizes.img_size);
    let (mut names, mut shapes) = (Vec::new(), Vec::new());
    for (stage, &blocks) in sizes.depths.iter().enumerate() {
        let [height, width] = sizes.grid(stage);
        let shape = BoundaryShape::Grid {
            height,
            width,
            channels: sizes.dims[stage],
        };
        names.extend((0..blocks).map(|index| block_name(stage, index)));
        shapes.extend((0..blocks).map(|_| shape));
    }
    // The output of the last block has the shape of its input.
    shapes.extend(shapes.last().copied());
    BackboneSpec {
        depth: names.len(),
        boundaries: BackboneSpec::boundaries(image, &names, &shapes),
        sites,
        input,
        features: sizes.features(),
        head_name: "head.fc",
        name: sizes.name,
    }
}

/// timm's name of a block, which counts in each stage from 0.
fn block_name(stage: usize, index: usize) -> String {
    format!("stages.{stage}.blocks.{index}")
}

impl Backbone for ConvNextNetwork {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(&self, x: Activation, span: Range<Cut>, hooks: &Hooks) -> Activation {
        run_span(x, span, hooks, |cut, x| match x {
            Activation::Map(image) if cut == 0 => Activation::Grid(self.embed(image, hooks)),
            Activation::Grid(x) if cut <= self.spec.depth => {
                let (block, downsample) = self.block(cut);
                let x = block.forward(x, hooks);
                let layers = downsample.into_iter().flatten();
                Activation::Grid(layers.fold(x, |x, layer| layer.forward(x, hooks)))
            }
            Activation::Grid(x) => Activation::Features(self.pool(x, hooks)),
            x => panic!("cut {cut} of a convnext cannot take {:?}", x.shape()),
        })
    }

    fn layouts(&self) -> &'static [Layout] {
        self.layouts
    }

    /// Takes over the smaller epsilon of transformers' last norm, unless the configuration states one.
    fn adopt(&mut self, layout: &str) {
        if layout == "transformers" && !self.own_epsilon {
            let last = self.head.norm.iter_mut();
            last.for_each(|norm| norm.set_epsilon(TRANSFORMERS_EPSILON));
        }
    }

    fn why_not(&self, tensor: &str) -> Option<&'static str> {
        if tensor.ends_with("stem.2.weight") {
            return Some(
                "the checkpoint has a stem of overlapping convolutions, which is not supported",
            );
        }
        foreign(tensor)
    }

    /// The last norm, which files of pretraining without labels lack: timm makes a new one.
    fn absent(&self, name: &str) -> Option<TensorData> {
        let channels = self.head.norm.as_ref()?.bias.dims();
        match name {
            "head.norm.weight" => Some(TensorData::ones::<f32, _>(channels)),
            "head.norm.bias" => Some(TensorData::zeros::<f32, _>(channels)),
            _ => None,
        }
    }

    fn headless(&self) -> Option<&'static str> {
        self.head.leaves_a_layer_out().then_some(
            "reads the hidden layer head.pre_logits.fc, which these features do not pass (`features: after` \
             does)",
        )
    }

    /// The layers of an MLP are linear or convolutions of 1x1, with the same values.
    fn resized(
        &self,
        name: &str,
        value: &TensorData,
        _stored: Option<ImageSize>,
    ) -> std::result::Result<Option<TensorData>, String> {
        let layer = name.strip_suffix(".weight").unwrap_or_default();
        if !(layer.ends_with("mlp.fc1") || layer.ends_with("mlp.fc2")) {
            return Ok(None);
        }
        let kind = self.spec.site(layer).map(|site| site.kind);
        let convolves = matches!(kind, Some(SiteKind::Conv { .. }));
        let values = || floats(value.clone());
        Ok(match (&value.shape()[..], convolves) {
            (&[outputs, inputs], true) => Some(TensorData::new(values(), [outputs, inputs, 1, 1])),
            (&[outputs, inputs, 1, 1], false) => Some(TensorData::new(values(), [outputs, inputs])),
            _ => None,
        })
    }

    /// A prompt that all positions share joins the bias that is added last before it.
    fn absorb(&self, boundary: Cut, delta: &Activation) -> Option<Tensors> {
        let delta = match delta.clone() {
            Activation::Grid(delta) if delta.dims()[..3] == [1, 1, 1] => delta.flatten::<1>(0, 3),
            _ => return None,
        };
        let (site, bias, delta) = match boundary {
            0 => return None,
            1 => match &self.stem[..] {
                [_, StemLayer::Norm(norm)] => (norm.site(), norm.bias.val(), delta),
                _ => return None,
            },
            boundary => match self.block(boundary - 1) {
                (_, Some(layers)) => match &layers[..] {
                    [_, Layer::Conv(conv)] => (conv.site(), conv.bias.as_ref()?.val(), delta),
                    _ => return None,
                },
                (block, None) => {
                    let delta = match &block.gamma {
                        Some(gamma) => delta / gamma.val(),
                        None => delta,
                    };
                    let last = &block.mlp.fc2;
                    (last.site(), last.bias()?, delta)
                }
            },
        };
        let value = (bias + delta).into_data();
        // Dividing by a gamma of zero gives infinity or NaN.
        if !floats(value.clone()).iter().all(|value| value.is_finite()) {
            return None;
        }
        Some(Tensors::from([(format!("{}.bias", site.name), value)]))
    }
}
