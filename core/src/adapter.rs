//! The trainable module of a method.

use crate::acts::{BoundaryAct, SiteAct};
use crate::described::{DescribedBoundary, DescribedSite};
use crate::plug::{ErasedModule, Plug};
use crate::side::SideNetwork;
use crate::site::Site;

/// The trainable module of a method, which acts at boundaries and at sites, or is a network beside the backbone.
///
/// An adapter returns nothing where it does not act, so that backbones can fuse operations there.
/// The places where it acts must not change after it was attached: core asks for them once, when
/// the model is assembled.
pub trait Adapter: ErasedModule + dyn_clone::DynClone {
    /// The act at boundary `index`, if there is one.
    fn at_boundary(&self, index: usize) -> Option<BoundaryAct<'_>> {
        let _ = index;
        None
    }

    /// The acts at a site, in order; empty where it does not act.
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let _ = site;
        Vec::new()
    }

    /// The products at each position of the function with which it acts at a branch, if they are not as many as its
    /// parameters there: where a weight is made of fewer.
    fn products(&self, site: &Site) -> Option<usize> {
        let _ = site;
        None
    }

    /// The adapter as a side network, if it is one. Such an adapter acts nowhere.
    fn side(&self) -> Option<&dyn SideNetwork> {
        None
    }

    /// The act at boundary `index` as data, by which other programs compute it; none where the adapter does not act,
    /// and everywhere if it cannot say what it does. Names are those inside the adapter.
    fn describe_boundary(&self, index: usize) -> Option<DescribedBoundary> {
        let _ = index;
        None
    }

    /// The acts at a site as data, in order; likewise.
    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let _ = site;
        Vec::new()
    }
}

dyn_clone::clone_trait_object!(Adapter);

/// A boxed adapter that is a Burn module.
pub type BoxedAdapter = Plug<dyn Adapter>;
