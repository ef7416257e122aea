//! Where bytes come in. A source reads and checks items and hands them to a [`Sink`]; it knows neither rules nor
//! webhooks, and acknowledges only what the sink says is durable.

pub mod http;
mod problem;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::event::Incoming;
use crate::secret::Secret;

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
}

/// What became of [`Items`]; all of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// What an http source needs to know, from the generation in force.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Largest body.
    pub body_bytes: u64,
    /// Bearer token that senders must show.
    pub token: Option<Secret>,
    /// Namespace of its events.
    pub namespace: Arc<str>,
}

/// Where items go.
pub trait Sink: Send + Sync + 'static {
    /// Makes the items durable, or refuses them whole.
    fn accept(&self, items: Items) -> impl Future<Output = Result<Accepted, Refusal>> + Send;

    /// Settings of the http source called `source`.
    fn http_settings(&self, source: &str) -> HttpSettings;
}
