//! What the drawn data sets share: their configuration, and images that are independent draws.

use peft_core::Result;
use peft_core::data::{Dataset, Image, Split};

use super::random::Random;
use crate::error::Error;
use crate::split::BySplit;

/// Writes the configuration of a drawn data set and registers it.
///
/// ```text
/// procedural! {
///     /// Its description, with the year of what it is drawn after.
///     pub struct Scenes {
///         /// An optional field of its own, which comes first in the YAML.
///         task: ScenesTask,
///     }
///     defaults: { size: 64, images: [800, 200, 1_000] },
///     open: Drawn::new,
///     name: "scenes", summary: "..", reference: "..", example: "..",
/// }
/// ```
macro_rules! procedural {
    (
        $(#[$doc:meta])*
        pub struct $config:ident { $($(#[$task_doc:meta])* $task:ident: $task_type:ty,)? }
        defaults: {
            size: $size:literal, images: [$train:literal, $validation:literal, $test:literal]
        },
        open: $open:expr,
        name: $name:tt,
        summary: $summary:literal,
        reference: $reference:literal,
        example: $example:literal,
    ) => {
        peft_core::dataset_config! {
            $(#[$doc])*
            #[derive(
                Debug, Clone, PartialEq,
                serde::Serialize, serde::Deserialize, schemars::JsonSchema,
            )]
            #[serde(deny_unknown_fields, default)]
            pub struct $config {
                $($(#[$task_doc])* pub $task: $task_type,)?
                /// Seed of all images; another seed is another data set.
                pub seed: u64,
                /// Side of an image, in pixels: 16..=1024.
                #[schemars(range(min = 16, max = 1024))]
                pub size: usize,
                /// Images in the train split: at least 1.
                #[schemars(range(min = 1))]
                pub train: usize,
                /// Images in the validation split: at least 1.
                #[schemars(range(min = 1))]
                pub validation: usize,
                /// Images in the test split: at least 1.
                #[schemars(range(min = 1))]
                pub test: usize,
            }
        }

        impl Default for $config {
            fn default() -> Self {
                Self {
                    $($task: Default::default(),)?
                    seed: 0,
                    size: $size,
                    train: $train,
                    validation: $validation,
                    test: $test,
                    transform: peft_core::data::Transform::default(),
                    train_images: None,
                    shots: None,
                }
            }
        }

        #[typetag::serde(name = $name)]
        impl peft_core::data::DatasetConfig for $config {
            fn open(&self) -> peft_core::Result<Box<dyn peft_core::data::Dataset>> {
                Ok(Box::new($open(self.clone())?))
            }

            peft_core::protocol_methods!();
        }

        peft_core::register!(
            Dataset,
            $config,
            name: $name,
            summary: $summary,
            reference: $reference,
            example: $example,
        );

        impl $crate::procedural::generator::Procedural for $config {
            const NAME: &'static str = $name;

            fn extent(
                &self,
            ) -> Result<$crate::procedural::generator::Extent, $crate::error::Error> {
                let images = [self.train, self.validation, self.test];
                $crate::procedural::generator::Extent::new(self.seed, self.size, images)
            }
        }
    };
}
pub(super) use procedural;

/// The configuration of a drawn data set, written by [`procedural!`].
pub(super) trait Procedural {
    /// The `name:` of its YAML, which is part of the key of every draw.
    const NAME: &'static str;

    /// The fields that all drawn data sets share.
    ///
    /// # Errors
    /// A field outside its range.
    fn extent(&self) -> Result<Extent, Error>;
}

/// The seed, the size and the number of images of a drawn data set.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    /// Another seed is another data set.
    pub seed: u64,
    /// Side of an image, in pixels.
    pub size: usize,
    /// Images of each split.
    pub images: BySplit<usize>,
}

impl Extent {
    /// Checks the ranges; nothing is drawn yet.
    ///
    /// # Errors
    /// A size that is out of range, or a split without an image.
    pub fn new(
        seed: u64,
        size: usize,
        [train, validation, test]: [usize; 3],
    ) -> Result<Self, Error> {
        if !(16..=1024).contains(&size) {
            return Err(Error::invalid("size", "16 to 1024 pixels", size));
        }
        for (field, images) in [("train", train), ("validation", validation), ("test", test)] {
            if images == 0 {
                return Err(Error::invalid(field, "at least 1 image", images));
            }
        }
        let images = BySplit {
            train,
            validation,
            test,
        };
        Ok(Self { seed, size, images })
    }

    /// A hash of everything that determines the images and the labels.
    pub fn fingerprint(&self, name: &str, version: u32, classes: &[String]) -> String {
        let BySplit {
            train,
            validation,
            test,
        } = self.images;
        let (seed, size) = (self.seed, self.size);
        let classes = classes.join(" ");
        let text = format!("{name} {version} {seed} {size} {train} {validation} {test} {classes}");
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }
}

/// A configuration whose images are independent draws.
pub(super) trait Generator: Procedural + Send + Sync {
    /// Bump whenever a change alters an image or a label: results and caches of the old images are
    /// then not taken for those of the new ones.
    const VERSION: u32;

    /// What an image shows; known without drawing it.
    type Content;

    /// The names of the classes.
    fn classes(&self) -> Vec<String>;

    /// Chooses what an image shows; the stream then continues in [`draw`](Self::draw).
    fn choose(&self, random: &mut Random) -> Self::Content;

    /// The class, an index into [`classes`](Self::classes).
    fn label(&self, content: &Self::Content) -> usize;

    /// Draws the image, with the stream that [`choose`](Self::choose) left.
    fn draw(&self, content: &Self::Content, random: &mut Random) -> Image;
}

/// A data set of independent draws.
pub(super) struct Drawn<G> {
    generator: G,
    extent: Extent,
    classes: Vec<String>,
}

impl<G: Generator> Drawn<G> {
    /// Opens the data set; images are drawn when they are asked for.
    pub fn new(generator: G) -> Result<Self, Error> {
        Ok(Self {
            extent: generator.extent()?,
            classes: generator.classes(),
            generator,
        })
    }

    /// What an image shows, and the stream that continues in its drawing.
    fn choose(&self, split: Split, index: usize) -> Result<(G::Content, Random), Error> {
        let len = self.len(split);
        if index >= len {
            return Err(Error::Index { split, index, len });
        }
        // A stream for each image, so that any thread may draw any image in any order. The size is
        // not part of the key: a larger image shows the same.
        let (name, version, seed) = (G::NAME, G::VERSION, self.extent.seed);
        let mut random = Random::keyed(&format!("{name} {version} {seed} {split} {index}"));
        Ok((self.generator.choose(&mut random), random))
    }
}

impl<G: Generator> Dataset for Drawn<G> {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn len(&self, split: Split) -> usize {
        *self.extent.images.get(split)
    }

    fn label(&self, split: Split, index: usize) -> Result<usize> {
        let (content, _) = self.choose(split, index)?;
        Ok(self.generator.label(&content))
    }

    fn image(&self, split: Split, index: usize) -> Result<Image> {
        let (content, mut random) = self.choose(split, index)?;
        Ok(self.generator.draw(&content, &mut random))
    }

    /// The blake3 hash of the parameters, the classes and the generator's version.
    fn fingerprint(&self) -> Result<String> {
        Ok(self.extent.fingerprint(G::NAME, G::VERSION, &self.classes))
    }
}
