//! Rotary position embeddings: the angles by which the places of patches rotate queries and keys.
//!
//! References: DINOv3 (Simeoni et al., 2025) and EVA-02 (Fang et al., 2023), as in timm's
//! `pos_embed_sincos.py`. The angles of a patch are those of its row, then those of its column, `w / 4` each
//! for heads of `w` channels. They are computed in `f64`, the tables are `f32`.

use std::f64::consts::TAU;

use peft_core::backbone::Facts;
use peft_core::error::{Error, Result};
use peft_ops::{Pairs, Rotation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The kind of a rotary position embedding, under timm's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RopeType {
    /// EVA-02's: places counted from the first patch, scaled to the grid of the pretraining; neighbouring
    /// channels are a pair.
    Cat,
    /// DINOv3's: the centres of patches between -1 and 1, along each axis by its own length; channel `c` and
    /// channel `c + w / 2` are a pair.
    Dinov3,
}

/// A rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Its kind.
    pub kind: RopeType,
    /// The ratio of the longest to the shortest period, more than 1.
    pub temperature: f64,
    /// Rows and columns of the grid that places are scaled to; the image's own if absent. Only for
    /// [`RopeType::Cat`].
    pub ref_feat_shape: Option<[usize; 2]>,
}

impl RopeType {
    /// The temperature of every published network.
    pub(crate) fn temperature(self) -> f64 {
        match self {
            Self::Cat => 10_000.0,
            Self::Dinov3 => 100.0,
        }
    }
}

impl Rope {
    /// Checks the temperature and the grid.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub(crate) fn check(&self) -> Result<()> {
        let Self {
            kind,
            temperature,
            ref_feat_shape,
        } = self;
        if !(*temperature > 1.0 && temperature.is_finite()) {
            let message = format!("expected a finite number above 1, got {temperature}");
            return Err(Error::config("rope_temperature", message));
        }
        match (kind, ref_feat_shape) {
            (RopeType::Dinov3, Some(_)) => {
                let message = "expected no value with rope_type dinov3, which scales to the image";
                Err(Error::config("ref_feat_shape", message))
            }
            (_, Some(shape)) if shape.contains(&0) => {
                let message = format!("expected at least 1 row and 1 column, got {shape:?}");
                Err(Error::config("ref_feat_shape", message))
            }
            _ => Ok(()),
        }
    }

    /// Epsilon of the norms of the networks that have this embedding.
    pub(crate) fn epsilon(&self) -> f64 {
        match self.kind {
            RopeType::Cat => 1e-6,
            RopeType::Dinov3 => 1e-5,
        }
    }

    /// Its facts, under the names of the configuration's fields.
    pub(crate) fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        facts.insert("rope_type".to_owned(), json!(self.kind));
        facts.insert("rope_temperature".to_owned(), json!(self.temperature));
        if let Some(shape) = self.ref_feat_shape {
            facts.insert("ref_feat_shape".to_owned(), json!(shape));
        }
        facts
    }

    /// The rotation of a grid of patches, row by row, behind `skipped` tokens that stay as they are; for heads
    /// of `channels`, a multiple of 4.
    pub(crate) fn rotation(
        &self,
        [rows, columns]: [usize; 2],
        skipped: usize,
        channels: usize,
    ) -> Rotation {
        let bands = channels / 4;
        // The k-th of `bands` periods is `temperature^(k / bands)`.
        let frequency = |k: usize| self.temperature.powf(-(k as f64) / bands as f64);
        let reference = self.ref_feat_shape.unwrap_or([rows, columns]);
        let place = |index: usize, count: usize, reference: usize| match self.kind {
            RopeType::Cat => index as f64 * reference as f64 / count as f64,
            RopeType::Dinov3 => TAU * (2.0 * (index as f64 + 0.5) / count as f64 - 1.0),
        };
        let mut angles = Vec::with_capacity(rows * columns * 2 * bands);
        for row in 0..rows {
            let y = place(row, rows, reference[0]);
            for column in 0..columns {
                let x = place(column, columns, reference[1]);
                let both = [y, x].into_iter();
                angles.extend(both.flat_map(|at| (0..bands).map(move |k| at * frequency(k))));
            }
        }
        let pairs = match self.kind {
            RopeType::Cat => Pairs::Neighbours,
            RopeType::Dinov3 => Pairs::Halves,
        };
        Rotation::new(pairs, skipped, 2 * bands, &angles)
    }
}
