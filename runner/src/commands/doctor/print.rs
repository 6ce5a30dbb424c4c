//! The doctor's report for people.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};

use super::report::{DeviceReport, Report};
use crate::commands::print::row;
use crate::measure::peak;
use crate::selftest::compare::Outcome;
use crate::selftest::operations::Operations;

/// Prints the report on stdout.
pub fn print(report: &Report) {
    let instructions = match &report.cpu_features[..] {
        [] => "none".to_owned(),
        names => names.join(" "),
    };
    row("runner", report.runner);
    row("burn", report.burn);
    row("system", format_args!("{} {}", report.os, report.arch));
    row("instructions", instructions);
    row(
        "threads",
        format_args!("{} of {} cores", report.threads, report.cpus),
    );
    for accelerator in &report.accelerators {
        let missing = accelerator.missing.as_deref();
        row(accelerator.kind, missing.unwrap_or("usable"));
    }
    report.devices.iter().for_each(print_device);
}

fn print_device(device: &DeviceReport) {
    println!("\n{}", device.name);
    for peak in &device.peaks {
        let key = format!("{} {}^3", peak.dtype, peak::SIDE);
        match (peak.gflops, &peak.error) {
            (Some(gflops), _) => row(&key, format_args!("{gflops:.0} GFLOP/s")),
            (None, error) => row(&key, error.as_deref().unwrap_or("failed")),
        }
    }
    let operations = &device.operations;
    if !operations.checks.is_empty() || operations.error.is_some() {
        println!("\noperations against their formulas in f64");
        println!("{}", table_of_operations(operations));
    }
    if !device.golden.is_empty() {
        println!("\ntiny models against values of other libraries");
        let rows = device.golden.iter();
        let rows = rows.map(|test| [test.backbone, test.library, result(&test.result)]);
        let details = device.golden.iter().map(|test| detail(&test.result));
        println!("{}", table("library", device.tolerance, rows.zip(details)));
    }
    if !device.methods.is_empty() {
        println!("\none training step against the same in f64 by Burn's operations on the CPU");
        let rows = device.methods.iter();
        let rows = rows.map(|test| [test.backbone, test.method, result(&test.result)]);
        let details = device.methods.iter().map(|test| detail(&test.result));
        println!("{}", table("method", device.tolerance, rows.zip(details)));
    }
    if !device.kinds.is_empty() {
        println!("\nkinds of trained parameters; training what fails is refused");
        let rows = device.kinds.iter();
        let rows = rows.map(|test| [&*test.family, &*test.kind, result(&test.result)]);
        let details = device.kinds.iter().map(|test| detail(&test.result));
        println!(
            "{}",
            table("kind", device.kinds_tolerance, rows.zip(details))
        );
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

/// A row for each test: the backbone, what it is tested with, the result and its detail.
fn table<'a>(
    second: &str,
    tolerance: f32,
    rows: impl Iterator<Item = ([&'a str; 3], String)>,
) -> Table {
    let mut table = empty_table([
        "backbone".to_owned(),
        second.to_owned(),
        "result".to_owned(),
        format!("largest relative error (allowed {tolerance:.0e})"),
    ]);
    for ([backbone, with, result], detail) in rows {
        table.add_row([backbone, with, result, &detail]);
    }
    table
}

fn result(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Pass { .. } => "PASS",
        Outcome::Fail { .. } => "FAIL",
        Outcome::Refused { .. } => "refused",
    }
}

fn detail(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Pass { max_relative_error } => format!("{max_relative_error:.1e}"),
        Outcome::Fail { reason } | Outcome::Refused { reason } => reason.clone(),
    }
}
