//! CKA between the activations of files.

use std::path::{Path, PathBuf};

use super::settings::{Side, Similarity};
use super::similarity::{Gram, LEAST, Sums, plain};
use crate::exit::{Failure, config_error};
use crate::study::request::TensorFile;

/// The activations of one network by boundary, each row the values of an image.
struct Features {
    side: Side,
    /// Width and values.
    boundaries: Vec<(usize, Vec<f64>)>,
    images: usize,
}

impl Features {
    fn read(path: &Path) -> Result<Self, Failure> {
        let file = TensorFile::open("--features", path)?;
        let mut features = Self {
            side: Side {
                names: Vec::new(),
                title: path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                kind: None,
                depth: 0,
            },
            boundaries: Vec::new(),
            images: 0,
        };
        for (_, name) in file.numbered("boundary")? {
            let found = file.get(&name)?;
            let images = found.shape.first().copied().unwrap_or(0);
            let expected = features
                .boundaries
                .first()
                .map_or(images, |_| features.images);
            if images == 0 || images != expected || found.values.is_empty() {
                let message = format!(
                    "{}: {name}: expected [{expected}, ..] with at least one value an image, got {:?}",
                    file.path(),
                    found.shape
                );
                return Err(config_error(message));
            }
            features.images = images;
            features
                .boundaries
                .push((found.values.len() / images, found.values));
            features.side.names.push(name);
        }
        Ok(features)
    }

    fn grams(&self, from: usize, count: usize) -> Vec<Gram> {
        let gram = |(width, values): &(usize, Vec<f64>)| {
            Gram::of(&values[from * width..(from + count) * width], *width)
        };
        self.boundaries.iter().map(gram).collect()
    }
}

/// CKA between the boundaries of two files, or of one with itself.
pub fn similarity(paths: &[PathBuf], batch: Option<usize>) -> Result<Similarity, Failure> {
    let (first, second) = match paths {
        [one] => (one, one),
        [one, two] => (one, two),
        _ => {
            let message = format!("--features: expected one file or two, got {}", paths.len());
            return Err(config_error(message));
        }
    };
    let (a, b) = (Features::read(first)?, Features::read(second)?);
    let images = a.images;
    if b.images != images {
        return Err(config_error(format!(
            "--features: expected the same images in both files, got {images} and {}",
            b.images
        )));
    }
    let batch = batch.unwrap_or(images);
    if images < batch || batch < LEAST {
        return Err(config_error(format!(
            "--features: expected at least {} images, got {images}",
            batch.max(LEAST)
        )));
    }
    let mut sums = Sums::new([a.boundaries.len(), b.boundaries.len()], batch);
    let batches = images / batch;
    for start in (0..batches).map(|index| index * batch) {
        sums.add([&a.grams(start, batch), &b.grams(start, batch)]);
    }
    Ok(Similarity {
        cka: sums.finish(),
        plain: Some(plain(&a.grams(0, images), &b.grams(0, images))),
        sides: [a.side, b.side],
        batch,
        used: batches * batch,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn path(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fixtures/studies")
            .join(name)
    }

    fn close(found: &[Vec<Option<f64>>], expected: &Value) {
        let expected: Vec<Vec<Option<f64>>> = serde_json::from_value(expected.clone()).unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            match (found, expected) {
                (Some(found), Some(expected)) => {
                    let error = (found - expected).abs() / expected.abs();
                    assert!(error < 1e-9, "{found} instead of {expected}");
                }
                (found, expected) => assert_eq!(found, expected),
            }
        }
    }

    #[test]
    fn files_give_the_golden_values_in_every_batching() {
        let text = std::fs::read_to_string(path("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let paths = ["cka_a.safetensors", "cka_b.safetensors"].map(path);
        for (batch, key) in [(None, "all"), (Some(8), "8"), (Some(10), "10")] {
            let found = similarity(&paths, batch).map_err(|f| f.error).unwrap();
            close(&found.cka, &expected["cka"][key]["cka"]);
            assert_eq!(found.used, expected["cka"][key]["images_used"]);
            close(found.plain.as_ref().unwrap(), &expected["cka_plain"]);
            assert_eq!(found.sides[1].names[3], "boundary.4");
        }
    }

    #[test]
    fn a_file_is_compared_with_itself_if_there_is_one() {
        let found = similarity(&[path("cka_a.safetensors")], None)
            .map_err(|f| f.error)
            .unwrap();
        for at in 0..3 {
            assert!((found.cka[at][at].unwrap() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn unequal_numbers_of_images_and_small_batches_are_refused() {
        let paths = ["cka_a.safetensors", "attention_square.safetensors"].map(path);
        let error = similarity(&paths, None).err().unwrap().to_string();
        assert!(error.contains("expected tensors boundary.0"), "{error}");
        let error = similarity(&[path("cka_a.safetensors")], Some(27))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("at least 27 images, got 26"), "{error}");
    }
}
