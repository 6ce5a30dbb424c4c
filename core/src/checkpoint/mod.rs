//! Checkpoints as they are published: safetensors (one file, or several with an index), PyTorch's
//! `.pth`, `.pt` and `.bin`, NumPy's `.npz`.
//!
//! Files are mapped into memory and tensors decoded one at a time. Nothing in a file is run, and
//! every size that it claims is held against the bytes that are there.

mod entry;
mod file;
mod load;
mod npz;
mod pickle;
mod recognise;
mod safetensors;
pub(crate) mod shapes;
mod torch;

pub use file::Checkpoint;
pub use load::{CheckpointHead, Loaded, Survey, load_backbone};
pub use recognise::{Recognised, recognise};
pub use shapes::Shapes;
