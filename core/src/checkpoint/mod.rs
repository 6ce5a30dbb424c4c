//! Published checkpoints: safetensors (one file, or several with an index), PyTorch's `.pth`, `.pt` and
//! `.bin`, and NumPy's `.npz`.
//!
//! Files are mapped into memory and tensors are decoded one at a time. Nothing in a file is executed,
//! and every size that it claims is checked against the bytes that are there.

mod archive;
mod entry;
mod file;
mod load;
mod npz;
mod pickle;
mod prefix;
mod recognise;
mod safetensors;
mod sets;
pub(crate) mod shapes;
mod torch;

pub use file::Checkpoint;
pub use load::{CheckpointHead, Loaded, Survey, load_backbone};
pub use recognise::{Recognised, recognise};
pub use sets::WeightsSet;
pub use shapes::Shapes;
