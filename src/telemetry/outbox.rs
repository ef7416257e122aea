//! Facts that `outbox` states. Its gauges are set by whoever answers a scrape, from `Outbox::gauges`.

/// A transaction failed: the store is closed until it can be opened again.
pub struct StoreFailed<'a> {
    /// What the store said.
    pub error: &'a str,
    /// Batches that were refused with it.
    pub refused: usize,
}

impl StoreFailed<'_> {
    /// Says so.
    pub fn emit(&self) {
        tracing::error!(error = self.error, refused = self.refused, "the outbox failed and is being opened again");
    }
}

/// An attempt to open a failed store again did not succeed.
pub struct ReopenFailed<'a> {
    /// What the store said.
    pub error: &'a str,
    /// Milliseconds until the next attempt.
    pub retry_ms: u128,
}

impl ReopenFailed<'_> {
    /// Says so.
    pub fn emit(&self) {
        tracing::warn!(error = self.error, retry_ms = self.retry_ms, "the outbox could not be opened again");
    }
}

/// A failed store takes commits again.
pub struct Reopened;

impl Reopened {
    /// Says so.
    pub fn emit(&self) {
        tracing::info!("the outbox is open again");
    }
}

/// New events are refused for lack of space.
pub struct Full {
    /// Bytes in use.
    pub bytes: u64,
    /// The limit.
    pub max_bytes: u64,
}

impl Full {
    /// Says so.
    pub fn emit(&self) {
        let Self { bytes, max_bytes } = *self;
        tracing::error!(
            bytes,
            max_bytes,
            "the outbox is full and refuses new events; deliver, or raise outbox.max_bytes"
        );
    }
}

/// There is space again.
pub struct NotFull;

impl NotFull {
    /// Says so.
    pub fn emit(&self) {
        tracing::info!("the outbox takes new events again");
    }
}

/// History that age or lack of space removed.
pub struct Purged {
    /// Deliveries, and waiting events of removed webhooks.
    pub rows: u64,
}

impl Purged {
    /// Says so.
    pub fn emit(&self) {
        tracing::debug!(rows = self.rows, "the outbox purged settled deliveries");
    }
}

/// Pending begins that gave way because the outbox was full.
pub struct BeginsDropped {
    /// How many.
    pub deliveries: u64,
}

impl BeginsDropped {
    /// Says so.
    pub fn emit(&self) {
        tracing::warn!(
            deliveries = self.deliveries,
            "the outbox is full: pending conversation.begin deliveries became dead (outbox_full)"
        );
    }
}
