//! One training step of a tiny model, the same on every device and in every type.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use peft_core::loss::cross_entropy;
use peft_core::method::features;
use peft_core::params::{self, floats};
use peft_core::random::Generator;
use peft_core::{
    Activation, AdaptationMethod, BackboneConfig, BoundaryShape, Init, LinearHead, Model, Plug,
};

use super::compare::Named;

const CLASSES: usize = 5;
const IMAGES: usize = 2;

/// Assembles the model of a tiny backbone, or returns the reason why a method refuses it.
///
/// # Errors
/// If the YAML of the backbone is wrong.
pub fn assemble(
    backbone: &str,
    methods: &[Box<dyn AdaptationMethod>],
    device: &Device,
) -> Result<Result<Model, String>, String> {
    let backbone: Box<dyn BackboneConfig> =
        serde_yaml::from_str(backbone).map_err(|e| e.to_string())?;
    let init = Init::seeded(device, 0);
    let backbone = Plug::new(backbone.build(&init).map_err(|e| e.to_string())?);
    let features = match features(methods, &*backbone) {
        Ok(features) => features,
        Err(e) => return Ok(Err(e.to_string())),
    };
    let head = LinearHead::new(features, CLASSES, &init);
    match Model::assemble(backbone, methods, head, &init) {
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
pub fn in_f64(model: Model) -> Model {
    let infos = params::infos(&model).into_iter();
    let outside: BTreeSet<String> = infos
        .map(|info| info.name)
        .filter(|name| !name.starts_with("head."))
        .collect();
    let model = model.with_compute_type(DType::F64);
    params::cast_except(model, &outside, DType::F64)
}

/// Random images `[b, 3, h, w]`, the same on every device.
pub fn images(model: &Model, device: &Device) -> Tensor<4> {
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
pub fn one_step(model: Model, dtype: DType, device: &Device) -> Named {
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
