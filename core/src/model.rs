//! The assembled model: a backbone, adapters and a head that are one Burn module.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Serialize;

use crate::activation::Activation;
use crate::acts::BoundaryAct;
use crate::adapter::BoxedAdapter;
use crate::backbone::BoxedBackbone;
use crate::check;
use crate::error::{Error, Result};
use crate::head::Head;
use crate::hooks::{Act, Hooks, Places};
use crate::init::Init;
use crate::mapped_head::{MAPPING, mapping_data};
use crate::merge;
use crate::method::{self, AdaptationMethod, Selection, Statistics, Tuned, name_of};
use crate::named::Named;
use crate::params::{self, ParamInfo, Tensors, floats};
use crate::plug::Plug;
use crate::side::SideNetwork;
use crate::spec::{BackboneSpec, Cut};
use crate::step::{Draws, Step};
use crate::taps::{Tapped, Taps};

/// A frozen backbone, the adapters of its methods, and a head.
#[derive(Module, Debug)]
pub struct Model {
    /// The feature extractor.
    pub backbone: BoxedBackbone,
    /// Adapters by method name, in the order in which they act.
    pub adapters: Named<String, BoxedAdapter>,
    /// Turns features into logits.
    pub head: Head,
    #[module(skip)]
    assembly: Assembly,
}

/// Everything that was decided when the model was assembled.
#[derive(Clone, Debug)]
struct Assembly {
    /// Names of all parameters that train.
    trainable: BTreeSet<String>,
    /// The places where adapters act.
    places: Places,
    batch_statistics: bool,
    /// The cuts at which the part that trains reads the frozen prefix.
    taps: Taps,
    /// Factors of the learning rate by name, where they are not 1.
    rates: BTreeMap<String, f64>,
    selection: Option<Selection>,
    remarks: Vec<String>,
    /// The strength of the adapters: 1, unless the model was scaled.
    strength: f64,
    merged: bool,
}

impl Model {
    /// Attaches `methods` to a backbone, in order, and adds a head. Everything that no method trains is
    /// frozen; a linear head always trains.
    ///
    /// # Errors
    /// The error of a method that does not fit, or [`Error::Conflict`] if two contradict each other.
    pub fn assemble(
        backbone: BoxedBackbone,
        methods: &[Box<dyn AdaptationMethod>],
        head: impl Into<Head>,
        init: &Init,
    ) -> Result<Self> {
        let (mut tuned, mut remarks, mut rates) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut adapters: Vec<(String, BoxedAdapter)> = Vec::new();
        for (place, method) in methods.iter().enumerate() {
            // The first method has no scope, so its initial values are the same alone and in a
            // list.
            let scope = if place == 0 {
                String::new()
            } else {
                format!("{place}/")
            };
            let attachment = method.attach(&*backbone, &init.scoped(scope))?;
            // Conflicts show only once all methods are attached: they depend on the pair.
            tuned.push(attachment.tuned);
            remarks.extend(attachment.remarks);
            if let Some(adapter) = attachment.adapter {
                let name = name_of(&**method);
                // A method that is listed twice has two adapters, `lora` and `lora-2`.
                let taken = |name: &str| adapters.iter().any(|(other, _)| other == name);
                let mut unique = name.clone();
                let mut count = 1;
                while taken(&unique) {
                    count += 1;
                    unique = format!("{name}-{count}");
                }
                let own = attachment.rates.into_iter();
                rates.extend(own.map(|(name, rate)| (format!("{unique}.{name}"), rate)));
                adapters.push((unique, Plug::new(adapter)));
            }
        }
        let tuned = Tuned::unite(tuned)?;
        let of_tuned = tuned.rates.iter();
        rates.extend(of_tuned.map(|(name, rate)| (format!("backbone.{name}"), *rate)));
        let adapters = adapters.into_iter().collect();
        let places = Places::of(&adapters, backbone.spec());
        let mut model = Self {
            backbone,
            adapters,
            head: head.into(),
            assembly: Assembly {
                trainable: BTreeSet::new(),
                places,
                batch_statistics: tuned.statistics == Statistics::Batch,
                taps: Taps::at(0),
                rates,
                selection: tuned.selection,
                remarks,
                strength: 1.0,
                merged: false,
            },
        };
        model.check_image()?;
        model.check_sites()?;
        model.check_side(&tuned)?;
        let features = method::features(methods, &*model.backbone)?;
        if model.head.features() != features {
            return Err(Error::Conflict(format!(
                "the head reads {} features, the model makes {features}; expected a new linear head",
                model.head.features()
            )));
        }
        // Nothing trains by default: what no method names stays frozen, even if Burn made it
        // trainable.
        let names = model.trainable_names(&tuned)?;
        // Identities follow from the names in the assembled model, so that a restarted process
        // finds the state of its optimiser again.
        model = params::identify(params::train_only(model, &names));
        model.assembly.trainable = names;
        model.assembly.taps = match model.side() {
            Some((_, _, side)) => Taps::of_side(side.taps(), model.spec().features_cut()),
            None => Taps::at(model.derive_first_cut(&tuned)),
        };
        Ok(model)
    }

    /// Checks that a function of the image, such as a frame around it, is the first act at boundary
    /// 0.
    fn check_image(&self) -> Result<()> {
        let later = self.hooks(None).boundary_acts(0).skip(1);
        let mut functions = later.filter(|(_, act, _)| matches!(act, BoundaryAct::Function(_)));
        match functions.next() {
            Some((name, ..)) => Err(Error::Conflict(format!(
                "{name} replaces the image; it must be the first method in the list and occur once"
            ))),
            None => Ok(()),
        }
    }

    /// Checks that a path which rescales the frozen weight (DoRA) comes before every other act on
    /// its rows, and a function of the weight before every act on the output but another one.
    fn check_sites(&self) -> Result<()> {
        let hooks = self.hooks(None);
        for site in &self.spec().sites {
            let acts = hooks.at_site(site);
            let meets_another = |(i, act): (usize, &Act)| match act {
                Act::LowRank(own) if own.path.magnitude.is_some() => {
                    acts[..i].iter().any(|earlier| match earlier {
                        Act::LowRank(earlier) => earlier.path.overlaps(&own.path),
                        _ => true,
                    })
                }
                Act::Weight(_) => acts[..i]
                    .iter()
                    .any(|earlier| !(earlier.is_on_input() || matches!(earlier, Act::Weight(_)))),
                _ => false,
            };
            if acts.iter().enumerate().any(meets_another) {
                return Err(Error::Conflict(format!(
                    "{}: a low-rank path with a magnitude or a function of the weight must be the first \
                     to act; put its method first in the list",
                    site.name
                )));
            }
        }
        Ok(())
    }

    /// Checks that a side network is the only method that does anything: its trunk stays frozen.
    fn check_side(&self, tuned: &Tuned) -> Result<()> {
        let Some((_, name, _)) = self.side() else {
            return Ok(());
        };
        let (boundaries, sites) = self.acts();
        let other = self
            .adapters
            .iter()
            .any(|(other, adapter)| other != name && adapter.side().is_some());
        if other || !tuned.names.is_empty() || !boundaries.is_empty() || !sites.is_empty() {
            return Err(Error::Conflict(format!(
                "{name} is a side network, whose backbone stays frozen; expected no other method that \
                 adapts or tunes it"
            )));
        }
        Ok(())
    }

    /// The side network that makes the features, if there is one, with its place among the adapters and its
    /// name.
    pub(crate) fn side(&self) -> Option<(usize, &str, &dyn SideNetwork)> {
        let mut adapters = self.adapters.iter().enumerate();
        adapters.find_map(|(place, (name, adapter))| Some((place, name.as_str(), adapter.side()?)))
    }

    fn trainable_names(&self, tuned: &Tuned) -> Result<BTreeSet<String>> {
        let infos = params::infos(self);
        let own = |name: &str| name.strip_prefix("backbone.").map(str::to_owned);
        let parameters = infos.iter().filter(|info| !info.buffer);
        let known: BTreeSet<_> = parameters.filter_map(|info| own(&info.name)).collect();
        if let Some(name) = tuned.names.difference(&known).next() {
            return Err(Error::Conflict(format!(
                "{} has no parameter {name} that a method could tune",
                self.spec().name
            )));
        }
        let trains = |info: &ParamInfo| match own(&info.name) {
            _ if info.buffer => false,
            Some(name) => tuned.names.contains(&name),
            None => self.head.trains() || !info.name.starts_with("head."),
        };
        Ok(infos
            .into_iter()
            .filter(trains)
            .map(|info| info.name)
            .collect())
    }

    /// The first cut at which something trains: the smallest boundary or block where an adapter acts or
    /// a parameter is tuned; the features if there is none.
    fn derive_first_cut(&self, tuned: &Tuned) -> Cut {
        let spec = self.spec();
        let (boundaries, sites) = self.acts();
        // A boundary `l` is the input of block `l`, so both are cuts.
        let tuned = tuned.names.iter().map(|name| spec.block_of(name));
        boundaries
            .into_iter()
            .chain(
                sites
                    .into_iter()
                    .filter_map(|name| spec.site(&name).map(|s| s.block)),
            )
            .chain(tuned)
            .min()
            .unwrap_or(spec.features_cut())
    }

    /// The boundaries and the names of the sites at which an adapter acts.
    pub fn acts(&self) -> (Vec<usize>, Vec<String>) {
        let hooks = self.hooks(None);
        let sites = self.spec().sites.iter().filter(|site| hooks.acts_at(site));
        let sites = sites.map(|site| site.name.clone()).collect();
        (self.assembly.places.boundaries(), sites)
    }

    /// The backbone's boundaries and sites.
    pub fn spec(&self) -> &BackboneSpec {
        self.backbone.spec()
    }

    /// The cut below which everything is constant while training: the end of the prefix.
    pub fn first_cut(&self) -> Cut {
        self.assembly.taps.end()
    }

    /// Returns the cuts at which the part that trains reads the frozen prefix.
    pub fn taps(&self) -> &Taps {
        &self.assembly.taps
    }

    /// Runs a span of the backbone with the adapters that act in it.
    ///
    /// # Shapes
    /// See [`crate::backbone::Backbone::forward`].
    pub fn span(&self, x: Activation, span: Range<Cut>, step: Option<&Step>) -> Activation {
        self.backbone.forward(x, span, &self.hooks(step))
    }

    /// The hooks of a forward pass.
    pub(crate) fn hooks<'a>(&'a self, step: Option<&'a Step>) -> Hooks<'a> {
        let Assembly {
            places, strength, ..
        } = &self.assembly;
        Hooks::new(&self.adapters, places, step, *strength)
    }

    /// Logits from the value at cut `from`, or from the values at the [`taps`](Self::taps) if `from` is
    /// their end.
    ///
    /// # Shapes
    /// `[b, ..] -> [b, classes]`.
    pub fn logits(&self, x: impl Into<Tapped>, from: Cut, step: Option<&Step>) -> Tensor<2> {
        self.head.forward(self.features(x, from, step))
    }

    /// The features that the head reads, from the same values as [`logits`](Self::logits).
    ///
    /// # Shapes
    /// `[b, ..] -> [b, features]`.
    pub fn features(&self, x: impl Into<Tapped>, from: Cut, step: Option<&Step>) -> Tensor<2> {
        if let Some((place, _, side)) = self.side() {
            let tapped = self.assembly.taps.tap(&*self.backbone, x, from);
            let draws = Draws::new(step, place);
            return side.features(&self.backbone, tapped.into_values(), &draws);
        }
        let x = x.into().single();
        match self.span(x, from..self.spec().features_cut(), step) {
            Activation::Features(features) => features,
            other => panic!(
                "expected features from the backbone, got shape {:?}",
                other.shape()
            ),
        }
    }

    /// The random numbers and buffers of one training step.
    pub fn step(&self, seed: u64, number: u64, part: usize) -> Step {
        Step::new(seed, number, part, self.assembly.batch_statistics)
    }

    /// Whether a step computes statistics over the images of its batch, in tuned BatchNorm layers.
    pub fn has_batch_statistics(&self) -> bool {
        let infos = params::infos(self);
        let mut buffers = infos.iter().filter(|info| info.buffer);
        self.assembly.batch_statistics && buffers.any(|info| info.name.starts_with("backbone."))
    }

    /// The model with the buffers that a step updated.
    pub fn with_updates(self, step: Step) -> Self {
        let prefixed = |(name, value)| (format!("backbone.{name}"), value);
        let updates = step.into_updates().into_iter().map(prefixed).collect();
        params::update_buffers(self, updates)
    }

    /// The model with its frozen part in `dtype`; trained parameters keep their type.
    pub fn with_compute_type(self, dtype: DType) -> Self {
        let mut kept = self.assembly.trainable.clone();
        // Indices of classes are not rounded.
        kept.insert(MAPPING.to_owned());
        params::cast_except(self, &kept, dtype)
    }

    /// Factor of the learning rate for the parameter of that name.
    pub fn rate(&self, name: &str) -> f64 {
        self.assembly.rates.get(name).copied().unwrap_or(1.0)
    }

    /// Returns how the entries of the tuned parameters that train are to be chosen. Without a choice, all of them
    /// train. Whoever trains the model carries it out.
    pub fn selection(&self) -> Option<Selection> {
        self.assembly.selection
    }

    /// Whether weight decay applies to a parameter where only matrices decay, as timm's
    /// `param_groups_weight_decay` decides: not to those of at most one axis, to biases and to those that
    /// the backbone lists.
    pub fn decays(&self, info: &ParamInfo) -> bool {
        let own = info.name.strip_prefix("backbone.");
        let listed = own.is_some_and(|name| self.backbone.spared_from_decay(name));
        info.shape.len() > 1 && !info.name.ends_with(".bias") && !listed
    }

    /// The remarks of the methods from when they were attached.
    pub fn remarks(&self) -> &[String] {
        &self.assembly.remarks
    }

    /// The model between the frozen backbone (0) and the trained model (1): the effect of adapters is
    /// scaled, and tuned parameters are interpolated between `frozen`, their values before training by
    /// canonical name, and their own (Wortsman et al. 2022). The head stays as it is.
    ///
    /// # Errors
    /// [`Error::Unfoldable`] if extra tokens or a function act at a boundary, which cannot be scaled;
    /// [`Error::Config`] for a scale that is not finite.
    pub fn scaled(mut self, strength: f64, frozen: &Tensors) -> Result<Self> {
        check::finite("scale", strength)?;
        self.refuse_side(
            "scale",
            "its features are neither a sum nor a product with the backbone's",
        )?;
        for boundary in &self.spec().boundaries {
            for (name, act, _) in self.hooks(None).boundary_acts(boundary.index) {
                if matches!(act, BoundaryAct::Extras(_) | BoundaryAct::Function(_)) {
                    return Err(Error::Unfoldable {
                        what: "scale",
                        reason: format!(
                            "what {name} does at {boundary} is neither a sum nor a product"
                        ),
                    });
                }
            }
        }
        let own = params::read(&self, |info| frozen.contains_key(&info.name));
        let between = own.into_iter().map(|(name, own)| {
            let shape = own.shape().clone();
            let start = floats(frozen[&name].clone());
            let line = |(a, b): (f32, f32)| a + strength as f32 * (b - a);
            let values: Vec<f32> = start.into_iter().zip(floats(own)).map(line).collect();
            (name, TensorData::new(values, shape))
        });
        self = params::write(self, between.collect()).map_err(|mismatch| {
            Error::Conflict(format!("the values before training: {mismatch:?}"))
        })?;
        self.assembly.strength = strength;
        Ok(self)
    }

    /// The same model with its adapters folded into the backbone's weights.
    ///
    /// # Errors
    /// [`Error::Unfoldable`] for an act that has no exact fold, or if the model was merged before.
    pub fn merged(&self) -> Result<Self> {
        if self.assembly.merged {
            return Err(Error::Unfoldable {
                what: "merge",
                reason: "the model is already merged".to_owned(),
            });
        }
        self.refuse_side("merge", "it is a network of its own beside the backbone")?;
        let mut merged = self.valid();
        let mut on_cpu = merged.clone();
        on_cpu.adapters = on_cpu.adapters.to_device(&Device::flex());
        merged.backbone = merge::fold(&merged.backbone, &merged.hooks(None), &on_cpu.hooks(None))?;
        // The folded acts must not act again.
        merged.adapters = std::iter::empty().collect();
        merged.assembly.places = Places::default();
        merged.assembly.strength = 1.0;
        merged.assembly.merged = true;
        Ok(merged)
    }

    /// The error of what cannot be done with a side network, if there is one.
    ///
    /// # Errors
    /// [`Error::Unfoldable`] with the name of the method and the reason.
    pub fn refuse_side(&self, what: &'static str, reason: &str) -> Result<()> {
        match self.side() {
            Some((_, name, _)) => Err(Error::Unfoldable {
                what,
                reason: format!("{name}: {reason}"),
            }),
            None => Ok(()),
        }
    }

    /// Whether the parameter of that name trains.
    pub fn trains(&self, name: &str) -> bool {
        self.assembly.trainable.contains(name)
    }

    /// Whether a parameter or buffer must be saved: everything that trains, a label map, and the other
    /// buffers if training changes them.
    pub fn saved(&self, info: &ParamInfo) -> bool {
        // Buffers of adapters are constants that follow from a seed.
        let changes = self.assembly.batch_statistics && info.name.starts_with("backbone.");
        let changes = changes || info.name == MAPPING;
        self.trains(&info.name) || (info.buffer && changes)
    }

    /// The model with another label map: for each target class the source classes that stand for it.
    ///
    /// # Errors
    /// [`Error::Conflict`] if its head has no label map of that shape.
    pub fn with_mapping(self, mapping: &[Vec<usize>]) -> Result<Self> {
        let data = Tensors::from([(MAPPING.to_owned(), mapping_data(mapping))]);
        params::write(self, data)
            .map_err(|mismatch| Error::Conflict(format!("the label map: {mismatch:?}")))
    }

    /// Counts the parameters by group.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for info in params::infos(self).iter().filter(|info| !info.buffer) {
            counts.total += info.count();
            counts.total_bytes += info.bytes;
            if !self.trains(&info.name) {
                continue;
            }
            counts.trainable += info.count();
            match info.name.split('.').next() {
                Some("backbone") => counts.tuned += info.count(),
                Some("head") => counts.head += info.count(),
                _ => counts.adapter += info.count(),
            }
        }
        if let Some(selection) = self.assembly.selection {
            let entries = selection.entries(counts.tuned);
            counts.trainable -= counts.tuned - entries;
            counts.tuned = entries;
        }
        counts
    }
}

/// Numbers of parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All parameters, including frozen ones; buffers are not parameters.
    pub total: usize,
    /// Bytes of all parameters.
    pub total_bytes: usize,
    /// Parameters that train: `adapter + tuned + head`.
    pub trainable: usize,
    /// Parameters in the adapters.
    pub adapter: usize,
    /// Parameters of the backbone that train; of a selection, the entries that it chooses.
    pub tuned: usize,
    /// Parameters in the head.
    pub head: usize,
}
