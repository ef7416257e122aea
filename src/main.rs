//! The `sidehook` binary: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidehook::cli::main()
}
