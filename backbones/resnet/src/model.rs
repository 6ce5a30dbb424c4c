//! The network: stem, four stages of residual blocks, average pooling.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::ops::MaxPoolOptions;
use peft_core::activation::{Activation, BoundaryShape};
use peft_core::backbone::{Backbone, BackboneSpec, Cut, Init, InputSpec, run_span};
use peft_core::hooks::Hooks;
use peft_core::layers::BatchNorm2d;
use peft_core::layout::Layout;
use peft_core::site::Site;
use peft_ops::max_pool2d;

use crate::architecture::Sizes;
use crate::block::{Block, Place};
use crate::convolutions::norm;
use crate::stem::Stem;

/// A residual network whose fields are named like timm's.
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
    pub(crate) fn new(sizes: Sizes, input: InputSpec, init: &Init) -> Self {
        let (conv1, mut inputs) = Stem::new(&sizes, init);
        let bn1 = norm("bn1", 0, inputs, init);
        let mut sites: Vec<Site> = conv1.sites().cloned().collect();
        sites.push(bn1.site().clone());

        let map = |channels: usize, size: usize| BoundaryShape::Map {
            channels,
            height: size,
            width: size,
        };
        // Whatever has a stride leaves half of the map, rounded up.
        let mut size = sizes.img_size.div_ceil(2).div_ceil(2);
        let (mut names, mut shapes) = (Vec::new(), vec![map(inputs, size)]);
        let mut stages = [0, 1, 2, 3].map(|stage: usize| {
            let blocks = 0..sizes.layers[stage];
            blocks
                .map(|index| {
                    let place = Place {
                        name: format!("layer{}.{index}", stage + 1),
                        block: names.len() + 1,
                        stage,
                        inputs,
                        stride: if stage > 0 && index == 0 { 2 } else { 1 },
                        sizes: &sizes,
                        init,
                    };
                    let block = Block::new(&place);
                    inputs = sizes.outputs(stage);
                    size = size.div_ceil(place.stride);
                    names.push(place.name);
                    shapes.push(map(inputs, size));
                    sites.extend(block.sites());
                    block
                })
                .collect::<Vec<_>>()
        });
        let layouts = sizes.layouts();
        let spec = BackboneSpec {
            name: sizes.name,
            depth: names.len(),
            boundaries: BackboneSpec::boundaries(map(3, sizes.img_size), &names, &shapes),
            sites,
            input,
            features: inputs,
            head_name: "fc",
        };
        let mut stage = |i: usize| std::mem::take(&mut stages[i]);
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

    /// Block `index = 1..=L`, counted across stages.
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

    /// # Shapes
    /// `[b, 3, h, w] -> [b, c, h / 4, w / 4]`.
    fn stem(&self, image: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let x = self.conv1.forward(&self.bn1, image, hooks);
        let window = MaxPoolOptions::new([3, 3]).with_stride([2, 2]);
        max_pool2d(x, window.with_padding([1, 1]))
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
