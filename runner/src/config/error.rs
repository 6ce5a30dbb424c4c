//! The errors of configurations.

use peft_core::error::alternatives;

use crate::exit::{Exit, Failure};

/// What is wrong with a configuration: a YAML file, or `--set` on the command line. A [`Failure`]
/// holds it as its `error`, from which `downcast_ref` gets it back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Neither a file nor a shipped config has the name.
    #[error("{name}: no such file, and no shipped config of that name; {hint}")]
    NotFound {
        /// The name that was given.
        name: String,
        /// The nearest name, or all names.
        hint: String,
    },
    /// A file that the configuration names does not exist.
    #[error("{path}: no such file")]
    NoFile {
        /// The path as it was written.
        path: String,
    },
    /// A text is not valid YAML.
    #[error("{origin}: {message}")]
    Syntax {
        /// The file, or the argument of the command line.
        origin: String,
        /// The message of the parser, with line and column.
        message: String,
    },
    /// A value has another form than its place needs.
    #[error("{place}: expected {expected}")]
    Expected {
        /// The file, the field or the argument.
        place: String,
        /// The form, for example `a mapping`.
        expected: String,
    },
    /// A field is unknown or has a value of another type.
    #[error("{field}: {message}")]
    Field {
        /// The dotted path, behind the file if there are several.
        field: String,
        /// The message of the deserialiser.
        message: String,
    },
    /// A component is missing, or has no name.
    #[error("{field}: missing{hint}")]
    Missing {
        /// The dotted path, behind the file if there are several.
        field: String,
        /// The names that the component may have, for a message; may be empty.
        hint: String,
    },
    /// No plugin and no shipped file has the name.
    #[error("{field}: unknown name {name:?}{hint}")]
    UnknownName {
        /// The key of the component or the field.
        field: String,
        /// The name that was given.
        name: String,
        /// The nearest name as a question, and all names.
        hint: String,
    },
    /// Too many files extend each other.
    #[error("extends: {name}: more than {limit} files, or in a circle")]
    Circle {
        /// The last name that was looked up.
        name: String,
        /// The number of files that may extend each other.
        limit: usize,
    },
    /// A repository of the hub cannot be fetched.
    #[error("{name}: {url}: {message}")]
    Hub {
        /// The repository as a YAML names it.
        name: String,
        /// The address that was asked.
        url: String,
        /// Why the answer is of no use.
        message: String,
    },
    /// A repository of the hub is not in the local cache.
    #[error(
        "{name}: the local cache does not hold it, and {forbidden} forbids to fetch it; expected one of \
         {files} in {place}; where there is a connection, `hf download` of the repository leaves it \
         there, to be copied; the path of a file is another way"
    )]
    NotCached {
        /// The repository as a YAML names it.
        name: String,
        /// The option or variable that forbids fetching.
        forbidden: &'static str,
        /// The folder that would hold it.
        place: String,
        /// The names that its weights may have.
        files: String,
    },
}

impl ConfigError {
    /// A value at `place` that has another form than `expected`.
    pub fn expected(place: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Expected {
            place: place.into(),
            expected: expected.into(),
        }
    }

    /// An unknown `name` of `field`, with the nearest of the `known` ones.
    pub fn unknown_name(field: &str, name: &str, known: &[String]) -> Self {
        Self::UnknownName {
            field: field.to_owned(),
            name: name.to_owned(),
            hint: alternatives(name, known.iter().map(String::as_str)),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self {
            exit: Exit::Config,
            error: error.into(),
        }
    }
}
