//! The errors of the contracts. Each is one line with the name, the shape, and what was expected.

use std::path::PathBuf;

/// An error of `peft-core`, of a backbone, of a method or of a data set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of a configuration has an invalid value.
    #[error("{field}: {message}")]
    Config {
        /// Dotted path of the field below its component, for example `rank`.
        field: String,
        /// The expected and the given value.
        message: String,
    },
    /// A method cannot be attached to this backbone.
    #[error("{method} cannot be attached to {backbone}: {reason}")]
    Unfit {
        /// The method's name.
        method: String,
        /// The backbone's name.
        backbone: String,
        /// The boundary or site that the backbone lacks.
        reason: String,
    },
    /// A boundary outside `0..=L+1`.
    #[error(
        "boundary {index} does not exist on {backbone}: expected 0..={last} (0 = the normalised \
         image, {last} = the output of the last block) or -{depth}..=-1 (counted from the end)"
    )]
    Boundary {
        /// The requested index.
        index: i64,
        /// The backbone's name.
        backbone: String,
        /// The last boundary, `L+1`.
        last: usize,
        /// The number of blocks, `L`.
        depth: usize,
    },
    /// A name that matches no site.
    #[error("target {target:?} matches no site of {backbone}; the sites are: {sites}")]
    Target {
        /// The target as written.
        target: String,
        /// The backbone's name.
        backbone: String,
        /// All sites that could have matched.
        sites: String,
    },
    /// Two plugins have the same name.
    #[error("two {kind} plugins are named {name:?}: one in crate {first}, one in crate {second}")]
    Duplicate {
        /// `method`, `backbone` or `dataset`.
        kind: &'static str,
        /// Their name.
        name: String,
        /// The crate of the first.
        first: String,
        /// The crate of the second.
        second: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The content of a file is not as expected.
    #[error("{path}: {message}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The expected and the found content.
        message: String,
    },
    /// Weights and model do not fit each other.
    #[error("{path}: {message}", path = path.display())]
    Weights {
        /// The weights file.
        path: PathBuf,
        /// The names that only the file has, and those that only the model has.
        message: String,
    },
    /// A data set cannot be opened or one of its records is bad.
    #[error("{0}")]
    Data(String),
    /// A layout does not know a name.
    #[error("{layout} has no {what} {name}; it knows {known}")]
    Layout {
        /// The library.
        layout: &'static str,
        /// The kind of name.
        what: &'static str,
        /// The name.
        name: String,
        /// Both spellings of every name that it knows.
        known: String,
    },
    /// A trained model cannot be merged or scaled.
    #[error("cannot {what}: {reason}")]
    Unfoldable {
        /// `merge` or `scale`.
        what: &'static str,
        /// The act that has no exact equivalent, and why it has none.
        reason: String,
    },
    /// Two adapters, or an adapter and the backbone's own parameters, contradict each other.
    #[error("{0}")]
    Conflict(String),
}

impl Error {
    /// Makes an error about the value of `field`.
    pub fn config(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Config {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Returns the same error for another field; errors that are not about a field stay as they
    /// are.
    pub fn at(self, field: impl Into<String>) -> Self {
        match self {
            Self::Config { message, .. } => Self::config(field, message),
            other => other,
        }
    }

    /// Makes an error about the content of a file.
    pub fn file(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::File {
            path: path.into(),
            message: message.into(),
        }
    }

    /// Makes an error of the operating system at a path.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Returns the one of `names` that is nearest to `wanted`, for a "did you mean": its
/// Damerau-Levenshtein distance is at most a third of the length of `wanted`, or two.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wanted.chars().count() / 3).max(2);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Returns the end of a message about an unknown name: the nearest of the `known` ones as a question
/// if one is near, and all of them.
pub fn alternatives<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let near = nearest(wanted, known.iter().copied());
    let question = near.map_or(String::new(), |near| format!(" did you mean {near:?}?"));
    format!(";{question} there are: {}", known.join(", "))
}

/// Lists the first `limit` of `names`, separated by commas, and how many more there are.
pub fn listed<S: AsRef<str>>(names: &[S], limit: usize) -> String {
    let shown: Vec<_> = names.iter().take(limit).map(AsRef::as_ref).collect();
    match names.len().checked_sub(limit) {
        Some(rest) if rest > 0 => format!("{} and {rest} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        assert_eq!(nearest("lroa", ["ap", "lora", "vpt"]), Some("lora"));
        assert_eq!(nearest("quantum", ["ap", "lora", "vpt"]), None);
    }

    #[test]
    fn long_lists_are_cut_with_a_count() {
        assert_eq!(listed(&["a", "b", "c"], 2), "a, b and 1 more");
        assert_eq!(listed(&["a", "b"], 2), "a, b");
    }
}
