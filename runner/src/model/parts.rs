//! The steps by which a model is put together, shared by a model to use and a trial to train.

use burn::tensor::DType;
use peft_core::input::InputSpec;
use peft_core::{AdaptationMethod, BackboneConfig, DatasetConfig, Head, Init, Model};

use crate::config::recipe::Precision;
use crate::device::ComputeDevice;
use crate::exit::{Failure, config_error};
use crate::model::base::Base;

/// Puts the component's name in front of what is wrong with it.
pub fn at(key: &'static str) -> impl Fn(peft_core::Error) -> Failure {
    move |e| config_error(format_args!("{key}: {e}"))
}

/// The images that the model takes: what the weights want, then the data set's protocol, then the
/// methods in their order.
///
/// # Errors
/// A size that a method cannot work with.
pub fn input(
    backbone: &dyn BackboneConfig,
    dataset: &dyn DatasetConfig,
    methods: &[Box<dyn AdaptationMethod>],
) -> Result<InputSpec, Failure> {
    let wanted = dataset.input(backbone.input().map_err(at("backbone"))?);
    let mut methods = methods.iter();
    methods
        .try_fold(wanted, |input, method| method.input(input))
        .map_err(at("method"))
}

/// A model on the tensors of `base`, which stay shared, computing in `precision`. The adapters have
/// their initial values.
///
/// # Errors
/// What a method lacks on this backbone; a precision that the device does not have.
pub fn assemble(
    base: &Base,
    methods: &[Box<dyn AdaptationMethod>],
    head: Head,
    init: &Init,
    precision: Precision,
    device: &ComputeDevice,
) -> Result<Model, Failure> {
    let model =
        Model::assemble(base.backbone.clone(), methods, head, init).map_err(at("method"))?;
    match precision {
        Precision::F32 => Ok(model),
        Precision::Bf16 if device.device.supports_dtype(DType::BF16) => {
            Ok(model.with_compute_type(DType::BF16))
        }
        Precision::Bf16 => {
            let message = format!("recipe.precision: {} has no bf16", device.name);
            Err(config_error(message))
        }
    }
}
