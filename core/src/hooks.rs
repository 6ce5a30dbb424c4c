//! Applies the acts of adapters at boundaries and sites.
//!
//! The layers of a backbone ask [`Hooks`] for the acts at their site. Where there are none, nothing
//! is called. The linear kinds are applied here once for all methods.

use burn::tensor::Tensor;

use crate::activation::Activation;
use crate::adapter::BoxedAdapter;
use crate::attention::{Attended, AttentionRecord};
use crate::channels::{Join, join, per_image, scale_shift_activation};
use crate::low_rank::SidePath;
use crate::named::Named;
use crate::site::Site;
use crate::spec::BackboneSpec;
use crate::weight::WeightChange;

pub use crate::acts::{
    BoundaryAct, BoundaryFunction, BranchFunction, BranchValues, Extras, Side, SiteAct,
};
pub use crate::channels::like;
pub use crate::step::{Draws, Step};

/// The adapters that act at each boundary and at each site, by their places in the list.
///
/// They are found once, when a model is assembled: a forward pass asks for every site, and most
/// have no act.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// The adapters by boundary.
    boundaries: Vec<Vec<usize>>,
    /// The sites at which something acts, by block. They are few, so comparing names is faster than
    /// hashing them.
    sites: Vec<Vec<(String, Vec<usize>)>>,
}

impl Places {
    /// Asks every adapter about every boundary and site.
    pub(crate) fn of(adapters: &Named<String, BoxedAdapter>, spec: &BackboneSpec) -> Self {
        let acting = |acts: &dyn Fn(&BoxedAdapter) -> bool| -> Vec<usize> {
            let all = adapters.iter().enumerate();
            let acting = all.filter(|(_, (_, adapter))| acts(adapter));
            acting.map(|(place, _)| place).collect()
        };
        let boundaries = (0..=spec.last_boundary())
            .map(|index| acting(&|adapter| adapter.at_boundary(index).is_some()));
        // Blocks are numbered from 0 (the stem) to L + 1 (after the last block).
        let mut sites = vec![Vec::new(); spec.features_cut()];
        for site in &spec.sites {
            let places = acting(&|adapter| !adapter.at_site(site).is_empty());
            if !places.is_empty() {
                sites[site.block].push((site.name.clone(), places));
            }
        }
        Self {
            boundaries: boundaries.collect(),
            sites,
        }
    }

    /// The boundaries at which something acts.
    pub(crate) fn boundaries(&self) -> Vec<usize> {
        let acting = |index: &usize| !self.boundaries[*index].is_empty();
        (0..self.boundaries.len()).filter(acting).collect()
    }

    fn at_boundary(&self, index: usize) -> &[usize] {
        self.boundaries.get(index).map_or(&[], Vec::as_slice)
    }

    /// The adapters that act at a site, in order.
    pub(crate) fn at_site(&self, site: &Site) -> &[usize] {
        let block = self.sites.get(site.block).map_or(&[][..], Vec::as_slice);
        let found = block.iter().find(|(name, _)| *name == site.name);
        found.map_or(&[], |(_, places)| places)
    }
}

/// The acts during a forward pass.
#[derive(Clone, Copy)]
pub struct Hooks<'a> {
    // `None` for the backbone alone, so that a pass without adapters looks nothing up.
    acting: Option<(&'a Named<String, BoxedAdapter>, &'a Places)>,
    step: Option<&'a Step>,
    /// The place where blocks leave their attention weights, if they are asked for.
    pub(crate) attention: Option<&'a AttentionRecord>,
    /// The strength of the adapters, from absent (0) to unchanged (1).
    strength: f64,
}

/// A [`SiteAct`] in one forward pass, at the strength of the hooks.
#[allow(
    clippy::large_enum_variant,
    reason = "made once per site and pass, never stored"
)]
pub(crate) enum Act<'a> {
    /// See [`SiteAct::LowRank`].
    LowRank(SidePath),
    /// See [`SiteAct::InputLowRank`].
    InputLowRank(SidePath),
    /// See [`SiteAct::ScaleShift`].
    ScaleShift {
        on: Side,
        scale: Option<Tensor<1>>,
        shift: Option<Tensor<1>>,
    },
    /// See [`SiteAct::Weight`].
    Weight(WeightChange<'a>),
    /// See [`SiteAct::Branch`]. The strength is applied where the output of the branch is known.
    Branch(BranchFunction<'a>, Draws),
}

impl Act<'_> {
    /// Returns whether this act changes the input of its site.
    pub(crate) fn is_on_input(&self) -> bool {
        match self {
            Self::InputLowRank(_) => true,
            Self::ScaleShift { on, .. } => *on == Side::Input,
            _ => false,
        }
    }
}

impl<'a> Hooks<'a> {
    /// Hooks without acts: the backbone alone in evaluation.
    pub fn none() -> Self {
        Self {
            acting: None,
            step: None,
            attention: None,
            strength: 1.0,
        }
    }

    /// Hooks of these adapters, which act in order; with a `step` while training.
    pub(crate) fn new(
        adapters: &'a Named<String, BoxedAdapter>,
        places: &'a Places,
        step: Option<&'a Step>,
        strength: f64,
    ) -> Self {
        Self {
            acting: Some((adapters, places)),
            step,
            attention: None,
            strength,
        }
    }

    /// Applies the acts at boundary `index`.
    ///
    /// # Shapes
    /// The shape of the boundary with the batch in front; the result has the same, and the extra
    /// tokens that joined.
    pub fn at_boundary(&self, index: usize, mut x: Activation) -> Activation {
        for (_, act, draws) in self.boundary_acts(index) {
            x = match act {
                BoundaryAct::Add(delta) => join(x, self.weakened(delta), Join::Sum),
                BoundaryAct::Multiply(factor) => {
                    join(x, self.weakened_factor(factor), Join::Product)
                }
                BoundaryAct::Extras(extras) => with_extras(x, index, extras, &draws),
                BoundaryAct::Function(f) => self.between(x, |x| f(x, &draws)),
            };
        }
        x
    }

    /// Returns the acts at a boundary, in order, with the name of the adapter.
    pub(crate) fn boundary_acts(
        &self,
        index: usize,
    ) -> impl Iterator<Item = (&'a str, BoundaryAct<'a>, Draws)> + use<'a> {
        let acting = self.acting.into_iter();
        let step = self.step;
        acting.flat_map(move |(adapters, places)| {
            let acting = places.at_boundary(index).iter();
            acting.filter_map(move |place| {
                let (name, adapter) = adapters.nth(*place)?;
                let act = adapter.at_boundary(index)?;
                Some((name.as_str(), act, Draws::new(step, *place)))
            })
        })
    }

    /// Scales a delta to the strength of the hooks.
    pub(crate) fn weakened(&self, delta: Activation) -> Activation {
        match self.strength {
            1.0 => delta,
            strength => delta.scaled(strength),
        }
    }

    fn weakened_factor(&self, factor: Activation) -> Activation {
        match self.strength {
            1.0 => factor,
            // At strength 0 a factor must be 1, not 0: `1 + s (f - 1)`.
            s => factor.per_position(|factor| factor * s + (1.0 - s)),
        }
    }

    /// Returns `x + strength * (f(x) - x)`.
    fn between(&self, x: Activation, f: impl FnOnce(Activation) -> Activation) -> Activation {
        match self.strength {
            // The usual case must stay bit-identical and keep no copy of `x`.
            1.0 => f(x),
            strength => f(x.clone()).scaled(strength).plus(x.scaled(1.0 - strength)),
        }
    }

    /// Whether anything acts at a site, or drop path may drop it. If not, a backbone may compute it together
    /// with its neighbours.
    pub fn acts_at(&self, site: &Site) -> bool {
        let acts = |(_, places): (_, &Places)| !places.at_site(site).is_empty();
        let drops = |step: &Step| step.drop_path(site) > 0.0;
        self.acting.is_some_and(acts) || self.step.is_some_and(drops)
    }

    /// Returns the acts at a site, in the order of the adapters.
    pub(crate) fn at_site(&self, site: &Site) -> Vec<Act<'a>> {
        let Some((adapters, places)) = self.acting else {
            return Vec::new();
        };
        let mut acts = Vec::new();
        for place in places.at_site(site) {
            let Some((_, adapter)) = adapters.nth(*place) else {
                continue;
            };
            let draws = Draws::new(self.step, *place);
            let own = adapter.at_site(site).into_iter();
            acts.extend(own.map(|act| self.in_pass(act, draws)));
        }
        acts
    }

    /// Returns an act with the random numbers of its adapter, at the strength of the hooks.
    fn in_pass<'s>(&self, act: SiteAct<'s>, draws: Draws) -> Act<'s> {
        let strength = self.strength;
        let in_pass = |path| SidePath {
            path,
            draws,
            strength,
        };
        match act {
            SiteAct::LowRank(path) => Act::LowRank(in_pass(path)),
            SiteAct::InputLowRank(path) => Act::InputLowRank(in_pass(path)),
            SiteAct::ScaleShift { on, scale, shift } => {
                let (scale, shift) = match strength {
                    1.0 => (scale, shift),
                    s => (
                        scale.map(|scale| scale * s + (1.0 - s)),
                        shift.map(|shift| shift * s),
                    ),
                };
                Act::ScaleShift { on, scale, shift }
            }
            SiteAct::Weight(act) => Act::Weight(WeightChange { act, strength }),
            SiteAct::Branch(f) => Act::Branch(f, draws),
        }
    }

    /// Returns the output of a branch after the acts at its site, without the images for which drop path leaves
    /// it out. What an adapter adds to a branch is dropped with it.
    ///
    /// # Shapes
    /// All three values have the output's shape; the result has the same.
    pub fn at_branch(&self, site: &Site, values: BranchValues) -> Activation {
        let BranchValues {
            residual,
            normed,
            mut output,
        } = values;
        for act in self.at_site(site) {
            output = match act {
                Act::Branch(f, draws) => self.between(output, |output| {
                    let values = BranchValues {
                        residual: residual.clone(),
                        normed: normed.clone(),
                        output,
                    };
                    f(values, &draws)
                }),
                Act::ScaleShift {
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
        match self.step.filter(|step| step.drop_path(site) > 0.0) {
            Some(step) => {
                let kept = step.kept(site, output.batch());
                let kept = Tensor::from_data(&kept[..], &output.device());
                per_image(output, kept)
            }
            None => output,
        }
    }

    /// Whether tuned BatchNorm layers use and update batch statistics.
    pub(crate) fn batch_statistics(&self) -> bool {
        self.step.is_some_and(Step::batch_statistics)
    }

    /// Hands back a buffer's new value.
    pub(crate) fn update(&self, name: String, value: Tensor<1>) {
        if let Some(step) = self.step {
            step.update(name, value);
        }
    }
}

/// Appends the extra tokens of an adapter to the sequence.
fn with_extras(x: Activation, index: usize, extras: Extras, draws: &Draws) -> Activation {
    let Activation::Tokens(tokens) = x else {
        panic!("boundary {index} has {:?}, no tokens", x.shape())
    };
    let [batch, _, d] = tokens.x.dims();
    let [count, _] = extras.tokens.dims();
    let prompts = like(extras.tokens, &tokens.x)
        .unsqueeze::<3>()
        .expand([batch, count, d]);
    // The mask is drawn after expanding, so that every image of the batch has its own.
    let prompts = draws.dropout(prompts, extras.dropout, &format!("extras/{index}"));
    Activation::Tokens(tokens.with_extras(draws.owner(), prompts, extras.replace))
}

impl<'a> Hooks<'a> {
    /// Makes the pass of these hooks record attention weights.
    pub fn recording(mut self, record: &'a AttentionRecord) -> Self {
        self.attention = Some(record);
        self
    }

    /// Called by a block that attends: `weights` gives the weights and the values, and runs only in a pass
    /// that records them.
    pub fn attended(&self, branch: &Site, weights: impl FnOnce() -> [Tensor<4>; 2]) {
        if let Some(record) = self.attention {
            let [weights, values] = weights();
            record.add(Attended {
                branch: branch.name.clone(),
                weights,
                values,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use burn::module::Module;
    use burn::tensor::Device;

    use super::*;
    use crate::activation::BoundaryShape;
    use crate::adapter::Adapter;
    use crate::input::{CropMode, InputSpec, Interpolation};
    use crate::plug::Plug;
    use crate::site::SiteKind;

    /// Doubles the output of the site `acts` and counts how often it is asked about sites.
    #[derive(Module, Debug)]
    struct Doubles {
        #[module(skip)]
        asked: Arc<AtomicUsize>,
    }

    impl Adapter for Doubles {
        fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let double = SiteAct::ScaleShift {
                on: Side::Output,
                scale: Some(Tensor::full([4], 2.0, &Device::flex())),
                shift: None,
            };
            if site.name == "acts" {
                vec![double]
            } else {
                Vec::new()
            }
        }
    }

    fn spec() -> BackboneSpec {
        let tokens = BoundaryShape::Tokens { count: 2, width: 4 };
        let kind = SiteKind::Norm { channels: 4 };
        let sites = [("acts", 1), ("rests", 1), ("rests_later", 2)];
        BackboneSpec {
            name: "two blocks".to_owned(),
            depth: 2,
            boundaries: BackboneSpec::boundaries(
                tokens,
                &["first".to_owned(), "second".to_owned()],
                &[tokens; 3],
            ),
            sites: sites
                .map(|(name, block)| Site::new(name, block, kind))
                .into(),
            input: InputSpec {
                size: 8.into(),
                mean: [0.5; 3],
                std: [0.5; 3],
                interpolation: Interpolation::Bicubic,
                crop_pct: 1.0,
                crop_mode: CropMode::Center,
            },
            features: 4,
            head_name: "head",
        }
    }

    #[test]
    fn an_adapter_is_asked_only_where_it_acts_and_only_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let doubles = Doubles {
            asked: asked.clone(),
        };
        let adapter: BoxedAdapter = Plug::new(Box::new(doubles));
        let adapters = [("doubles".to_owned(), adapter)].into_iter().collect();
        let spec = spec();
        let places = Places::of(&adapters, &spec);
        let hooks = Hooks::new(&adapters, &places, None, 1.0);
        let before = asked.load(Ordering::Relaxed);
        let acts: Vec<bool> = spec.sites.iter().map(|site| hooks.acts_at(site)).collect();
        assert_eq!(acts, [true, false, false]);
        assert_eq!(asked.load(Ordering::Relaxed), before);
        let counts: Vec<usize> = (spec.sites.iter())
            .map(|site| hooks.at_site(site).len())
            .collect();
        assert_eq!(counts, [1, 0, 0]);
        assert_eq!(asked.load(Ordering::Relaxed), before + 1);
    }
}
