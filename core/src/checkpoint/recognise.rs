//! Recognises the backbone of a checkpoint: every linked family is asked for a configuration that
//! fits its shapes.

use std::cell::RefCell;

use burn::tensor::Device;
use serde_json::{Value, json};

use super::file::Checkpoint;
use super::prefix::wrappers;
use super::shapes::Shapes;
use super::survey::Survey;
use crate::backbone::{Backbone, BackboneConfig, ImageSize};
use crate::error::Result;
use crate::facts::{Published, same};
use crate::init::Init;
use crate::layout::Layout;
use crate::params;
use crate::registry::{Plugin, PluginKind, plugins};

/// The configuration that a family found for a checkpoint.
pub struct Recognised {
    /// The family.
    pub plugin: &'static Plugin,
    /// The configuration that the checkpoint fills, or comes closest to filling.
    pub config: Box<dyn BackboneConfig>,
    /// The backbone that is built from it, without values.
    pub backbone: Box<dyn Backbone>,
    /// Number of values in its parameters, without buffers.
    pub parameters: usize,
    /// How well the checkpoint fits it.
    pub survey: Survey,
    /// Facts that the shapes do not show, with what would decide.
    pub unsure: Vec<String>,
}

/// Finds the linked family and the configuration that fit best; a published variant is preferred if it
/// fits equally well. None if no family knows the names.
///
/// # Errors
/// If a family returns a configuration that cannot be built, which is a defect of the family.
pub fn recognise(file: &Checkpoint, published: Option<&Published>) -> Result<Option<Recognised>> {
    let mut best: Option<Recognised> = None;
    let wrappers = wrappers(file.names());
    for plugin in plugins(PluginKind::Backbone) {
        let Some(family) = plugin.family else {
            continue;
        };
        let layouts = std::iter::once(&CANONICAL).chain(family.layouts);
        let readings = layouts.flat_map(|layout| {
            let prefixes = wrappers.iter().flat_map(move |wrapper| {
                let prefixes = layout.prefixes.iter();
                prefixes.map(move |prefix| format!("{wrapper}{prefix}"))
            });
            prefixes.map(move |prefix| (layout, prefix))
        });
        for (layout, prefix) in readings {
            let own =
                |name: &str| Some((layout.own(name.strip_prefix(&prefix)?)?, name.to_owned()));
            let shapes = Shapes {
                file,
                layout: *layout,
                keys: file.names().filter_map(own).collect(),
                num_heads: published.and_then(|published| published.num_heads),
                image_size: file
                    .image_size()
                    .or_else(|| published.and_then(Published::image_size)),
                unsure: RefCell::default(),
            };
            if let Some(config) = (family.recognise)(&shapes) {
                let recognised = Recognised {
                    unsure: shapes.unsure.take(),
                    ..Recognised::of(plugin, config, file)?
                };
                if best.as_ref().is_none_or(|best| recognised.nearer(best)) {
                    best = Some(recognised);
                }
            }
        }
    }
    match best {
        Some(best) => best.into_variant(file, published).map(Some),
        None => Ok(None),
    }
}

/// What a checkpoint is that no family has, if one of its tensors shows it: the tensor's name and the
/// reason.
pub fn foreign(file: &Checkpoint) -> Option<(String, &'static str)> {
    let families = plugins(PluginKind::Backbone).into_iter();
    let families: Vec<_> = families.filter_map(|plugin| plugin.family).collect();
    file.names().find_map(|name| {
        let shaped = format!("{name} {:?}", file.shape(name).unwrap_or_default());
        let texts = [name, &shaped].into_iter();
        let mut reasons = texts.flat_map(|text| {
            families
                .iter()
                .filter_map(move |family| (family.foreign)(text))
        });
        Some((name.to_owned(), reasons.next()?))
    })
}

impl Recognised {
    fn of(
        plugin: &'static Plugin,
        config: Box<dyn BackboneConfig>,
        file: &Checkpoint,
    ) -> Result<Self> {
        let backbone = config.build(&Init::empty(&Device::flex()))?;
        let infos = params::infos_erased(&*backbone).into_iter();
        Ok(Self {
            plugin,
            config,
            parameters: infos
                .filter(|info| !info.buffer)
                .map(|info| info.count())
                .sum(),
            survey: Survey::of(&*backbone, file, None)?,
            backbone,
            unsure: Vec::new(),
        })
    }

    /// Whether another configuration agrees with the facts that this one states and that the file shows. Not
    /// all of it shows in the shapes of parameters, which are compared anyway: a window does in a constant.
    fn shows_what(&self, other: &dyn BackboneConfig) -> bool {
        let (Ok(stated), Ok(facts)) = (serde_json::to_value(&self.config), other.facts()) else {
            return false;
        };
        let shown = self.plugin.family.map_or(&[][..], |family| family.shown_by);
        let names = shown.iter().map(|(name, _)| *name);
        names.chain(["window_size"]).all(|name| {
            let (own, other) = (&stated[name], facts.get(name));
            own.is_null() || other.is_none_or(|other| same(name, own, other))
        })
    }

    /// A published variant at an image size of its own or of the file, with the options that the layout decides:
    /// libraries pool and activate otherwise with the same weights. None unless `changes` of them are not the
    /// variant's own.
    fn variant(
        &self,
        name: &str,
        size: Option<ImageSize>,
        changes: usize,
    ) -> Option<Box<dyn BackboneConfig>> {
        let mut value = json!({"name": self.plugin.name, "variant": name});
        if let Some(size) = size {
            value["img_size"] = json!(size);
        }
        let variant: Box<dyn BackboneConfig> = serde_json::from_value(value).ok()?;
        let (mut value, facts) = (serde_json::to_value(&variant).ok()?, variant.facts().ok()?);
        let stated = serde_json::to_value(&self.config).ok()?;
        let mut changed = 0;
        for option in OPTIONS {
            let own = &stated[option];
            if !own.is_null() && facts.get(option) != Some(own) {
                value[option] = own.clone();
                changed += 1;
            }
        }
        match changed {
            _ if changed != changes => None,
            0 => Some(variant),
            _ => serde_json::from_value(value).ok(),
        }
    }

    fn nearer(&self, other: &Self) -> bool {
        self.survey.distance() < other.survey.distance()
    }

    /// The published variant that fits equally well, if there is one: the one that a file beside the
    /// checkpoint names, or else the first; at the image size of the checkpoint.
    fn into_variant(self, file: &Checkpoint, published: Option<&Published>) -> Result<Self> {
        let size = self.config.input()?.size;
        let named = published.and_then(Published::architecture);
        let family = self.plugin.family;
        let names = family.map_or(Vec::new(), |family| (family.variants)());
        // The named variant first, then those that need the fewest other options than they are published with,
        // in the order of the table: another variant's heads, which no shape shows, may be others.
        let (stated, others): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| Some(*name) == named);
        let changes = 0..=OPTIONS.len();
        let turns = [&stated, &others].into_iter();
        for (names, changes) in turns.flat_map(|names| changes.clone().map(move |n| (names, n))) {
            let fits = |name: &&'static str| {
                let variant = self.fitting(name, size, changes, file);
                Some((*name, variant.transpose()?))
            };
            let mut fits = names.iter().filter_map(fits);
            let Some((name, found)) = fits.next() else {
                continue;
            };
            let (found, mut unsure) = (found?, self.unsure.clone());
            let heads = found.heads();
            for (other, variant) in fits {
                let others = variant?.heads();
                if let (Some(heads), Some(others)) = (&heads, others)
                    && *heads != others
                {
                    unsure.push(format!(
                        "num_heads is {heads}, that of {name}: {other} has tensors of the same names and shapes, \
                         and {others}; `variant` decides"
                    ));
                }
            }
            return Ok(Self { unsure, ..found });
        }
        Ok(self)
    }

    /// A published variant, at its own image size or at that of the file, that fits as well as this configuration.
    fn fitting(
        &self,
        name: &str,
        size: ImageSize,
        changes: usize,
        file: &Checkpoint,
    ) -> Result<Option<Self>> {
        for size in [None, Some(size)] {
            let Some(config) = self.variant(name, size, changes) else {
                continue;
            };
            // Facts rule out most variants without building one.
            if !self.shows_what(&*config) {
                continue;
            }
            // Not every size is valid for a variant: it must be a multiple of the patch size, say.
            let Ok(backbone) = config.build(&Init::empty(&Device::flex())) else {
                continue;
            };
            let infos = params::infos_erased(&*backbone).into_iter();
            let infos = infos.filter(|info| !info.buffer);
            // Surveying is slow and the number of parameters rules out most others. It may differ
            // a little, because bias tables and position embeddings depend on the image size.
            let parameters: usize = infos.map(|info| info.count()).sum();
            if parameters.abs_diff(self.parameters) * 20 > self.parameters {
                continue;
            }
            let variant = Self::of(self.plugin, config, file)?;
            if !self.nearer(&variant) {
                return Ok(Some(variant));
            }
        }
        Ok(None)
    }

    /// The number of attention heads, where the family has one.
    fn heads(&self) -> Option<Value> {
        self.config.facts().ok()?.get("num_heads").cloned()
    }
}

/// The options that the layout of a checkpoint decides.
const OPTIONS: [&str; 2] = ["act_layer", "global_pool"];

static CANONICAL: Layout = Layout::canonical("head");
