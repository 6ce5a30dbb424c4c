//! The network: stem, four stages of residual blocks, average pooling.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use peft_core::activation::{Activation, BoundaryShape};
use peft_core::backbone::{Backbone, BackboneSpec, Cut, Init, InputSpec, run_span};
use peft_core::hooks::{BranchValues, Hooks};
use peft_core::layers::{BatchNorm2d, Conv2d, Conv2dSizes};
use peft_core::layout::Layout;
use peft_core::site::{Branch, Site, SiteKind};

use crate::config::{BlockKind, Sizes};
use crate::layouts::LAYOUTS;

/// Width of the stem in every published variant, whatever the stages' widths.
const STEM: usize = 64;

/// A residual network whose fields are named like torchvision's.
#[derive(Module, Debug)]
pub struct ResidualNetwork {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    #[module(skip)]
    spec: BackboneSpec,
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
    downsample: Option<(Conv2d, BatchNorm2d)>,
    #[module(skip)]
    site: Site,
}

/// Where a block sits and what it maps.
struct Place {
    name: String,
    block: usize,
    inputs: usize,
    width: usize,
    stride: usize,
    size: usize,
}

impl ResidualNetwork {
    pub(crate) fn new(sizes: Sizes, input: InputSpec, init: &Init) -> Self {
        let stem = Conv2dSizes {
            inputs: 3,
            outputs: STEM,
            kernel: 7,
            stride: 2,
            padding: 3,
        };
        let conv1 = Conv2d::new(Site::new("conv1", 0, stem.kind()), false, init);
        let bn1 = norm("bn1", 0, STEM, init);
        let mut sites = vec![conv1.site().clone(), bn1.site().clone()];

        let map = |channels: usize, size: usize| BoundaryShape::Map {
            channels,
            height: size,
            width: size,
        };
        let pool = Conv2dSizes {
            kernel: 3,
            padding: 1,
            ..stem
        };
        let mut size = pool.output(stem.output(sizes.img_size));
        let mut inputs = STEM;
        let (mut names, mut shapes) = (Vec::new(), vec![map(inputs, size)]);
        let mut stages = [0, 1, 2, 3].map(|stage: usize| {
            let blocks = 0..sizes.layers[stage];
            blocks
                .map(|index| {
                    let place = Place {
                        name: format!("layer{}.{index}", stage + 1),
                        block: names.len() + 1,
                        inputs,
                        width: sizes.channels[stage],
                        stride: if stage > 0 && index == 0 { 2 } else { 1 },
                        size,
                    };
                    let block = Block::new(&place, sizes.block, init);
                    inputs = place.width * sizes.block.expansion();
                    size = place.output_size();
                    names.push(place.name);
                    shapes.push(map(inputs, size));
                    sites.extend(block.sites());
                    block
                })
                .collect::<Vec<_>>()
        });
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
    /// `[b, 3, h, w] -> [b, 64, h / 4, w / 4]`.
    fn stem(&self, image: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let x = self.conv1.forward(image, hooks);
        let x = relu(self.bn1.forward(x, hooks));
        let window = MaxPoolOptions::new([3, 3]).with_stride([2, 2]);
        max_pool2d(x, window.with_padding([1, 1]))
    }
}

impl Backbone for ResidualNetwork {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn layouts(&self) -> &'static [Layout] {
        &LAYOUTS
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

fn norm(name: &str, block: usize, channels: usize, init: &Init) -> BatchNorm2d {
    BatchNorm2d::new(Site::new(name, block, SiteKind::Norm { channels }), init)
}

impl Place {
    fn conv(&self, part: &str, sizes: Conv2dSizes, init: &Init) -> Conv2d {
        let site = Site::new(format!("{}.{part}", self.name), self.block, sizes.kind());
        Conv2d::new(site, false, init)
    }

    fn norm(&self, part: &str, channels: usize, init: &Init) -> BatchNorm2d {
        norm(&format!("{}.{part}", self.name), self.block, channels, init)
    }

    fn spatial(&self, inputs: usize, stride: usize) -> Conv2dSizes {
        Conv2dSizes {
            inputs,
            outputs: self.width,
            kernel: 3,
            stride,
            padding: 1,
        }
    }

    fn output_size(&self) -> usize {
        self.spatial(self.width, self.stride).output(self.size)
    }
}

impl Block {
    fn new(place: &Place, kind: BlockKind, init: &Init) -> Self {
        let (width, outputs) = (place.width, place.width * kind.expansion());
        let pointwise = |inputs, outputs, stride| Conv2dSizes {
            inputs,
            outputs,
            kernel: 1,
            stride,
            padding: 0,
        };
        let (first, second, third) = match kind {
            BlockKind::Basic => (
                place.spatial(place.inputs, place.stride),
                place.spatial(width, 1),
                None,
            ),
            BlockKind::Bottleneck => (
                pointwise(place.inputs, width, 1),
                place.spatial(width, place.stride),
                Some(pointwise(width, outputs, 1)),
            ),
        };
        let shortcut = (place.stride != 1 || place.inputs != outputs).then(|| {
            let sizes = pointwise(place.inputs, outputs, place.stride);
            let conv = place.conv("downsample.0", sizes, init);
            (conv, place.norm("downsample.1", outputs, init))
        });
        let branch = SiteKind::Branch {
            branch: Branch::Residual,
            width: outputs,
        };
        Self {
            conv1: place.conv("conv1", first, init),
            bn1: place.norm("bn1", width, init),
            conv2: place.conv("conv2", second, init),
            bn2: place.norm("bn2", width, init),
            conv3: third.map(|sizes| place.conv("conv3", sizes, init)),
            bn3: third.map(|_| place.norm("bn3", outputs, init)),
            downsample: shortcut,
            site: Site::new(place.name.clone(), place.block, branch),
        }
    }

    fn sites(&self) -> Vec<Site> {
        let mut sites = vec![self.conv1.site(), self.bn1.site()];
        sites.extend([self.conv2.site(), self.bn2.site()]);
        sites.extend(self.conv3.iter().map(Conv2d::site));
        sites.extend(self.bn3.iter().map(BatchNorm2d::site));
        sites.extend(
            self.downsample
                .iter()
                .flat_map(|(c, n)| [c.site(), n.site()]),
        );
        sites.push(&self.site);
        sites.into_iter().cloned().collect()
    }

    /// # Shapes
    /// `[b, c, h, w] -> [b, c', h / stride, w / stride]`.
    fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let y = relu(
            self.bn1
                .forward(self.conv1.forward(x.clone(), hooks), hooks),
        );
        let mut y = self.bn2.forward(self.conv2.forward(y, hooks), hooks);
        if let (Some(conv3), Some(bn3)) = (&self.conv3, &self.bn3) {
            y = bn3.forward(conv3.forward(relu(y), hooks), hooks);
        }
        let shortcut = match &self.downsample {
            Some((conv, norm)) => norm.forward(conv.forward(x, hooks), hooks),
            None => x,
        };
        let values = BranchValues {
            residual: Activation::Map(shortcut.clone()),
            normed: Activation::Map(shortcut.clone()),
            output: Activation::Map(y),
        };
        match hooks.at_branch(&self.site, values) {
            Activation::Map(y) => relu(y + shortcut),
            other => panic!("{}: a map became {:?}", self.site.name, other.shape()),
        }
    }
}
