//! Tiny models whose outputs and gradients were computed by timm and transformers and are bundled
//! in the binary, so that the expected values do not depend on anything that this program computes.
//! `fixtures/` holds the scripts that made them.

use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use peft_core::checkpoint::{Checkpoint, load_backbone};
use peft_core::params::{self, Tensors, floats};
use peft_core::registry::{PluginKind, plugins};
use peft_core::{Activation, BackboneConfig, Hooks, Init, LinearHead, Plug};
use serde::Serialize;

use super::compare::{Outcome, Pair, judge, tolerance};
use super::guard::{guarded, tell};
use crate::device::ComputeDevice;

/// A model and its values.
struct Case {
    backbone: &'static str,
    /// The library that computed the values.
    library: &'static str,
    /// The YAML of the backbone.
    config: &'static str,
    weights: &'static [u8],
    /// `images`, the output, and gradients `grad.*` of the sum of the output times `loss_weights`.
    values: &'static [u8],
    /// The tensor among the values that the model ends with.
    output: &'static str,
}

macro_rules! fixture {
    ($file:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/", $file))
    };
}

/// One small model for each family, chosen so that every kernel is used by one of them.
static CASES: [Case; 5] = [
    Case {
        backbone: "clip",
        library: "transformers",
        config: "{name: clip, img_size: 32, patch_size: 8, embed_dim: 24, depth: 2, num_heads: 3, \
                 projection_dim: 12, features: after}",
        weights: fixture!("clip_projection/weights.safetensors"),
        values: fixture!("clip_projection/io.safetensors"),
        output: "projected",
    },
    Case {
        backbone: "convnext",
        library: "timm",
        config: "{name: convnext, img_size: 36, depths: [1, 2, 1, 1], dims: [8, 12, 16, 20], \
                 conv_mlp: true, use_grn: true}",
        weights: fixture!("convnextv2_gradients/weights.safetensors"),
        values: fixture!("convnextv2_gradients/io.safetensors"),
        output: "logits",
    },
    Case {
        backbone: "resnet",
        library: "timm",
        config: "{name: resnet, img_size: 36, block: bottleneck, layers: [1, 1, 1, 1], \
                 channels: [4, 8, 8, 16], base_width: 128, stem_type: deep_tiered, stem_width: 12}",
        weights: fixture!("resnet_wide/weights.safetensors"),
        values: fixture!("resnet_wide/io.safetensors"),
        output: "logits",
    },
    Case {
        backbone: "swin",
        library: "timm",
        config: "{name: swin, img_size: 36, patch_size: 4, embed_dim: 8, depths: [2, 2, 2], \
                 num_heads: [2, 2, 4], window_size: 4, mlp_ratio: 2.0}",
        weights: fixture!("swin_padded/weights.safetensors"),
        values: fixture!("swin_padded/io.safetensors"),
        output: "logits",
    },
    Case {
        backbone: "vit",
        library: "timm",
        config: "{name: vit, img_size: 32, patch_size: 8, embed_dim: 24, depth: 3, num_heads: 3, \
                 mlp_ratio: 2.0, class_token: false, pre_norm: true, act_layer: quick_gelu, \
                 global_pool: avg, fc_norm: false}",
        weights: fixture!("vit_pre_norm/weights.safetensors"),
        values: fixture!("vit_pre_norm/io.safetensors"),
        output: "logits",
    },
];

/// A backbone against the values of another library.
#[derive(Serialize)]
pub struct GoldenTest {
    pub backbone: &'static str,
    pub library: &'static str,
    #[serde(flatten)]
    pub result: Outcome,
}

/// Tests the wanted backbones, of those that are linked and have bundled values.
pub fn test(device: &ComputeDevice, wanted: &dyn Fn(&str) -> bool) -> Vec<GoldenTest> {
    let linked = plugins(PluginKind::Backbone);
    let is_linked = |case: &&Case| linked.iter().any(|plugin| plugin.name == case.backbone);
    let cases = CASES.iter().filter(is_linked);
    cases
        .filter(|case| wanted(case.backbone))
        .map(|case| {
            let start = Instant::now();
            let pairs = guarded(|| case.compute(device));
            let result = match pairs {
                Ok(pairs) => judge(&pairs, tolerance(device)),
                Err(reason) => Outcome::Fail { reason },
            };
            tell(
                device,
                start,
                format_args!("golden/{} {result:?}", case.backbone),
            );
            GoldenTest {
                backbone: case.backbone,
                library: case.library,
                result,
            }
        })
        .collect()
}

impl Case {
    /// Computes the output and its gradients, each with the bundled values.
    fn compute(&self, device: &ComputeDevice) -> Result<Vec<Pair>, String> {
        let text = |e: peft_core::Error| e.to_string();
        let config: Box<dyn BackboneConfig> =
            serde_yaml::from_str(self.config).map_err(|e| e.to_string())?;
        let init = Init::empty(&device.device);
        let backbone = Plug::new(config.build(&init).map_err(text)?);
        let weights = Checkpoint::bundled("weights.safetensors", self.weights).map_err(text)?;
        let loaded = load_backbone(backbone, &weights, None).map_err(text)?;
        let values = Checkpoint::bundled("io.safetensors", self.values).map_err(text)?;
        let values = values.tensors().map_err(text)?;
        let value = |name: &str| -> Result<TensorData, String> {
            let found = values.get(name).cloned();
            found.ok_or_else(|| format!("the bundled values lack {name}"))
        };

        let backbone = loaded.backbone.train();
        let images = Tensor::<4>::from_data(value("images")?, &device.device);
        let images = Activation::Map(images).into_autodiff();
        let span = 0..backbone.spec().features_cut();
        let features = backbone.forward(images, span, &Hooks::none()).features();
        let features = features.ok_or("the backbone gave no features")?;
        let output = match loaded.head {
            Some(head) => LinearHead::from_checkpoint(head, &device.device)
                .train()
                .forward(features),
            None => features,
        };
        let mut pairs = vec![Pair {
            name: self.output.to_owned(),
            got: floats(output.clone().into_data()),
            expected: floats(value(self.output)?),
        }];
        if values.contains_key("loss_weights") {
            // A plain sum would give every output the same gradient, under which many errors
            // cancel.
            let factors = Tensor::<2>::from_data(value("loss_weights")?, &device.device);
            let loss = (output * Tensor::from_inner(factors)).sum();
            let gradients = GradientsParams::from_grads(loss.backward(), &backbone);
            pairs.extend(gradients_of(
                &params::gradients(&backbone, &gradients),
                &values,
            )?);
        }
        Ok(pairs)
    }
}

/// Pairs the bundled gradients of parameters with ours. That of the images is left out, because it
/// passes through those of the first layers.
fn gradients_of(ours: &Tensors, values: &Tensors) -> Result<Vec<Pair>, String> {
    let bundled = values
        .iter()
        .filter_map(|(name, data)| Some((name.strip_prefix("grad.")?, data)));
    bundled
        .filter(|(name, _)| *name != "images")
        .map(|(name, expected)| {
            let got = ours.get(name).cloned();
            let got = got.ok_or_else(|| format!("{name} has no gradient"))?;
            Ok(Pair {
                name: format!("gradient of {name}"),
                got: floats(got),
                expected: floats(expected.clone()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::compare::TOLERANCE;
    use super::*;

    #[test]
    fn every_bundled_model_agrees_with_its_library() {
        let tests = test(&ComputeDevice::cpu(), &|_| true);
        assert_eq!(tests.len(), CASES.len());
        for GoldenTest {
            backbone, result, ..
        } in tests
        {
            match result {
                Outcome::Pass { max_relative_error } => assert!(max_relative_error > 0.0),
                other => panic!("{backbone}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_wrong_gradient_is_found() {
        let vit = CASES.iter().find(|case| case.backbone == "vit").unwrap();
        let mut pairs = vit.compute(&ComputeDevice::cpu()).unwrap();
        let qkv = "gradient of blocks.1.attn.qkv.weight";
        let pair = pairs.iter_mut().find(|pair| pair.name == qkv).unwrap();
        pair.got.iter_mut().for_each(|value| *value *= 1.001);
        match judge(&pairs, TOLERANCE) {
            Outcome::Fail { reason } => assert!(reason.starts_with(qkv), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}
