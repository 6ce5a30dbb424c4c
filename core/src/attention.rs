//! Attention weights on request: a forward pass whose [`Hooks`](crate::hooks::Hooks) carry an [`AttentionRecord`] leaves the weights of its
//! blocks there. A pass without one computes and keeps nothing more than before.

use std::cell::RefCell;

use burn::tensor::Tensor;

/// The attention weights of blocks, in the order in which they ran.
#[derive(Debug, Default)]
pub struct AttentionRecord(RefCell<Vec<Attended>>);

/// The attention of one block to its tokens.
#[derive(Clone, Debug)]
pub struct Attended {
    /// The name of the branch, for example `blocks.0.attn`.
    pub branch: String,
    /// `[b, heads, n, n]`, softmax applied, a row for each query. With windows, `b` counts the windows of
    /// all images.
    pub weights: Tensor<4>,
    /// The values that the weights mix, `[b, heads, n, d / heads]`.
    pub values: Tensor<4>,
}

/// The places in the image of the tokens that a block attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionGrid {
    /// The number of tokens before those of the patches: class and register tokens.
    pub prefix: usize,
    /// Rows and columns of the patches, which are in row-major order; those of a window, if there are windows.
    pub grid: [usize; 2],
    /// Pixels between the centres of neighbouring patches.
    pub patch: usize,
    /// True if a token attends only to the tokens of its own window.
    pub windows: bool,
}

impl Attended {
    /// The mixed values, before the last projection.
    ///
    /// # Shapes
    /// `[b, n, d]`.
    pub fn mixed(&self) -> Tensor<3> {
        let [b, heads, n, width] = self.values.dims();
        let mixed = self.weights.clone().matmul(self.values.clone());
        mixed.swap_dims(1, 2).reshape([b, n, heads * width])
    }
}

impl AttentionRecord {
    /// Records the attention of one more block.
    pub(crate) fn add(&self, attended: Attended) {
        self.0.borrow_mut().push(attended);
    }

    /// Returns the attention of every block that ran since the last call.
    pub fn take(&self) -> Vec<Attended> {
        self.0.take()
    }
}
