//! The axes of plots: the position of a value, and the round values that label an axis.

use super::numbers::short;

/// One axis of a plot.
pub struct Axis {
    /// The label of the axis, with the unit.
    pub label: String,
    /// The labelled values.
    pub ticks: Vec<Tick>,
    low: f64,
    high: f64,
    logarithmic: bool,
}

/// A labelled value.
pub struct Tick {
    /// Its position.
    pub value: f64,
    /// Its label.
    pub text: String,
}

impl Axis {
    /// A linear axis, which starts and ends at a tick; none if no value is finite.
    pub fn linear(label: &str, values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = ends(values)?;
        let ticks = ticks(low, high, 5);
        Some(Self {
            label: label.to_owned(),
            low: ticks[0],
            high: ticks[ticks.len() - 1],
            ticks: written(&ticks),
            logarithmic: false,
        })
    }

    /// A logarithmic axis with some space at both ends; none if no value is finite and positive.
    pub fn logarithmic(label: &str, values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = ends(values.filter(|value| *value > 0.0))?;
        // The range spans at least a tenth of a decade, so that a single value has an axis, too.
        let air = (high / low).powf(0.06).max(1.1);
        let (low, high) = (low / air, high * air);
        let inside = |value: &f64| (low..=high).contains(value);
        let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let round = |factors: &'static [f64]| {
            let decade = |exponent| factors.iter().map(move |f| f * 10f64.powi(exponent));
            decades.clone().flat_map(decade).filter(inside).collect()
        };
        let choices: [Vec<f64>; 3] = [round(&[1.0]), round(&[1.0, 3.0]), round(&[1.0, 2.0, 5.0])];
        // The coarsest set of round factors with at least three ticks; a narrow range has none and gets
        // linear ones.
        let found = choices.into_iter().find(|ticks| ticks.len() > 2);
        let ticks: Vec<f64> = match found {
            Some(ticks) => {
                let every = ticks.len().div_ceil(6);
                ticks.into_iter().step_by(every).collect()
            }
            None => ticks(low, high, 4).into_iter().filter(inside).collect(),
        };
        let text = |value| Tick {
            value,
            text: short(value),
        };
        Some(Self {
            label: label.to_owned(),
            ticks: ticks.into_iter().map(text).collect(),
            low,
            high,
            logarithmic: true,
        })
    }

    /// An axis of the epochs `1..=count`.
    pub fn epochs(count: usize) -> Self {
        let tick = |epoch: usize| Tick {
            value: epoch as f64,
            text: epoch.to_string(),
        };
        Self {
            label: "epoch".to_owned(),
            ticks: epochs(count).into_iter().map(tick).collect(),
            low: 1.0,
            high: count.max(2) as f64,
            logarithmic: false,
        }
    }

    /// Makes an axis of the whole numbers `low..=high`.
    pub fn whole(label: &str, low: usize, high: usize) -> Self {
        let high = high.max(low + 1);
        let step = (high - low).div_ceil(12);
        let tick = |value: usize| Tick {
            value: value as f64,
            text: value.to_string(),
        };
        Self {
            label: label.to_owned(),
            ticks: (low..=high).step_by(step).map(tick).collect(),
            low: low as f64,
            high: high as f64,
            logarithmic: false,
        }
    }

    /// Returns the position of a value: 0 at the low end of the axis, 1 at the high end.
    pub fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| match self.logarithmic {
            true => value.ln(),
            false => value,
        };
        let low = scale(self.low);
        (scale(value) - low) / (scale(self.high) - low)
    }
}

/// The smallest and the largest of the finite values.
fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.filter(|value| value.is_finite());
    finite.fold(None, |ends, value| {
        let (low, high) = ends.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// Labels with as many decimals as the step between them needs.
fn written(ticks: &[f64]) -> Vec<Tick> {
    let step = ticks.get(1).map_or(1.0, |second| second - ticks[0]);
    // The factor keeps a step such as 0.1, which is stored a little too small, from needing two decimals.
    let decimals = (-(step * 1.000_001).log10().floor()).max(0.0) as usize;
    let text = |value: &f64| Tick {
        value: *value,
        text: format!("{value:.decimals$}"),
    };
    ticks.iter().map(text).collect()
}

/// Round values that enclose `low..=high` in about `count` steps.
fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    // Equal values need a range, too, or all ticks would coincide.
    let range = match high - low {
        range if range > 0.0 => range,
        _ => low.abs().max(1.0) * 0.1,
    };
    let raw = range / count as f64;
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * magnitude)
        .into_iter()
        // Rounding must not push a step that fits exactly to the next larger one.
        .find(|step| *step >= raw * 0.999)
        .unwrap_or(10.0 * magnitude);
    let first = (low / step).floor();
    let last = (high / step).ceil().max(first + 1.0);
    (0..=(last - first) as usize)
        .map(|index| (first + index as f64) * step)
        .collect()
}

/// The labelled epochs of a chart, about eight.
fn epochs(count: usize) -> Vec<usize> {
    let raw = count.div_ceil(8).max(1);
    let mut step = 1;
    for next in [1, 2, 5].iter().cycle().zip(0u32..) {
        step = next.0 * 10usize.pow(next.1 / 3);
        if step >= raw {
            break;
        }
    }
    let mut epochs: Vec<usize> = (0..=count).step_by(step).skip(1).collect();
    if step > 1 {
        epochs.insert(0, 1);
    }
    epochs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose() {
        assert_eq!(ticks(0.0, 1.25, 5), [0.0, 0.5, 1.0, 1.5]);
        assert_eq!(ticks(93.0, 97.0, 5), [93.0, 94.0, 95.0, 96.0, 97.0]);
        for (low, high) in [(2.0, 2.0), (0.0, 0.0), (1e-9, 3e-9), (-5.0, 1e6)] {
            let ticks = ticks(low, high, 5);
            assert!(
                ticks[0] <= low && ticks[ticks.len() - 1] >= high,
                "{ticks:?}"
            );
            assert!(ticks.len() < 10, "{ticks:?}");
        }
        assert_eq!(epochs(3), [1, 2, 3]);
        assert_eq!(epochs(20), [1, 5, 10, 15, 20]);
        assert_eq!(epochs(1), [1]);
    }

    #[test]
    fn a_logarithmic_axis_has_a_few_round_values() {
        let texts = |values: &[f64]| {
            let axis = Axis::logarithmic("", values.iter().copied()).unwrap();
            for value in values {
                assert!((0.0..=1.0).contains(&axis.place(*value)), "{value}");
            }
            let texts: Vec<String> = axis.ticks.into_iter().map(|tick| tick.text).collect();
            texts
        };
        let thin = |text: &str| text.replace(' ', "\u{202f}");
        assert_eq!(
            texts(&[900.0, 86e6]),
            ["1 k", "10 k", "100 k", "1 M", "10 M", "100 M"].map(thin)
        );
        assert_eq!(texts(&[40.0, 700.0]), ["50", "100", "200", "500"]);
        assert_eq!(texts(&[52.0, 61.0]), ["50", "55", "60", "65"]);
        assert_eq!(texts(&[3.0]).len(), 3);
        assert!(Axis::logarithmic("", [0.0, f64::NAN].into_iter()).is_none());
    }

    #[test]
    fn a_logarithmic_axis_is_even_in_ratios() {
        let axis = Axis::logarithmic("", [1.0, 100.0].into_iter()).unwrap();
        let middle = f64::midpoint(axis.place(1.0), axis.place(100.0));
        assert!((axis.place(10.0) - middle).abs() < 1e-12);
    }
}
