//! `runner init DIR`: looks at images, says what it sees, and writes an experiment that trains on them.

mod choose;
mod facts;
mod folder;
mod look;
mod seen;
mod table;
mod write;

use std::path::PathBuf;

use clap::Args;
use peft_core::DatasetConfig;

use crate::commands::data::{found, print};
use crate::commands::print::row;
use crate::config::part::typed_part;
use crate::exit::{Failure, config_error};
use crate::fetch::progress::bytes;

use self::choose::{Choice, Machine};
use self::facts::{Facts, sizes};
use self::look::look;

/// Look at images in folders, a table or shards, and write an experiment for them.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner init data/flowers --out flowers.yaml")]
pub struct InitArgs {
    /// The folder of images, of parquet shards or of TensorFlow Datasets, or a table (.csv, .tsv).
    pub data: PathBuf,
    /// The YAML to write [default: the folder's name with .yaml].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// A name under configs/backbones, instead of the one that suits this machine.
    #[arg(long, value_name = "NAME")]
    pub backbone: Option<String>,
    /// Write over a file that is there.
    #[arg(long)]
    pub force: bool,
}

/// Looks at the data, prints what it is, and writes the experiment.
///
/// # Errors
/// If the data are of no known layout or damaged, or the file is there already.
pub fn init(args: &InitArgs) -> Result<(), Failure> {
    let name = name_of(&args.data)?;
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| PathBuf::from(format!("{name}.yaml")));
    if out.exists() && !args.force {
        return Err(config_error(format_args!(
            "{}: it is there already; --force writes over it, --out names another",
            out.display()
        )));
    }
    let seen = look(&args.data)?;
    let config: Box<dyn DatasetConfig> = typed_part(seen.dataset.clone(), "init", "dataset")?;
    let dataset = config.open().map_err(config_error)?;
    let facts = Facts::of(&*dataset)?;
    row("found", seen.kind);
    print(&found(&*dataset, None, false)?);
    row("sizes", sizes(&*dataset)?);
    if facts.is_unbalanced() {
        let Facts {
            largest, smallest, ..
        } = facts;
        row(
            "balance",
            format_args!("{smallest} to {largest} training images in a class"),
        );
    }
    let machine = Machine::here()?;
    row(
        "machine",
        format_args!(
            "{}, {} cores, {}",
            machine.device,
            machine.cores,
            bytes(machine.memory)
        ),
    );
    let choice = Choice::new(args.backbone.as_deref(), &machine, &facts)?;
    let text = write::yaml(&name, &out, &seen, &facts, &machine, &choice)?;
    peft_core::files::write_atomically(&out, text.as_bytes())?;
    row(
        "backbone",
        format_args!("{}: {}", choice.backbone, choice.backbone_why),
    );
    row(
        "method",
        format_args!("{}: {}", choice.method, choice.method_why),
    );
    row("written", out.display());
    eprintln!("next: runner --config {}", out.display());
    Ok(())
}

/// The name of the experiment: that of the folder or the table, in characters that every system takes.
fn name_of(data: &std::path::Path) -> Result<String, Failure> {
    let path = fs_err::canonicalize(data).map_err(config_error)?;
    let stem = match path.is_dir() {
        true => path.file_name(),
        false => path.file_stem(),
    };
    let stem = stem.unwrap_or_default().to_string_lossy();
    let plain = |c: char| {
        if c.is_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = stem.chars().map(plain).collect();
    Ok(match name.trim_matches(['.', '-']) {
        "" => "experiment".to_owned(),
        name => name.to_owned(),
    })
}
