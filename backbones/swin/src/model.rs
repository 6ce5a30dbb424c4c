//! The network: patch embedding, stages of blocks with attention inside windows, average pooling.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use peft_core::activation::{Activation, BoundaryShape};
use peft_core::backbone::{Backbone, BackboneSpec, Cut, Init, InputSpec, run_span};
use peft_core::hooks::Hooks;
use peft_core::layers::{Conv2d, Conv2dSizes, LayerNorm};
use peft_core::layout::Layout;
use peft_core::params::Tensors;
use peft_core::site::{Site, SiteKind};

use crate::architecture::{Sizes, StageSizes};
use crate::block::Block;
use crate::downsample::Downsample;
use crate::layouts::LAYOUTS;
use crate::place::Place;
use crate::position_bias::resized;

/// A Swin Transformer whose fields are named like timm's.
#[derive(Module, Debug)]
pub struct SwinTransformer {
    patch_embed: PatchEmbed,
    layers: Vec<Stage>,
    norm: LayerNorm,
    #[module(skip)]
    spec: BackboneSpec,
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv2d,
    norm: LayerNorm,
}

#[derive(Module, Debug)]
struct Stage {
    downsample: Option<Downsample>,
    blocks: Vec<Block>,
}

impl SwinTransformer {
    pub(crate) fn new(sizes: Sizes, input: InputSpec, init: &Init) -> Self {
        let epsilon = sizes.layer_norm_eps;
        let stem = Place {
            name: "patch_embed".to_owned(),
            block: 0,
            init,
            epsilon,
        };
        let proj = Conv2dSizes {
            inputs: 3,
            outputs: sizes.embed_dim,
            kernel: sizes.patch_size,
            stride: sizes.patch_size,
            padding: 0,
        };
        let patch_embed = PatchEmbed {
            proj: Conv2d::new(stem.site("proj", proj.kind()), true, init),
            norm: stem.norm("norm", sizes.embed_dim),
        };
        let mut sites = vec![
            patch_embed.proj.site().clone(),
            patch_embed.norm.site().clone(),
        ];

        let (mut names, mut shapes, mut layers) = (Vec::new(), Vec::new(), Vec::new());
        let mut shape = BoundaryShape::Map {
            channels: 3,
            height: sizes.img_size,
            width: sizes.img_size,
        };
        let image = shape;
        for (stage, &depth) in sizes.depths.iter().enumerate() {
            let of_stage = sizes.stage(stage);
            let StageSizes { width, grid, .. } = of_stage;
            let downsample = (stage > 0).then(|| {
                let place = Place {
                    name: format!("layers.{stage}.downsample"),
                    block: names.len(),
                    init,
                    epsilon,
                };
                Downsample {
                    norm: place.norm("norm", 2 * width),
                    reduction: place.linear("reduction", [2 * width, width], false),
                }
            });
            sites.extend(downsample.iter().flat_map(Downsample::sites));
            shape = BoundaryShape::Grid {
                height: grid,
                width: grid,
                channels: width,
            };
            let blocks: Vec<Block> = (0..depth)
                .map(|index| {
                    let place = Place {
                        name: format!("layers.{stage}.blocks.{index}"),
                        block: names.len() + 1,
                        init,
                        epsilon,
                    };
                    let block = Block::new(&place, &of_stage, index % 2 == 1);
                    names.push(place.name);
                    shapes.push(shape);
                    sites.extend(block.sites());
                    block
                })
                .collect();
            layers.push(Stage { downsample, blocks });
        }
        shapes.push(shape);
        let width = shape.channels();
        let site = Site::new("norm", names.len() + 1, SiteKind::Norm { channels: width });
        let norm = LayerNorm::new(site, epsilon, init);
        sites.push(norm.site().clone());
        Self {
            patch_embed,
            layers,
            norm,
            spec: BackboneSpec {
                name: sizes.name,
                depth: names.len(),
                boundaries: BackboneSpec::boundaries(image, &names, &shapes),
                sites,
                input,
                features: width,
                head_name: "head.fc",
            },
        }
    }

    /// Block `index = 1..=L`, counted across stages, and the downsampling behind it.
    fn block(&self, index: usize) -> (&Block, Option<&Downsample>) {
        let mut index = index - 1;
        for (stage, Stage { blocks, .. }) in self.layers.iter().enumerate() {
            match blocks.get(index) {
                Some(block) => {
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

    /// # Shapes
    /// `[b, 3, h, w] -> [b, gh, gw, c]`.
    fn embed(&self, image: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let patches = self.patch_embed.proj.forward(image, hooks); // [b, c, gh, gw]
        let patches = patches.permute([0, 2, 3, 1]);
        self.patch_embed.norm.forward(patches, hooks)
    }

    /// # Shapes
    /// `[b, h, w, c] -> [b, c]`.
    fn pool(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<2> {
        let normed = self.norm.forward(x, hooks);
        normed.flatten::<3>(1, 2).mean_dim(1).squeeze_dim(1)
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

    fn layouts(&self) -> &'static [Layout] {
        &LAYOUTS
    }

    /// Bias tables of another window, as timm resizes them: where `window_size` differs, or a map is
    /// smaller than it.
    fn resized(&self, name: &str, value: TensorData) -> Option<TensorData> {
        let attention = name.strip_suffix(".relative_position_bias_table")?;
        let mut blocks = self.layers.iter().flat_map(|stage| &stage.blocks);
        let block = blocks.find(|block| block.attn.site.name == attention)?;
        resized(value, block.attn.windows.size())
    }

    /// A prompt that is shared over positions joins the bias that is added last before it; behind a
    /// downsampling there is none.
    fn absorb(&self, boundary: Cut, delta: &Activation) -> Option<Tensors> {
        let (site, bias) = match boundary {
            0 => return None,
            1 => {
                let norm = &self.patch_embed.norm;
                (norm.site(), &norm.bias)
            }
            boundary => match self.block(boundary - 1) {
                (_, Some(_)) => return None,
                (block, None) => (block.mlp.fc2.site(), block.mlp.fc2.bias.as_ref()?),
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
