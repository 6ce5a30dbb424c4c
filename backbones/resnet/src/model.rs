//! The network: stem, four stages of residual blocks, average pooling.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::ops::MaxPoolOptions;
use peft_core::activation::{Activation, BoundaryShape};
use peft_core::backbone::{Backbone, BackboneSpec, Cut, Init, InputSpec, run_span};
use peft_core::hooks::{BranchValues, Hooks};
use peft_core::layers::{BatchNorm2d, Conv2d, Conv2dSizes, Then};
use peft_core::layout::Layout;
use peft_core::site::{Branch, Site, SiteKind};
use peft_ops::max_pool2d;

use crate::config::{BlockKind, STEM, Sizes, StemType};
use crate::sequence::{self, Average, Layer, Relu, Sequence};

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

/// What stands before the first norm: one convolution, or three.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a network has one")]
enum Stem {
    Plain(Conv2d),
    Deep(Sequence),
}

/// `relu(shortcut(x) + branch(x))`; a basic block has no third convolution.
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm2d>,
    downsample: Option<Sequence>,
    #[module(skip)]
    site: Site,
}

/// Where a block sits and what it maps.
struct Place<'a> {
    name: String,
    block: usize,
    stage: usize,
    inputs: usize,
    stride: usize,
    sizes: &'a Sizes,
    init: &'a Init,
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

/// A 3x3 convolution that keeps the map, or halves it.
fn spatial(inputs: usize, outputs: usize, stride: usize) -> Conv2dSizes {
    Conv2dSizes {
        inputs,
        outputs,
        kernel: 3,
        stride,
        padding: 1,
    }
}

fn pointwise(inputs: usize, outputs: usize, stride: usize) -> Conv2dSizes {
    Conv2dSizes {
        inputs,
        outputs,
        kernel: 1,
        stride,
        padding: 0,
    }
}

fn norm(name: &str, block: usize, channels: usize, init: &Init) -> BatchNorm2d {
    BatchNorm2d::new(Site::new(name, block, SiteKind::Norm { channels }), init)
}

impl Stem {
    /// With the channels of its output.
    fn new(sizes: &Sizes, init: &Init) -> (Self, usize) {
        let conv = |name: &str, sizes: Conv2dSizes| {
            Conv2d::new(Site::new(name, 0, sizes.kind()), false, init)
        };
        if sizes.stem_type == StemType::Plain {
            let sizes = Conv2dSizes {
                inputs: 3,
                outputs: STEM,
                kernel: 7,
                stride: 2,
                padding: 3,
            };
            return (Self::Plain(conv("conv1", sizes)), STEM);
        }
        let [first, second, third] = sizes.stem_widths();
        let layers = vec![
            Layer::Conv(conv("conv1.0", spatial(3, first, 2))),
            Layer::Norm(norm("conv1.1", 0, first, init)),
            Layer::Relu(Relu),
            Layer::Conv(conv("conv1.3", spatial(first, second, 1))),
            Layer::Norm(norm("conv1.4", 0, second, init)),
            Layer::Relu(Relu),
            Layer::Conv(conv("conv1.6", spatial(second, third, 1))),
        ];
        (Self::Deep(layers), third)
    }

    fn sites(&self) -> impl Iterator<Item = &Site> {
        let (plain, deep) = match self {
            Self::Plain(conv) => (Some(conv.site()), &[][..]),
            Self::Deep(layers) => (None, &layers[..]),
        };
        plain.into_iter().chain(deep.iter().filter_map(Layer::site))
    }

    /// With the norm behind it and a ReLU.
    ///
    /// # Shapes
    /// `[b, 3, h, w] -> [b, c, h / 2, w / 2]`.
    fn forward(&self, norm: &BatchNorm2d, image: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let (before, last) = match self {
            Self::Plain(conv) => (&[][..], Some(conv)),
            Self::Deep(layers) => match layers.split_last() {
                Some((Layer::Conv(last), before)) => (before, Some(last)),
                _ => (&layers[..], None),
            },
        };
        let x = sequence::forward(before, image, hooks);
        match last {
            Some(conv) => conv.normed(norm, x, hooks, Then::relu()),
            None => norm.forward_then(x, hooks, Then::relu()),
        }
    }
}

impl Place<'_> {
    fn site(&self, part: &str, kind: SiteKind) -> Site {
        Site::new(format!("{}.{part}", self.name), self.block, kind)
    }

    fn conv(&self, part: &str, kind: SiteKind) -> Conv2d {
        Conv2d::new(self.site(part, kind), false, self.init)
    }

    fn norm(&self, part: &str, channels: usize) -> BatchNorm2d {
        let site = self.site(part, SiteKind::Norm { channels });
        BatchNorm2d::new(site, self.init)
    }

    /// What brings the block's input to the shape of its output.
    fn downsample(&self, outputs: usize) -> Sequence {
        let conv = |part, stride| {
            let sizes = pointwise(self.inputs, outputs, stride);
            Layer::Conv(self.conv(part, sizes.kind()))
        };
        let norm = |part| Layer::Norm(self.norm(part, outputs));
        if self.sizes.avg_down {
            let average = Average { side: self.stride };
            let average = Layer::Average(average);
            vec![average, conv("downsample.1", 1), norm("downsample.2")]
        } else {
            vec![conv("downsample.0", self.stride), norm("downsample.1")]
        }
    }
}

impl Block {
    fn new(place: &Place) -> Self {
        let Place { inputs, stride, .. } = *place;
        let width = place.sizes.width(place.stage);
        let outputs = place.sizes.outputs(place.stage);
        let (first, second, third) = match place.sizes.block {
            BlockKind::Basic => (
                spatial(inputs, width, stride).kind(),
                spatial(width, width, 1).kind(),
                None,
            ),
            BlockKind::Bottleneck => (
                pointwise(inputs, width, 1).kind(),
                spatial(width, width, stride).grouped(place.sizes.cardinality),
                Some(pointwise(width, outputs, 1).kind()),
            ),
        };
        let branch = SiteKind::Branch {
            branch: Branch::Residual,
            width: outputs,
        };
        Self {
            conv1: place.conv("conv1", first),
            bn1: place.norm("bn1", width),
            conv2: place.conv("conv2", second),
            bn2: place.norm("bn2", width),
            conv3: third.map(|kind| place.conv("conv3", kind)),
            bn3: third.map(|_| place.norm("bn3", outputs)),
            downsample: (stride != 1 || inputs != outputs).then(|| place.downsample(outputs)),
            site: Site::new(place.name.clone(), place.block, branch),
        }
    }

    fn sites(&self) -> Vec<Site> {
        let mut sites = vec![self.conv1.site(), self.bn1.site()];
        sites.extend([self.conv2.site(), self.bn2.site()]);
        sites.extend(self.conv3.iter().map(Conv2d::site));
        sites.extend(self.bn3.iter().map(BatchNorm2d::site));
        sites.extend(self.downsample.iter().flatten().filter_map(Layer::site));
        sites.push(&self.site);
        sites.into_iter().cloned().collect()
    }

    /// # Shapes
    /// `[b, c, h, w] -> [b, c', h / stride, w / stride]`.
    fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some(layers) => sequence::forward(layers, x.clone(), hooks),
            None => x.clone(),
        };
        let y = self.conv1.normed(&self.bn1, x, hooks, Then::relu());
        let (conv, norm, y) = match (&self.conv3, &self.bn3) {
            (Some(conv3), Some(bn3)) => {
                let y = self.conv2.normed(&self.bn2, y, hooks, Then::relu());
                (conv3, bn3, y)
            }
            _ => (&self.conv2, &self.bn2, y),
        };
        let sum = Then {
            residual: Some(shortcut.clone()),
            relu: true,
        };
        if !hooks.acts_at(&self.site) {
            return conv.normed(norm, y, hooks, sum);
        }
        let values = BranchValues {
            residual: Activation::Map(shortcut.clone()),
            normed: Activation::Map(shortcut),
            output: Activation::Map(conv.normed(norm, y, hooks, Then::default())),
        };
        match hooks.at_branch(&self.site, values) {
            Activation::Map(y) => sum.apply(y),
            other => panic!("{}: a map became {:?}", self.site.name, other.shape()),
        }
    }
}
