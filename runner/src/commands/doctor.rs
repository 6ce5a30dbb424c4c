//! `runner doctor`: versions, devices, a numeric self-test of each device, its matrix-product peak.
//!
//! The self-test takes every operation of `peft-ops` against its formula, and every registered method on micro models: logits and gradients of one step
//! on the device against the CPU. On the CPU the forward run as one span is held against the
//! forward cut at every boundary, and everything must be finite.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use clap::Args;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use peft_core::loss::cross_entropy;
use peft_core::params::{self, floats};
use peft_core::random::Generator;
use peft_core::registry::{PluginKind, plugins};
use peft_core::{
    Activation, AdaptationMethod, BackboneConfig, BoundaryShape, Init, LinearHead, Model, Plug,
};
use serde::Serialize;

use crate::cli::args::{Format, PlaceArgs};
use crate::commands::on_pool;
use crate::device::{self, Chosen, DeviceChoice};
use crate::exit::{Exit, Failure, failure};
use crate::measure::peak;
use crate::run::folder::BURN;

/// Largest relative error of f32 that passes on the CPU.
const TOLERANCE: f32 = 1e-4;
/// Elsewhere: Burn multiplies f32 matrices in TF32 on tensor cores, whose 10 bits of mantissa leave
/// 5e-4 of each product.
const TOLERANCE_TF32: f32 = 1e-2;
const CLASSES: usize = 5;
const IMAGES: usize = 2;

/// Micro models by the name of their plugin; one that is not linked is left out.
const MICRO: [(&str, &str); 4] = [
    (
        "vit",
        "{name: vit, img_size: 16, patch_size: 4, embed_dim: 16, depth: 4, num_heads: 2}",
    ),
    (
        "resnet",
        "{name: resnet, img_size: 32, block: basic, layers: [1, 1, 1, 1], channels: [4, 8, 8, 8]}",
    ),
    (
        "clip",
        "{name: clip, img_size: 16, patch_size: 4, embed_dim: 16, depth: 4, num_heads: 2}",
    ),
    (
        "swin",
        "{name: swin, img_size: 36, patch_size: 4, embed_dim: 8, depths: [2, 2], num_heads: [2, 4], \
         window_size: 4}",
    ),
];

/// Print versions and devices, test each device's numbers, and measure its matrix-product peak.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner doctor --device cpu --only vit/lora")]
pub struct DoctorArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Only the tests whose name holds this text, such as ops/gelu, vit/lora or peak/f32. Kernels are
    /// compiled and tuned at their first use, so that all tests together take minutes on a GPU.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub only: String,
    /// How to print.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// Everything that is printed.
#[derive(Serialize)]
struct Report {
    runner: &'static str,
    burn: &'static str,
    os: &'static str,
    arch: &'static str,
    cpu_features: Vec<&'static str>,
    cpus: usize,
    threads: usize,
    cuda: Cuda,
    devices: Vec<DeviceReport>,
}

/// Whether CUDA can be used.
#[derive(Serialize)]
struct Cuda {
    built_in: bool,
    missing: Vec<String>,
}

/// What was found out about a device.
#[derive(Serialize)]
struct DeviceReport {
    name: String,
    tolerance: f32,
    operations: Operations,
    tests: Vec<Test>,
    peaks: Vec<Peak>,
}

/// The operations of `peft-ops`, or the panic that ended them.
#[derive(Serialize)]
struct Operations {
    checks: Vec<OperationTest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// An operation against its formula.
#[derive(Serialize)]
struct OperationTest {
    operation: &'static str,
    dtype: String,
    passed: bool,
    relative_error: f64,
    allowed: f64,
}

/// A method on a micro model.
#[derive(Serialize)]
struct Test {
    backbone: &'static str,
    method: &'static str,
    #[serde(flatten)]
    result: Outcome,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
enum Outcome {
    /// Within the tolerance.
    Pass { max_relative_error: f32 },
    /// Beyond it, not finite, or a panic.
    Fail { reason: String },
    /// The method does not act on this backbone.
    Refused { reason: String },
}

/// The fastest matrix product.
#[derive(Serialize)]
struct Peak {
    dtype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    gflops: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Looks, runs the tests whose name holds `only`, and prints; fails if a test does.
pub fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let DoctorArgs {
        place,
        only,
        format,
    } = args;
    let mut first = place.clone();
    if place.device == DeviceChoice::Auto {
        first.device = DeviceChoice::Cpu;
    }
    on_pool(&first, |chosen| {
        let mut devices = vec![chosen];
        if place.device == DeviceChoice::Auto {
            let answers = |index| device::choose(DeviceChoice::Cuda(index)).ok();
            devices.extend((0..).map_while(answers));
        }
        let report = Report {
            runner: env!("CARGO_PKG_VERSION"),
            burn: BURN,
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            cpu_features: cpu_features(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            threads: rayon::current_num_threads(),
            cuda: Cuda {
                built_in: cfg!(feature = "cuda"),
                missing: device::missing(),
            },
            devices: devices.iter().map(|device| examine(device, only)).collect(),
        };
        match format {
            Format::Text => print(&report),
            Format::Json => {
                let json = serde_json::to_string_pretty(&report)
                    .map_err(|e| failure(Exit::Unexpected, e))?;
                println!("{json}");
            }
        }
        let failed = report.failed();
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failure(
                Exit::Unexpected,
                format_args!("the self-test failed: {}", failed.join(", ")),
            )),
        }
    })
}

impl Report {
    /// `device method/backbone` of every test that failed.
    fn failed(&self) -> Vec<String> {
        let mut failed = Vec::new();
        for device in &self.devices {
            let operations = &device.operations;
            let of_device = |name: &str| format!("{} {name}", device.name);
            failed.extend(operations.error.iter().map(|_| of_device("operations")));
            let checks = operations.checks.iter().filter(|check| !check.passed);
            failed.extend(checks.map(|check| of_device(check.operation)));
            for test in &device.tests {
                if matches!(test.result, Outcome::Fail { .. }) {
                    failed.push(format!("{} {}/{}", device.name, test.method, test.backbone));
                }
            }
        }
        failed
    }
}

/// The vector instructions that this processor has.
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

fn examine(device: &Chosen, only: &str) -> DeviceReport {
    let wanted = |name: String| name.contains(only);
    let operations = operations(device, &|name| wanted(format!("ops/{name}")));
    let tests = tests(device, &|backbone, method| {
        wanted(format!("{backbone}/{method}"))
    });
    let types = [("f32", DType::F32), ("bf16", DType::BF16)].into_iter();
    let types = types.filter(|(name, dtype)| {
        let there = *dtype == DType::F32 || device.device.supports_dtype(*dtype);
        there && wanted(format!("peak/{name}"))
    });
    let peak = |(dtype, of)| {
        let speed = guarded(|| peak::matmul(device, of));
        Peak {
            dtype,
            gflops: speed.as_ref().ok().copied(),
            error: speed.err(),
        }
    };
    DeviceReport {
        name: device.name.clone(),
        tolerance: tolerance(device),
        operations,
        tests,
        peaks: types.map(peak).collect(),
    }
}

fn tolerance(device: &Chosen) -> f32 {
    match device.is_cpu() {
        true => TOLERANCE,
        false => TOLERANCE_TF32,
    }
}

/// Says on stderr that a test has ended, where tests take long: on a GPU kernels are compiled.
fn say(device: &Chosen, start: Instant, what: std::fmt::Arguments) {
    if !device.is_cpu() {
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{}: {what} ({seconds:.1} s)", device.name);
    }
}

/// The wanted operations of `peft-ops`.
fn operations(device: &Chosen, wanted: &dyn Fn(&str) -> bool) -> Operations {
    let mut operations = Operations {
        checks: Vec::new(),
        error: None,
    };
    let mut checks = peft_ops::check(&device.device, wanted);
    loop {
        let start = Instant::now();
        match guarded(|| Ok(checks.next())) {
            Ok(Some(check)) => {
                let error = check.error;
                say(
                    device,
                    start,
                    format_args!("ops/{} {error:.1e}", check.operation),
                );
                operations.checks.push(OperationTest {
                    operation: check.operation,
                    dtype: format!("{:?}", check.dtype).to_lowercase(),
                    passed: check.passed(),
                    relative_error: check.error,
                    allowed: check.allowed,
                });
            }
            Ok(None) => return operations,
            Err(error) => {
                operations.error = Some(error);
                return operations;
            }
        }
    }
}

/// The wanted methods on every micro model whose backbone is linked.
fn tests(device: &Chosen, wanted: &dyn Fn(&str, &str) -> bool) -> Vec<Test> {
    let linked = plugins(PluginKind::Backbone);
    let micro = MICRO
        .iter()
        .filter(|(name, _)| linked.iter().any(|plugin| plugin.name == *name));
    let mut tests = Vec::new();
    for (backbone, yaml) in micro {
        let methods = plugins(PluginKind::Method).into_iter();
        for method in methods.filter(|method| wanted(backbone, method.name)) {
            let start = Instant::now();
            let result = guarded(|| test(yaml, method.example, device));
            let result = result.unwrap_or_else(|reason| Outcome::Fail { reason });
            say(
                device,
                start,
                format_args!("{backbone}/{} {result:?}", method.name),
            );
            tests.push(Test {
                backbone,
                method: method.name,
                result,
            });
        }
    }
    tests
}

/// A panic, as a kernel that cannot be compiled raises one, is a result too.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let message = |payload: Box<dyn Any + Send>| {
        let text = payload.downcast_ref::<String>().cloned();
        text.or_else(|| {
            payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
        })
        .unwrap_or_else(|| "a panic".to_owned())
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(message(payload)))
}

/// One method on one micro model.
fn test(backbone: &str, method: &str, device: &Chosen) -> Result<Outcome, String> {
    let model = match assemble(backbone, method, &Device::flex())? {
        Ok(model) => model,
        Err(reason) => return Ok(Outcome::Refused { reason }),
    };
    let pairs = match device.is_cpu() {
        true => cuts(&model),
        false => {
            let other = assemble(backbone, method, &device.device)??;
            let (got, expected) = (
                one_step(other, &device.device),
                one_step(model, &Device::flex()),
            );
            pair(got, expected)?
        }
    };
    Ok(judge(&pairs, tolerance(device)))
}

/// The model, or why the method refuses the backbone.
fn assemble(
    backbone: &str,
    method: &str,
    device: &Device,
) -> Result<Result<Model, String>, String> {
    let backbone: Box<dyn BackboneConfig> =
        serde_yaml::from_str(backbone).map_err(|e| e.to_string())?;
    let method: Box<dyn AdaptationMethod> =
        serde_yaml::from_str(method).map_err(|e| e.to_string())?;
    let init = Init::seeded(device, 0);
    let backbone = Plug::new(backbone.build(&init).map_err(|e| e.to_string())?);
    let head = LinearHead::new(backbone.spec().features, CLASSES, &init);
    match Model::assemble(backbone, &[method], head, &init) {
        Ok(model) => shaken(model).map(Ok),
        Err(e) => Ok(Err(e.to_string())),
    }
}

/// The model with noise on what trains: prompts and low-rank factors that start at zero would hide
/// an error.
fn shaken(model: Model) -> Result<Model, String> {
    let shake = |(name, data): (String, TensorData)| {
        let mut generator = Generator::new(0, &name);
        let shape = data.shape().clone();
        let values = floats(data).into_iter();
        let values: Vec<f32> = values
            .map(|value| value + 0.02 * generator.normal())
            .collect();
        (name, TensorData::new(values, shape))
    };
    let trained = params::read(&model, |info| model.trains(&info.name));
    let trained = trained.into_iter().map(shake).collect();
    params::write(model, trained).map_err(|mismatch| format!("{mismatch:?}"))
}

/// Random images `[b, 3, h, w]`, the same on every device.
fn images(model: &Model, device: &Device) -> Tensor<4> {
    let BoundaryShape::Map {
        channels,
        height,
        width,
    } = model.spec().boundaries[0].shape
    else {
        panic!("boundary 0 is no image");
    };
    let mut generator = Generator::new(0, "doctor");
    let count = IMAGES * channels * height * width;
    let values: Vec<f32> = (0..count).map(|_| generator.normal()).collect();
    let data = TensorData::new(values, [IMAGES, channels, height, width]);
    Tensor::from_data(data, device)
}

/// Values by name.
type Named = Vec<(String, Vec<f32>)>;

/// Logits and all gradients of one training step.
fn one_step(model: Model, device: &Device) -> Named {
    let model = model.train();
    let x = Activation::Map(images(&model, device)).into_autodiff();
    let step = model.step(0, 0, 0);
    let logits = model.logits(x, 0, Some(&step));
    let labels: Vec<i64> = (0..IMAGES as i64).collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [IMAGES]), device);
    let loss = cross_entropy(logits.clone(), Tensor::from_inner(labels), 0.0);
    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    let gradients = params::gradients(&model, &gradients).into_iter();
    let mut values = vec![("logits".to_owned(), floats(logits.into_data()))];
    values.extend(gradients.map(|(name, data)| (format!("gradient of {name}"), floats(data))));
    values
}

/// A tensor's name, what a device computed, what was expected.
struct Pair {
    name: String,
    got: Vec<f32>,
    expected: Vec<f32>,
}

fn pair(got: Named, expected: Named) -> Result<Vec<Pair>, String> {
    let names = |values: &Named| {
        values
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    if names(&got) != names(&expected) {
        return Err("other parameters have gradients than on the CPU".to_owned());
    }
    let pairs = got.into_iter().zip(expected);
    Ok(pairs
        .map(|((name, got), (_, expected))| Pair {
            name,
            got,
            expected,
        })
        .collect())
}

/// The forward in two parts against the forward in one, for each cut; and a step, for its being
/// finite.
fn cuts(model: &Model) -> Vec<Pair> {
    let device = Device::flex();
    let x = Activation::Map(images(model, &device));
    let whole = floats(model.logits(x.clone(), 0, None).into_data());
    let mut pairs: Vec<_> = (1..=model.spec().features_cut())
        .map(|cut| {
            let below = model.span(x.clone(), 0..cut, None);
            Pair {
                name: format!("logits cut at {cut}"),
                got: floats(model.logits(below, cut, None).into_data()),
                expected: whole.clone(),
            }
        })
        .collect();
    pairs.extend(
        one_step(model.clone(), &device)
            .into_iter()
            .map(|(name, values)| Pair {
                name,
                got: values.clone(),
                expected: values,
            }),
    );
    pairs
}

/// The largest error of a tensor over its largest value; a tensor far smaller than the largest one
/// is rounding noise and is held against a thousandth of that.
fn judge(pairs: &[Pair], tolerance: f32) -> Outcome {
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let floor = pairs
        .iter()
        .map(|pair| largest(&pair.expected))
        .fold(0.0, f32::max)
        * 1e-3;
    let mut worst = (0.0f32, "");
    for Pair {
        name,
        got,
        expected,
    } in pairs
    {
        if got.len() != expected.len() {
            let reason = format!(
                "{name}: expected {} values, got {}",
                expected.len(),
                got.len()
            );
            return Outcome::Fail { reason };
        }
        if !got.iter().chain(expected).all(|value| value.is_finite()) {
            let reason = format!("{name}: not finite");
            return Outcome::Fail { reason };
        }
        let difference: Vec<f32> = got.iter().zip(expected).map(|(a, b)| a - b).collect();
        let error = largest(&difference) / largest(expected).max(floor).max(f32::MIN_POSITIVE);
        if error > worst.0 {
            worst = (error, name);
        }
    }
    match worst {
        (error, _) if error <= tolerance => Outcome::Pass {
            max_relative_error: error,
        },
        (error, name) => Outcome::Fail {
            reason: format!("{name}: relative error {error:.1e}"),
        },
    }
}

/// The report for people, on stdout.
fn print(report: &Report) {
    let listed = |items: &[&str]| match items {
        [] => "none".to_owned(),
        items => items.join(" "),
    };
    let cuda = match (&report.cuda.built_in, report.cuda.missing.as_slice()) {
        (true, []) => "usable".to_owned(),
        (true, missing) => missing.join("; "),
        (false, _) => "this binary was built without the cuda feature".to_owned(),
    };
    let rows = [
        ("runner", report.runner.to_owned()),
        ("burn", report.burn.to_owned()),
        ("system", format!("{} {}", report.os, report.arch)),
        ("instructions", listed(&report.cpu_features)),
        (
            "threads",
            format!("{} of {} cores", report.threads, report.cpus),
        ),
        ("cuda", cuda),
    ];
    for (key, value) in rows {
        println!("{key:<18}{value}");
    }
    for device in &report.devices {
        println!("\n{}", device.name);
        for peak in &device.peaks {
            let key = format!("{} {}^3", peak.dtype, peak::SIDE);
            match (peak.gflops, &peak.error) {
                (Some(gflops), _) => println!("{key:<18}{gflops:.0} GFLOP/s"),
                (None, error) => println!("{key:<18}{}", error.as_deref().unwrap_or("failed")),
            }
        }
        let operations = &device.operations;
        if !operations.checks.is_empty() || operations.error.is_some() {
            println!("{}", table_of_operations(operations));
        }
        if !device.tests.is_empty() {
            println!("{}", table(&device.tests, device.tolerance));
        }
    }
}

fn empty_table<const N: usize>(header: [String; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(100)
        .set_header(header);
    table
}

fn table_of_operations(operations: &Operations) -> Table {
    let header = [
        "operation",
        "type",
        "result",
        "largest relative error",
        "allowed",
    ];
    let mut table = empty_table(header.map(str::to_owned));
    for check in &operations.checks {
        table.add_row([
            check.operation,
            &check.dtype,
            if check.passed { "PASS" } else { "FAIL" },
            &format!("{:.1e}", check.relative_error),
            &format!("{:.0e}", check.allowed),
        ]);
    }
    if let Some(error) = &operations.error {
        table.add_row(["all", "", "FAIL", error, ""]);
    }
    table
}

fn table(tests: &[Test], tolerance: f32) -> Table {
    let mut table = empty_table([
        "backbone".to_owned(),
        "method".to_owned(),
        "result".to_owned(),
        format!("largest relative error (allowed {tolerance:.0e})"),
    ]);
    for test in tests {
        let (result, detail) = match &test.result {
            Outcome::Pass { max_relative_error } => ("PASS", format!("{max_relative_error:.1e}")),
            Outcome::Fail { reason } => ("FAIL", reason.clone()),
            Outcome::Refused { reason } => ("refused", reason.clone()),
        };
        table.add_row([test.backbone, test.method, result, detail.as_str()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burns_version_is_the_pinned_one() {
        let manifest = include_str!("../../../Cargo.toml");
        let pinned = format!("burn = {{ version = \"={BURN}\"");
        assert!(manifest.contains(&pinned), "{BURN}");
    }

    #[test]
    fn errors_are_relative_and_what_is_not_finite_fails() {
        let outcome = |got: f32, expected: f32| {
            let (got, expected) = (vec![got, 2.0], vec![expected, 2.0]);
            let name = "x".to_owned();
            let pair = Pair {
                name,
                got,
                expected,
            };
            judge(&[pair], TOLERANCE)
        };
        let exact = Outcome::Pass {
            max_relative_error: 0.0,
        };
        assert_eq!(outcome(1.0, 1.0), exact);
        assert!(matches!(outcome(1.0, 1.01), Outcome::Fail { .. }));
        assert!(matches!(outcome(f32::NAN, f32::NAN), Outcome::Fail { .. }));
    }

    #[test]
    fn a_panic_is_a_reason() {
        let result: Result<(), _> = guarded(|| panic!("no kernel"));
        assert_eq!(result, Err("no kernel".to_owned()));
    }

    #[test]
    fn the_cpu_passes_with_every_method() {
        let tests = super::tests(&Chosen::cpu(), &|_, _| true);
        assert!(!tests.is_empty());
        for test in &tests {
            let failed = matches!(test.result, Outcome::Fail { .. });
            assert!(
                !failed,
                "{}/{}: {:?}",
                test.method, test.backbone, test.result
            );
        }
        assert!(
            tests
                .iter()
                .any(|test| matches!(test.result, Outcome::Pass { .. }))
        );
    }
}
