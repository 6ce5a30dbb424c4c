//! Resamples position embeddings when the image size differs from the checkpoint's.

use burn::tensor::TensorData;
use peft_core::params::floats;

/// Resamples a position embedding to a grid of `side` patches as timm does: bicubic with a = -0.5 and
/// antialiasing (Pillow's). The positions of prefix tokens stay as they are. `None` if the value is
/// not that of a square grid.
///
/// # Shapes
/// `[1, prefix + old * old, d] -> [1, prefix + side * side, d]`.
pub(crate) fn resampled(value: TensorData, prefix: usize, side: usize) -> Option<TensorData> {
    let &[1, tokens, d] = &value.shape()[..] else {
        return None;
    };
    let old = (tokens.checked_sub(prefix)? as f64).sqrt().round() as usize;
    if old == 0 || old * old + prefix != tokens {
        return None;
    }
    let values = floats(value);
    let (kept, grid) = values.split_at(prefix * d);
    let filter = filter(old, side);
    // The filter is separable: columns first, then rows.
    let mut wide = vec![0.0f32; old * side * d];
    for y in 0..old {
        for (x, (first, weights)) in filter.iter().enumerate() {
            for (k, weight) in weights.iter().enumerate() {
                let from = (y * old + first + k) * d;
                let to = (y * side + x) * d;
                for c in 0..d {
                    wide[to + c] += weight * grid[from + c];
                }
            }
        }
    }
    let mut both = vec![0.0f32; side * side * d];
    for (y, (first, weights)) in filter.iter().enumerate() {
        for (k, weight) in weights.iter().enumerate() {
            let (from, to) = ((first + k) * side * d, y * side * d);
            for c in 0..side * d {
                both[to + c] += weight * wide[from + c];
            }
        }
    }
    let all = [kept, &both].concat();
    Some(TensorData::new(all, [1, prefix + side * side, d]))
}

/// Returns for each of `new` positions the first of the `old` positions that it depends on, and the
/// weights of that one and those after it.
fn filter(old: usize, new: usize) -> Vec<(usize, Vec<f32>)> {
    let cubic = |x: f64| {
        let (a, x) = (-0.5, x.abs());
        match x {
            x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
            _ => 0.0,
        }
    };
    let scale = old as f64 / new as f64;
    // Antialiasing: where the grid shrinks the filter covers more of the old positions.
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    (0..new)
        .map(|i| {
            let centre = scale * (i as f64 + 0.5);
            // Pillow's bounds: rounded to the nearest position and cut at the edges.
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(old);
            let raw: Vec<f64> = (first..end)
                .map(|j| cubic((j as f64 - centre + 0.5) / stretch))
                .collect();
            // At the edges part of the filter is missing, the rest still has to sum to one.
            let sum: f64 = raw.iter().sum();
            (first, raw.iter().map(|w| (w / sum) as f32).collect())
        })
        .collect()
}
