//! `sidehook webhooks list|show|pause|resume|test`

use std::path::Path;

use anyhow::bail;
use clap::Subcommand;
use serde_json::Value;

use super::{exit, load, print, runtime};
use crate::net::local;

/// Arguments of `sidehook webhooks`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  sidehook webhooks list\n  sidehook webhooks pause crm\n  sidehook webhooks test crm"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists webhooks with their state and what they owe.
    #[command(after_help = "Example:\n  sidehook webhooks list --json")]
    List {
        /// Prints a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Shows one webhook.
    #[command(after_help = "Example:\n  sidehook webhooks show crm")]
    Show(Of),
    /// Holds a webhook's deliveries, over restarts, until it is resumed.
    #[command(after_help = "Example:\n  sidehook webhooks pause crm")]
    Pause(Of),
    /// Sends what was held.
    #[command(after_help = "Example:\n  sidehook webhooks resume crm")]
    Resume(Of),
    /// Sends one made-up event to a webhook; exit 1 when it is not delivered.
    #[command(after_help = "Example:\n  sidehook webhooks test crm")]
    Test(Of),
}

#[derive(clap::Args)]
struct Of {
    /// The webhook.
    name: String,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Asks the running sidehook's admin API.
pub fn run(args: &Args, config: &Path) -> anyhow::Result<u8> {
    let generation = match load(config) {
        Ok(generation) => generation,
        Err(code) => return Ok(code),
    };
    let (method, of, action) = match &args.command {
        Command::List { .. } => ("GET", None, ""),
        Command::Show(of) => ("GET", Some(of), ""),
        Command::Pause(of) => ("POST", Some(of), "/pause"),
        Command::Resume(of) => ("POST", Some(of), "/resume"),
        Command::Test(of) => ("POST", Some(of), "/test"),
    };
    let name = of.map_or_else(String::new, |of| {
        format!("/{}", percent_encoding::utf8_percent_encode(&of.name, percent_encoding::NON_ALPHANUMERIC))
    });
    let path = format!("/api/v1/webhooks{name}{action}");
    let (listen, token) = (&generation.settings.admin.listen, generation.settings.admin.token.as_ref());
    let asked = local::send(listen, method, &path, token, "application/json", bytes::Bytes::new());
    let answer = runtime()?.block_on(asked)?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if !answer.status.is_success() {
        let said = String::from_utf8_lossy(&answer.body);
        bail!("{}", body["detail"].as_str().unwrap_or(&said));
    }
    match &args.command {
        Command::List { json: true } => print(&format!("{}\n", body["items"]))?,
        Command::List { json: false } => {
            for webhook in body["items"].as_array().into_iter().flatten() {
                print(&line(webhook))?;
            }
        }
        Command::Show(of) if !of.json => print(&format!("{body:#}\n"))?,
        Command::Pause(of) | Command::Resume(of) if !of.json => print(&line(&body))?,
        Command::Test(of) => {
            print(&if of.json { format!("{body}\n") } else { tried(&body) })?;
            return Ok(if body["state"] == "delivered" { exit::OK } else { exit::FAILED });
        }
        Command::Show(_) | Command::Pause(_) | Command::Resume(_) => print(&format!("{body}\n"))?,
    }
    Ok(exit::OK)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn line(webhook: &Value) -> String {
    let reason = webhook["reason"].as_str().filter(|reason| *reason != text(&webhook["state"]));
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let counts = &webhook["counts"];
    format!(
        "{}  {}{reason}  {} pending, {} held, {} dead  breaker {}\n",
        text(&webhook["name"]),
        text(&webhook["state"]),
        counts["pending"],
        counts["held"],
        counts["dead"],
        text(&webhook["breaker"])
    )
}

fn tried(delivery: &Value) -> String {
    let attempt = &delivery["attempts"][0];
    let why = attempt["error"].as_str().or(delivery["reason"].as_str());
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let status = attempt["status"].as_str().unwrap_or("no attempt yet");
    format!("{} {} ({status}){why}\n", text(&delivery["id"]), text(&delivery["state"]))
}
