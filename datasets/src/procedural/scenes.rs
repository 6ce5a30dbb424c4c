//! Scenes: 3 to 10 coloured spheres, cubes and cylinders on a plane, in perspective, with shading
//! and shadows. The tasks are VTAB's on CLEVR: how many objects there are, and how near the nearest
//! one is.
//!
//! J. Johnson et al., "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual
//! Reasoning", 2017; X. Zhai et al., "A Large-scale Study of Representation Learning with the
//! Visual Task Adaptation Benchmark", 2019.
//!
//! As in CLEVR: the number of objects is uniform; each has one of 3 shapes, 2 sizes, 8 colours and
//! 2 materials, and a place in the square of -3 to 3 units around the origin, apart from the
//! others; the camera and the lamp move a little. A distance is the depth of an object's centre
//! along the camera's axis, in units. VTAB cuts CLEVR's at 8, 8.5, 9, 9.5 and 10; here the cuts are
//! the sextiles of this generator, so that the six classes are equally frequent.
//!
//! Departures from CLEVR: the camera looks down more steeply and the objects are larger (0.75 and
//! 0.5 units instead of 0.7 and 0.35), so that they can be counted in 32 pixels, and every object
//! shows a part of its outline beside each nearer one. A pixel is the mean of four rays, each
//! followed to the first surface and from there to the lamp.

mod trace;

use peft_core::data::Image;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::trace::{Camera, Object, Solid};
use super::canvas::Canvas;
use super::colour::Colour;
use super::generator::{Drawn, Generator, procedural};
use super::geometry::turn;
use super::random::Random;

/// Fewest and most objects of a scene.
const OBJECTS: [usize; 2] = [3, 10];
const SOLIDS: [Solid; 3] = [Solid::Sphere, Solid::Cube, Solid::Cylinder];
/// The two sizes, in units.
const RADII: [f32; 2] = [0.5, 0.75];
/// Grey, red, blue, green, brown, purple, cyan and yellow.
const COLOURS: [Colour; 8] = [
    [0.36, 0.36, 0.36],
    [0.70, 0.13, 0.13],
    [0.16, 0.29, 0.85],
    [0.12, 0.45, 0.10],
    [0.52, 0.30, 0.10],
    [0.52, 0.16, 0.76],
    [0.16, 0.80, 0.80],
    [0.98, 0.92, 0.22],
];
/// Half the side of the square on which objects stand, in units.
const FLOOR: f32 = 3.0;
/// Least gap between two objects, in units.
const GAP: f32 = 0.2;
/// Depths between the classes of the nearest object, in units.
const CUTS: [f32; 5] = [8.35, 8.7, 9.05, 9.4, 9.9];

procedural! {
    /// Scenes (as CLEVR, 2017): 3 to 10 coloured solids on a plane, to be counted or ranged.
    pub struct Scenes {
        /// The property that is the label.
        task: ScenesTask,
    }
    defaults: { size: 64, images: [800, 200, 1_000] },
    open: Drawn::new,
    name: "scenes",
    summary: "3 to 10 coloured solids on a plane: how many, or how near the nearest one is",
    reference: "as CLEVR, Johnson et al., 2017, with the tasks of VTAB, Zhai et al., 2019",
    example: "name: scenes\ntask: distance\n",
}

/// A property of the scene that a model has to tell from the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScenesTask {
    /// The number of objects, 3 to 10, in 8 classes; VTAB's Clevr/count.
    #[default]
    Count,
    /// The depth of the nearest object, in 6 classes; VTAB's Clevr/distance.
    Distance,
}

impl Generator for Scenes {
    const VERSION: u32 = 1;
    type Content = Scene;

    fn classes(&self) -> Vec<String> {
        match self.task {
            ScenesTask::Count => (OBJECTS[0]..=OBJECTS[1]).map(|n| n.to_string()).collect(),
            ScenesTask::Distance => {
                let lowest = std::iter::once(format!("below-{:.2}", CUTS[0]));
                lowest
                    .chain(CUTS.iter().map(|cut| format!("from-{cut:.2}")))
                    .collect()
            }
        }
    }

    /// The scene does not depend on the task.
    fn choose(&self, random: &mut Random) -> Scene {
        let count = OBJECTS[0] + random.below(OBJECTS[1] - OBJECTS[0] + 1);
        let camera = Camera::new([6.4, -6.4, 7.0].map(|at| at + random.uniform(-0.5, 0.5)));
        loop {
            // If an object finds no room, all of them are placed anew.
            if let Some(objects) = place(random, &camera, count) {
                return Scene { camera, objects };
            }
        }
    }

    fn label(&self, scene: &Scene) -> usize {
        match self.task {
            ScenesTask::Count => scene.objects.len() - OBJECTS[0],
            ScenesTask::Distance => {
                let nearest = scene.nearest();
                CUTS.iter().filter(|&&cut| nearest >= cut).count()
            }
        }
    }

    fn draw(&self, scene: &Scene, random: &mut Random) -> Image {
        let lamp = [-0.3, -0.75, 1.2].map(|at| at + random.uniform(-0.2, 0.2));
        let floor = [0; 3].map(|_| random.uniform(0.68, 0.76));
        let light = trace::Light::new(lamp, floor);
        let canvas = Canvas::sampled(self.size, |x, y| {
            light.colour(&scene.objects, scene.camera.at, scene.camera.ray(x, y))
        });
        canvas.noisy(random, 0.01, false).develop()
    }
}

/// The objects of an image and the camera that sees them.
pub(super) struct Scene {
    camera: Camera,
    objects: Vec<Object>,
}

impl Scene {
    /// The depth of the nearest object's centre, in units.
    fn nearest(&self) -> f32 {
        let depths = self.objects.iter().map(|o| self.camera.depth(o.centre));
        depths.fold(f32::INFINITY, f32::min)
    }
}

/// `count` objects, each in a free place; `None` if one of them finds no place in 50 tries.
fn place(random: &mut Random, camera: &Camera, count: usize) -> Option<Vec<Object>> {
    let mut objects: Vec<Object> = Vec::with_capacity(count);
    while objects.len() < count {
        let mut candidates = (0..50).map(|_| object(random));
        let fits = |new: &Object| objects.iter().all(|old| apart(camera, old, new));
        let found = candidates.find(fits)?;
        objects.push(found);
    }
    Some(objects)
}

fn object(random: &mut Random) -> Object {
    let solid = SOLIDS[random.below(SOLIDS.len())];
    let radius = RADII[random.below(RADII.len())];
    let [x, y] = [0; 2].map(|_| random.uniform(-FLOOR, FLOOR));
    let extent = match solid {
        // As wide across its corners as the others.
        Solid::Cube => radius * std::f32::consts::FRAC_1_SQRT_2,
        Solid::Sphere | Solid::Cylinder => radius,
    };
    Object {
        solid,
        extent,
        centre: [x, y, extent],
        facing: turn(random.uniform(0.0, 0.25)),
        colour: COLOURS[random.below(COLOURS.len())],
        metal: random.chance(0.5),
    }
}

/// Whether two objects neither touch nor hide each other.
fn apart(camera: &Camera, a: &Object, b: &Object) -> bool {
    /// The part of the farther object's radius that must be seen beside the nearer one.
    const SHOWN: f32 = 0.7;
    let distance = |[x, y]: [f32; 2]| (x * x + y * y).sqrt();
    let [gap_x, gap_y] = [0, 1].map(|axis| a.centre[axis] - b.centre[axis]);
    if distance([gap_x, gap_y]) < a.radius() + b.radius() + GAP {
        return false;
    }
    // In the image each object is taken for a disc.
    let seen = |object: &Object| {
        let depth = camera.depth(object.centre);
        (
            depth,
            camera.project(object.centre),
            camera.scale(depth) * object.radius(),
        )
    };
    let (near, far) = if camera.depth(a.centre) < camera.depth(b.centre) {
        (seen(a), seen(b))
    } else {
        (seen(b), seen(a))
    };
    let between = distance([0, 1].map(|axis| near.1[axis] - far.1[axis]));
    between + far.2 > near.2 + SHOWN * far.2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenes(task: ScenesTask) -> Scenes {
        Scenes {
            task,
            ..Scenes::default()
        }
    }

    fn scene(key: u32) -> Scene {
        Scenes::default().choose(&mut Random::keyed(&key.to_string()))
    }

    #[test]
    fn classes_are_equally_frequent() {
        for task in [ScenesTask::Count, ScenesTask::Distance] {
            let generator = scenes(task);
            let mut counts = vec![0; generator.classes().len()];
            for key in 0..6_000 {
                counts[generator.label(&scene(key))] += 1;
            }
            let expected = 6_000 / counts.len();
            let near = |&count: &usize| count.abs_diff(expected) < expected / 8; // 4 deviations
            assert!(counts.iter().all(near), "{task:?}: {counts:?}");
        }
    }

    #[test]
    fn objects_stand_apart_on_the_floor_and_in_view() {
        for key in 0..300 {
            let scene = scene(key);
            for (i, a) in scene.objects.iter().enumerate() {
                assert!(a.centre[0].abs() <= FLOOR && a.centre[1].abs() <= FLOOR);
                assert_eq!(a.centre[2], a.extent);
                let at = scene.camera.project(a.centre);
                let radius = scene.camera.scale(scene.camera.depth(a.centre)) * a.radius();
                let inside = |at: f32| (radius..=1.0 - radius).contains(&at);
                assert!(at.into_iter().all(inside), "{at:?} {radius}");
                assert!(
                    scene.objects[..i]
                        .iter()
                        .all(|b| apart(&scene.camera, a, b))
                );
            }
        }
    }

    #[test]
    fn every_object_is_seen() {
        for key in 0..60 {
            let scene = scene(key);
            let mut seen = vec![0; scene.objects.len()];
            for i in 0..64 * 64 {
                let [x, y] = [i % 64, i / 64].map(|at| (at as f32 + 0.5) / 64.0);
                let ray = scene.camera.ray(x, y);
                if let Some((object, _)) = trace::first(&scene.objects, scene.camera.at, ray) {
                    seen[object] += 1;
                }
            }
            assert!(seen.iter().all(|&pixels| pixels >= 5), "{key}: {seen:?}");
        }
    }
}
