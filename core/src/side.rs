//! Side networks: a trained network beside a frozen backbone makes the features.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::activation::Activation;
use crate::spec::{BackboneSpec, Cut};
use crate::step::Draws;

/// A trained network beside a frozen backbone, its trunk: it reads the trunk's activations at several
/// boundaries and makes the features that the head reads.
///
/// No gradient enters the trunk. All of it is the prefix, without acts of adapters and without tuned
/// parameters, so that its values at the taps are the same in every epoch and can be cached.
pub trait SideNetwork {
    /// The cuts that it reads, from the lowest to the highest. They never change.
    fn taps(&self) -> Vec<Cut>;

    /// The features, from the values at the taps in their order. The trunk may be used as a frozen
    /// function, its last norm for example; its parameters get no gradient.
    ///
    /// # Shapes
    /// `[b, features]` as [`AdaptationMethod::features`](crate::AdaptationMethod::features) says.
    fn features(&self, trunk: &dyn Trunk, tapped: Vec<Activation>, draws: &Draws) -> Tensor<2>;

    /// The operations for one image.
    fn operations(&self, spec: &BackboneSpec) -> Operations;
}

/// The frozen backbone beside a side network, as functions without acts.
///
/// Side networks read this trait and not [`Backbone`](crate::Backbone), because a backbone calls adapters through its
/// hooks, and a side network is an adapter.
pub trait Trunk {
    /// Its boundaries and sites.
    fn spec(&self) -> &BackboneSpec;

    /// Runs a span.
    ///
    /// # Shapes
    /// See [`Backbone::forward`](crate::Backbone::forward).
    fn run(&self, x: Activation, span: Range<Cut>) -> Activation;

    /// Runs a block for queries.
    ///
    /// # Shapes
    /// See [`Backbone::query`](crate::Backbone::query).
    fn query(&self, block: usize, x: Tensor<3>, queries: Tensor<3>) -> Tensor<3>;
}

/// Operations of a side network for one image, by purpose; see [`Flops`](crate::flops::Flops).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Its forward pass.
    pub forward: u64,
    /// Gradients of activations.
    pub activations: u64,
    /// Gradients of its weights.
    pub weights: u64,
}

impl Operations {
    /// A trained layer of `parameters` at `positions`, whose input is constant if it reads a tap.
    pub fn layer(parameters: usize, positions: usize, reads_tap: bool) -> Self {
        let forward = (2 * parameters * positions) as u64;
        Self {
            forward,
            activations: if reads_tap { 0 } else { forward },
            weights: forward,
        }
    }
}

impl std::iter::Sum for Operations {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            forward: sum.forward + one.forward,
            activations: sum.activations + one.activations,
            weights: sum.weights + one.weights,
        })
    }
}
