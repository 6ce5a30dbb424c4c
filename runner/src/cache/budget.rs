//! Budgets: how many bytes of rows the cache may store.

/// The default budget of a folder of files.
pub const DISK_BUDGET: usize = 16 << 30;

/// The default budget of a device's memory.
pub const DEVICE_BUDGET: usize = 8 << 30;

/// Returns the reason why `bytes` of rows are not stored.
pub fn too_much(bytes: usize, budget: usize) -> String {
    let (bytes, budget) = (mebibytes(bytes), mebibytes(budget));
    format!("{bytes} exceed the budget of {budget}")
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
