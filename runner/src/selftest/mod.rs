//! Tests of a device, none of which compares it with itself: each operation of `peft-ops` against its
//! formula ([`operations`]), tiny models against values of other libraries ([`golden`]), one training step
//! of every method on every backbone against the same step in `f64` on the operations of Burn
//! ([`methods`]), and one of every kind of trained parameter ([`kinds`]).

pub mod compare;
pub mod golden;
pub mod guard;
pub mod kinds;
pub mod methods;
pub mod operations;
pub mod step;
