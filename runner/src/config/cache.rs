//! The options of the prefix cache: where it stores its rows, and in which type.

use half::{bf16, f16};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The place where the outputs of the frozen prefix are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// In memory if it fits in the budget, else on disk if it fits there, else nowhere.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// In memory, within the budget.
    Memory,
    /// On the device that trains, within the budget; resized pixels in memory.
    Device,
    /// In memory-mapped files, which later runs use again.
    Disk,
}

/// The type that a value is stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// Unchanged.
    F32,
    /// Rounded to 11 significant bits: an error of at most 2^-11 of each value, and 2^-25 near 0;
    /// values above 65,504 become infinite.
    F16,
    /// Rounded to 8 significant bits: an error of at most 2^-8 of each value.
    Bf16,
}

impl ValueType {
    /// Bytes per value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Replaces `row` by the bytes of `values`, little endian.
    pub fn write(self, values: &[f32], row: &mut Vec<u8>) {
        row.clear();
        match self {
            Self::F32 => row.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Self::F16 => row.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
            Self::Bf16 => row.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
        }
    }

    /// Decodes a row of as many values as `out` has.
    pub fn read(self, row: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => decode(row, out, f32::from_le_bytes),
            Self::F16 => decode(row, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16 => decode(row, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        }
    }
}

fn decode<const N: usize>(row: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(row.as_chunks().0) {
        *out = value(*bytes);
    }
}
