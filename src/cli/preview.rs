//! `sidehook preview`

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde_json::{Value, json};

use super::test::Paint;
use super::{exit, load, print};
use crate::clock::{Clock, Entropy};
use crate::config::Webhook;
use crate::event::{Event, Incoming, Json, Stamp, State};
use crate::rules::testing::diff;
use crate::rules::{FilteredBy, Format, Outcome, Payload, Trace};

/// Arguments of `sidehook preview`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  sidehook preview --webhook crm --event event.json")]
pub struct Args {
    /// The webhook.
    #[arg(long, value_name = "NAME")]
    webhook: String,
    /// File with one event, in any accepted shape.
    #[arg(long, value_name = "FILE")]
    event: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Shows what would be sent; exit 1 when the rule fails.
pub fn run(args: &Args, config: &Path) -> anyhow::Result<u8> {
    let generation = match load(config) {
        Ok(generation) => generation,
        Err(code) => return Ok(code),
    };
    let Some(webhook) = generation.webhooks.get(args.webhook.as_str()) else {
        let known: Vec<_> = generation.webhooks.keys().map(|n| &**n).collect();
        bail!("there is no webhook {:?}; there are: {}", args.webhook, known.join(", "));
    };
    let event = read(&args.event)?;
    let mut trace = Trace::default();
    let outcome = webhook.program.evaluate(&event, Some(&mut trace));
    let failed = matches!(outcome, Outcome::Failed { .. });
    let text = if args.json {
        format!("{}\n", as_json(webhook, &event, &outcome, &trace))
    } else {
        let mut out = String::new();
        if !webhook.events.matches(&event.kind) {
            let _ = writeln!(
                out,
                "note: {:?} is not among this webhook's events, so nothing would be sent; they are {:?}",
                event.kind,
                webhook.events.as_written()
            );
        }
        let _ = writeln!(out, "event {} ({})", event.id, event.kind);
        let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        out.push_str(&shown(webhook, &outcome, &trace, &Paint { color }));
        out
    };
    print(&text)?;
    Ok(if failed { exit::FAILED } else { exit::OK })
}

fn read(file: &Path) -> anyhow::Result<Event> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let item = Json::parse(Bytes::from(bytes)).with_context(|| format!("{} is not JSON", file.display()))?;
    let incoming = match Incoming::read(&item) {
        Ok(incoming) => incoming,
        Err(errors) => {
            let all: Vec<_> = errors.iter().map(|e| format!("{:?}: {}", e.pointer, e.reason)).collect();
            bail!("{} is not an event: {}", file.display(), all.join("; "));
        }
    };
    let now = Clock::System.now();
    let id = incoming.id.clone().unwrap_or_else(|| Arc::from(Entropy::system().id("evt", now)));
    let stamp = Stamp { namespace: Arc::from(""), id, arrived: now, traceparent: None };
    let mut state = State::default();
    state.apply(&incoming);
    Ok(state.assemble(&incoming, None, stamp))
}

/// The headers of a first attempt, signature included; configured ones by name only, since their values are secrets.
fn headers(webhook: &Webhook, payload: &Payload) -> Vec<(String, String)> {
    let now = Clock::System.now();
    let id = Entropy::system().id("msg", now);
    let signed = webhook.signer.headers(&id, now.as_secs(), &payload.body);
    let mut headers: Vec<_> = webhook.headers.iter().map(|(name, _)| (name.to_string(), "****".to_owned())).collect();
    headers.extend(payload.headers.iter().cloned());
    headers.extend(signed.iter().map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())));
    headers
}

fn as_json(webhook: &Webhook, event: &Event, outcome: &Outcome, trace: &Trace) -> Value {
    let (deliveries, error) = match outcome {
        Outcome::Filtered(_) => (&[][..], None),
        Outcome::Payloads(payloads) => (&payloads[..], None),
        Outcome::Failed { error, .. } => (&[][..], Some(error)),
    };
    let deliveries: Vec<Value> = deliveries
        .iter()
        .map(|p| {
            let headers: serde_json::Map<_, _> =
                headers(webhook, p).into_iter().map(|(k, v)| (k, Value::from(v))).collect();
            json!({"payload": serde_json::from_slice::<Value>(&p.body).unwrap_or_default(), "headers": headers})
        })
        .collect();
    json!({
        "accepted": !deliveries.is_empty(),
        "deliveries": deliveries,
        "log": trace.log,
        "operations": trace.operations,
        "micros": trace.micros,
        "error": error.map(|e| {
            json!({
                "event": event.id,
                "file": e.file,
                "function": e.function,
                "line": e.line,
                "column": e.column,
                "kind": e.kind,
                "message": e.message,
                "excerpt": e.excerpt,
            })
        }),
    })
}

/// The payload as `params` made it and as the rule left it.
fn difference(webhook: &Webhook, trace: &Trace, payload: &Payload, paint: &Paint) -> Option<String> {
    // A CloudEvent wraps the payload, so that every line would differ.
    if webhook.program.rule.is_none() || webhook.program.format != Format::Json {
        return None;
    }
    let before: Value = serde_json::from_slice(trace.before.as_ref()?).ok()?;
    let after: Value = serde_json::from_slice(&payload.body).ok()?;
    if before == after {
        return Some("the rule left the payload as params made it\n".to_owned());
    }
    let mut out = String::from("payload (- as params made it, + as the rule left it):\n");
    for line in diff(&before, &after).lines() {
        let _ = writeln!(out, "{}", paint.line(line));
    }
    Some(out)
}

fn shown(webhook: &Webhook, outcome: &Outcome, trace: &Trace, paint: &Paint) -> String {
    let mut out = String::new();
    match outcome {
        Outcome::Filtered(by) => {
            let by = match by {
                FilteredBy::When => "when is false",
                FilteredBy::Accept => "accept returned false",
                FilteredBy::Transform => "transform returned nothing",
            };
            let _ = writeln!(out, "filtered: {by}; nothing would be sent");
        }
        Outcome::Payloads(payloads) => {
            for payload in payloads {
                let _ = writeln!(out, "accepted: would be sent to {}", webhook.url.host_str().unwrap_or_default());
                for (name, value) in headers(webhook, payload) {
                    let _ = writeln!(out, "  {name}: {value}");
                }
                if let Some(difference) = difference(webhook, trace, payload, paint) {
                    out.push_str(&difference);
                }
                let pretty =
                    serde_json::from_slice::<Value>(&payload.body).and_then(|v| serde_json::to_string_pretty(&v));
                let _ = writeln!(out, "{}", pretty.unwrap_or_default());
            }
        }
        Outcome::Failed { error, .. } => {
            let _ = writeln!(out, "{}{}", paint.red("failed: "), error.report());
        }
    }
    for line in &trace.log {
        let _ = writeln!(out, "log: {line}");
    }
    let _ = writeln!(out, "{} operations, {} µs", trace.operations, trace.micros);
    out
}
