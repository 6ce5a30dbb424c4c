//! Resamples position embeddings when the patches of the image are another grid than the checkpoint's.

use burn::tensor::TensorData;
use peft_core::params::floats;

/// Resamples a position embedding to a grid of patches as timm does: bicubic with a = -0.5 and
/// antialiasing (Pillow's). The positions of prefix tokens stay as they are. `None` if the value is for
/// that grid already.
///
/// The old grid is the one that is `stored`, if it has as many positions; else a square, else `grid`.
///
/// # Shapes
/// `[1, prefix + old rows * old columns, d] -> [1, prefix + rows * columns, d]`.
///
/// # Errors
/// If the number of positions is neither a square nor that of `stored` or `grid`.
pub(crate) fn resampled(
    value: &TensorData,
    prefix: usize,
    grid: [usize; 2],
    stored: Option<[usize; 2]>,
) -> Result<Option<TensorData>, String> {
    let &[1, tokens, d] = &value.shape()[..] else {
        return Ok(None);
    };
    let Some(count) = tokens.checked_sub(prefix).filter(|count| *count > 0) else {
        return Ok(None);
    };
    let has_all = |[rows, columns]: &[usize; 2]| rows * columns == count;
    let candidates = [stored, Some([count.isqrt(); 2]), Some(grid)];
    let Some(old) = candidates.into_iter().flatten().find(has_all) else {
        return Err(format!(
            "{count} positions are no square; expected `img_size` to be the size of their own image, or a \
             file beside the weights that states it"
        ));
    };
    if old == grid {
        return Ok(None);
    }
    let ([old_rows, old_columns], [rows, columns]) = (old, grid);
    let values = floats(value.clone());
    let (kept, old) = values.split_at(prefix * d);
    // The filter is separable: columns first, then rows.
    let mut wide = vec![0.0f32; old_rows * columns * d];
    let across = filter(old_columns, columns);
    for y in 0..old_rows {
        for (x, (first, weights)) in across.iter().enumerate() {
            for (k, weight) in weights.iter().enumerate() {
                let from = (y * old_columns + first + k) * d;
                let to = (y * columns + x) * d;
                for c in 0..d {
                    wide[to + c] += weight * old[from + c];
                }
            }
        }
    }
    let mut both = vec![0.0f32; rows * columns * d];
    for (y, (first, weights)) in filter(old_rows, rows).iter().enumerate() {
        for (k, weight) in weights.iter().enumerate() {
            let (from, to) = ((first + k) * columns * d, y * columns * d);
            for c in 0..columns * d {
                both[to + c] += weight * wide[from + c];
            }
        }
    }
    let all = [kept, &both].concat();
    Ok(Some(TensorData::new(all, [1, prefix + rows * columns, d])))
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
