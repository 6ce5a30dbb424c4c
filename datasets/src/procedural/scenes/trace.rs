//! A small ray tracer: a camera that sees spheres, cubes and cylinders on the plane `z = 0`.

use crate::procedural::colour::{Colour, mix, shade};

/// A point or a direction, in units; `z` is up.
pub(super) type Vector = [f32; 3];

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Solid {
    Sphere,
    Cube,
    Cylinder,
}

/// A solid on the plane.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub solid: Solid,
    /// Half the height; also the radius, or half the side of a cube.
    pub extent: f32,
    pub centre: Vector,
    /// Cosine and sine of a cube's angle around the vertical.
    pub facing: [f32; 2],
    pub colour: Colour,
    /// Shiny rather than matte.
    pub metal: bool,
}

/// Where a ray meets a surface.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hit {
    /// The distance from the ray's start, in lengths of its direction.
    pub distance: f32,
    /// Outwards, of length 1.
    pub normal: Vector,
}

fn dot(a: Vector, b: Vector) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: Vector, b: Vector) -> Vector {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

/// `a + t b`.
fn along(a: Vector, t: f32, b: Vector) -> Vector {
    [0, 1, 2].map(|axis| a[axis] + t * b[axis])
}

fn unit(a: Vector) -> Vector {
    let length = dot(a, a).sqrt();
    a.map(|value| value / length)
}

/// A pinhole camera that looks at the origin.
pub(super) struct Camera {
    pub at: Vector,
    forward: Vector,
    right: Vector,
    up: Vector,
}

impl Camera {
    /// Half the width of the view at depth 1.
    const HALF: f32 = 0.47;

    pub fn new(at: Vector) -> Self {
        let forward = unit(at.map(|value| -value));
        let right = unit(cross(forward, [0.0, 0.0, 1.0]));
        let up = cross(right, forward);
        Self {
            at,
            forward,
            right,
            up,
        }
    }

    /// The depth of a point along the camera's axis, in units.
    pub fn depth(&self, point: Vector) -> f32 {
        dot(along(point, -1.0, self.at), self.forward)
    }

    /// The length of one unit at this depth, as a part of the image's side.
    pub fn scale(&self, depth: f32) -> f32 {
        0.5 / (Self::HALF * depth)
    }

    /// Where a point appears in the image: 0..1, to the right and down.
    pub fn project(&self, point: Vector) -> [f32; 2] {
        let (offset, scale) = (along(point, -1.0, self.at), self.scale(self.depth(point)));
        [
            0.5 + scale * dot(offset, self.right),
            0.5 - scale * dot(offset, self.up),
        ]
    }

    /// The direction of the ray through a place of the image, of length 1.
    pub fn ray(&self, x: f32, y: f32) -> Vector {
        let [x, y] = [x, y].map(|at| Self::HALF * (2.0 * at - 1.0));
        unit(along(along(self.forward, x, self.right), -y, self.up))
    }
}

impl Object {
    /// The radius of the circle around it on the plane.
    pub fn radius(&self) -> f32 {
        match self.solid {
            Solid::Cube => self.extent * std::f32::consts::SQRT_2,
            Solid::Sphere | Solid::Cylinder => self.extent,
        }
    }

    /// Where a ray from outside enters the solid.
    pub fn hit(&self, start: Vector, ray: Vector) -> Option<Hit> {
        let start = along(start, -1.0, self.centre);
        let nearest = -dot(start, ray);
        let gap = dot(start, start) - nearest * nearest; // squared, from the centre to the ray
        let reach = match self.solid {
            Solid::Sphere => 1.0,
            Solid::Cylinder => 2.0,
            Solid::Cube => 3.0,
        } * self.extent
            * self.extent;
        // Most rays pass far from most objects: the sphere around a solid decides quickly.
        if gap > reach {
            return None;
        }
        match self.solid {
            Solid::Sphere => {
                let distance = nearest - (reach - gap).sqrt();
                let normal = unit(along(start, distance, ray));
                Some(Hit { distance, normal })
            }
            Solid::Cube => {
                let [cos, sin] = self.facing;
                let inwards = |[x, y, z]: Vector| [cos * x + sin * y, cos * y - sin * x, z];
                let Hit { distance, normal } =
                    enter(slabs(inwards(start), inwards(ray), self.extent))?;
                let [x, y, z] = normal;
                let normal = [cos * x - sin * y, sin * x + cos * y, z];
                Some(Hit { distance, normal })
            }
            Solid::Cylinder => {
                let wall = wall(start, ray, self.extent)?;
                let [_, _, lid] = slabs(start, ray, self.extent);
                let mut hit = enter([wall, lid])?;
                if hit.normal[2] == 0.0 {
                    let [x, y, _] = along(start, hit.distance, ray);
                    hit.normal = unit([x, y, 0.0]);
                }
                Some(hit)
            }
        }
        .filter(|hit| hit.distance > 0.0)
    }
}

/// The part of a ray between two faces: where it enters, where it leaves, and the normal where it
/// enters.
type Span = (f32, f32, Vector);

/// The spans between the three pairs of faces of a cube around the origin.
fn slabs(start: Vector, ray: Vector, half: f32) -> [Span; 3] {
    [0, 1, 2].map(|axis| {
        // A ray that is parallel to a face divides by 0; the infinite span is right for the
        // comparisons.
        let [one, other] = [half, -half].map(|face| (face - start[axis]) / ray[axis]);
        let mut normal = [0.0; 3];
        normal[axis] = if ray[axis] > 0.0 { -1.0 } else { 1.0 };
        (one.min(other), one.max(other), normal)
    })
}

/// The span within an infinite upright cylinder around the origin. The caller sets the normal.
fn wall(start: Vector, ray: Vector, radius: f32) -> Option<Span> {
    let a = ray[0] * ray[0] + ray[1] * ray[1];
    let b = start[0] * ray[0] + start[1] * ray[1];
    let c = start[0] * start[0] + start[1] * start[1] - radius * radius;
    if a == 0.0 {
        return (c < 0.0).then_some((f32::NEG_INFINITY, f32::INFINITY, [0.0; 3]));
    }
    let root = b * b - a * c;
    (root > 0.0).then(|| {
        let root = root.sqrt();
        ((-b - root) / a, (-b + root) / a, [0.0; 3])
    })
}

/// The first point that is in all spans.
fn enter<const N: usize>(spans: [Span; N]) -> Option<Hit> {
    let mut hit = Hit {
        distance: f32::NEG_INFINITY,
        normal: [0.0; 3],
    };
    let mut end = f32::INFINITY;
    for (enter, leave, normal) in spans {
        if enter > hit.distance {
            hit = Hit {
                distance: enter,
                normal,
            };
        }
        end = end.min(leave);
    }
    (hit.distance < end).then_some(hit)
}

/// The first object that a ray meets, and where.
pub(super) fn first(objects: &[Object], start: Vector, ray: Vector) -> Option<(usize, Hit)> {
    let hits = objects.iter().enumerate();
    hits.filter_map(|(index, object)| Some((index, object.hit(start, ray)?)))
        .min_by(|a, b| a.1.distance.total_cmp(&b.1.distance))
}

/// One lamp far away, the sky's even light, and the floor.
pub(super) struct Light {
    lamp: Vector,
    floor: Colour,
}

impl Light {
    /// The brightness of a surface that the lamp does not reach.
    const SKY: f32 = 0.42;

    /// A lamp in the direction `lamp` above a plane with the colour `floor`.
    pub fn new(lamp: Vector, floor: Colour) -> Self {
        let lamp = unit(lamp);
        Self { lamp, floor }
    }

    /// The colour that is seen along a ray.
    pub fn colour(&self, objects: &[Object], start: Vector, ray: Vector) -> Colour {
        if let Some((index, hit)) = first(objects, start, ray) {
            let object = &objects[index];
            let point = along(start, hit.distance, ray);
            return self.surface(objects, point, hit.normal, ray, object);
        }
        if ray[2] >= 0.0 {
            return self.floor; // beyond the horizon
        }
        let point = along(start, -start[2] / ray[2], ray);
        let up = [0.0, 0.0, 1.0];
        let distance = dot(point, point).sqrt();
        let fall = 1.0 / (1.0 + 0.004 * distance * distance); // darker to the edges
        shade(self.floor, fall * self.brightness(objects, point, up))
    }

    /// The sky's light, and the lamp's where no object is between: 0..=1.
    fn brightness(&self, objects: &[Object], point: Vector, normal: Vector) -> f32 {
        let facing = dot(normal, self.lamp);
        // A little off the surface, so that rounding does not let it shade itself.
        let outside = along(point, 1e-3, normal);
        let lit = facing > 0.0 && first(objects, outside, self.lamp).is_none();
        let lamp = if lit { facing } else { 0.0 };
        let sky = Self::SKY * (0.75 + 0.25 * normal[2]);
        sky + (1.0 - Self::SKY) * lamp
    }

    /// An object's surface; metal mirrors the sky a little and the lamp strongly.
    fn surface(
        &self,
        objects: &[Object],
        point: Vector,
        normal: Vector,
        ray: Vector,
        object: &Object,
    ) -> Colour {
        let matte = shade(object.colour, self.brightness(objects, point, normal));
        let mirrored = along(ray, -2.0 * dot(ray, normal), normal);
        let towards = dot(mirrored, self.lamp).max(0.0);
        let squared = |value: f32| value * value;
        let broad = squared(squared(squared(towards))); // to the 8th
        let (sky, glint) = if object.metal {
            (0.3 * mirrored[2].max(0.0), 0.9 * squared(squared(broad)))
        } else {
            (0.0, 0.12 * broad)
        };
        let skied = mix(matte, [0.95, 0.97, 1.0], sky);
        skied.map(|value| value + glint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(solid: Solid) -> Object {
        Object {
            solid,
            extent: 0.5,
            centre: [1.0, 2.0, 0.5],
            facing: [0.6, 0.8],
            colour: [0.5; 3],
            metal: false,
        }
    }

    #[test]
    fn rays_meet_solids_where_they_are() {
        for solid in [Solid::Sphere, Solid::Cube, Solid::Cylinder] {
            let object = object(solid);
            let down = object.hit([1.0, 2.0, 4.0], [0.0, 0.0, -1.0]).unwrap();
            assert_eq!(down.normal, [0.0, 0.0, 1.0], "{solid:?}");
            assert!((down.distance - 3.0).abs() < 1e-6, "{solid:?}");
            let side = object.hit([1.6, 2.8, 0.5], [-0.6, -0.8, 0.0]).unwrap();
            assert!((side.distance - 0.5).abs() < 1e-5, "{solid:?}: {side:?}");
            assert!(dot(side.normal, [0.6, 0.8, 0.0]) > 0.9999, "{side:?}");
            assert_eq!(object.hit([1.0, 2.0, 4.0], [0.0, 0.0, 1.0]), None);
            assert_eq!(object.hit([1.0, 2.8, 4.0], [0.0, 0.0, -1.0]), None);
        }
        // The corners of the cube's square, and no others, lie outside the cylinder's circle.
        let corner = [1.0 + 0.45 * (0.6 - 0.8), 2.0 + 0.45 * (0.8 + 0.6), 4.0];
        let down = |solid| object(solid).hit(corner, [0.0, 0.0, -1.0]);
        assert!(down(Solid::Cube).is_some() && down(Solid::Cylinder).is_none());
    }

    #[test]
    fn a_point_is_seen_where_it_projects() {
        let camera = Camera::new([6.0, -7.0, 7.5]);
        let point = [1.5, -2.0, 0.7];
        let [x, y] = camera.project(point);
        let towards = unit(along(point, -1.0, camera.at));
        assert!(dot(camera.ray(x, y), towards) > 0.999_999);
        let middle = camera.project([0.0; 3]);
        assert!(middle.iter().all(|at| (at - 0.5).abs() < 1e-6));
        let [_, higher] = camera.project([0.0, 0.0, 1.0]);
        assert!(higher < 0.5);
        let distance = dot(camera.at, camera.at).sqrt();
        assert!((camera.depth([0.0; 3]) - distance).abs() < 1e-5);
    }

    #[test]
    fn an_object_shades_the_floor_behind_it() {
        let light = Light::new([0.0, -1.0, 1.0], [0.7; 3]);
        let objects = [object(Solid::Sphere)];
        let seen = |point: Vector| light.brightness(&objects, point, [0.0, 0.0, 1.0]);
        assert!(seen([1.0, 2.6, 0.0]) < seen([1.0, 4.0, 0.0]));
        assert_eq!(seen([1.0, 1.0, 0.0]), seen([1.0, 4.0, 0.0]));
    }
}
