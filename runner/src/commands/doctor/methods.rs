//! Every method on a tiny model of every backbone: one training step in `f32` on a device against the
//! same step in `f64` on the CPU.
//!
//! Our kernels take `f32` only, so the step in `f64` runs on the operations and the autodiff of
//! Burn: the two computations share nothing but the model. On the CPU the forward pass is also cut
//! at every boundary, as a cached prefix cuts it, and compared with the uncut one.

use std::collections::BTreeSet;
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use peft_core::loss::cross_entropy;
use peft_core::params::{self, floats};
use peft_core::random::Generator;
use peft_core::registry::{PluginKind, plugins};
use peft_core::{
    Activation, AdaptationMethod, BackboneConfig, BoundaryShape, Init, LinearHead, Model, Plug,
};
use serde::Serialize;

use super::compare::{Named, Outcome, Pair, judge, pair, tolerance};
use super::guard::{guarded, tell};
use crate::device::ComputeDevice;

const CLASSES: usize = 5;
const IMAGES: usize = 2;

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
    let reference = match assemble(backbone, method, &Device::flex())? {
        Ok(model) => model,
        Err(reason) => return Ok(Outcome::Refused { reason }),
    };
    let mut pairs = Vec::new();
    let tested = if device.is_cpu() {
        pairs = cuts(&reference);
        reference.clone()
    } else {
        // The method accepted this backbone on the CPU, so a refusal here is an error.
        assemble(backbone, method, &device.device)??
    };
    let got = one_step(tested, DType::F32, &device.device);
    let expected = one_step(in_f64(reference), DType::F64, &Device::flex());
    pairs.extend(pair(got, expected)?);
    Ok(judge(&pairs, tolerance(device)))
}

/// Assembles the model, or returns the reason why the method refuses the backbone.
fn assemble(
    backbone: &str,
    method: &str,
    device: &Device,
) -> Result<Result<Model, String>, String> {
    let backbone: Box<dyn BackboneConfig> =
        serde_yaml::from_str(backbone).map_err(|e| e.to_string())?;
    let method: Box<dyn AdaptationMethod> =
        serde_yaml::from_str(method).map_err(|e| e.to_string())?;
    let init = Init::seeded(device, 0);
    let backbone = Plug::new(backbone.build(&init).map_err(|e| e.to_string())?);
    let head = LinearHead::new(backbone.spec().features, CLASSES, &init);
    match Model::assemble(backbone, &[method], head, &init) {
        Ok(model) => shaken(model).map(Ok),
        Err(e) => Ok(Err(e.to_string())),
    }
}

/// Adds noise to what trains: prompts and low-rank factors that start at zero would hide an error.
fn shaken(model: Model) -> Result<Model, String> {
    let shake = |(name, data): (String, TensorData)| {
        let mut generator = Generator::new(0, &name);
        let shape = data.shape().clone();
        let values = floats(data).into_iter();
        let values: Vec<f32> = values
            .map(|value| value + 0.02 * generator.normal())
            .collect();
        (name, TensorData::new(values, shape))
    };
    let trained = params::read(&model, |info| model.trains(&info.name));
    let trained = trained.into_iter().map(shake).collect();
    params::write(model, trained).map_err(|mismatch| format!("{mismatch:?}"))
}

/// Casts to `f64` everything that decides what a layer computes in: the frozen part and the head.
/// Adapters and tuned parameters follow their input, as under `precision: bf16`.
fn in_f64(model: Model) -> Model {
    let infos = params::infos(&model).into_iter();
    let outside: BTreeSet<String> = infos
        .map(|info| info.name)
        .filter(|name| !name.starts_with("head."))
        .collect();
    let model = model.with_compute_type(DType::F64);
    params::cast_except(model, &outside, DType::F64)
}

/// Random images `[b, 3, h, w]`, the same on every device.
fn images(model: &Model, device: &Device) -> Tensor<4> {
    let BoundaryShape::Map {
        channels,
        height,
        width,
    } = model.spec().boundaries[0].shape
    else {
        panic!("boundary 0 is not an image");
    };
    let mut generator = Generator::new(0, "doctor");
    let count = IMAGES * channels * height * width;
    let values: Vec<f32> = (0..count).map(|_| generator.normal()).collect();
    let data = TensorData::new(values, [IMAGES, channels, height, width]);
    Tensor::from_data(data, device)
}

/// Logits and all gradients of one training step on images of the type `dtype`.
fn one_step(model: Model, dtype: DType, device: &Device) -> Named {
    let model = model.train();
    let images = images(&model, device).cast(dtype);
    let step = model.step(0, 0, 0);
    let logits = model.logits(Activation::Map(images).into_autodiff(), 0, Some(&step));
    let labels: Vec<i64> = (0..IMAGES as i64).collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [IMAGES]), device);
    let loss = cross_entropy(logits.clone(), Tensor::from_inner(labels), 0.0);
    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    let gradients = params::gradients(&model, &gradients).into_iter();
    let mut values = vec![("logits".to_owned(), floats(logits.into_data()))];
    values.extend(gradients.map(|(name, data)| (format!("gradient of {name}"), floats(data))));
    values
}

/// The forward pass in two parts against the forward pass in one, for each cut.
fn cuts(model: &Model) -> Vec<Pair> {
    let x = Activation::Map(images(model, &Device::flex()));
    let whole = floats(model.logits(x.clone(), 0, None).into_data());
    (1..=model.spec().features_cut())
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
        let step = || {
            let model = assemble(vit, lora, &Device::flex()).unwrap().unwrap();
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
