//! What a checkpoint is of: every linked family is asked for a configuration that its shapes fit.

use burn::tensor::Device;
use serde_json::json;

use super::file::Checkpoint;
use super::load::Survey;
use super::shapes::Shapes;
use crate::backbone::{Backbone, BackboneConfig};
use crate::error::Result;
use crate::init::Init;
use crate::input::Published;
use crate::layout::Layout;
use crate::params;
use crate::registry::{Plugin, PluginKind, plugins};

/// A family's answer.
pub struct Recognised {
    /// The family.
    pub plugin: &'static Plugin,
    /// A configuration that the checkpoint fills, or comes closest to.
    pub config: Box<dyn BackboneConfig>,
    /// What is built from it, without values.
    pub backbone: Box<dyn Backbone>,
    /// Values of its parameters, buffers not counted.
    pub parameters: usize,
    /// How well they fit.
    pub survey: Survey,
}

/// The linked family and the configuration that fit best, a published variant where one fits as well;
/// none if no family knows the names.
///
/// # Errors
/// If a family gives a configuration that cannot be built, which is a defect of it.
pub fn recognise(file: &Checkpoint, published: Option<&Published>) -> Result<Option<Recognised>> {
    let mut best: Option<Recognised> = None;
    for plugin in plugins(PluginKind::Backbone) {
        let Some(family) = plugin.family else {
            continue;
        };
        let layouts = std::iter::once(&CANONICAL).chain(family.layouts);
        for (layout, prefix) in layouts.flat_map(|layout| layout.readings()) {
            let own = |name: &str| Some((layout.own(name.strip_prefix(prefix)?)?, name.to_owned()));
            let shapes = Shapes {
                file,
                layout: *layout,
                keys: file.names().filter_map(own).collect(),
                num_heads: published.and_then(|published| published.num_heads),
            };
            if let Some(config) = (family.recognise)(&shapes) {
                let recognised = Recognised::of(plugin, config, file)?;
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
        })
    }

    fn nearer(&self, other: &Self) -> bool {
        self.survey.distance() < other.survey.distance()
    }

    /// The variant that fits as well: the one that a file beside the checkpoint names, or the first,
    /// at the checkpoint's image size.
    fn into_variant(self, file: &Checkpoint, published: Option<&Published>) -> Result<Self> {
        let size = self.config.input()?.size;
        let named = published.and_then(|published| published.architecture.as_deref());
        let mut names = self
            .plugin
            .family
            .map_or(Vec::new(), |family| (family.variants)());
        names.sort_by_key(|name| Some(*name) != named);
        for name in names {
            for size in [None, Some(size)] {
                let mut value = json!({"name": self.plugin.name, "variant": name});
                if let Some(size) = size {
                    value["img_size"] = size.into();
                }
                let Ok(config) = serde_json::from_value::<Box<dyn BackboneConfig>>(value) else {
                    continue;
                };
                // Not every size is one of a variant's: a multiple of its patches, say.
                let Ok(backbone) = config.build(&Init::empty(&Device::flex())) else {
                    continue;
                };
                let infos = params::infos_erased(&*backbone).into_iter();
                let infos = infos.filter(|info| !info.buffer);
                // Most are ruled out by their size; only bias tables and position embeddings differ.
                let parameters: usize = infos.map(|info| info.count()).sum();
                if parameters.abs_diff(self.parameters) * 20 > self.parameters {
                    continue;
                }
                let variant = Self::of(self.plugin, config, file)?;
                if !self.nearer(&variant) {
                    return Ok(variant);
                }
            }
        }
        Ok(self)
    }
}

static CANONICAL: Layout = Layout::canonical("head");
