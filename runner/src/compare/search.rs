//! Searches: the fields that are tuned, and how candidates are found. Every candidate is trained on
//! the training split and scored on validation. A search cannot reach the test split, because
//! reading that takes a [`Choice`](crate::data::held_out::Choice), which no candidate yields.

use std::collections::{BTreeMap, BTreeSet};

use peft_core::random::Generator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::fields::Fields;

/// The values that a field may take: a list, or a range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// All values, for any search.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<serde_json::Value>")]
    pub values: Vec<Value>,
    /// The lower end of a range, for random and halving search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The upper end of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Whether values are drawn evenly between the logarithms of the two ends.
    #[serde(default)]
    pub log: bool,
}

/// The way in which candidates are found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Search {
    /// All combinations of the values.
    Grid {
        /// The images of the trial after the search.
        #[serde(default, skip_serializing_if = "Retrain::is_default")]
        retrain: Retrain,
    },
    /// Combinations drawn at random (Bergstra and Bengio 2012, Random Search for Hyper-Parameter
    /// Optimization).
    Random {
        /// The number of candidates, at least 1.
        candidates: usize,
        /// The seed of the draw.
        #[serde(default)]
        seed: u64,
        /// The images of the trial after the search.
        #[serde(default, skip_serializing_if = "Retrain::is_default")]
        retrain: Retrain,
    },
    /// Combinations drawn at random. After `min_epochs` epochs the best one in `eta` goes on for `eta`
    /// times as many, until one is left (Jamieson and Talwalkar 2016, Non-stochastic Best Arm
    /// Identification and Hyperparameter Optimization).
    Halving {
        /// The number of candidates, at least 1.
        candidates: usize,
        /// The seed of the draw.
        #[serde(default)]
        seed: u64,
        /// The number of epochs before the first cut, at least 1.
        #[serde(default = "one")]
        min_epochs: usize,
        /// One candidate in `eta` goes on after each cut, at least 2.
        #[serde(default = "three")]
        eta: usize,
        /// The images of the trial after the search.
        #[serde(default, skip_serializing_if = "Retrain::is_default")]
        retrain: Retrain,
    },
}

/// The images on which the chosen candidate is trained after a search.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Retrain {
    /// Those of the training split, as in the search. Validation chooses the epoch of every seed.
    Train,
    /// Those of the training and the validation split together, for the number of epochs that validation
    /// chose: the protocol of VTAB-1k.
    #[default]
    TrainValidation,
}

impl Retrain {
    /// Whether it is the default. It is then not written, so that the ids of older trials stay.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What reports say about the trials after a search.
    pub fn words(self) -> &'static str {
        match self {
            Self::Train => {
                "the chosen candidate is trained on the training images alone, and validation chooses its epoch"
            }
            Self::TrainValidation => {
                "the chosen candidate is trained on training and validation images together, for the number of \
                 epochs that validation chose"
            }
        }
    }
}

fn one() -> usize {
    1
}
fn three() -> usize {
    3
}

/// A stage of a search: the number of candidates that train, and for how long, before the next cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// The number of candidates, the best so far.
    pub candidates: usize,
    /// The epoch at which the stage ends.
    pub epochs: usize,
}

impl Space {
    /// Checks that the space suits the search.
    ///
    /// # Errors
    /// The mistake, without the name of the field.
    pub fn check(&self, search: Option<Search>) -> Result<(), String> {
        match (&self.values[..], self.min, self.max) {
            ([], Some(min), Some(max)) => {
                if matches!(search, Some(Search::Grid { .. })) {
                    return Err("a grid needs values, got a range".to_owned());
                }
                let least = if self.log { 0.0 } else { f64::NEG_INFINITY };
                if least < min && min < max && max < f64::INFINITY {
                    Ok(())
                } else if self.log {
                    Err(format!("expected 0 < min < max, got {min} and {max}"))
                } else {
                    Err(format!("expected min < max, got {min} and {max}"))
                }
            }
            (values @ [_, ..], None, None) if !self.log => {
                let twice = |(place, value): (usize, &Value)| values[..place].contains(value);
                match values.iter().enumerate().any(twice) {
                    true => Err("a value is listed twice".to_owned()),
                    false => Ok(()),
                }
            }
            _ => Err("expected either values, or min and max".to_owned()),
        }
    }

    fn draw(&self, generator: &mut Generator) -> Value {
        let (Some(min), Some(max)) = (self.min, self.max) else {
            return self.values[generator.below(self.values.len())].clone();
        };
        // A double has a mantissa of 53 bits, so every multiple of 2^-53 in [0, 1) is equally
        // likely.
        let part = (generator.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let value = match self.log {
            true => (min.ln() + part * (max.ln() - min.ln())).exp(),
            false => min + part * (max - min),
        };
        // Rounded to four digits, so that the report shows exactly the value that was trained.
        let text = format!("{value:.3e}");
        text.parse::<f64>().unwrap_or(value).into()
    }
}

impl Search {
    /// Checks the fields of the search.
    ///
    /// # Errors
    /// The field outside its range.
    pub fn check(self) -> Result<(), String> {
        let least = |field: &str, value: usize, least: usize| match value >= least {
            true => Ok(()),
            false => Err(format!(
                "search.{field}: expected at least {least}, got {value}"
            )),
        };
        match self {
            Self::Grid { .. } => Ok(()),
            Self::Random { candidates, .. } => least("candidates", candidates, 1),
            Self::Halving {
                candidates,
                min_epochs,
                eta,
                ..
            } => {
                least("candidates", candidates, 1)?;
                least("min_epochs", min_epochs, 1)?;
                least("eta", eta, 2)
            }
        }
    }

    /// The name of the search in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grid { .. } => "grid",
            Self::Random { .. } => "random",
            Self::Halving { .. } => "halving",
        }
    }

    /// The images of the trials after the search.
    pub fn retrain(self) -> Retrain {
        let (Self::Grid { retrain } | Self::Random { retrain, .. } | Self::Halving { retrain, .. }) =
            self;
        retrain
    }

    /// Returns the candidates, all different. Without spaces there is one, which sets nothing.
    pub fn candidates(self, spaces: &BTreeMap<String, Space>) -> Vec<Fields> {
        let (wanted, seed) = match self {
            Self::Grid { .. } => return grid(spaces),
            Self::Random {
                candidates, seed, ..
            }
            | Self::Halving {
                candidates, seed, ..
            } => (candidates, seed),
        };
        let ranged = spaces.values().any(|space| space.values.is_empty());
        let all = grid(spaces).len();
        let wanted = if ranged { wanted } else { wanted.min(all) };
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        // A narrow range may have fewer different values than are wanted, so the number of draws is
        // limited.
        for draw in 0..DRAWS * wanted {
            if found.len() == wanted {
                break;
            }
            let value = |(field, space): (&String, &Space)| {
                // Each field has a generator of its own, so that adding a field to the search keeps
                // the draws of the others.
                let mut generator = Generator::new(seed, &format!("search/{draw}/{field}"));
                (field.clone(), space.draw(&mut generator))
            };
            let candidate: Fields = spaces.iter().map(value).collect();
            if seen.insert(format!("{candidate:?}")) {
                found.push(candidate);
            }
        }
        found
    }

    /// Returns the stages in which `candidates` candidates train, for `epochs` epochs at most.
    pub fn rungs(self, candidates: usize, epochs: usize) -> Vec<Rung> {
        let Self::Halving {
            min_epochs, eta, ..
        } = self
        else {
            return vec![Rung { candidates, epochs }];
        };
        let mut rungs = Vec::new();
        let mut rung = Rung {
            candidates,
            epochs: min_epochs.min(epochs),
        };
        // A stage that already has all epochs is the last one, however many candidates are left.
        while rung.candidates > 1 && rung.epochs < epochs {
            rungs.push(rung);
            rung = Rung {
                candidates: (rung.candidates / eta).max(1),
                epochs: (rung.epochs * eta).min(epochs),
            };
        }
        rungs.push(Rung { epochs, ..rung });
        rungs
    }
}

/// The number of draws for each wanted candidate after which the search makes do with fewer.
const DRAWS: usize = 100;

/// Lists all combinations of values; those of the last field change fastest. A range yields none.
fn grid(spaces: &BTreeMap<String, Space>) -> Vec<Fields> {
    let mut all = vec![Fields::new()];
    for (field, space) in spaces {
        let with = |fields: Fields| {
            let value = move |value: &Value| {
                let mut fields = fields.clone();
                fields.insert(field.clone(), value.clone());
                fields
            };
            space.values.iter().map(value).collect::<Vec<_>>()
        };
        all = all.into_iter().flat_map(with).collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spaces(text: &str) -> BTreeMap<String, Space> {
        serde_yaml::from_str(text).unwrap()
    }

    const GRID: Search = Search::Grid {
        retrain: Retrain::TrainValidation,
    };

    fn random(candidates: usize, seed: u64) -> Search {
        Search::Random {
            candidates,
            seed,
            retrain: Retrain::default(),
        }
    }

    const TWO: &str = "{a: {values: [1, 2, 3]}, b: {values: [x, y]}}";

    #[test]
    fn a_grid_is_every_combination_once() {
        let all = GRID.candidates(&spaces(TWO));
        let text: Vec<_> = all
            .iter()
            .map(|fields| {
                format!(
                    "{}{}",
                    fields["a"].as_u64().unwrap(),
                    fields["b"].as_str().unwrap()
                )
            })
            .collect();
        assert_eq!(text, ["1x", "1y", "2x", "2y", "3x", "3y"]);
        assert_eq!(GRID.candidates(&BTreeMap::new()), [Fields::new()]);
    }

    #[test]
    fn draws_are_distinct_within_bounds_and_follow_their_seed() {
        let drawn = |candidates, seed| random(candidates, seed).candidates(&spaces(TWO));
        assert_eq!(drawn(4, 1), drawn(4, 1));
        assert_ne!(drawn(4, 1), drawn(4, 2));
        let mut all = drawn(9, 3);
        assert_eq!(all.len(), 6, "no more than there are");
        all.dedup();
        assert_eq!(all.len(), 6);
        let range = spaces("{lr: {min: 1.0e-4, max: 0.1, log: true}}");
        let search = random(400, 0);
        let values: Vec<f64> = search
            .candidates(&range)
            .iter()
            .map(|fields| fields["lr"].as_f64().unwrap())
            .collect();
        assert!(values.iter().all(|lr| (1e-4..=0.1).contains(lr)));
        // A third of the draws in each of three decades.
        let middle = values
            .iter()
            .filter(|lr| (1e-3..1e-2).contains(*lr))
            .count();
        assert!((90..180).contains(&middle), "{middle}");
    }

    #[test]
    fn a_narrow_range_gives_fewer_candidates() {
        let range = spaces("{lr: {min: 0.1, max: 0.1002}}");
        let search = random(50, 0);
        let found = search.candidates(&range);
        assert!((2..=3).contains(&found.len()), "{found:?}");
    }

    #[test]
    fn rungs_halve_and_end_with_all_epochs() {
        let search = Search::Halving {
            candidates: 9,
            seed: 0,
            min_epochs: 1,
            eta: 3,
            retrain: Retrain::default(),
        };
        let rungs = |epochs| -> Vec<(usize, usize)> {
            let rungs = search.rungs(9, epochs).into_iter();
            rungs.map(|rung| (rung.candidates, rung.epochs)).collect()
        };
        assert_eq!(rungs(20), [(9, 1), (3, 3), (1, 20)]);
        assert_eq!(rungs(2), [(9, 1), (3, 2)]);
        assert_eq!(rungs(1), [(9, 1)]);
        let all = GRID.rungs(5, 8);
        assert_eq!((all.len(), all[0].candidates, all[0].epochs), (1, 5, 8));
    }

    /// The id of a trial hashes this text, so that it must not change for a search without `retrain`.
    #[test]
    fn what_a_search_retrains_on_is_written_only_if_it_is_stated() {
        let written = |text: &str| {
            let search: Search = serde_yaml::from_str(text).unwrap();
            serde_json::to_string(&search).unwrap()
        };
        assert_eq!(written("{name: grid}"), r#"{"name":"grid"}"#);
        assert_eq!(
            written("{name: random, candidates: 3, retrain: train_validation}"),
            r#"{"name":"random","candidates":3,"seed":0}"#
        );
        let text = r#"{"name":"grid","retrain":"train"}"#;
        assert_eq!(written(text), text);
    }

    #[test]
    fn a_space_is_values_or_a_range() {
        let check = |text: &str, search| {
            let space: Space = serde_yaml::from_str(text).unwrap();
            space.check(Some(search)).err()
        };
        let random = random(1, 0);
        assert_eq!(check("{values: [1]}", GRID), None);
        assert_eq!(check("{min: 0, max: 1}", random), None);
        for (text, search, expected) in [
            ("{min: 0, max: 1}", GRID, "a grid needs values, got a range"),
            (
                "{min: 1, max: 1}",
                random,
                "expected min < max, got 1 and 1",
            ),
            (
                "{min: 0, max: 1, log: true}",
                random,
                "expected 0 < min < max, got 0 and 1",
            ),
            ("{}", random, "expected either values, or min and max"),
            (
                "{values: [1], min: 0}",
                random,
                "expected either values, or min and max",
            ),
        ] {
            assert_eq!(check(text, search).as_deref(), Some(expected), "{text}");
        }
    }
}
