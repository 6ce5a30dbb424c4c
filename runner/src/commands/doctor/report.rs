//! The report of the doctor: its findings about the program and about each device.

use serde::Serialize;

use crate::selftest::compare::Outcome;
use crate::selftest::golden::GoldenTest;
use crate::selftest::kinds::KindTest;
use crate::selftest::methods::Test;
use crate::selftest::operations::Operations;

/// Everything that is printed.
#[derive(Serialize)]
pub struct Report {
    pub runner: &'static str,
    pub burn: &'static str,
    pub os: &'static str,
    pub arch: &'static str,
    pub cpu_features: Vec<&'static str>,
    pub cpus: usize,
    pub threads: usize,
    pub accelerators: Vec<Accelerator>,
    pub devices: Vec<DeviceReport>,
}

/// A kind of accelerator, and whether this program can use it.
#[derive(Serialize)]
pub struct Accelerator {
    pub kind: &'static str,
    /// What this binary or this machine lacks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// The results of one device.
#[derive(Serialize)]
pub struct DeviceReport {
    pub name: String,
    /// The largest relative error that passes. Operations have bounds of their own.
    pub tolerance: f32,
    pub operations: Operations,
    pub golden: Vec<GoldenTest>,
    #[serde(rename = "tests")]
    pub methods: Vec<Test>,
    /// Kinds of trained parameters; training one that fails is refused.
    pub kinds: Vec<KindTest>,
    /// The largest relative error that passes there.
    pub kinds_tolerance: f32,
    pub peaks: Vec<Peak>,
}

/// The fastest matrix product.
#[derive(Serialize)]
pub struct Peak {
    pub dtype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflops: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Report {
    /// Lists the device and name of every test that failed.
    pub fn failed(&self) -> Vec<String> {
        let failed = |result: &Outcome| matches!(result, Outcome::Fail { .. });
        let mut all = Vec::new();
        for device in &self.devices {
            let mut names = Vec::new();
            let operations = &device.operations;
            names.extend(operations.error.iter().map(|_| "operations".to_owned()));
            let checks = operations.checks.iter().filter(|check| !check.passed);
            names.extend(checks.map(|check| check.operation.to_owned()));
            let golden = device.golden.iter().filter(|test| failed(&test.result));
            names.extend(golden.map(|test| format!("golden/{}", test.backbone)));
            let methods = device.methods.iter().filter(|test| failed(&test.result));
            names.extend(methods.map(|test| format!("{}/{}", test.backbone, test.method)));
            let kinds = device.kinds.iter().filter(|test| test.failed());
            names.extend(kinds.map(|test| format!("kinds/{}/{}", test.family, test.kind)));
            all.extend(names.iter().map(|name| format!("{} {name}", device.name)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_fails_is_named() {
        let golden = GoldenTest {
            backbone: "vit",
            library: "timm",
            result: Outcome::Fail {
                reason: "logits: not finite".to_owned(),
            },
        };
        let device = DeviceReport {
            name: "cpu".to_owned(),
            tolerance: 1e-4,
            operations: Operations {
                checks: Vec::new(),
                error: None,
            },
            golden: vec![golden],
            methods: Vec::new(),
            kinds: Vec::new(),
            kinds_tolerance: 2e-4,
            peaks: Vec::new(),
        };
        let report = Report {
            runner: "",
            burn: "",
            os: "",
            arch: "",
            cpu_features: Vec::new(),
            cpus: 1,
            threads: 1,
            accelerators: Vec::new(),
            devices: vec![device],
        };
        assert_eq!(report.failed(), ["cpu golden/vit"]);
    }
}
