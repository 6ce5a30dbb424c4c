//! Resizes bias tables when the window differs from the checkpoint's.

use burn::tensor::TensorData;
use peft_core::params::floats;

/// Resizes a bias table to windows of these rows and columns as timm does. The old values are placed at
/// offsets whose distances grow as a geometric series until they fill the new window; between them the
/// table is linear, beyond them constant. `None` if the table has the offsets of such a window already,
/// or is not that of a square window.
///
/// # Shapes
/// `[(2 old - 1)^2, heads] -> [(2 rows - 1)(2 columns - 1), heads]`.
pub(crate) fn resized(table: &TensorData, [rows, columns]: [usize; 2]) -> Option<TensorData> {
    let &[offsets, heads] = &table.shape()[..] else {
        return None;
    };
    // A table covers as many offsets up as down, and 0 between them: its side is odd.
    let side = offsets.isqrt();
    let fits = [rows, columns].map(|window| 2 * window - 1) == [side; 2];
    if fits || side.is_multiple_of(2) || side * side != offsets {
        return None;
    }
    let values = floats(table.clone());
    let (vertical, horizontal) = (between(side / 2, rows - 1), between(side / 2, columns - 1));
    let count = vertical.len() * horizontal.len();
    let mut resized = Vec::with_capacity(count * heads);
    for &([top, bottom], down) in &vertical {
        for &([left, right], along) in &horizontal {
            let at = |row: usize, column: usize| &values[(row * side + column) * heads..][..heads];
            let corners = [(top, left), (top, right), (bottom, left), (bottom, right)];
            let [a, b, c, d] = corners.map(|(row, column)| at(row, column));
            resized.extend((0..heads).map(|head| {
                let upper = (1.0 - along) * a[head] + along * b[head];
                let lower = (1.0 - along) * c[head] + along * d[head];
                (1.0 - down) * upper + down * lower
            }));
        }
    }
    Some(TensorData::new(resized, [count, heads]))
}

/// Returns for each offset from `-new` to `new` the indices of the two old values around it, and
/// the part in `[0, 1]` of the way from the first to the second at which it lies.
fn between(old: usize, new: usize) -> Vec<([usize; 2], f32)> {
    // The distances are 1, 1 + q, 1 + q + q^2, ..; bisection finds the q whose last distance is `new`.
    // Its bounds and precision are timm's, so that the tables agree.
    let (mut low, mut high, mut q) = (1.01_f64, 1.5, 1.255);
    while high - low > 1e-6 {
        q = (low + high) / 2.0;
        match (1.0 - q.powi(old as i32)) / (1.0 - q) > new as f64 {
            true => high = q,
            false => low = q,
        }
    }
    let distances = (0..old as i32).scan(0.0, |distance, i| {
        *distance += q.powi(i);
        Some(*distance)
    });
    let distances: Vec<f64> = distances.collect();
    let negative = distances.iter().rev().map(|distance| -distance);
    let places = negative.chain([0.0]).chain(distances.iter().copied());
    let places: Vec<f64> = places.collect();
    let last = places.len() - 1;
    (0..=2 * new)
        .map(|i| {
            let offset = i as f64 - new as f64;
            match places.partition_point(|place| *place <= offset) {
                0 => ([0, 0], 0.0),
                next if next > last => ([last, last], 0.0),
                next => {
                    let (before, after) = (places[next - 1], places[next]);
                    let way = (offset - before) / (after - before);
                    ([next - 1, next], way as f32)
                }
            }
        })
        .collect()
}
