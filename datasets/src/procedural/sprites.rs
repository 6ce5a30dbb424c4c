//! Sprites: a white square, ellipse or heart on black, described by five factors. The tasks are
//! VTAB's on dSprites: where the sprite is, and how it is turned.
//!
//! L. Matthey, I. Higgins, D. Hassabis and A. Lerchner, "dSprites: Disentanglement testing Sprites
//! dataset", 2017; X. Zhai et al., "A Large-scale Study of Representation Learning with the Visual
//! Task Adaptation Benchmark", 2019.
//!
//! The factors are those of dSprites: 3 shapes, 6 scales (0.5 to 1), 40 orientations (0 to 1 turn,
//! including both ends) and 32 x 32 positions, which make 737,280 combinations. The seed puts them
//! in an order of which train, validation and test are consecutive parts, so no combination is used
//! twice. VTAB's 16 classes join neighbouring values, `floor(16 value / values)`: 2 positions, or 2
//! to 3 orientations.
//!
//! Departure from dSprites: the outlines are redrawn and antialiased, so that any image size works.
//! As in dSprites, the first and the last orientation give the same image, and a square looks
//! nearly the same after a quarter turn, an ellipse after half a turn: no model can tell all
//! orientations apart.

use peft_core::Result;
use peft_core::data::{Dataset, Image, Split};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::canvas::Canvas;
use super::draw::area;
use super::generator::{Extent, Procedural, procedural};
use super::geometry::{Point, Segment, turn};
use super::random::Random;
use crate::error::Error;
use crate::split::BySplit;

/// Bump whenever a change alters an image or a label.
const VERSION: u32 = 1;

const SHAPES: [&str; 3] = ["square", "ellipse", "heart"];
const SCALES: [f32; 6] = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
const ORIENTATIONS: usize = 40;
/// Positions along each axis.
const POSITIONS: usize = 32;
const COMBINATIONS: usize = SHAPES.len() * SCALES.len() * ORIENTATIONS * POSITIONS * POSITIONS;
/// Classes of a position or an orientation, as in VTAB.
const BINS: usize = 16;

procedural! {
    /// Sprites (as dSprites, 2017): one white shape on black, in 737,280 combinations of shape,
    /// scale, orientation and position. None is used twice, so all splits together have at most
    /// that many images.
    pub struct Sprites {
        /// The factor that is the label.
        task: SpritesTask,
    }
    defaults: { size: 64, images: [800, 200, 1_000] },
    open: SpritesData::new,
    name: "sprites",
    summary: "a white square, ellipse or heart on black: its location, orientation, shape or scale",
    reference: "as dSprites, Matthey et al., 2017, with the tasks of VTAB, Zhai et al., 2019",
    example: "name: sprites\ntask: orientation\n",
}

/// A factor that a model has to tell from the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpritesTask {
    /// The horizontal position, 16 classes from the left; VTAB's dSprites/location.
    #[default]
    Location,
    /// The vertical position, 16 classes from the top.
    LocationY,
    /// The orientation, 16 classes of a turn, clockwise; VTAB's dSprites/orientation.
    Orientation,
    /// Square, ellipse or heart.
    Shape,
    /// One of six sizes.
    Scale,
}

/// The sprites of one seed.
struct SpritesData {
    task: SpritesTask,
    extent: Extent,
    classes: Vec<String>,
    /// The combinations in each split, by number.
    splits: BySplit<Vec<u32>>,
}

impl SpritesData {
    fn new(config: Sprites) -> Result<Self, Error> {
        let (task, extent) = (config.task, config.extent()?);
        let mut order = Order::new(extent.seed);
        let mut part = |field, count: usize| {
            order.next(count).ok_or_else(|| Error::Invalid {
                field,
                expected: format!("at most {COMBINATIONS} images in all splits together"),
                got: count.to_string(),
            })
        };
        let splits = BySplit {
            train: part("train", extent.images.train)?,
            validation: part("validation", extent.images.validation)?,
            test: part("test", extent.images.test)?,
        };
        Ok(Self {
            task,
            extent,
            classes: task.classes(),
            splits,
        })
    }

    fn factors(&self, split: Split, index: usize) -> Result<Factors, Error> {
        Ok(Factors::of(*self.splits.at(split, index)?))
    }
}

impl Dataset for SpritesData {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn len(&self, split: Split) -> usize {
        self.splits.get(split).len()
    }

    fn label(&self, split: Split, index: usize) -> Result<usize> {
        Ok(self.task.label(&self.factors(split, index)?))
    }

    fn image(&self, split: Split, index: usize) -> Result<Image> {
        Ok(self.factors(split, index)?.draw(self.extent.size))
    }

    /// The blake3 hash of the parameters, the classes and the generator's version.
    fn fingerprint(&self) -> Result<String> {
        Ok(self
            .extent
            .fingerprint(Sprites::NAME, VERSION, &self.classes))
    }
}

/// All combinations in a seeded order, to be taken from the front.
struct Order {
    random: Random,
    /// First the shuffled part, then those that are left.
    combinations: Vec<u32>,
    taken: usize,
}

impl Order {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::keyed(&format!("{} {VERSION} {seed}", Sprites::NAME)),
            combinations: (0..COMBINATIONS as u32).collect(),
            taken: 0,
        }
    }

    /// The next `count` combinations, or `None` if fewer are left.
    fn next(&mut self, count: usize) -> Option<Vec<u32>> {
        let end = self.taken.checked_add(count)?;
        if end > COMBINATIONS {
            return None;
        }
        let start = std::mem::replace(&mut self.taken, end);
        // Fisher and Yates's shuffle, no further than it is needed.
        for i in start..end {
            let other = i + self.random.below(COMBINATIONS - i);
            self.combinations.swap(i, other);
        }
        Some(self.combinations[start..end].to_vec())
    }
}

/// What an image shows: an index into the values of each factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Factors {
    shape: usize,
    scale: usize,
    orientation: usize,
    x: usize,
    y: usize,
}

impl Factors {
    /// Combination `index` of `0..COMBINATIONS`, where the vertical position changes fastest.
    fn of(index: u32) -> Self {
        let mut rest = index as usize;
        let mut digit = |values: usize| {
            let value = rest % values;
            rest /= values;
            value
        };
        let (y, x) = (digit(POSITIONS), digit(POSITIONS));
        let (orientation, scale) = (digit(ORIENTATIONS), digit(SCALES.len()));
        let shape = digit(SHAPES.len());
        Self {
            shape,
            scale,
            orientation,
            x,
            y,
        }
    }

    /// Draws the sprite. Its centre is in the middle half of the image, so that nothing is cut off.
    fn draw(&self, side: usize) -> Image {
        let size = side as f32;
        let last = |values: usize| (values - 1) as f32;
        let at = |position: usize| size * (0.25 + 0.5 * position as f32 / last(POSITIONS));
        // The last orientation is a whole turn: dSprites counts both ends.
        let centre = [at(self.x), at(self.y)];
        let [cos, sin] = turn(self.orientation as f32 / last(ORIENTATIONS));
        let scale = REACH * size * SCALES[self.scale];
        let place = |[x, y]: Point| {
            [
                centre[0] + scale * (cos * x - sin * y),
                centre[1] + scale * (sin * x + cos * y),
            ]
        };
        let corners: Vec<Point> = outline(self.shape).into_iter().map(place).collect();
        let next = corners.iter().cycle().skip(1);
        let segments: Vec<Segment> = corners.iter().zip(next).map(|(a, b)| [*a, *b]).collect();
        let mut canvas = Canvas::plain(side, [0.0; 3]);
        canvas.lay(&area(&segments, side), [1.0; 3]);
        canvas.develop()
    }
}

/// How far the largest sprite extends from its centre, as a part of the image's side.
const REACH: f32 = 0.23;

/// The corners of a shape around its centre, at most 1 away from it; x to the right, y down.
fn outline(shape: usize) -> Vec<Point> {
    const CORNERS: usize = 64;
    let curve = |at: fn([f32; 2], f32) -> Point| -> Vec<Point> {
        (0..CORNERS)
            .map(|corner| corner as f32 / CORNERS as f32)
            .map(|angle| at(turn(angle), angle))
            .collect()
    };
    match SHAPES[shape] {
        "square" => {
            const HALF: f32 = 0.7;
            vec![[-HALF, -HALF], [HALF, -HALF], [HALF, HALF], [-HALF, HALF]]
        }
        "ellipse" => curve(|[cos, sin], _| [cos, 0.5 * sin]),
        // The usual heart of harmonics, shifted so that it turns about its centre of mass.
        _ => curve(|[cos, sin], angle| {
            let harmonics = [(2.0, 5.0), (3.0, 2.0), (4.0, 1.0)]
                .into_iter()
                .fold(13.0 * cos, |y, (order, part)| {
                    y - part * turn(order * angle)[0]
                });
            [16.0 * sin * sin * sin, 0.83 - harmonics].map(|value| value / 18.0)
        }),
    }
}

impl SpritesTask {
    fn label(self, factors: &Factors) -> usize {
        match self {
            Self::Location => factors.x * BINS / POSITIONS,
            Self::LocationY => factors.y * BINS / POSITIONS,
            Self::Orientation => factors.orientation * BINS / ORIENTATIONS,
            Self::Shape => factors.shape,
            Self::Scale => factors.scale,
        }
    }

    fn classes(self) -> Vec<String> {
        let bins = |axis: &str| (0..BINS).map(|bin| format!("{axis}-{bin}")).collect();
        match self {
            Self::Location => bins("x"),
            Self::LocationY => bins("y"),
            Self::Orientation => bins("orientation"),
            Self::Shape => SHAPES.map(String::from).into(),
            Self::Scale => SCALES.map(|scale| format!("scale-{scale:.1}")).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TASKS: [SpritesTask; 5] = [
        SpritesTask::Location,
        SpritesTask::LocationY,
        SpritesTask::Orientation,
        SpritesTask::Shape,
        SpritesTask::Scale,
    ];

    fn data(task: SpritesTask) -> SpritesData {
        SpritesData::new(Sprites {
            task,
            ..Sprites::default()
        })
        .unwrap()
    }

    /// The image's mass and its centre, in pixels.
    fn moments(image: &Image) -> (f32, Point) {
        let (mut mass, mut sum) = (0.0, [0.0; 2]);
        for (i, rgb) in image.rgb.chunks(3).enumerate() {
            let value = f32::from(rgb[0]) / 255.0;
            let place = [i % image.width, i / image.width].map(|at| at as f32 + 0.5);
            mass += value;
            sum = [0, 1].map(|axis| sum[axis] + value * place[axis]);
        }
        (mass, sum.map(|sum| sum / mass))
    }

    #[test]
    fn every_combination_has_a_number_and_none_is_used_twice() {
        let all: HashSet<Factors> = (0..COMBINATIONS as u32).map(Factors::of).collect();
        assert_eq!((COMBINATIONS, all.len()), (737_280, COMBINATIONS));

        let mut everything = Order::new(3).next(COMBINATIONS).unwrap();
        assert_ne!(everything[..100], Order::new(4).next(100).unwrap());
        assert_eq!(everything[..100], Order::new(3).next(100).unwrap());
        everything.sort_unstable();
        assert!((0..COMBINATIONS as u32).eq(everything));

        let data = data(SpritesTask::Location);
        let used: HashSet<u32> = Split::ALL
            .iter()
            .flat_map(|&split| data.splits.get(split).iter().copied())
            .collect();
        assert_eq!(used.len(), 2_000);
    }

    #[test]
    fn two_thousand_sprites_cover_every_value_of_every_factor() {
        let data = data(SpritesTask::Location);
        let factors = |factor: fn(Factors) -> usize| {
            let of = |&index: &u32| factor(Factors::of(index));
            let all = Split::ALL.iter().flat_map(|&split| data.splits.get(split));
            all.map(of).collect::<HashSet<_>>().len()
        };
        assert_eq!(factors(|f| f.shape), 3);
        assert_eq!(factors(|f| f.scale), 6);
        assert_eq!(factors(|f| f.orientation), 40);
        assert_eq!(factors(|f| f.x), 32);
        assert_eq!(factors(|f| f.y), 32);
    }

    #[test]
    fn classes_join_as_many_values_as_in_vtab() {
        for (task, expected) in [
            (SpritesTask::Location, vec![2; 16]),
            (SpritesTask::LocationY, vec![2; 16]),
            (SpritesTask::Orientation, [3, 2].repeat(8)),
            (SpritesTask::Shape, vec![1; 3]),
            (SpritesTask::Scale, vec![1; 6]),
        ] {
            let mut counts = vec![0; task.classes().len()];
            for index in 0..COMBINATIONS as u32 {
                counts[task.label(&Factors::of(index))] += 1;
            }
            let values: usize = expected.iter().sum();
            let counts: Vec<usize> = counts.iter().map(|n| n * values / COMBINATIONS).collect();
            assert_eq!(counts, expected, "{task:?}");
        }
    }

    #[test]
    fn a_sprite_is_where_and_as_large_as_its_factors_say() {
        for shape in 0..3 {
            for (x, y, orientation) in [(0, 0, 5), (31, 0, 17), (13, 31, 29), (31, 31, 35)] {
                let factors = |scale| Factors {
                    shape,
                    scale,
                    orientation,
                    x,
                    y,
                };
                let image = factors(5).draw(64);
                let edge = |i: usize| [i % 64, i / 64].iter().any(|at| [0, 63].contains(at));
                let cut = image.rgb.chunks(3).enumerate();
                assert!(cut.filter(|&(i, _)| edge(i)).all(|(_, rgb)| rgb[0] == 0));
                let (large, centre) = moments(&image);
                for (centre, position) in centre.into_iter().zip([x, y]) {
                    let expected = 16.0 + 32.0 * position as f32 / 31.0;
                    assert!((centre - expected).abs() < 1.0, "{shape}: {centre}");
                }
                let (small, _) = moments(&factors(0).draw(64));
                let ratio = large / small;
                assert!((ratio - 4.0).abs() < 0.15, "{shape}: {ratio}");
            }
        }
    }

    #[test]
    fn all_tasks_ask_about_the_same_images() {
        let [first, rest @ ..] = TASKS.map(data);
        for data in rest {
            let (a, b) = (first.image(Split::Test, 5), data.image(Split::Test, 5));
            assert_eq!(a.unwrap(), b.unwrap());
            assert_ne!(first.fingerprint().unwrap(), data.fingerprint().unwrap());
        }
    }

    #[test]
    fn more_images_than_combinations_are_refused() {
        let config = Sprites {
            train: 700_000,
            validation: 30_000,
            test: 7_281,
            ..Sprites::default()
        };
        let message = SpritesData::new(config).err().unwrap().to_string();
        assert!(
            message.contains("`test`") && message.contains("737280"),
            "{message}"
        );
    }
}
