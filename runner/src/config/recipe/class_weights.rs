//! The weights of classes in the loss: from their frequencies, by class, or as a list.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use peft_core::error::{listed, nearest};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::recipe::range::within;

/// The word that stands for weights from frequencies.
const INVERSE: &str = "inverse_frequency";

const EXPECTED: &str =
    "`inverse_frequency`, a list of weights or a mapping from classes to weights";

/// The weights of classes in the loss.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassWeights {
    /// `images / (classes * images of the class)` over the images that are trained on, scikit-learn's
    /// `balanced`.
    InverseFrequency,
    /// A weight for each class, in the order of the classes.
    List(Vec<f64>),
    /// Weights by the names or the indices of classes. The others weigh 1.
    ByClass(BTreeMap<String, f64>),
}

impl ClassWeights {
    /// Checks that all weights are finite and more than 0: a batch of images without weight has no mean loss.
    ///
    /// # Errors
    /// The dotted path of a weight outside that range.
    pub(super) fn check(&self) -> Result<(), String> {
        let all: Vec<(String, f64)> = match self {
            Self::InverseFrequency => Vec::new(),
            Self::List(list) => {
                let places = list.iter().enumerate();
                places.map(|(i, w)| (format!("[{i}]"), *w)).collect()
            }
            Self::ByClass(map) => {
                let entries = map.iter();
                entries
                    .map(|(class, w)| (format!(".{class}"), *w))
                    .collect()
            }
        };
        for (place, weight) in all {
            let ok = weight > 0.0 && weight.is_finite();
            let field = format!("class_weights{place}");
            within(&field, ok, "a finite number more than 0", weight)?;
        }
        Ok(())
    }

    /// The weight of each class. `images` are those of each class that are trained on.
    ///
    /// # Errors
    /// A class that does not exist or is named twice, a list of another length, or a class without images
    /// where weights follow from frequencies.
    pub fn of(&self, classes: &[String], images: &[usize]) -> Result<Vec<f32>, String> {
        let at = |message: String| format!("recipe.class_weights: {message}");
        match self {
            Self::InverseFrequency => {
                if let Some(class) = images.iter().position(|images| *images == 0) {
                    let class = &classes[class];
                    return Err(at(format!(
                        "{INVERSE}: class `{class}` has no training image; expected some of each class, or \
                         a list or mapping of weights"
                    )));
                }
                let all = images.iter().sum::<usize>() as f64;
                let weight = |own: &usize| (all / (classes.len() * own) as f64) as f32;
                Ok(images.iter().map(weight).collect())
            }
            Self::List(list) if list.len() == classes.len() => {
                Ok(list.iter().map(|weight| *weight as f32).collect())
            }
            Self::List(list) => {
                let (expected, got) = (classes.len(), list.len());
                let classes = listed(classes, 12);
                Err(at(format!(
                    "expected {expected} weights, one for each of {classes}; got {got}"
                )))
            }
            Self::ByClass(map) => {
                let mut weights = vec![None; classes.len()];
                for (key, weight) in map {
                    let class = class_of(key, classes).map_err(at)?;
                    if weights[class].replace(*weight as f32).is_some() {
                        let name = &classes[class];
                        return Err(at(format!(
                            "class `{name}` has two weights: by its name and by its index {class}"
                        )));
                    }
                }
                Ok(weights.into_iter().map(|w| w.unwrap_or(1.0)).collect())
            }
        }
    }
}

/// The class of a name or an index. A name goes before an index, as in the labels of data sets.
fn class_of(key: &str, classes: &[String]) -> Result<usize, String> {
    let named = classes.iter().position(|class| class == key);
    let index = || {
        key.parse()
            .ok()
            .filter(|&index: &usize| index < classes.len())
    };
    named.or_else(index).ok_or_else(|| {
        let near = nearest(key, classes.iter().map(String::as_str));
        let hint = near.map(|near| format!(" (did you mean `{near}`?)"));
        let count = classes.len();
        format!(
            "expected one of {count} class names ({}), or an index below {count}; got `{key}`{}",
            listed(classes, 12),
            hint.unwrap_or_default()
        )
    })
}

impl Serialize for ClassWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::InverseFrequency => serializer.serialize_str(INVERSE),
            Self::List(list) => list.serialize(serializer),
            Self::ByClass(map) => map.serialize(serializer),
        }
    }
}

/// A class in a mapping: YAML reads an index as a number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrIndex;
        impl Visitor<'_> for NameOrIndex {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name or the index of a class")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Key, E> {
                Ok(Key(name.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, index: u64) -> Result<Key, E> {
                Ok(Key(index.to_string()))
            }

            fn visit_i64<E: de::Error>(self, index: i64) -> Result<Key, E> {
                Ok(Key(index.to_string()))
            }
        }
        deserializer.deserialize_any(NameOrIndex)
    }
}

impl<'de> Deserialize<'de> for ClassWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordListOrMapping;
        impl<'de> Visitor<'de> for WordListOrMapping {
            type Value = ClassWeights;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<ClassWeights, E> {
                match word {
                    INVERSE => Ok(ClassWeights::InverseFrequency),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ClassWeights, A::Error> {
                let mut weights = Vec::new();
                while let Some(weight) = list.next_element()? {
                    weights.push(weight);
                }
                Ok(ClassWeights::List(weights))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ClassWeights, A::Error> {
                let mut weights = BTreeMap::new();
                while let Some((Key(class), weight)) = map.next_entry()? {
                    if weights.insert(class.clone(), weight).is_some() {
                        return Err(de::Error::custom(format!("class `{class}` is given twice")));
                    }
                }
                Ok(ClassWeights::ByClass(weights))
            }
        }
        deserializer.deserialize_any(WordListOrMapping)
    }
}

impl JsonSchema for ClassWeights {
    fn schema_name() -> Cow<'static, str> {
        "ClassWeights".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let weight = serde_json::json!({ "type": "number", "exclusiveMinimum": 0 });
        json_schema!({
            "description": EXPECTED,
            "anyOf": [
                { "const": INVERSE },
                { "type": "array", "items": weight },
                { "type": "object", "additionalProperties": weight },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ClassWeights, String> {
        serde_yaml::from_str(text).map_err(|e| e.to_string())
    }

    fn weights(text: &str, images: &[usize]) -> Result<Vec<f32>, String> {
        let classes = ["cat", "dog", "0"].map(str::to_owned);
        let read = read(text)?;
        read.check()?;
        read.of(&classes, images)
    }

    #[test]
    fn weights_are_a_word_a_list_or_a_mapping() {
        for (text, expected) in [
            ("[1, 2.5, 3]", [1.0, 2.5, 3.0]),
            ("{dog: 4}", [1.0, 4.0, 1.0]),
            // The third class is called 0, so that the first has only its name.
            ("{0: 5, 1: 2, cat: 3}", [3.0, 2.0, 5.0]),
            // `compute_class_weight("balanced")` of scikit-learn 1.9.1 for 6, 3 and 1 images.
            ("inverse_frequency", [0.5555556, 1.1111112, 3.3333333]),
        ] {
            assert_eq!(weights(text, &[6, 3, 1]).unwrap(), expected, "{text}");
            let read = read(text).unwrap();
            let again = serde_yaml::to_string(&read).unwrap();
            assert_eq!(super::tests::read(&again).unwrap(), read, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (text, parts) in [
            ("inverse", ["`inverse_frequency`", "\"inverse\""]),
            (
                "[1, 2]",
                ["expected 3 weights, one for each of cat, dog, 0", "got 2"],
            ),
            (
                "[1, 0, 1]",
                ["recipe.class_weights[1]", "more than 0, got 0"],
            ),
            (
                "{dog: .inf}",
                ["recipe.class_weights.dog", "a finite number"],
            ),
            (
                "{dgo: 1}",
                ["or an index below 3; got `dgo`", "did you mean `dog`?"],
            ),
            ("{3: 1}", ["one of 3 class names (cat, dog, 0)", "got `3`"]),
            ("{1: 1, dog: 2}", ["class `dog` has two weights", "index 1"]),
            ("{dog: many}", ["invalid type", "many"]),
            (
                "inverse_frequency",
                ["class `dog` has no training image", "expected some"],
            ),
        ] {
            let message = weights(text, &[6, 0, 1]).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}
