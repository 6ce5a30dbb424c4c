//! RandAugment (Cubuk et al. 2020) in timm's notation, with timm's operations, levels and weights.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use peft_core::random::Generator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ops::Op;
use super::random::{RandomInterpolation, chance, uniform};
use crate::error::Error;

/// RandAugment: `rand`, followed by sections with dashes before them, as in `rand-m9-mstd0.5-inc1`.
///
/// - `m9`: magnitude, a whole number; default 10
/// - `n2`: number of operations, at least 1; default 2
/// - `p0.5`: probability of each operation, 0 to 1; default 0.5
/// - `mstd0.5`: standard deviation of the magnitude; above 100, the magnitude is uniform between 0
///   and itself; default 0
/// - `mmax10`: upper bound of the drawn magnitude, a whole number above 0; default 10
/// - `inc1`: all operations become stronger with the magnitude; default 0
/// - `tweights`: operations are drawn by weight and without replacement; includes `inc1`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RandAugment {
    magnitude: u32,
    layers: usize,
    probability: f64,
    std: f64,
    limit: u32,
    increasing: bool,
    weighted: bool,
}

/// Magnitudes are tenths of an operation's range.
const WHOLE: u32 = 10;

/// An operation whose parameters are not drawn yet.
#[derive(Clone, Copy)]
enum Kind {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Color,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
}

/// All operations with their weights under `tweights`.
const KINDS: [(Kind, f64); 15] = [
    (Kind::AutoContrast, 0.25),
    (Kind::Equalize, 0.05),
    (Kind::Invert, 0.05),
    (Kind::Rotate, 3.0),
    (Kind::Posterize, 0.05),
    (Kind::Solarize, 0.05),
    (Kind::SolarizeAdd, 0.05),
    (Kind::Color, 0.25),
    (Kind::Contrast, 0.05),
    (Kind::Brightness, 0.05),
    (Kind::Sharpness, 0.25),
    (Kind::ShearX, 2.0),
    (Kind::ShearY, 2.0),
    (Kind::TranslateXRel, 1.0),
    (Kind::TranslateYRel, 1.0),
];

impl RandAugment {
    pub(super) fn draw(
        &self,
        generator: &mut Generator,
        filter: RandomInterpolation,
        ops: &mut Vec<Op>,
    ) {
        let mut weights = KINDS.map(|(_, weight)| if self.weighted { weight } else { 1.0 });
        for _ in 0..self.layers {
            let mut at = uniform(generator, 0.0, weights.iter().sum());
            let reached = weights.iter().position(|weight| {
                at -= weight;
                at < 0.0
            });
            // Rounding may leave the sum of all weights just short of the drawn point.
            let index = reached.unwrap_or(KINDS.len() - 1);
            // Without weights, timm draws with replacement.
            if self.weighted {
                weights[index] = 0.0;
            }
            if chance(generator, self.probability) {
                ops.push(self.op(KINDS[index].0, generator, filter));
            }
        }
    }

    fn op(&self, kind: Kind, generator: &mut Generator, filter: RandomInterpolation) -> Op {
        let magnitude = f64::from(self.magnitude);
        let drawn = match self.std {
            0.0 => magnitude,
            std if std > 100.0 => uniform(generator, 0.0, magnitude),
            std => magnitude + std * f64::from(generator.normal()),
        };
        // The magnitude is clamped after noise was added, so that `mmax` bounds what is applied.
        let level = drawn.clamp(0.0, f64::from(self.limit)) / f64::from(WHOLE);
        let mut signed = |value: f64| {
            if chance(generator, 0.5) {
                -value
            } else {
                value
            }
        };
        let factor = |signed: &mut dyn FnMut(f64) -> f64| match self.increasing {
            true => (1.0 + signed(level * 0.9)).max(0.1),
            false => level * 1.8 + 0.1,
        };
        match kind {
            Kind::AutoContrast => Op::AutoContrast,
            Kind::Equalize => Op::Equalize,
            Kind::Invert => Op::Invert,
            Kind::Posterize => {
                let bits = (level * 4.0) as u32;
                Op::Posterize(if self.increasing {
                    4_u32.saturating_sub(bits)
                } else {
                    bits
                })
            }
            Kind::Solarize => {
                let threshold = ((level * 256.0) as u32).min(256);
                Op::Solarize(if self.increasing {
                    256 - threshold
                } else {
                    threshold
                })
            }
            Kind::SolarizeAdd => Op::SolarizeAdd(((level * 110.0) as u32).min(128)),
            Kind::Color => Op::Color(factor(&mut signed)),
            Kind::Contrast => Op::Contrast(factor(&mut signed)),
            Kind::Brightness => Op::Brightness(factor(&mut signed)),
            Kind::Sharpness => Op::Sharpness(factor(&mut signed)),
            Kind::Rotate => Op::Rotate(signed(level * 30.0), filter.draw(generator)),
            Kind::ShearX => Op::ShearX(signed(level * 0.3), filter.draw(generator)),
            Kind::ShearY => Op::ShearY(signed(level * 0.3), filter.draw(generator)),
            Kind::TranslateXRel => Op::TranslateXRel(signed(level * 0.45), filter.draw(generator)),
            Kind::TranslateYRel => Op::TranslateYRel(signed(level * 0.45), filter.draw(generator)),
        }
    }
}

impl FromStr for RandAugment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |expected: &str| Error::Invalid {
            field: "auto_augment",
            expected: expected.into(),
            got: format!("{text:?}"),
        };
        let grammar = "`rand` and sections m, n, p, mstd, mmax, inc (each with a number) or \
                       tweights, as in rand-m9-mstd0.5-inc1";
        let mut policy = Self {
            magnitude: WHOLE,
            layers: 2,
            probability: 0.5,
            std: 0.0,
            limit: WHOLE,
            increasing: false,
            weighted: false,
        };
        let mut sections = text.split('-');
        if sections.next() != Some("rand") {
            return Err(invalid(grammar));
        }
        let mut seen = Vec::new();
        for section in sections {
            let digit = section.find(|c: char| c.is_ascii_digit());
            let (key, value) = section.split_at(digit.unwrap_or(section.len()));
            if seen.contains(&key) {
                return Err(invalid(&format!("one section `{key}`")));
            }
            seen.push(key);
            let whole = || value.parse::<u32>();
            let number = || value.parse::<f64>();
            let wrong = |range: &str| invalid(&format!("{range} after `{key}`"));
            match key {
                "m" => policy.magnitude = whole().map_err(|_| wrong("a whole number"))?,
                "n" => {
                    let most = if text.contains("-tweights") {
                        KINDS.len()
                    } else {
                        100
                    };
                    let layers = whole().ok().map(|n| n as usize);
                    policy.layers = (layers.filter(|n| (1..=most).contains(n)))
                        .ok_or_else(|| wrong(&format!("a whole number in 1 to {most}")))?;
                }
                "p" => {
                    policy.probability = (number().ok().filter(|p| (0.0..=1.0).contains(p)))
                        .ok_or_else(|| wrong("a number in 0 to 1"))?;
                }
                "mstd" => {
                    policy.std = (number().ok().filter(|std| std.is_finite()))
                        .ok_or_else(|| wrong("a number"))?;
                }
                "mmax" => {
                    policy.limit = (whole().ok().filter(|limit| *limit > 0))
                        .ok_or_else(|| wrong("a whole number above 0"))?;
                }
                "inc" => {
                    policy.increasing = match value {
                        "0" => false,
                        "1" => true,
                        _ => return Err(wrong("0 or 1")),
                    }
                }
                "tweights" if value.is_empty() => policy.weighted = true,
                _ => return Err(invalid(grammar)),
            }
        }
        // timm's weights only name the increasing operations.
        policy.increasing |= policy.weighted;
        Ok(policy)
    }
}

impl Display for RandAugment {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self {
            magnitude,
            layers,
            probability,
            std,
            limit,
            increasing,
            weighted,
        } = self;
        write!(
            f,
            "rand-m{magnitude}-n{layers}-p{probability}-mstd{std}-mmax{limit}"
        )?;
        match (weighted, increasing) {
            (true, _) => write!(f, "-tweights"),
            (false, increasing) => write!(f, "-inc{}", u8::from(*increasing)),
        }
    }
}

impl TryFrom<String> for RandAugment {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<RandAugment> for String {
    fn from(policy: RandAugment) -> Self {
        policy.to_string()
    }
}

impl JsonSchema for RandAugment {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RandAugment".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^rand(-((m|n|mmax)[0-9]+|(p|mstd)[0-9.]+|inc[01]|tweights))*$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_what_it_writes() {
        for (text, written) in [
            ("rand", "rand-m10-n2-p0.5-mstd0-mmax10-inc0"),
            (
                "rand-m9-mstd0.5-inc1",
                "rand-m9-n2-p0.5-mstd0.5-mmax10-inc1",
            ),
            (
                "rand-n3-tweights-p1",
                "rand-m10-n3-p1-mstd0-mmax10-tweights",
            ),
            (
                "rand-mstd101-mmax30-m20",
                "rand-m20-n2-p0.5-mstd101-mmax30-inc0",
            ),
        ] {
            let policy: RandAugment = text.parse().unwrap();
            assert_eq!(policy.to_string(), written);
            assert_eq!(written.parse::<RandAugment>().unwrap(), policy);
        }
    }

    #[test]
    fn unknown_sections_and_values_are_refused_by_name() {
        for (text, expected) in [
            ("augmix-m5", "expected `rand` and sections"),
            ("original", "expected `rand` and sections"),
            ("rand-m9-w0", "expected `rand` and sections"),
            ("rand-t3a", "expected `rand` and sections"),
            ("rand-inc", "expected 0 or 1 after `inc`"),
            ("rand-m9.5", "expected a whole number after `m`"),
            ("rand-p2", "expected a number in 0 to 1 after `p`"),
            ("rand-n0", "expected a whole number in 1 to 100 after `n`"),
            (
                "rand-n16-tweights",
                "expected a whole number in 1 to 15 after `n`",
            ),
            ("rand-m9-m8", "expected one section `m`"),
        ] {
            let message = text.parse::<RandAugment>().unwrap_err().to_string();
            assert!(
                message.contains(expected) && message.contains(text),
                "{message}"
            );
        }
    }
}
