//! Points and segments of the image plane, and a sine that is the same on every platform.

/// A point or a displacement, `[x, y]`.
pub(super) type Point = [f32; 2];

/// A straight piece of an outline, from one point to another.
pub(super) type Segment = [Point; 2];

/// The cosine and the sine of an angle in turns, with the same bits on every platform and an error
/// below 2e-6. The `sin` of a platform's library may differ in the last bit.
pub(super) fn turn(angle: f32) -> [f32; 2] {
    [sine(angle + 0.25), sine(angle)]
}

fn sine(angle: f32) -> f32 {
    let turns = angle - (angle + 0.5).floor(); // [-0.5, 0.5)
    let folded = if turns.abs() > 0.25 {
        turns.signum() * 0.5 - turns
    } else {
        turns
    }; // [-0.25, 0.25]
    // Taylor's polynomial of degree 11.
    let x = std::f32::consts::TAU * folded;
    let y = x * x;
    x * (1.0 - y / 6.0 * (1.0 - y / 20.0 * (1.0 - y / 42.0 * (1.0 - y / 72.0 * (1.0 - y / 110.0)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_sines_and_cosines() {
        for step in -300..300 {
            let angle = step as f32 / 100.0;
            let expected = (f64::from(angle) * std::f64::consts::TAU).sin_cos();
            let [cos, sin] = turn(angle).map(f64::from);
            assert!(
                (cos - expected.1).abs() < 2e-6 && (sin - expected.0).abs() < 2e-6,
                "{angle}"
            );
        }
    }
}
