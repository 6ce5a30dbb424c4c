//! Terrain: ten kinds of land, drawn as seen from above. It takes the place of EuroSAT in VTAB's
//! specialised group, and has its classes.
//!
//! P. Helber, B. Bischke, A. Dengel and D. Borth, "EuroSAT: A Novel Dataset and Deep Learning
//! Benchmark for Land Use and Land Cover Classification", 2019.
//!
//! The season, the haze and all directions are random. Highways and rivers cross fields or meadows,
//! so that colour alone does not separate most classes.

use peft_core::data::Image;

use super::canvas::Canvas;
use super::colour::{Colour, mix, shade, vary};
use super::draw::{area, stroke};
use super::generator::{Drawn, Generator, procedural};
use super::geometry::{Point, Segment, turn};
use super::noise::{cloud, lattice, mosaic, smooth};
use super::random::Random;

procedural! {
    /// Terrain: ten kinds of land use, seen from above, with the classes of EuroSAT (2019).
    pub struct Terrain {}
    defaults: { size: 64, images: [800, 200, 1_000] },
    open: Drawn::new,
    name: "terrain",
    summary: "drawn satellite tiles: ten kinds of land, from annual crop to sea or lake",
    reference: "with the classes of EuroSAT, Helber et al., 2019",
    example: "name: terrain\n",
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Land {
    AnnualCrop,
    Forest,
    Herbaceous,
    Highway,
    Industrial,
    Pasture,
    PermanentCrop,
    Residential,
    River,
    Water,
}

const LANDS: [(&str, Land); 10] = [
    ("annual-crop", Land::AnnualCrop),
    ("forest", Land::Forest),
    ("herbaceous-vegetation", Land::Herbaceous),
    ("highway", Land::Highway),
    ("industrial", Land::Industrial),
    ("pasture", Land::Pasture),
    ("permanent-crop", Land::PermanentCrop),
    ("residential", Land::Residential),
    ("river", Land::River),
    ("sea-or-lake", Land::Water),
];

impl Generator for Terrain {
    const VERSION: u32 = 1;

    /// The class.
    type Content = usize;

    fn classes(&self) -> Vec<String> {
        LANDS.map(|(name, _)| name.to_owned()).into()
    }

    fn choose(&self, random: &mut Random) -> usize {
        random.below(LANDS.len())
    }

    fn label(&self, class: &usize) -> usize {
        *class
    }

    fn draw(&self, class: &usize, random: &mut Random) -> Image {
        let ground = Ground::new(random, self.size);
        let mut canvas = match LANDS[*class].1 {
            Land::AnnualCrop => ground.fields(random),
            Land::Forest => ground.forest(),
            Land::Herbaceous => ground.meadow(random, 0.75, 0.35),
            Land::Highway => ground.highway(random),
            Land::Industrial => ground.industrial(random),
            Land::Pasture => ground.pasture(random),
            Land::PermanentCrop => ground.orchard(random),
            Land::Residential => ground.residential(random),
            Land::River => ground.river(random),
            Land::Water => ground.water(random),
        };
        // Weather over all kinds of land alike, so that brightness is no clue to the class.
        let haze = random.uniform(0.0, 0.35);
        let air = [0.62, 0.66, 0.70];
        let light = random.uniform(0.75, 1.15);
        for pixel in &mut canvas.pixels {
            *pixel = mix(shade(*pixel, light), air, haze);
        }
        let strength = random.uniform(0.01, 0.04);
        canvas.noisy(random, strength, false).develop()
    }
}

/// One place in one season: the palette, the directions and the noise of a tile.
struct Ground {
    side: usize,
    salt: u32,
    /// Cosine and sine of the direction in which fields, rows and streets lie.
    lie: [f32; 2],
    green: Colour,
    dark_green: Colour,
    straw: Colour,
    soil: Colour,
    blue: Colour,
}

impl Ground {
    fn new(random: &mut Random, side: usize) -> Self {
        let lie = turn(random.uniform(0.0, 1.0));
        let season = random.uniform(0.0, 1.0);
        let green = vary(random, [0.36, 0.50, 0.24], 0.05);
        let straw = vary(random, [0.66, 0.58, 0.36], 0.06);
        Self {
            side,
            salt: random.below(1 << 30) as u32,
            lie,
            green: mix(green, straw, 0.35 * season),
            dark_green: vary(random, [0.13, 0.27, 0.15], 0.04),
            straw,
            soil: vary(random, [0.50, 0.38, 0.28], 0.06),
            blue: vary(random, [0.12, 0.24, 0.40], 0.06),
        }
    }

    /// A place in coordinates along and across the fields.
    fn lain(&self, x: f32, y: f32) -> Point {
        let [cos, sin] = self.lie;
        [cos * x + sin * y, cos * y - sin * x]
    }

    /// A tile with the colour of each place, in which noise varies the brightness by `rough`.
    fn cover(&self, rough: f32, colour: impl Fn(f32, f32) -> Colour) -> Canvas {
        Canvas::sampled(self.side, |x, y| {
            let uneven = 1.0 + rough * (cloud(8.0 * x, 8.0 * y, self.salt ^ 10) - 0.5);
            shade(colour(x, y), uneven)
        })
    }

    /// Long, furrowed fields, each in its own state between bare soil and full growth.
    fn fields(&self, random: &mut Random) -> Canvas {
        let scale = random.uniform(2.0, 3.5);
        let furrows = random.uniform(14.0, 22.0);
        self.cover(0.2, |x, y| {
            let [u, v] = self.lain(x, y);
            let cell = mosaic(scale * u, 2.0 * scale * v, 0.6, self.salt);
            let state = 3.0 * cell.id;
            let crop = match state {
                ..1.0 => mix(self.soil, self.straw, state),
                ..2.0 => mix(self.straw, self.green, state - 1.0),
                _ => mix(self.green, self.dark_green, 0.5 * (state - 2.0)),
            };
            let furrow = furrows * u + 7.0 * cell.id;
            let ridge = (furrow - furrow.floor() - 0.5).abs();
            let crop = shade(crop, 0.92 + 0.25 * ridge);
            if cell.border < 0.06 {
                mix(crop, self.soil, 0.6)
            } else {
                crop
            }
        })
    }

    /// Crowns close together, each with a lit and a shaded side.
    fn forest(&self) -> Canvas {
        self.cover(0.5, |x, y| {
            let crown = mosaic(17.0 * x, 17.0 * y, 0.9, self.salt);
            let stand = cloud(3.0 * x, 3.0 * y, self.salt ^ 11);
            let leaves = mix(self.dark_green, self.green, 0.15 + 0.35 * crown.id * stand);
            shade(leaves, 1.15 - 0.75 * crown.centre)
        })
    }

    /// Patches of grass and straw, partly under shrubs.
    fn meadow(&self, random: &mut Random, patchy: f32, shrubs: f32) -> Canvas {
        let scale = random.uniform(2.5, 4.5);
        self.cover(0.4, |x, y| {
            let patch = cloud(scale * x, scale * y, self.salt ^ 12);
            let grass = mix(
                self.green,
                self.straw,
                patchy * (2.0 * patch - 0.5).clamp(0.0, 1.0),
            );
            let shrub = mosaic(13.0 * x, 13.0 * y, 0.9, self.salt ^ 13);
            if shrub.id < shrubs && shrub.centre < 0.3 {
                mix(grass, self.dark_green, 0.8)
            } else {
                grass
            }
        })
    }

    /// Even grass in a few large paddocks between hedges.
    fn pasture(&self, random: &mut Random) -> Canvas {
        let scale = random.uniform(1.4, 2.2);
        let lush = mix(self.green, [0.42, 0.62, 0.24], 0.6);
        self.cover(0.15, |x, y| {
            let [u, v] = self.lain(x, y);
            let paddock = mosaic(scale * u, scale * v, 0.5, self.salt);
            let hedge = smooth(20.0 * x, 20.0 * y, self.salt ^ 14);
            if paddock.border < 0.05 + 0.05 * hedge {
                self.dark_green
            } else {
                shade(lush, 0.9 + 0.2 * paddock.id)
            }
        })
    }

    /// Rows of trees or vines at equal distances on bare ground.
    fn orchard(&self, random: &mut Random) -> Canvas {
        let rows = random.uniform(7.0, 10.0);
        let within = random.uniform(1.0, 1.8);
        self.cover(0.3, |x, y| {
            let [u, v] = self.lain(x, y);
            let plot = mosaic(1.8 * u, 1.8 * v, 0.4, self.salt);
            let (u, v) = (rows * within * u, rows * v);
            let [du, dv] = [u, v].map(|at| at - at.floor() - 0.5);
            let crown = 0.25 + 0.12 * lattice(u.floor() as i32, v.floor() as i32, self.salt);
            let ground = mix(self.soil, self.straw, 0.3 + 0.6 * plot.id);
            if plot.border < 0.05 {
                shade(ground, 1.15)
            } else if du * du + dv * dv < crown * crown {
                mix(self.dark_green, self.green, 0.5 * plot.id)
            } else {
                ground
            }
        })
    }

    /// Fields, a meadow or a pasture for a road or a river to cross.
    fn country(&self, random: &mut Random) -> Canvas {
        match random.below(3) {
            0 => self.fields(random),
            1 => self.meadow(random, 0.75, 0.2),
            _ => self.pasture(random),
        }
    }

    /// A wide pale road through the country, sometimes crossed by another.
    fn highway(&self, random: &mut Random) -> Canvas {
        let mut canvas = self.country(random);
        let roads = 1 + random.below(2);
        for _ in 0..roads {
            let width = random.uniform(0.025, 0.04);
            let asphalt = vary(random, [0.62, 0.61, 0.60], 0.05);
            let line = self.crossing(random, 0.15);
            self.band(
                &mut canvas,
                &line,
                1.8 * width,
                mix(self.straw, self.green, 0.5),
            );
            self.band(&mut canvas, &line, width, asphalt);
            self.band(&mut canvas, &line, 0.2 * width, shade(asphalt, 0.6));
        }
        canvas
    }

    /// A winding river through the country, with wooded banks.
    fn river(&self, random: &mut Random) -> Canvas {
        let mut canvas = self.country(random);
        let width = random.uniform(0.05, 0.1);
        let line = self.crossing(random, 1.0);
        self.band(
            &mut canvas,
            &line,
            width + 0.03,
            mix(self.dark_green, self.soil, 0.3),
        );
        let water = mix(self.blue, self.soil, random.uniform(0.0, 0.4));
        self.band(&mut canvas, &line, width, water);
        canvas
    }

    /// Ruffled open water, with a shore in every third tile.
    fn water(&self, random: &mut Random) -> Canvas {
        let shore = if random.chance(0.33) {
            random.uniform(0.3, 0.5)
        } else {
            2.0
        };
        self.cover(0.12, |x, y| {
            let [u, v] = self.lain(x - 0.5, y - 0.5);
            let depth = cloud(1.5 * u + 9.0, 1.5 * v + 9.0, self.salt);
            let coast = u + 0.25 * (cloud(4.0 * x, 4.0 * y, self.salt ^ 15) - 0.5);
            if coast > shore {
                mix(self.green, self.dark_green, depth)
            } else if coast > shore - 0.03 {
                self.straw
            } else {
                shade(
                    mix(self.blue, [0.10, 0.36, 0.42], 0.4 * depth),
                    0.8 + 0.3 * depth,
                )
            }
        })
    }

    /// A grid of streets with gardens and houses under red and grey roofs.
    fn residential(&self, random: &mut Random) -> Canvas {
        let blocks = random.uniform(2.2, 3.2);
        let street = vary(random, [0.60, 0.59, 0.58], 0.04);
        let salt = self.salt;
        self.cover(0.35, |x, y| {
            let [u, v] = self.lain(x, y).map(|at| blocks * at);
            let [du, dv] = [u, v].map(|at| at - at.floor());
            if du < 0.1 || dv < 0.1 {
                return street;
            }
            let [column, row] = [3.0 * u, 3.0 * v].map(|at| at.floor() as i32);
            let [hu, hv] = [3.0 * u, 3.0 * v].map(|at| (at - at.floor() - 0.5).abs());
            let chance = |order: u32| lattice(column, row, salt ^ order);
            let half = 0.26 + 0.14 * chance(16);
            if chance(17) < 0.8 && hu < half && hv < 0.75 * half {
                let roof = if chance(18) < 0.6 {
                    [0.64, 0.34, 0.25]
                } else {
                    [0.50, 0.48, 0.48]
                };
                shade(roof, 0.85 + 0.3 * chance(19))
            } else {
                mix(self.green, self.dark_green, chance(20))
            }
        })
    }

    /// Large bright halls on paved ground.
    fn industrial(&self, random: &mut Random) -> Canvas {
        let mut canvas = self.cover(0.2, |_, _| mix([0.52, 0.51, 0.50], self.straw, 0.2));
        let yards = 3 + random.below(3);
        for _ in 0..yards {
            let centre = [0; 2].map(|_| random.uniform(0.0, 1.0));
            self.hall(
                &mut canvas,
                centre,
                [0.12, 0.10],
                mix(self.green, self.straw, 0.4),
            );
        }
        let halls = 5 + random.below(4);
        for _ in 0..halls {
            let centre = [0; 2].map(|_| random.uniform(0.05, 0.95));
            let half = [random.uniform(0.08, 0.2), random.uniform(0.05, 0.12)];
            let bright = random.uniform(0.7, 1.0);
            let roof = shade(vary(random, [0.86, 0.87, 0.90], 0.08), bright);
            let shadow = [centre[0] + 0.02, centre[1] + 0.02];
            self.hall(&mut canvas, shadow, half, [0.25, 0.25, 0.27]);
            self.hall(&mut canvas, centre, half, roof);
        }
        canvas
    }

    /// A rectangle in the direction of the streets; `half` has half the length of its sides.
    fn hall(&self, canvas: &mut Canvas, centre: Point, half: [f32; 2], colour: Colour) {
        let ([cos, sin], size) = (self.lie, self.side as f32);
        let corner = |[a, b]: [f32; 2]| {
            let (u, v) = (a * half[0], b * half[1]);
            [
                size * (centre[0] + cos * u - sin * v),
                size * (centre[1] + sin * u + cos * v),
            ]
        };
        let corners = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]].map(corner);
        let walls: [Segment; 4] = [0, 1, 2, 3].map(|i| [corners[i], corners[(i + 1) % 4]]);
        canvas.lay(&area(&walls, self.side), colour);
    }

    /// A more or less winding line from one side of the tile to the other, in pixels.
    fn crossing(&self, random: &mut Random, winding: f32) -> Vec<Segment> {
        const STEPS: usize = 24;
        let size = self.side as f32;
        let [cos, sin] = turn(random.uniform(0.0, 1.0));
        let aside = random.uniform(-0.2, 0.2);
        let sway = winding * random.uniform(0.05, 0.15);
        let phase = random.uniform(0.0, 1.0);
        let point = |step: usize| {
            let along = 1.6 * (step as f32 / STEPS as f32 - 0.5);
            let across = aside + sway * turn(along + phase)[1] + 0.1 * winding * along * along;
            [
                size * (0.5 + cos * along - sin * across),
                size * (0.5 + sin * along + cos * across),
            ]
        };
        (0..STEPS)
            .map(|step| [point(step), point(step + 1)])
            .collect()
    }

    /// Draws a line; `half` is half its width, as a fraction of the tile's side.
    fn band(&self, canvas: &mut Canvas, line: &[Segment], half: f32, colour: Colour) {
        let cover = stroke(line, self.side, half * self.side as f32);
        canvas.lay(&cover, colour);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(class: usize, key: u32) -> Colour {
        let terrain = Terrain::default();
        let image = terrain.draw(&class, &mut Random::keyed(&key.to_string()));
        let sum = image.rgb.chunks(3).fold([0.0; 3], |sum, rgb| {
            [0, 1, 2].map(|channel| sum[channel] + f32::from(rgb[channel]))
        });
        sum.map(|value| value / 4096.0)
    }

    #[test]
    fn land_is_green_where_it_grows_and_blue_where_it_is_wet() {
        for key in 0..20 {
            for (class, (name, land)) in LANDS.into_iter().enumerate() {
                let [red, green, blue] = mean(class, key);
                match land {
                    Land::Forest | Land::Pasture => assert!(green > red, "{name}"),
                    Land::Industrial => assert!((red - green).abs() < 25.0, "{name}"),
                    Land::Water => assert!(blue > red - 5.0, "{name}: {red} {blue}"),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn a_crossing_leaves_the_tile_on_both_sides() {
        for key in 0..50 {
            let mut random = Random::keyed(&key.to_string());
            let ground = Ground::new(&mut random, 64);
            let line = ground.crossing(&mut random, 1.0);
            let outside = |point: Point| point.iter().any(|at| !(0.0..=64.0).contains(at));
            assert!(outside(line[0][0]) && outside(line[23][1]), "{key}");
            assert!(line.windows(2).all(|pair| pair[0][1] == pair[1][0]));
        }
    }
}
