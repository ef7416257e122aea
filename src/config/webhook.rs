//! One webhook: from a checked tree to [`Webhook`]. Scripts come in compiled; files are read through the load's reader.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};

use super::auth;
use super::decode::Decoder;
use super::fields::Fields;
use super::mask;
use super::model::{EventPatterns, Method, WaitFor, Webhook};
use super::params::{self, split_help};
use super::scalars::what;
use super::scripts::Library;
use super::shape;
use super::signing;
use super::tls;
use super::values;
use super::yaml::{Node, Span, Value};
use crate::delivery::{BreakerPolicy, Rate, RetryPolicy, Schedule, StatusSet};
use crate::limits;
use crate::rules::{Format, OnRuleError, Program, is_framing};
use crate::sign::Signer;

const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// What all webhooks of a load share.
pub struct Shared<'s> {
    /// `defaults`
    pub defaults: Option<&'s Node>,
    /// Compiled scripts.
    pub library: &'s Library,
    /// `egress.allow_http`
    pub allow_http: bool,
    /// Whether it is `defaults` that is checked, which supplies no whole webhook.
    pub partial: bool,
}

/// Reads one webhook. Nothing comes back when its mistakes leave nothing to run; they are recorded.
pub fn decode(d: &mut Decoder<'_>, name: &str, node: &Node, shared: &Shared<'_>, file_hash: String) -> Option<Webhook> {
    let mut fields = d.fields(node, &shape::WEBHOOK, shared.defaults)?;
    fields.partial = shared.partial;
    let address = fields.require(d, "url", "`url: https://…`");
    let url = address.and_then(|n| Some((url(d, n, shared.allow_http, INTO_AUTH)?, n)));
    let events = fields.require(d, "events", "`events: [conversation.completed]`").and_then(|n| events(d, n));
    let signer = match fields.require(
        d,
        "signing",
        "`signing: {scheme: standard, secrets: [{env: NAME}]}`, or `signing: {scheme: none}`",
    ) {
        Some(node) => signing::decode(d, node),
        None => None,
    };
    let method = match fields.choice(d, "method", "POST") {
        "PUT" => Method::Put,
        "PATCH" => Method::Patch,
        "GET" => Method::Get,
        _ => Method::Post,
    };
    let signature_header = signer.as_ref().map(Signer::reserved).unwrap_or_default();
    let headers = headers(d, &fields, &signature_header);
    let description = fields.get("description").and_then(|n| d.text(n));
    let auth = auth::decode(d, &fields, &headers, shared.allow_http);
    let enabled = fields.boolean(d, "enabled", true);
    let wait_for = wait_for(d, &fields);
    let timeout = fields.duration(d, "timeout", Duration::from_secs(15), (MILLI, HOUR));
    let retry = retry(d, &fields);
    let breaker = breaker(d, &fields);
    let ordered = fields.choice(d, "ordering", "conversation") == "conversation";
    let concurrency = usize::try_from(fields.integer(d, "concurrency", 16)).unwrap_or(16);
    let rate_limit = fields.get("rate_limit").and_then(|n| rate(d, n));
    let priority = fields.integer(d, "priority", 0);
    let format = format(d, &fields, method);
    let on_rule_error = match fields.choice(d, "on_rule_error", "dead_letter") {
        "skip" => OnRuleError::Skip,
        "send_params" => OnRuleError::SendParams,
        _ => OnRuleError::DeadLetter,
    };
    let params = params::decode(d, &fields);
    let when = fields.get("when").and_then(|n| shared.library.when(d, n));
    let rule = fields.get("rule").and_then(|n| shared.library.rule(d, n));
    let tls = tls::decode(d, &fields);
    let mut reserved: Vec<String> = signature_header.iter().map(|n| n.as_str().to_owned()).collect();
    reserved.extend(headers.iter().map(|(n, _)| n.as_str().to_owned()));
    if auth.is_some() {
        reserved.push(header::AUTHORIZATION.as_str().to_owned());
    }
    let ((url, address), events, signer) = (url?, events?, signer?);
    Some(Webhook {
        name: Arc::from(name),
        description,
        shown_url: shown_url(address, &url),
        url,
        method,
        events,
        enabled,
        headers,
        program: Program {
            params,
            when,
            rule,
            on_rule_error,
            format,
            reserved_headers: reserved,
            suspend_for: breaker.open_for,
        },
        wait_for,
        signer,
        timeout,
        retry,
        ordered,
        concurrency,
        rate_limit,
        priority,
        tls,
        auth,
        breaker,
        file_hash,
    })
}

/// What to do with a user name and password in the URL of what has `auth`.
pub const INTO_AUTH: &str = "put them into `auth: {basic: {username: …, password: …}}`";

/// A destination's URL; `instead` tells what to do with a user name and password in it.
pub fn url(d: &mut Decoder<'_>, node: &Node, allow_http: bool, instead: &str) -> Option<url::Url> {
    let text = d.text(node)?;
    let right = "write https://host/path".to_owned();
    let url = match url::Url::parse(&text) {
        Ok(url) => url,
        Err(error) => {
            d.problem(node.span, format!("{} is no URL: {error}", d.quote(node)), Some(right));
            return None;
        }
    };
    if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none_or(str::is_empty) {
        d.problem(node.span, format!("{} is no http URL", d.quote(node)), Some(right));
        return None;
    }
    if url.scheme() == "http" && !allow_http {
        let message = format!("{} is not encrypted", d.quote(node));
        let help = "use https://, or set `egress: {allow_http: true}` in sidehook.yaml".to_owned();
        d.problem(node.span, message, Some(help));
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() {
        d.problem(node.span, "a URL may not hold a user name or password", Some(instead.to_owned()));
        return None;
    }
    if url.fragment().is_some() {
        let message = format!("{} has a `#` part, which is never sent", d.quote(node));
        d.problem(node.span, message, Some("leave it out, or write %23".to_owned()));
        return None;
    }
    Some(url)
}

/// The URL as people see it. Where variables went into it, it stands as it was written: no parsing moves what they hide.
pub fn shown_url(node: &Node, url: &url::Url) -> String {
    match &node.value {
        Value::Scalar(s) if s.interpolated => mask::url(&s.text, &s.variables),
        _ => mask::url(url.as_str(), &[]),
    }
}

fn events(d: &mut Decoder<'_>, node: &Node) -> Option<EventPatterns> {
    let items = d.list(node)?;
    if items.is_empty() {
        let help = "name event types, such as [conversation.completed] or [\"conversation.*\"]".to_owned();
        d.problem(node.span, "`events` is empty, so nothing would match", Some(help));
        return None;
    }
    let mut patterns = Vec::new();
    let mut good = true;
    for item in items {
        let Some(pattern) = d.text(item) else {
            good = false;
            continue;
        };
        if let Err(message) = EventPatterns::new(vec![pattern.clone()]) {
            d.problem(
                item.span,
                format!("no event pattern: {message}"),
                Some("write a type, or a glob such as \"conversation.*\"".to_owned()),
            );
            good = false;
            continue;
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-*?[]{},!".contains(c);
        if pattern.is_empty() || pattern.len() > limits::NAME_BYTES || !pattern.chars().all(allowed) {
            let help = "event types are made of letters, digits, `_`, `.` and `-`".to_owned();
            d.problem(item.span, format!("{} can match no event type", d.quote(item)), Some(help));
            good = false;
            continue;
        }
        suggest_event(d, item, &pattern);
        patterns.push(pattern);
    }
    if !good {
        return None;
    }
    EventPatterns::new(patterns).map_err(|message| d.problem(node.span, message, None)).ok()
}

/// Any type may be subscribed to, but one that is a letter away from a lifecycle event may be a slip, and silent.
fn suggest_event(d: &mut Decoder<'_>, node: &Node, pattern: &str) {
    const KNOWN: [&str; 11] = [
        "conversation.begin",
        "conversation.resume",
        "conversation.completed",
        "conversation.failed",
        "conversation.update",
        "message.received",
        "message.sent",
        "sidehook.delivery.dead",
        "sidehook.webhook.disabled",
        "sidehook.reload.rejected",
        "sidehook.outbox.full",
    ];
    if KNOWN.contains(&pattern) || pattern.contains(['*', '?', '[', '{']) {
        return;
    }
    let close = KNOWN.iter().find(|k| strsim::damerau_levenshtein(k, pattern) <= 2);
    if let Some(known) = close {
        let message = format!("{} is no event of a conversation's life; did you mean `{known}`?", d.quote(node));
        d.warn(node, &message);
    }
}

/// `headers`, without those that sidehook sets itself.
pub fn headers(d: &mut Decoder<'_>, fields: &Fields<'_>, signature: &[HeaderName]) -> Vec<(HeaderName, HeaderValue)> {
    let mut out: Vec<(HeaderName, HeaderValue)> = Vec::new();
    let Some(node) = fields.get("headers") else { return out };
    for (key, value) in d.map(node).unwrap_or_default() {
        let Ok(name) = HeaderName::from_bytes(key.text.as_bytes()) else {
            let help = "write NAME: VALUE, with a name such as X-Source, without colon or blank".to_owned();
            d.problem(key.span, format!("{} is no header name", d.quote_key(key)), Some(help));
            continue;
        };
        if name.as_str().starts_with("webhook-") || is_framing(name.as_str()) || signature.contains(&name) {
            let message = format!("the header `{}` is set by sidehook itself", key.text);
            d.problem(key.span, message, Some("leave it out".to_owned()));
            continue;
        }
        if let Some((first, _)) = out.iter().find(|(n, _)| *n == name) {
            let message = format!("the header `{first}` is already there; header names do not differ by case");
            d.problem(key.span, message, Some("keep one of the two".to_owned()));
            continue;
        }
        if value.is_null() {
            d.problem(
                key.span,
                format!("the header {} has no value", d.quote_key(key)),
                Some("give it one, or leave it out".to_owned()),
            );
            continue;
        }
        let text = match &value.value {
            Value::Map(_) => d.secret(value).map(|secret| secret.expose().to_owned()),
            _ => d.loose(value),
        };
        let Some(text) = text else { continue };
        if let Ok(mut value) = HeaderValue::from_str(&text) {
            value.set_sensitive(true);
            out.push((name, value));
        } else {
            let message = format!(
                "the value of the header `{}` holds a line break, a control character or one beyond ASCII",
                key.text
            );
            d.problem(
                value.span,
                message,
                Some("a trailing newline may come from a block (`|`) or a variable".to_owned()),
            );
        }
    }
    out
}

fn wait_for(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<WaitFor> {
    let node = fields.get("wait_for")?;
    let fields = d.fields(node, &shape::WAIT_FOR, None)?;
    let names = fields.require(d, "analysis", "`analysis: [NAME]`");
    let mut analysis = Vec::new();
    if let Some(node) = names {
        let items = d.list(node).unwrap_or_default();
        if items.is_empty() {
            d.problem(
                node.span,
                "`analysis` names nothing to wait for",
                Some("name an analysis, or leave `wait_for` out".to_owned()),
            );
        }
        for item in items {
            let name = d.text(item);
            if name.as_ref().is_some_and(String::is_empty) {
                d.problem(item.span, "an analysis has a name", Some("write it, or leave it out".to_owned()));
            }
            analysis.extend(name);
        }
    }
    let timeout = fields.duration(d, "timeout", Duration::from_secs(60), (MILLI, MONTH));
    Some(WaitFor { analysis, timeout })
}

fn retry(d: &mut Decoder<'_>, fields: &Fields<'_>) -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    let Some(fields) = fields.get("retry").and_then(|node| d.fields(node, &shape::RETRY, None)) else { return policy };
    if let Some(node) = fields.get("schedule")
        && let Some(schedule) = schedule(d, node)
    {
        policy.schedule = schedule;
    }
    if let Some(jitter) = fields.get("jitter").and_then(|node| d.number(node, 0.0, 1.0)) {
        policy.jitter = jitter;
    }
    if let Some(node) = fields.get("statuses")
        && let Some(statuses) = statuses(d, node)
    {
        policy.statuses = statuses;
    }
    policy
}

fn schedule(d: &mut Decoder<'_>, node: &Node) -> Option<Schedule> {
    if let super::yaml::Value::Map(_) = node.value {
        let fields = d.fields(node, &shape::BACKOFF, None)?;
        let initial = fields.duration(d, "initial", Duration::from_secs(2), (MILLI, MONTH));
        let max = fields.duration(d, "max", HOUR, (MILLI, MONTH));
        let factor = fields.get("factor").and_then(|n| d.number(n, 1.0, 100.0)).unwrap_or(2.0);
        let attempts = u32::try_from(fields.integer(d, "attempts", 10)).unwrap_or(10);
        if max < initial {
            let at = fields.get("max").or(fields.get("initial")).map_or(node.span, |n| n.span);
            let message = format!(
                "`max` ({}) is below `initial` ({})",
                values::show_duration(max),
                values::show_duration(initial)
            );
            d.problem(at, message, Some("raise `max`".to_owned()));
        }
        return Some(Schedule::Exponential { initial, factor, max, attempts });
    }
    let items = d.list(node)?;
    if items.len() > limits::RETRY_ENTRIES {
        let message = format!("more than {} retries", limits::RETRY_ENTRIES);
        d.problem(node.span, message, Some("write a shorter list".to_owned()));
        return None;
    }
    let delays: Vec<Duration> = items.iter().filter_map(|item| d.duration(item, Duration::ZERO, MONTH)).collect();
    (delays.len() == items.len()).then_some(Schedule::List(delays))
}

fn statuses(d: &mut Decoder<'_>, node: &Node) -> Option<StatusSet> {
    let mut texts = Vec::new();
    let items = d.list(node)?;
    for item in items {
        let Some(text) = d.loose(item) else { continue };
        match StatusSet::parse([text.as_str()]) {
            Ok(_) => texts.push(text),
            Err(message) => {
                let (message, help) = split_help(hide(d, item, &text, message));
                d.problem(item.span, message, help);
            }
        }
    }
    if texts.len() < items.len() {
        return None;
    }
    StatusSet::parse(texts.iter().map(String::as_str)).map_err(|message| d.problem(node.span, message, None)).ok()
}

fn rate(d: &mut Decoder<'_>, node: &Node) -> Option<Rate> {
    let text = d.loose(node)?;
    match Rate::parse(&text) {
        Ok(rate) => Some(rate),
        Err(message) => {
            let (message, help) = split_help(hide(d, node, &text, message));
            d.problem(node.span, message, help);
            None
        }
    }
}

/// A message of another module without the value it quotes, where that value may not be seen.
pub fn hide(d: &Decoder<'_>, node: &Node, text: &str, message: String) -> String {
    if d.quote(node).contains(mask::STARS) && !text.is_empty() { message.replace(text, mask::STARS) } else { message }
}

fn breaker(d: &mut Decoder<'_>, fields: &Fields<'_>) -> BreakerPolicy {
    let mut policy = BreakerPolicy::default();
    let Some(fields) = fields.get("breaker").and_then(|node| d.fields(node, &shape::BREAKER, None)) else {
        return policy;
    };
    policy.failures = u32::try_from(fields.integer(d, "failures", 10)).unwrap_or(10);
    policy.open_for = fields.duration(d, "open_for", policy.open_for, (MILLI, 24 * HOUR));
    policy
}

fn format(d: &mut Decoder<'_>, fields: &Fields<'_>, method: Method) -> Format {
    if fields.choice(d, "format", "json") != "cloudevents" {
        return Format::Json;
    }
    if method == Method::Get
        && let Some(node) = fields.get("format")
    {
        let help = "use POST, PUT or PATCH, or leave `format` out".to_owned();
        d.problem(node.span, "a GET has no body that could be a CloudEvent", Some(help));
    }
    Format::CloudEvents
}

/// Records that a webhook exists twice.
pub fn duplicate(d: &mut Decoder<'_>, at: Span, name: &str, other: &str) {
    let help = "rename or remove one of them".to_owned();
    d.problem(at, format!("the webhook `{name}` is already defined in {other}"), Some(help));
}

/// What a file of `webhooks/` must hold.
pub fn not_a_webhook(d: &mut Decoder<'_>, node: &Node) {
    let message = format!("a webhook file holds a mapping, not {}", what(node));
    d.problem(node.span, message, Some("begin with `url:`, `events:` and `signing:`".to_owned()));
}
