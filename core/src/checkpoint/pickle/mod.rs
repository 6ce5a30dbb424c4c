//! A pickle machine that computes nothing: it builds plain data and refuses to call anything.
//!
//! PyTorch's checkpoints are pickles, and a pickle is a program that may name any Python function.
//! This machine knows the handful of names that rebuild tensors; everything else stays an inert
//! [`Value::Object`] and is listed. Protocols 0 to 5 as PyTorch writes them.
//!
//! Burn's `burn-store` reads such files too. This reader is our own because a file from a stranger
//! must be read exactly or be refused: strides are followed, a size that a file claims is held against
//! the bytes that are there, nesting costs no stack, an element type or an instruction that is not
//! known is an error instead of a default, TorchScript's archives are read, and what else a file names
//! can be shown before anybody trusts it.

mod calls;
mod machine;
mod op;
mod value;

use std::collections::BTreeSet;

pub use calls::SCRIPTED;
use machine::Machine;
use value::Kept;
pub use value::{Object, TensorRef, Value};

/// The result of a pickle.
pub struct Pickled {
    /// Its value.
    pub value: Value,
    /// Number of bytes that it took.
    pub taken: usize,
    /// The functions and classes that it names besides those of tensors; none of them was called.
    pub foreign: BTreeSet<String>,
    /// Declared after the value, so that it is dropped after it.
    _kept: Kept,
}

/// Runs one pickle.
///
/// # Errors
/// A line that says what is wrong with the pickle.
pub fn run(bytes: &[u8]) -> Result<Pickled, String> {
    let mut machine = Machine::new(bytes);
    let value = machine.run()?;
    Ok(Pickled {
        value,
        taken: machine.at,
        foreign: std::mem::take(&mut machine.foreign),
        _kept: std::mem::take(&mut machine.kept),
    })
}

#[cfg(test)]
mod tests;
