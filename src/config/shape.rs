//! Every key that a configuration may hold, in one table: its kind, its default, what it is for. Decoders, the masking
//! of shown lines and the JSON Schema all read this table, so that none of them can know a key the others do not.

mod sources;

use crate::limits;

/// What a key's value is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Text.
    Text,
    /// Text as it is written, be it a number or a boolean to YAML.
    Written,
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Integer(i64, i64),
    /// A number within bounds.
    Number(f64, f64),
    /// `50ms`, `15s`, `5m`, `24h`, `7d`.
    Duration,
    /// `8MiB`, `1GiB`.
    Size,
    /// `50/s`, `100/m`, `10/h`.
    Rate,
    /// A literal, `{env: NAME}` or `{file: PATH}`.
    Secret,
    /// A header's value: text, or from where it comes, as a secret.
    HeaderValue,
    /// A path, relative to the config directory.
    Path,
    /// An `https://` (or `http://`) URL.
    Url,
    /// `IP:PORT` or `unix:/path`.
    Listen,
    /// A network such as `10.0.0.0/8`.
    Network,
    /// A status such as `429` or `5xx`.
    Status,
    /// A selector such as `analysis.sentiment`, or `{value: …}`.
    Selector,
    /// `1.2` or `1.3`, quoted or not.
    TlsVersion,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Null.
    Null,
    /// Any value.
    Any,
    /// A list of one kind.
    List(&'static Kind),
    /// A mapping with free keys.
    Map(&'static Kind),
    /// A mapping with these keys.
    Block(&'static Block),
    /// A source: its keys depend on `type`.
    Source,
    /// One of several kinds.
    Either(&'static [Kind]),
}

/// A mapping with known keys.
#[derive(Debug)]
pub struct Block {
    /// Its name in the schema and in messages.
    pub name: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key.
#[derive(Debug)]
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// Whether it is known but not available in this version.
    pub later: bool,
    /// Its default, as JSON; empty when there is none to show.
    pub default: &'static str,
    /// One line for an editor.
    pub doc: &'static str,
}

impl Block {
    /// A key by its name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, required: false, later: false, default, doc }
}

const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, required: true, later: false, default: "", doc }
}

const fn later(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, required: false, later: true, default: "", doc }
}

/// `sidehook.yaml`.
pub static ROOT: Block = Block {
    name: "sidehook",
    keys: &[
        key(
            "sources",
            Kind::Map(&Kind::Source),
            "",
            "Where events come in, by name. Default: events on 127.0.0.1:7070.",
        ),
        key("webhooks", Kind::Map(&Kind::Block(&WEBHOOK)), "{}", "Webhooks by name; or one file each in webhooks/."),
        key("rules_dir", Kind::Path, "\"rules\"", "Folder of the Rhai scripts."),
        key("rules_env", Kind::List(&Kind::Text), "[]", "Environment variables that env() may read."),
        key("dedupe_window", Kind::Duration, "\"24h\"", "How long an event's id is remembered."),
        key(
            "analyses",
            Kind::List(&Kind::Block(&ANALYSIS)),
            "[]",
            "HTTP calls made at a conversation's end, before its webhooks.",
        ),
        key("outbox", Kind::Block(&OUTBOX), "", "Where deliveries are kept until they are done."),
        key("conversations", Kind::Block(&CONVERSATIONS), "", "How conversation state is kept."),
        key("admin", Kind::Block(&ADMIN), "", "Health, metrics and API."),
        key("defaults", Kind::Block(&WEBHOOK), "{}", "Any webhook key; a webhook's own key replaces it whole."),
        key("egress", Kind::Block(&EGRESS), "", "Where sidehook may send."),
        key("limits", Kind::Block(&LIMITS), "", "Bounds of bodies, attempts and scripts."),
        key("reload", Kind::Block(&RELOAD), "", "What a reload checks."),
        key("shutdown", Kind::Block(&SHUTDOWN), "", "How long an orderly end takes."),
    ],
};

/// One webhook.
pub static WEBHOOK: Block = Block {
    name: "webhook",
    keys: &[
        key("description", Kind::Text, "", "For people."),
        required("url", Kind::Url, "Where it is sent."),
        key(
            "method",
            Kind::Choice(&["POST", "PUT", "PATCH", "GET"]),
            "\"POST\"",
            "JSON body; GET has params in the query.",
        ),
        required("events", Kind::List(&Kind::Text), "Event types, exact or as globs: conversation.*"),
        key("enabled", Kind::Bool, "true", "Whether it matches events."),
        key("headers", Kind::Map(&Kind::HeaderValue), "{}", "Request headers. Values are never shown."),
        key("params", Kind::Map(&Kind::Selector), "", "Payload key to selector. Default: event and data."),
        key(
            "missing",
            Kind::Either(&[Kind::Choice(&["omit", "null", "error"]), Kind::Null]),
            "\"omit\"",
            "What a missing entry becomes.",
        ),
        key("when", Kind::Text, "", "A Rhai expression; false sends nothing."),
        key("rule", Kind::Path, "", "A Rhai script under rules_dir."),
        key("wait_for", Kind::Block(&WAIT_FOR), "", "Hold an end event until late analysis is there."),
        required("signing", Kind::Block(&SIGNING), "How requests are signed; `scheme: none` must be written."),
        key("timeout", Kind::Duration, "\"15s\"", "One whole attempt, body included."),
        key("retry", Kind::Block(&RETRY), "", "When failed attempts are repeated."),
        key(
            "ordering",
            Kind::Choice(&["conversation", "none"]),
            "\"conversation\"",
            "Whether a conversation's deliveries keep their order.",
        ),
        key("concurrency", Kind::Integer(1, 10_000), "16", "Attempts in flight."),
        key("rate_limit", Kind::Rate, "", "Attempts per time; bursts up to one second's worth."),
        key(
            "priority",
            Kind::Integer(-1_000_000, 1_000_000),
            "0",
            "Lower goes first when webhooks wait for limits.concurrency.",
        ),
        key(
            "on_rule_error",
            Kind::Choice(&["dead_letter", "skip", "send_params"]),
            "\"dead_letter\"",
            "What follows from a failing rule.",
        ),
        key("format", Kind::Choice(&["json", "cloudevents"]), "\"json\"", "Shape of the body."),
        key("tls", Kind::Block(&TLS), "", "Certificates of this destination."),
        key("auth", Kind::Block(&AUTH), "", "How sidehook shows who it is; one of basic, bearer, oauth2."),
        key("breaker", Kind::Block(&BREAKER), "", "When a failing destination is left alone for a while."),
    ],
};

/// `wait_for`.
pub static WAIT_FOR: Block = Block {
    name: "wait_for",
    keys: &[
        required("analysis", Kind::List(&Kind::Text), "Names that must all be there."),
        key("timeout", Kind::Duration, "\"60s\"", "Longest wait."),
    ],
};

/// `signing`.
pub static SIGNING: Block = Block {
    name: "signing",
    keys: &[
        required("scheme", Kind::Choice(&["standard", "none", "hmac"]), "Standard Webhooks, nothing, or a template."),
        key("secrets", Kind::List(&Kind::Secret), "", "The first signs as the current one; the others as well."),
        key("header", Kind::Text, "", "hmac: the signature's header."),
        key("algorithm", Kind::Choice(&["sha256", "sha512"]), "\"sha256\"", "hmac: the hash."),
        key("encoding", Kind::Choice(&["hex", "base64"]), "\"hex\"", "hmac: how the signature is written."),
        key(
            "template",
            Kind::Text,
            "\"{signature}\"",
            "hmac: the header's value; {timestamp} and {signature} are replaced.",
        ),
        key("content", Kind::Text, "\"{body}\"", "hmac: what is signed; {id}, {timestamp} and {body} are replaced."),
    ],
};

/// `retry`.
pub static RETRY: Block = Block {
    name: "retry",
    keys: &[
        key(
            "schedule",
            Kind::Either(&[Kind::List(&Kind::Duration), Kind::Block(&BACKOFF)]),
            "[\"5s\",\"5m\",\"30m\",\"2h\",\"5h\",\"10h\",\"10h\"]",
            "A delay per retry, or an exponential one.",
        ),
        key("jitter", Kind::Number(0.0, 1.0), "0.2", "Spread around each delay."),
        key("statuses", Kind::List(&Kind::Status), "[408,409,425,429,\"5xx\"]", "Statuses that are retried."),
    ],
};

/// `retry.schedule` as a formula.
pub static BACKOFF: Block = Block {
    name: "backoff",
    keys: &[
        key("initial", Kind::Duration, "\"2s\"", "First delay."),
        key("factor", Kind::Number(1.0, 100.0), "2", "Multiplier."),
        key("max", Kind::Duration, "\"1h\"", "Longest delay."),
        key("attempts", Kind::Integer(1, 100), "10", "Attempts in all, the first included."),
    ],
};

/// `tls`.
pub static TLS: Block = Block {
    name: "tls",
    keys: &[
        key("ca_file", Kind::Path, "", "PEM certificates that are trusted beside the built-in ones."),
        key("client_cert_file", Kind::Path, "", "PEM certificate chain, leaf first."),
        key("client_key_file", Kind::Path, "", "PEM private key of that certificate."),
        key("server_name", Kind::Text, "", "Name to verify instead of the URL's host."),
        key("min_version", Kind::TlsVersion, "\"1.2\"", "Oldest TLS version."),
    ],
};

/// `auth`.
pub static AUTH: Block = Block {
    name: "auth",
    keys: &[
        key("basic", Kind::Block(&BASIC), "", "User name and password."),
        key("bearer", Kind::Secret, "", "A token that does not change by itself."),
        key("oauth2", Kind::Block(&OAUTH2), "", "Client credentials: a token from a token endpoint."),
    ],
};

/// `auth.basic`.
pub static BASIC: Block = Block {
    name: "basic",
    keys: &[required("username", Kind::Text, "Who asks."), required("password", Kind::Secret, "The password.")],
};

/// `auth.oauth2`.
pub static OAUTH2: Block = Block {
    name: "oauth2",
    keys: &[
        required("token_url", Kind::Url, "Where tokens come from."),
        required("client_id", Kind::Text, "Who asks."),
        required("client_secret", Kind::Secret, "Its secret."),
        key("scopes", Kind::List(&Kind::Text), "[]", "What is asked for."),
        key("audience", Kind::Text, "", "For whom, where the endpoint wants to know."),
        key(
            "client_auth",
            Kind::Choice(&["basic", "body"]),
            "\"basic\"",
            "Whether id and secret go in the request's Authorization header or in its form.",
        ),
    ],
};

/// `breaker`.
pub static BREAKER: Block = Block {
    name: "breaker",
    keys: &[
        key("failures", Kind::Integer(1, 1_000_000), "10", "Failures in a row that open it."),
        key("open_for", Kind::Duration, "\"30s\"", "How long it stays open before one probe."),
    ],
};

/// One of `analyses`.
pub static ANALYSIS: Block = Block {
    name: "analysis",
    keys: &[
        required("name", Kind::Text, "What it becomes: analysis.NAME."),
        required("url", Kind::Url, "Where it is posted."),
        key("params", Kind::Map(&Kind::Selector), "", "Payload key to selector. Default: event and data."),
        key("headers", Kind::Map(&Kind::HeaderValue), "{}", "Request headers. Values are never shown."),
        key("timeout", Kind::Duration, "\"30s\"", "All of it: repeated attempts and the answer's body included."),
        key("tls", Kind::Block(&TLS), "", "Certificates of this destination."),
        key("auth", Kind::Block(&AUTH), "", "How sidehook shows who it is; one of basic, bearer, oauth2."),
    ],
};

/// `outbox`.
pub static OUTBOX: Block = Block {
    name: "outbox",
    keys: &[
        key("path", Kind::Path, "\"data\"", "Directory of the store."),
        key("max_bytes", Kind::Size, "\"1GiB\"", "Size limit."),
        key(
            "when_full",
            Kind::Choice(&["reject", "drop_oldest_begin"]),
            "\"reject\"",
            "What happens at the size limit.",
        ),
        key("retain", Kind::Block(&RETAIN), "", "How long what is done is kept."),
        key(
            "encryption_key",
            Kind::Secret,
            "",
            "Seals what is stored: 32 bytes in base64 a line; the first line seals, all open.",
        ),
        later("backend", Kind::Choice(&["nats"]), "Another store than the embedded one."),
        later("servers", Kind::List(&Kind::Text), "nats: its servers."),
        later("stream", Kind::Text, "nats: its stream."),
    ],
};

/// `outbox.retain`.
pub static RETAIN: Block = Block {
    name: "retain",
    keys: &[
        key("delivered", Kind::Duration, "\"24h\"", "History of what was delivered."),
        key("dead", Kind::Duration, "\"30d\"", "Dead letters."),
        key("events", Kind::Duration, "\"0s\"", "Raw events, for rendering them again; 0s keeps none."),
        key("bodies", Kind::Bool, "false", "Whether payloads stay after delivery."),
    ],
};

/// `conversations`.
pub static CONVERSATIONS: Block = Block {
    name: "conversations",
    keys: &[
        key("state", Kind::Choice(&["durable", "memory"]), "\"durable\"", "Whether state outlives a restart."),
        key("retain", Kind::Duration, "\"1h\"", "How long state is kept after the end."),
        key(
            "idle_timeout",
            Kind::Either(&[Kind::Duration, Kind::Null]),
            "null",
            "After so long without an event an open conversation has failed.",
        ),
        key("max_open_age", Kind::Duration, "\"7d\"", "When an open conversation's state is given up."),
    ],
};

/// `admin`.
pub static ADMIN: Block = Block {
    name: "admin",
    keys: &[
        key("listen", Kind::Listen, "\"127.0.0.1:7071\"", "Where it listens."),
        key("token", Kind::Secret, "", "Bearer token; required unless it listens on loopback."),
        key("hosts", Kind::List(&Kind::Text), "[]", "Further host names that requests may be made to."),
        later("write", Kind::Bool, "Whether the API may edit webhook files."),
    ],
};

/// `egress`.
pub static EGRESS: Block = Block {
    name: "egress",
    keys: &[
        key("allow_http", Kind::Bool, "false", "Whether http:// destinations are allowed."),
        key("deny", Kind::List(&Kind::Network), "[]", "Networks that are never dialled, beside the built-in ones."),
        key("allow", Kind::List(&Kind::Network), "[]", "Exceptions to deny and to the built-in list."),
        key(
            "proxy",
            Kind::Either(&[Kind::Url, Kind::Secret, Kind::Null]),
            "null",
            "An HTTP proxy for all that is sent: http://USER:PASSWORD@HOST:PORT",
        ),
        key(
            "no_proxy",
            Kind::List(&Kind::Text),
            "[]",
            "What does not go through it: names with all below them, addresses, networks, or *",
        ),
    ],
};

/// `limits`.
pub static LIMITS: Block = Block {
    name: "limits",
    keys: &[
        key("body", Kind::Size, "\"8MiB\"", "Largest request that is read."),
        key("concurrency", Kind::Integer(1, 100_000), "256", "Attempts in flight, all webhooks together."),
        key("script_operations", Kind::Integer(1_000, 1_000_000_000), "200000", "Operations a script call may take."),
        key("script_time", Kind::Duration, "\"50ms\"", "Time a script call may take."),
    ],
};

/// `reload`.
pub static RELOAD: Block = Block {
    name: "reload",
    keys: &[
        key(
            "run_tests",
            Kind::Bool,
            "false",
            "Whether the rules' tests must pass before a generation is put in force.",
        ),
        key(
            "canary",
            Kind::Integer(0, limits::CANARY_EVENTS),
            "0",
            "Recent kept events (`outbox.retain.events`) that must still render before a generation is put in force.",
        ),
    ],
};

/// A case of a rule's tests.
pub static CASE: Block = Block {
    name: "case",
    keys: &[
        required("name", Kind::Text, "What the rule does."),
        key("event", Kind::Any, "", "The event."),
        key("event_file", Kind::Path, "", "A file with the event as JSON, beside the test."),
        key("message", Kind::Block(&MESSAGE), "", "The message, for an adapter."),
        key("message_file", Kind::Path, "", "A file with the message as JSON, beside the test."),
        key("webhook", Kind::Text, "", "A webhook whose params, `when` and headers count."),
        required("expect", Kind::Block(&EXPECT), "What is to come of it."),
    ],
};

/// `direction` of a message.
pub static DIRECTIONS: [&str; 4] = ["request", "response", "client", "server"];

/// `message` of a case.
pub static MESSAGE: Block = Block {
    name: "message",
    keys: &[
        required("body", Kind::Any, "What was received: a value for JSON, else a text."),
        key("path", Kind::Text, "\"\"", "Path and query of the request."),
        key("headers", Kind::Map(&Kind::Text), "", "Headers of the request."),
        key("direction", Kind::Choice(&DIRECTIONS), "request", "Which way it went."),
    ],
};

/// `expect` of a case.
pub static EXPECT: Block = Block {
    name: "expect",
    keys: &[
        key("payload", Kind::Any, "", "The payload, exactly; an array for a fan-out."),
        key("events", Kind::Any, "", "The events that an adapter makes, in order, exactly."),
        key("contains", Kind::Any, "", "A part of the payload, or of the events."),
        key("headers", Kind::Map(&Kind::Text), "", "Headers of each delivery, among others."),
        key("skipped", Kind::Bool, "", "Whether the event is filtered, or the message makes no event."),
        key("error", Kind::Text, "", "A part of the error's text."),
    ],
};

/// `shutdown`.
pub static SHUTDOWN: Block = Block {
    name: "shutdown",
    keys: &[
        key("accept", Kind::Duration, "\"5s\"", "How long events are still accepted."),
        key("grace", Kind::Duration, "\"20s\"", "How long attempts in flight may finish."),
    ],
};

pub use sources::{SOURCE_HTTP, SOURCE_TYPES, TAP, TAP_FORMATS, VERIFY, source};

/// What people write instead, from other tools and from habit, with the key they mean.
#[must_use]
pub fn meant(block: &Block, name: &str) -> Option<&'static str> {
    let table: &[(&str, &str)] = match block.name {
        "webhook" => &[
            ("on", "events"),
            ("event", "events"),
            ("endpoint", "url"),
            ("httpUrl", "url"),
            ("httpMethod", "method"),
            ("httpHeaders", "headers"),
            ("httpBody", "params"),
            ("assistantEvents", "events"),
            ("body", "params"),
            ("payload", "params"),
            ("filter", "when"),
            ("if", "when"),
            ("script", "rule"),
            ("transform", "rule"),
            ("secret", "signing"),
            ("secrets", "signing"),
            ("retries", "retry"),
            ("maxRetryCount", "retry"),
            ("retryStatusCodes", "retry"),
            ("timeoutSecond", "timeout"),
            ("executionPriority", "priority"),
            ("circuit_breaker", "breaker"),
            ("disabled", "enabled"),
            ("name", "description"),
        ],
        "signing" => &[("secret", "secrets"), ("key", "secrets"), ("type", "scheme")],
        "sidehook" => &[("hooks", "webhooks"), ("rules", "rules_dir"), ("source", "sources"), ("storage", "outbox")],
        "backoff" => &[("max_attempts", "attempts"), ("multiplier", "factor"), ("max_delay", "max")],
        "retry" => &[("attempts", "schedule"), ("backoff", "schedule"), ("codes", "statuses"), ("max", "schedule")],
        "auth" => &[("token", "bearer"), ("oauth", "oauth2")],
        "basic" => &[("user", "username"), ("pass", "password")],
        "oauth2" => &[("url", "token_url"), ("scope", "scopes"), ("id", "client_id"), ("secret", "client_secret")],
        "tls" => &[("ca", "ca_file"), ("cert", "client_cert_file"), ("key", "client_key_file"), ("sni", "server_name")],
        "admin" | "source_http" => &[("port", "listen"), ("address", "listen"), ("bind", "listen"), ("addr", "listen")],
        _ => &[],
    };
    table.iter().find(|(from, _)| *from == name).map(|(_, to)| *to)
}
