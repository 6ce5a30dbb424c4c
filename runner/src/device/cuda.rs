//! What the first kernel on CUDA needs, beside a binary that has it, and where that is looked for.

use std::path::{Path, PathBuf};

/// Mathematical functions that are linked into kernels, below a toolkit's folder.
const LIBDEVICE: &str = "nvvm/libdevice/libdevice.10.bc";

/// Lists what the first kernel would lack, with the package that has it. CubeCL panics if the driver is
/// missing, or the mathematical functions that it links into every kernel, so both are checked first.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    // The device file is looked for because asking the driver would load it, which is what may fail.
    if !Path::new("/dev/nvidia0").exists() {
        missing.push("no NVIDIA device (/dev/nvidia0)".to_owned());
    }
    if !loadable("libcuda.so") {
        missing.push("libcuda.so is not found; NVIDIA's driver has it".to_owned());
    }
    let has_libdevice = |root: &PathBuf| root.join(LIBDEVICE).is_file();
    let roots = toolkits();
    if !roots.iter().any(has_libdevice) {
        let first = roots[0].join(LIBDEVICE);
        missing.push(format!(
            "{} is not found; a CUDA toolkit has it (set CUDA_PATH to its folder), and so has the Python package \
             nvidia-cuda-nvcc in the active environment",
            first.display()
        ));
    }
    missing
}

/// The toolkit in a Python wheel of the active environment, if CUDA_PATH is unset and no toolkit is
/// installed: CubeCL itself looks at neither.
pub fn toolkit_in_python() -> Option<PathBuf> {
    if std::env::var_os("CUDA_PATH").is_some() {
        return None;
    }
    let has_libdevice = |root: &PathBuf| root.join(LIBDEVICE).is_file();
    if toolkits().iter().any(has_libdevice) {
        return None;
    }
    let active = std::env::var_os("VIRTUAL_ENV").or_else(|| std::env::var_os("CONDA_PREFIX"))?;
    wheels(Path::new(&active)).into_iter().find(has_libdevice)
}

/// The folders of NVIDIA's wheels in an environment, sorted.
fn wheels(environment: &Path) -> Vec<PathBuf> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect()
    };
    let versions = below(&environment.join("lib")).into_iter();
    let mut wheels: Vec<PathBuf> = versions
        .flat_map(|python| below(&python.join("site-packages/nvidia")))
        .collect();
    wheels.sort();
    wheels
}

/// The folders where CubeCL looks for a toolkit.
fn toolkits() -> Vec<PathBuf> {
    match std::env::var_os("CUDA_PATH") {
        Some(root) => vec![root.into()],
        None => ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"]
            .map(PathBuf::from)
            .into(),
    }
}

/// Returns whether a library whose file name starts with `name` is where the dynamic loader looks:
/// in the folders of `LD_LIBRARY_PATH` or in the usual ones.
fn loadable(name: &str) -> bool {
    // The folders are searched instead of loading the library, so that nothing of the driver runs
    // unless the device is used.
    let from_env = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/nvidia/lib64",
        "/usr/lib/wsl/lib",
    ];
    std::env::split_paths(&from_env)
        .chain(usual.map(PathBuf::from))
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .filter_map(Result::ok)
        .any(|entry| entry.file_name().to_string_lossy().starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolkit_in_a_wheel_is_found() {
        let environment = tempfile::tempdir().unwrap();
        let packages = environment
            .path()
            .join("lib/python3.12/site-packages/nvidia");
        let nvcc = packages.join("cuda_nvcc");
        std::fs::create_dir_all(nvcc.join("nvvm/libdevice")).unwrap();
        std::fs::write(nvcc.join(LIBDEVICE), "").unwrap();
        std::fs::create_dir_all(packages.join("cublas")).unwrap();
        let found = wheels(environment.path());
        assert_eq!(found, [packages.join("cublas"), nvcc]);
        assert!(wheels(&packages).is_empty());
    }
}
