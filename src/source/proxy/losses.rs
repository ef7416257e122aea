//! What taps could not keep: counted, and told once in a while. The traffic knows nothing of it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::time::Instant;

use super::framer::Lost;
use crate::limits;
use crate::telemetry::ingest::TapDropped;

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
        let now = tokio::time::Instant::now();
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
