//! The step of the optimiser: learning rates of single parameters, those without weight decay, and the clipping
//! of gradients.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use peft_core::error::{Error, Result, listed};
use peft_core::{Model, Targets, params};

use crate::config::recipe::Decays;
use crate::train::optimizers::Optimizers;

/// Factors of the learning rate by parameter. Parameters that are not listed have the factor 1.
pub struct Rates(BTreeMap<ParamId, f64>);

impl Rates {
    /// The factors of the methods, times those of the recipe by pattern.
    ///
    /// # Errors
    /// [`Error::Config`] for a pattern that is invalid or matches nothing that trains.
    pub fn of(model: &Model, patterns: &BTreeMap<String, f64>) -> Result<Self> {
        let mut infos = params::infos(model);
        infos.retain(|info| model.trains(&info.name));
        let names: Vec<&str> = infos.iter().map(|info| info.name.as_str()).collect();
        let mut rates: Vec<f64> = names.iter().map(|name| model.rate(name)).collect();
        for (pattern, factor) in patterns {
            let field = format!("recipe.rates.{pattern}");
            let matched = Targets::Regex(pattern.clone()).matching(&names);
            let matched = matched.map_err(|e| e.at(&field))?;
            if matched.is_empty() {
                let message = format!("matches nothing that trains: {}", listed(&names, 12));
                return Err(Error::config(field, message));
            }
            let of_matched = names.iter().zip(&mut rates);
            let of_matched = of_matched.filter(|(name, _)| matched.contains(name));
            of_matched.for_each(|(_, rate)| *rate *= factor);
        }
        let rates = infos.iter().map(|info| info.id).zip(rates);
        Ok(Self(rates.filter(|(_, rate)| *rate != 1.0).collect()))
    }

    /// Takes one step of the optimiser in which every parameter has its own learning rate. Weight
    /// decay of AdamW follows the learning rate, as in the parameter groups of PyTorch.
    pub fn step(
        &self,
        optimizer: &mut Optimizers,
        lr: f64,
        model: Model,
        gradients: GradientsParams,
    ) -> Model {
        if self.0.is_empty() {
            return optimizer.step(lr, model, gradients);
        }
        // The optimiser changes only parameters that have a gradient, so one call per factor makes
        // up one step.
        let groups = self.split(&model, gradients);
        groups.into_iter().fold(model, |model, (rate, gradients)| {
            optimizer.step(lr * rate, model, gradients)
        })
    }

    /// Groups the gradients by the factor of their parameter.
    fn split(&self, model: &Model, gradients: GradientsParams) -> Vec<(f64, GradientsParams)> {
        struct Split<'a> {
            rates: &'a BTreeMap<ParamId, f64>,
            gradients: GradientsParams,
            groups: Vec<(f64, GradientsParams)>,
        }
        impl ModuleVisitor for Split<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let Some(gradient) = self.gradients.remove::<D>(param.id) else {
                    return;
                };
                let rate = self.rates.get(&param.id).copied().unwrap_or(1.0);
                let same = self.groups.iter().position(|(other, _)| *other == rate);
                let at = same.unwrap_or_else(|| {
                    self.groups.push((rate, GradientsParams::new()));
                    self.groups.len() - 1
                });
                self.groups[at].1.register(param.id, gradient);
            }
        }
        let mut split = Split {
            rates: &self.0,
            gradients,
            groups: Vec::new(),
        };
        model.visit(&mut split);
        split.groups
    }
}

/// The parameters that train and that weight decay spares.
pub fn spared(model: &Model, decays: Decays) -> Vec<ParamId> {
    let infos = params::infos(model).into_iter();
    let spared = |info: &params::ParamInfo| model.trains(&info.name) && !model.decays(info);
    match decays {
        Decays::Everything => Vec::new(),
        Decays::Matrices => infos.filter(spared).map(|info| info.id).collect(),
    }
}

/// Scales all gradients down together, on the device, if their Euclidean norm is above `limit`
/// (Pascanu et al. 2013).
pub fn clip_norm(model: &Model, gradients: GradientsParams, limit: f64) -> GradientsParams {
    struct Squares<'a>(&'a GradientsParams, Option<Tensor<1>>);
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                let square = gradient.square().sum();
                self.1 = Some(match self.1.take() {
                    Some(sum) => sum + square,
                    None => square,
                });
            }
        }
    }
    struct Scale(GradientsParams, Tensor<1>);
    impl ModuleVisitor for Scale {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                let scaled = gradient * self.1.clone().reshape([1; D]);
                self.0.register(param.id, scaled);
            }
        }
    }
    // The norm stays on the device: reading it would make every step wait for the queue.
    let mut squares = Squares(&gradients, None);
    model.visit(&mut squares);
    let Some(sum) = squares.1 else {
        return gradients;
    };
    // PyTorch's `clip_grad_norm_` adds 1e-6 to the norm as well.
    let factor = (sum.sqrt() + 1e-6).recip().mul_scalar(limit).clamp_max(1.0);
    let mut scale = Scale(gradients, factor);
    model.visit(&mut scale);
    scale.0
}

#[cfg(test)]
mod tests {
    use burn::optim::SgdConfig;
    use burn::tensor::{Device, Int};
    use peft_core::Activation;
    use peft_core::backbone::{BackboneConfig, Init};
    use peft_core::loss::cross_entropy;
    use peft_core::method::AdaptationMethod;
    use peft_core::params::floats;
    use peft_core::{LinearHead, Plug};

    use super::*;

    fn model(method: &str) -> Model {
        let backbone =
            "{name: vit, img_size: 32, patch_size: 16, embed_dim: 8, depth: 2, num_heads: 2}";
        let backbone: Box<dyn BackboneConfig> = serde_yaml::from_str(backbone).unwrap();
        let method: Box<dyn AdaptationMethod> = serde_yaml::from_str(method).unwrap();
        let init = Init::seeded(&Device::flex(), 4);
        let head = LinearHead::new(8, 3, &init);
        let backbone = Plug::new(backbone.build(&init).unwrap());
        Model::assemble(backbone, &[method], head, &init).unwrap()
    }

    /// What one step of plain gradient descent changes, by name.
    fn change(method: &str) -> BTreeMap<String, Vec<f32>> {
        let model = model(method);
        let values = |model: &Model| params::read(model, |info| model.trains(&info.name));
        let before = values(&model);
        let rates = Rates::of(&model, &BTreeMap::new()).unwrap();
        let model = model.train();
        let device = Device::flex();
        let images = Tensor::<1, Int>::arange(0..2 * 3 * 32 * 32, &device).float();
        let images = images.reshape([2, 3, 32, 32]).sin();
        let x = Activation::Map(images).into_autodiff();
        let logits = model.logits(x, 0, Some(&model.step(0, 0, 0)));
        let labels = Tensor::from_data([0, 2], &device.autodiff());
        let gradients = cross_entropy(logits, labels, 0.0).backward();
        let gradients = GradientsParams::from_grads(gradients, &model);
        let model = rates.step(&mut SgdConfig::new().init().into(), 1.0, model, gradients);
        let after = values(&model.valid());
        let difference = |(name, after): (String, _)| {
            let before = floats(before[&name].clone());
            let pairs = floats(after).into_iter().zip(before);
            (name, pairs.map(|(a, b)| a - b).collect())
        };
        after.into_iter().map(difference).collect()
    }

    #[test]
    fn factors_of_the_recipe_multiply_those_of_the_method() {
        let model = model("{name: lora, b_rate: 4.0}");
        let of = |patterns: &[(&str, f64)]| {
            let patterns = patterns
                .iter()
                .map(|(name, factor)| ((*name).to_owned(), *factor));
            Rates::of(&model, &patterns.collect())
        };
        let rates = of(&[(r"head\..*", 10.0), (r".*\.blocks\.1\..*", 0.5)]).unwrap();
        let infos = params::infos(&model).into_iter();
        let named: BTreeMap<_, _> = infos
            .filter_map(|info| Some((info.name, *rates.0.get(&info.id)?)))
            .collect();
        assert_eq!(named["head.weight"], 10.0);
        assert_eq!(named["lora.blocks.0.attn.qkv.lora_B.weight"], 4.0);
        assert_eq!(named["lora.blocks.1.attn.qkv.lora_A.weight"], 0.5);
        assert_eq!(named["lora.blocks.1.attn.qkv.lora_B.weight"], 2.0);
        assert_eq!(named.len(), 5);
        let error = of(&[("blocks", 2.0)]).err().unwrap().to_string();
        assert!(
            error.starts_with("recipe.rates.blocks: matches nothing that trains: "),
            "{error}"
        );
    }

    #[test]
    fn a_step_is_as_large_as_its_factor() {
        let whole = change("{name: full-finetune}");
        let decayed = change("{name: full-finetune, layer_decay: 0.5}");
        let rates = model("{name: full-finetune, layer_decay: 0.5}");
        let mut seen = Vec::new();
        for (name, whole) in &whole {
            let rate = rates.rate(name) as f32;
            let largest = whole.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!(largest > 0.0, "{name} does not move");
            for (got, whole) in decayed[name].iter().zip(whole) {
                // Both differences are rounded where the parameter lies, around 1.
                assert!(
                    (got - rate * whole).abs() <= 2e-6 + 1e-5 * largest,
                    "{name}"
                );
            }
            seen.push(rate);
        }
        seen.sort_by(f32::total_cmp);
        seen.dedup();
        assert_eq!(seen, [0.125, 0.25, 0.5, 1.0]);
    }
}
