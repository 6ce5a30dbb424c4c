//! Where the values of a checkpoint's tensors are stored, and how they are decoded.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::TensorData;
use half::{bf16, f16};

/// The location of a tensor's values.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    /// Strides in elements.
    pub(super) strides: Vec<usize>,
    /// Index of the first element.
    pub(super) offset: usize,
    pub(super) bytes: Bytes,
}

/// A range of bytes of a file, or bytes that were decompressed from it.
#[derive(Clone, Debug)]
pub(super) enum Bytes {
    In(Range<usize>),
    Own(Arc<[u8]>),
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 16-bit brain float.
    BF16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// Byte.
    U8,
    /// Truth value, a byte.
    Bool,
}

impl Element {
    /// Bytes per element.
    pub(super) fn width(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

impl Entry {
    pub(super) fn data(&self, file: &[u8]) -> TensorData {
        let bytes = self.bytes.of(file);
        let floats = match self.element {
            Element::F64 => self.decode(bytes, |b| f64::from_le_bytes(b) as f32),
            Element::F32 => self.decode(bytes, f32::from_le_bytes),
            Element::F16 => self.decode(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Element::BF16 => self.decode(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            _ => {
                let integers = match self.element {
                    Element::I64 => self.decode(bytes, i64::from_le_bytes),
                    Element::I32 => self.decode(bytes, |b| i64::from(i32::from_le_bytes(b))),
                    Element::I16 => self.decode(bytes, |b| i64::from(i16::from_le_bytes(b))),
                    Element::I8 => self.decode(bytes, |b| i64::from(i8::from_le_bytes(b))),
                    _ => self.decode(bytes, |b| i64::from(u8::from_le_bytes(b))),
                };
                return TensorData::new(integers, self.shape.clone());
            }
        };
        TensorData::new(floats, self.shape.clone())
    }

    /// The values in double precision.
    pub(super) fn doubles(&self, file: &[u8]) -> Vec<f64> {
        match self.element {
            Element::F64 => self.decode(self.bytes.of(file), f64::from_le_bytes),
            _ => self.data(file).iter::<f64>().collect(),
        }
    }

    fn decode<const N: usize, T>(&self, bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (elements, _) = bytes.as_chunks::<N>();
        let count = self.shape.iter().product::<usize>();
        // Strides of axes of size 1 are arbitrary; they do not matter.
        let mut dense = 1;
        let contiguous = self.shape.iter().zip(&self.strides).rev().all(|(n, s)| {
            let fits = *n == 1 || *s == dense;
            dense *= n;
            fits
        });
        if contiguous {
            let own = elements.iter().skip(self.offset).take(count);
            return own.map(|element| value(*element)).collect();
        }
        // A view, such as a transposed matrix: count through the index like an odometer.
        let mut index = vec![0; self.shape.len()];
        (0..count)
            .map(|_| {
                let steps = index.iter().zip(&self.strides);
                let at = self.offset + steps.map(|(i, stride)| i * stride).sum::<usize>();
                for axis in (0..index.len()).rev() {
                    index[axis] += 1;
                    if index[axis] < self.shape[axis] {
                        break;
                    }
                    index[axis] = 0;
                }
                value(elements[at])
            })
            .collect()
    }
}

impl Bytes {
    pub(super) fn of<'a>(&'a self, file: &'a [u8]) -> &'a [u8] {
        match self {
            Self::In(range) => &file[Range::clone(range)],
            Self::Own(bytes) => bytes,
        }
    }

    /// Where they begin in memory or in the file: the same for the parts of one storage.
    pub(super) fn place(&self) -> (bool, usize) {
        match self {
            Self::In(range) => (true, range.start),
            Self::Own(bytes) => (false, bytes.as_ptr().addr()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::In(range) => range.len(),
            Self::Own(bytes) => bytes.len(),
        }
    }
}
