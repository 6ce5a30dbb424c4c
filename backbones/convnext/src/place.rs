//! The data that a module needs to build its layers: its name, its block and a source of initial values.

use peft_core::backbone::Init;
use peft_core::layers::{Conv2d, Conv2dSizes, LayerNorm};
use peft_core::site::{Site, SiteKind};

use crate::architecture::Architecture;

/// A module's place in the network.
pub(crate) struct Place<'a> {
    /// The name that its layers' names begin with.
    pub name: String,
    /// The block that its sites count with.
    pub block: usize,
    pub sizes: &'a Architecture,
    pub init: &'a Init,
}

impl Place<'_> {
    /// The full name of a part of the module.
    pub fn part(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    /// The site of a part of the module.
    pub fn site(&self, part: &str, kind: SiteKind) -> Site {
        Site::new(self.part(part), self.block, kind)
    }

    /// A LayerNorm.
    pub fn norm(&self, part: &str, channels: usize) -> LayerNorm {
        let site = self.site(part, SiteKind::Norm { channels });
        LayerNorm::new(site, self.sizes.norm_eps, self.init)
    }

    /// A convolution, with a bias if those of the network have one.
    pub fn conv(&self, part: &str, kind: SiteKind) -> Conv2d {
        Conv2d::new(self.site(part, kind), self.sizes.conv_bias, self.init)
    }

    /// A convolution whose windows of `side` rows and columns do not overlap.
    pub fn merging(&self, part: &str, [inputs, outputs]: [usize; 2], side: usize) -> Conv2d {
        let sizes = Conv2dSizes {
            inputs,
            outputs,
            kernel: side,
            stride: side,
            padding: 0,
        };
        self.conv(part, sizes.kind())
    }
}
