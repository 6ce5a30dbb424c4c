//! `runner show`: the boundaries and sites of a backbone, with their shapes.

use burn::tensor::Device;
use clap::Args;
use peft_core::Init;

use crate::cli::args::{ConfigArgs, Format};
use crate::commands::print::json;
use crate::config::experiment::Experiment;
use crate::config::find::missing_weights;
use crate::exit::{At, Failure};
use crate::model::base::Completed;

/// Show the boundaries and sites of an experiment's backbone with their shapes.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner show --config backbones/vit-micro.yaml")]
pub struct ShowArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// Prints boundaries and sites; reads no weights, only what stands beside them, if they are there.
pub fn show(args: &ShowArgs) -> Result<(), Failure> {
    let ShowArgs { config, format } = args;
    let mut backbone = Experiment::read_backbone(&config.config, &config.set)?;
    if missing_weights(&*backbone).is_none() {
        let completed = Completed::of(backbone)?;
        backbone = completed.config;
        completed
            .remarks
            .iter()
            .for_each(|remark| eprintln!("{remark}"));
    }
    // Only the structure is shown, so no values are drawn and no weights are needed.
    let init = Init::empty(&Device::flex());
    let backbone = backbone.build(&init).at("backbone")?;
    let spec = backbone.spec();
    if *format == Format::Json {
        return json(spec);
    }
    println!(
        "{}: {} blocks, features [{}]",
        spec.name, spec.depth, spec.features
    );
    println!("\nboundaries (negative: -1 is the input of the last block)");
    for boundary in &spec.boundaries {
        println!(
            "  {:>3}  {:<28}{}",
            boundary.index, boundary.place, boundary.shape
        );
    }
    println!(
        "\nsites (block 0 is the stem, {} comes after the last block)",
        spec.depth + 1
    );
    let width = spec
        .sites
        .iter()
        .map(|site| site.name.len())
        .max()
        .unwrap_or(0);
    for site in &spec.sites {
        print!("  {:>3}  {:<width$}  {}", site.block, site.name, site.kind);
        let slices: Vec<_> = site.slices.iter().map(|s| s.name.as_str()).collect();
        if slices.is_empty() {
            println!();
        } else {
            println!("  (rows: {})", slices.join(", "));
        }
    }
    Ok(())
}
