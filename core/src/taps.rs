//! The cuts at which the part of a model that trains reads its frozen prefix, and the values there.
//!
//! Most models have one: their first cut, where the prefix ends. A side network reads several, and makes the
//! features of them; its prefix is the whole backbone.

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};

use crate::activation::{Activation, BoundaryShape};
use crate::backbone::Backbone;
use crate::hooks::Hooks;
use crate::spec::Cut;

/// The cuts at which the part that trains reads its frozen prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taps {
    /// The cuts that are read, in the order of the forward pass. There is at least one.
    read: Vec<Cut>,
    /// The cut at which the part that trains takes over.
    end: Cut,
}

impl Taps {
    /// The single cut at which a prefix ends.
    pub fn at(cut: Cut) -> Self {
        Self {
            read: vec![cut],
            end: cut,
        }
    }

    /// The cuts that a side network reads; `end` is where the features are.
    pub(crate) fn of_side(mut read: Vec<Cut>, end: Cut) -> Self {
        read.sort_unstable();
        read.dedup();
        Self { read, end }
    }

    /// The cut at which the part that trains takes over: the end of the prefix.
    pub fn end(&self) -> Cut {
        self.end
    }

    /// The cuts that are read, in the order of the forward pass.
    pub fn read(&self) -> &[Cut] {
        &self.read
    }

    /// Whether a side network reads them, which takes over with the values at all of them.
    pub fn are_of_side(&self) -> bool {
        self.read != [self.end]
    }

    /// The first of them. The value at this cut, or at a lower one, is all that the rest of the model needs.
    pub fn first(&self) -> Cut {
        self.read[0]
    }

    /// Runs the frozen backbone from the value at cut `from` and returns what is tapped. Values that were
    /// tapped before, `from` being the end, are returned as they are.
    ///
    /// # Panics
    /// If `from` lies between the first tap and the end.
    pub fn tap(&self, backbone: &dyn Backbone, x: impl Into<Tapped>, from: Cut) -> Tapped {
        let x = x.into();
        if from == self.end && x.0.len() == self.read.len() {
            return x;
        }
        assert!(
            from <= self.first(),
            "expected the value at a cut up to {}, got that at {from}",
            self.first()
        );
        let (mut x, mut at) = (x.single(), from);
        let mut values = Vec::with_capacity(self.read.len());
        for &cut in &self.read {
            if at < cut {
                x = backbone.forward(x, at..cut, &Hooks::none());
                at = cut;
            }
            values.push(x.clone());
        }
        Tapped(values)
    }
}

/// The values at some [`Taps`], for a batch of images.
#[derive(Clone, Debug)]
pub struct Tapped(Vec<Activation>);

impl From<Activation> for Tapped {
    fn from(x: Activation) -> Self {
        Self(vec![x])
    }
}

impl FromIterator<Activation> for Tapped {
    /// The values at the taps in their order, at least one.
    fn from_iter<I: IntoIterator<Item = Activation>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Tapped {
    /// The value at each tap.
    pub fn into_values(self) -> Vec<Activation> {
        self.0
    }

    /// The only value.
    ///
    /// # Panics
    /// If there are several.
    pub fn single(mut self) -> Activation {
        match (self.0.pop(), self.0.len()) {
            (Some(x), 0) => x,
            (_, others) => panic!("expected the value at one cut, got {}", others + 1),
        }
    }

    fn each(self, f: impl Fn(Activation) -> Activation) -> Self {
        Self(self.0.into_iter().map(f).collect())
    }

    /// The batch size.
    pub fn batch(&self) -> usize {
        self.0[0].batch()
    }

    /// The device that the values live on.
    pub fn device(&self) -> Device {
        self.0[0].device()
    }

    /// The values of the images `rows` alone, on `device`.
    pub fn rows(self, rows: Range<usize>, device: &Device) -> Self {
        self.each(|x| x.rows(rows.clone(), device))
    }

    /// Returns the values with another element type.
    pub fn cast(self, dtype: DType) -> Self {
        self.each(|x| x.cast(dtype))
    }

    /// The values as constants on the autodiff device.
    pub fn into_autodiff(self) -> Self {
        self.each(Activation::into_autodiff)
    }

    /// Image by image the values at all taps, one tap after the other, in row-major order.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut values: Vec<_> = self.0.iter().map(Activation::to_vec).collect();
        if values.len() == 1 {
            return values.remove(0);
        }
        let batch = self.batch();
        let width = |values: &Vec<f32>| values.len() / batch;
        let mut rows = Vec::with_capacity(values.iter().map(Vec::len).sum());
        for image in 0..batch {
            for values in &values {
                let width = width(values);
                rows.extend_from_slice(&values[image * width..(image + 1) * width]);
            }
        }
        rows
    }
}

/// The shapes of the values at some [`Taps`], without the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct TappedShape(Vec<BoundaryShape>);

impl TappedShape {
    /// The shapes in the order of the taps.
    pub fn new(shapes: Vec<BoundaryShape>) -> Self {
        Self(shapes)
    }

    /// The shape at each tap.
    pub fn shapes(&self) -> &[BoundaryShape] {
        &self.0
    }

    /// Number of values per image.
    pub fn elements(&self) -> usize {
        self.0.iter().map(BoundaryShape::elements).sum()
    }

    /// Builds the values of a batch from a matrix with one image per row.
    ///
    /// # Shapes
    /// `[b, elements]`.
    pub fn of_rows(&self, rows: Tensor<2>) -> Tapped {
        let mut start = 0;
        let tap = |shape: &BoundaryShape| {
            let width = shape.elements();
            let own = match width == rows.dims()[1] {
                true => rows.clone(),
                false => rows.clone().narrow(1, start, width),
            };
            start += width;
            shape.of_rows(own)
        };
        Tapped(self.0.iter().map(tap).collect())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    #[test]
    fn values_of_several_taps_come_back_from_rows() {
        let device = Device::flex();
        let tokens = BoundaryShape::Tokens { count: 2, width: 3 };
        let map = BoundaryShape::Map {
            channels: 2,
            height: 1,
            width: 1,
        };
        for shapes in [vec![tokens], vec![tokens, map, tokens]] {
            let shape = TappedShape::new(shapes.clone());
            let count = 2 * shape.elements();
            let values: Vec<f32> = (0..count).map(|value| value as f32).collect();
            let matrix = TensorData::new(values.clone(), [2, shape.elements()]);
            let tapped = shape.of_rows(Tensor::from_data(matrix, &device));
            assert_eq!(tapped.batch(), 2);
            assert_eq!(tapped.to_vec(), values);
            let second = tapped.rows(1..2, &device).into_values();
            assert_eq!(second.len(), shapes.len());
            assert_eq!(second[0].to_vec(), values[shape.elements()..][..6]);
        }
    }
}
