//! What can go wrong between a config or a path and a sample.

use std::path::PathBuf;

use peft_core::data::Split;

/// Every failure of this crate; each names its path or field, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused; the message, from `fs-err`, names the operation and the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),

    /// A file that is there but is not a whole image.
    #[error("cannot decode `{path}`: expected a complete png, jpeg, webp or bmp image, got {got}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        got: String,
    },

    /// A config field, or an argument, outside its range.
    #[error("invalid `{field}`: expected {expected}, got {got}")]
    Invalid {
        /// The field's name in the config.
        field: &'static str,
        /// Its range, with the unit.
        expected: String,
        /// The value.
        got: String,
    },

    /// A sample past the end of its split.
    #[error("no sample {index} in the {split} split: expected an index below {len}")]
    Index {
        /// The split asked.
        split: Split,
        /// The index asked for.
        index: usize,
        /// Samples in that split.
        len: usize,
    },

    /// A bundled file that is not what this crate was built for.
    #[error("damaged asset `{asset}`: expected {expected}, got {got}")]
    Asset {
        /// The file's name under `assets/`.
        asset: &'static str,
        /// What its description promises.
        expected: String,
        /// What it holds.
        got: String,
    },

    /// An image folder that does not have the documented layout.
    #[error("unusable image folder `{path}`: expected {expected}, got {got}")]
    Layout {
        /// The folder or file at fault.
        path: PathBuf,
        /// What should be there.
        expected: String,
        /// What is there.
        got: String,
    },
}

impl From<Error> for peft_core::Error {
    fn from(error: Error) -> Self {
        Self::Data(error.to_string())
    }
}
