//! Published checkpoints: safetensors (one file, or several with an index), PyTorch's `.pth`, `.pt` and
//! `.bin`, and NumPy's `.npz`.
//!
//! Files are mapped into memory and tensors are decoded one at a time. Nothing in a file is executed,
//! and every size that it claims is checked against the bytes that are there.

mod archive;
mod entry;
mod file;
mod head;
mod load;
mod npz;
mod pickle;
mod prefix;
mod reading;
mod recognise;
mod safetensors;
mod sets;
pub(crate) mod shapes;
mod survey;
mod torch;

pub use file::Checkpoint;
pub use head::CheckpointHead;
pub use load::{Loaded, load_backbone};
pub(crate) use prefix::{WRAPPERS, prefixes, unwrapped};
pub use recognise::{Recognised, foreign, recognise};
pub use sets::WeightsSet;
pub use shapes::Shapes;
pub use survey::Survey;
