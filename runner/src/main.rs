//! The program; everything is in the library, so that a program of one's own is as short.

fn main() -> std::process::ExitCode {
    peft_runner::main()
}
