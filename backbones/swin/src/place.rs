//! Where the parts of a module sit: their names, their block and their initial values.

use peft_core::backbone::Init;
use peft_core::layers::{LayerNorm, Linear};
use peft_core::site::{Site, SiteKind};

/// Where the parts of a module sit.
pub(crate) struct Place<'a> {
    pub name: String,
    pub block: usize,
    pub init: &'a Init,
    /// What norms add to a variance.
    pub epsilon: f64,
}

impl Place<'_> {
    pub fn site(&self, part: &str, kind: SiteKind) -> Site {
        Site::new(format!("{}.{part}", self.name), self.block, kind)
    }

    pub fn norm(&self, part: &str, channels: usize) -> LayerNorm {
        let site = self.site(part, SiteKind::Norm { channels });
        LayerNorm::new(site, self.epsilon, self.init)
    }

    pub fn linear(&self, part: &str, [inputs, outputs]: [usize; 2], bias: bool) -> Linear {
        let site = self.site(part, SiteKind::Linear { inputs, outputs });
        Linear::new(site, bias, self.init)
    }
}
