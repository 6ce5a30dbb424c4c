//! What can go wrong between a config or a path and a sample.

use std::path::PathBuf;

use peft_core::data::Split;

/// The failures of this crate. Each names its path, record or field, what was expected and what was
/// found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused; the message, from `fs-err`, names the operation and the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),

    /// An image in a data set that cannot be read.
    #[error("cannot read {image}: {source}")]
    Unread {
        /// The file, and where it is listed.
        image: String,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A file, or a part of one, that is not a complete image.
    #[error(
        "cannot decode {image}: expected a complete {}, got {got}",
        crate::kinds::KINDS
    )]
    Decode {
        /// The file, or the place inside of one.
        image: String,
        /// What it holds instead.
        got: String,
    },

    /// A file or folder that does not follow the format.
    #[error("unusable `{}`: expected {expected}, got {got}", path.display())]
    Layout {
        /// The folder or file at fault.
        path: PathBuf,
        /// What was expected.
        expected: String,
        /// What was found.
        got: String,
    },

    /// A line, a row or an entry that does not follow the format.
    #[error("bad record at {place}: expected {expected}, got {got}")]
    Record {
        /// The file and the line, row or entry.
        place: String,
        /// What was expected.
        expected: String,
        /// What was found.
        got: String,
    },

    /// An image, or a class, that is listed under two entries.
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
        /// The split.
        split: Split,
        /// The index asked for.
        index: usize,
        /// The number of samples in the split.
        len: usize,
    },

    /// A bundled file that does not match this program.
    #[error("damaged asset `{asset}`: expected {expected}, got {got}")]
    Asset {
        /// The file's name under `assets/`.
        asset: &'static str,
        /// What it should hold.
        expected: String,
        /// What it does hold.
        got: String,
    },
}

impl Error {
    /// A file or folder that does not follow the format.
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

    /// A record that does not follow the format.
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

    /// Refuses a config field that is not `ok`.
    pub(crate) fn check(
        field: &'static str,
        ok: bool,
        expected: &str,
        got: impl ToString,
    ) -> Result<(), Self> {
        match ok {
            true => Ok(()),
            false => Err(Self::invalid(field, expected, got)),
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
