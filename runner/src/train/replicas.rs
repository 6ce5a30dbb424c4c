//! One trial on several devices: each computes the gradients of a part of every batch on a replica of the
//! model. They are added in the order of the devices, so that it does not matter which one is done first.

use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use peft_core::{BoxedBackbone, Model, Step, params};

use crate::data::batch::Batch;
use crate::device::ComputeDevice;
use crate::exit::{Failure, config_error};
use crate::train::slot::Slot;
use crate::train::step::{Images, Part, PhaseEnded, Stepper};

/// The devices beside that of the model that is trained.
pub struct Replicas(Vec<Replica>);

struct Replica {
    device: Device,
    /// What trains has the values of the last step, the rest never changes.
    model: Slot<Model>,
    prefix: Option<BoxedBackbone>,
}

impl Replicas {
    /// Replicas of a model that is trained.
    ///
    /// # Errors
    /// If a step of the model depends on the other images of its batch: its replicas would not compute what
    /// it computes alone.
    pub fn new(model: &Model, devices: &[ComputeDevice]) -> Result<Self, Failure> {
        if model.has_batch_statistics() {
            return Err(config_error(
                "--devices: expected one device, because the method trains BatchNorm layers, whose statistics \
                 are those of a whole batch; got several",
            ));
        }
        let replica = |device: &ComputeDevice| {
            // Moved without autodiff, which would record the move and train nothing.
            let model = model.valid().to_device(&device.device).train();
            Replica {
                device: device.device.clone(),
                prefix: Stepper::prefix_of(&model),
                model: Slot::new(model),
            }
        };
        Ok(Self(devices.iter().map(replica).collect()))
    }

    /// As [`Stepper::gradients`] of a whole batch, on all devices at once. `model` computes the first part of
    /// the batch, which is on its device.
    pub fn gradients(
        &mut self,
        stepper: &Stepper,
        model: &Model,
        number: u64,
        batch: Batch,
        part: Part,
        ended: PhaseEnded,
    ) -> (Tensor<1>, Step, GradientsParams) {
        if part.index == 0 {
            self.follow(model);
        }
        let of = batch.targets.len();
        let images = |rows: Range<usize>, device: &Device| Images {
            share: stepper.loss.share(&batch, rows.clone()),
            batch: batch.clone().rows(rows.clone(), device),
            rows,
            of,
        };
        let home = batch.x.device();
        let mut rows = split(of, self.0.len() + 1).into_iter();
        let own = images(rows.next().unwrap_or(0..of), &home);
        let share = own.share;
        let ((value, step, gradients), others) = thread::scope(|scope| {
            let running = self.0.iter().zip(rows).map(|(replica, rows)| {
                let images = images(rows, &replica.device);
                let share = images.share;
                let work = move || {
                    let (model, prefix) = (&*replica.model, replica.prefix.as_ref());
                    let (value, _, gradients) =
                        stepper.gradients(model, prefix, number, images, part, &mut |_| ());
                    (value * share, gradients)
                };
                (replica, scope.spawn(work))
            });
            let running: Vec<_> = running.collect();
            let prefix = stepper.prefix.as_ref();
            let own = stepper.gradients(model, prefix, number, own, part, ended);
            let others = running.into_iter().map(|(replica, thread)| {
                let done = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
                (replica, done)
            });
            (own, others.collect::<Vec<_>>())
        });
        let mut sums = GradientsAccumulator::new();
        sums.accumulate(model, gradients);
        let mut value = value * share;
        for (replica, (of_part, gradients)) in others {
            value = value + of_part.to_device(&home);
            sums.accumulate(model, gradients.to_device(&home, &*replica.model));
        }
        (value, step, sums.grads())
    }

    /// Gives the replicas the values of the trained model. They are few beside those that are frozen.
    fn follow(&mut self, model: &Model) {
        let trained = params::read(model, |info| model.trains(&info.name));
        for Replica { model, .. } in &mut self.0 {
            model.update(|model| match params::write(model, trained.clone()) {
                Ok(model) => model,
                Err(mismatch) => unreachable!("a replica has the names of its model: {mismatch:?}"),
            });
        }
    }
}

/// Splits images into at most `parts` parts, whose sizes differ by one image at most.
fn split(images: usize, parts: usize) -> Vec<Range<usize>> {
    let parts = parts.min(images).max(1);
    let start = |part: usize| images * part / parts;
    (0..parts)
        .map(|part| start(part)..start(part + 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};
    use peft_core::loss::CrossEntropy;
    use peft_core::params::floats;
    use peft_core::{Activation, AdaptationMethod};

    use super::*;
    use crate::config::recipe::Recipe;
    use crate::data::batch::Mixed;
    use crate::data::targets::Targets;
    use crate::selftest::step::assemble;
    use crate::train::loss::Loss;
    use crate::train::rates::Rates;

    const RECIPE: &str = "{optimizer: {name: adamw, lr: 0.01}, epochs: 1, batch_size: 5}";
    const VIT: &str =
        "{name: vit, img_size: 16, patch_size: 8, embed_dim: 16, depth: 2, num_heads: 2}";

    /// Five images with one label each or `many`, mixed with each other or not.
    fn batch(many: bool, mixed: bool) -> Batch {
        let device = Device::flex();
        let pixels = (0..5 * 3 * 16 * 16).map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0);
        let pixels = TensorData::new(pixels.collect::<Vec<f32>>(), [5, 3, 16, 16]);
        let labels = match many {
            false => Targets::One(vec![0, 1, 2, 3, 4]),
            true => Targets::Many(vec![vec![0, 3], vec![], vec![2], vec![1, 2, 3], vec![4]]),
        };
        Batch {
            x: Activation::Map(Tensor::from_data(pixels, &device)).into(),
            from: 0,
            groups: Vec::new(),
            places: vec![0, 1, 2, 3, 4],
            mixed: mixed.then(|| Mixed {
                lambda: vec![0.5, 0.7, 1.0, 0.7, 0.5],
                partners: labels.reversed(),
            }),
            targets: labels,
        }
    }

    #[test]
    fn gradients_are_those_of_one_device() {
        let weighted = Loss(CrossEntropy {
            smoothing: 0.1,
            weights: Some((1..=5).map(|class| class as f32 / 2.0).collect()),
        });
        assert_same(&Loss::default(), false, true);
        assert_same(&weighted, false, false);
        assert_same(&weighted, false, true);
        assert_same(&Loss::default(), true, false);
        assert_same(&Loss::default(), true, true);
    }

    /// Two to four devices compute the gradients of one.
    fn assert_same(loss: &Loss, many: bool, mixed: bool) {
        let method: Box<dyn AdaptationMethod> =
            serde_yaml::from_str("{name: lora, rank: 2, dropout: 0.3}").unwrap();
        let model = assemble(VIT, &[method], &Device::flex())
            .unwrap()
            .unwrap()
            .train();
        let recipe: Recipe = serde_yaml::from_str(RECIPE).unwrap();
        let stepper = Stepper {
            recipe: &recipe,
            loss,
            seed: 1,
            compute: DType::F32,
            prefix: Stepper::prefix_of(&model),
            rates: Rates::of(&model, &recipe.rates).unwrap(),
            selected: None,
        };
        let whole = Part { index: 0, of: 1 };
        let (images, prefix) = (Images::all(batch(many, mixed)), stepper.prefix.as_ref());
        let (loss, _, gradients) = stepper.gradients(&model, prefix, 3, images, whole, &mut |_| ());
        let expected = params::gradients(&model, &gradients);
        assert!(expected.len() > 2);
        for devices in 2..=4 {
            let others = vec![ComputeDevice::cpu(); devices - 1];
            let mut replicas = Replicas::new(&model, &others).unwrap();
            let (mean, _, gradients) =
                replicas.gradients(&stepper, &model, 3, batch(many, mixed), whole, &mut |_| ());
            let [mean, loss]: [f32; 2] = [mean, loss.clone()].map(Tensor::into_scalar);
            assert!((mean - loss).abs() < 1e-6, "{mean} and {loss}");
            let got = params::gradients(&model, &gradients);
            assert_eq!(got.len(), expected.len());
            for (name, gradient) in &expected {
                let (a, b) = (floats(got[name].clone()), floats(gradient.clone()));
                let largest = b.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                let off = a
                    .iter()
                    .zip(&b)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(
                    off <= 1e-6 * largest.max(1e-3),
                    "{name}: {off} of {largest}"
                );
            }
        }
    }

    #[test]
    fn every_image_is_in_one_part() {
        assert_eq!(split(10, 3), [0..3, 3..6, 6..10]);
        assert_eq!(split(2, 3), [0..1, 1..2]);
        assert_eq!(split(1, 1).first(), Some(&(0..1)));
    }
}
