//! `tf.train.Example`: features by name, in protocol buffers.
//!
//! ```text
//! Example  { Features features = 1; }
//! Features { map<string, Feature> feature = 1; }
//! Feature  { BytesList = 1 | FloatList = 2 | Int64List = 3, each with a repeated value = 1 }
//! ```

use std::ops::Range;

/// A value of a feature.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// The place of the bytes in the file.
    Bytes(Range<usize>),
    /// A whole number.
    Int(i64),
    /// A fraction.
    Float,
}

impl Value {
    /// The kind of values that a feature holds, for messages.
    pub fn named(value: Option<&Self>) -> String {
        match value {
            Some(Self::Bytes(bytes)) => format!("{} bytes", bytes.len()),
            Some(Self::Int(number)) => format!("the number {number}"),
            Some(Self::Float) => "a fraction".to_owned(),
            None => "none".to_owned(),
        }
    }
}

/// A name, and the place of a `Feature` message.
type Feature<'a> = (&'a [u8], Range<usize>);

/// The features of a record, each with the place of its `Feature` message.
#[derive(Debug)]
pub struct Example<'a> {
    file: &'a [u8],
    features: Vec<Feature<'a>>,
}

impl<'a> Example<'a> {
    /// Reads the names and places of the features of a record of `file`.
    ///
    /// # Errors
    /// The mistake in the message.
    pub fn read(file: &'a [u8], record: Range<usize>) -> Result<Self, String> {
        let mut features = Vec::new();
        for (number, field) in Fields::of(file, record) {
            if let (1, Field::Bytes(list)) = (number, field?) {
                for (number, field) in Fields::of(file, list) {
                    if let (1, Field::Bytes(entry)) = (number, field?) {
                        features.extend(entry_of(file, entry)?);
                    }
                }
            }
        }
        match features.is_empty() {
            true => Err("a message without features".to_owned()),
            false => Ok(Self { file, features }),
        }
    }

    /// All whole numbers of a feature; none if it is not there, or has other values.
    pub fn numbers(&self, name: &str) -> Option<Vec<i64>> {
        let place = self.place(name)?;
        let mut numbers = Vec::new();
        for (kind, field) in Fields::of(self.file, place) {
            let (3, Ok(Field::Bytes(list))) = (kind, field) else {
                return None;
            };
            for (number, field) in Fields::of(self.file, list) {
                match (number, field.ok()?) {
                    (1, Field::Number(number)) => numbers.push(number as i64),
                    // Numbers are packed into one field.
                    (1, Field::Bytes(packed)) => {
                        let mut at = packed.start;
                        while at < packed.end {
                            numbers.push(varint(self.file, &mut at, packed.end)? as i64);
                        }
                    }
                    _ => {}
                }
            }
        }
        Some(numbers)
    }

    /// The place of a feature's message.
    fn place(&self, name: &str) -> Option<Range<usize>> {
        let mut features = self.features.iter();
        let (_, place) = features.find(|(found, _)| *found == name.as_bytes())?;
        Some(place.clone())
    }

    /// The first value of a feature, if it has one.
    pub fn first(&self, name: &str) -> Option<Value> {
        let place = self.place(name)?;
        for (kind, field) in Fields::of(self.file, place) {
            let Ok(Field::Bytes(list)) = field else {
                continue;
            };
            for (number, field) in Fields::of(self.file, list) {
                let value = match (kind, number, field.ok()?) {
                    (1, 1, Field::Bytes(bytes)) => Value::Bytes(bytes),
                    (2, 1, _) => Value::Float,
                    (3, 1, Field::Number(number)) => Value::Int(number as i64),
                    // Numbers are packed into one field.
                    (3, 1, Field::Bytes(packed)) => {
                        let mut at = packed.start;
                        Value::Int(varint(self.file, &mut at, packed.end)? as i64)
                    }
                    _ => continue,
                };
                return Some(value);
            }
        }
        None
    }
}

/// An entry of the map: its key and the place of its value.
fn entry_of(file: &[u8], entry: Range<usize>) -> Result<Option<Feature<'_>>, String> {
    let (mut key, mut value) = (None, None);
    for (number, field) in Fields::of(file, entry) {
        match (number, field?) {
            (1, Field::Bytes(bytes)) => key = Some(&file[bytes]),
            (2, Field::Bytes(bytes)) => value = Some(bytes),
            _ => {}
        }
    }
    Ok(key.zip(value))
}

/// The value of a field.
enum Field {
    Number(u64),
    Bytes(Range<usize>),
    /// 32 or 64 bits, which no field here has.
    Fixed,
}

/// The fields of a message, by number.
struct Fields<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    fn of(file: &'a [u8], place: Range<usize>) -> Self {
        Self {
            file,
            at: place.start,
            end: place.end.min(file.len()),
        }
    }

    fn field(&mut self) -> Option<(u64, Field)> {
        let tag = varint(self.file, &mut self.at, self.end)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(self.file, &mut self.at, self.end)?),
            1 => self.skip(8).map(|_| Field::Fixed)?,
            2 => {
                let length = varint(self.file, &mut self.at, self.end)?;
                Field::Bytes(self.skip(length)?)
            }
            5 => self.skip(4).map(|_| Field::Fixed)?,
            _ => return None,
        };
        Some((tag >> 3, field))
    }

    /// The next bytes of the message.
    fn skip(&mut self, length: u64) -> Option<Range<usize>> {
        let start = self.at;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        self.at = Some(end).filter(|end| *end <= self.end)?;
        Some(start..end)
    }
}

impl Iterator for Fields<'_> {
    type Item = (u64, Result<Field, String>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        Some(match self.field() {
            Some((number, field)) => (number, Ok(field)),
            None => {
                self.at = self.end;
                (1, Err("a damaged message".to_owned()))
            }
        })
    }
}

/// A number of one to ten bytes, seven bits in each.
fn varint(file: &[u8], at: &mut usize, end: usize) -> Option<u64> {
    let mut number = 0;
    for shift in (0..70).step_by(7) {
        let byte = *file.get(*at..end)?.first()?;
        *at += 1;
        number |= u64::from(byte & 0x7F).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn example(name: &str, feature: &[u8]) -> Vec<u8> {
        let entry = [field(1, name.as_bytes()), field(2, feature)].concat();
        field(1, &field(1, &entry))
    }

    #[test]
    fn values_of_three_kinds_are_read() {
        let first = |feature: &[u8]| {
            let file = example("a", feature);
            Example::read(&file, 0..file.len()).unwrap().first("a")
        };
        // Packed and not, as one of the two may be written; -1 takes ten bytes.
        let minus_one = [&[0xFF; 9][..], &[1]].concat();
        assert_eq!(
            first(&field(3, &field(1, &[0x96, 1]))),
            Some(Value::Int(150))
        );
        assert_eq!(first(&field(3, &[1 << 3, 0x96, 1])), Some(Value::Int(150)));
        assert_eq!(
            first(&field(3, &field(1, &minus_one))),
            Some(Value::Int(-1))
        );
        assert_eq!(first(&field(2, &field(1, &[0; 4]))), Some(Value::Float));
        assert!(
            matches!(first(&field(1, &field(1, b"xyz"))), Some(Value::Bytes(place)) if place.len() == 3)
        );
        assert_eq!(first(&field(3, b"")), None);
        let file = example("a", b"");
        assert_eq!(
            Example::read(&file, 0..file.len()).unwrap().first("b"),
            None
        );
    }

    #[test]
    fn a_message_that_breaks_off_is_refused() {
        let file = example("name", &field(1, &field(1, b"xyz")));
        for end in 0..file.len() {
            assert!(Example::read(&file, 0..end).is_err(), "{end}");
        }
    }
}
