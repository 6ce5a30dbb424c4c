//! Every method on a tiny model of every backbone: one training step in `f32` on a device against the
//! same step in `f64` on the CPU.
//!
//! Our kernels take `f32` only, so the step in `f64` runs on the operations and the autodiff of
//! Burn: the two computations share nothing but the model. On the CPU the forward pass is also cut
//! at every boundary, as a cached prefix cuts it, and compared with the uncut one.

use std::time::Instant;

use burn::tensor::{DType, Device};
use peft_core::params::floats;
use peft_core::registry::{PluginKind, plugins};
use peft_core::{Activation, AdaptationMethod, Model};
use serde::Serialize;

use super::compare::{Outcome, Pair, judge, pair, tolerance};
use super::guard::{guarded, tell};
use super::step::{assemble, images, in_f64, one_step};
use crate::device::ComputeDevice;

/// A method on a tiny model.
#[derive(Serialize)]
pub struct Test {
    pub backbone: &'static str,
    pub method: &'static str,
    #[serde(flatten)]
    pub result: Outcome,
}

/// Tests the wanted pairs of backbone and method, of all that are registered.
pub fn test(device: &ComputeDevice, wanted: &dyn Fn(&str, &str) -> bool) -> Vec<Test> {
    let mut tests = Vec::new();
    for backbone in plugins(PluginKind::Backbone) {
        let methods = plugins(PluginKind::Method).into_iter();
        for method in methods.filter(|method| wanted(backbone.name, method.name)) {
            let start = Instant::now();
            let result = match backbone.tiny.first() {
                Some(tiny) => guarded(|| of_pair(tiny, method.example, device)),
                None => Err("the backbone registers no tiny configuration".to_owned()),
            };
            let result = result.unwrap_or_else(|reason| Outcome::Fail { reason });
            let (backbone, method) = (backbone.name, method.name);
            tell(
                device,
                start,
                format_args!("{backbone}/{method} {result:?}"),
            );
            tests.push(Test {
                backbone,
                method,
                result,
            });
        }
    }
    tests
}

/// One method on one tiny backbone, both as YAML.
fn of_pair(backbone: &str, method: &str, device: &ComputeDevice) -> Result<Outcome, String> {
    let method: Box<dyn AdaptationMethod> =
        serde_yaml::from_str(method).map_err(|e| e.to_string())?;
    let methods = [method];
    let reference = match assemble(backbone, &methods, &Device::flex())? {
        Ok(model) => model,
        Err(reason) => return Ok(Outcome::Refused { reason }),
    };
    let mut pairs = Vec::new();
    let tested = if device.is_cpu() {
        pairs = cuts(&reference);
        reference.clone()
    } else {
        // The method accepted this backbone on the CPU, so a refusal here is an error.
        assemble(backbone, &methods, &device.device)??
    };
    let got = one_step(tested, DType::F32, &device.device);
    let expected = one_step(in_f64(reference), DType::F64, &Device::flex());
    pairs.extend(pair(got, expected)?);
    Ok(judge(&pairs, tolerance(device)))
}

/// The forward pass in two parts against the forward pass in one, for each cut from which the rest can run.
fn cuts(model: &Model) -> Vec<Pair> {
    let x = Activation::Map(images(model, &Device::flex()));
    let whole = floats(model.logits(x.clone(), 0, None).into_data());
    let last = match model.taps().are_of_side() {
        true => model.taps().first(),
        false => model.spec().features_cut(),
    };
    (1..=last)
        .map(|cut| {
            let below = model.span(x.clone(), 0..cut, None);
            Pair {
                name: format!("logits cut at {cut}"),
                got: floats(model.logits(below, cut, None).into_data()),
                expected: whole.clone(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::compare::TOLERANCE;
    use super::*;

    #[test]
    fn every_method_passes_on_the_cpu_beside_another_computation() {
        let tests = test(&ComputeDevice::cpu(), &|_, _| true);
        for plugin in plugins(PluginKind::Backbone) {
            let of_backbone = tests.iter().filter(|test| test.backbone == plugin.name);
            let errors: Vec<f32> = of_backbone
                .filter_map(|test| match &test.result {
                    Outcome::Pass { max_relative_error } => Some(*max_relative_error),
                    Outcome::Refused { .. } => None,
                    Outcome::Fail { reason } => {
                        panic!("{}/{}: {reason}", test.method, test.backbone)
                    }
                })
                .collect();
            // Rounding differs between two computations. If no value differed, the test could not
            // fail.
            assert!(errors.len() > 3, "{}", plugin.name);
            assert!(errors.iter().all(|error| *error > 0.0), "{}", plugin.name);
        }
    }

    /// Changes a step as a kernel that is slightly wrong would.
    #[test]
    fn a_wrong_value_in_any_tensor_of_a_step_is_found() {
        let (vit, lora) = (
            "{name: vit, img_size: 16, patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2}",
            "{name: lora, rank: 2}",
        );
        let lora: [Box<dyn AdaptationMethod>; 1] = [serde_yaml::from_str(lora).unwrap()];
        let step = || {
            let model = assemble(vit, &lora, &Device::flex()).unwrap().unwrap();
            let expected = in_f64(model.clone());
            let got = one_step(model, DType::F32, &Device::flex());
            pair(got, one_step(expected, DType::F64, &Device::flex())).unwrap()
        };
        let sound = step();
        assert!(matches!(judge(&sound, TOLERANCE), Outcome::Pass { .. }));
        for place in 0..sound.len() {
            let mut damaged = step();
            let largest = damaged[place].got.iter_mut();
            let largest = largest.max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
            *largest *= 1.01;
            let name = damaged[place].name.clone();
            let Outcome::Fail { reason } = judge(&damaged, TOLERANCE) else {
                panic!("an error of 1 % of {name} passes");
            };
            assert!(reason.starts_with(&name), "{reason}");
        }
    }
}
