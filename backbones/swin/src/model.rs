//! The network: patch embedding, stages of blocks with attention inside windows, average pooling.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use peft_core::activation::{Activation, BoundaryShape};
use peft_core::backbone::{Backbone, BackboneSpec, Cut, Init, InputSpec, run_span};
use peft_core::hooks::{BranchValues, Hooks, like};
use peft_core::layers::{Conv2d, Conv2dSizes, LayerNorm, Linear};
use peft_core::layout::Layout;
use peft_core::params::Tensors;
use peft_core::random::Distribution;
use peft_core::site::{Branch, Site, SiteKind};
use peft_ops::{Gelu, attention_with_bias};

use crate::config::Sizes;
use crate::layouts::{LAYOUTS, resized};
use crate::windows::{Windows, padded};

/// timm's LayerNorm epsilon.
const EPSILON: f64 = 1e-5;

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

/// Four neighbours to one position of twice the width: `reduction(norm([x00, x10, x01, x11]))`.
#[derive(Module, Debug)]
struct Downsample {
    norm: LayerNorm,
    reduction: Linear,
}

/// `x + attn(norm1(x))`, then `x + mlp(norm2(x))`.
#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: WindowAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct WindowAttention {
    qkv: Linear,
    proj: Linear,
    /// `[(2 size - 1)^2, heads]`.
    relative_position_bias_table: Param<Tensor<2>>,
    // Not parameters: Burn moves plain tensors with the module and does nothing else with them.
    index: Tensor<1, Int>,
    mask: Option<Tensor<3>>,
    heads: usize,
    #[module(skip)]
    windows: Windows,
    #[module(skip)]
    site: Site,
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    site: Site,
}

/// Where the parts of a module sit.
struct Place<'a> {
    name: String,
    block: usize,
    init: &'a Init,
}

/// The sizes of one stage.
struct StageSizes {
    width: usize,
    hidden: usize,
    heads: usize,
    grid: usize,
    window: usize,
    qkv_bias: bool,
}

impl SwinTransformer {
    pub(crate) fn new(sizes: Sizes, input: InputSpec, init: &Init) -> Self {
        let stem = Place {
            name: "patch_embed".to_owned(),
            block: 0,
            init,
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
        let norm = LayerNorm::new(site, EPSILON, init);
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

impl Sizes {
    fn stage(&self, stage: usize) -> StageSizes {
        let width = self.embed_dim << stage;
        StageSizes {
            width,
            hidden: (width as f64 * self.mlp_ratio) as usize,
            heads: self.num_heads[stage],
            grid: (self.img_size / self.patch_size).div_ceil(1 << stage),
            window: self.window_sizes[stage],
            qkv_bias: self.qkv_bias,
        }
    }
}

impl Place<'_> {
    fn site(&self, part: &str, kind: SiteKind) -> Site {
        Site::new(format!("{}.{part}", self.name), self.block, kind)
    }

    fn norm(&self, part: &str, channels: usize) -> LayerNorm {
        let site = self.site(part, SiteKind::Norm { channels });
        LayerNorm::new(site, EPSILON, self.init)
    }

    fn linear(&self, part: &str, [inputs, outputs]: [usize; 2], bias: bool) -> Linear {
        let site = self.site(part, SiteKind::Linear { inputs, outputs });
        Linear::new(site, bias, self.init)
    }
}

impl Downsample {
    fn sites(&self) -> [Site; 2] {
        [self.norm.site().clone(), self.reduction.site().clone()]
    }

    /// An odd side gets a row or a column of zeros.
    ///
    /// # Shapes
    /// `[b, h, w, c] -> [b, h / 2, w / 2, 2 c]`.
    fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let odd = x.dims()[1] % 2;
        let x = padded(x, odd);
        let [b, h, w, c] = x.dims();
        let x = x
            .reshape([b, h / 2, 2, w / 2, 2, c])
            .permute([0, 1, 3, 4, 2, 5]) // column before row, as the checkpoints have it
            .reshape([b, h / 2, w / 2, 4 * c]);
        self.reduction.forward(self.norm.forward(x, hooks), hooks)
    }
}

impl Block {
    fn new(place: &Place, sizes: &StageSizes, shifted: bool) -> Self {
        let (init, d, heads) = (place.init, sizes.width, sizes.heads);
        let branch = |part: &str, branch| place.site(part, SiteKind::Branch { branch, width: d });
        let qkv = SiteKind::Linear {
            inputs: d,
            outputs: 3 * d,
        };
        let qkv = place.site("attn.qkv", qkv);
        let qkv = qkv.with_slices(&["query", "key", "value"], d);
        let windows = Windows::new(sizes.grid, sizes.window, shifted);
        let table = format!("{}.attn.relative_position_bias_table", place.name);
        let normal = Distribution::TruncatedNormal(0.02);
        Self {
            norm1: place.norm("norm1", d),
            attn: WindowAttention {
                qkv: Linear::new(qkv, sizes.qkv_bias, init),
                proj: place.linear("attn.proj", [d, d], true),
                relative_position_bias_table: init.param(
                    &table,
                    [windows.offsets(), heads],
                    normal,
                ),
                index: windows.index(init.device()),
                mask: windows.mask(init.device()),
                heads,
                windows,
                site: branch("attn", Branch::Attention),
            },
            norm2: place.norm("norm2", d),
            mlp: Mlp {
                fc1: place.linear("mlp.fc1", [d, sizes.hidden], true),
                fc2: place.linear("mlp.fc2", [sizes.hidden, d], true),
                site: branch("mlp", Branch::Mlp),
            },
        }
    }

    fn sites(&self) -> [Site; 8] {
        [
            self.norm1.site(),
            self.attn.qkv.site(),
            self.attn.proj.site(),
            &self.attn.site,
            self.norm2.site(),
            self.mlp.fc1.site(),
            self.mlp.fc2.site(),
            &self.mlp.site,
        ]
        .map(Site::clone)
    }

    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]`.
    fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let normed = self.norm1.forward(x.clone(), hooks);
        let output = self.attn.forward(normed.clone(), hooks);
        let x = x.clone() + branch(&self.attn.site, [x, normed, output], hooks);
        let normed = self.norm2.forward(x.clone(), hooks);
        if !hooks.acts_at(&self.mlp.site) {
            return self.mlp.forward(Some(x), normed, hooks);
        }
        let output = self.mlp.forward(None, normed.clone(), hooks);
        x.clone() + branch(&self.mlp.site, [x, normed, output], hooks)
    }
}

/// The output of a branch after what acts there.
fn branch(site: &Site, values: [Tensor<4>; 3], hooks: &Hooks) -> Tensor<4> {
    let [residual, normed, output] = values.map(Activation::Grid);
    let values = BranchValues {
        residual,
        normed,
        output,
    };
    match hooks.at_branch(site, values) {
        Activation::Grid(x) => x,
        other => panic!("{}: a grid became {:?}", site.name, other.shape()),
    }
}

impl WindowAttention {
    /// Padding comes before the projections, so that a padded position has their biases for its
    /// key and value, as in timm.
    ///
    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]`.
    fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let qkv = self.qkv.forward(self.windows.cut(x), hooks); // [b * windows, n, 3c]
        let bias = self.bias(&qkv); // [windows or 1, heads, n, n]
        let y = self.proj.forward(attention_with_bias(qkv, bias), hooks);
        self.windows.join(y)
    }

    /// Relative position bias and mask, in the element type of `x`.
    ///
    /// # Shapes
    /// `[windows, heads, n, n]`, or `[1, heads, n, n]` where all windows have the same.
    fn bias(&self, x: &Tensor<3>) -> Tensor<4> {
        let n = x.dims()[1];
        let table = like(self.relative_position_bias_table.val(), x);
        let bias = table
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

impl Mlp {
    /// With a residual added if there is one.
    ///
    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]`.
    fn forward(&self, residual: Option<Tensor<4>>, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let hidden = self.fc1.forward(x, hooks); // [b, h, w, hidden]
        self.fc2.forward_gelu(residual, hidden, Gelu::Exact, hooks)
    }
}
