//! The pretrained feature extractor, and how it is configured.

use std::fmt::Debug;
use std::ops::Range;

use burn::tensor::{Tensor, TensorData};

use crate::activation::Activation;
use crate::attention::AttentionGrid;
use crate::error::{Error, Result, alternatives};
use crate::hooks::Hooks;
use crate::layout::Layout;
use crate::params::Tensors;
use crate::plug::{ErasedModule, Plug};
use crate::side::Trunk;

pub use crate::facts::Facts;
pub use crate::init::Init;
pub use crate::input::{
    CropMode, IMAGENET_MEAN, IMAGENET_STD, ImageSize, InputSpec, Interpolation,
};
pub use crate::source::{HasSource, Source};
pub use crate::spec::{BackboneSpec, BoundarySpec, Cut};

/// A frozen feature extractor, cut into `L` blocks.
pub trait Backbone: ErasedModule + dyn_clone::DynClone {
    /// Returns boundaries, sites and sizes, which are known before any forward pass.
    fn spec(&self) -> &BackboneSpec;

    /// Runs the part between the cuts `span.start` and `span.end`; any part can run alone.
    ///
    /// The hooks at boundary `l` act when the span starts at or passes `l`, not when it ends
    /// there: running `0..l` and then `l..end` acts once.
    ///
    /// # Shapes
    /// `x` and the result have the shapes of `spec().boundaries` at those cuts with the batch in
    /// front; a span that ends at [`BackboneSpec::features_cut`] gives `[b, features]`.
    fn forward(&self, x: Activation, span: Range<Cut>, hooks: &Hooks) -> Activation;

    /// Where the tokens lie that block `block` of `1..=L` attends between; none if it has no attention. A
    /// block that has some leaves its weights in an [`AttentionRecord`](crate::attention::AttentionRecord).
    fn attention_grid(&self, block: usize) -> Option<AttentionGrid> {
        let _ = block;
        None
    }

    /// Whether [`query`](Self::query) runs its blocks: they attend between all tokens.
    fn takes_queries(&self) -> bool {
        false
    }

    /// Runs block `block` of `1..=L`, without acts, for `queries` that attend to the tokens `x` of its input.
    /// The tokens do not see the queries, so that the block's own output is not needed.
    ///
    /// # Shapes
    /// `x`: `[b, n, d]`, `queries`: `[b, t, d]`; the result has the shape of the queries.
    ///
    /// # Panics
    /// If it does not [take queries](Self::takes_queries).
    fn query(&self, block: usize, x: Tensor<3>, queries: Tensor<3>) -> Tensor<3> {
        let _ = (x, queries);
        panic!("block {block} of {} takes no queries", self.spec().name)
    }

    /// The layouts of libraries other than timm and torchvision.
    fn layouts(&self) -> &'static [Layout] {
        &[]
    }

    /// Called before weights in that layout are loaded: adopts the settings in which the library differs
    /// with the same weights, another epsilon in its norms, for example.
    fn adopt(&mut self, layout: &str) {
        let _ = layout;
    }

    /// Returns a hint why a checkpoint with a tensor of this name cannot belong to this backbone,
    /// if there is more to say than that the name is unknown.
    fn why_not(&self, tensor: &str) -> Option<&'static str> {
        let _ = tensor;
        None
    }

    /// Returns the value of the parameter `name` if files of this network may lack it: files of pretraining
    /// without labels, the norm before the head.
    fn absent(&self, name: &str) -> Option<TensorData> {
        let _ = name;
        None
    }

    /// Whether timm's `no_weight_decay()` of this family lists the parameter `name`: position embeddings and
    /// tokens, for example. Those of one axis and biases need no listing.
    fn spared_from_decay(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Returns why a checkpoint's own head does not read the features of this configuration, in words that
    /// follow the name of the head.
    fn headless(&self) -> Option<&'static str> {
        None
    }

    /// Converts a checkpoint's value of the parameter `name` from another resolution to this one; none
    /// if it is taken as it is. `stored` is the size of the images that the checkpoint belongs to, where
    /// a file beside it states that.
    ///
    /// # Errors
    /// Why a value of another resolution cannot be converted.
    fn resized(
        &self,
        name: &str,
        value: &TensorData,
        stored: Option<ImageSize>,
    ) -> std::result::Result<Option<TensorData>, String> {
        let _ = (name, value, stored);
        Ok(None)
    }

    /// Returns parameters with which the backbone itself adds `delta` (batch 1) at a boundary: the
    /// prompt is folded into position embeddings or into a bias. None if no parameter can hold it
    /// exactly.
    fn absorb(&self, boundary: Cut, delta: &Activation) -> Option<Tensors> {
        let _ = (boundary, delta);
        None
    }
}

dyn_clone::clone_trait_object!(Backbone);

impl Trunk for BoxedBackbone {
    fn spec(&self) -> &BackboneSpec {
        (**self).spec()
    }
    fn run(&self, x: Activation, span: Range<Cut>) -> Activation {
        self.forward(x, span, &Hooks::none())
    }
    fn query(&self, block: usize, x: Tensor<3>, queries: Tensor<3>) -> Tensor<3> {
        (**self).query(block, x, queries)
    }
}

/// Runs a span cut by cut: applies the hooks at each boundary that it passes, then `block(cut, x)`,
/// which computes the value at `cut + 1` from that at `cut` (0 is the stem, `L + 1` the last norm and
/// pooling).
///
/// # Shapes
/// See [`Backbone::forward`].
pub fn run_span(
    x: Activation,
    span: Range<Cut>,
    hooks: &Hooks,
    block: impl Fn(Cut, Activation) -> Activation,
) -> Activation {
    // The hooks act before a block, so that a span which ends at a boundary leaves it to the next
    // span.
    span.fold(x, |x, cut| block(cut, hooks.at_boundary(cut, x)))
}

/// A boxed backbone that is a Burn module.
pub type BoxedBackbone = Plug<dyn Backbone>;

/// The configuration of a backbone, which builds it; the `backbone:` of a YAML.
///
/// A family declares its configuration with [`backbone_config!`](crate::backbone_config), which
/// gives it the fields that all families share and implements [`HasSource`].
#[typetag::serde(tag = "name")]
pub trait BackboneConfig: HasSource + Debug + Send + Sync + dyn_clone::DynClone {
    /// Builds it with initial values from `init`; weights are loaded afterwards.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that do not fit each other.
    fn build(&self, init: &Init) -> Result<Box<dyn Backbone>>;

    /// Describes how images become its input: the [`Source`] of the configuration over the defaults
    /// of the family.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that do not fit each other.
    fn input(&self) -> Result<InputSpec>;

    /// Returns the facts of the network that [`build`](Self::build) makes, under the names of the
    /// fields that set them, and of those options of timm and transformers that have one value
    /// here. A file beside the weights is compared with them. By default these are all facts that
    /// the configuration has a field for.
    ///
    /// # Errors
    /// See [`build`](Self::build).
    fn facts(&self) -> Result<Facts> {
        Ok(Facts::new())
    }
}

dyn_clone::clone_trait_object!(BackboneConfig);

/// Returns the value of a field that has no default: the configuration's own, or that of its variant.
///
/// # Errors
/// [`Error::Config`] for the field if neither has a value.
pub fn needed<T>(field: &str, own: Option<T>, of_variant: Option<T>) -> Result<T> {
    own.or(of_variant)
        .ok_or_else(|| Error::config(field, "expected a value, or a `variant` that has one"))
}

/// Finds a variant in a backbone's table by its name. A tag, as in timm's `resnet50.a1_in1k`, names
/// weights of that variant and is ignored.
///
/// # Errors
/// [`Error::Config`] for the field `variant`, with the nearest name and the list of all names.
pub fn variant<'a, T>(table: &'a [(&'static str, T)], name: &str) -> Result<&'a T> {
    let bare = name.split_once('.').map_or(name, |(bare, _)| bare);
    let row = table.iter().find(|(n, _)| *n == bare);
    row.map(|(_, row)| row).ok_or_else(|| {
        let hint = alternatives(bare, table.iter().map(|(name, _)| *name));
        Error::config("variant", format!("unknown variant {name:?}{hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_may_carry_the_tag_of_its_weights() {
        let table = [("resnet18", 18), ("resnet50", 50)];
        assert_eq!(*variant(&table, "resnet50").unwrap(), 50);
        assert_eq!(*variant(&table, "resnet50.a1_in1k").unwrap(), 50);
        let error = variant(&table, "resnet5.a1_in1k").unwrap_err().to_string();
        assert!(
            error.contains("\"resnet5.a1_in1k\"; did you mean \"resnet50\"?"),
            "{error}"
        );
    }
}
