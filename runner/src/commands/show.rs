//! `runner show`: the boundaries and sites of a backbone, with their shapes.

use burn::tensor::Device;
use clap::Args;
use peft_core::Init;
use serde_json::json;

use crate::cli::args::{ConfigArgs, Format};
use crate::config::experiment::Experiment;
use crate::exit::{Exit, Failure, config_error, failure};

/// Show the boundaries and sites of an experiment's backbone with their shapes.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner show --config backbones/vit-micro.yaml")]
pub struct ShowArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How to print.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// Prints boundaries and sites; reads no weights.
pub fn show(args: &ShowArgs) -> Result<(), Failure> {
    let ShowArgs { config, format } = args;
    let Some(name) = &config.config else {
        return Err(config_error(
            "--config is missing: a YAML file or a name under configs/",
        ));
    };
    let backbone = Experiment::read_backbone(name, &config.set)?;
    let init = Init::empty(&Device::flex());
    let backbone = backbone
        .build(&init)
        .map_err(|e| config_error(format_args!("backbone: {e}")))?;
    let spec = backbone.spec();
    if *format == Format::Json {
        let json =
            serde_json::to_string_pretty(&json!(spec)).map_err(|e| failure(Exit::Unexpected, e))?;
        println!("{json}");
        return Ok(());
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
        match slices.is_empty() {
            true => println!(),
            false => println!("  (rows: {})", slices.join(", ")),
        }
    }
    Ok(())
}
