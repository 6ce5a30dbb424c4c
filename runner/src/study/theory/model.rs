//! The two-layer, single-head model of Appendix C with exact gradients, in double precision.
//!
//! `att(x)_i = sum_j softmax_j(beta^2 <x_i, x_j>) x_j`; layer 1 is `z_i = relu(W1 att(x)_i) / sqrt(m/4)` and the output
//! `f = sum_i sum_k a_k relu(W2 att(z)_i)_k`. Tokens that are equal are kept once, with their number as a weight, so that
//! one code computes both the model on `P` tokens and its population with two kinds of tokens.

use crate::exit::{Failure, config_error};

/// The signs of the four quarters of the output weights.
const SIGNS: [f64; 4] = [1.0, -1.0, 1.0, -1.0];

/// Tokens, each with the number of times that it occurs.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The width `m`.
    pub width: usize,
    /// The values, token by token.
    pub values: Vec<f64>,
    /// How often each token occurs.
    pub counts: Vec<f64>,
}

impl Tokens {
    /// The sequence length `P`.
    pub fn length(&self) -> f64 {
        self.counts.iter().sum()
    }

    /// A token.
    pub fn token(&self, index: usize) -> &[f64] {
        &self.values[index * self.width..][..self.width]
    }

    /// Adds a prompt to the tokens, one row for all of them or one for each.
    pub fn plus(&self, prompt: &[f64]) -> Self {
        let mut sum = self.clone();
        for (value, delta) in sum.values.iter_mut().zip(prompt.iter().cycle()) {
            *value += delta;
        }
        sum
    }
}

/// The model: its patterns and the scales of its two attentions.
#[derive(Clone, Debug)]
pub struct Model {
    /// The width `m`, a multiple of 4.
    pub width: usize,
    /// The patterns `v1` to `v4`; the rows of `W1` are `m / 4` copies of each.
    pub patterns: [Vec<f64>; 4],
    /// `beta^2` of both layers.
    pub beta_sq: [f64; 2],
}

/// The layer at whose input a prompt is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The input.
    First,
    /// The output of layer 1.
    Second,
}

impl Layer {
    /// Both layers, in order.
    pub const BOTH: [Self; 2] = [Self::First, Self::Second];

    /// Its number, from 1.
    pub fn number(self) -> usize {
        self as usize + 1
    }
}

/// The result of an attention: its output, and the share of each key in it.
struct Attended {
    output: Tokens,
    shares: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(to: &mut [f64], factor: f64, values: &[f64]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += factor * value;
    }
}

/// # Shapes
/// `x [n, m] -> output [n, m], shares [n, n]`.
fn attend(x: &Tokens, beta_sq: f64) -> Attended {
    let count = x.counts.len();
    let mut shares = vec![0.0; count * count];
    let mut output = Tokens {
        values: vec![0.0; x.values.len()],
        ..x.clone()
    };
    for i in 0..count {
        let row = &mut shares[i * count..][..count];
        for (j, score) in row.iter_mut().enumerate() {
            *score = beta_sq * dot(x.token(i), x.token(j));
        }
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        for (score, often) in row.iter_mut().zip(&x.counts) {
            *score = often * (*score - largest).exp();
            sum += *score;
        }
        for (j, share) in row.iter_mut().enumerate() {
            *share /= sum;
            add_scaled(
                &mut output.values[i * x.width..][..x.width],
                *share,
                x.token(j),
            );
        }
    }
    Attended { output, shares }
}

/// The gradient of the input from that of the output. A token's gradient is the sum over all that are
/// equal to it.
fn attend_backward(x: &Tokens, beta_sq: f64, shares: &[f64], gradient: &[f64]) -> Vec<f64> {
    let (count, width) = (x.counts.len(), x.width);
    let mut result = vec![0.0; x.values.len()];
    for i in 0..count {
        let own = &gradient[i * width..][..width];
        let row = &shares[i * count..][..count];
        let along: Vec<f64> = (0..count).map(|j| dot(own, x.token(j))).collect();
        let mean = dot(row, &along);
        for j in 0..count {
            // Through the values, then through the scores.
            add_scaled(&mut result[j * width..][..width], row[j], own);
            let score = beta_sq * row[j] * (along[j] - mean);
            add_scaled(&mut result[i * width..][..width], score, x.token(j));
            add_scaled(&mut result[j * width..][..width], score, x.token(i));
        }
    }
    result
}

/// `x` where `gate` is positive; the derivative of relu at 0 is 0.
fn gated(x: f64, gate: f64) -> f64 {
    if gate > 0.0 { x } else { 0.0 }
}

impl Model {
    /// The model of width `m` with `<v3, v4> = zeta`.
    ///
    /// # Errors
    /// If the width is no multiple of 4, or zeta is not in (-1, 1).
    pub fn new(width: usize, zeta: f64, beta_sq: [f64; 2]) -> Result<Self, Failure> {
        if width == 0 || !width.is_multiple_of(4) {
            let message = format!("width: expected a multiple of 4, got {width}");
            return Err(config_error(message));
        }
        if !(-1.0 < zeta && zeta < 1.0) {
            let message = format!("zeta: expected a number between -1 and 1, got {zeta}");
            return Err(config_error(message));
        }
        if let Some(bad) = beta_sq
            .iter()
            .find(|beta| !(**beta > 0.0 && beta.is_finite()))
        {
            let message = format!("beta_sq: expected a number more than 0, got {bad}");
            return Err(config_error(message));
        }
        let axis = |which: usize| {
            let mut axis = vec![0.0; width];
            axis[which] = 1.0;
            axis
        };
        let mut last = axis(3);
        (last[2], last[3]) = (zeta, (1.0 - zeta * zeta).sqrt());
        Ok(Self {
            width,
            patterns: [axis(0), axis(1), axis(2), last],
            beta_sq,
        })
    }

    /// The number of copies of each pattern.
    fn copies(&self) -> usize {
        self.width / 4
    }

    /// Layer 1 on attended tokens.
    fn first_layer(&self, attended: &Tokens) -> Tokens {
        let scale = (self.copies() as f64).sqrt();
        let mut z = Tokens {
            values: Vec::with_capacity(attended.values.len()),
            ..attended.clone()
        };
        for i in 0..attended.counts.len() {
            for pattern in &self.patterns {
                let value = dot(pattern, attended.token(i)).max(0.0) / scale;
                z.values.extend(std::iter::repeat_n(value, self.copies()));
            }
        }
        z
    }

    /// The output of layer 1.
    pub fn hidden(&self, x: &Tokens) -> Tokens {
        self.first_layer(&attend(x, self.beta_sq[0]).output)
    }

    /// Returns the product of row `quarter` of `W2` and an attended token.
    fn read(&self, token: &[f64], quarter: usize) -> f64 {
        let copies = self.copies();
        let own = &token[quarter * copies..][..copies];
        own.iter().sum::<f64>() / (copies as f64).sqrt()
    }

    /// The output, from the output of layer 1.
    pub fn output(&self, z: &Tokens) -> f64 {
        let attended = attend(z, self.beta_sq[1]).output;
        let of_token = |i: usize| -> f64 {
            let quarters = SIGNS.iter().enumerate();
            let terms = quarters.map(|(k, sign)| sign * self.read(attended.token(i), k).max(0.0));
            attended.counts[i] * terms.sum::<f64>()
        };
        // Each quarter has m / 4 rows of weight 1 / (m P).
        (0..z.counts.len()).map(of_token).sum::<f64>() / (4.0 * z.length())
    }

    /// The output with a prompt at a layer, and its gradient with respect to what the layer reads: a row
    /// for each token, summed over those that are equal.
    pub fn gradient(&self, x: &Tokens, layer: Layer, prompt: &[f64]) -> (f64, Vec<f64>) {
        let input = match layer {
            Layer::First => x.plus(prompt),
            Layer::Second => x.clone(),
        };
        let first = attend(&input, self.beta_sq[0]);
        let hidden = self.first_layer(&first.output);
        match layer {
            Layer::Second => self.above_hidden(&hidden.plus(prompt)),
            Layer::First => {
                let (output, gradient) = self.above_hidden(&hidden);
                let scale = (self.copies() as f64).sqrt();
                let mut below = vec![0.0; gradient.len()];
                for i in 0..input.counts.len() {
                    for (k, pattern) in self.patterns.iter().enumerate() {
                        let start = i * self.width + k * self.copies();
                        let sum: f64 = gradient[start..start + self.copies()].iter().sum();
                        let gate = dot(pattern, first.output.token(i));
                        let factor = gated(sum / scale, gate);
                        add_scaled(&mut below[i * self.width..][..self.width], factor, pattern);
                    }
                }
                let beta = self.beta_sq[0];
                (output, attend_backward(&input, beta, &first.shares, &below))
            }
        }
    }

    /// The output, and its gradient with respect to the input of layer 2.
    pub fn above_hidden(&self, z: &Tokens) -> (f64, Vec<f64>) {
        let second = attend(z, self.beta_sq[1]);
        let length = z.length();
        let copies = self.copies();
        let mut output = 0.0;
        let mut gradient = vec![0.0; z.values.len()];
        for (i, often) in z.counts.iter().enumerate() {
            for (k, sign) in SIGNS.iter().enumerate() {
                let read = self.read(second.output.token(i), k);
                output += often * sign * read.max(0.0);
                let each = often * sign / (4.0 * length) / (copies as f64).sqrt();
                let start = i * self.width + k * copies;
                gradient[start..start + copies].fill(gated(each, read));
            }
        }
        let below = attend_backward(z, self.beta_sq[1], &second.shares, &gradient);
        (output / (4.0 * length), below)
    }
}

#[cfg(test)]
mod tests {
    use peft_core::random::Generator;

    use super::*;

    fn tokens(count: usize, width: usize, seed: u64) -> Tokens {
        let mut generator = Generator::new(seed, "theory test");
        let values = (0..count * width).map(|_| f64::from(generator.normal()));
        Tokens {
            width,
            values: values.collect(),
            counts: vec![1.0; count],
        }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        for (width, layer) in [(4, Layer::First), (4, Layer::Second), (8, Layer::First)] {
            let model = Model::new(width, -0.5, [2.2, 1.7]).unwrap();
            let (x, prompt) = (tokens(5, width, 1), tokens(5, width, 2));
            let value = |prompt: &[f64]| model.gradient(&x, layer, prompt).0;
            let (_, gradient) = model.gradient(&x, layer, &prompt.values);
            for place in 0..5 * width {
                let moved = |by: f64| {
                    let mut moved = prompt.values.clone();
                    moved[place] += by;
                    value(&moved)
                };
                let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                let error = (difference - gradient[place]).abs();
                assert!(error < 1e-8, "{layer:?} {place}: {error}");
            }
        }
    }

    #[test]
    fn equal_tokens_may_be_kept_once() {
        let model = Model::new(4, -0.5, [2.2, 2.2]).unwrap();
        let two = tokens(2, 4, 3);
        let mut all = two.clone();
        all.values = [two.token(0), two.token(1), two.token(1), two.token(1)].concat();
        all.counts = vec![1.0; 4];
        let once = Tokens {
            counts: vec![1.0, 3.0],
            ..two
        };
        let prompt = [0.3, -0.2, 0.1, 0.4];
        for layer in Layer::BOTH {
            let (f, own) = model.gradient(&once, layer, &prompt);
            let (g, each) = model.gradient(&all, layer, &prompt);
            assert!((f - g).abs() < 1e-14);
            for k in 0..4 {
                let sum = each[4 + k] + each[8 + k] + each[12 + k];
                assert!((own[4 + k] - sum).abs() < 1e-14 && (own[k] - each[k]).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn the_output_is_the_same_for_every_width() {
        let f = |width: usize| {
            let model = Model::new(width, -0.5, [2.2, 1.7]).unwrap();
            let mut values = model.patterns[0].clone();
            values.extend(&model.patterns[3]);
            let x = Tokens {
                width,
                values,
                counts: vec![1.0, 7.0],
            };
            model.output(&model.hidden(&x))
        };
        assert!((f(4) - f(8)).abs() < 1e-15 && (f(4) - f(16)).abs() < 1e-15);
    }
}
