//! `sidehook deliveries list|show|retry`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Subcommand;

use super::{address, exit, print, reach, read_outbox, runtime};
use crate::net::local;
use crate::outbox::{DeliveryView, Filter, Outbox};
use crate::secret::Secret;

/// Arguments of `sidehook deliveries`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  sidehook deliveries list --state dead\n  sidehook deliveries show msg_01H…\n  sidehook deliveries retry --webhook crm"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists deliveries, newest first; reads the outbox beside a running sidehook.
    #[command(after_help = "Example:\n  sidehook deliveries list --webhook crm --state pending --json")]
    List {
        #[command(flatten)]
        filter: Filters,
        /// At most so many; all of them by default.
        #[arg(long, value_name = "N")]
        limit: Option<std::num::NonZeroUsize>,
        /// Prints a JSON array.
        #[arg(long)]
        json: bool,
        /// Reads this outbox directory and no configuration, which may be broken.
        #[arg(long, value_name = "DIR")]
        outbox: Option<PathBuf>,
    },
    /// Shows one delivery with its attempts.
    #[command(after_help = "Example:\n  sidehook deliveries show msg_01HZX2 --json")]
    Show {
        /// The webhook-id.
        id: String,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
        /// Reads this outbox directory and no configuration, which may be broken.
        #[arg(long, value_name = "DIR")]
        outbox: Option<PathBuf>,
    },
    /// Makes a delivery due now, or all dead ones that match; asks the running sidehook's admin API.
    #[command(
        after_help = "Examples:\n  sidehook deliveries retry msg_01HZX2\n  sidehook deliveries retry --webhook crm --state dead\n  sidehook deliveries retry --admin http://127.0.0.1:7071 --webhook crm"
    )]
    Retry {
        /// The webhook-id; or leave it out and name a filter.
        #[arg(conflicts_with_all = ["webhook", "state", "event", "conversation", "since", "until"])]
        id: Option<String>,
        #[command(flatten)]
        filter: Filters,
        /// The admin API, `http://HOST:PORT` or `unix:/path`; by default `admin.listen` of the configuration.
        #[arg(long, value_name = "URL")]
        admin: Option<String>,
        /// Its bearer token, with --admin or in place of the configured one.
        #[arg(long, env = "SIDEHOOK_ADMIN_TOKEN", hide_env_values = true)]
        token: Option<String>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Filters {
    /// Of this webhook.
    #[arg(long)]
    webhook: Option<String>,
    /// pending, delivered, dead or held.
    #[arg(long)]
    state: Option<String>,
    /// Of events of this type.
    #[arg(long)]
    event: Option<String>,
    /// Of this conversation.
    #[arg(long)]
    conversation: Option<String>,
    /// Created at or after this RFC 3339 time.
    #[arg(long)]
    since: Option<String>,
    /// Created before this RFC 3339 time.
    #[arg(long)]
    until: Option<String>,
}

impl Filters {
    fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let fields = [
            ("webhook", &self.webhook),
            ("state", &self.state),
            ("event", &self.event),
            ("conversation", &self.conversation),
            ("since", &self.since),
            ("until", &self.until),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    fn compile(&self) -> Result<Filter, String> {
        let mut filter = Filter::default();
        for (name, value) in self.fields() {
            filter.set(name, value)?;
        }
        Ok(filter)
    }
}

/// Deliveries read from the outbox in one go.
const PAGE: usize = 500;

/// Runs the subcommand.
pub fn run(args: &Args, config: &Path) -> anyhow::Result<u8> {
    let filters = match &args.command {
        Command::List { filter, .. } | Command::Retry { filter, .. } => Some(filter),
        Command::Show { .. } => None,
    };
    if let Some(Err(reason)) = filters.map(Filters::compile) {
        complain!("sidehook: {reason}");
        return Ok(exit::USAGE);
    }
    runtime()?.block_on(async {
        match &args.command {
            Command::List { filter, limit, json, outbox } => {
                let outbox = match read_outbox(outbox.as_deref(), config)? {
                    Ok(outbox) => outbox,
                    Err(code) => return Ok(code),
                };
                let filter = filter.compile().unwrap_or_default();
                list(&outbox, &filter, limit.map_or(usize::MAX, std::num::NonZeroUsize::get), *json).await
            }
            Command::Show { id, json, outbox } => {
                let outbox = match read_outbox(outbox.as_deref(), config)? {
                    Ok(outbox) => outbox,
                    Err(code) => return Ok(code),
                };
                let Some(delivery) = outbox.get(id).await? else { bail!("there is no delivery {id:?}") };
                print(&if *json { format!("{}\n", serde_json::to_string(&delivery)?) } else { shown(&delivery) })?;
                Ok(exit::OK)
            }
            Command::Retry { id, filter, admin, token, json } => {
                if id.is_none() && filter.fields().next().is_none() {
                    complain!(
                        "sidehook: say what to retry: an ID, such as `sidehook deliveries retry msg_01HZX2`, or a \
                         filter, such as `--webhook crm --state dead` (`sidehook deliveries list` shows what there is)"
                    );
                    return Ok(exit::USAGE);
                }
                let given = token.as_deref().map(Secret::new);
                let (listen, token) = match admin {
                    Some(url) => (address("--admin", url)?.0, given),
                    None => {
                        match reach(config, |reach| reach.admin, "name the admin API with --admin http://HOST:PORT") {
                            Ok((listen, token)) => (listen, given.or(token)),
                            Err(code) => return Ok(code),
                        }
                    }
                };
                let (path, body) = if let Some(id) = id {
                    let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
                    (format!("/api/v1/deliveries/{id}/retry"), String::new())
                } else {
                    let fields: serde_json::Map<_, _> =
                        filter.fields().map(|(k, v)| (k.to_owned(), serde_json::Value::from(v))).collect();
                    ("/api/v1/deliveries/retry".to_owned(), serde_json::Value::from(fields).to_string())
                };
                let answer = local::post(&listen, &path, token.as_ref(), body.into()).await?;
                let text = String::from_utf8_lossy(&answer.body);
                let parsed: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                if !answer.status.is_success() {
                    bail!("{}", parsed["detail"].as_str().unwrap_or(&text));
                }
                if *json {
                    print(&format!("{text}\n"))?;
                } else {
                    let none = if parsed["retried"] == 0 { " (nothing matches that may be sent again)" } else { "" };
                    print(&format!("{} to be sent again{none}\n", parsed["retried"]))?;
                }
                Ok(exit::OK)
            }
        }
    })
}

async fn list(outbox: &Outbox, filter: &Filter, limit: usize, json: bool) -> anyhow::Result<u8> {
    let mut left = limit;
    let mut cursor = None;
    let mut separator = "";
    if json {
        print("[")?;
    }
    while left > 0 {
        let page = outbox.list(filter, cursor.as_deref(), left.min(PAGE)).await?;
        left -= page.items.len().min(left);
        for item in &page.items {
            if json {
                print(&format!("{separator}{}", serde_json::to_string(item)?))?;
                separator = ",\n";
            } else {
                print(&line(item))?;
            }
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    if json {
        print("]\n")?;
    }
    Ok(exit::OK)
}

fn line(delivery: &DeliveryView) -> String {
    let reason = delivery.reason.as_deref().map(|r| format!("  ({r})")).unwrap_or_default();
    format!(
        "{}  {:9}  {}  {}  {}  {} attempts{reason}\n",
        delivery.id,
        delivery.state.name(),
        delivery.webhook,
        delivery.event,
        delivery.created_at,
        delivery.attempts.len()
    )
}

fn shown(delivery: &DeliveryView) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:13} {value}");
    };
    row("id", &delivery.id);
    row("webhook", &delivery.webhook);
    row("event", &format!("{} ({})", delivery.event, delivery.event_id));
    row("conversation", delivery.conversation.as_deref().unwrap_or("-"));
    let reason = delivery.reason.as_deref().map(|r| format!(" ({r})")).unwrap_or_default();
    row("state", &format!("{}{reason}", delivery.state.name()));
    row("created", &delivery.created_at.to_string());
    if let Some(at) = delivery.next_attempt_at {
        row("next attempt", &at.to_string());
    }
    for attempt in &delivery.attempts {
        let error = attempt.error.as_deref().map(|e| format!(": {e}")).unwrap_or_default();
        row("attempt", &format!("{}  {}  {} ms{error}", attempt.at, attempt.status, attempt.duration_ms));
        if let Some(response) = attempt.response.as_deref().filter(|r| !r.is_empty()) {
            row("  response", &format!("{response:?}"));
        }
    }
    out
}
