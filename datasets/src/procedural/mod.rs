//! Data sets that are drawn on demand. Nothing is stored: an image is a pure function of the seed,
//! the split, the index and the size.
//!
//! An image has the same bits on every platform. It comes from a ChaCha8 stream keyed by a blake3
//! hash, and only from arithmetic whose results IEEE 754 determines: sums, products, quotients and
//! square roots, but no sine or power from a library and no fused multiplication.

mod canvas;
mod colour;
mod draw;
mod fundus;
mod generator;
mod geometry;
mod noise;
mod random;
mod scenes;
mod shapes;
mod sprites;
mod terrain;
mod textures;

pub use self::fundus::Fundus;
pub use self::scenes::{Scenes, ScenesTask};
pub use self::shapes::Shapes;
pub use self::sprites::{Sprites, SpritesTask};
pub use self::terrain::Terrain;
pub use self::textures::Textures;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use peft_core::data::{Dataset, DatasetConfig, Split};

    /// Every generator, with the hash of its first 16 images and labels of each split at 32 pixels.
    const GENERATORS: [(&str, &str); 7] = [
        (
            "{name: sprites, task: location, size: 32}",
            "275b32c5e4b8beb7",
        ),
        (
            "{name: sprites, task: orientation, size: 32}",
            "543fbf687231a372",
        ),
        ("{name: scenes, task: count, size: 32}", "f47bdf647f0984b0"),
        (
            "{name: scenes, task: distance, size: 32}",
            "095f999604a667b4",
        ),
        ("{name: textures, size: 32}", "256be8e68df87874"),
        ("{name: terrain, size: 32}", "bfbe7e8a78cd4fae"),
        ("{name: fundus, size: 32}", "e54dfd6fcb7b22b3"),
    ];

    fn open(yaml: &str) -> Box<dyn Dataset> {
        let config: Box<dyn DatasetConfig> = serde_yaml::from_str(yaml).unwrap();
        config.open().unwrap()
    }

    #[test]
    fn images_are_the_same_everywhere_and_always() {
        let hashed = GENERATORS.map(|(yaml, _)| {
            let data = open(yaml);
            let mut hasher = blake3::Hasher::new();
            for split in Split::ALL {
                for index in 0..16 {
                    let sample = data.sample(split, index).unwrap();
                    hasher
                        .update(&sample.label.to_le_bytes())
                        .update(&sample.image.rgb);
                }
            }
            (yaml, hasher.finalize().to_hex()[..16].to_owned())
        });
        let golden = GENERATORS.map(|(yaml, hash)| (yaml, hash.to_owned()));
        assert_eq!(
            hashed, golden,
            "images changed: bump VERSION and the golden hash"
        );
    }

    #[test]
    fn threads_in_any_order_draw_the_same() {
        for (yaml, _) in GENERATORS {
            let data = open(yaml);
            let forward: Vec<_> = (0..8)
                .map(|i| data.sample(Split::Train, i).unwrap())
                .collect();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for index in (0..8).rev() {
                            let sample = data.sample(Split::Train, index).unwrap();
                            assert_eq!(sample, forward[index], "{yaml}");
                            let label = data.label(Split::Train, index).unwrap();
                            assert_eq!(label, forward[index].label, "{yaml}");
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn classes_are_named_once_and_have_their_share_of_images() {
        for (yaml, _) in GENERATORS {
            let data = open(yaml);
            let names: HashSet<&String> = data.classes().iter().collect();
            assert_eq!(names.len(), data.classes().len(), "{yaml}");
            assert_eq!(Split::ALL.map(|split| data.len(split)), [800, 200, 1000]);
            let mut counts = vec![0; data.classes().len()];
            for split in Split::ALL {
                for index in 0..data.len(split) {
                    counts[data.label(split, index).unwrap()] += 1;
                }
            }
            let share = 2_000 / counts.len();
            let near = |&count: &usize| (share * 6 / 10..=share * 15 / 10).contains(&count);
            assert!(counts.iter().all(near), "{yaml}: {counts:?}");
        }
    }

    #[test]
    fn no_image_is_in_two_splits_or_two_seeds() {
        for (yaml, _) in GENERATORS.into_iter().skip(2) {
            let other = yaml.replace("size: 32", "size: 32, seed: 1");
            let mut images = HashSet::new();
            for data in [open(yaml), open(&other)] {
                for split in Split::ALL {
                    images.extend((0..20).map(|index| data.image(split, index).unwrap().rgb));
                }
            }
            assert_eq!(images.len(), 120, "{yaml}");
        }
    }

    #[test]
    fn a_larger_image_shows_the_same() {
        for (yaml, _) in GENERATORS {
            let (small, large) = (open(yaml), open(&yaml.replace("size: 32", "size: 64")));
            for index in 0..4 {
                let labels = [&small, &large].map(|data| data.label(Split::Test, index).unwrap());
                assert_eq!(labels[0], labels[1], "{yaml}");
                let mean = |data: &dyn Dataset| {
                    let rgb = data.image(Split::Test, index).unwrap().rgb;
                    rgb.iter().map(|&value| f32::from(value)).sum::<f32>() / rgb.len() as f32
                };
                let (small, large) = (mean(&*small), mean(&*large));
                assert!((small - large).abs() < 4.0, "{yaml}: {small} {large}");
            }
        }
    }

    #[test]
    fn configs_are_checked() {
        let refusal = |yaml: &str| {
            let config: Box<dyn DatasetConfig> = serde_yaml::from_str(yaml).unwrap();
            config.open().err().unwrap().to_string()
        };
        for (yaml, _) in GENERATORS {
            let small = refusal(&yaml.replace("size: 32", "size: 8"));
            assert!(small.contains("`size`"), "{small}");
            let empty = refusal(&yaml.replace("size: 32", "validation: 0"));
            assert!(empty.contains("`validation`"), "{empty}");
            let typo =
                serde_yaml::from_str::<Box<dyn DatasetConfig>>(&yaml.replace("size", "sise"));
            let typo = typo.unwrap_err().to_string();
            assert!(typo.contains("unknown field `sise`"), "{typo}");
            let data = open(yaml);
            for error in [
                data.image(Split::Test, 1000).unwrap_err(),
                data.label(Split::Test, 1000).unwrap_err(),
            ] {
                let message = error.to_string();
                assert!(message.contains("no sample 1000 in the test"), "{message}");
            }
        }
        let prints: HashSet<String> = GENERATORS
            .into_iter()
            .map(|(yaml, _)| open(yaml).fingerprint().unwrap())
            .collect();
        assert_eq!(prints.len(), GENERATORS.len());
    }
}
