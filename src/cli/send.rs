//! `sidehook send`

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;

use super::{address, exit, print, reach, runtime};
use crate::net::local;
use crate::secret::Secret;

/// Arguments of `sidehook send`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  sidehook send event.json\n  cat events.ndjson | sidehook send -\n  sidehook send --url http://127.0.0.1:7070/v1/events event.json"
)]
pub struct Args {
    /// Files with one event, an array of events, or one event a line (.ndjson, .jsonl); `-` reads standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where to, `http://HOST:PORT` or `unix:/path`; by default the first http source of the configuration.
    #[arg(long)]
    url: Option<String>,
    /// Bearer token, with --url or in place of the configured one.
    #[arg(long, env = "SIDEHOOK_SEND_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Prints each answer as it came.
    #[arg(long)]
    json: bool,
}

/// Sends every file; exit 1 when any was refused.
pub fn run(args: &Args, config: &Path) -> anyhow::Result<u8> {
    let given = args.token.as_deref().map(Secret::new);
    let (listen, path, token) = match &args.url {
        Some(url) => {
            let (listen, path) = address("--url", url)?;
            let path = if path == "/" { "/v1/events".to_owned() } else { path };
            (listen, path, given)
        }
        None => {
            match reach(config, |reach| reach.source, "name the source with --url http://HOST:PORT or unix:/path") {
                Ok((listen, token)) => (listen, "/v1/events".to_owned(), given.or(token)),
                Err(code) => return Ok(code),
            }
        }
    };
    runtime()?.block_on(async {
        let mut code = exit::OK;
        for file in &args.files {
            let (body, lines) = read(file)?;
            let media = if lines { "application/x-ndjson" } else { "application/json" };
            let answer = local::send(&listen, "POST", &path, token.as_ref(), media, body).await?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            if args.json {
                print(&format!("{text}\n"))?;
            }
            let parsed: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let accepted = answer.status.is_success() && parsed["accepted"].is_u64();
            if accepted {
                if !args.json {
                    print(&format!(
                        "{}: {} accepted, {} duplicates\n",
                        file.display(),
                        parsed["accepted"],
                        parsed["duplicates"]
                    ))?;
                }
            } else {
                code = exit::FAILED;
                let not_ours = "this is no answer of a sidehook's; is --url that of an http source?";
                let said = if answer.status.is_success() { not_ours } else { &text };
                complain!(
                    "sidehook: {}: {}: {}",
                    file.display(),
                    answer.status,
                    parsed["detail"].as_str().unwrap_or(said)
                );
            }
        }
        Ok(code)
    })
}

/// The file's bytes, and whether they are one event a line.
fn read(file: &Path) -> anyhow::Result<(Bytes, bool)> {
    let mut body = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut body)?;
    } else {
        body = std::fs::read(file).with_context(|| file.display().to_string())?;
    }
    let named = matches!(file.extension().and_then(|e| e.to_str()), Some("ndjson" | "jsonl"));
    // Standard input has no name: several JSON texts in a row are lines.
    let lines = named || (file == Path::new("-") && serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err());
    Ok((Bytes::from(body), lines))
}
