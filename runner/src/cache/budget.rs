//! How many bytes of rows are kept.

/// Of a folder of files, where no budget is given.
pub const DISK_BUDGET: usize = 16 << 30;

/// Of the device's memory, where no budget is given.
pub const DEVICE_BUDGET: usize = 8 << 30;

/// Why rows of so many bytes are not kept.
pub fn too_much(bytes: usize, budget: usize) -> String {
    let (bytes, budget) = (mebibytes(bytes), mebibytes(budget));
    format!("{bytes} are more than the budget of {budget}")
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Bytes that the system can still give, of the machine or of the group that it is limited to.
pub fn available_memory() -> usize {
    const FALLBACK: usize = 8 << 30;
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let meminfo = read("/proc/meminfo").and_then(|text| {
        let line = text
            .lines()
            .find(|line| line.starts_with("MemAvailable:"))?;
        let kibibytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kibibytes << 10)
    });
    let number = |path: &str| read(path)?.trim().parse::<usize>().ok();
    let limit = number("/sys/fs/cgroup/memory.max");
    let used = number("/sys/fs/cgroup/memory.current");
    let group = limit
        .zip(used)
        .map(|(limit, used)| limit.saturating_sub(used));
    match (meminfo, group) {
        (Some(machine), Some(group)) => machine.min(group),
        (one, other) => one.or(other).unwrap_or(FALLBACK),
    }
}
