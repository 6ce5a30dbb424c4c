//! Whether a device may train: it is compared with the CPU before it trains for the first time under a driver
//! and a program, and the result is kept in the cache folder.

use std::path::{Path, PathBuf};

use peft_core::Model;
use peft_core::files::write_atomically;
use peft_ops::{Accelerated, accelerated};
use serde::{Deserialize, Serialize};

use crate::config::recipe::Precision;
use crate::device::{ComputeDevice, driver};
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::trial::Trial;
use crate::selftest::compare::Outcome;
use crate::selftest::kinds::{self, FORWARD, KindTest};
use crate::selftest::operations;

/// Refuses a trial that would train what the device computes wrongly, unless the user vouches for the
/// device. The first call for a device and a program takes as long as the comparison. The CPU is not
/// compared with itself, unless it runs what accelerators run.
///
/// # Errors
/// What was found wrong, with its figure; or if the result of the comparison cannot be kept.
pub fn admit(
    device: &ComputeDevice,
    cache: &Path,
    trial: &Trial,
    model: &Model,
) -> Result<(), Failure> {
    if device.vouched || !is_examined(device) {
        return Ok(());
    }
    let record = Record::of(device, cache, &|| Tests::run(device))?;
    let bf16 = trial.experiment.recipe.precision == Precision::Bf16;
    let family = trial.experiment.backbone.typetag_name();
    let wrong = record.tests.objection(family, kinds::kinds(model), bf16);
    wrong.map_or(Ok(()), |wrong| {
        let name = &device.name;
        let kernels = !device.is_cpu() && accelerated() == Ok(Accelerated::Kernels);
        let without = if kernels {
            "PEFT_OPS_CUDA=composed runs without this program's own kernels, "
        } else {
            ""
        };
        Err(config_error(format!(
            "--device {name}: {wrong}; expected what the CPU computes. `runner doctor --device {name}` has all \
             figures; {without}--device cpu is right, and --trust-device trains here all the same"
        )))
    })
}

/// Whether training on the device depends on a comparison.
pub fn is_examined(device: &ComputeDevice) -> bool {
    !device.is_cpu() || peft_ops::level() == Ok(peft_ops::Level::Composed)
}

/// What a result belongs to. Another device, driver or program is compared anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Key {
    device: String,
    driver: String,
    /// The version of the program and the hash of its file.
    program: String,
    /// The version of the operations' results.
    operations: u32,
    /// What accelerators run for an operation.
    accelerated: String,
}

impl Key {
    fn of(device: &ComputeDevice) -> Result<Self, Failure> {
        let program = fs_err::read(std::env::current_exe()?)?;
        let hash = blake3::hash(&program).to_hex();
        Ok(Self {
            device: format!("{}, {}", device.name, device.model()),
            accelerated: accelerated().map_or("", Accelerated::name).to_owned(),
            driver: driver(),
            program: format!("{} {}", env!("CARGO_PKG_VERSION"), &hash[..16]),
            operations: peft_ops::RESULTS,
        })
    }

    fn file(&self, cache: &Path) -> PathBuf {
        let hash = blake3::hash(format!("{self:?}").as_bytes()).to_hex();
        cache.join("devices").join(format!("{}.json", &hash[..16]))
    }
}

/// The file that keeps a result.
#[derive(Serialize, Deserialize)]
struct Record {
    key: Key,
    tests: Tests,
}

impl Record {
    /// The result that is kept, or that of `test`, which is kept from then on.
    fn of(device: &ComputeDevice, cache: &Path, test: &dyn Fn() -> Tests) -> Result<Self, Failure> {
        let key = Key::of(device)?;
        let path = key.file(cache);
        let kept = std::fs::read_to_string(&path).ok();
        // A file that does not parse is from another version; the comparison is made again.
        let kept: Option<Self> = kept.and_then(|text| serde_json::from_str(&text).ok());
        if let Some(record) = kept.filter(|record| record.key == key) {
            return Ok(record);
        }
        eprintln!(
            "{}: compared with the CPU once, because this program has not trained there with {}",
            device.name, key.driver
        );
        let record = Self { key, tests: test() };
        let json = serde_json::to_string_pretty(&record);
        let json = json.map_err(|e| failure(Exit::Unexpected, e))?;
        fs_err::create_dir_all(cache.join("devices"))?;
        write_atomically(&path, format!("{json}\n").as_bytes())?;
        Ok(record)
    }
}

/// The comparison of a device with the CPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tests {
    operations: Vec<OperationResult>,
    kinds: Vec<KindTest>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct OperationResult {
    operation: String,
    dtype: String,
    #[serde(flatten)]
    result: Outcome,
}

impl Tests {
    fn run(device: &ComputeDevice) -> Self {
        let tested = operations::test(device, &|_| true);
        let checks = tested.checks.into_iter().map(|check| OperationResult {
            operation: check.operation.to_owned(),
            result: match check.passed {
                true => Outcome::Pass {
                    max_relative_error: check.relative_error as f32,
                },
                false => Outcome::Fail {
                    reason: format!(
                        "relative error {:.1e} (allowed {:.0e})",
                        check.relative_error, check.allowed
                    ),
                },
            },
            dtype: check.dtype,
        });
        let panic = tested.error.map(|reason| OperationResult {
            operation: "operations".to_owned(),
            dtype: "f32".to_owned(),
            result: Outcome::Fail { reason },
        });
        Self {
            operations: checks.chain(panic).collect(),
            kinds: kinds::test(device, &|_| true),
        }
    }

    /// Why a model of a family that trains these kinds cannot be trained.
    fn objection(
        &self,
        family: &str,
        trained: impl IntoIterator<Item = String>,
        bf16: bool,
    ) -> Option<String> {
        for OperationResult {
            operation,
            dtype,
            result,
        } in &self.operations
        {
            let applies = bf16 || dtype != "bf16";
            if let (true, Outcome::Fail { reason }) = (applies, result) {
                return Some(format!("{operation} in {dtype} is wrong there: {reason}"));
            }
        }
        for kind in std::iter::once(FORWARD.to_owned()).chain(trained) {
            let of_kind = |test: &&KindTest| test.family == family && test.kind == kind;
            match self.kinds.iter().find(of_kind).map(|test| &test.result) {
                Some(Outcome::Fail { reason }) => {
                    return Some(format!("{family}, {kind}, is wrong there: {reason}"));
                }
                Some(_) => {}
                None => {
                    return Some(format!(
                        "{family}, {kind}, was not compared, because no tiny model of {family} trains it"
                    ));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn kind(family: &str, kind: &str, result: Outcome) -> KindTest {
        KindTest {
            family: family.to_owned(),
            kind: kind.to_owned(),
            result,
        }
    }

    fn pass() -> Outcome {
        Outcome::Pass {
            max_relative_error: 1e-6,
        }
    }

    fn fail() -> Outcome {
        Outcome::Fail {
            reason: "conv1.weight: relative error 7.8e-1 (allowed 2e-2)".to_owned(),
        }
    }

    /// Convolutions of ResNets are wrong, and so is one operation in bf16.
    fn faulty() -> Tests {
        let operation = |dtype: &str, result| OperationResult {
            operation: "gelu".to_owned(),
            dtype: dtype.to_owned(),
            result,
        };
        Tests {
            operations: vec![operation("f32", pass()), operation("bf16", fail())],
            kinds: vec![
                kind("resnet", FORWARD, pass()),
                kind("resnet", "conv", fail()),
                kind("resnet", "head", pass()),
                kind("vit", FORWARD, pass()),
                kind("vit", "conv", pass()),
            ],
        }
    }

    #[test]
    fn only_what_is_wrong_is_refused() {
        let objection = |family: &str, kinds: &[&str], bf16| {
            let kinds = kinds.iter().map(|kind| (*kind).to_owned());
            faulty().objection(family, kinds, bf16)
        };
        assert_eq!(objection("resnet", &["head"], false), None);
        assert_eq!(objection("vit", &["conv"], false), None);
        let wrong = objection("resnet", &["head", "conv"], false).unwrap();
        assert!(
            wrong.contains("resnet, conv") && wrong.contains("7.8e-1"),
            "{wrong}"
        );
        let wrong = objection("vit", &[], true).unwrap();
        assert!(wrong.contains("gelu in bf16"), "{wrong}");
        let unknown = objection("vit", &["lora"], false).unwrap();
        assert!(unknown.contains("vit, lora, was not compared"), "{unknown}");
    }

    #[test]
    fn a_device_is_compared_once_for_each_program() {
        let cache = tempfile::tempdir().unwrap();
        let device = ComputeDevice::cpu();
        let runs = Cell::new(0);
        let test = || {
            runs.set(runs.get() + 1);
            faulty()
        };
        for _ in 0..2 {
            let record = Record::of(&device, cache.path(), &test).unwrap();
            assert_eq!(record.tests.kinds, faulty().kinds);
        }
        assert_eq!(runs.get(), 1);
        let other = ComputeDevice {
            name: "cuda:0".to_owned(),
            ..device.clone()
        };
        Record::of(&other, cache.path(), &test).unwrap();
        assert_eq!(runs.get(), 2);
        let damaged = Key::of(&device).unwrap().file(cache.path());
        std::fs::write(damaged, "{}").unwrap();
        Record::of(&device, cache.path(), &test).unwrap();
        assert_eq!(runs.get(), 3);
    }
}
