//! The network: patch embedding, stages of blocks with attention inside windows, average pooling.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use peft_core::activation::{Activation, BoundaryShape};
use peft_core::attention::AttentionGrid;
use peft_core::backbone::{Backbone, BackboneSpec, Cut, ImageSize, Init, InputSpec, run_span};
use peft_core::hooks::Hooks;
use peft_core::layers::{Conv2d, Conv2dSizes, LayerNorm};
use peft_core::layout::Layout;
use peft_core::params::Tensors;
use peft_core::site::{Site, SiteKind};

use crate::architecture::{Architecture, EPSILON, StageSizes, Version};
use crate::block::Block;
use crate::downsample::Downsample;
use crate::layouts::{ONE, TWO};
use crate::place::Place;
use crate::position_bias::resized;
use crate::windows::Cutting;

/// A Swin Transformer whose fields have timm's names.
#[derive(Module, Debug)]
pub struct SwinTransformer {
    patch_embed: PatchEmbed,
    layers: Vec<Stage>,
    norm: LayerNorm,
    #[module(skip)]
    version: Version,
    #[module(skip)]
    spec: BackboneSpec,
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv2d,
    norm: LayerNorm,
}

/// Blocks at one resolution, and the downsampling that leads to it in all stages but the first.
#[derive(Module, Debug)]
struct Stage {
    downsample: Option<Downsample>,
    blocks: Vec<Block>,
}

impl SwinTransformer {
    /// The network with initial values from `init`.
    pub(crate) fn new(sizes: Architecture, input: InputSpec, init: &Init) -> Self {
        let patch_embed = PatchEmbed::new(&sizes, init);
        let mut depth = 0;
        let layers: Vec<Stage> = (sizes.depths.iter().enumerate())
            .map(|(stage, blocks)| {
                let layer = Stage::new(stage, depth, &sizes, init);
                depth += blocks;
                layer
            })
            .collect();
        let kind = SiteKind::Norm {
            channels: sizes.features(),
        };
        let site = Site::new("norm", depth + 1, kind);
        let norm = LayerNorm::new(site, sizes.layer_norm_eps, init);

        // Messages and tables list the sites in the order of the forward pass.
        let mut sites = vec![
            patch_embed.proj.site().clone(),
            patch_embed.norm.site().clone(),
        ];
        sites.extend(layers.iter().flat_map(Stage::sites));
        sites.push(norm.site().clone());
        Self {
            patch_embed,
            layers,
            norm,
            version: sizes.version,
            spec: spec(sizes, sites, input),
        }
    }

    /// Block `index` of `1..=L`, counted across stages, and the downsampling that follows it, if any.
    fn block(&self, index: usize) -> (&Block, Option<&Downsample>) {
        let mut index = index - 1;
        for (stage, Stage { blocks, .. }) in self.layers.iter().enumerate() {
            match blocks.get(index) {
                Some(block) => {
                    // Only the last block of a stage is followed by a downsampling: the next stage's.
                    let next = self
                        .layers
                        .get(stage + 1)
                        .filter(|_| index + 1 == blocks.len());
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
    /// `[b, 3, h, w] -> [b, gh, gw, c]`.
    fn embed(&self, image: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let patches = self.patch_embed.proj.forward(image, hooks); // [b, c, gh, gw]
        let patches = patches.permute([0, 2, 3, 1]);
        self.patch_embed.norm.forward(patches, hooks)
    }

    /// The mean of the normed grid.
    ///
    /// # Shapes
    /// `[b, h, w, c] -> [b, c]`.
    fn pool(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<2> {
        let normed = self.norm.forward(x, hooks);
        normed.flatten::<3>(1, 2).mean_dim(1).squeeze_dim(1)
    }
}

/// Boundaries, sites and sizes of the network.
fn spec(sizes: Architecture, sites: Vec<Site>, input: InputSpec) -> BackboneSpec {
    let image = BoundaryShape::image(sizes.img_size);
    let (mut names, mut shapes) = (Vec::new(), Vec::new());
    for (stage, &blocks) in sizes.depths.iter().enumerate() {
        let StageSizes { width, grid, .. } = sizes.stage(stage);
        let shape = BoundaryShape::Grid {
            height: grid[0],
            width: grid[1],
            channels: width,
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
    format!("layers.{stage}.blocks.{index}")
}

impl PatchEmbed {
    fn new(sizes: &Architecture, init: &Init) -> Self {
        let place = Place {
            name: "patch_embed".to_owned(),
            block: 0,
            init,
            epsilon: EPSILON,
        };
        let proj = Conv2dSizes {
            inputs: 3,
            outputs: sizes.embed_dim,
            kernel: sizes.patch_size,
            stride: sizes.patch_size,
            padding: 0,
        };
        Self {
            proj: Conv2d::new(place.site("proj", proj.kind()), true, init),
            norm: place.norm("norm", sizes.embed_dim),
        }
    }
}

impl Stage {
    /// The stage behind `before` blocks of earlier stages.
    fn new(stage: usize, before: usize, sizes: &Architecture, init: &Init) -> Self {
        let own = sizes.stage(stage);
        let downsample = (stage > 0).then(|| {
            let place = Place {
                name: format!("layers.{stage}.downsample"),
                block: before,
                init,
                epsilon: EPSILON,
            };
            Downsample::new(&place, own.width, own.version)
        });
        let block = |index| {
            let place = Place {
                name: block_name(stage, index),
                block: before + index + 1,
                init,
                epsilon: sizes.layer_norm_eps,
            };
            // Every second block shifts its windows, which connects neighbours across their borders.
            Block::new(&place, &own, index % 2 == 1)
        };
        Self {
            downsample,
            blocks: (0..sizes.depths[stage]).map(block).collect(),
        }
    }

    /// Returns its sites in the order of the forward pass.
    fn sites(&self) -> impl Iterator<Item = Site> {
        let downsample = self.downsample.iter().flat_map(Downsample::sites);
        downsample.chain(self.blocks.iter().flat_map(Block::sites))
    }
}

impl Backbone for SwinTransformer {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(&self, x: Activation, span: Range<Cut>, hooks: &Hooks) -> Activation {
        run_span(x, span, hooks, |cut, x| match x {
            Activation::Map(image) if cut == 0 => Activation::Grid(self.embed(image, hooks)),
            Activation::Grid(x) if cut <= self.spec.depth => {
                let (block, downsample) = self.block(cut);
                let x = block.forward(x, hooks);
                Activation::Grid(match downsample {
                    Some(downsample) => downsample.forward(x, hooks),
                    None => x,
                })
            }
            Activation::Grid(x) => Activation::Features(self.pool(x, hooks)),
            x => panic!("cut {cut} of a swin cannot take {:?}", x.shape()),
        })
    }

    fn attention_grid(&self, block: usize) -> Option<AttentionGrid> {
        let BoundaryShape::Grid { height, .. } = self.spec.boundaries.get(block)?.shape else {
            return None;
        };
        (1..=self.spec.depth)
            .contains(&block)
            .then(|| AttentionGrid {
                prefix: 0,
                grid: self.block(block).0.attn.windows.size(),
                patch: self.spec.input.size.height / height,
                windows: true,
            })
    }

    fn layouts(&self) -> &'static [Layout] {
        match self.version {
            Version::One => &ONE,
            Version::Two => &TWO,
        }
    }

    /// Cuts grids that windows do not divide as the library of the names does.
    fn adopt(&mut self, layout: &str) {
        let blocks = self.layers.iter_mut().flat_map(|stage| &mut stage.blocks);
        blocks.for_each(|block| block.attn.cut_as(Cutting::of(layout)));
    }

    fn spared_from_decay(&self, name: &str) -> bool {
        let listed = ["relative_position_bias_table", "cpb_mlp", "logit_scale"];
        listed.iter().any(|part| name.contains(part))
    }

    fn why_not(&self, tensor: &str) -> Option<&'static str> {
        let ends = |ends: &[&str]| ends.iter().any(|end| tensor.ends_with(end));
        match self.version {
            Version::One if ends(&["attn.logit_scale", "attention.self.logit_scale"]) => {
                Some("this is a Swin Transformer V2; expected version: 2")
            }
            Version::Two if ends(&["relative_position_bias_table"]) => {
                Some("this is a Swin Transformer of the first version; expected version: 1")
            }
            _ => None,
        }
    }

    /// Resizes bias tables as timm does where the window differs from the checkpoint's: because
    /// `window_size` does, or because a map is smaller than it.
    fn resized(
        &self,
        name: &str,
        value: &TensorData,
        _stored: Option<ImageSize>,
    ) -> std::result::Result<Option<TensorData>, String> {
        let attention = name.strip_suffix(".relative_position_bias_table");
        let mut blocks = self.layers.iter().flat_map(|stage| &stage.blocks);
        let block = blocks.find(|block| Some(block.attn.site.name.as_str()) == attention);
        Ok(block.and_then(|block| resized(value, block.attn.windows.size())))
    }

    /// A prompt that all positions share joins the bias that is added last before it. In the first version
    /// a downsampling ends without a bias, so a prompt behind one cannot be absorbed.
    fn absorb(&self, boundary: Cut, delta: &Activation) -> Option<Tensors> {
        let (site, bias) = match boundary {
            0 => return None,
            1 => {
                let norm = &self.patch_embed.norm;
                (norm.site(), &norm.bias)
            }
            boundary => match self.block(boundary - 1) {
                (_, Some(downsample)) => {
                    let norm = downsample.last_norm()?;
                    (norm.site(), &norm.bias)
                }
                (block, None) => block.last_bias()?,
            },
        };
        match delta.clone() {
            Activation::Grid(delta) if delta.dims()[..3] == [1, 1, 1] => {
                let sum = bias.val() + delta.flatten::<1>(0, 3);
                Some(Tensors::from([(
                    format!("{}.bias", site.name),
                    sum.into_data(),
                )]))
            }
            _ => None,
        }
    }
}
