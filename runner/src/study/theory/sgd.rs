//! The simulation of Theorem 1 by stochastic gradient descent with noise and fresh samples.

use peft_core::random::Generator;
use rayon::prelude::*;
use serde::Serialize;

use super::model::{Layer, Model, Tokens};

/// Fresh samples of a step.
const BATCH: usize = 8;
/// Samples on which the risk is measured.
const TESTED: usize = 256;
/// The learning rate of a token.
const RATE: f64 = 2.0;
/// `P` times the hinge risk at which a run ends.
const RISK: f64 = 0.1;
/// Seeds of a run.
const SEEDS: u64 = 5;
/// More steps mean that a run does not arrive.
const MOST_STEPS: usize = 4_000_000;

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// The number of tokens.
    #[serde(rename = "P")]
    pub tokens: usize,
    /// The layer at whose input the prompt is, from 1.
    pub layer: usize,
    /// The seed of all samples.
    pub seed: u64,
    /// Iterations until the risk was low; none if it never was.
    pub iterations: Option<usize>,
}

struct Drawn {
    tokens: Tokens,
    label: f64,
}

/// A sample with noise, at the input of the layer.
fn draw(model: &Model, tokens: usize, layer: Layer, generator: &mut Generator) -> Drawn {
    let (positive, background) = (generator.below(2) == 0, 2 + generator.below(2));
    let (place, sigma) = (generator.below(tokens), 0.1 / tokens as f64);
    let mut values = Vec::with_capacity(tokens * model.width);
    for at in 0..tokens {
        let which = match (at == place, positive) {
            (true, true) => 0,
            (true, false) => 1,
            _ => background,
        };
        let noisy = |value: &f64| value + sigma * f64::from(generator.normal());
        values.extend(model.patterns[which].iter().map(noisy));
    }
    let x = Tokens {
        width: model.width,
        values,
        counts: vec![1.0; tokens],
    };
    Drawn {
        // What lies below the prompt does not change.
        tokens: match layer {
            Layer::First => x,
            Layer::Second => model.hidden(&x),
        },
        label: if positive { 1.0 } else { -1.0 },
    }
}

fn gradient(model: &Model, sample: &Drawn, layer: Layer, delta: &[f64]) -> (f64, Vec<f64>) {
    match layer {
        Layer::First => model.gradient(&sample.tokens, layer, delta),
        Layer::Second => model.above_hidden(&sample.tokens.plus(delta)),
    }
}

fn risk(model: &Model, tested: &[Drawn], layer: Layer, delta: &[f64]) -> f64 {
    let lost = tested.par_iter().map(|sample| {
        let prompted = sample.tokens.plus(delta);
        let output = match layer {
            Layer::First => model.output(&model.hidden(&prompted)),
            Layer::Second => model.output(&prompted),
        };
        let length = sample.tokens.length();
        (1.0 - sample.label * output * length).max(0.0)
    });
    // Summed in order, so that threads do not change the result.
    lost.collect::<Vec<f64>>().iter().sum::<f64>() / tested.len() as f64
}

/// One run. The prompt has a row for each token at layer 1 and one row for all of them at layer 2.
fn run(model: &Model, tokens: usize, layer: Layer, seed: u64) -> Run {
    let stream = |what: &str| {
        let path = format!("theory/{tokens}/{}/{what}", layer.number());
        Generator::new(seed, &path)
    };
    let mut test_stream = stream("test");
    let draws = (0..TESTED).map(|_| draw(model, tokens, layer, &mut test_stream));
    let tested: Vec<Drawn> = draws.collect();
    let rows = match layer {
        Layer::First => tokens,
        Layer::Second => 1,
    };
    let mut delta = vec![0.0; rows * model.width];
    let mut train_stream = stream("train");
    let mut next_test = 1;
    let mut found = Run {
        tokens,
        layer: layer.number(),
        seed,
        iterations: None,
    };
    for step in 1..=MOST_STEPS {
        let mut sum = vec![0.0; delta.len()];
        for _ in 0..BATCH {
            let sample = draw(model, tokens, layer, &mut train_stream);
            let (output, own) = gradient(model, &sample, layer, &delta);
            if sample.label * output * (tokens as f64) < 1.0 {
                for (place, value) in own.iter().enumerate() {
                    sum[place % delta.len()] -= sample.label * value;
                }
            }
        }
        // A shared row moves as the mean of the tokens would.
        let shared = (tokens / rows) as f64;
        for (delta, sum) in delta.iter_mut().zip(&sum) {
            *delta -= RATE * sum / (BATCH as f64 * shared);
        }
        // The risk costs as much as many steps, so that it is measured at every fiftieth of the way.
        if step == next_test {
            if risk(model, &tested, layer, &delta) <= RISK {
                found.iterations = Some(step);
                break;
            }
            next_test += (step / 50).max(1);
        }
    }
    found
}

/// All runs of these lengths, seeds side by side.
pub fn runs(model: &Model, lengths: &[usize]) -> Vec<Run> {
    let all: Vec<(usize, Layer, u64)> = lengths
        .iter()
        .flat_map(|&tokens| Layer::BOTH.map(|layer| (tokens, layer)))
        .flat_map(|(tokens, layer)| (0..SEEDS).map(move |seed| (tokens, layer, seed)))
        .collect();
    all.into_par_iter()
        .map(|(tokens, layer, seed)| run(model, tokens, layer, seed))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_a_function_of_its_seed() {
        let model = Model::new(4, -0.5, [2.2, 2.2]).unwrap();
        let one = run(&model, 8, Layer::First, 0);
        assert_eq!(one, run(&model, 8, Layer::First, 0));
        let iterations = one.iterations.unwrap();
        // The flow takes a little over 100 units of time at 8 tokens.
        assert!((20..400).contains(&iterations), "{iterations}");
    }
}
