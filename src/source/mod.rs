//! Where bytes come in. A source reads and checks items and hands them to a [`Sink`]; it knows neither rules nor
//! webhooks, and acknowledges only what the sink says is durable.

mod event_stream;
pub mod exec;
pub mod feed;
pub mod file;
pub mod http;
pub mod lines;
mod pace;
#[cfg(test)]
mod probe;
mod problem;
pub mod proxy;
pub mod sse;
pub mod stdin;
pub mod unix;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::event::{Incoming, Json};
use crate::rules::{Adapter, Message, RuleError};
use crate::secret::Secret;
use crate::sign::Verifier;

/// Checked items of one request, accepted together or not at all.
#[derive(Debug)]
pub struct Items {
    /// Name of the source.
    pub source: Arc<str>,
    /// Namespace of its events.
    pub namespace: Arc<str>,
    /// In request order.
    pub items: Vec<Incoming>,
    /// W3C trace context of the request.
    pub traceparent: Option<Arc<str>>,
    /// The stream they came by, for sources whose streams can end.
    pub stream: Option<StreamId>,
    /// How far the source has read with these: stored with them, and handed back after a restart.
    pub offset: Option<String>,
}

/// One connection, child process or exchange that events come by; no two have the same, over restarts too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(pub i64);

/// A stream is over: what of its conversations is open has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEnd {
    /// Name of the source.
    pub source: Arc<str>,
    /// Which stream.
    pub stream: StreamId,
    /// Why.
    pub reason: EndReason,
}

/// Why a conversation has failed although nobody said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// Its stream closed.
    Disconnected,
    /// The assistant's process ended.
    ProcessExited {
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// Nothing was heard of it for `conversations.idle_timeout`.
    IdleTimeout,
}

impl EndReason {
    /// As the event's `reason` names it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::ProcessExited { .. } => "process_exited",
            Self::IdleTimeout => "idle_timeout",
        }
    }
}

/// What became of [`Items`]; all of it is durable. Serialized, it is what the sender is told.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Accepted {
    /// New events.
    pub accepted: usize,
    /// Copies of events that came before.
    pub duplicates: usize,
    /// Ids in request order, duplicates included.
    pub ids: Vec<String>,
}

/// Why [`Items`] were refused; nothing of them is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The same id came before with another type or conversation.
    IdConflict {
        /// Which items, in order; at most [`crate::limits::PROBLEM_ERRORS`] of them.
        items: Vec<usize>,
        /// What to tell the sender.
        detail: String,
    },
    /// A conversation would become larger than what is assembled.
    TooLarge {
        /// Which item.
        index: usize,
        /// What to tell the sender.
        detail: String,
    },
    /// No space; try again later.
    Full {
        /// What to tell the sender.
        detail: String,
        /// When.
        retry_after: Duration,
    },
    /// The store failed or sidehook is ending; try again later.
    Unavailable {
        /// What to tell the sender.
        detail: String,
        /// When.
        retry_after: Duration,
    },
}

impl Refusal {
    /// What to tell the sender.
    #[must_use]
    pub fn detail(&self) -> &str {
        match self {
            Self::IdConflict { detail, .. }
            | Self::TooLarge { detail, .. }
            | Self::Full { detail, .. }
            | Self::Unavailable { detail, .. } => detail,
        }
    }
}

/// What a source needs to know, from the generation in force.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Largest body, line or message.
    pub body_bytes: u64,
    /// Bearer token that senders must show, of an http source.
    pub token: Option<Secret>,
    /// Checks the signatures of requests, of an http source.
    pub verifier: Option<Arc<Verifier>>,
    /// Namespace of its events.
    pub namespace: Arc<str>,
    /// Makes events of its messages.
    pub adapter: Option<Adapter>,
    /// When this was asked for.
    pub now: Timestamp,
}

/// Where items go.
pub trait Sink: Send + Sync + 'static {
    /// Makes the items durable, or refuses them whole.
    fn accept(&self, items: Items) -> impl Future<Output = Result<Accepted, Refusal>> + Send;

    /// Settings of the source called `source`.
    fn settings(&self, source: &str) -> SourceSettings;

    /// What an adapter makes of a message, away from the threads that serve connections where it takes long.
    fn adapt(&self, adapter: &Adapter, message: Message) -> impl Future<Output = Result<Vec<Json>, RuleError>> + Send;

    /// A number for a stream that begins.
    fn open_stream(&self) -> StreamId;

    /// Ends what a stream left open, unless its source's `infer_failure` says not to. Returns once that is durable, or
    /// nothing is taken in any more.
    fn ended(&self, end: StreamEnd) -> impl Future<Output = ()> + Send;

    /// How far the source called `source` had read at its last commit.
    fn offset(&self, source: &str) -> impl Future<Output = Result<Option<String>, String>> + Send;
}
