//! `sidehook replay`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::bail;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{exit, load, print, runtime};
use crate::clock::{Clock, Timestamp};
use crate::config::values;
use crate::limits;
use crate::net::local;

/// Arguments of `sidehook replay`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  sidehook replay --since 2h --dry-run\n  sidehook replay --since 2026-01-03T11:00:00Z --until 2026-01-03T12:00:00Z --webhook crm"
)]
pub struct Args {
    /// Events that arrived at or after this RFC 3339 time, or so long ago (30m, 2h, 7d).
    #[arg(long, value_name = "TIME")]
    since: String,
    /// Events that arrived before this; now by default.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// For this webhook only.
    #[arg(long, value_name = "NAME")]
    webhook: Option<String>,
    /// Says what would be made, and makes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Page {
    events: u64,
    deliveries: u64,
    webhooks: BTreeMap<String, BTreeMap<String, u64>>,
    errors: Vec<String>,
    next: Option<i64>,
}

/// Renders kept events again, through the running sidehook.
pub fn run(args: &Args, config: &Path) -> anyhow::Result<u8> {
    let now = Clock::System.now();
    let (since, until) = match (time(&args.since, now), args.until.as_deref().map_or(Ok(now), |t| time(t, now))) {
        (Ok(since), Ok(until)) => (since, until),
        (Err(reason), _) | (_, Err(reason)) => {
            complain!("sidehook: {reason}");
            return Ok(exit::USAGE);
        }
    };
    let generation = match load(config) {
        Ok(generation) => generation,
        Err(code) => return Ok(code),
    };
    let settings = &generation.settings;
    if settings.outbox.retain_events.is_zero() {
        complain!("note: outbox.retain.events is 0s, so no events are kept; there is nothing to render again");
    }
    let mut total = Page { events: 0, deliveries: 0, webhooks: BTreeMap::new(), errors: Vec::new(), next: Some(0) };
    runtime()?.block_on(async {
        while let Some(after) = total.next {
            let asked = json!({
                "since": since.to_string(),
                "until": until.to_string(),
                "webhook": args.webhook,
                "dry_run": args.dry_run,
                "after": after,
            });
            let token = settings.admin.token.as_ref();
            let body = asked.to_string().into();
            let answer = local::post(&settings.admin.listen, "/api/v1/replay", token, body).await?;
            if !answer.status.is_success() {
                let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let said = String::from_utf8_lossy(&answer.body);
                bail!("{} (after {} events)", problem["detail"].as_str().unwrap_or(&said), total.events);
            }
            total.add(serde_json::from_slice(&answer.body)?);
        }
        Ok(())
    })?;
    print(&if args.json { total.as_json(args.dry_run) } else { total.as_text(args.dry_run) })?;
    Ok(exit::OK)
}

fn time(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let ago = || values::duration(text).ok().map(|ago| now.minus(ago));
    Timestamp::parse_rfc3339(text)
        .or_else(ago)
        .ok_or_else(|| format!("{text:?} is neither an RFC 3339 time nor a duration such as 30m, 2h or 7d"))
}

impl Page {
    fn add(&mut self, page: Self) {
        self.events += page.events;
        self.deliveries += page.deliveries;
        self.next = page.next;
        for (webhook, counts) in page.webhooks {
            let into = self.webhooks.entry(webhook).or_default();
            for (name, count) in counts {
                *into.entry(name).or_default() += count;
            }
        }
        // As many as one page shows.
        let room = limits::REPLAY_ERRORS.saturating_sub(self.errors.len());
        self.errors.extend(page.errors.into_iter().take(room));
    }

    fn as_json(&self, dry_run: bool) -> String {
        let shown = json!({
            "dry_run": dry_run,
            "events": self.events,
            "deliveries": self.deliveries,
            "webhooks": self.webhooks,
            "errors": self.errors,
        });
        format!("{shown}\n")
    }

    fn as_text(&self, dry_run: bool) -> String {
        let would = if dry_run { "would be made" } else { "made" };
        let mut out = format!("{} kept events, {} deliveries {would}\n", self.events, self.deliveries);
        for (webhook, counts) in &self.webhooks {
            let count = |name: &str| counts.get(name).copied().unwrap_or(0);
            let _ = writeln!(
                out,
                "{webhook}: {} matched, {} filtered, {} rendered, {} failed",
                count("matched"),
                count("filtered"),
                count("rendered"),
                count("rule_failed")
            );
        }
        for error in &self.errors {
            let _ = writeln!(out, "failed: {error}");
        }
        out
    }
}
