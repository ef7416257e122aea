//! The `sidehook` binary: arguments in, exit code out.

use std::process::ExitCode;

/// Events and results are made on one thread and let go of on another, by the hundred for each event: with the system's
/// allocator an eighth of all processor time went there.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    sidehook::cli::main()
}
