//! The command line: the list of commands. Each command's arguments lie next to its code.

pub mod args;

use std::ffi::OsString;
use std::fmt::Write;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::bench::{self, BenchArgs};
use crate::commands::compare::{self, CompareArgs};
use crate::commands::completions::{self, CompletionsArgs};
use crate::commands::data::{self, DataCommand};
use crate::commands::doctor::{self, DoctorArgs};
use crate::commands::eval::{self, EvalArgs};
use crate::commands::explain::{self, ExplainArgs};
use crate::commands::export::{self, ExportArgs};
use crate::commands::features::{self, FeaturesArgs};
use crate::commands::init::{self, InitArgs};
use crate::commands::inspect::{self, InspectArgs};
use crate::commands::list::{self, ListArgs};
use crate::commands::manual::{self, ManualArgs};
use crate::commands::merge::{self, MergeArgs};
use crate::commands::predict::{self, PredictArgs};
use crate::commands::profile::{self, ProfileArgs};
use crate::commands::schema::{self, SchemaArgs};
use crate::commands::show::{self, ShowArgs};
use crate::commands::study::{self, StudyArgs};
use crate::commands::sweep::{self, SweepCommand};
use crate::commands::train::{self, TrainArgs};
use crate::exit::Failure;
use crate::fetch::offline;

/// Parameter-efficient fine-tuning of vision models: from a YAML to an adapted and measured model.
#[derive(Parser)]
#[command(name = "runner", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Fetch nothing: what is missing is an error that says where to put it.
    #[arg(long, global = true)]
    offline: bool,
}

#[derive(Subcommand)]
enum Command {
    Init(InitArgs),
    Train(TrainArgs),
    Compare(CompareArgs),
    #[command(subcommand)]
    Sweep(SweepCommand),
    Study(StudyArgs),
    List(ListArgs),
    Show(ShowArgs),
    Inspect(InspectArgs),
    #[command(subcommand)]
    Data(DataCommand),
    Schema(SchemaArgs),
    Eval(EvalArgs),
    Predict(PredictArgs),
    Features(FeaturesArgs),
    Explain(ExplainArgs),
    Merge(MergeArgs),
    Export(ExportArgs),
    Bench(BenchArgs),
    Profile(ProfileArgs),
    Doctor(DoctorArgs),
    Completions(CompletionsArgs),
    Manual(ManualArgs),
}

/// The commands by what they are for, as `--help` lists them.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Train and compare",
        &["init", "train", "compare", "sweep", "study"],
    ),
    ("Look", &["list", "show", "inspect", "data", "schema"]),
    (
        "Use",
        &["eval", "predict", "features", "explain", "merge", "export"],
    ),
    ("Measure", &["bench", "profile", "doctor"]),
    ("Install", &["completions", "manual"]),
];

impl Cli {
    /// Reads the arguments of this process.
    ///
    /// # Errors
    /// A mistake in them, or the help or version that was asked for; clap prints either.
    pub fn read() -> Result<Self, clap::Error> {
        let arguments = with_command(std::env::args_os().collect());
        Self::from_arg_matches(&command().try_get_matches_from(arguments)?)
    }

    /// Runs the command that the command line names.
    ///
    /// # Errors
    /// If the command fails.
    pub fn run(&self) -> Result<(), Failure> {
        if self.offline {
            offline::forbid();
        }
        match &self.command {
            Command::Init(args) => init::init(args),
            Command::Train(args) => train::train(args),
            Command::Compare(args) => compare::compare(args),
            Command::Sweep(command) => sweep::sweep(command),
            Command::Study(args) => study::study(args),
            Command::List(args) => list::list(args),
            Command::Show(args) => show::show(args),
            Command::Inspect(args) => inspect::inspect(args),
            Command::Data(command) => data::data(command),
            Command::Schema(args) => schema::schema(args),
            Command::Eval(args) => eval::eval(args),
            Command::Predict(args) => predict::predict(args),
            Command::Features(args) => features::features(args),
            Command::Explain(args) => explain::explain(args),
            Command::Merge(args) => merge::merge(args),
            Command::Export(args) => export::export(args),
            Command::Bench(args) => bench::bench(args),
            Command::Profile(args) => profile::profile(args),
            Command::Doctor(args) => doctor::doctor(args),
            Command::Completions(args) => {
                completions::completions(args, Self::command());
                Ok(())
            }
            Command::Manual(args) => manual::manual(args, Self::command()),
        }
    }
}

/// The arguments with `train` in front where they begin with one of its flags: `runner --config FILE` is
/// short for `runner train --config FILE`.
fn with_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    // `--offline` may stand before any command.
    let place = arguments
        .iter()
        .skip(1)
        .position(|word| word != "--offline");
    let place = 1 + place.unwrap_or(0);
    let first = arguments.get(place).and_then(|first| first.to_str());
    let is_flag = first.is_some_and(|first| first.starts_with('-'));
    let own = ["-h", "--help", "-V", "--version", "--offline"];
    if is_flag && !first.is_some_and(|first| own.contains(&first)) {
        arguments.insert(place, "train".into());
    }
    arguments
}

/// clap's command with the commands in groups, which clap cannot do by itself.
fn command() -> clap::Command {
    let command = Cli::command();
    let header = *command.get_styles().get_header();
    let literal = *command.get_styles().get_literal();
    let names = GROUPS.iter().flat_map(|(_, names)| *names);
    let width = names.map(|name| name.len()).max().unwrap_or(0);
    let mut groups = String::new();
    for (title, names) in GROUPS {
        // Writing to a string does not fail.
        let _ = writeln!(groups, "{header}{title}:{header:#}");
        for name in names {
            let about = command.find_subcommand(name).and_then(|c| c.get_about());
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(groups, "  {literal}{name:<width$}{literal:#}  {about}");
        }
        groups.push('\n');
    }
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}{header}Options:{header:#}\n\
         {{options}}{{after-help}}"
    );
    command.help_template(template).after_help(
        "`runner --config FILE` is short for `runner train --config FILE`.\n\
         `runner COMMAND --help` explains the arguments of a command and gives an example.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_is_in_one_group() {
        Cli::command().debug_assert();
        let mut grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        let command = Cli::command();
        let mut commands: Vec<&str> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        grouped.sort_unstable();
        commands.sort_unstable();
        assert_eq!(grouped, commands);
        for subcommand in command.get_subcommands() {
            let about = subcommand.get_about().map(ToString::to_string);
            assert!(
                about.is_some_and(|about| about.len() > 20),
                "{}",
                subcommand.get_name()
            );
        }
        let train = command.find_subcommand("train").unwrap();
        let about = train.get_about().unwrap().to_string();
        assert!(about.starts_with("Train, test once"), "{about}");
    }

    /// Every command, those of `data` and `sweep` too.
    fn leaves(command: &clap::Command) -> Vec<&clap::Command> {
        let subcommands = command.get_subcommands();
        if command.has_subcommands() {
            subcommands.flat_map(leaves).collect()
        } else {
            vec![command]
        }
    }

    #[test]
    fn every_command_has_an_example_that_parses() {
        for command in leaves(&Cli::command()) {
            let name = command.get_name();
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_else(|| panic!("{name} has no example"));
            let examples = ["Example:\n", "Examples:\n"]
                .iter()
                .find_map(|title| help.strip_prefix(title))
                .unwrap_or_else(|| panic!("{help}"));
            for example in examples.replace("\\\n", " ").lines() {
                let (example, _) = example.split_once('>').unwrap_or((example, ""));
                let words = example.split_whitespace();
                let parsed = Cli::command().try_get_matches_from(words.clone());
                assert!(parsed.is_ok(), "{name}: {}", parsed.unwrap_err());
                assert!(words.clone().any(|word| word == name), "{name}: {example}");
            }
        }
    }

    #[test]
    fn every_argument_is_explained_and_the_list_of_commands_fits() {
        for leaf in leaves(&Cli::command()) {
            for argument in leaf.get_arguments() {
                let explained = argument.get_help().is_some();
                assert!(explained, "{} {}", leaf.get_name(), argument.get_id());
            }
        }
        let help = command().render_help().to_string();
        for (title, _) in GROUPS {
            assert!(help.contains(&format!("{title}:\n")), "{help}");
        }
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    #[test]
    fn flags_without_a_command_train() {
        let given = |words: &str| -> Vec<String> {
            let words = words.split_whitespace().map(OsString::from).collect();
            let words = with_command(words).into_iter();
            words.map(|word| word.into_string().unwrap()).collect()
        };
        let config = ["runner", "train", "--config", "quickstart"];
        assert_eq!(given("runner --config quickstart"), config);
        assert_eq!(given("runner train --config quickstart"), config);
        assert_eq!(given("runner --help"), ["runner", "--help"]);
        let offline = ["runner", "--offline", "train", "--config", "a"];
        assert_eq!(given("runner --offline --config a"), offline);
        assert_eq!(
            given("runner --offline list"),
            ["runner", "--offline", "list"]
        );
        assert_eq!(given("runner --offline"), ["runner", "--offline"]);
        assert_eq!(given("runner -V"), ["runner", "-V"]);
        assert_eq!(given("runner list"), ["runner", "list"]);
        assert_eq!(given("runner"), ["runner"]);
    }
}
