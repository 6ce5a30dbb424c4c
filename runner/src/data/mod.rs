//! From a data set to batches on the device.

pub mod held_out;
pub mod loader;
pub mod on_device;
pub mod table;
