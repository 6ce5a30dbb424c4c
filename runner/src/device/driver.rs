//! The versions of the drivers of this machine.

/// The versions of the drivers in the kernel. One that is a library, such as Mesa's, is known by the
/// kernel's version only.
pub fn driver() -> String {
    let files = [
        ("nvidia", "/sys/module/nvidia/version"),
        ("amdgpu", "/sys/module/amdgpu/version"),
        ("kernel", "/proc/sys/kernel/osrelease"),
    ];
    let versions = files.into_iter().filter_map(|(name, file)| {
        let version = std::fs::read_to_string(file).ok()?;
        Some(format!("{name} {}", version.trim()))
    });
    versions.collect::<Vec<_>>().join(", ")
}
