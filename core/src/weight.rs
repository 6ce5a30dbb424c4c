//! Functions of a layer's weight, `W' = f(W; theta)`: applied, counted and folded once for all methods.
//!
//! A function is evaluated once in a forward pass, so that its cost depends on neither the number of
//! images nor that of positions. The layer then computes with `W'` as it does with its own weight, and
//! a merged model simply has `W'`.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::channels::replace_rows;

/// A function of the weight of a linear layer or a convolution.
pub struct WeightAct<'a> {
    /// The rows that it reads and replaces; all if absent.
    pub rows: Option<Range<usize>>,
    /// The new rows, given the old ones.
    ///
    /// # Shapes
    /// `[rows, columns] -> [rows, columns]` in f32. A kernel is flattened to `[out, in / groups * kh * kw]`.
    pub function: WeightFunction<'a>,
}

/// The type of [`WeightAct::function`].
pub type WeightFunction<'a> = Box<dyn Fn(Tensor<2>) -> Tensor<2> + 'a>;

/// A [`WeightAct`] as it acts in one forward pass.
pub(crate) struct WeightChange<'a> {
    /// The function.
    pub act: WeightAct<'a>,
    /// The strength of the change, from nothing (0) to all (1).
    pub strength: f64,
}

impl WeightChange<'_> {
    /// Returns `W + strength * (f(W) - W)`.
    pub(crate) fn of(&self, weight: Tensor<2>) -> Tensor<2> {
        let WeightAct { rows, function } = &self.act;
        replace_rows(weight, 0, rows.clone(), |own| match self.strength {
            1.0 => function(own),
            strength => function(own.clone()) * strength + own * (1.0 - strength),
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::params::floats;

    #[test]
    fn a_function_changes_its_rows_as_far_as_its_strength() {
        let weight = Tensor::<2>::from_data([[1., 2.], [3., 4.], [5., 6.]], &Device::flex());
        let changed = |rows: Option<Range<usize>>, strength: f64| {
            let function: WeightFunction = Box::new(|own| own * 3.0);
            let act = WeightAct { rows, function };
            floats(
                WeightChange { act, strength }
                    .of(weight.clone())
                    .into_data(),
            )
        };
        assert_eq!(changed(None, 1.0), [3., 6., 9., 12., 15., 18.]);
        assert_eq!(changed(Some(1..2), 1.0), [1., 2., 9., 12., 5., 6.]);
        assert_eq!(changed(Some(0..1), 0.5), [2., 4., 3., 4., 5., 6.]);
        assert_eq!(changed(Some(2..3), 0.0), [1., 2., 3., 4., 5., 6.]);
    }
}
