//! The `runner` program. Everything is in the library, so that a program with plugins of its own is as
//! short.

fn main() -> std::process::ExitCode {
    peft_runner::main()
}
