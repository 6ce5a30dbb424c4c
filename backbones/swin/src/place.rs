//! The data that a module needs to build its layers: its name, its block and a source of initial
//! values.

use peft_core::backbone::Init;
use peft_core::layers::{LayerNorm, Linear};
use peft_core::site::{Branch, Site, SiteKind};

/// A module's place in the network.
pub(crate) struct Place<'a> {
    /// The name that its layers' names begin with.
    pub name: String,
    /// The block that its sites count with.
    pub block: usize,
    pub init: &'a Init,
    /// Epsilon that its norms add to the variance.
    pub epsilon: f64,
}

impl Place<'_> {
    /// The site of a part of the module.
    pub fn site(&self, part: &str, kind: SiteKind) -> Site {
        Site::new(format!("{}.{part}", self.name), self.block, kind)
    }

    /// A LayerNorm.
    pub fn norm(&self, part: &str, channels: usize) -> LayerNorm {
        let site = self.site(part, SiteKind::Norm { channels });
        LayerNorm::new(site, self.epsilon, self.init)
    }

    /// A linear layer.
    pub fn linear(&self, part: &str, [inputs, outputs]: [usize; 2], bias: bool) -> Linear {
        let site = self.site(part, SiteKind::Linear { inputs, outputs });
        Linear::new(site, bias, self.init)
    }
    /// The site of a branch that ends with `width` channels.
    pub fn branch(&self, part: &str, branch: Branch, width: usize) -> Site {
        self.site(part, SiteKind::Branch { branch, width })
    }
}
