//! `sidehook outbox inspect|verify`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::{exit, ledger, outbox_path, print};
use crate::outbox::{Inspection, inspect};

/// Arguments of `sidehook outbox`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  sidehook outbox inspect --json\n  sidehook outbox verify backup/outbox.db")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows what a store holds; exit 1 when its ledger does not balance.
    #[command(after_help = "Example:\n  sidehook outbox inspect backup/outbox.db")]
    Inspect(Of),
    /// Checks a store's structure, its ledger and its counters against what is there; exit 1 when anything is wrong.
    #[command(after_help = "Example:\n  sidehook outbox verify backup/outbox.db --json")]
    Verify(Of),
}

#[derive(clap::Args)]
struct Of {
    /// An outbox.db or its directory, a copy or the one in use; by default what the configuration names.
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Reads a store without writing to it.
pub fn run(args: &Args, config: &Path) -> anyhow::Result<u8> {
    let (of, verify) = match &args.command {
        Command::Inspect(of) => (of, false),
        Command::Verify(of) => (of, true),
    };
    let path = match outbox_path(of.path.as_deref(), config) {
        Ok(path) => path,
        Err(code) => return Ok(code),
    };
    let found = inspect(&path, verify)?;
    let good = found.problems.is_empty() && found.ledger.balanced;
    print(&match (of.json, verify) {
        (true, _) => as_json(&found, verify, good),
        (false, true) => verdict(&found),
        (false, false) => as_text(&found),
    })?;
    Ok(if good { exit::OK } else { exit::FAILED })
}

fn as_json(found: &Inspection, verify: bool, good: bool) -> String {
    let counts: serde_json::Map<_, _> = found.counts.iter().map(|(k, n)| (k.clone(), (*n).into())).collect();
    let keys: Vec<_> = found.keys.iter().map(|(id, values)| json!({"id": id, "values": values})).collect();
    let mut shown = json!({
        "file": found.file,
        "bytes": found.bytes,
        "schema_version": found.schema_version,
        "counts": counts,
        "oldest_owed": found.oldest_owed,
        "keys": keys,
        "ledger": found.ledger,
    });
    if verify {
        shown["ok"] = good.into();
        shown["problems"] = found.problems.clone().into();
    }
    format!("{shown}\n")
}

fn as_text(found: &Inspection) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:15} {}", "file", found.file);
    let _ = writeln!(out, "{:15} {}", "bytes", found.bytes);
    let _ = writeln!(out, "{:15} {}", "schema version", found.schema_version);
    for (name, count) in &found.counts {
        let _ = writeln!(out, "{:15} {count}", name.replace('_', " "));
    }
    let _ =
        writeln!(out, "{:15} {}", "oldest owed", found.oldest_owed.map_or_else(|| "-".to_owned(), |at| at.to_string()));
    for (id, values) in &found.keys {
        let _ = writeln!(out, "{:15} {id} sealed {values} values", "key");
    }
    out.push('\n');
    out.push_str(&ledger::table(&found.ledger));
    out
}

fn verdict(found: &Inspection) -> String {
    let mut out = String::new();
    for problem in &found.problems {
        let _ = writeln!(out, "{problem}");
    }
    let owed: u64 = found.ledger.webhooks.iter().map(|row| row.pending + row.held).sum();
    let verdict = if found.problems.is_empty() { "good" } else { "NOT GOOD" };
    let _ = writeln!(out, "{}: {verdict}; {owed} deliveries are owed", found.file);
    out
}
