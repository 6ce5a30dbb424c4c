//! Random functions of the plane, which have the same value at the same place without a table. Each
//! `salt` gives another function.

/// A number in 0..1 for each point of the integer lattice.
pub(super) fn lattice(x: i32, y: i32, salt: u32) -> f32 {
    let hash = scramble(scramble(salt ^ x as u32).wrapping_add(y as u32));
    (hash >> 8) as f32 / (1 << 24) as f32
}

/// A bijection of 32 bits in which each bit affects all others: the lowbias32 of Wellons (2018).
fn scramble(mut bits: u32) -> u32 {
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
    bits ^ (bits >> 16)
}

/// Value noise: the lattice, interpolated smoothly; 0..1, with cells of one unit.
pub(super) fn smooth(u: f32, v: f32, salt: u32) -> f32 {
    let place = |at: f32| {
        let t = at - at.floor();
        (at.floor() as i32, t * t * (3.0 - 2.0 * t))
    };
    let ((column, tu), (row, tv)) = (place(u), place(v));
    let corner = |x: i32, y: i32| lattice(column + x, row + y, salt);
    let across = |y: i32| corner(0, y) + tu * (corner(1, y) - corner(0, y));
    across(0) + tv * (across(1) - across(0))
}

/// Three octaves of value noise, each twice as fine and half as strong; 0..1.
pub(super) fn cloud(u: f32, v: f32, salt: u32) -> f32 {
    let octave = |scale: f32, salt: u32| smooth(scale * u, scale * v, salt);
    (4.0 * octave(1.0, salt) + 2.0 * octave(2.0, salt ^ 1) + octave(4.0, salt ^ 2)) / 7.0
}

/// The cell of a random mosaic that a place is in.
pub(super) struct Cell {
    /// A number in 0..1 that is the same all over the cell.
    pub id: f32,
    /// The distance from the place to the cell's centre.
    pub centre: f32,
    /// How much farther away the next centre is: 0 on the border between two cells.
    pub border: f32,
}

/// The mosaic whose cells are the points nearest to each centre (Worley, 1996). There is one centre
/// in each unit square, at most half of `jitter` from its middle along each axis.
pub(super) fn mosaic(u: f32, v: f32, jitter: f32, salt: u32) -> Cell {
    let (column, row) = (u.floor() as i32, v.floor() as i32);
    let (mut nearest, mut next, mut id) = (f32::INFINITY, f32::INFINITY, 0.0);
    // Centres in squares farther away are hardly ever among the nearest two.
    for (x, y) in (row - 1..=row + 1).flat_map(|y| (column - 1..=column + 1).map(move |x| (x, y))) {
        let shift = |salt: u32| 0.5 + jitter * (lattice(x, y, salt) - 0.5);
        let (du, dv) = (x as f32 + shift(salt) - u, y as f32 + shift(salt ^ 1) - v);
        let distance = (du * du + dv * dv).sqrt();
        if distance < nearest {
            next = nearest;
            nearest = distance;
            id = lattice(x, y, salt ^ 2);
        } else {
            next = next.min(distance);
        }
    }
    Cell {
        id,
        centre: nearest,
        border: next - nearest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_uniform_on_the_lattice_and_continuous_between() {
        let values: Vec<f32> = (0..10_000).map(|i| lattice(i % 100, i / 100, 7)).collect();
        let mean = values.iter().sum::<f32>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.015, "{mean}");
        let low = values.iter().filter(|&&value| value < 0.25).count();
        assert!((2_300..2_700).contains(&low), "{low}");

        assert_eq!(smooth(3.0, -2.0, 7), lattice(3, -2, 7));
        for step in -400..400 {
            let u = step as f32 / 100.0;
            let near = (smooth(u, 0.3, 7) - smooth(u + 0.001, 0.3, 7)).abs();
            assert!(near < 0.005, "{u}: {near}");
            assert!((0.0..1.0).contains(&cloud(u, -u, 7)));
        }
    }

    #[test]
    fn without_jitter_a_mosaic_is_the_squares() {
        let cell = mosaic(2.5, -0.5, 0.0, 7);
        assert_eq!((cell.centre, cell.border), (0.0, 1.0));
        assert_eq!(mosaic(2.0, 0.25, 0.0, 7).border, 0.0);
        assert_eq!(mosaic(0.1, 0.1, 0.0, 7).id, mosaic(0.9, 0.9, 0.0, 7).id);
        assert_ne!(mosaic(0.1, 0.1, 0.0, 7).id, mosaic(1.1, 0.1, 0.0, 7).id);
    }
}
