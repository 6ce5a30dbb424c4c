//! The linked plugins: methods, backbones and data sets, under the names that a YAML uses.
//!
//! `typetag` reads the YAML; the registry holds what people read and what other code must look up. A
//! crate registers its plugin with [`register!`](crate::register); to be linked it needs a
//! `use crate_name as _;` in exactly one place.

use crate::backbone::BackboneConfig;
use crate::checkpoint::shapes::Shapes;
use crate::error::{Error, Result};
use crate::hf_peft::folder::Format;
use crate::layout::Layout;

/// A registered plugin.
pub struct Plugin {
    /// The kind of plugin.
    pub kind: PluginKind,
    /// The `name:` of its YAML.
    pub name: &'static str,
    /// A line for lists.
    pub summary: &'static str,
    /// Title, authors and year of the publication that it implements.
    pub reference: &'static str,
    /// An example of its YAML, with fields at their defaults where they have one.
    pub example: &'static str,
    /// YAMLs of backbones that are small enough to be trained in tests: one for each variety that a
    /// method may meet. The golden values of methods were made on the first.
    pub tiny: &'static [&'static str],
    /// The way in which checkpoints of a family of backbones are recognised.
    pub family: Option<Family>,
    /// The form of a method in HF PEFT's folders, if that library has it.
    pub hf_peft: Option<Format>,
    /// JSON Schema of its configuration.
    pub schema: fn() -> schemars::Schema,
    /// The crate that registered it.
    pub crate_name: &'static str,
}

inventory::collect!(Plugin);

/// The published variants of a family of backbones, and how a checkpoint of one is recognised.
#[derive(Clone, Copy)]
pub struct Family {
    /// The names of its variants.
    pub variants: fn() -> Vec<&'static str>,
    /// The layouts of libraries other than timm and torchvision.
    pub layouts: &'static [Layout],
    /// The configuration of a backbone whose parameters have these shapes; none if it is not of this
    /// family.
    pub recognise: fn(&Shapes) -> Option<Box<dyn BackboneConfig>>,
    /// The facts that shapes show, each with the canonical name of a tensor that does: `{}` is the last
    /// of a row of numbers, `{s}` the stage, `{s+1}` the number after it.
    pub shown_by: &'static [(&'static str, &'static str)],
    /// Why a tensor of this name (as any library writes it), or of this name and shape (`name [rows,
    /// columns]`), belongs to a network that the family does not have, if it is a known one.
    pub foreign: fn(&str) -> Option<&'static str>,
}

/// The kind of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PluginKind {
    /// An [`crate::AdaptationMethod`].
    Method,
    /// A [`crate::BackboneConfig`].
    Backbone,
    /// A [`crate::DatasetConfig`].
    Dataset,
}

impl PluginKind {
    /// The key that a YAML uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Backbone => "backbone",
            Self::Dataset => "dataset",
        }
    }
}

/// Registers a plugin: `register!(Method, Lora, name: "lora", summary: "..", reference: "..",
/// example: "..")`. A method that HF PEFT also has adds `hf_peft: { peft_type: "LORA", read: read,
/// write: write }`, where `write` takes a reference to the method itself.
#[macro_export]
macro_rules! register {
    ($kind:ident, $config:ty, name: $name:expr, summary: $summary:expr,
     reference: $reference:expr, example: $example:expr $(, tiny: $tiny:expr)?
     $(, family: $family:expr)?
     $(, hf_peft: { peft_type: $peft_type:expr, read: $read:expr, write: $write:expr })? $(,)?) => {
        $crate::inventory::submit! {
            $crate::registry::Plugin {
                kind: $crate::registry::PluginKind::$kind,
                name: $name,
                summary: $summary,
                reference: $reference,
                example: $example,
                tiny: $crate::register!(@tiny $($tiny)?),
                family: $crate::register!(@some $($family)?),
                hf_peft: $crate::register!(@hf_peft $config $(, $peft_type, $read, $write)?),
                schema: || $crate::schemars::schema_for!($config),
                crate_name: env!("CARGO_PKG_NAME"),
            }
        }
    };
    // Rules that begin with `@` are internal. They turn optional arguments into expressions.
    (@some) => { None };
    (@some $some:expr) => { Some($some) };
    (@hf_peft $config:ty) => { None };
    (@hf_peft $config:ty, $peft_type:expr, $read:expr, $write:expr) => {
        Some($crate::hf_peft::Format {
            peft_type: $peft_type,
            read: $read,
            write: |method, backbone, layout, values| {
                let method: &dyn ::std::any::Any = method;
                match method.downcast_ref::<$config>() {
                    Some(method) => $write(method, backbone, layout, values),
                    None => unreachable!("a method has the name of another"),
                }
            },
        })
    };
    (@tiny) => { &[] };
    (@tiny $tiny:expr) => { $tiny };
}

/// The plugins of one kind, sorted by name.
pub fn plugins(kind: PluginKind) -> Vec<&'static Plugin> {
    let mut plugins: Vec<_> = inventory::iter::<Plugin>()
        .filter(|plugin| plugin.kind == kind)
        .collect();
    plugins.sort_by_key(|plugin| plugin.name);
    plugins
}

/// Refuses two plugins with the same kind and name; called once at start.
///
/// # Errors
/// [`Error::Duplicate`] with the names of both crates.
pub fn check() -> Result<()> {
    let mut all: Vec<_> = inventory::iter::<Plugin>().collect();
    check_names(&mut all)
}

fn check_names(all: &mut [&Plugin]) -> Result<()> {
    // Linking order is arbitrary, so the crates are sorted, too, for the message to be the same
    // every time.
    all.sort_by_key(|plugin| (plugin.kind, plugin.name, plugin.crate_name));
    let same = |pair: &&[&Plugin]| pair[0].kind == pair[1].kind && pair[0].name == pair[1].name;
    match all.windows(2).find(same) {
        None => Ok(()),
        Some(pair) => Err(Error::Duplicate {
            kind: pair[0].kind.word(),
            name: pair[0].name.to_owned(),
            first: pair[0].crate_name.to_owned(),
            second: pair[1].crate_name.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(kind: PluginKind, name: &'static str, crate_name: &'static str) -> Plugin {
        Plugin {
            kind,
            name,
            summary: "",
            reference: "",
            example: "",
            tiny: &[],
            family: None,
            hf_peft: None,
            schema: || schemars::schema_for!(bool),
            crate_name,
        }
    }

    #[test]
    fn two_plugins_of_one_name_are_refused_by_crate() {
        let method = plugin(PluginKind::Method, "lora", "a");
        let dataset = plugin(PluginKind::Dataset, "lora", "b");
        let other = plugin(PluginKind::Method, "lora", "c");
        assert!(check_names(&mut [&method, &dataset]).is_ok());
        let error = check_names(&mut [&other, &dataset, &method]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "two method plugins are named \"lora\": one in crate a, one in crate c"
        );
    }
}
