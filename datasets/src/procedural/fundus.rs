//! Fundi: photographs of the back of an eye, with the signs of diabetic retinopathy in five grades.
//! They take the place of Diabetic Retinopathy in VTAB's specialised group.
//!
//! The grades follow the international clinical scale: C. P. Wilkinson et al., "Proposed
//! International Clinical Diabetic Retinopathy and Diabetic Macular Edema Disease Severity
//! Scales", 2003. These are drawings, without any use in medicine.
//!
//! | grade | microaneurysms | haemorrhages | exudates | new vessels |
//! |---|---|---|---|---|
//! | none | | | | |
//! | mild | 3 to 6 | | | |
//! | moderate | 4 to 9 | 2 to 4 | 0 to 4 | |
//! | severe | 6 to 12 | 6 to 10 | 4 to 9 | |
//! | proliferative | 4 to 12 | 3 to 9 | 2 to 9 | 1 or 2 tufts, 1 pool of blood |

use peft_core::data::Image;

use super::canvas::Canvas;
use super::colour::{Colour, mix, shade, vary};
use super::draw::stroke;
use super::generator::{Drawn, Generator, procedural};
use super::geometry::{Point, Segment, turn};
use super::noise::cloud;
use super::random::Random;

procedural! {
    /// Fundi: drawn photographs of the retina in the five grades of diabetic retinopathy (2003).
    pub struct Fundus {}
    defaults: { size: 64, images: [800, 200, 1_000] },
    open: Drawn::new,
    name: "fundus",
    summary: "drawn retinas with the signs of diabetic retinopathy, in five grades",
    reference: "the grades of Wilkinson et al., 2003; drawings, without any use in medicine",
    example: "name: fundus\n",
}

impl Generator for Fundus {
    const VERSION: u32 = 1;

    /// The grade.
    type Content = usize;

    fn classes(&self) -> Vec<String> {
        GRADES.map(|grade| grade.name.to_owned()).into()
    }

    fn choose(&self, random: &mut Random) -> usize {
        random.below(GRADES.len())
    }

    fn label(&self, grade: &usize) -> usize {
        *grade
    }

    fn draw(&self, grade: &usize, random: &mut Random) -> Image {
        Eye::new(random, self.size).draw(random, &GRADES[*grade])
    }
}

/// The signs of a grade; each count is a range, with both ends.
struct Grade {
    name: &'static str,
    microaneurysms: [usize; 2],
    haemorrhages: [usize; 2],
    exudates: [usize; 2],
    /// Tufts of new vessels; where there are some, there is one pool of blood in front of the
    /// retina.
    tufts: [usize; 2],
}

#[rustfmt::skip]
const GRADES: [Grade; 5] = [
    Grade { name: "none", microaneurysms: [0, 0], haemorrhages: [0, 0], exudates: [0, 0], tufts: [0, 0] },
    Grade { name: "mild", microaneurysms: [3, 6], haemorrhages: [0, 0], exudates: [0, 0], tufts: [0, 0] },
    Grade { name: "moderate", microaneurysms: [4, 9], haemorrhages: [2, 4], exudates: [0, 4], tufts: [0, 0] },
    Grade { name: "severe", microaneurysms: [6, 12], haemorrhages: [6, 10], exudates: [4, 9], tufts: [0, 0] },
    Grade { name: "proliferative", microaneurysms: [4, 12], haemorrhages: [3, 9], exudates: [2, 9], tufts: [1, 2] },
];

/// One eye in one photograph; lengths are fractions of the image's side.
struct Eye {
    side: usize,
    centre: Point,
    radius: f32,
    /// -1 if the optic disc is on the left, 1 if it is on the right.
    nasal: f32,
    disc: Point,
    retina: Colour,
    blood: Colour,
}

impl Eye {
    fn new(random: &mut Random, side: usize) -> Self {
        let centre = [0; 2].map(|_| random.uniform(0.48, 0.52));
        let nasal = if random.chance(0.5) { 1.0 } else { -1.0 };
        let radius = random.uniform(0.44, 0.48);
        let aside = nasal * radius * random.uniform(0.45, 0.6);
        Self {
            side,
            centre,
            radius,
            nasal,
            disc: [centre[0] + aside, centre[1] + random.uniform(-0.06, 0.06)],
            retina: vary(random, [0.80, 0.42, 0.20], 0.08),
            blood: vary(random, [0.42, 0.07, 0.06], 0.04),
        }
    }

    fn draw(&self, random: &mut Random, grade: &Grade) -> Image {
        let mut canvas = self.ground(random);
        // From the back to the front: signs hide vessels, and the mask hides everything beyond the
        // rim.
        self.vessels(random, &mut canvas);
        let dot = |at: Point| [at; 2];
        let mark = |canvas: &mut Canvas, segment: Segment, pen: f32, colour: Colour| {
            let size = self.side as f32;
            let segment = segment.map(|point| point.map(|value| value * size));
            canvas.lay(&stroke(&[segment], self.side, pen * size), colour);
        };
        for _ in 0..between(random, grade.exudates) {
            let yellow = vary(random, [0.95, 0.86, 0.50], 0.05);
            let pen = random.uniform(0.010, 0.018);
            mark(&mut canvas, dot(self.anywhere(random)), pen, yellow);
        }
        for _ in 0..between(random, grade.microaneurysms) {
            let pen = random.uniform(0.009, 0.014);
            mark(&mut canvas, dot(self.anywhere(random)), pen, self.blood);
        }
        for _ in 0..between(random, grade.haemorrhages) {
            let start = self.anywhere(random);
            let [cos, sin] = turn(random.uniform(0.0, 1.0));
            let length = random.uniform(0.0, 0.04);
            let end = [start[0] + length * cos, start[1] + length * sin];
            let pen = random.uniform(0.020, 0.034);
            mark(&mut canvas, [start, end], pen, self.blood);
        }
        let tufts = between(random, grade.tufts);
        for _ in 0..tufts {
            let root = self.anywhere(random);
            for twig in 0..7 {
                let [cos, sin] = turn((twig as f32 + random.uniform(-0.3, 0.3)) / 7.0);
                let length = random.uniform(0.05, 0.09);
                let tip = [root[0] + length * cos, root[1] + length * sin];
                mark(&mut canvas, [root, tip], 0.006, self.blood);
            }
        }
        if tufts > 0 {
            let [x, y] = self.anywhere(random);
            let half = random.uniform(0.04, 0.08);
            let pool = [[x - half, y], [x + half, y]];
            mark(&mut canvas, pool, random.uniform(0.04, 0.06), self.blood);
        }
        self.mask(&mut canvas);
        canvas.noisy(random, 0.02, false).develop()
    }

    /// The retina without vessels: darker towards its rim and at the macula, bright at the optic
    /// disc.
    fn ground(&self, random: &mut Random) -> Canvas {
        let salt = random.below(1 << 30) as u32;
        let macula = [
            self.centre[0] - 0.15 * self.nasal * self.radius,
            self.centre[1],
        ];
        let bright = vary(random, [0.98, 0.84, 0.58], 0.04);
        let size = random.uniform(0.065, 0.08);
        Canvas::sampled(self.side, |x, y| {
            let from = |[cx, cy]: Point| ((x - cx) * (x - cx) + (y - cy) * (y - cy)).sqrt();
            let rim = from(self.centre) / self.radius;
            let dark = (1.0 - from(macula) / 0.12).max(0.0);
            let uneven = 0.9 + 0.2 * cloud(5.0 * x, 5.0 * y, salt);
            let brightness = uneven * (1.05 - 0.35 * rim * rim) * (1.0 - 0.3 * dark);
            let disc = ((size - from(self.disc)) / 0.02).clamp(0.0, 1.0);
            mix(shade(self.retina, brightness), bright, disc)
        })
    }

    /// Two arcades of vessels leave the disc, upwards and downwards, branch, and bend around the
    /// macula.
    fn vessels(&self, random: &mut Random, canvas: &mut Canvas) {
        for vertical in [-1.0, 1.0] {
            for _ in 0..2 {
                let pen = random.uniform(0.008, 0.012);
                self.vessel(random, canvas, self.disc, [0.0, vertical], pen, 2);
            }
        }
    }

    /// A vessel from `start` in the direction `heading`; each branch is thinner than its parent.
    fn vessel(
        &self,
        random: &mut Random,
        canvas: &mut Canvas,
        start: Point,
        heading: Point,
        pen: f32,
        branches: usize,
    ) {
        const STEPS: usize = 9;
        const STEP: f32 = 0.05;
        let bend = -self.nasal * random.uniform(0.06, 0.2);
        let fork = 2 + random.below(4);
        let (mut at, mut heading) = (start, heading);
        let mut segments: Vec<Segment> = Vec::with_capacity(STEPS);
        for step in 0..STEPS {
            let wiggle = random.uniform(-0.15, 0.15);
            heading = unit([heading[0] + bend + wiggle, heading[1] + wiggle]);
            let end = [at[0] + STEP * heading[0], at[1] + STEP * heading[1]];
            segments.push([at, end]);
            at = end;
            if branches > 0 && step == fork {
                let side = random.uniform(-0.9, 0.9);
                let aside = unit([
                    heading[0] - side * heading[1],
                    heading[1] + side * heading[0],
                ]);
                self.vessel(random, canvas, at, aside, 0.75 * pen, branches - 1);
            }
        }
        let size = self.side as f32;
        let scaled: Vec<Segment> = segments
            .iter()
            .map(|segment| segment.map(|point| point.map(|value| value * size)))
            .collect();
        let colour = mix(self.blood, self.retina, 0.3);
        canvas.lay(&stroke(&scaled, self.side, pen * size), colour);
    }

    /// A random place on the retina that is not on the optic disc.
    fn anywhere(&self, random: &mut Random) -> Point {
        loop {
            let offset = [0; 2].map(|_| self.radius * random.uniform(-0.85, 0.85));
            let at = [0, 1].map(|axis| self.centre[axis] + offset[axis]);
            let length = |[x, y]: Point| (x * x + y * y).sqrt();
            let from_disc = [0, 1].map(|axis| at[axis] - self.disc[axis]);
            if length(offset) < 0.85 * self.radius && length(from_disc) > 0.12 {
                return at;
            }
        }
    }

    /// Makes the surroundings of the round picture black.
    fn mask(&self, canvas: &mut Canvas) {
        let size = self.side as f32;
        let centre = self.centre.map(|value| value * size);
        let inside = stroke(&[[centre; 2]], self.side, self.radius * size);
        for (pixel, inside) in canvas.pixels.iter_mut().zip(inside) {
            *pixel = shade(*pixel, inside);
        }
    }
}

/// Uniform over `least..=most`.
fn between(random: &mut Random, [least, most]: [usize; 2]) -> usize {
    least + random.below(most - least + 1)
}

fn unit([x, y]: Point) -> Point {
    let length = (x * x + y * y).sqrt().max(1e-6);
    [x / length, y / length]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of pixels that clearly differ from those of the same eye in health, on average.
    fn signs(grade: usize) -> usize {
        let differ = |key: u32| {
            let drawn = |grade: usize| {
                let mut random = Random::keyed(&key.to_string());
                Eye::new(&mut random, 64).draw(&mut random, &GRADES[grade])
            };
            let (healthy, sick) = (drawn(0), drawn(grade));
            let pairs = healthy.rgb.chunks(3).zip(sick.rgb.chunks(3));
            pairs.filter(|(a, b)| a[1].abs_diff(b[1]) > 30).count()
        };
        (0..20).map(differ).sum::<usize>() / 20
    }

    #[test]
    fn every_grade_shows_more_than_the_one_before() {
        let signs: Vec<usize> = (0..5).map(signs).collect();
        assert_eq!(signs[0], 0);
        assert!(signs.windows(2).all(|pair| pair[0] < pair[1]), "{signs:?}");
        assert!(signs[1] >= 3, "{signs:?}");
    }

    #[test]
    fn around_the_eye_it_is_black_but_for_noise() {
        for key in 0..10 {
            let mut random = Random::keyed(&key.to_string());
            let image = Eye::new(&mut random, 64).draw(&mut random, &GRADES[4]);
            assert!(image.rgb[..3].iter().all(|&value| value < 20));
        }
    }
}
