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
use crate::config::{Generation, Webhook};
use crate::event::{Event, Incoming, Json, Kind, Role, Stamp, State};
use crate::rules::testing::{diff, value};
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
    // What a webhook has not subscribed to reaches neither its rule nor its params.
    let subscribed = webhook.events.matches(&event.kind);
    let outcome = subscribed.then(|| webhook.program.evaluate(&event, Some(&mut trace)));
    let failed = matches!(outcome, Some(Outcome::Failed { .. }));
    let text = if args.json {
        format!("{}\n", as_json(webhook, &event, outcome.as_ref(), &trace, &missing_analyses(&generation, &event)))
    } else {
        let mut out = format!("event {} ({})\n", event.id, event.kind);
        if !webhook.enabled {
            out.push_str("note: the webhook has `enabled: false`, so nothing is sent until that is changed\n");
        }
        let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        if subscribed && let Some(note) = not_called(&generation, &event) {
            let _ = writeln!(out, "note: {note}");
        }
        if let Some(outcome) = &outcome {
            out.push_str(&shown(webhook, outcome, &trace, &Paint { color }));
        } else {
            let written = webhook.events.as_written().join(", ");
            let _ = writeln!(
                out,
                "not accepted: {} is not among this webhook's events, so nothing would be sent\n  events: [{written}]",
                event.kind,
            );
        }
        out
    };
    print(&text)?;
    Ok(if failed { exit::FAILED } else { exit::OK })
}

fn read(file: &Path) -> anyhow::Result<Event> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let item = Json::parse(Bytes::from(bytes)).with_context(|| format!("{} is not JSON", file.display()))?;
    if item.kind() == Kind::Array {
        bail!("{} holds an array; preview takes a file with one event", file.display());
    }
    let incoming = match Incoming::read(&item) {
        Ok(incoming) => incoming,
        Err(errors) => {
            let all: Vec<_> = errors
                .iter()
                .map(|e| format!("{} {}", if e.pointer.is_empty() { "it" } else { &e.pointer }, e.reason))
                .collect();
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

/// What a preview leaves out: it sends nothing, so it calls nothing either.
fn not_called(generation: &Generation, event: &Event) -> Option<String> {
    let missing = missing_analyses(generation, event);
    (!missing.is_empty()).then(|| {
        format!(
            "analyses are not called in a preview; without {} in the event's `analysis` it is shown as if they had failed",
            missing.join(", ")
        )
    })
}

fn missing_analyses(generation: &Generation, event: &Event) -> Vec<String> {
    if Role::of(&event.kind) != Role::End {
        return Vec::new();
    }
    let there = event.map("analysis");
    let missing = generation.analyses.iter().filter(|analysis| there.get(&analysis.name).is_none());
    missing.map(|analysis| analysis.name.to_string()).collect()
}

/// The headers of a first attempt, signature included; configured ones by name only, since their values are secrets.
fn headers(webhook: &Webhook, payload: &Payload) -> Vec<(String, String)> {
    let now = Clock::System.now();
    let id = Entropy::system().id("msg", now);
    let signed = webhook.signer.headers(&id, now.as_secs(), &payload.body);
    let mut headers: Vec<_> = webhook.headers.iter().map(|(name, _)| (name.to_string(), "****".to_owned())).collect();
    if webhook.auth.is_some() {
        headers.push(("authorization".to_owned(), "****".to_owned()));
    }
    headers.extend(payload.headers.iter().cloned());
    headers.extend(signed.iter().map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())));
    headers
}

fn as_json(
    webhook: &Webhook,
    event: &Event,
    outcome: Option<&Outcome>,
    trace: &Trace,
    not_called: &[String],
) -> String {
    let (deliveries, error) = match outcome {
        None | Some(Outcome::Filtered(_)) => (&[][..], None),
        Some(Outcome::Payloads(payloads)) => (&payloads[..], None),
        Some(Outcome::Failed { error, .. }) => (&[][..], Some(error)),
    };
    let accepted = !deliveries.is_empty();
    // Written by hand, so that a payload's numbers keep their digits.
    let deliveries: Vec<String> = deliveries
        .iter()
        .map(|p| {
            let headers: serde_json::Map<_, _> =
                headers(webhook, p).into_iter().map(|(k, v)| (k, Value::from(v))).collect();
            format!("{{\"payload\":{},\"headers\":{}}}", String::from_utf8_lossy(&p.body), Value::from(headers))
        })
        .collect();
    let reason = match outcome {
        None => Some(format!("{} is not among this webhook's events", event.kind)),
        Some(Outcome::Filtered(by)) => Some(filtered(*by).to_owned()),
        Some(Outcome::Payloads(_) | Outcome::Failed { .. }) => None,
    };
    let rest = json!({
        "reason": reason,
        "analyses_not_called": not_called,
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
    });
    let rest = rest.to_string();
    format!("{{\"accepted\":{accepted},\"deliveries\":[{}],{}", deliveries.join(","), &rest[1..])
}

/// Lines around a change that are shown with it.
const CONTEXT: usize = 2;

/// What the rule changed in the payload that `params` made; the rest is shown once, in the payload itself.
fn difference(webhook: &Webhook, trace: &Trace, payload: &Payload, paint: &Paint) -> Option<String> {
    // A CloudEvent wraps the payload, so that every line would differ.
    if webhook.program.rule.is_none() || webhook.program.format != Format::Json {
        return None;
    }
    let before = value(&Json::parse(trace.before.clone()?).ok()?);
    let after = value(&Json::parse(payload.body.clone()).ok()?);
    if before == after {
        return Some("the rule left the payload as params made it\n".to_owned());
    }
    let mut out = String::from("the rule changed it (- as params made it, + as the rule left it):\n");
    let all = diff(&before, &after);
    let lines: Vec<&str> = all.lines().collect();
    let changed: Vec<usize> = (0..lines.len()).filter(|i| !lines[*i].starts_with(' ')).collect();
    let near = |i: usize| changed.iter().any(|c| c.abs_diff(i) <= CONTEXT);
    for (i, line) in lines.iter().enumerate() {
        if near(i) {
            let _ = writeln!(out, "{}", paint.line(line));
        } else if i == 0 || near(i - 1) {
            out.push_str("  …\n");
        }
    }
    Some(out)
}

fn filtered(by: FilteredBy) -> &'static str {
    match by {
        FilteredBy::When => "when is false",
        FilteredBy::Accept => "accept returned false",
        FilteredBy::Transform => "transform returned nothing",
    }
}

fn shown(webhook: &Webhook, outcome: &Outcome, trace: &Trace, paint: &Paint) -> String {
    let mut out = String::new();
    match outcome {
        Outcome::Filtered(by) => {
            let _ = writeln!(out, "filtered: {}; nothing would be sent", filtered(*by));
        }
        Outcome::Payloads(payloads) => {
            for payload in payloads {
                let _ = writeln!(
                    out,
                    "accepted: would be sent to {}",
                    webhook.hide_host(webhook.url.host_str().unwrap_or_default().to_owned())
                );
                for (name, value) in headers(webhook, payload) {
                    let _ = writeln!(out, "  {name}: {value}");
                }
                // As it would be sent where reading it would round a number.
                let pretty = Json::parse(payload.body.clone()).map(|json| value(&json)).ok();
                let raw = String::from_utf8_lossy(&payload.body);
                let pretty = pretty.map(|v| format!("{v:#}")).filter(|text| !text.contains(" (number)\""));
                let _ = writeln!(out, "{}", pretty.as_deref().unwrap_or(&raw));
                if let Some(difference) = difference(webhook, trace, payload, paint) {
                    out.push_str(&difference);
                }
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
