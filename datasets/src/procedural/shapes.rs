//! Shapes: the source task on which the bundled micro backbones are pretrained.
//!
//! There are 64 classes, 16 shapes x 4 fills, drawn with a random pose, stroke, colours,
//! background, clutter and noise.

mod outline;
mod paint;
mod pose;
mod scene;

use peft_core::data::Image;

use self::outline::SHAPES;
use self::paint::Fill;
use super::generator::{Drawn, Generator, procedural};
use super::random::Random;

procedural! {
    /// Shapes: 64 classes (16 shapes x 4 fills), drawn on demand.
    pub struct Shapes {}
    defaults: { size: 32, images: [40_000, 2_000, 2_000] },
    open: Drawn::new,
    name: "shapes",
    summary: "drawn shapes in 64 classes: 16 shapes x 4 fills",
    reference: "none: drawn by this program to pretrain its micro backbones",
    example: "name: shapes\n",
}

impl Generator for Shapes {
    const VERSION: u32 = 1;

    /// The class.
    type Content = usize;

    /// `"<shape>/<fill>"`.
    fn classes(&self) -> Vec<String> {
        let class = |shape: &outline::Shape, fill: &Fill| format!("{}/{}", shape.name, fill.name());
        SHAPES
            .iter()
            .flat_map(|shape| Fill::ALL.iter().map(move |fill| class(shape, fill)))
            .collect()
    }

    /// Uniform over the classes, and independent of the size.
    fn choose(&self, random: &mut Random) -> usize {
        random.below(SHAPES.len() * Fill::ALL.len())
    }

    fn label(&self, class: &usize) -> usize {
        *class
    }

    fn draw(&self, class: &usize, random: &mut Random) -> Image {
        let shape = &SHAPES[class / Fill::ALL.len()];
        let fill = Fill::ALL[class % Fill::ALL.len()];
        scene::render(random, self.size, shape, fill)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use peft_core::data::{Dataset, Split};

    use super::*;

    fn data(size: usize) -> Drawn<Shapes> {
        Drawn::new(Shapes {
            size,
            ..Shapes::default()
        })
        .unwrap()
    }

    #[test]
    fn images_are_the_same_everywhere_and_always() {
        let data = data(32);
        let mut hasher = blake3::Hasher::new();
        for split in Split::ALL {
            for index in 0..64 {
                let sample = data.sample(split, index).unwrap();
                hasher
                    .update(&sample.label.to_le_bytes())
                    .update(&sample.image.rgb);
            }
        }
        let golden = "105ad4326ded8838601a249bc8c7715ee27604cc1cf5e502bc111d3862cfaa3e";
        assert_eq!(
            hasher.finalize().to_hex().as_str(),
            golden,
            "images changed: bump VERSION and the golden hash"
        );
    }

    #[test]
    fn samples_depend_on_seed_split_and_index_alone() {
        let (first, second) = (data(32), data(32));
        let other = Drawn::new(Shapes {
            seed: 1,
            ..Shapes::default()
        })
        .unwrap();
        assert_eq!(
            first.sample(Split::Test, 7).unwrap(),
            second.sample(Split::Test, 7).unwrap()
        );
        let mut images = HashSet::new();
        for set in [&first, &other] {
            for split in Split::ALL {
                images.extend((0..20).map(|index| set.sample(split, index).unwrap().image.rgb));
            }
        }
        assert_eq!(
            images.len(),
            120,
            "no image twice, within or across splits and seeds"
        );
    }

    #[test]
    fn labels_are_uniform_and_independent_of_the_size() {
        let (small, large) = (data(16), data(64));
        let mut counts = [0; 64];
        for index in 0..3200 {
            counts[small.sample(Split::Train, index).unwrap().label] += 1;
        }
        assert!(
            counts.iter().all(|&count| (25..=80).contains(&count)),
            "{counts:?}"
        ); // 50 expected, sigma 7
        for index in 0..20 {
            let label = |data: &Drawn<Shapes>| data.sample(Split::Train, index).unwrap().label;
            assert_eq!(label(&small), label(&large));
        }
    }

    #[test]
    fn classes_and_sizes_are_as_stated() {
        let data = data(32);
        assert_eq!(
            (
                data.classes().len(),
                data.classes().iter().collect::<HashSet<_>>().len()
            ),
            (64, 64)
        );
        assert_eq!(data.classes()[0], "disc/solid");
        assert_eq!(
            Split::ALL.map(|split| data.len(split)),
            [40_000, 2_000, 2_000]
        );
        let image = data.sample(Split::Train, 39_999).unwrap().image;
        assert_eq!((image.width, image.height, image.rgb.len()), (32, 32, 3072));
        assert!(data.sample(Split::Train, 40_000).is_err());
    }

    #[test]
    fn configs_are_checked() {
        assert_eq!(
            serde_json::from_str::<Shapes>(r#"{"seed": 0}"#).unwrap(),
            Shapes::default()
        );
        assert!(serde_json::from_str::<Shapes>(r#"{"sede": 0}"#).is_err());
        assert!(
            Drawn::new(Shapes {
                size: 8,
                ..Shapes::default()
            })
            .err()
            .unwrap()
            .to_string()
            .contains("`size`")
        );
        assert!(
            Drawn::new(Shapes {
                test: 0,
                ..Shapes::default()
            })
            .err()
            .unwrap()
            .to_string()
            .contains("`test`")
        );
        let fingerprint = |shapes: Shapes| Drawn::new(shapes).unwrap().fingerprint().unwrap();
        assert_ne!(
            fingerprint(Shapes::default()),
            fingerprint(Shapes {
                train: 10,
                ..Shapes::default()
            })
        );
    }
}
