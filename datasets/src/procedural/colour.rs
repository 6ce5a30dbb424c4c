//! Colours, their mixtures and their brightness.

use super::random::Random;

/// Red, green and blue, each 0..=1.
pub(super) type Colour = [f32; 3];

/// The brightness of a colour, with the weights of ITU-R BT.601.
pub(super) fn luma(colour: Colour) -> f32 {
    0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
}

/// The mixture of `a` and `b`: `a` at part 0, `b` at part 1.
pub(super) fn mix(a: Colour, b: Colour, part: f32) -> Colour {
    [0, 1, 2].map(|channel| a[channel] + (b[channel] - a[channel]) * part)
}

/// A colour times a brightness.
pub(super) fn shade(colour: Colour, brightness: f32) -> Colour {
    colour.map(|value| value * brightness)
}

/// A colour near `colour`: each channel moves by at most `reach`.
pub(super) fn vary(random: &mut Random, colour: Colour, reach: f32) -> Colour {
    colour.map(|value| (value + random.uniform(-reach, reach)).clamp(0.0, 1.0))
}

/// A colour with the given luma and a random hue; its saturation is random, up to what the luma
/// allows. Or a grey with that luma.
pub(super) fn tint(random: &mut Random, brightness: f32, grey: bool) -> Colour {
    if grey {
        return [brightness; 3];
    }
    let hue = [0; 3].map(|_| random.uniform(0.0, 1.0));
    let shift = luma(hue);
    let delta = hue.map(|value| value - shift); // of luma 0: adding it keeps the brightness
    let room = |delta: f32| {
        if delta > 0.0 {
            (1.0 - brightness) / delta
        } else {
            brightness / (-delta).max(1e-6)
        }
    };
    let most = delta.map(room).into_iter().fold(2.0, f32::min);
    let saturation = most * random.uniform(0.3, 1.0);
    delta.map(|delta| brightness + saturation * delta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tint_has_its_luma_and_is_a_colour() {
        let mut random = Random::new([3; 32]);
        for step in 0..=100 {
            let brightness = step as f32 / 100.0;
            let colour = tint(&mut random, brightness, false);
            assert!((luma(colour) - brightness).abs() < 1e-5, "{colour:?}");
            assert!(
                colour.iter().all(|value| (-1e-5..1.00001).contains(value)),
                "{colour:?}"
            );
        }
    }
}
