//! The `sidehook` binary: arguments in, exit code out.

use std::process::ExitCode;

/// Events are allocated on one thread and freed on another all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sidehook::cli::main()
}
