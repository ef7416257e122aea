//! The command line: one file per command. A command answers an exit code; errors it cannot answer become
//! [`exit::FAILED`] with their chain on standard error.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what commands do")]

/// Writes a line to standard error. Where that cannot be written to there is nowhere to say so, and no reason to end.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

pub mod check;
pub mod deliveries;
pub mod demo;
pub mod import;
pub mod ledger;
pub mod listen;
pub mod outbox;
pub mod preview;
pub mod replay;
pub mod rules;
pub mod run;
pub mod schema;
pub mod secret;
pub mod send;
pub mod test;
pub mod verify;
pub mod webhooks;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::clock::Clock;
use crate::config::model::{Listen, Reach};
use crate::config::{self, Generation};
use crate::outbox::Outbox;
use crate::secret::SecretKey;
use crate::telemetry::{self, LogFormat};

/// Exit codes.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// The command ran and failed.
    pub const FAILED: u8 = 1;
    /// The arguments are wrong.
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
    /// Lists, pauses, resumes and tries out webhooks of a running sidehook.
    Webhooks(webhooks::Args),
    /// Looks into a store, in use or copied, and checks it.
    Outbox(outbox::Args),
    /// Renders kept events again, through today's rules.
    Replay(replay::Args),
    /// Lists, shows and retries deliveries.
    Deliveries(deliveries::Args),
    /// Prints the ledger and fails when it does not balance.
    Ledger(ledger::Args),
    /// Verifies a webhook's signature.
    Verify(verify::Args),
    /// Makes webhook files of another product's definitions.
    Import(import::Args),
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
    telemetry::log::init(cli.log_format, level, || Clock::System.now().to_string());
    let config = cli.config.as_path();
    let done = match cli.command {
        Command::Run(args) => run::run(&args, config),
        Command::Check(args) => check::run(&args, config),
        Command::Test(args) => test::run(&args, config),
        Command::Preview(args) => preview::run(&args, config),
        Command::Send(args) => send::run(&args, config),
        Command::Listen(args) => listen::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Webhooks(args) => webhooks::run(&args, config),
        Command::Outbox(args) => outbox::run(&args, config),
        Command::Replay(args) => replay::run(&args, config),
        Command::Deliveries(args) => deliveries::run(&args, config),
        Command::Ledger(args) => ledger::run(&args, config),
        Command::Verify(args) => verify::run(args),
        Command::Import(args) => import::run(&args, config),
        Command::Rules(args) => rules::run(&args),
        Command::Secret(args) => secret::run(&args),
        Command::Schema(args) => schema::run(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_broken_pipe(&error) => ExitCode::from(exit::OK),
        Err(error) => {
            complain!("sidehook: {}", told(&error));
            ExitCode::from(if error.is::<UsageError>() { exit::USAGE } else { exit::FAILED })
        }
    }
}

/// An error with its causes on one line, without those that a message before them already quotes.
fn told(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if out.is_empty() {
            out = cause;
        } else if !out.contains(&cause) {
            out = format!("{out}: {cause}");
        }
    }
    out
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

/// What a configuration says of how to reach a running sidehook, even where it has problems elsewhere: a reload that was
/// refused must not take the tools away. `instead` tells what names it without a configuration.
fn reach<T>(config: &Path, pick: impl FnOnce(Reach) -> Option<T>, instead: &str) -> Result<T, u8> {
    let env = |name: &str| std::env::var(name).ok();
    let loaded = config::load_with(config, &env, &Clock::System, config::Tests::Skip);
    let found = pick(loaded.reach);
    match (loaded.result, found) {
        (Ok(_), Some(found)) => Ok(found),
        (Err(report), Some(found)) => {
            complain!("sidehook: note: {report}, none of them in what is needed here; `sidehook check` tells them");
            Ok(found)
        }
        (Err(report), None) => {
            check::print_report(&report);
            complain!("sidehook: mend it, or {instead}");
            Err(exit::CONFIG)
        }
        (Ok(_), None) => {
            complain!("sidehook: the configuration does not say it; {instead}");
            Err(exit::CONFIG)
        }
    }
}

/// Where the outbox to be read is: what `--outbox` names, else what the configuration says.
fn outbox_path(named: Option<&Path>, config: &Path) -> Result<PathBuf, u8> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None => configured_outbox(config).map(|(path, _)| path),
    }
}

fn configured_outbox(config: &Path) -> Result<(PathBuf, Vec<SecretKey>), u8> {
    reach(
        config,
        |reach| reach.outbox,
        "name the outbox's directory: --outbox DIR, or just DIR after `outbox inspect` and `outbox verify`",
    )
}

/// The outbox of [`outbox_path`], opened for reading: what is sealed in it can be read as far as the configuration was, and
/// gives its keys.
fn read_outbox(named: Option<&Path>, config: &Path) -> anyhow::Result<Result<Outbox, u8>> {
    let (path, keys) = match named {
        Some(path) => (path.to_owned(), Vec::new()),
        None => match configured_outbox(config) {
            Ok(found) => found,
            Err(code) => return Ok(Err(code)),
        },
    };
    Ok(Ok(Outbox::open_read_only(&path, Clock::System)?.with_keys(&keys)?))
}

/// A value of an option that cannot be one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Where a listener of a sidehook on this host is, with the path of the URL: `http://HOST:PORT/path` or `unix:/path`.
fn address(option: &str, text: &str) -> anyhow::Result<(Listen, String)> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok((Listen::Unix(PathBuf::from(path.strip_prefix("//").unwrap_or(path))), "/".to_owned()));
    }
    let usage = |message: String| UsageError(format!("{option} {text}: {message}"));
    let url = match url::Url::parse(text) {
        Ok(url) if url.scheme() == "http" && url.has_host() => url,
        Ok(url) if url.scheme() == "https" => {
            let message = "a sidehook's own listeners speak plain http; write http://HOST:PORT or unix:/path";
            return Err(usage(message.to_owned()).into());
        }
        _ => return Err(usage("write http://HOST:PORT or unix:/path".to_owned()).into()),
    };
    let addresses = url.socket_addrs(|| None).with_context(|| format!("{option} {text}"))?;
    let first = addresses.into_iter().next().with_context(|| format!("{option} {text}: the host has no address"))?;
    Ok((Listen::Tcp(first), url.path().to_owned()))
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
