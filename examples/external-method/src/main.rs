//! The runner with one method more.

use external_method as _;

fn main() -> std::process::ExitCode {
    peft_runner::main()
}
