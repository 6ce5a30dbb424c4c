//! The bundled handwritten digits: the test part of the "Optical Recognition of Handwritten Digits"
//! data set, 1,797 images of 8 x 8 pixels with 17 grey levels.
//!
//! E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0,
//! <https://doi.org/10.24432/C50P49>.
//!
//! The splits are fixed: within each class the rows are ordered by the blake3 hash of their index
//! in the file (as a little-endian `u32`). The first 60 % are for training, the next 20 % for
//! validation and the rest for testing, with counts rounded to the nearest.

use std::io::Read;

use flate2::read::GzDecoder;
use peft_core::Result;
use peft_core::data::{Dataset, DatasetConfig, Image, Split};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::split::{BySplit, hash_order};

const NAME: &str = "digits.csv.gz";
const FILE: &[u8] = include_bytes!("../assets/digits.csv.gz");
const IMAGES: usize = 1797;
const CLASSES: usize = 10;
/// Side of an image, in pixels.
const SIDE: usize = 8;
/// The brightest value of the file; the darkest is 0.
const WHITE: u16 = 16;

peft_core::dataset_config! {
    /// Handwritten digits (UCI, 1998), bundled with the program: 1,797 images of 8 x 8 pixels in 10
    /// classes.
    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Digits {}
}

#[typetag::serde(name = "digits")]
impl DatasetConfig for Digits {
    fn open(&self) -> Result<Box<dyn Dataset>> {
        Ok(Box::new(DigitsData::unpack()?))
    }

    peft_core::protocol_methods!();
}

peft_core::register!(
    Dataset,
    Digits,
    name: "digits",
    summary: "bundled handwritten digits: 1,797 grey images of 8 x 8 pixels in 10 classes",
    reference: "Optical Recognition of Handwritten Digits, Alpaydin and Kaynak, UCI, 1998",
    example: "name: digits\n",
);

/// The unpacked digits.
struct DigitsData {
    classes: Vec<String>,
    digits: Vec<Digit>,
    splits: BySplit<Vec<u32>>,
}

impl DigitsData {
    fn unpack() -> Result<Self, Error> {
        let mut text = String::new();
        GzDecoder::new(FILE)
            .read_to_string(&mut text)
            .map_err(|error| damaged("gzip of text", error.to_string()))?;
        let digits = text
            .lines()
            .enumerate()
            .map(|(row, line)| parse(row, line))
            .collect::<Result<Vec<_>, _>>()?;
        if digits.len() != IMAGES {
            return Err(damaged(&format!("{IMAGES} rows"), digits.len().to_string()));
        }
        let splits = divide(&digits);
        Ok(Self {
            classes: (0..CLASSES).map(|digit| digit.to_string()).collect(),
            digits,
            splits,
        })
    }

    fn digit(&self, split: Split, index: usize) -> Result<&Digit, Error> {
        Ok(&self.digits[*self.splits.at(split, index)? as usize])
    }
}

impl Dataset for DigitsData {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn len(&self, split: Split) -> usize {
        self.splits.get(split).len()
    }

    fn label(&self, split: Split, index: usize) -> Result<usize> {
        Ok(self.digit(split, index)?.label)
    }

    /// A value `v` of the file is the grey level `round(v * 255 / 16)`.
    fn image(&self, split: Split, index: usize) -> Result<Image> {
        let pixels = &self.digit(split, index)?.pixels;
        Ok(Image {
            width: SIDE,
            height: SIDE,
            rgb: pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
        })
    }

    /// The blake3 hash of the bundled file.
    fn fingerprint(&self) -> Result<String> {
        Ok(blake3::hash(FILE).to_hex().to_string())
    }
}

#[derive(Debug)]
struct Digit {
    /// Grey levels, rows from the top.
    pixels: [u8; SIDE * SIDE],
    label: usize,
}

/// One row of the file: 64 pixels, then the digit.
fn parse(row: usize, line: &str) -> Result<Digit, Error> {
    let wrong = |expected: &str| damaged(&format!("{expected} in row {row}"), format!("`{line}`"));
    let values: Vec<u16> = line
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|_| wrong("whole numbers"))?;
    let Some((&label, values)) = values
        .split_last()
        .filter(|(_, values)| values.len() == SIDE * SIDE)
    else {
        return Err(wrong("64 pixels and a label"));
    };
    if usize::from(label) >= CLASSES {
        return Err(wrong("a label of 0 to 9"));
    }
    let mut pixels = [0; SIDE * SIDE];
    for (pixel, &value) in pixels.iter_mut().zip(values) {
        if value > WHITE {
            return Err(wrong("pixels of 0 to 16"));
        }
        // Rounded to the nearest without floats.
        *pixel = ((value * 255 + WHITE / 2) / WHITE) as u8;
    }
    Ok(Digit {
        pixels,
        label: label.into(),
    })
}

fn damaged(expected: &str, got: String) -> Error {
    Error::Asset {
        asset: NAME,
        expected: expected.into(),
        got,
    }
}

/// The rows of each split, ascending.
fn divide(digits: &[Digit]) -> BySplit<Vec<u32>> {
    let mut splits = BySplit::<Vec<u32>>::default();
    for class in 0..CLASSES {
        let of_class = |row: &u32| digits[*row as usize].label == class;
        let mut rows: Vec<u32> = (0..digits.len() as u32).filter(of_class).collect();
        hash_order(&mut rows, |row| row.to_le_bytes());
        let percent = |part: usize| (rows.len() * part + 50) / 100;
        let (train, rest) = rows.split_at(percent(60));
        let (validation, test) = rest.split_at(percent(20));
        splits.train.extend(train);
        splits.validation.extend(validation);
        splits.test.extend(test);
    }
    splits.train.sort_unstable();
    splits.validation.sort_unstable();
    splits.test.sort_unstable();
    splits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_disjoint_complete_and_stratified() {
        let data = DigitsData::unpack().unwrap();
        let mut rows: Vec<u32> = Split::ALL
            .iter()
            .flat_map(|&split| data.splits.get(split).clone())
            .collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..IMAGES as u32).collect::<Vec<_>>());
        assert_eq!(Split::ALL.map(|split| data.len(split)), [1078, 359, 360]);
        for class in 0..CLASSES {
            let count = |split| {
                data.splits
                    .get(split)
                    .iter()
                    .filter(|&&row| data.digits[row as usize].label == class)
                    .count()
            };
            let counts = Split::ALL.map(count);
            let all: usize = counts.iter().sum();
            for (count, part) in counts.into_iter().zip([0.6, 0.2, 0.2]) {
                assert!(
                    (count as f64 - part * all as f64).abs() <= 1.0,
                    "class {class}: {counts:?}"
                );
            }
        }
    }

    #[test]
    fn a_sample_is_its_row_of_the_file() {
        let data = DigitsData::unpack().unwrap();
        // 0,0,5,13,9,1,0,0 of 16
        assert_eq!(data.digits[0].pixels[..8], [0, 0, 80, 207, 143, 16, 0, 0]);
        let sample = data.sample(Split::Test, 0).unwrap();
        let digit = &data.digits[data.splits.test[0] as usize];
        assert_eq!(
            (sample.image.width, sample.image.height, sample.label),
            (8, 8, digit.label)
        );
        assert!(
            sample
                .image
                .rgb
                .chunks(3)
                .zip(digit.pixels)
                .all(|(rgb, grey)| rgb == [grey; 3])
        );
        let refused = data.sample(Split::Test, 360).unwrap_err().to_string();
        assert!(refused.contains("no sample 360 in the test split"));
        assert_eq!(data.classes().len(), CLASSES);
    }

    #[test]
    fn damaged_rows_are_refused_with_their_number() {
        let row = |pixel: u16, label: u16| format!("{}{label}", format!("{pixel},").repeat(64));
        assert!(parse(3, &row(16, 9)).is_ok());
        for line in [
            row(17, 0),
            row(0, 10),
            row(0, 1) + ",1",
            "".into(),
            "a,b".into(),
        ] {
            let message = parse(3, &line).unwrap_err().to_string();
            assert!(
                message.contains("digits.csv.gz") && message.contains("row 3"),
                "{message}"
            );
        }
    }

    #[test]
    fn fields_are_refused() {
        assert!(serde_json::from_str::<Digits>("{}").is_ok());
        let refused = serde_json::from_str::<Digits>(r#"{"path": "x"}"#).unwrap_err();
        assert!(refused.to_string().contains("unknown field `path`"));
    }
}
