//! Compares an operation with Burn's own: both against values and gradients in `f64`, on the same input.

use std::ffi::OsStr;
use std::process::Command;

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::bf16;
use proptest::prelude::*;

use crate::Level;
pub(crate) use crate::check::noise;

/// Whether tests should be short. `ops/valgrind.sh` sets the variable: under valgrind everything takes 50
/// times as long.
pub(crate) fn short() -> bool {
    std::env::var_os("PEFT_OPS_SHORT_TESTS").is_some()
}

/// A property test of `count` cases, or of an eighth of them if tests should be short.
pub(crate) fn cases(count: u32) -> ProptestConfig {
    ProptestConfig::with_cases(if short() { count / 8 } else { count })
}

/// Runs a test of this binary at another level. A process has one level, so this is a process of its own.
pub(crate) fn at_level(level: Level, test: &str) {
    let binary = std::env::current_exe().unwrap();
    // Programs of another architecture start through an emulator, which `ops/neon.sh` names.
    let emulator = std::env::var("PEFT_OPS_EMULATOR").unwrap_or_default();
    let words = emulator.split_whitespace().map(OsStr::new);
    let mut words = words.chain([binary.as_os_str()]);
    let run = Command::new(words.next().unwrap())
        .args(words)
        .args(["--exact", test])
        .env("PEFT_OPS", level.name())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{output}");
    assert!(output.contains("1 passed"), "{output}");
}

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View {
    /// Row by row.
    Plain,
    /// With the first and the last axis exchanged.
    Swapped,
    /// As a part of a longer tensor.
    Inside,
}

/// Any view.
pub(crate) fn views() -> impl Strategy<Value = View> {
    prop_oneof![Just(View::Plain), Just(View::Swapped), Just(View::Inside)]
}

/// The inputs of an operation.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    inputs: Vec<Input>,
    seed: u32,
    /// Whether values are at a kink, where differences say nothing about a gradient.
    kinks: bool,
    /// Whether bf16 has all values.
    narrow: bool,
}

#[derive(Clone, Debug)]
struct Input {
    shape: Vec<usize>,
    values: Vec<f32>,
    /// The seed and the factor of random values.
    drawn: Option<(u32, f32)>,
    view: View,
    /// Whether it wants a gradient.
    wanted: bool,
}

impl Case {
    pub(crate) fn new(seed: u32) -> Self {
        Self {
            inputs: Vec::new(),
            seed,
            kinks: false,
            narrow: false,
        }
    }

    /// With another input of random values.
    pub(crate) fn with(self, shape: &[usize], view: View) -> Self {
        let seed = self.seed + 1 + self.inputs.len() as u32;
        let values = noise(shape.iter().product(), seed);
        let mut case = self.with_values(shape, values, view);
        let last = case.inputs.last_mut();
        last.into_iter()
            .for_each(|input| input.drawn = Some((seed, 1.0)));
        case
    }

    /// With another input of these values.
    pub(crate) fn with_values(mut self, shape: &[usize], values: Vec<f32>, view: View) -> Self {
        self.inputs.push(Input {
            shape: shape.to_vec(),
            values,
            drawn: None,
            view,
            wanted: true,
        });
        self
    }

    /// With all values of the last input multiplied.
    pub(crate) fn times(mut self, factor: f32) -> Self {
        if let Some(input) = self.inputs.last_mut() {
            input.values.iter_mut().for_each(|value| *value *= factor);
            input.drawn = input.drawn.map(|(seed, before)| (seed, before * factor));
        }
        self
    }

    /// The case with other random values.
    fn again(mut self, turn: u32) -> Self {
        let other = |seed: u32| seed.wrapping_add(turn.wrapping_mul(7919));
        for input in &mut self.inputs {
            if let Some((seed, factor)) = input.drawn {
                let values = noise(input.values.len(), other(seed)).into_iter();
                input.values = values.map(|value| value * factor).collect();
            }
        }
        self.seed = other(self.seed);
        self
    }

    /// With all values rounded to bf16.
    fn rounded(mut self) -> Self {
        for input in &mut self.inputs {
            input.values.iter_mut().for_each(round);
        }
        self.narrow = true;
        self
    }

    /// Tells that values are at a kink of the operation.
    pub(crate) fn at_kinks(self) -> Self {
        Self {
            kinks: true,
            ..self
        }
    }

    /// With a gradient for only those inputs whose bit is set.
    pub(crate) fn wanting(mut self, bits: u32) -> Self {
        for (i, input) in self.inputs.iter_mut().enumerate() {
            input.wanted = bits >> i & 1 == 1;
        }
        self
    }
}

fn round(value: &mut f32) {
    *value = bf16::from_f32(*value).to_f32();
}

/// The inputs as tensors of one element type.
pub(crate) struct Tensors<'a> {
    case: &'a Case,
    leaves: Vec<Tensor<1>>,
}

impl Tensors<'_> {
    /// Input `i`.
    pub(crate) fn get<const D: usize>(&self, i: usize) -> Tensor<D> {
        let (input, leaf) = (&self.case.inputs[i], self.leaves[i].clone());
        let mut shape: [usize; D] = input.shape.clone().try_into().unwrap();
        if input.values.is_empty() {
            // A size of 0 would mean "as it is" to `reshape`.
            return Tensor::zeros(shape, &leaf.device());
        }
        match input.view {
            View::Plain => leaf.reshape(shape),
            View::Swapped => {
                shape.swap(0, D - 1);
                leaf.reshape(shape).swap_dims(0, D - 1)
            }
            View::Inside => {
                let count = shape[0];
                shape[0] += 2;
                leaf.reshape(shape).narrow(0, 1, count)
            }
        }
    }
}

/// The value and the gradients of a random combination of its entries.
fn run<const D: usize>(
    case: &Case,
    dtype: DType,
    op: &dyn Fn(&Tensors) -> Tensor<D>,
) -> Vec<(String, Vec<f64>)> {
    run_beside(case, dtype, None, op)
}

/// [`run`] at a point beside that of the case: one input is moved by a step along a random [`direction`].
fn run_beside<const D: usize>(
    case: &Case,
    dtype: DType,
    moved: Option<(usize, f64)>,
    op: &dyn Fn(&Tensors) -> Tensor<D>,
) -> Vec<(String, Vec<f64>)> {
    let leaf = |(i, input): (usize, &Input)| {
        let mut values = input.values.clone();
        if let View::Inside = input.view {
            // NaN around the input shows if a kernel reads it.
            let line = vec![f32::NAN; input.shape[1..].iter().product()];
            values = [line.clone(), values, line].concat();
        }
        let count = values.len();
        let values = Tensor::<1>::from_data(TensorData::new(values, [count]), &Device::flex());
        let mut values = values.cast(dtype);
        if let Some((_, step)) = moved.filter(|(input, _)| *input == i) {
            let along = TensorData::new(direction(case, i, count), [count]);
            let along = Tensor::<1>::from_data(along, &Device::flex()).cast(dtype);
            values = values + along * step;
        }
        let leaf = Tensor::from_inner(values);
        if input.wanted {
            leaf.require_grad()
        } else {
            leaf
        }
    };
    let leaves: Vec<_> = case.inputs.iter().enumerate().map(leaf).collect();
    let tensors = Tensors { case, leaves };
    let y = op(&tensors);
    let shape = y.shape();
    let weights = weights(case, shape.num_elements());
    let weights = Tensor::<D>::from_data(TensorData::new(weights, shape), &Device::flex());
    let weights = Tensor::from_inner(weights.cast(dtype));
    let list = |data: TensorData| data.iter::<f64>().collect::<Vec<f64>>();
    let mut results = vec![("value".to_owned(), list(y.clone().into_data()))];
    if case.inputs.iter().any(|input| input.wanted) {
        let gradients = (y * weights).sum().backward();
        for (i, (input, leaf)) in case.inputs.iter().zip(&tensors.leaves).enumerate() {
            let Some(gradient) = leaf.grad(&gradients) else {
                assert!(
                    !input.wanted || input.values.is_empty(),
                    "input {i} has no gradient"
                );
                continue;
            };
            assert!(input.wanted, "input {i} has a gradient that is not wanted");
            results.push((format!("gradient of input {i}"), list(gradient.into_data())));
        }
    }
    results
}

/// The factors of the result's entries in the sum whose gradient is taken.
fn weights(case: &Case, count: usize) -> Vec<f32> {
    let mut weights = noise(count, case.seed.wrapping_add(100));
    if case.narrow {
        weights.iter_mut().for_each(round);
    }
    weights
}

/// The direction in which an input is moved.
fn direction(case: &Case, input: usize, count: usize) -> Vec<f32> {
    noise(count, case.seed.wrapping_add(200 + input as u32))
}

/// A step along a direction, relative to the largest value of the input: long enough for the rounding of
/// `f64`, and too short to meet a kink.
const STEP: f64 = 1e-8;

/// Asserts that the gradients of `op` in `f64`, along a random direction for each input, are the central
/// differences of its values, within 1e-5 of the terms that are summed and what rounding in `f64` allows.
fn differentiate<const D: usize>(
    case: &Case,
    op: &dyn Fn(&Tensors) -> Tensor<D>,
    results: &[(String, Vec<f64>)],
) {
    let dot = |a: &[f64], b: &[f32]| -> [f64; 2] {
        let products = a.iter().zip(b).map(|(a, b)| a * f64::from(*b));
        products.fold([0.0; 2], |[sum, size], p| [sum + p, size + p.abs()])
    };
    let weights = weights(case, results[0].1.len());
    let combined = |i: usize, step: f64| {
        let results = run_beside(case, DType::F64, Some((i, step)), op);
        dot(&results[0].1, &weights)
    };
    for (i, input) in case.inputs.iter().enumerate() {
        let name = format!("gradient of input {i}");
        let Some((_, gradient)) = results.iter().find(|(of, _)| *of == name) else {
            continue;
        };
        let largest = input.values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let step = STEP * f64::from(largest);
        let ([above, size], [below, _]) = (combined(i, step), combined(i, -step));
        let difference = (above - below) / (2.0 * step);
        let [slope, terms] = dot(gradient, &direction(case, i, gradient.len()));
        let error = (slope - difference).abs();
        assert!(
            step == 0.0 || error <= 1e-5 * terms + 1e-14 * size / step,
            "{name}: {slope} along a direction, by differences {difference}: {case:?}"
        );
    }
}

/// Number of values whose largest error is more than luck. With fewer, Burn's may happen to be exact, or all
/// of them may be tiny beside the terms that they are the sum of.
const ENOUGH: usize = 512;

/// Most times that small tensors are drawn again in short tests, which do not ask for the ratio of errors
/// where that is not [`ENOUGH`].
const SHORT: u32 = 3;

/// An error, relative to the largest value, that is fine whatever Burn's is: four units in the last place.
const UNITS: f64 = 4.0 * f32::EPSILON as f64;

/// The largest error allowed, relative to the largest value. For tensors that are drawn again it only holds
/// where Burn's error is not larger either: `f32` cannot compute all of many draws that well.
const MOST: f64 = 1e-5;

/// The largest errors in a tensor, of the operation and of Burn's, and its largest value.
#[derive(Clone, Copy, Default)]
struct Errors {
    ours: f64,
    burns: f64,
    largest: f64,
    count: usize,
}

/// Asserts that values and gradients of `op` in `f32` are at most twice as far from `composed` in `f64` as
/// `composed` in `f32` is, or within [`UNITS`], and at most [`MOST`], relative to the largest value of each
/// tensor. The gradients in `f64` must be those of finite differences, except at
/// [kinks](Case::at_kinks). Small tensors are drawn again until there are [`ENOUGH`] values.
pub(crate) fn compare<const D: usize>(
    case: &Case,
    op: impl Fn(&Tensors) -> Tensor<D>,
    composed: impl Fn(&Tensors) -> Tensor<D>,
) {
    let mut all: Vec<(String, Errors)> = Vec::new();
    for turn in 0.. {
        let case = case.clone().again(turn);
        let expected = run(&case, DType::F64, &composed);
        // Holds Burn's `f64` to account, not a kernel: short tests do without.
        if turn == 0 && !case.kinks && !short() {
            differentiate(&case, &composed, &expected);
        }
        let burns = run(&case, DType::F32, &composed);
        let got = run(&case, DType::F32, &op);
        assert_eq!(got.len(), expected.len());
        all.resize(expected.len(), Default::default());
        for (i, (name, expected)) in expected.into_iter().enumerate() {
            let (burns, got) = (&burns[i].1, &got[i]);
            assert_eq!((&name, expected.len()), (&got.0, got.1.len()));
            // Not `max`, which drops NaN.
            let worse = |m: f64, e: f64| if e <= m { m } else { e };
            let worst = |values: &[f64]| {
                let errors = values.iter().zip(&expected).map(|(a, b)| (a - b).abs());
                errors.fold(0.0, worse)
            };
            let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let own = worst(&got.1) / largest.max(1e-30);
            assert!(
                turn > 0 || own <= MOST,
                "{name}: off by {own:e} of its largest value: {case:?}"
            );
            let errors = &mut all[i].1;
            errors.ours = worse(errors.ours, worst(&got.1));
            errors.burns = worse(errors.burns, worst(burns));
            errors.largest = errors.largest.max(largest);
            errors.count += expected.len();
            all[i].0 = name;
        }
        let random = case.inputs.iter().any(|input| input.drawn.is_some());
        let done = |errors: &Errors| errors.count == 0 || errors.count >= ENOUGH;
        let last = short() && turn >= SHORT;
        if !random || last || all.iter().all(|(_, errors)| done(errors)) {
            break;
        }
    }
    for (name, errors) in all {
        if short() && errors.count < ENOUGH {
            continue;
        }
        let [ours, burns] = [errors.ours, errors.burns].map(|e| e / errors.largest.max(1e-30));
        assert!(
            ours <= (2.0 * burns).max(UNITS) && (ours <= MOST || burns > MOST),
            "{name}: off by {ours:e} of its largest value, Burn's by {burns:e}: {case:?}"
        );
    }
}

/// Asserts that values and gradients of `op` in bf16 are within one unit in the last place of the largest value of
/// each tensor from those of `composed` in `f64`, for the same inputs: it may round twice, once on its way.
pub(crate) fn compare_in_bf16<const D: usize>(
    case: &Case,
    op: impl Fn(&Tensors) -> Tensor<D>,
    composed: impl Fn(&Tensors) -> Tensor<D>,
) {
    let case = case.clone().rounded();
    let expected = run(&case, DType::F64, &composed);
    let got = run(&case, DType::BF16, &op);
    assert_eq!(got.len(), expected.len());
    for ((name, expected), (_, got)) in expected.iter().zip(&got) {
        assert_eq!(expected.len(), got.len(), "{name}");
        let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (expected, got) in expected.iter().zip(got) {
            let error = (got - expected).abs();
            assert!(
                error <= largest * 2.0f64.powi(-7),
                "{name}: {got}, expected {expected} of at most {largest}: {case:?}"
            );
        }
    }
}

/// Asserts that the value of `op` is NaN or infinite exactly where Burn's is.
pub(crate) fn same_where_not_finite<const D: usize>(
    case: &Case,
    op: impl Fn(&Tensors) -> Tensor<D>,
    composed: impl Fn(&Tensors) -> Tensor<D>,
) {
    let kind = |value: f64| {
        if value.is_finite() {
            "finite".to_owned()
        } else {
            format!("{value}")
        }
    };
    let kinds = |results: Vec<(String, Vec<f64>)>| -> Vec<String> {
        results[0].1.iter().map(|value| kind(*value)).collect()
    };
    let case = case.clone().wanting(0);
    let expected = kinds(run(&case, DType::F32, &composed));
    assert!(
        expected.iter().any(|kind| kind != "finite"),
        "everything is finite"
    );
    assert_eq!(kinds(run(&case, DType::F32, &op)), expected);
}

/// What `f` computes on that many threads.
pub(crate) fn on_threads<T: Send>(threads: usize, f: impl Fn() -> T + Sync) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap().install(&f)
}

/// Asserts that `f` computes the same to the bit on one thread and on several.
pub(crate) fn same_on_any_threads<T: PartialEq + Send>(f: impl Fn() -> T + Sync) {
    let one = on_threads(1, &f);
    for threads in [2, 3, 7] {
        assert!(on_threads(threads, &f) == one, "on {threads} threads");
    }
}

/// Values and gradients in bf16.
pub(crate) fn results_in_bf16<const D: usize>(
    case: &Case,
    op: impl Fn(&Tensors) -> Tensor<D>,
) -> Vec<(String, Vec<f64>)> {
    run(case, DType::BF16, &op)
}

/// Values and gradients in `f32`.
pub(crate) fn results<const D: usize>(
    case: &Case,
    op: impl Fn(&Tensors) -> Tensor<D>,
) -> Vec<(String, Vec<f64>)> {
    run(case, DType::F32, &op)
}
