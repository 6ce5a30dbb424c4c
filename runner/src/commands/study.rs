//! `runner study`: one of the paper's studies, with a verdict on each of its claims.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use clap::builder::PossibleValuesParser;
use peft_core::files::write_atomically;
use serde_json::json;

use crate::cli::args::{Format, PlaceArgs, RunsArgs, TrustArgs};
use crate::commands::{on_pool, print};
use crate::exit::{Exit, Failure, config_error, failure};
use crate::run::interrupt;
use crate::study::outcome::{Document, Outcome};
use crate::study::request::{Files, Request};
use crate::study::{self, STUDIES, Study, page, print::text};

/// Carry out one of the paper's studies, and judge its claims.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner study theory --set patches=[16,32,64]")]
pub struct StudyArgs {
    /// The study; `runner list studies` says what each is about.
    #[arg(value_parser = PossibleValuesParser::new(STUDIES.iter().map(|study| study.name)))]
    pub name: String,
    /// A YAML file, or a name under configs/ such as study/fig2.yaml. Default: the study in miniature.
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Override a field, as in seeds=[0,1] or trial.recipe.epochs=2. May be repeated.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub trust: TrustArgs,
    #[command(flatten)]
    pub folders: RunsArgs,
    /// Folder of report.html and study.json [default: a folder below that of --runs].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// cka: activations of a network, as `runner features` writes them; twice for two networks.
    #[arg(long, value_name = "FILE")]
    pub features: Vec<PathBuf>,
    /// attention-distance: attention weights, attention.1 to attention.L.
    #[arg(long, value_name = "FILE")]
    pub attention: Option<PathBuf>,
    /// theory and prop1: the tensors of a small model.
    #[arg(long, value_name = "FILE")]
    pub tensors: Option<PathBuf>,
    /// label-mapping: logits and labels.
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
    /// Validate everything and print the plan, then stop.
    #[arg(long)]
    pub dry_run: bool,
}

/// Carries out a study, writes its page and its JSON, and prints one of them.
pub fn study(args: &StudyArgs) -> Result<(), Failure> {
    let Some(study) = study::find(&args.name) else {
        return Err(config_error(format!("{}: no such study", args.name)));
    };
    let files = Files {
        features: args.features.clone(),
        attention: args.attention.clone(),
        tensors: args.tensors.clone(),
        logits: args.logits.clone(),
    };
    let given = files.given();
    if let Some(flag) = given.iter().find(|flag| !study.files.contains(flag)) {
        let message = format!("--{flag}: {} does not take it", study.name);
        return Err(config_error(message));
    }
    on_pool(&args.place, |device| {
        let start = Instant::now();
        let device = device.vouched(args.trust.trust_device);
        let request = Request {
            study: study.name,
            config: args.config.as_deref(),
            default: study.config.filter(|_| given.is_empty()),
            set: &args.set,
            files: &files,
            dry_run: args.dry_run,
            runs: &args.folders.runs,
            cache: &args.folders.cache(),
            device: &device,
            interrupt: interrupt()?,
        };
        let (folder, _) = request.document()?;
        let outcome = (study.run)(&request)?;
        let document = Document {
            study: study.name,
            claims: &outcome.claims,
            result: &outcome.result,
            settings: &outcome.settings,
            seconds: start.elapsed().as_secs_f64(),
        };
        let page = match args.dry_run {
            true => None,
            false => {
                let folder = args
                    .out
                    .clone()
                    .unwrap_or_else(|| args.folders.runs.join(folder));
                Some(write(study, &outcome, &document, folder)?)
            }
        };
        match args.format {
            Format::Json => print::json(&document)?,
            Format::Text => {
                println!("{}", text(study, &outcome).trim_end());
                if let Some(page) = page {
                    println!("\nreport: {}", page.display());
                }
            }
        }
        Ok(())
    })
}

/// Writes `report.html` and `study.json`; returns the page's path.
fn write(
    study: &Study,
    outcome: &Outcome,
    document: &Document,
    folder: PathBuf,
) -> Result<PathBuf, Failure> {
    fs_err::create_dir_all(&folder)?;
    let text = serde_json::to_string_pretty(document).map_err(|e| failure(Exit::Unexpected, e))?;
    write_atomically(&folder.join("study.json"), format!("{text}\n").as_bytes())?;
    let path = folder.join("report.html");
    write_atomically(&path, page::html(study, outcome).as_bytes())?;
    Ok(path)
}

/// Lists the studies for `runner list studies`.
///
/// # Errors
/// If they cannot be written.
pub fn list(format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let entry = |study: &Study| {
                json!({
                    "name": study.name,
                    "summary": study.summary,
                    "source": study.source,
                    "config": study.config,
                })
            };
            let entries: Vec<_> = STUDIES.iter().map(entry).collect();
            println!("{}", json!(entries));
        }
        Format::Text => {
            let width = STUDIES.iter().map(|study| study.name.len()).max();
            let width = width.unwrap_or(0);
            for study in STUDIES {
                println!("{:<width$}  {}", study.name, study.summary);
                println!("{:<width$}  {}", "", study.source);
            }
        }
    }
    Ok(())
}
