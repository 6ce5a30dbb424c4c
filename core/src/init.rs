//! Initial values of parameters.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Shape, Tensor, TensorData};

use crate::random::{Distribution, Generator};

/// A device and a seeded source of initial values. The values of a tensor depend only on the seed and
/// on its name.
#[derive(Clone, Debug)]
pub struct Init {
    device: Device,
    seed: Option<u64>,
    scope: String,
}

impl Init {
    /// A source of random values from `seed`, on `device` without autodiff.
    pub fn seeded(device: &Device, seed: u64) -> Self {
        Self {
            device: device.clone(),
            seed: Some(seed),
            scope: String::new(),
        }
    }

    /// A source of zeros, for a model whose weights are loaded next.
    pub fn empty(device: &Device) -> Self {
        Self {
            device: device.clone(),
            seed: None,
            scope: String::new(),
        }
    }

    /// Returns the same source for the parameters of another owner, whose equal names get other
    /// values.
    pub fn scoped(&self, scope: impl Into<String>) -> Self {
        Self {
            scope: scope.into(),
            ..self.clone()
        }
    }

    /// Returns whether every value that it gives is zero.
    pub fn is_empty(&self) -> bool {
        self.seed.is_none()
    }

    /// The seed; 0 for a source of zeros.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A tensor of initial values for the parameter called `name`.
    ///
    /// # Shapes
    /// `-> shape`.
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
        // Each name has a generator of its own, so that adding a parameter does not change the
        // values of the others.
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

    /// Like [`tensor`](Self::tensor), as a parameter.
    ///
    /// # Shapes
    /// `-> shape`.
    pub fn param<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        distribution: Distribution,
    ) -> Param<Tensor<D>> {
        match self.seed {
            Some(_) => Param::from_tensor(self.tensor(name, shape, distribution)),
            // Nothing is allocated until the value is read or written, because weights are loaded
            // next.
            None => {
                let zeros = move |device: &Device, _| Tensor::zeros(shape, device);
                let device = self.device.clone();
                Param::uninitialized(ParamId::new(), zeros, device, true, shape.into())
            }
        }
    }
}
