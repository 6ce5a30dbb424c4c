//! The trainable module of a method.

use crate::acts::{BoundaryAct, SiteAct};
use crate::plug::{ErasedModule, Plug};
use crate::site::Site;

/// The trainable module of a method: it acts at boundaries and at sites.
///
/// Where it does not act it answers nothing, so that backbones may fuse there.
pub trait Adapter: ErasedModule + dyn_clone::DynClone {
    /// What it does at boundary `index`.
    fn at_boundary(&self, index: usize) -> Option<BoundaryAct<'_>> {
        let _ = index;
        None
    }

    /// What it does at a site, in order; empty where it does not act.
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let _ = site;
        Vec::new()
    }
}

dyn_clone::clone_trait_object!(Adapter);

/// An adapter in a box that is a Burn module.
pub type BoxedAdapter = Plug<dyn Adapter>;
