//! What adapters do at boundaries and sites, as data, and how core applies it.
//!
//! A backbone's layers ask [`Hooks`] what acts at their site; where nothing does, nothing is
//! called. The linear kinds are applied here once for all methods.

use std::cell::RefCell;
use std::ops::Range;

use burn::tensor::{DType, Shape, Tensor, TensorData};

use crate::activation::Activation;
use crate::layers::{Conv2d, linear};
use crate::method::BoxedAdapter;
use crate::plug::Named;
use crate::random::Generator;
use crate::site::Site;

/// What an adapter does to the activation at a boundary.
#[allow(
    clippy::large_enum_variant,
    reason = "made once a boundary, never stored"
)]
pub enum BoundaryAct<'a> {
    /// `z + delta`, the delta with batch 1 and broadcast over the batch.
    Add(Activation),
    /// Anything else.
    Function(&'a dyn Fn(Activation) -> Activation),
}

/// What an adapter does at a site.
pub enum SiteAct<'a> {
    /// `y + scale * B A dropout(x)` beside a linear layer or a convolution.
    LowRank(LowRank),
    /// `scale * v + shift` per channel on the site's input or output.
    ScaleShift {
        /// On what.
        on: Side,
        /// Factor of each channel `[c]`; 1 if absent.
        scale: Option<Tensor<1>>,
        /// Offset of each channel `[c]`; 0 if absent.
        shift: Option<Tensor<1>>,
    },
    /// A function of a branch, before LayerScale and the sum.
    Branch(&'a dyn Fn(BranchValues) -> Activation),
}

/// The input or the output of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the site reads.
    Input,
    /// What the site writes.
    Output,
}

/// The low-rank side path of a linear layer or a convolution (Hu et al. 2021, Eq. 3).
pub struct LowRank {
    /// `A` and `B`.
    pub factors: Factors,
    /// `alpha / r`.
    pub scale: f64,
    /// Probability of dropping an entry of the side path's input while training.
    pub dropout: f64,
    /// The rows of the output that it adds to; all if absent.
    pub out_range: Option<Range<usize>>,
}

/// The factors of a [`LowRank`].
pub enum Factors {
    /// `A [r, in]`, `B [out, r]`.
    Linear(Tensor<2>, Tensor<2>),
    /// `A [r, in / groups, kh, kw]` with the site's stride and padding, `B [out, r, 1, 1]`.
    Conv(Tensor<4>, Tensor<4>),
}

/// What a branch site hands over.
pub struct BranchValues {
    /// The stream before the norm.
    pub residual: Activation,
    /// The stream after the norm; the residual itself where there is none.
    pub normed: Activation,
    /// The branch's output before LayerScale, drop path and the sum.
    pub output: Activation,
}

/// One training step: the seed of its random numbers and the buffers that it updates.
///
/// A step is a pure function of model, batch and step number; updates are returned, not written.
#[derive(Debug)]
pub struct Step {
    seed: u64,
    number: u64,
    part: usize,
    updates: RefCell<Vec<(String, Tensor<1>)>>,
    batch_statistics: bool,
}

impl Step {
    /// Step `number` of a run with `seed`, accumulation part `part`; `batch_statistics` for tuned
    /// BatchNorm layers.
    pub fn new(seed: u64, number: u64, part: usize, batch_statistics: bool) -> Self {
        Self {
            seed,
            number,
            part,
            updates: RefCell::default(),
            batch_statistics,
        }
    }

    /// The buffers' new values by canonical name, once the forward pass has run.
    pub fn into_updates(self) -> Vec<(String, Tensor<1>)> {
        self.updates.into_inner()
    }
}

/// What acts during a forward pass.
#[derive(Clone, Copy)]
pub struct Hooks<'a> {
    adapters: Option<&'a Named<String, BoxedAdapter>>,
    step: Option<&'a Step>,
}

impl<'a> Hooks<'a> {
    /// Nothing acts: the bare backbone in evaluation.
    pub fn none() -> Self {
        Self {
            adapters: None,
            step: None,
        }
    }

    /// These adapters act, in order; `step` while training.
    pub fn new(adapters: &'a Named<String, BoxedAdapter>, step: Option<&'a Step>) -> Self {
        Self {
            adapters: Some(adapters).filter(|adapters| !adapters.is_empty()),
            step,
        }
    }

    /// Applies what acts at boundary `index`.
    pub fn at_boundary(&self, index: usize, mut x: Activation) -> Activation {
        for (_, adapter) in self.adapters.iter().flat_map(|a| a.iter()) {
            x = match adapter.at_boundary(index) {
                None => x,
                Some(BoundaryAct::Add(delta)) => add(x, delta),
                Some(BoundaryAct::Function(f)) => f(x),
            };
        }
        x
    }

    /// What acts at a site, in the adapters' order.
    pub(crate) fn at_site(&self, site: &Site) -> Vec<SiteAct<'a>> {
        let Some(adapters) = self.adapters else {
            return Vec::new();
        };
        adapters
            .iter()
            .flat_map(|(_, adapter)| adapter.at_site(site))
            .collect()
    }

    /// The output of a branch after what acts at its site.
    pub fn at_branch(&self, site: &Site, values: BranchValues) -> Activation {
        let BranchValues {
            residual,
            normed,
            mut output,
        } = values;
        for act in self.at_site(site) {
            output = match act {
                SiteAct::Branch(f) => f(BranchValues {
                    residual: residual.clone(),
                    normed: normed.clone(),
                    output,
                }),
                SiteAct::ScaleShift {
                    on: Side::Output,
                    scale,
                    shift,
                } => scale_shift_activation(output, scale, shift),
                _ => panic!(
                    "{}: a branch takes functions and output scales only",
                    site.name
                ),
            };
        }
        output
    }

    /// Whether tuned BatchNorm layers use and update batch statistics.
    pub(crate) fn batch_statistics(&self) -> bool {
        self.step.is_some_and(|step| step.batch_statistics)
    }

    /// Hands back a buffer's new value.
    pub(crate) fn update(&self, name: String, value: Tensor<1>) {
        if let Some(step) = self.step {
            step.updates.borrow_mut().push((name, value));
        }
    }

    /// Zeroes entries with probability `p` and scales the rest by `1/(1-p)`, while training. The
    /// mask is a function of seed, step and `name`.
    pub fn dropout<const D: usize>(&self, x: Tensor<D>, p: f64, name: &str) -> Tensor<D> {
        let Some(step) = self.step.filter(|_| p > 0.0) else {
            return x;
        };
        let path = format!("dropout/{}/{}/{name}", step.number, step.part);
        let shape: Shape = x.shape();
        let mask = Generator::new(step.seed, &path).dropout_mask(shape.num_elements(), p);
        let mask = Tensor::from_data(TensorData::new(mask, shape), &x.device());
        x.clone() * like(mask, &x)
    }
}

/// A parameter in the element type of the activation that it meets: a layer computes in its
/// input's type.
pub(crate) fn like<const D: usize, const E: usize>(param: Tensor<D>, x: &Tensor<E>) -> Tensor<D> {
    let dtype: DType = x.dtype();
    if param.dtype() == dtype {
        param
    } else {
        param.cast(dtype)
    }
}

fn add(x: Activation, delta: Activation) -> Activation {
    match (x, delta) {
        (Activation::Map(x), Activation::Map(delta)) => {
            let delta = like(delta, &x);
            Activation::Map(x + delta)
        }
        (Activation::Tokens(x), Activation::Tokens(delta)) => {
            let delta = like(delta, &x);
            Activation::Tokens(x + delta)
        }
        (Activation::Features(x), Activation::Features(delta)) => {
            let delta = like(delta, &x);
            Activation::Features(x + delta)
        }
        (x, delta) => panic!(
            "a boundary of shape {:?} got a delta of shape {:?}",
            x.shape(),
            delta.shape()
        ),
    }
}

/// Per-channel scale and shift of `[b, .., c]` or, for maps, `[b, c, h, w]`.
fn scale_shift<const D: usize>(
    x: Tensor<D>,
    axis: usize,
    scale: Option<Tensor<1>>,
    shift: Option<Tensor<1>>,
) -> Tensor<D> {
    let channels = |v: Tensor<1>, x: &Tensor<D>| {
        let mut shape = [1; D];
        shape[axis] = v.dims()[0];
        like(v.reshape(shape), x)
    };
    let x = match scale {
        Some(scale) => {
            let scale = channels(scale, &x);
            x * scale
        }
        None => x,
    };
    match shift {
        Some(shift) => {
            let shift = channels(shift, &x);
            x + shift
        }
        None => x,
    }
}

fn scale_shift_activation(
    value: Activation,
    scale: Option<Tensor<1>>,
    shift: Option<Tensor<1>>,
) -> Activation {
    match value {
        Activation::Map(x) => Activation::Map(scale_shift(x, 1, scale, shift)),
        Activation::Tokens(x) => Activation::Tokens(scale_shift(x, 2, scale, shift)),
        Activation::Features(x) => Activation::Features(scale_shift(x, 1, scale, shift)),
    }
}

/// Runs a site: input acts, the operation itself, output acts and side paths, in order.
///
/// `axis` is the channels' axis; `side_path` computes a [`LowRank`]'s contribution from the input.
pub(crate) fn run_site<const D: usize, const E: usize>(
    hooks: &Hooks,
    site: &Site,
    x: Tensor<D>,
    axis: [usize; 2],
    operation: impl FnOnce(Tensor<D>) -> Tensor<E>,
    side_path: impl Fn(Tensor<D>, Factors) -> Option<Tensor<E>>,
) -> Tensor<E> {
    let acts = hooks.at_site(site);
    if acts.is_empty() {
        return operation(x);
    }
    let (mut input, mut outputs) = (x, Vec::new());
    for act in acts {
        match act {
            SiteAct::ScaleShift {
                on: Side::Input,
                scale,
                shift,
            } => input = scale_shift(input, axis[0], scale, shift),
            act => outputs.push(act),
        }
    }
    let mut y = operation(input.clone());
    for act in outputs {
        y = match act {
            SiteAct::ScaleShift { scale, shift, .. } => scale_shift(y, axis[1], scale, shift),
            SiteAct::LowRank(path) => {
                let x = hooks.dropout(input.clone(), path.dropout, &site.name);
                match side_path(x, path.factors) {
                    Some(delta) => add_to_rows(y, delta * path.scale, axis[1], path.out_range),
                    None => panic!(
                        "{}: the factors are not those of a {}",
                        site.name, site.kind
                    ),
                }
            }
            SiteAct::Branch(_) => panic!("{}: a {} is no branch", site.name, site.kind),
        };
    }
    y
}

/// `y` with `delta` added to those channels of it.
fn add_to_rows<const D: usize>(
    y: Tensor<D>,
    delta: Tensor<D>,
    axis: usize,
    rows: Option<Range<usize>>,
) -> Tensor<D> {
    let Some(Range { start, end }) = rows else {
        return y + delta;
    };
    let channels = y.dims()[axis];
    let mut parts = Vec::with_capacity(3);
    if start > 0 {
        parts.push(y.clone().narrow(axis, 0, start));
    }
    parts.push(y.clone().narrow(axis, start, end - start) + delta);
    if end < channels {
        parts.push(y.narrow(axis, end, channels - end));
    }
    Tensor::cat(parts, axis)
}

/// `B A x` beside a linear layer.
pub(crate) fn linear_side_path<const D: usize>(
    x: Tensor<D>,
    factors: Factors,
) -> Option<Tensor<D>> {
    match factors {
        Factors::Linear(a, b) => Some(linear(linear(x, a, None), b, None)),
        Factors::Conv(..) => None,
    }
}

/// `B * (A * x)` beside a convolution; `A` takes the site's stride, padding and groups.
pub(crate) fn conv_side_path(x: Tensor<4>, factors: Factors, site: &Conv2d) -> Option<Tensor<4>> {
    match factors {
        Factors::Conv(a, b) => Some(site.low_rank(x, a, b)),
        Factors::Linear(..) => None,
    }
}
