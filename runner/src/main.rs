//! The `runner` program. Everything is in the library, so that a program with plugins of its own
//! needs no more code than this.

fn main() -> std::process::ExitCode {
    peft_runner::main()
}
