//! Sources as the configuration has them: what each reads, and what all of them share.

use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::Listen;
use crate::rules::Adapter;
use crate::secret::Secret;
use crate::sign::Verifier;

/// One source.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Where its events come from.
    pub kind: SourceKind,
    /// Namespace of its events.
    pub namespace: Arc<str>,
    /// `adapter`: makes events of its messages; none where they are events already.
    pub adapter: Option<Adapter>,
    /// `verify`: how the signatures of its requests are checked.
    pub verify: Option<Arc<Verifier>>,
    /// `infer_failure`: whether an end that nobody reports is inferred.
    pub infer_failure: bool,
}

/// Where a source's events come from.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceKind {
    /// `type: http`
    Http {
        /// Where it listens.
        listen: Listen,
        /// Bearer token that senders must show.
        token: Option<Secret>,
    },
    /// `type: proxy`
    Proxy {
        /// Where it listens.
        listen: Listen,
        /// The assistant.
        upstream: url::Url,
        /// What is read along.
        taps: Vec<Tap>,
    },
    /// `type: stdin`
    Stdin,
    /// `type: unix`
    Unix {
        /// The socket it listens on.
        listen: Listen,
    },
    /// `type: file`
    File {
        /// The file that is followed.
        path: PathBuf,
    },
    /// `type: exec`
    Exec(Exec),
    /// `type: sse`
    Sse {
        /// The stream.
        url: url::Url,
        /// Request headers; values are secrets.
        headers: Vec<(HeaderName, HeaderValue)>,
    },
}

/// The assistant as a child process.
#[derive(Debug, Clone, PartialEq)]
pub struct Exec {
    /// Program and arguments; the program is there.
    pub command: Vec<String>,
    /// Added to the environment; values are secrets.
    pub env: Vec<(String, Secret)>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// When the outbox takes nothing.
    pub on_overflow: Overflow,
}

/// What happens to messages that cannot be kept up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// They are dropped and counted.
    #[default]
    Drop,
    /// Whoever sends them waits.
    Block,
}

/// What a proxy reads along of exchanges.
#[derive(Debug, Clone, PartialEq)]
pub struct Tap {
    /// Path of the exchange, may hold `*` (one segment) and `**`.
    pub path: String,
    /// Only of this method.
    pub method: Option<http::Method>,
    /// Which side is read.
    pub read: Read,
    /// What it is made of.
    pub format: TapFormat,
    /// `adapter`, its own or its source's.
    pub adapter: Option<Adapter>,
    /// `on_overflow`
    pub on_overflow: Overflow,
}

/// Which side of an exchange is read; of a WebSocket `request` is what the client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Read {
    /// `request`
    Request,
    /// `response`
    Response,
    /// `both`
    #[default]
    Both,
}

/// What the messages of a tap are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapFormat {
    /// One body, one message.
    Json,
    /// One line, one message.
    Ndjson,
    /// Server-sent events.
    Sse,
    /// WebSocket messages.
    Websocket,
}

impl Source {
    /// `type` as it is written.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match &self.kind {
            SourceKind::Http { .. } => "http",
            SourceKind::Proxy { .. } => "proxy",
            SourceKind::Stdin => "stdin",
            SourceKind::Unix { .. } => "unix",
            SourceKind::File { .. } => "file",
            SourceKind::Exec(_) => "exec",
            SourceKind::Sse { .. } => "sse",
        }
    }

    /// Where it listens, if it does.
    #[must_use]
    pub fn listen(&self) -> Option<&Listen> {
        match &self.kind {
            SourceKind::Http { listen, .. } | SourceKind::Proxy { listen, .. } | SourceKind::Unix { listen } => {
                Some(listen)
            }
            SourceKind::Stdin | SourceKind::File { .. } | SourceKind::Exec(_) | SourceKind::Sse { .. } => None,
        }
    }

    /// The same source as it was started: what only a restart changes is taken from `started`. Answers the key that would
    /// have changed, if one would.
    pub fn pin(&mut self, started: &Self) -> Option<&'static str> {
        match (&mut self.kind, &started.kind) {
            (SourceKind::Http { listen, .. }, SourceKind::Http { listen: bound, .. })
            | (SourceKind::Proxy { listen, .. }, SourceKind::Proxy { listen: bound, .. })
            | (SourceKind::Unix { listen }, SourceKind::Unix { listen: bound }) => {
                let differs = listen != bound;
                listen.clone_from(bound);
                differs.then_some(".listen")
            }
            (kind, started) => {
                let differs = kind != started;
                kind.clone_from(started);
                differs.then_some("")
            }
        }
    }
}
