//! Initial values of parameters.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Shape, Tensor, TensorData};

use crate::random::{Distribution, Generator};

/// Device and seeded source of initial values; every tensor's values depend on the seed and its
/// own name only.
#[derive(Clone, Debug)]
pub struct Init {
    device: Device,
    seed: Option<u64>,
    scope: String,
}

impl Init {
    /// Random values from `seed`, on `device` without autodiff.
    pub fn seeded(device: &Device, seed: u64) -> Self {
        Self {
            device: device.clone(),
            seed: Some(seed),
            scope: String::new(),
        }
    }

    /// All zeros: for a model whose weights are loaded next.
    pub fn empty(device: &Device) -> Self {
        Self {
            device: device.clone(),
            seed: None,
            scope: String::new(),
        }
    }

    /// The same source for parameters of another owner: equal names there get other values.
    pub fn scoped(&self, scope: impl Into<String>) -> Self {
        Self {
            scope: scope.into(),
            ..self.clone()
        }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A tensor of initial values for the parameter called `name`.
    pub fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        distribution: Distribution,
    ) -> Tensor<D> {
        let zeros = || Tensor::zeros(shape, &self.device);
        let Some(seed) = self.seed else {
            return zeros();
        };
        let mut generator = Generator::new(seed, &format!("{}{name}", self.scope));
        let count = shape.iter().product();
        let mut draw = |f: &dyn Fn(&mut Generator) -> f32| {
            let values: Vec<f32> = (0..count).map(|_| f(&mut generator)).collect();
            Tensor::from_data(TensorData::new(values, Shape::from(shape)), &self.device)
        };
        match distribution {
            Distribution::Zeros => zeros(),
            Distribution::Ones => Tensor::ones(shape, &self.device),
            Distribution::Uniform(bound) => draw(&|g| g.uniform(-bound, bound)),
            Distribution::TruncatedNormal(std) => draw(&|g| g.truncated_normal(std)),
            Distribution::Normal(mean, std) => draw(&|g| mean + std * g.normal()),
        }
    }

    /// The same as a parameter.
    pub fn param<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        distribution: Distribution,
    ) -> Param<Tensor<D>> {
        match self.seed {
            Some(_) => Param::from_tensor(self.tensor(name, shape, distribution)),
            // No memory is taken until it is asked for or written.
            None => {
                let zeros = move |device: &Device, _| Tensor::zeros(shape, device);
                let device = self.device.clone();
                Param::uninitialized(ParamId::new(), zeros, device, true, shape.into())
            }
        }
    }
}
