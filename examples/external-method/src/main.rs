//! The runner with an additional method.

use external_method as _;

fn main() -> std::process::ExitCode {
    peft_runner::main()
}
