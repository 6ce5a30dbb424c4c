//! From a data set to batches on the device.

pub mod batch;
pub mod held_out;
pub mod images;
pub mod lanes;
pub mod loader;
pub mod on_device;
pub mod random;
pub mod rows;
pub mod subset;
pub mod table;
pub mod targets;
