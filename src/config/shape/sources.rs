//! Keys of sources: which there are, only `type` tells.

use super::{Block, Key, Kind, key, later, required};

/// Types of sources.
pub static SOURCE_TYPES: [&str; 8] = ["http", "proxy", "stdin", "unix", "file", "exec", "sse", "nats"];

macro_rules! source {
    ($static:ident, $name:literal, [$($own:expr),* $(,)?]) => {
        /// Keys of this type of source.
        pub static $static: Block = Block {
            name: $name,
            keys: &[
                required("type", Kind::Choice(&SOURCE_TYPES), "What kind of source it is."),
                key("namespace", Kind::Text, "\"\"", "Keeps ids of several assistants apart."),
                key("infer_failure", Kind::Bool, "true", "Whether an end that nobody reports is inferred."),
                key("adapter", Kind::Path, "", "A script that makes events of messages."),
                key("verify", Kind::Block(&VERIFY), "", "http: how the signatures of requests are checked."),
                $($own),*
            ],
        };
    };
}

source!(
    SOURCE_HTTP,
    "source_http",
    [
        required("listen", Kind::Listen, "Where it listens."),
        key("token", Kind::Secret, "", "Bearer token that senders must show."),
    ]
);
source!(
    SOURCE_PROXY,
    "source_proxy",
    [
        required("listen", Kind::Listen, "Where it listens."),
        required("upstream", Kind::Url, "The assistant."),
        key("taps", Kind::List(&Kind::Block(&TAP)), "[]", "What is read along."),
    ]
);
source!(SOURCE_STDIN, "source_stdin", []);
source!(SOURCE_UNIX, "source_unix", [required("listen", Kind::Listen, "The socket it listens on: unix:/path.")]);
source!(SOURCE_FILE, "source_file", [required("path", Kind::Path, "The file that is followed.")]);
source!(
    SOURCE_EXEC,
    "source_exec",
    [
        required("command", Kind::List(&Kind::Written), "The assistant's program and its arguments."),
        key("env", Kind::Map(&Kind::HeaderValue), "{}", "Added to its environment. Values are never shown."),
        key("cwd", Kind::Path, "", "Its working directory."),
        OVERFLOW,
    ]
);
source!(
    SOURCE_SSE,
    "source_sse",
    [
        required("url", Kind::Url, "The stream."),
        key("headers", Kind::Map(&Kind::HeaderValue), "{}", "Request headers. Values are never shown."),
    ]
);
source!(
    SOURCE_NATS,
    "source_nats",
    [
        later("servers", Kind::List(&Kind::Text), "Servers."),
        later("stream", Kind::Text, "The stream."),
        later("consumer", Kind::Text, "The durable consumer."),
    ]
);

/// `verify` of a source.
pub static VERIFY: Block = Block {
    name: "verify",
    keys: &[
        required("scheme", Kind::Choice(&["standard", "hmac", "livekit"]), "How the sender signs."),
        key("secrets", Kind::List(&Kind::Secret), "", "standard, hmac: any of them may have signed."),
        key("tolerance", Kind::Duration, "\"5m\"", "standard, hmac: how far the signed timestamp may be off."),
        key("header", Kind::Text, "", "hmac: the signature's header."),
        key("algorithm", Kind::Choice(&["sha256", "sha512"]), "\"sha256\"", "hmac: the hash."),
        key("encoding", Kind::Choice(&["hex", "base64"]), "\"hex\"", "hmac: how the signature is written."),
        key("template", Kind::Text, "\"{signature}\"", "hmac: the header's value, as in `signing`."),
        key("content", Kind::Text, "\"{body}\"", "hmac: what is signed, as in `signing`."),
        key("timestamp_header", Kind::Text, "", "hmac: the header that tells {timestamp} or {timestamp_ms}."),
        key("id_header", Kind::Text, "", "hmac: the header that tells {id}."),
        key("api_key", Kind::Text, "", "livekit: the API key that signs."),
        key("api_secret", Kind::Secret, "", "livekit: its secret."),
    ],
};

const OVERFLOW: Key = key(
    "on_overflow",
    Kind::Choice(&["drop", "block"]),
    "\"drop\"",
    "Whether what cannot be kept up with is dropped, or its sender waits.",
);

/// What the messages of a tap are made of.
pub static TAP_FORMATS: [&str; 4] = ["json", "ndjson", "sse", "websocket"];

/// One of `taps`.
pub static TAP: Block = Block {
    name: "tap",
    keys: &[
        required("path", Kind::Text, "Path, may hold `*` for one segment and `**` for any."),
        key("method", Kind::Text, "", "Only of this method."),
        key("read", Kind::Choice(&["request", "response", "both"]), "\"both\"", "Which side is read."),
        required("format", Kind::Choice(&TAP_FORMATS), "What it is made of."),
        key("adapter", Kind::Path, "", "A script that makes events of messages; its source's where it has none."),
        OVERFLOW,
    ],
};

/// The keys of a source of this type.
#[must_use]
pub fn source(kind: &str) -> Option<&'static Block> {
    Some(match kind {
        "http" => &SOURCE_HTTP,
        "proxy" => &SOURCE_PROXY,
        "stdin" => &SOURCE_STDIN,
        "unix" => &SOURCE_UNIX,
        "file" => &SOURCE_FILE,
        "exec" => &SOURCE_EXEC,
        "sse" => &SOURCE_SSE,
        "nats" => &SOURCE_NATS,
        _ => return None,
    })
}
