//! Every kind of trained parameter on every family of backbones: one training step on a device of tiny
//! models that train as much as fits together, against the same step in `f64` on the CPU.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use burn::tensor::{DType, Device};
use peft_core::registry::{PluginKind, plugins};
use peft_core::{AdaptationMethod, BackboneSpec, Model, SiteKind, params};
use serde::{Deserialize, Serialize};

use super::compare::{Named, Outcome, errors, pair, tolerance};
use super::guard::{guarded, tell};
use super::step::{assemble, in_f64, one_step};
use crate::device::ComputeDevice;

/// The kind of the logits, which are right only if the forward pass is.
pub const FORWARD: &str = "forward";

/// The gradients of a kind of parameters, on a family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KindTest {
    /// The family's name in YAML.
    pub family: String,
    /// [`FORWARD`], or a kind of [`kind_of`].
    pub kind: String,
    /// The worst of all sizes.
    #[serde(flatten)]
    pub result: Outcome,
}

impl KindTest {
    /// Whether it failed.
    pub fn failed(&self) -> bool {
        matches!(self.result, Outcome::Fail { .. })
    }
}

/// The largest relative error that passes. A step of all methods together adds up the errors of more
/// products than a step of one, for which [`tolerance`] is made.
pub fn allowed(device: &ComputeDevice) -> f32 {
    2.0 * tolerance(device)
}

/// Most methods of a step. Errors add up from method to method, and any number may be registered.
const TOGETHER: usize = 6;

/// What a parameter is: `head`, the method of its adapter, or for one of the backbone the kind of its site:
/// `linear`, `conv` or `norm`, and `other` outside of these.
pub fn kind_of(name: &str, spec: &BackboneSpec) -> String {
    if name.starts_with("head.") {
        return "head".to_owned();
    }
    let Some(own) = name.strip_prefix("backbone.") else {
        let name = name.split('.').next().unwrap_or(name);
        // A method that is listed twice has the adapters `lora` and `lora-2`.
        let numbered = name.rsplit_once('-');
        let numbered = numbered.filter(|(_, number)| number.parse::<usize>().is_ok());
        return numbered.map_or(name, |(method, _)| method).to_owned();
    };
    let holds = |site: &str| {
        own.strip_prefix(site)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    let kinds = spec.sites.iter().filter(|site| holds(&site.name));
    let mut kind = kinds.filter_map(|site| match site.kind {
        SiteKind::Linear { .. } => Some("linear"),
        SiteKind::Conv { .. } => Some("conv"),
        SiteKind::Norm { .. } => Some("norm"),
        SiteKind::Branch { .. } => None,
    });
    kind.next_back().unwrap_or("other").to_owned()
}

/// The kinds of the parameters that a model trains.
pub fn kinds(model: &Model) -> BTreeSet<String> {
    let infos = params::infos(model).into_iter();
    let trained = infos.filter(|info| model.trains(&info.name));
    trained
        .map(|info| kind_of(&info.name, model.spec()))
        .collect()
}

/// Tests the wanted families of all that are registered.
pub fn test(device: &ComputeDevice, wanted: &dyn Fn(&str) -> bool) -> Vec<KindTest> {
    test_step(device, wanted, &|model, device| {
        one_step(model, DType::F32, device)
    })
}

/// The step of a model on the device that is tested.
pub type Step<'a> = &'a dyn Fn(Model, &Device) -> Named;

/// [`test`] with another step, such as one that is wrong.
pub fn test_step(
    device: &ComputeDevice,
    wanted: &dyn Fn(&str) -> bool,
    step: Step,
) -> Vec<KindTest> {
    let mut tests = Vec::new();
    for backbone in plugins(PluginKind::Backbone) {
        if !wanted(backbone.name) {
            continue;
        }
        let start = Instant::now();
        let mut worst = BTreeMap::new();
        // Of the tiny configurations the first has sizes that fill tiles of 16, and the second has not.
        for tiny in backbone.tiny.iter().take(2) {
            if let Err(reason) = guarded(|| of_sizes(tiny, device, step, &mut worst)) {
                note(&mut worst, FORWARD, Err(format!("{tiny}: {reason}")));
            }
        }
        let results = worst.into_iter();
        tests.extend(results.map(|(kind, result)| KindTest {
            family: backbone.name.to_owned(),
            kind,
            result: outcome(result, allowed(device)),
        }));
        tell(device, start, format_args!("kinds/{}", backbone.name));
    }
    tests
}

/// The largest error by kind, or what is worse than an error.
type Worst = BTreeMap<String, Result<f32, String>>;

fn note(worst: &mut Worst, kind: &str, found: Result<f32, String>) {
    let place = worst.entry(kind.to_owned()).or_insert(Ok(0.0));
    *place = match (std::mem::replace(place, Ok(0.0)), found) {
        (Ok(a), Ok(b)) => Ok(a.max(b)),
        (Err(reason), _) | (_, Err(reason)) => Err(reason),
    };
}

fn outcome(result: Result<f32, String>, allowed: f32) -> Outcome {
    match result {
        Ok(max_relative_error) => Outcome::Pass { max_relative_error },
        Err(reason) => Outcome::Fail {
            reason: format!("{reason} (allowed {allowed:.0e})"),
        },
    }
}

/// Steps of a tiny backbone until every kind that any method trains on it has been seen.
fn of_sizes(
    tiny: &str,
    device: &ComputeDevice,
    step: Step,
    worst: &mut Worst,
) -> Result<(), String> {
    let candidates = candidates(tiny)?;
    let mut seen = BTreeSet::new();
    loop {
        let mut together: Vec<&str> = Vec::new();
        let mut reference = None;
        for candidate in &candidates {
            if candidate.kinds.is_subset(&seen) || together.len() == TOGETHER {
                continue;
            }
            together.push(candidate.example);
            match assemble(tiny, &parse(&together)?, &Device::flex())? {
                Ok(model) => reference = Some(model),
                // It contradicts one of the others, and gets a step of its own.
                Err(_) => {
                    together.pop();
                }
            }
        }
        let Some(reference) = reference else {
            return Ok(());
        };
        seen.extend(kinds(&reference));
        let spec = reference.spec().clone();
        let tested = match device.is_cpu() {
            true => reference.clone(),
            // The methods accepted this backbone on the CPU, so a refusal here is an error.
            false => assemble(tiny, &parse(&together)?, &device.device)??,
        };
        let got = step(tested, &device.device);
        let expected = one_step(in_f64(reference), DType::F64, &Device::flex());
        let pairs = pair(got, expected)?;
        for (pair, error) in pairs.iter().zip(errors(&pairs)) {
            let parameter = pair.name.strip_prefix("gradient of ");
            let kind = parameter.map_or(FORWARD.to_owned(), |name| kind_of(name, &spec));
            let error = error.and_then(|error| match error <= allowed(device) {
                true => Ok(error),
                false => Err(format!("{}: relative error {error:.1e}", pair.name)),
            });
            note(worst, &kind, error);
        }
    }
}

/// A method that a tiny backbone carries.
struct Candidate {
    example: &'static str,
    kinds: BTreeSet<String>,
    /// The number of the backbone's own values that it trains.
    tuned: usize,
}

/// All methods that a tiny backbone carries, those first that train most of it: others rarely contradict
/// them, and may add what they do not train.
fn candidates(tiny: &str) -> Result<Vec<Candidate>, String> {
    let mut candidates = Vec::new();
    for method in plugins(PluginKind::Method) {
        if let Ok(model) = assemble(tiny, &parse(&[method.example])?, &Device::flex())? {
            candidates.push(Candidate {
                example: method.example,
                kinds: kinds(&model),
                tuned: model.counts().tuned,
            });
        }
    }
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.tuned));
    Ok(candidates)
}

fn parse(examples: &[&str]) -> Result<Vec<Box<dyn AdaptationMethod>>, String> {
    let methods = examples.iter().map(|yaml| serde_yaml::from_str(yaml));
    methods.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_trains_every_kind_and_passes_on_the_cpu() {
        let tests = test(&ComputeDevice::cpu(), &|_| true);
        let kinds_of = |family: &str| -> BTreeSet<&str> {
            let of_family = tests.iter().filter(|test| test.family == family);
            of_family.map(|test| test.kind.as_str()).collect()
        };
        assert!(tests.iter().all(|test| !test.failed()), "{tests:?}");
        for family in plugins(PluginKind::Backbone) {
            let kinds = kinds_of(family.name);
            for kind in [FORWARD, "head", "norm", "conv", "lora", "ap", "ssf"] {
                assert!(kinds.contains(kind), "{}: {kinds:?}", family.name);
            }
        }
        assert!(kinds_of("vit").contains("vpt") && !kinds_of("resnet").contains("vpt"));
        assert!(kinds_of("swin").contains("other"));
    }

    #[test]
    fn a_wrong_kind_is_told_from_right_ones() {
        let wrong = |model: Model, device: &Device| {
            let mut values = one_step(model, DType::F32, device);
            let conv = values
                .iter_mut()
                .filter(|(name, _)| name.ends_with("conv2.weight"));
            conv.for_each(|(_, values)| values[0] += 1.0);
            values
        };
        let tests = test_step(&ComputeDevice::cpu(), &|name| name == "resnet", &wrong);
        let failed: Vec<&KindTest> = tests.iter().filter(|test| test.failed()).collect();
        let [test] = failed[..] else {
            panic!("{failed:?}");
        };
        assert_eq!(test.kind, "conv");
        let Outcome::Fail { reason } = &test.result else {
            panic!("{test:?}");
        };
        assert!(reason.contains("conv2.weight: relative error"), "{reason}");
    }

    #[test]
    fn a_step_that_panics_fails_the_family() {
        let broken = |_: Model, _: &Device| panic!("no kernel");
        let tests = test_step(&ComputeDevice::cpu(), &|name| name == "vit", &broken);
        let [test] = &tests[..] else {
            panic!("{tests:?}");
        };
        assert!(test.failed() && test.kind == FORWARD, "{test:?}");
    }
}
