//! CIFAR-10 and CIFAR-100 in the binary version of their site: records of one label (in CIFAR-100
//! two, coarse then fine) and 3,072 values, 32 x 32 red, then green, then blue.
//!
//! "Learning Multiple Layers of Features from Tiny Images", Krizhevsky, 2009. The files are mapped
//! into memory; a part of the training images is set aside for validation.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use peft_core::data::Image;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file_format::file_format;
use crate::error::Error;
use crate::indexed::{Indexed, Item, Source};
use crate::labels::read_names;
use crate::shards::Mapped;
use crate::split::{BySplit, default_validation_fraction, set_aside};
use crate::storage::{Exif, Header};

/// Side of an image, in pixels.
const SIDE: usize = 32;
/// Values of one channel.
const PLANE: usize = SIDE * SIDE;

peft_core::dataset_config! {
    /// CIFAR-10 or CIFAR-100, binary version: the folder `cifar-10-batches-bin` or `cifar-100-binary`.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Cifar {
        /// The folder of the `.bin` files and of the text file with the class names.
        pub root: PathBuf,
        /// Which of CIFAR-100's two labels is taken.
        #[serde(default)]
        pub labels: CifarLabels,
        /// Part of each class of the training images that is set aside for validation: a number in (0,
        /// 1). The order is that of the blake3 hash of a record's index over all training files (as a
        /// little-endian `u32`).
        #[serde(default = "default_validation_fraction")]
        pub validation_fraction: f32,
    }
}

/// The two labels of CIFAR-100.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CifarLabels {
    /// The 100 classes; in CIFAR-10, its 10.
    #[default]
    Fine,
    /// The 20 superclasses.
    Coarse,
}

file_format! {
    Cifar,
    name: "cifar",
    paths: [root],
    summary: "CIFAR-10 or CIFAR-100, binary version",
    reference: "Learning Multiple Layers of Features from Tiny Images, Krizhevsky, 2009",
    example: "name: cifar\nroot: data/cifar-10-batches-bin\n",
}

/// The files and records of one of the two sets.
struct Version {
    /// Label bytes in a record.
    labels: usize,
    /// The label byte that is taken.
    label: usize,
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
}

const CIFAR_10: Version = Version {
    labels: 1,
    label: 0,
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: "test_batch.bin",
    names: "batches.meta.txt",
};

const CIFAR_100: Version = Version {
    labels: 2,
    label: 1,
    train: &["train.bin"],
    test: "test.bin",
    names: "fine_label_names.txt",
};

const CIFAR_100_COARSE: Version = Version {
    label: 0,
    names: "coarse_label_names.txt",
    ..CIFAR_100
};

impl Cifar {
    fn read(&self) -> Result<Indexed<Records>, Error> {
        // The two sets are told apart by the name of their test file.
        let has = |version: &Version| self.root.join(version.test).exists();
        let version = match (has(&CIFAR_10), has(&CIFAR_100), self.labels) {
            (true, false, CifarLabels::Fine) => CIFAR_10,
            (true, false, CifarLabels::Coarse) => {
                return Err(Error::invalid("labels", "`fine` for CIFAR-10", "`coarse`"));
            }
            (false, true, CifarLabels::Fine) => CIFAR_100,
            (false, true, CifarLabels::Coarse) => CIFAR_100_COARSE,
            (ten, _, _) => {
                let expected = "`test_batch.bin` of CIFAR-10 or `test.bin` of CIFAR-100";
                return Err(Error::layout(
                    &self.root,
                    expected,
                    if ten { "both" } else { "neither" },
                ));
            }
        };
        let classes = read_names(&self.root.join(version.names))?;
        let mut records = Records {
            files: Vec::new(),
            size: version.labels + 3 * PLANE,
        };
        let mut splits = BySplit::<Vec<_>>::default();
        for name in version.train {
            let path = self.root.join(name);
            let items = records.add(&path, &version, classes.len())?;
            splits.train.extend(items);
        }
        splits.test = records.add(&self.root.join(version.test), &version, classes.len())?;
        splits.validation = set_aside(
            &mut splits.train,
            self.validation_fraction,
            |item| item.label,
            |index, _| (index as u32).to_le_bytes(),
        )?;
        Ok(Indexed::new(classes, splits, records))
    }
}

/// The mapped files.
#[derive(Debug)]
struct Records {
    files: Vec<Mapped>,
    /// Bytes of a record.
    size: usize,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    file: usize,
    index: usize,
}

impl Records {
    /// Maps one more file and reads its labels.
    fn add(
        &mut self,
        path: &Path,
        version: &Version,
        classes: usize,
    ) -> Result<Vec<Item<Record>>, Error> {
        let mapped = Mapped::open(path)?;
        let bytes = mapped.bytes();
        // Without a header, the length is the only sign of a truncated file.
        if bytes.is_empty() || bytes.len() % self.size != 0 {
            let expected = format!("records of {} bytes", self.size);
            return Err(Error::layout(
                path,
                expected,
                format!("{} bytes", bytes.len()),
            ));
        }
        let file = self.files.len();
        let records = bytes.chunks_exact(self.size).enumerate();
        let items = records.map(|(index, record)| {
            let label = usize::from(record[version.label]);
            if label >= classes {
                let place = format!("`{}` record {index}", path.display());
                let expected = format!("a label in 0..{classes}");
                return Err(Error::record(place, expected, label.to_string()));
            }
            Ok(Item {
                label,
                group: None,
                at: Record { file, index },
            })
        });
        let items = items.collect::<Result<_, _>>()?;
        self.files.push(mapped);
        Ok(items)
    }
}

impl Source for Records {
    type At = Record;

    fn name(&self, at: &Record) -> String {
        format!(
            "`{}` record {}",
            self.files[at.file].path.display(),
            at.index
        )
    }

    fn bytes(&self, at: &Record) -> Result<Cow<'_, [u8]>, Error> {
        let end = (at.index + 1) * self.size;
        Ok(Cow::Borrowed(
            &self.files[at.file].bytes()[end - 3 * PLANE..end],
        ))
    }

    /// Turns three planes into pixels.
    fn decode(&self, planes: &[u8], _: Exif) -> Result<Image, String> {
        let rgb = (0..PLANE).flat_map(|i| [0, 1, 2].map(|channel| planes[channel * PLANE + i]));
        Ok(Image {
            width: SIDE,
            height: SIDE,
            rgb: rgb.collect(),
        })
    }

    /// Planes have no header.
    fn header(&self, _: &[u8]) -> Header {
        Header::default()
    }
}

#[cfg(test)]
mod tests {
    use peft_core::data::{Dataset, Split, Transform};
    use tempfile::TempDir;

    use super::*;

    /// A record whose value `i` is `seed + i`, modulo 256.
    fn record(labels: &[u8], seed: u8) -> Vec<u8> {
        let values =
            (0..3 * PLANE).map(|i| seed.wrapping_add(i as u8).wrapping_add((i / PLANE) as u8));
        labels.iter().copied().chain(values).collect()
    }

    fn ten() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, bytes: &[u8]| fs_err::write(folder.path().join(name), bytes).unwrap();
        for (batch, name) in CIFAR_10.train.iter().enumerate() {
            let records = [[0, batch as u8], [1, 100 + batch as u8]];
            write(
                name,
                &records.map(|[label, seed]| record(&[label], seed)).concat(),
            );
        }
        write("test_batch.bin", &record(&[1], 200));
        write("batches.meta.txt", b"airplane\nautomobile\n\n");
        folder
    }

    fn config(folder: &TempDir) -> Cifar {
        Cifar {
            root: folder.path().into(),
            labels: CifarLabels::Fine,
            validation_fraction: 0.2,
            transform: Transform::default(),
            train_images: None,
            shots: None,
        }
    }

    #[test]
    fn cifar_10_is_five_batches_with_a_part_set_aside() {
        let data = config(&ten()).read().unwrap();
        assert_eq!(data.classes(), ["airplane", "automobile"]);
        assert_eq!(Split::ALL.map(|split| data.len(split)), [8, 2, 1]);
        let image = data.image(Split::Test, 0).unwrap();
        assert_eq!((image.width, image.height), (32, 32));
        assert_eq!(image.rgb[..6], [200, 201, 202, 201, 202, 203]);
        assert_eq!(data.label(Split::Test, 0).unwrap(), 1);
        let mut first: Vec<u8> = [Split::Train, Split::Validation]
            .into_iter()
            .flat_map(|split| (0..data.len(split)).map(move |i| (split, i)))
            .map(|(split, i)| data.image(split, i).unwrap().rgb[0])
            .collect();
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]);
    }

    #[test]
    fn cifar_100_has_two_labels() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, bytes: &[u8]| fs_err::write(folder.path().join(name), bytes).unwrap();
        write(
            "train.bin",
            &[record(&[1, 2], 0), record(&[1, 2], 5)].concat(),
        );
        write("test.bin", &record(&[0, 1], 9));
        write("fine_label_names.txt", b"apple\nbear\nboy\n");
        write("coarse_label_names.txt", b"fruit\npeople\n");
        let fine = config(&folder).read().unwrap();
        assert_eq!(fine.classes(), ["apple", "bear", "boy"]);
        let label = |data: &Indexed<Records>, split| data.label(split, 0).unwrap();
        assert_eq!(
            (label(&fine, Split::Train), label(&fine, Split::Test)),
            (2, 1)
        );
        assert_eq!(fine.image(Split::Test, 0).unwrap().rgb[0], 9);
        let coarse = Cifar {
            labels: CifarLabels::Coarse,
            ..config(&folder)
        };
        let coarse = coarse.read().unwrap();
        assert_eq!(coarse.classes(), ["fruit", "people"]);
        assert_eq!(
            (label(&coarse, Split::Train), label(&coarse, Split::Test)),
            (1, 0)
        );
    }

    #[test]
    fn a_damaged_file_is_named() {
        let with = |name: &str, bytes: &[u8]| {
            let folder = ten();
            fs_err::write(folder.path().join(name), bytes).unwrap();
            config(&folder).read().unwrap_err().to_string()
        };
        let bad_label = [record(&[0], 0), record(&[7], 0)].concat();
        for (name, bytes, parts) in [
            (
                "data_batch_3.bin",
                &b"short"[..],
                ["data_batch_3.bin", "got 5 bytes"],
            ),
            ("data_batch_3.bin", b"", ["data_batch_3.bin", "got 0 bytes"]),
            (
                "data_batch_2.bin",
                &bad_label,
                ["data_batch_2.bin` record 1", "0..2, got 7"],
            ),
            ("test.bin", b"", ["expected `test_batch.bin`", "got both"]),
        ] {
            let message = with(name, bytes);
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(
            config(&empty)
                .read()
                .unwrap_err()
                .to_string()
                .contains("got neither")
        );
        let folder = ten();
        let coarse = Cifar {
            labels: CifarLabels::Coarse,
            ..config(&folder)
        };
        assert!(coarse.read().unwrap_err().to_string().contains("`labels`"));
    }
}
