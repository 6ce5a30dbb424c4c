//! The network: stem, four stages of residual blocks, average pooling.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::ops::MaxPoolOptions;
use peft_core::activation::{Activation, BoundaryShape};
use peft_core::backbone::{Backbone, BackboneSpec, Cut, ImageSize, Init, InputSpec, run_span};
use peft_core::hooks::Hooks;
use peft_core::layers::BatchNorm2d;
use peft_core::layout::Layout;
use peft_core::site::Site;
use peft_ops::max_pool2d;

use crate::architecture::Architecture;
use crate::block::{Block, Place};
use crate::convolutions::norm;
use crate::stem::Stem;

/// A residual network whose fields have timm's names.
#[derive(Module, Debug)]
pub struct ResidualNetwork {
    conv1: Stem,
    bn1: BatchNorm2d,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    #[module(skip)]
    layouts: &'static [Layout],
    #[module(skip)]
    spec: BackboneSpec,
}

impl ResidualNetwork {
    /// The network with initial values from `init`.
    pub(crate) fn new(sizes: Architecture, input: InputSpec, init: &Init) -> Self {
        let (conv1, width) = Stem::new(&sizes, init);
        let bn1 = norm("bn1", 0, width, init);
        let places = places(&sizes, width, init);
        let blocks: Vec<Block> = places.iter().map(Block::new).collect();

        // Messages and tables list the sites in the order of the forward pass.
        let mut sites: Vec<Site> = conv1.sites().cloned().collect();
        sites.push(bn1.site().clone());
        sites.extend(blocks.iter().flat_map(Block::sites));
        let (layouts, layers) = (sizes.layouts(), sizes.layers);
        let spec = spec(&sizes, &places, width, sites, input);

        // Checkpoints number the stages in the fields' names, so they cannot be one list.
        let mut blocks = blocks.into_iter();
        let mut stage = |stage: usize| blocks.by_ref().take(layers[stage]).collect();
        Self {
            conv1,
            bn1,
            layer1: stage(0),
            layer2: stage(1),
            layer3: stage(2),
            layer4: stage(3),
            layouts,
            spec,
        }
    }

    /// Block `index` of `1..=L`, counted across stages.
    fn block(&self, index: usize) -> &Block {
        let mut index = index - 1;
        for stage in [&self.layer1, &self.layer2, &self.layer3, &self.layer4] {
            match stage.get(index) {
                Some(block) => return block,
                None => index -= stage.len(),
            }
        }
        panic!("block {} of {}", index + 1, self.spec.depth)
    }

    /// The stem with its norm and pooling.
    ///
    /// # Shapes
    /// `[b, 3, h, w] -> [b, c, h / 4, w / 4]`.
    fn stem(&self, image: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let x = self.conv1.forward(&self.bn1, image, hooks);
        let window = MaxPoolOptions::new([3, 3]).with_stride([2, 2]);
        max_pool2d(x, window.with_padding([1, 1]))
    }
}

/// Lists the positions of the blocks and their sizes, behind a stem with `inputs` channels.
fn places<'a>(sizes: &'a Architecture, mut inputs: usize, init: &'a Init) -> Vec<Place<'a>> {
    let stages = sizes.layers.into_iter().enumerate();
    let blocks = stages.flat_map(|(stage, blocks)| (0..blocks).map(move |index| (stage, index)));
    blocks
        .enumerate()
        .map(|(before, (stage, index))| Place {
            name: format!("layer{}.{index}", stage + 1),
            block: before + 1,
            stage,
            inputs: std::mem::replace(&mut inputs, sizes.outputs(stage)),
            stride: if stage > 0 && index == 0 { 2 } else { 1 },
            sizes,
            init,
        })
        .collect()
}

/// Boundaries, sites and sizes of the network with these blocks, behind a stem of `width` channels.
fn spec(
    sizes: &Architecture,
    blocks: &[Place],
    width: usize,
    sites: Vec<Site>,
    input: InputSpec,
) -> BackboneSpec {
    let map = |channels: usize, size: ImageSize| BoundaryShape::Map {
        channels,
        height: size.height,
        width: size.width,
    };
    // Every layer with a stride of 2 leaves half of the map, rounded up: here the stem's convolution and
    // its pooling.
    let mut size = sizes.img_size.map(|side| side.div_ceil(2).div_ceil(2));
    let mut shapes = vec![map(width, size)];
    for block in blocks {
        size = size.map(|side| side.div_ceil(block.stride));
        shapes.push(map(sizes.outputs(block.stage), size));
    }
    let names: Vec<String> = blocks.iter().map(|block| block.name.clone()).collect();
    BackboneSpec {
        name: sizes.name.clone(),
        depth: names.len(),
        boundaries: BackboneSpec::boundaries(BoundaryShape::image(sizes.img_size), &names, &shapes),
        sites,
        input,
        features: sizes.outputs(3),
        head_name: "fc",
    }
}

impl Backbone for ResidualNetwork {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn layouts(&self) -> &'static [Layout] {
        self.layouts
    }

    fn forward(&self, x: Activation, span: Range<Cut>, hooks: &Hooks) -> Activation {
        run_span(x, span, hooks, |cut, x| match x {
            Activation::Map(x) if cut == 0 => Activation::Map(self.stem(x, hooks)),
            Activation::Map(x) if cut <= self.spec.depth => {
                Activation::Map(self.block(cut).forward(x, hooks))
            }
            Activation::Map(x) => {
                let [b, c, h, w] = x.dims();
                let pooled = x.reshape([b, c, h * w]).mean_dim(2); // [b, c, 1]
                Activation::Features(pooled.squeeze_dim(2))
            }
            x => panic!("cut {cut} of a resnet cannot take {:?}", x.shape()),
        })
    }
}
