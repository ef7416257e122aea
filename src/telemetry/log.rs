//! Where log lines go: standard error, as lines on a terminal and as JSON otherwise.

use std::fmt;
use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines on a terminal, JSON otherwise.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// When a line was written, in the form that everything else of sidehook has.
struct Stamp(fn() -> String);

impl FormatTime for Stamp {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        out.write_str(&(self.0)())
    }
}

/// Installs the process's log. `RUST_LOG` filters it, `level` by default; `now` gives a line's time as text. A second
/// call changes nothing.
pub fn init(format: LogFormat, level: &str, now: fn() -> String) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // A line that cannot be written is lost: to say so would go the same way, and panics there.
        .log_internal_errors(false)
        .with_timer(Stamp(now));
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // Fails only when a log is installed already, as in tests.
    let _ = if json {
        log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        log.with_ansi(terminal).try_init()
    };
}
