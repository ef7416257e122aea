//! The command line: one file per command. A command answers an exit code; errors it cannot answer become
//! [`exit::FAILED`] with their chain on standard error.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what commands do")]

pub mod check;
pub mod deliveries;
pub mod demo;
pub mod ledger;
pub mod listen;
pub mod preview;
pub mod rules;
pub mod run;
pub mod schema;
pub mod secret;
pub mod send;
pub mod test;
pub mod verify;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::clock::Clock;
use crate::config::{self, Generation};
use crate::telemetry::{self, LogFormat};

/// Exit codes.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// The command ran and failed.
    pub const FAILED: u8 = 1;
    /// The arguments are wrong (clap's own).
    pub const USAGE: u8 = 2;
    /// The configuration is invalid, or not there.
    pub const CONFIG: u8 = 64;
}

#[derive(Parser)]
#[command(
    name = "sidehook",
    version,
    about = "Turns an AI assistant's lifecycle events into signed, durable webhooks",
    after_help = "Example:\n  sidehook demo\n  sidehook run --config ./sidehook"
)]
struct Cli {
    /// Config directory (with sidehook.yaml) or single file.
    #[arg(long, global = true, value_name = "PATH", default_value = ".", env = "SIDEHOOK_CONFIG")]
    config: PathBuf,
    /// How log lines are written to standard error.
    #[arg(long, global = true, value_enum, default_value = "auto")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the sidecar until SIGTERM or SIGINT; a second signal ends it at once.
    Run(run::Args),
    /// Checks the configuration and everything it names, and reports every problem at once.
    Check(check::Args),
    /// Runs the tests beside the rules.
    Test(test::Args),
    /// Shows what a webhook would send for an event; sends nothing.
    Preview(preview::Args),
    /// Sends events from files to a running sidehook.
    Send(send::Args),
    /// Receives webhooks locally, verifies and prints them.
    Listen(listen::Args),
    /// Plays a whole conversation through sidehook, with nothing configured.
    Demo(demo::Args),
    /// Lists, shows and retries deliveries.
    Deliveries(deliveries::Args),
    /// Prints the ledger and fails when it does not balance.
    Ledger(ledger::Args),
    /// Verifies a webhook's signature.
    Verify(verify::Args),
    /// Helps to write rules.
    Rules(rules::Args),
    /// Makes secrets.
    Secret(secret::Args),
    /// Prints the JSON Schema of the configuration.
    Schema(schema::Args),
}

/// Parses the arguments, runs the command and answers its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // The demonstration tells its own story; what sidehook logs beside it is of interest when something is wrong.
    let level = if matches!(cli.command, Command::Run(_)) { "info" } else { "warn" };
    telemetry::log::init(cli.log_format, level);
    let config = cli.config.as_path();
    let done = match cli.command {
        Command::Run(args) => run::run(&args, config),
        Command::Check(args) => check::run(args, config),
        Command::Test(args) => test::run(&args, config),
        Command::Preview(args) => preview::run(&args, config),
        Command::Send(args) => send::run(&args, config),
        Command::Listen(args) => listen::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Deliveries(args) => deliveries::run(&args, config),
        Command::Ledger(args) => ledger::run(&args, config),
        Command::Verify(args) => verify::run(args),
        Command::Rules(args) => rules::run(&args),
        Command::Secret(args) => secret::run(args, config),
        Command::Schema(args) => schema::run(args, config),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_broken_pipe(&error) => ExitCode::from(exit::OK),
        Err(error) => {
            // Nowhere left to report to when standard error is closed.
            let _ = writeln!(std::io::stderr(), "sidehook: {error:#}");
            ExitCode::from(exit::FAILED)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|e| e.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Loads the configuration, or prints its report and answers [`exit::CONFIG`].
fn load(config: &Path) -> Result<Generation, u8> {
    let env = |name: &str| std::env::var(name).ok();
    config::load(config, &env, &Clock::System).map_err(|report| {
        check::print_report(&report);
        exit::CONFIG
    })
}

/// Where the outbox to be read is: what `--outbox` names, which works while the configuration is broken, else what the
/// configuration says.
fn outbox_path(named: Option<&Path>, config: &Path) -> Result<PathBuf, u8> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None => load(config).map(|generation| generation.settings.outbox_path),
    }
}

/// A runtime for commands that talk to a running sidehook or its outbox.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Writes to standard output, so that a closed pipe is an error and not a panic.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
