//! A value that can be moved out of its place for the time of one call.

use std::ops::Deref;

/// Holds a value that [`update`](Self::update) replaces by a function of itself.
///
/// If that function panics, the slot is left empty while the panic unwinds. Whoever catches it must
/// drop the owner of the slot. In this way one trial of a comparison can fail without the others.
pub struct Slot<T>(Option<T>);

impl<T> Slot<T> {
    /// A slot that holds `value`.
    pub fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Replaces the value `x` by `next(x)`.
    pub fn update(&mut self, next: impl FnOnce(T) -> T) {
        self.0 = self.0.take().map(next);
    }

    /// Replaces the value `x` by `next(x)`.
    ///
    /// # Errors
    /// The error of `next`; the slot is empty afterwards.
    pub fn try_update<E>(&mut self, next: impl FnOnce(T) -> Result<T, E>) -> Result<(), E> {
        self.0 = self.0.take().map(next).transpose()?;
        Ok(())
    }
}

impl<T> Deref for Slot<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match &self.0 {
            Some(value) => value,
            None => unreachable!("a value whose update panicked or failed was used again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_in_an_update_unwinds() {
        let mut slot = Slot::new(1);
        slot.update(|value| value + 1);
        assert_eq!(*slot, 2);
        let update = AssertUnwindSafe(|| slot.update(|_| panic!("in a step")));
        assert!(catch_unwind(update).is_err());
    }
}
