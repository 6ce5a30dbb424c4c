//! The entries of tuned parameters that train, where a method selects some by their gradients.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use peft_core::Model;
use peft_core::params::{self, Tensors, floats};

use crate::train::values::values;

/// Masks of the tuned parameters: 1 where an entry trains, else 0.
pub struct Selected {
    /// `[n]` by identity, the entries in row-major order.
    masks: BTreeMap<ParamId, Tensor<1>>,
}

impl Selected {
    /// The masks of a model, from those of [`chosen`], on a plain device.
    pub fn new(model: &Model, masks: &Tensors, device: &Device) -> Self {
        let infos = params::infos(model).into_iter();
        let masks = infos.filter_map(|info| {
            let mask = floats(masks.get(&info.name)?.clone());
            Some((info.id, Tensor::from_data(&mask[..], device)))
        });
        Self {
            masks: masks.collect(),
        }
    }

    /// The gradients, zero where an entry does not train.
    pub fn masked(&self, model: &Model, gradients: GradientsParams) -> GradientsParams {
        struct Mask<'a>(&'a BTreeMap<ParamId, Tensor<1>>, GradientsParams);
        impl ModuleVisitor for Mask<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(mask) = self.0.get(&param.id)
                    && let Some(gradient) = self.1.remove::<D>(param.id)
                {
                    let mask = mask.clone().reshape(gradient.shape());
                    self.1.register(param.id, gradient * mask);
                }
            }
        }
        let mut mask = Mask(&self.masks, gradients);
        model.visit(&mut mask);
        mask.1
    }

    /// The model after a step with the values before it in the entries that do not train: weight decay changes
    /// entries without a gradient too.
    pub fn kept(&self, before: &Model, after: Model) -> Model {
        struct Keep<'a>(&'a BTreeMap<ParamId, Tensor<1>>, GradientsParams);
        impl ModuleMapper for Keep<'_> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let (Some(mask), Some(before)) =
                    (self.0.get(&param.id), self.1.remove::<D>(param.id))
                else {
                    return param;
                };
                let frozen = mask.clone().reshape(before.shape()).equal_elem(0.0);
                param.map(|after| {
                    let autodiff = after.is_autodiff();
                    let kept = after.without_autodiff().mask_where(frozen, before);
                    match autodiff {
                        true => Tensor::from_inner(kept).require_grad(),
                        false => kept,
                    }
                })
            }
        }
        let before = values(before, |id| self.masks.contains_key(&id));
        after.map(&mut Keep(&self.masks, before))
    }
}

/// Masks, by name, of the `entries` entries with the largest absolute gradients; of equal ones the first by name and
/// index.
///
/// # Errors
/// If a gradient is not finite, or fewer entries have one that is not zero.
pub fn chosen(gradients: &Tensors, entries: usize) -> Result<Tensors, String> {
    let all = gradients.values().flat_map(|data| floats(data.clone()));
    let mut sizes: Vec<f32> = all.map(f32::abs).collect();
    if sizes.iter().any(|size| !size.is_finite()) {
        return Err("a gradient is not finite before the first step".to_owned());
    }
    let count = sizes.len();
    let Some(place) = entries.checked_sub(1).filter(|place| *place < count) else {
        return Err(format!("expected 1 to {count} entries, got {entries}"));
    };
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let (_, least, _) = sizes.select_nth_unstable_by(place, descending);
    let least = *least;
    if least == 0.0 {
        let moving = sizes.iter().filter(|size| **size > 0.0).count();
        return Err(format!(
            "{entries} entries are to be selected, and the gradients of only {moving} are not zero"
        ));
    }
    // Entries with the smallest gradient of those that are chosen may be more than there is room for.
    let larger = sizes.iter().filter(|size| **size > least).count();
    let mut room = entries - larger;
    let mask = |(name, data): (&String, &TensorData)| {
        let mask = floats(data.clone()).into_iter().map(|gradient| {
            let size = gradient.abs();
            let tie = size == least && room > 0;
            room -= usize::from(tie);
            u8::from(size > least || tie)
        });
        let mask: Vec<u8> = mask.collect();
        (name.clone(), TensorData::new(mask, data.shape().clone()))
    };
    Ok(gradients.iter().map(mask).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradients() -> Tensors {
        let data = |values: Vec<f32>| {
            let count = values.len();
            TensorData::new(values, [count])
        };
        Tensors::from([
            ("a".to_owned(), data(vec![0.5, -3.0, 0.0])),
            ("b".to_owned(), data(vec![-0.5, 2.0, 0.5])),
        ])
    }

    #[test]
    fn the_largest_are_chosen_and_of_equal_ones_the_first() {
        let masks = |entries| {
            let masks = chosen(&gradients(), entries).unwrap().into_values();
            masks.flat_map(floats).collect::<Vec<f32>>()
        };
        assert_eq!(masks(1), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(masks(3), [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(masks(4), [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
        let error = chosen(&gradients(), 6).unwrap_err();
        assert!(error.contains("of only 5 are not zero"), "{error}");
        assert!(chosen(&gradients(), 7).is_err());
    }
}
