//! Antialiased coverage of strokes and areas, from the distance of each pixel's centre to a
//! polyline.

use super::geometry::Segment;

/// Half the width of the antialiased edge, in pixels.
const EDGE: f32 = 0.5;

/// The covered part of each pixel, `[side, side]`, 0..=1, where a pen of radius `pen` pixels
/// follows the polyline.
pub(super) fn stroke(segments: &[Segment], side: usize, pen: f32) -> Vec<f32> {
    let mut field = distances(segments, side, pen + EDGE);
    for value in &mut field {
        *value = (pen + EDGE - *value).clamp(0.0, 1.0);
    }
    field
}

/// The part of each pixel that is inside the closed polyline (by the even-odd rule), `[side,
/// side]`, 0..=1.
pub(super) fn area(segments: &[Segment], side: usize) -> Vec<f32> {
    let mut field = distances(segments, side, EDGE);
    let mut crossings = Vec::new();
    for (y, row) in field.chunks_exact_mut(side).enumerate() {
        crossings.clear();
        let y = y as f32 + 0.5;
        let crossed = segments.iter().filter(|[a, b]| (a[1] > y) != (b[1] > y));
        crossings.extend(crossed.map(|[a, b]| a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0])));
        crossings.sort_unstable_by(f32::total_cmp);
        let mut left = 0; // crossings to the left of the pixel
        for (x, value) in row.iter_mut().enumerate() {
            // Crossings are sorted, so each is passed once in a row of pixels.
            while crossings
                .get(left)
                .is_some_and(|crossing| *crossing <= x as f32 + 0.5)
            {
                left += 1;
            }
            let inside = left % 2 == 1;
            *value = EDGE + if inside { *value } else { -*value };
        }
    }
    field
}

/// The distance from the centre of each pixel to the nearest segment, in pixels, at most `reach`.
fn distances(segments: &[Segment], side: usize, reach: f32) -> Vec<f32> {
    // Squared until the end, which saves a root for each pixel and segment.
    let mut field = vec![reach * reach; side * side];
    let span = |a: f32, b: f32| {
        let clip = |value: f32| value.clamp(0.0, side as f32) as usize;
        clip((a.min(b) - reach).floor())..clip((a.max(b) + reach).ceil())
    };
    for &[a, b] in segments {
        let along = [b[0] - a[0], b[1] - a[1]];
        // A segment without length is a dot; the bound keeps the division finite.
        let squared = (along[0] * along[0] + along[1] * along[1]).max(1e-12);
        let step = [along[0] / squared, along[1] / squared];
        let columns = span(a[0], b[0]);
        for y in span(a[1], b[1]) {
            let dy = y as f32 + 0.5 - a[1];
            let row = &mut field[y * side..][columns.clone()];
            for (x, value) in columns.clone().zip(row) {
                let dx = x as f32 + 0.5 - a[0];
                let t = (dx * step[0] + dy * step[1]).clamp(0.0, 1.0);
                let (ex, ey) = (dx - t * along[0], dy - t * along[1]);
                *value = value.min(ex * ex + ey * ey);
            }
        }
    }
    for value in &mut field {
        *value = value.sqrt();
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQUARE: [Segment; 4] = [
        [[2.0, 2.0], [6.0, 2.0]],
        [[6.0, 2.0], [6.0, 6.0]],
        [[6.0, 6.0], [2.0, 6.0]],
        [[2.0, 6.0], [2.0, 2.0]],
    ];

    #[test]
    fn an_aligned_square_covers_its_pixels_and_no_others() {
        let field = area(&SQUARE, 8);
        for (i, value) in field.iter().enumerate() {
            let inside = (2..6).contains(&(i % 8)) && (2..6).contains(&(i / 8));
            assert_eq!(*value, if inside { 1.0 } else { 0.0 }, "{i}");
        }
    }

    #[test]
    fn a_half_covered_pixel_is_half() {
        let shifted = SQUARE.map(|segment| segment.map(|[x, y]| [x + 0.5, y]));
        let field = area(&shifted, 8);
        assert_eq!((field[3 * 8 + 2], field[3 * 8 + 6]), (0.5, 0.5));
    }

    #[test]
    fn a_stroke_has_its_width() {
        let field = stroke(&[[[0.0, 4.0], [8.0, 4.0]]], 8, 1.5);
        let column: Vec<f32> = (0..8).map(|y| field[y * 8 + 4]).collect();
        assert_eq!(column, [0.0, 0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]);
        let dot = stroke(&[[[4.0, 4.0]; 2]], 8, 2.0);
        let covered: f32 = dot.iter().sum();
        assert!(
            (covered - 12.57).abs() < 0.5,
            "a segment of no length is a disc: {covered}"
        );
    }
}
