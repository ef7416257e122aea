//! What a tap heard, and what became of what it could not keep.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;
use tokio::time::Instant;

use super::framer::Lost;
use crate::limits;
use crate::net::relay::Headers;
use crate::telemetry::ingest::TapDropped;

/// One message that was read along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// What it says: JSON or text, content codings undone.
    pub body: Bytes,
    /// Path and query of the request.
    pub path: Arc<str>,
    /// Headers of the side it was read from; of a WebSocket those of the request.
    pub headers: Arc<Headers>,
    /// `request` or `response`; on a WebSocket `client` or `server`.
    pub direction: &'static str,
    /// Of a server-sent event: its type.
    pub event: Option<String>,
    /// Of a server-sent event: its id.
    pub id: Option<String>,
}

/// Counts what a source's taps lost, and says so once in a while.
pub(super) struct Losses {
    source: Arc<str>,
    /// Since the last line in the log, and when that was.
    unsaid: Mutex<(u64, Option<Instant>)>,
}

impl Losses {
    pub fn new(source: Arc<str>) -> Self {
        Self { source, unsaid: Mutex::default() }
    }

    /// One message, or all that follows in a stream that cannot be read any more.
    pub fn count(&self, lost: Lost, path: &str) {
        let now = Instant::now();
        let mut unsaid = self.unsaid.lock().unwrap_or_else(PoisonError::into_inner);
        unsaid.0 += 1;
        let quiet = unsaid.1.is_some_and(|at| now.duration_since(at) < limits::TAP_LOG_PAUSE);
        let messages = if quiet { None } else { Some(std::mem::take(&mut unsaid.0)) };
        if messages.is_some() {
            unsaid.1 = Some(now);
        }
        drop(unsaid);
        let path = path.split('?').next().unwrap_or_default();
        TapDropped { source: &self.source, why: lost.name(), path, messages }.emit();
    }
}
