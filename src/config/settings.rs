//! `sidehook.yaml` without its webhooks: from a checked tree to [`Settings`]. Does no I/O of its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::analyses;
use super::decode::Decoder;
use super::fields::Fields;
use super::model::{Admin, Analysis, Conversations, Egress, Listen, OutboxSettings, Reach, Settings, SourceKind};
use super::proxy;
use super::sealing;
use super::shape;
use super::sources::{self, is_local, listen};
use super::values;
use super::yaml::{Key, Node, Value};
use crate::limits;
use crate::rules::ScriptLimits;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The settings, and what only the load needs.
pub struct Decoded {
    /// The settings.
    pub settings: Settings,
    /// `analyses`
    pub analyses: Vec<Arc<Analysis>>,
    /// `limits.script_operations`, `limits.script_time`
    pub script_limits: ScriptLimits,
    /// `rules_dir`
    pub rules_dir: PathBuf,
    /// Where another `rules_dir` than the default was written: it must be there.
    pub rules_dir_node: Option<(super::yaml::Span, String)>,
    /// The values of `rules_env`.
    pub rules_env: BTreeMap<String, String>,
}

/// Reads the settings of the root mapping.
pub fn decode(d: &mut Decoder<'_>, root: &Fields<'_>) -> Decoded {
    let day = (Duration::ZERO, YEARS);
    let sources = sources::decode(d, root);
    let (outbox_path, outbox) = outbox(d, root);
    let conversations = conversations(d, root);
    let admin = admin(d, root);
    let egress = egress(d, root);
    let (body_bytes, concurrency, script_limits) = bounds(d, root);
    let reload = root.get("reload").and_then(|node| d.fields(node, &shape::RELOAD, None));
    let run_tests = reload.as_ref().is_some_and(|fields| fields.boolean(d, "run_tests", false));
    let canary = reload.as_ref().map_or(0, |fields| canary(d, fields, &outbox));
    let analyses = analyses::decode(d, root, egress.allow_http);
    let dedupe_window = root.duration(d, "dedupe_window", DAY, day);
    let (shutdown_accept, shutdown_grace) = shutdown(d, root);
    sources::same_address(d, root, &sources, &admin);
    sources::encrypted(d, root, egress.allow_http, &sources);
    let dir = root.get("rules_dir").and_then(|node| d.text(node).map(|text| (node.span, d.quote(node), text)));
    let rules_dir = d.locate(dir.as_ref().map_or("rules", |(.., text)| text.as_str()));
    Decoded {
        analyses,
        script_limits,
        rules_dir,
        // The default need not be there, written out or not.
        rules_dir_node: dir.filter(|(.., text)| text != "rules").map(|(span, shown, _)| (span, shown)),
        rules_env: rules_env(d, root),
        settings: Settings {
            sources,
            dedupe_window,
            outbox_path,
            outbox,
            conversations,
            admin,
            egress,
            body_bytes,
            concurrency,
            run_tests,
            canary,
            shutdown_accept,
            shutdown_grace,
        },
    }
}

/// `reload.canary`, which is nothing without events to try.
fn canary(d: &mut Decoder<'_>, reload: &Fields<'_>, outbox: &OutboxSettings) -> usize {
    let canary = usize::try_from(reload.integer(d, "canary", 0)).unwrap_or(0);
    if canary > 0
        && outbox.retain_events.is_zero()
        && let Some(node) = reload.get("canary")
    {
        let help = "write `outbox: {retain: {events: 1h}}`, or leave `canary` out".to_owned();
        d.problem(node.span, "there are no kept events to try: `outbox.retain.events` is 0s", Some(help));
    }
    canary
}

/// What of the settings says how to reach a running sidehook, as far as nothing is wrong with it.
pub fn reach(d: &Decoder<'_>, tree: &Node, root: &Fields<'_>, settings: &Settings) -> Reach {
    if d.is_unsure(tree) {
        // What stands behind a mistake in the YAML itself may be missing from the tree.
        return Reach::default();
    }
    let good = |name| root.get(name).is_none_or(|node| !d.is_troubled(node));
    // The first as they are written.
    let written = match root.get("sources").map(|node| &node.value) {
        Some(Value::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    let first = written.iter().find_map(|(key, _)| match &settings.sources.get(&key.text)?.kind {
        SourceKind::Http { listen, token } => Some((listen.clone(), token.clone())),
        _ => None,
    });
    Reach {
        admin: good("admin").then(|| (settings.admin.listen.clone(), settings.admin.token.clone())),
        source: first.filter(|_| good("sources")),
        outbox: outbox_is_good(d, root)
            .then(|| (settings.outbox_path.clone(), settings.outbox.encryption_keys.clone())),
    }
}

/// Whether `outbox` has no problem but with its key, which most looks at a store do not need.
fn outbox_is_good(d: &Decoder<'_>, root: &Fields<'_>) -> bool {
    root.get("outbox").is_none_or(|node| {
        let key = match &node.value {
            super::yaml::Value::Map(entries) => entries.iter().find(|(key, _)| key.text == "encryption_key"),
            _ => None,
        };
        !d.is_troubled_beside(node, key.map(|(_, value)| value))
    })
}

/// Checks a name that stands as a key.
pub fn check_name(d: &mut Decoder<'_>, key: &Key, of: &str) {
    if let Err(right) = values::name(&key.text) {
        d.problem(key.span, format!("not a name for a {of}: {right}"), Some(values::rename(&key.text)));
    }
}

fn outbox(d: &mut Decoder<'_>, root: &Fields<'_>) -> (PathBuf, OutboxSettings) {
    let mut out = OutboxSettings {
        max_bytes: 1 << 30,
        drop_oldest_begin: false,
        retain_delivered: DAY,
        retain_dead: 30 * DAY,
        retain_events: Duration::ZERO,
        retain_bodies: false,
        encryption_keys: Vec::new(),
    };
    let mut path = d.locate("data");
    let Some(fields) = root.get("outbox").and_then(|node| d.fields(node, &shape::OUTBOX, None)) else {
        return (path, out);
    };
    if let Some(text) = fields.get("path").and_then(|node| d.text(node)) {
        path = d.locate(&text);
    }
    if let Some(node) = fields.get("max_bytes")
        && let Some(bytes) = d.size(node)
    {
        // Below this the store's own pages and its reserve would not fit.
        if bytes < limits::OUTBOX_LEAST_BYTES {
            let help = format!("write at least {}", values::show_size(limits::OUTBOX_LEAST_BYTES));
            d.problem(node.span, format!("{} is too small for an outbox", d.quote(node)), Some(help));
        }
        out.max_bytes = bytes;
    }
    out.drop_oldest_begin = fields.choice(d, "when_full", "reject") == "drop_oldest_begin";
    if let Some(retain) = fields.get("retain").and_then(|node| d.fields(node, &shape::RETAIN, None)) {
        let any = (Duration::ZERO, YEARS);
        out.retain_delivered = retain.duration(d, "delivered", out.retain_delivered, any);
        out.retain_dead = retain.duration(d, "dead", out.retain_dead, any);
        out.retain_events = retain.duration(d, "events", out.retain_events, any);
        out.retain_bodies = retain.boolean(d, "bodies", false);
    }
    out.encryption_keys = fields.get("encryption_key").map(|node| sealing::keys(d, node)).unwrap_or_default();
    (path, out)
}

fn conversations(d: &mut Decoder<'_>, root: &Fields<'_>) -> Conversations {
    let mut out = Conversations { durable: true, retain: HOUR, idle_timeout: None, max_open_age: 7 * DAY };
    let Some(fields) = root.get("conversations").and_then(|node| d.fields(node, &shape::CONVERSATIONS, None)) else {
        return out;
    };
    out.durable = fields.choice(d, "state", "durable") == "durable";
    out.retain = fields.duration(d, "retain", out.retain, (Duration::ZERO, YEARS));
    out.max_open_age = fields.duration(d, "max_open_age", out.max_open_age, (SECOND, YEARS));
    out.idle_timeout = fields.get("idle_timeout").and_then(|node| d.duration(node, SECOND, YEARS));
    if let (Some(idle), Some(node)) = (out.idle_timeout, fields.get("idle_timeout"))
        && idle > out.max_open_age
    {
        let message = format!(
            "`idle_timeout` ({}) is beyond `max_open_age` ({}), after which nothing is known of a conversation",
            values::show_duration(idle),
            values::show_duration(out.max_open_age)
        );
        d.problem(node.span, message, Some("raise `max_open_age`, or lower this".to_owned()));
    }
    out
}

fn admin(d: &mut Decoder<'_>, root: &Fields<'_>) -> Admin {
    let mut out =
        Admin { listen: Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 7071))), token: None, hosts: Vec::new() };
    let Some(fields) = root.get("admin").and_then(|node| d.fields(node, &shape::ADMIN, None)) else { return out };
    let node = fields.get("listen");
    if let Some(listen) = node.and_then(|node| listen(d, node)) {
        out.listen = listen;
    }
    out.token = fields.get("token").and_then(|n| d.secret(n));
    if let Some(node) = node
        && fields.get("token").is_none()
        && !is_local(&out.listen)
    {
        let message = format!("{} can be reached from other machines, so `admin.token` is required", d.quote(node));
        let help = "add `token: {env: ADMIN_TOKEN}`, or listen on 127.0.0.1".to_owned();
        d.problem(node.span, message, Some(help));
    }
    if let Some(node) = fields.get("hosts") {
        for item in d.list(node).unwrap_or_default() {
            let Some(host) = d.text(item) else { continue };
            if host.is_empty() || host.contains(['/', ' ', ':', '*']) {
                let message = format!("{} is no host name", d.quote(item));
                d.problem(
                    item.span,
                    message,
                    Some("write a name such as sidehook.example.com, without port".to_owned()),
                );
            }
            out.hosts.push(host);
        }
    }
    out
}

fn egress(d: &mut Decoder<'_>, root: &Fields<'_>) -> Egress {
    let mut out = Egress::default();
    let Some(fields) = root.get("egress").and_then(|node| d.fields(node, &shape::EGRESS, None)) else { return out };
    out.allow_http = fields.boolean(d, "allow_http", false);
    let (deny, allow) = (fields.get("deny"), fields.get("allow"));
    out.deny = deny.map(|node| networks(d, node)).unwrap_or_default();
    out.allow = allow.map(|node| networks(d, node)).unwrap_or_default();
    out.proxy = proxy::decode(d, &fields);
    out
}

fn networks(d: &mut Decoder<'_>, node: &Node) -> Vec<ipnet::IpNet> {
    let mut out = Vec::new();
    for item in d.list(node).unwrap_or_default() {
        let Some(text) = d.text(item) else { continue };
        let parsed =
            text.parse::<ipnet::IpNet>().or_else(|e| text.parse::<std::net::IpAddr>().map(Into::into).map_err(|_| e));
        match parsed {
            Ok(net) if net.trunc() == net => out.push(net),
            Ok(net) => {
                let message = format!("{} has bits set behind its prefix", d.quote(item));
                d.problem(
                    item.span,
                    message,
                    Some(format!("write {} or {}/{}", net.trunc(), net.addr(), net.max_prefix_len())),
                );
            }
            Err(_) => {
                let help =
                    "write a network such as 10.0.0.0/8 or \"fd00::/8\", or one address; names are not resolved here";
                d.problem(item.span, format!("{} is no network", d.quote(item)), Some(help.to_owned()));
            }
        }
    }
    out
}

fn bounds(d: &mut Decoder<'_>, root: &Fields<'_>) -> (u64, usize, ScriptLimits) {
    let mut body = limits::DEFAULT_BODY_BYTES;
    let mut concurrency = limits::DEFAULT_CONCURRENCY;
    let mut scripts = ScriptLimits { operations: limits::DEFAULT_SCRIPT_OPERATIONS, time: limits::DEFAULT_SCRIPT_TIME };
    let Some(fields) = root.get("limits").and_then(|node| d.fields(node, &shape::LIMITS, None)) else {
        return (body, concurrency, scripts);
    };
    if let Some(node) = fields.get("body")
        && let Some(bytes) = d.size(node)
    {
        if !(1024..=limits::MOST_BODY_BYTES).contains(&bytes) {
            let help = format!("write 1KiB to {}", values::show_size(limits::MOST_BODY_BYTES));
            d.problem(node.span, format!("{} is out of bounds", d.quote(node)), Some(help));
        }
        body = bytes;
    }
    let number = fields.integer(d, "concurrency", i64::try_from(concurrency).unwrap_or(i64::MAX));
    concurrency = usize::try_from(number).unwrap_or(concurrency);
    let operations = fields.integer(d, "script_operations", i64::try_from(scripts.operations).unwrap_or(i64::MAX));
    scripts.operations = u64::try_from(operations).unwrap_or(scripts.operations);
    let bounds = (Duration::from_millis(1), Duration::from_secs(10));
    scripts.time = fields.duration(d, "script_time", scripts.time, bounds);
    (body, concurrency, scripts)
}

fn shutdown(d: &mut Decoder<'_>, root: &Fields<'_>) -> (Duration, Duration) {
    let (accept, grace) = (5 * SECOND, 20 * SECOND);
    let Some(fields) = root.get("shutdown").and_then(|node| d.fields(node, &shape::SHUTDOWN, None)) else {
        return (accept, grace);
    };
    let bounds = (Duration::ZERO, HOUR);
    (fields.duration(d, "accept", accept, bounds), fields.duration(d, "grace", grace, bounds))
}

fn rules_env(d: &mut Decoder<'_>, root: &Fields<'_>) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let Some(node) = root.get("rules_env") else { return out };
    for item in d.list(node).unwrap_or_default() {
        let Some(name) = d.text(item) else { continue };
        if let Some(value) = (d.env)(&name) {
            out.insert(name, value);
        } else {
            let message = format!("the variable {} is not set", d.quote(item));
            d.problem(item.span, message, Some("set it, or take it off the list".to_owned()));
        }
    }
    out
}
