//! `runner completions`: what a shell completes after `runner`.

use clap::{Args, Command};
use clap_complete::Shell;

/// Print the completions of the command line for a shell.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner completions bash > ~/.local/share/bash-completion/completions/runner")]
pub struct CompletionsArgs {
    /// The shell that reads them.
    pub shell: Shell,
}

/// Prints the completions of `command`.
pub fn completions(args: &CompletionsArgs, mut command: Command) {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    print!("{}", String::from_utf8_lossy(&script));
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_the_commands_and_their_flags() {
        let train = Command::new("train").arg(clap::Arg::new("config").long("config"));
        for &shell in Shell::value_variants() {
            let mut command = Command::new("runner").subcommand(train.clone());
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "runner", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(
                script.contains("train") && script.contains("config"),
                "{shell}"
            );
        }
    }
}
