//! How core applies what adapters do at boundaries and sites.
//!
//! A backbone's layers ask [`Hooks`] what acts at their site; where nothing does, nothing is
//! called. The linear kinds are applied here once for all methods.

use burn::tensor::{Shape, Tensor, TensorData};

use crate::activation::Activation;
use crate::adapter::BoxedAdapter;
use crate::channels::{Join, join, scale_shift, scale_shift_activation};
use crate::low_rank::Weighted;
use crate::named::Named;
use crate::random::Generator;
use crate::site::Site;

pub use crate::acts::{
    BoundaryAct, BoundaryFunction, BranchFunction, BranchValues, Extras, Side, SiteAct,
};
pub use crate::channels::like;
pub use crate::step::Step;

/// What acts during a forward pass.
#[derive(Clone, Copy)]
pub struct Hooks<'a> {
    adapters: Option<&'a Named<String, BoxedAdapter>>,
    step: Option<&'a Step>,
    strength: f64,
    /// The place of the adapter that acts: two draw masks of their own at one site.
    owner: usize,
}

impl<'a> Hooks<'a> {
    /// Nothing acts: the bare backbone in evaluation.
    pub fn none() -> Self {
        Self {
            adapters: None,
            step: None,
            strength: 1.0,
            owner: 0,
        }
    }

    /// These adapters act, in order; `step` while training.
    pub fn new(adapters: &'a Named<String, BoxedAdapter>, step: Option<&'a Step>) -> Self {
        Self {
            adapters: Some(adapters).filter(|adapters| !adapters.is_empty()),
            step,
            strength: 1.0,
            owner: 0,
        }
    }

    /// The same adapters between absent (0) and as they are (1).
    pub(crate) fn with_strength(self, strength: f64) -> Self {
        Self { strength, ..self }
    }

    /// For what the adapter at place `owner` does.
    fn of(&self, owner: usize) -> Self {
        Self { owner, ..*self }
    }

    /// Applies what acts at boundary `index`.
    pub fn at_boundary(&self, index: usize, mut x: Activation) -> Activation {
        for (owner, (_, adapter)) in self.adapters.iter().flat_map(|a| a.iter()).enumerate() {
            let hooks = self.of(owner);
            x = match adapter.at_boundary(index) {
                None => x,
                Some(BoundaryAct::Add(delta)) => join(x, self.weakened(delta), Join::Sum),
                Some(BoundaryAct::Multiply(factor)) => {
                    join(x, self.weakened_factor(factor), Join::Product)
                }
                Some(BoundaryAct::Extras(extras)) => hooks.with_extras(x, index, extras),
                Some(BoundaryAct::Function(f)) => self.between(x, |x| f(x, &hooks)),
            };
        }
        x
    }

    /// A delta as strong as the hooks are.
    pub(crate) fn weakened(&self, delta: Activation) -> Activation {
        match self.strength {
            1.0 => delta,
            strength => delta.scaled(strength),
        }
    }

    fn weakened_factor(&self, factor: Activation) -> Activation {
        match self.strength {
            1.0 => factor,
            // 1 + s (f - 1)
            s => factor.per_position(|factor| factor * s + (1.0 - s)),
        }
    }

    /// `x + strength * (f(x) - x)`.
    fn between(&self, x: Activation, f: impl FnOnce(Activation) -> Activation) -> Activation {
        match self.strength {
            1.0 => f(x),
            strength => f(x.clone()).scaled(strength).plus(x.scaled(1.0 - strength)),
        }
    }

    fn with_extras(&self, x: Activation, index: usize, extras: Extras) -> Activation {
        let Activation::Tokens(tokens) = x else {
            panic!("boundary {index} has {:?}, no tokens", x.shape())
        };
        let [batch, _, d] = tokens.x.dims();
        let [count, _] = extras.tokens.dims();
        let prompts = like(extras.tokens, &tokens.x)
            .unsqueeze::<3>()
            .expand([batch, count, d]);
        let prompts = self.dropout(prompts, extras.dropout, &format!("extras/{index}"));
        Activation::Tokens(tokens.with_extras(self.owner, prompts, extras.replace))
    }

    /// Whether anything acts at a site: where nothing does, a backbone may compute its neighbours
    /// together with it.
    pub fn acts_at(&self, site: &Site) -> bool {
        let mut adapters = self.adapters.into_iter().flat_map(Named::iter);
        adapters.any(|(_, adapter)| !adapter.at_site(site).is_empty())
    }

    /// What acts at a site, in the adapters' order.
    pub(crate) fn at_site(&self, site: &Site) -> Vec<SiteAct<'a>> {
        self.owned_at_site(site).map(|(_, act)| act).collect()
    }

    /// A factor and an offset for each channel of a site's output, and what acts on them: a factor and
    /// an offset again. None if something else acts there.
    pub(crate) fn affine_at(&self, site: &Site, own: [Tensor<1>; 2]) -> Option<[Tensor<1>; 2]> {
        let mut acts = self.at_site(site).into_iter();
        acts.try_fold(own, |[mut factor, mut offset], act| match act {
            SiteAct::ScaleShift {
                on: Side::Output,
                scale,
                shift,
            } => {
                if let Some(scale) = scale.map(|scale| like(scale, &factor)) {
                    (factor, offset) = (factor * scale.clone(), offset * scale);
                }
                if let Some(shift) = shift.map(|shift| like(shift, &offset)) {
                    offset = offset + shift;
                }
                Some([factor, offset])
            }
            _ => None,
        })
    }

    /// The same as [`at_site`](Self::at_site), each with the hooks of its adapter.
    fn owned_at_site<'s>(
        &'s self,
        site: &'s Site,
    ) -> impl Iterator<Item = (Hooks<'a>, SiteAct<'a>)> + use<'a, 's> {
        let adapters = self.adapters.into_iter().flat_map(Named::iter).enumerate();
        adapters.flat_map(move |(owner, (_, adapter))| {
            let mut acts = adapter.at_site(site);
            if self.strength != 1.0 {
                acts.iter_mut().for_each(|act| self.weaken(act));
            }
            acts.into_iter().map(move |act| (self.of(owner), act))
        })
    }

    fn weaken(&self, act: &mut SiteAct) {
        let s = self.strength;
        match act {
            SiteAct::LowRank(path) => path.strength = s,
            SiteAct::ScaleShift { scale, shift, .. } => {
                *scale = scale.take().map(|scale| scale * s + (1.0 - s));
                *shift = shift.take().map(|shift| shift * s);
            }
            // Applied where the branch's output is at hand.
            SiteAct::Branch(_) => {}
        }
    }

    /// The output of a branch after what acts at its site.
    pub fn at_branch(&self, site: &Site, values: BranchValues) -> Activation {
        let BranchValues {
            residual,
            normed,
            mut output,
        } = values;
        for (hooks, act) in self.owned_at_site(site) {
            output = match act {
                SiteAct::Branch(f) => self.between(output, |output| {
                    let values = BranchValues {
                        residual: residual.clone(),
                        normed: normed.clone(),
                        output,
                    };
                    f(values, &hooks)
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

    /// Whether dropout with probability `p` drops anything: only while training.
    pub fn drops(&self, p: f64) -> bool {
        p > 0.0 && self.step.is_some()
    }

    /// Zeroes entries with probability `p` and scales the rest by `1/(1-p)`, while training. The
    /// mask is a function of seed, step, the adapter's place and `name`.
    pub fn dropout<const D: usize>(&self, x: Tensor<D>, p: f64, name: &str) -> Tensor<D> {
        let Some(step) = self.step.filter(|_| p > 0.0) else {
            return x;
        };
        let path = format!(
            "dropout/{}/{}/{}/{name}",
            step.number, step.part, self.owner
        );
        let shape: Shape = x.shape();
        let mask = Generator::new(step.seed, &path).dropout_mask(shape.num_elements(), p);
        let mask = Tensor::from_data(TensorData::new(mask, shape), &x.device());
        x.clone() * like(mask, &x)
    }
}

/// Runs a site: input acts, the operation itself, output acts and side paths, in order.
///
/// `axis` is the channels' axis in the input and in the output; `layer` is what low-rank paths
/// stand beside.
pub(crate) fn run_site<const D: usize, const E: usize>(
    hooks: &Hooks,
    site: &Site,
    x: Tensor<D>,
    axis: [usize; 2],
    operation: impl FnOnce(Tensor<D>) -> Tensor<E>,
    layer: &impl Weighted<D, E>,
) -> Tensor<E> {
    let (mut input, mut outputs) = (x, Vec::new());
    for (hooks, act) in hooks.owned_at_site(site) {
        match act {
            SiteAct::ScaleShift {
                on: Side::Input,
                scale,
                shift,
            } => input = scale_shift(input, axis[0], scale, shift),
            act => outputs.push((hooks, act)),
        }
    }
    if outputs.is_empty() {
        return operation(input);
    }
    // What the layer computes together with the act that comes first.
    let together = match &outputs[0] {
        (hooks, SiteAct::LowRank(path)) if !hooks.drops(path.dropout) => {
            layer.with_low_rank(&input, path)
        }
        (_, SiteAct::ScaleShift { scale, shift, .. }) => {
            layer.with_scale_shift(&input, scale, shift)
        }
        _ => None,
    };
    let done = usize::from(together.is_some());
    let mut y = together.unwrap_or_else(|| operation(input.clone()));
    for (hooks, act) in outputs.into_iter().skip(done) {
        y = match act {
            SiteAct::ScaleShift { scale, shift, .. } => scale_shift(y, axis[1], scale, shift),
            SiteAct::LowRank(path) => path.beside(y, &input, axis[1], layer, &hooks, site),
            SiteAct::Branch(_) => panic!("{}: a {} is no branch", site.name, site.kind),
        };
    }
    y
}
