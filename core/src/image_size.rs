//! The rows and columns of an image: one number for a square, two for a rectangle.

use std::borrow::Cow;
use std::fmt::{Display, Formatter};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Rows and columns of an image in pixels.
///
/// In a YAML a square is one number, `224`, and any size a list of height and width, `[160, 256]`. A
/// square is always written as a number, so that `224` and `[224, 224]` are the same configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl ImageSize {
    /// A rectangle.
    pub const fn new(height: usize, width: usize) -> Self {
        Self { height, width }
    }

    /// A square.
    pub const fn square(side: usize) -> Self {
        Self::new(side, side)
    }

    /// Returns true if there are as many rows as columns.
    pub const fn is_square(self) -> bool {
        self.height == self.width
    }

    /// Height and width, in the order of a tensor's axes.
    pub const fn sides(self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// Number of pixels.
    pub const fn pixels(self) -> usize {
        self.height * self.width
    }

    /// The shorter side.
    pub fn shorter(self) -> usize {
        self.height.min(self.width)
    }

    /// The size whose height and width are `side` of these.
    pub fn map(self, side: impl Fn(usize) -> usize) -> Self {
        Self::new(side(self.height), side(self.width))
    }
}

impl From<usize> for ImageSize {
    fn from(side: usize) -> Self {
        Self::square(side)
    }
}

impl From<[usize; 2]> for ImageSize {
    fn from([height, width]: [usize; 2]) -> Self {
        Self::new(height, width)
    }
}

/// One number for a square, `height x width` for a rectangle.
impl Display for ImageSize {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self.is_square() {
            true => write!(f, "{}", self.height),
            false => write!(f, "{} x {}", self.height, self.width),
        }
    }
}

impl Serialize for ImageSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.is_square() {
            true => self.height.serialize(serializer),
            false => self.sides().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ImageSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sides;
        impl<'de> Visitor<'de> for Sides {
            type Value = ImageSize;
            fn expecting(&self, f: &mut Formatter) -> std::fmt::Result {
                f.write_str("a number of pixels, or a list of height and width")
            }
            fn visit_u64<E: Error>(self, side: u64) -> Result<ImageSize, E> {
                let side = usize::try_from(side).map_err(E::custom)?;
                Ok(ImageSize::square(side))
            }
            fn visit_i64<E: Error>(self, side: i64) -> Result<ImageSize, E> {
                match usize::try_from(side) {
                    Ok(side) => Ok(ImageSize::square(side)),
                    Err(_) => Err(E::custom(format!("expected at least 0, got {side}"))),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ImageSize, A::Error> {
                let mut sides = Vec::new();
                while let Some(side) = list.next_element()? {
                    sides.push(side);
                }
                match sides[..] {
                    [height, width] => Ok(ImageSize::new(height, width)),
                    _ => Err(A::Error::invalid_length(sides.len(), &self)),
                }
            }
        }
        deserializer.deserialize_any(Sides)
    }
}

impl JsonSchema for ImageSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ImageSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"type": "integer", "format": "uint", "minimum": 0},
                {
                    "type": "array",
                    "items": {"type": "integer", "format": "uint", "minimum": 0},
                    "minItems": 2,
                    "maxItems": 2,
                },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_is_written_as_a_number_and_a_rectangle_as_a_list() {
        let read = |json: &str| serde_json::from_str::<ImageSize>(json).unwrap();
        let written = |size: ImageSize| serde_json::to_string(&size).unwrap();
        assert_eq!(read("224"), ImageSize::square(224));
        assert_eq!(read("[224, 224]"), 224.into());
        assert_eq!(read("[160, 256]"), [160, 256].into());
        assert_eq!(written(read("[224, 224]")), "224");
        assert_eq!(written(read("[160, 256]")), "[160,256]");
        assert_eq!(read("224").to_string(), "224");
        assert_eq!(read("[160, 256]").to_string(), "160 x 256");
    }

    #[test]
    fn anything_else_is_refused() {
        let error = |json: &str| {
            let error = serde_json::from_str::<ImageSize>(json).unwrap_err();
            error.to_string()
        };
        let expected = "expected a number of pixels, or a list of height and width";
        for json in ["[160]", "[1, 2, 3]", "\"large\"", "1.5", "null"] {
            let error = error(json);
            assert!(error.contains(expected), "{json}: {error}");
        }
        assert!(error("-3").contains("expected at least 0, got -3"));
        assert!(error("[160, \"wide\"]").contains("wide"));
    }
}
