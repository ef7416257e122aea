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
    pub retry_ms: u64,
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

/// A pending begin was given up because the end of its conversation is delivered.
pub struct Superseded<'a> {
    /// Webhook name.
    pub webhook: &'a std::sync::Arc<str>,
}

impl Superseded<'_> {
    /// Log and metric.
    pub fn emit(&self) {
        tracing::info!(webhook = %self.webhook, "a begin is dead (superseded): the end of its conversation is delivered");
        metrics::counter!("sidehook_deliveries_total", "webhook" => self.webhook.clone(), "outcome" => "dead")
            .increment(1);
    }
}

/// Pending begins that gave way because the outbox was full.
pub struct BeginsDropped<'a> {
    /// The webhook of each.
    pub webhooks: &'a [std::sync::Arc<str>],
}

impl BeginsDropped<'_> {
    /// Log and metric.
    pub fn emit(&self) {
        tracing::warn!(
            deliveries = self.webhooks.len(),
            "the outbox is full: pending conversation.begin deliveries became dead (outbox_full)"
        );
        for webhook in self.webhooks {
            metrics::counter!("sidehook_deliveries_total", "webhook" => webhook.clone(), "outcome" => "dead")
                .increment(1);
        }
    }
}

/// Something that is sealed could not be opened, and is done without.
pub struct Unreadable<'a> {
    /// What it is.
    pub what: &'a str,
    /// The delivery or event, where it is known.
    pub id: Option<&'a str>,
    /// Why.
    pub why: &'a str,
}

impl Unreadable<'_> {
    /// Says so.
    pub fn emit(&self) {
        tracing::error!(id = self.id, reason = self.why, "{} cannot be read from the outbox", self.what);
    }
}

/// A delivery was given up because its payload cannot be read.
pub struct UnreadableDelivery<'a> {
    /// Webhook name.
    pub webhook: &'a std::sync::Arc<str>,
    /// The `webhook-id`.
    pub delivery: &'a str,
    /// Why.
    pub reason: &'a str,
}

impl UnreadableDelivery<'_> {
    /// Log and metric.
    pub fn emit(&self) {
        let Self { webhook, delivery, reason } = self;
        tracing::error!(%webhook, delivery, reason, "a delivery is dead: its payload cannot be read from the outbox");
        metrics::counter!("sidehook_deliveries_total", "webhook" => (*webhook).clone(), "outcome" => "dead")
            .increment(1);
    }
}

/// New keys of `outbox.encryption_key` could not be taken over.
pub struct KeysRefused<'a> {
    /// Why.
    pub error: &'a str,
}

impl KeysRefused<'_> {
    /// Says so.
    pub fn emit(&self) {
        tracing::error!(error = self.error, "the outbox goes on with the keys it has");
    }
}
