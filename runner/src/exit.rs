//! The exit codes of the program, and failures that carry one.

use std::any::Any;
use std::fmt::{self, Display, Formatter};

/// The exit codes of `runner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything that was asked for is done.
    Done = 0,
    /// Something unexpected: a bug, a full disk, a file that went away.
    Unexpected = 1,
    /// The configuration or the command line is wrong; nothing was started.
    Config = 2,
    /// The loss is not finite; the last good checkpoint is kept.
    Diverged = 3,
    /// Some of several trials failed.
    SomeFailed = 4,
    /// Interrupted; running the same command again resumes the work.
    Interrupted = 75,
}

/// The reason why a command, or a call of the library, failed.
#[derive(Debug)]
pub struct Failure {
    /// The kind of failure: the exit code of the program.
    pub exit: Exit,
    /// The message, with the places where it was found in its context.
    pub error: anyhow::Error,
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// Puts the place where the failure was found in front of the message.
    pub fn within(self, place: &str) -> Self {
        Self {
            error: self.error.context(place.to_owned()),
            ..self
        }
    }

    /// A signal ended the work early, and everything that is needed to resume it is on disk.
    pub fn interrupted() -> Self {
        failure(
            Exit::Interrupted,
            "interrupted; run the same command to go on",
        )
    }
}

/// Adds to an error where in the configuration or on the command line it lies.
pub trait At<T> {
    /// Returns the value, or a failure with [`Exit::Config`] and the message `place: error`.
    ///
    /// # Errors
    /// The failure described above.
    fn at(self, place: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> At<T> for Result<T, E> {
    fn at(self, place: impl Display) -> Result<T, Failure> {
        self.map_err(|error| config_error(format_args!("{place}: {error}")))
    }
}

/// Makes a failure with [`Exit::Config`] and a message.
///
/// The message is text wherever one place in the code makes the error and nothing needs to tell it
/// from others: a person reads the message, and a program the exit code. Errors that a
/// configuration causes in several places are a [`ConfigError`](crate::ConfigError).
pub fn config_error(message: impl Display) -> Failure {
    failure(Exit::Config, message)
}

/// Makes a failure with an exit code and a message.
pub fn failure(exit: Exit, message: impl Display) -> Failure {
    Failure {
        exit,
        error: anyhow::anyhow!("{message}"),
    }
}

/// The message of a panic that was caught.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    // The payload of `panic!` is a `&str` for a literal and a `String` for a formatted message.
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic")
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            exit: Exit::Unexpected,
            error,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        anyhow::Error::new(error).into()
    }
}

impl From<peft_core::Error> for Failure {
    fn from(error: peft_core::Error) -> Self {
        let exit = match error {
            // A file that cannot be read may be readable later. Everything else contradicts the
            // configuration, and trying again does not help.
            peft_core::Error::Io { .. } => Exit::Unexpected,
            _ => Exit::Config,
        };
        Self {
            exit,
            error: error.into(),
        }
    }
}
