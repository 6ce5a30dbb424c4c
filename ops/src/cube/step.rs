//! The factors of a step of AdamW.

/// The factors of a step.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "accelerator"),
    allow(dead_code, reason = "kernels read them")
)]
pub(crate) struct Step {
    /// Decay of the moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// What the moments are divided by.
    pub corrections: [f32; 2],
    /// The learning rate.
    pub lr: f32,
    /// What the parameter is multiplied by.
    pub decay: f32,
}
