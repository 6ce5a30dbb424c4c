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

/// The images that the model takes: what the weights want, then the protocol of the data set, if there
/// is one, then the methods in their order.
///
/// # Errors
/// A size that a method cannot work with.
pub fn input(
    backbone: &dyn BackboneConfig,
    dataset: Option<&dyn DatasetConfig>,
    methods: &[Box<dyn AdaptationMethod>],
) -> Result<InputSpec, Failure> {
    let wanted = backbone.input().map_err(at("backbone"))?;
    let wanted = dataset.map_or(wanted, |dataset| dataset.transform().over(wanted));
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
        Precision::Bf16 if device.has_bf16() => Ok(model.with_compute_type(DType::BF16)),
        Precision::Bf16 => {
            let message = format!(
                "recipe.precision: expected f32, because {} does not compute in bf16; got bf16",
                device.name
            );
            Err(config_error(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::experiment::Experiment;
    use crate::config::find;

    /// The protocol of every row of the catalogue, in words, beside the input line of the plan.
    #[test]
    fn the_rows_protocols_are_the_plans_inputs_on_any_backbone() {
        let names = find::names("datasets/");
        let mut rows = 0;
        for name in &names {
            let name = name.trim_start_matches("datasets/");
            let (_, about) = Experiment::read_dataset(name, &[]).unwrap();
            let Some(about) = about else {
                continue;
            };
            rows += 1;
            let text = about
                .protocol
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            let crop = match &text {
                text if text.contains("resizes the shorter side to 256") => "crop 0.875 (center)",
                text if text.contains("the whole image is resized to 224 x 224")
                    || text.contains("Resize to 224 x 224 without cropping") =>
                {
                    "crop 1 (squash)"
                }
                text => panic!("{name}: {text}"),
            };
            // Both have a crop of their own: 0.9 and 0.875.
            for (backbone, filter) in [
                (
                    "{name: vit, variant: vit_base_patch16_224, crop_pct: 0.9}",
                    "bicubic",
                ),
                ("{name: resnet, variant: resnet101}", "bilinear"),
            ] {
                let backbone: Box<dyn BackboneConfig> = serde_yaml::from_str(backbone).unwrap();
                let (dataset, _) = Experiment::read_dataset(name, &[]).unwrap();
                let input = input(&*backbone, Some(&*dataset), &[]).unwrap().to_string();
                let expected = format!("224 x 224, {filter}, {crop}, mean");
                assert!(input.starts_with(&expected), "{name}: {input}");
            }
        }
        assert_eq!(rows, 38);
    }
}
