//! The place of a part in the network: the module and the block that its sites belong to.

use peft_core::site::{Branch, Site, SiteKind};

/// The module that contains a part, and its block.
pub(crate) struct Place {
    /// The path of the module, for example `blocks.3`.
    pub module: String,
    /// The block: 0 for the stem, `L + 1` after the last block.
    pub block: usize,
}

impl Place {
    /// The path of a part of the module.
    pub fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.module)
    }

    pub fn linear(&self, part: &str, inputs: usize, outputs: usize) -> Site {
        self.site(part, SiteKind::Linear { inputs, outputs })
    }

    pub fn norm(&self, part: &str, channels: usize) -> Site {
        self.site(part, SiteKind::Norm { channels })
    }

    pub fn branch(&self, part: &str, branch: Branch, width: usize) -> Site {
        self.site(part, SiteKind::Branch { branch, width })
    }

    fn site(&self, part: &str, kind: SiteKind) -> Site {
        Site::new(self.name(part), self.block, kind)
    }
}
