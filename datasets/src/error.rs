//! What can go wrong between a config or a path and a sample.

use std::path::PathBuf;

use peft_core::data::Split;

/// Every failure of this crate; each names its path, record or field, what was expected and what
/// was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused; the message, from `fs-err`, names the operation and the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),

    /// An image that a data set lists and that cannot be read.
    #[error("cannot read {image}: {source}")]
    Unread {
        /// The file, and where it is listed.
        image: String,
        /// What the system said.
        source: std::io::Error,
    },

    /// Something that is there but is not a whole image.
    #[error(
        "cannot decode {image}: expected a complete {}, got {got}",
        crate::decode::KINDS
    )]
    Decode {
        /// The file, or the place inside of one.
        image: String,
        /// What it holds instead.
        got: String,
    },

    /// A file or folder that is not what the format says.
    #[error("unusable `{}`: expected {expected}, got {got}", path.display())]
    Layout {
        /// The folder or file at fault.
        path: PathBuf,
        /// What should be there.
        expected: String,
        /// What is there.
        got: String,
    },

    /// A line, a row or an entry that is not what the format says.
    #[error("bad record at {place}: expected {expected}, got {got}")]
    Record {
        /// The file and the line, row or entry.
        place: String,
        /// What should be there.
        expected: String,
        /// What is there.
        got: String,
    },

    /// One image under two entries.
    #[error("{image} is listed twice: at {first} and at {second}")]
    Twice {
        /// The file, or the place inside of one.
        image: String,
        /// Where it is listed.
        first: String,
        /// Where it is listed again.
        second: String,
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
}

impl Error {
    /// A file or folder that is not what the format says.
    pub(crate) fn layout(
        path: impl Into<PathBuf>,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self::Layout {
            path: path.into(),
            expected: expected.into(),
            got: got.into(),
        }
    }

    /// A record that is not what the format says.
    pub(crate) fn record(
        place: impl ToString,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self::Record {
            place: place.to_string(),
            expected: expected.into(),
            got: got.into(),
        }
    }

    /// A config field outside its range.
    pub(crate) fn invalid(
        field: &'static str,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self::Invalid {
            field,
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

impl From<Error> for peft_core::Error {
    fn from(error: Error) -> Self {
        Self::Data(error.to_string())
    }
}
