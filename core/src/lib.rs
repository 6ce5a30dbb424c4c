//! The contracts of parameter-efficient fine-tuning of vision models.
//!
//! A [`Backbone`] is cut into blocks with indexed boundaries and named sites. An [`AdaptationMethod`]
//! attaches to it and yields an [`Adapter`] that acts there, or names parameters of the backbone that
//! are tuned. [`Model`] puts them together with a head and derives the cut below which everything is
//! constant. Plugins register with [`register!`].

pub mod activation;
pub mod acts;
pub mod adapter;
pub mod adapter_file;
pub mod attention;
pub mod backbone;
pub mod channels;
pub mod check;
pub mod checkpoint;
pub mod data;
pub mod described;
pub mod description;
pub mod error;
pub mod facts;
pub mod files;
pub mod flops;
pub mod head;
pub mod hf_peft;
pub mod hooks;
pub mod image_size;
pub mod init;
pub mod input;
pub mod layer_sites;
pub mod layers;
pub mod layout;
pub mod loss;
pub mod low_rank;
pub mod mapped_head;
pub mod merge;
pub mod method;
pub mod model;
pub mod named;
pub mod params;
mod pattern;
pub mod plug;
pub mod random;
pub mod registry;
pub mod rotation;
mod run_site;
pub mod saliency;
pub mod side;
pub mod site;
pub mod source;
pub mod spec;
pub mod step;
pub mod taps;
pub mod torch_random;
pub mod weight;
pub mod weights;

pub use activation::{Activation, BoundaryShape, Tokens};
pub use acts::{BoundaryAct, SiteAct};
pub use adapter::Adapter;
pub use backbone::{Backbone, BackboneConfig, BoxedBackbone};
pub use data::{Dataset, DatasetConfig, Split};
pub use error::{Error, Result};
pub use head::{Head, LinearHead, TextHead};
pub use hooks::Hooks;
pub use init::Init;
pub use low_rank::{Factors, LowRank};
pub use mapped_head::MappedHead;
pub use method::{AdaptationMethod, Attachment, Statistics, Tuned};
pub use model::{Counts, Model};
pub use named::{ByBoundary, BySite};
pub use plug::Plug;
pub use side::{SideNetwork, Trunk};
pub use site::{Site, SiteKind, Targets};
pub use spec::{BackboneSpec, Cut};
pub use step::{Draws, Step};
pub use taps::{Tapped, TappedShape, Taps};

#[doc(hidden)]
pub use {inventory, schemars};
