//! Whether a disk has room for what is about to be fetched.

use std::path::Path;

use super::progress::bytes;

/// Refuses to begin what cannot fit.
///
/// # Errors
/// If the file system of `folder` has fewer than `needed` bytes left. Where the system does not say
/// how many it has, writing will.
pub fn check(folder: &Path, needed: u64) -> Result<(), String> {
    match left(folder) {
        Some(left) if left < needed => Err(format!(
            "{}: expected room for {}, got {}",
            folder.display(),
            bytes(needed),
            bytes(left)
        )),
        _ => Ok(()),
    }
}

/// The bytes that a program without special rights may still write below a folder.
#[cfg(unix)]
fn left(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero, and the struct has the size that the call fills.
    let failed = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0;
    if failed {
        return None;
    }
    // SAFETY: the call succeeded, so that every field is set.
    let found = unsafe { found.assume_init() };
    // The types of the fields differ between systems.
    #[allow(clippy::unnecessary_cast, reason = "they are u64 on Linux only")]
    Some((found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
}

#[cfg(not(unix))]
fn left(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_disk_holds_is_refused_before_it_is_begun() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), 1).unwrap();
        if cfg!(unix) {
            let message = check(folder.path(), u64::MAX).unwrap_err();
            assert!(message.contains("expected room for"), "{message}");
        }
    }
}
