//! The augmentation of a recipe: a word, or a mapping in timm's names.

use std::borrow::Cow;

use peft_datasets::Augment;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Random changes of the training images: a word, or a mapping in timm's names.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Augmentation {
    /// `none`.
    #[default]
    None,
    /// `flip`: mirrored left to right with probability one half.
    Flip,
    /// The changes that the mapping names.
    Mapping(Augment),
}

impl Augmentation {
    /// The random changes of each image and batch.
    pub fn augment(&self) -> Augment {
        match self {
            Self::None => Augment::default(),
            Self::Flip => Augment {
                hflip: 0.5,
                ..Augment::default()
            },
            Self::Mapping(augment) => *augment,
        }
    }
}

impl Serialize for Augmentation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str("none"),
            Self::Flip => serializer.serialize_str("flip"),
            Self::Mapping(augment) => augment.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Augmentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrMapping;
        impl<'de> Visitor<'de> for WordOrMapping {
            type Value = Augmentation;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("`none`, `flip` or a mapping")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Augmentation, E> {
                match word {
                    "none" => Ok(Augmentation::None),
                    "flip" => Ok(Augmentation::Flip),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Augmentation, A::Error> {
                let augment = Augment::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Augmentation::Mapping(augment))
            }
        }
        deserializer.deserialize_any(WordOrMapping)
    }
}

impl JsonSchema for Augmentation {
    fn schema_name() -> Cow<'static, str> {
        "Augmentation".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Random changes of the training images: a word, or a mapping in timm's names.",
            "anyOf": [
                { "enum": ["none", "flip"] },
                generator.subschema_for::<Augment>(),
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_augmentation_is_a_word_or_a_mapping() {
        let read = |text: &str| serde_yaml::from_str::<Augmentation>(text);
        assert_eq!(read("none").unwrap().augment(), Augment::default());
        assert_eq!(read("flip").unwrap().augment().hflip, 0.5);
        let mapping = read("{auto_augment: rand-m9-inc1, mixup: 0.8}").unwrap();
        assert_eq!(mapping.augment().mixup, 0.8);
        for written in [Augmentation::None, Augmentation::Flip, mapping] {
            let text = serde_yaml::to_string(&written).unwrap();
            assert_eq!(read(&text).unwrap(), written, "{text}");
        }
        for (text, expected) in [
            ("mirror", "expected `none`, `flip` or a mapping"),
            ("{auto_augment: augmix}", "invalid `auto_augment`"),
            ("{flip: 0.5}", "unknown field `flip`"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
