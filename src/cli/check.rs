//! `sidehook check`: reads the configuration with everything it names, and reports every problem at once.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use serde_json::json;

use super::{exit, print};
use crate::clock::Clock;
use crate::config::{self, Generation, Report};

/// Arguments of `check`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  sidehook check\n  sidehook check --config /etc/sidehook --json\n\n\
    Exit code 0 when the configuration is good, 64 when it is not or is not there.")]
pub struct Args {
    /// Print the result as JSON: {"valid", "problems", "warnings", "webhooks", …}.
    #[arg(long)]
    json: bool,
    /// Fail on warnings too.
    #[arg(long)]
    strict: bool,
}

/// Runs the command.
pub fn run(args: &Args, config: &Path) -> anyhow::Result<u8> {
    let env = |name: &str| std::env::var(name).ok();
    let result = config::load_all(config, &env, &Clock::System).result;
    let failed = match &result {
        Ok(generation) => args.strict && !generation.warnings.is_empty(),
        Err(_) => true,
    };
    if args.json {
        print(&format!("{:#}\n", summary(&result, !failed)))?;
    } else {
        match &result {
            Ok(generation) => {
                for warning in &generation.warnings {
                    print_error(&format!("warning: {warning}\n"));
                }
                print(&describe(generation))?;
            }
            Err(report) => print_report(report),
        }
    }
    Ok(if failed { exit::CONFIG } else { exit::OK })
}

/// Prints a report to standard error, in colour where that is a terminal.
pub fn print_report(report: &Report) {
    print_error(&report.render(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()));
}

fn print_error(text: &str) {
    // Nowhere left to report to when standard error is closed.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn describe(generation: &Generation) -> String {
    let enabled = generation.webhooks.values().filter(|w| w.enabled).count();
    let off = generation.webhooks.len() - enabled;
    let off = if off == 0 { String::new() } else { format!(" and {off} disabled") };
    let (webhooks, sources) = (plural(enabled, "webhook"), plural(generation.settings.sources.len(), "source"));
    let analyses = match generation.analyses.len() {
        0 => String::new(),
        1 => ", 1 analysis".to_owned(),
        n => format!(", {n} analyses"),
    };
    format!("the configuration is good: {webhooks}{off}, {sources}{analyses}\n")
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn summary(result: &Result<Generation, Report>, valid: bool) -> serde_json::Value {
    match result {
        Ok(generation) => json!({
            "valid": valid,
            "problems": [],
            "warnings": generation.warnings,
            "config_hash": generation.hash,
            "webhooks": generation.webhooks.keys().map(AsRef::as_ref).collect::<Vec<&str>>(),
            "sources": generation.settings.sources.keys().collect::<Vec<_>>(),
            "analyses": generation.analyses.iter().map(|analysis| &*analysis.name).collect::<Vec<&str>>(),
        }),
        Err(report) => json!({"valid": false, "problems": report.to_json(), "omitted": report.omitted}),
    }
}
