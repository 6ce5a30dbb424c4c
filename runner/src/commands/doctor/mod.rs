//! `runner doctor`: versions, devices, a numeric self-test of each device, its matrix-product peak.
//!
//! The tests are those of [`crate::selftest`].

mod print;
mod report;

use burn::tensor::DType;
use clap::Args;

use self::report::{Accelerator, DeviceReport, Peak, Report};
use crate::cli::args::{Format, PlaceArgs};
use crate::commands::on_pool;
use crate::commands::print::json;
use crate::device::{ComputeDevice, DeviceChoice, Kind, answering};
use crate::exit::{Exit, Failure, failure};
use crate::measure::peak;
use crate::run::folder::BURN;
use crate::selftest::compare::tolerance;
use crate::selftest::guard::guarded;
use crate::selftest::{golden, kinds, methods, operations};

/// Print versions and devices, and test the numbers and the speed of each device.
///
/// Operations are compared with their formulas, tiny models with values of other libraries, and one
/// training step of every method on every backbone with the same step in 64 bits by Burn's own
/// operations. The speed is that of the fastest matrix product.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner doctor --device cpu --only vit/lora")]
pub struct DoctorArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Only the tests whose name contains this text, such as ops/gelu, golden/swin, vit/lora,
    /// kinds/resnet or peak/f32. A GPU compiles and tunes a kernel at its first use, so all tests together take
    /// minutes there.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub only: String,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// Runs the tests and prints the report.
///
/// # Errors
/// If a test fails, after the report was printed.
pub fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    // `auto` tests every device: the CPU, and then the others beside it.
    let auto = args.place.device == DeviceChoice::Auto;
    let mut first = args.place.clone();
    if auto {
        first.device = DeviceChoice::Cpu;
    }
    on_pool(&first, |chosen| {
        let mut devices = vec![chosen];
        let mut accelerators = Vec::new();
        for kind in Kind::ALL {
            let found = answering(kind);
            accelerators.push(Accelerator {
                kind: kind.name(),
                missing: found.as_ref().err().cloned(),
            });
            // WebGPU finds the devices of the other kinds again.
            if auto && kind != Kind::Wgpu {
                let found = found.into_iter().flatten();
                let found = found.filter(|answer| !answer.software);
                devices.extend(found.map(|answer| answer.device));
            }
        }
        let report = Report {
            runner: env!("CARGO_PKG_VERSION"),
            burn: BURN,
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            cpu_features: cpu_features(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            threads: rayon::current_num_threads(),
            accelerators,
            devices: devices
                .iter()
                .map(|device| examine(device, &args.only))
                .collect(),
        };
        match args.format {
            Format::Text => print::print(&report),
            Format::Json => json(&report)?,
        }
        let failed = report.failed();
        if failed.is_empty() {
            return Ok(());
        }
        let message = format_args!("the self-test failed: {}", failed.join(", "));
        Err(failure(Exit::Unexpected, message))
    })
}

/// Lists the vector instructions that this processor has.
fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        for (name, there) in [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ] {
            found.extend(there.then_some(name));
        }
    }
    #[cfg(target_arch = "aarch64")]
    found.extend(std::arch::is_aarch64_feature_detected!("neon").then_some("neon"));
    found
}

/// Runs the tests of one device whose names contain `only`.
fn examine(device: &ComputeDevice, only: &str) -> DeviceReport {
    let wanted = |name: String| name.contains(only);
    DeviceReport {
        name: device.name.clone(),
        tolerance: tolerance(device),
        operations: operations::test(device, &|name| wanted(format!("ops/{name}"))),
        golden: golden::test(device, &|backbone| wanted(format!("golden/{backbone}"))),
        methods: methods::test(device, &|backbone, method| {
            wanted(format!("{backbone}/{method}"))
        }),
        kinds: kinds::test(device, &|family| wanted(format!("kinds/{family}"))),
        kinds_tolerance: kinds::allowed(device),
        peaks: peaks(device, &|dtype| wanted(format!("peak/{dtype}"))),
    }
}

/// Measures the peak in every element type that the device computes in.
fn peaks(device: &ComputeDevice, wanted: &dyn Fn(&str) -> bool) -> Vec<Peak> {
    let types = [("f32", DType::F32), ("bf16", DType::BF16)].into_iter();
    let types = types.filter(|(name, dtype)| {
        let supported = *dtype == DType::F32 || device.device.supports_dtype(*dtype);
        supported && wanted(name)
    });
    types
        .map(|(name, dtype)| {
            // A type that the device reports as supported may still lack a kernel, which panics.
            let speed = guarded(|| peak::matmul(device, dtype));
            Peak {
                dtype: name,
                gflops: speed.as_ref().ok().copied(),
                error: speed.err(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burns_version_is_the_pinned_one() {
        let manifest = include_str!("../../../../Cargo.toml");
        let pinned = format!("burn = {{ version = \"={BURN}\"");
        assert!(manifest.contains(&pinned), "{BURN}");
    }
}
