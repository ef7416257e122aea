//! Keys of sources: which there are, only `type` tells.

use super::{Block, Kind, key, later, required};

/// Types of sources, the available one first.
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
                later("adapter", Kind::Path, "A rule that makes events of messages."),
                later("verify", Kind::Any, "How inbound signatures are checked."),
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
        later("listen", Kind::Listen, "Where it listens."),
        later("upstream", Kind::Url, "The assistant."),
        later("taps", Kind::List(&Kind::Block(&TAP)), "What is read along."),
    ]
);
source!(SOURCE_STDIN, "source_stdin", []);
source!(SOURCE_UNIX, "source_unix", [later("listen", Kind::Listen, "Where it listens.")]);
source!(SOURCE_FILE, "source_file", [later("path", Kind::Path, "The file that is followed.")]);
source!(
    SOURCE_EXEC,
    "source_exec",
    [
        later("command", Kind::List(&Kind::Text), "The assistant's program and its arguments."),
        later("env", Kind::Map(&Kind::Hidden), "Its environment."),
        later("cwd", Kind::Path, "Its working directory."),
        later("on_overflow", Kind::Choice(&["drop", "block"]), "What happens when the outbox is full."),
    ]
);
source!(
    SOURCE_SSE,
    "source_sse",
    [later("url", Kind::Url, "The stream."), later("headers", Kind::Map(&Kind::Hidden), "Request headers."),]
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

/// One of `taps`.
pub static TAP: Block = Block {
    name: "tap",
    keys: &[
        later("path", Kind::Text, "Path, may hold `*`."),
        later("method", Kind::Text, "Method."),
        later("read", Kind::Choice(&["request", "response", "both"]), "Which side is read."),
        later("format", Kind::Choice(&["json", "ndjson", "sse", "websocket"]), "What it is made of."),
        later("adapter", Kind::Path, "A rule that makes events of messages."),
        later("on_overflow", Kind::Choice(&["drop", "block"]), "What happens to what it cannot keep up with."),
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
