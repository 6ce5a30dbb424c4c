//! A residual block: its branch of convolutions, its shortcut, and their sum.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::activation::Activation;
use peft_core::backbone::Init;
use peft_core::hooks::{BranchValues, Hooks};
use peft_core::layers::{BatchNorm2d, Conv2d, Then};
use peft_core::site::{Branch, Site, SiteKind};

use crate::architecture::{Architecture, BlockKind};
use crate::convolutions::{pointwise, spatial};
use crate::sequence::{self, Average, Layer, Sequence};

/// `relu(shortcut(x) + branch(x))`. Basic blocks lack the third convolution.
#[derive(Module, Debug)]
pub(crate) struct Block {
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

/// The position of a block, and the sizes that it maps between.
pub(crate) struct Place<'a> {
    /// The name that its layers' names begin with.
    pub name: String,
    /// The number of the block, `1..=L`, counted across stages.
    pub block: usize,
    /// Its stage, counted from 0.
    pub stage: usize,
    /// Channels of its input.
    pub inputs: usize,
    pub stride: usize,
    pub sizes: &'a Architecture,
    pub init: &'a Init,
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

    /// The shortcut of a block whose output has another shape than its input.
    fn downsample(&self, outputs: usize) -> Sequence {
        let conv = |part, stride| {
            let sizes = pointwise(self.inputs, outputs, stride);
            Layer::Conv(self.conv(part, sizes.kind()))
        };
        let norm = |part| Layer::Norm(self.norm(part, outputs));
        if self.sizes.avg_down {
            // timm keeps the averaging layer in all such shortcuts, so that it counts in the names of the
            // layers behind it; with a stride of 1 it does nothing.
            let average = Average { side: self.stride };
            let average = Layer::Average(average);
            vec![average, conv("downsample.1", 1), norm("downsample.2")]
        } else {
            vec![conv("downsample.0", self.stride), norm("downsample.1")]
        }
    }
}

impl Block {
    /// The block at `place`.
    pub fn new(place: &Place) -> Self {
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

    /// Returns its sites in the order of the forward pass.
    pub fn sites(&self) -> Vec<Site> {
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
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some(layers) => sequence::forward(layers, x.clone(), hooks),
            None => x.clone(),
        };
        let y = self.conv1.normed(&self.bn1, x, hooks, Then::relu());
        // The last convolution and its norm also add the shortcut, unless an adapter acts on the branch
        // before the sum.
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
