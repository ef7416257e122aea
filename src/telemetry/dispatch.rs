//! Facts that `dispatch` and `net` state. Names and labels of metrics are those of the manual; a message never holds a
//! header's value, a path or a body.

use std::sync::Arc;
use std::time::Duration;

/// An attempt ended, one way or another.
pub struct Attempted<'a> {
    /// Webhook name.
    pub webhook: &'a Arc<str>,
    /// The `webhook-id`.
    pub delivery: &'a str,
    /// Status code as text, or `timeout`, `connect`, `tls`, `reset`, `denied`, `auth`.
    pub status: String,
    /// What went wrong, for a person.
    pub error: Option<&'a str>,
    /// How many attempts there were, this one included.
    pub attempts: u32,
    /// How long it took.
    pub took: Duration,
}

impl Attempted<'_> {
    /// Log and metrics.
    pub fn emit(self) {
        let Self { webhook, delivery, status, error, attempts, took } = self;
        tracing::debug!(webhook = %webhook, delivery, status, attempts, error, ?took, "attempt made");
        metrics::histogram!("sidehook_attempt_duration_seconds", "webhook" => webhook.clone())
            .record(took.as_secs_f64());
        metrics::counter!("sidehook_attempts_total", "webhook" => webhook.clone(), "status" => status).increment(1);
    }
}

/// A delivery is done.
pub struct Delivered<'a> {
    /// Webhook name.
    pub webhook: &'a Arc<str>,
    /// From the event's arrival to the answer.
    pub since_event: Duration,
}

impl Delivered<'_> {
    /// Metrics; the attempt was logged.
    pub fn emit(self) {
        let Self { webhook, since_event } = self;
        metrics::histogram!("sidehook_event_to_delivery_seconds", "webhook" => webhook.clone())
            .record(since_event.as_secs_f64());
        metrics::counter!("sidehook_deliveries_total", "webhook" => webhook.clone(), "outcome" => "delivered")
            .increment(1);
    }
}

/// A delivery will be tried again.
pub struct WillRetry<'a> {
    /// Webhook name.
    pub webhook: &'a str,
    /// The `webhook-id`.
    pub delivery: &'a str,
    /// Why.
    pub reason: &'a str,
    /// When, RFC 3339.
    pub at: &'a dyn std::fmt::Display,
}

impl WillRetry<'_> {
    /// Log.
    pub fn emit(self) {
        let Self { webhook, delivery, reason, at } = self;
        tracing::info!(webhook, delivery, reason, at = %at, "delivery will be tried again");
    }
}

/// A delivery was given up.
pub struct Died<'a> {
    /// Webhook name.
    pub webhook: &'a Arc<str>,
    /// The `webhook-id`.
    pub delivery: &'a str,
    /// `status_400`, `timeout`, …
    pub reason: &'a str,
    /// Attempts made.
    pub attempts: u32,
}

impl Died<'_> {
    /// Log and metric.
    pub fn emit(self) {
        let Self { webhook, delivery, reason, attempts } = self;
        tracing::warn!(webhook = %webhook, delivery, reason, attempts, "delivery is dead; `sidehook deliveries retry` sends it again");
        metrics::counter!("sidehook_deliveries_total", "webhook" => webhook.clone(), "outcome" => "dead").increment(1);
    }
}

/// A destination answered 410.
pub struct WebhookDisabled<'a> {
    /// Webhook name.
    pub webhook: &'a str,
}

impl WebhookDisabled<'_> {
    /// Log.
    pub fn emit(self) {
        tracing::warn!(
            webhook = self.webhook,
            "the destination answered 410 Gone: the webhook is disabled until its file changes; its deliveries are held"
        );
    }
}

/// A breaker opened or closed.
pub struct BreakerMoved<'a> {
    /// Webhook name.
    pub webhook: &'a Arc<str>,
    /// Whether it is open now.
    pub open: bool,
}

impl BreakerMoved<'_> {
    /// Log and metric.
    pub fn emit(self) {
        let Self { webhook, open } = self;
        if open {
            tracing::warn!(webhook = %webhook, "breaker open: the destination failed too often in a row; its deliveries wait");
        } else {
            tracing::info!(webhook = %webhook, "breaker closed: the destination answers again");
        }
        BreakerGauge { webhook, open }.emit();
    }
}

/// A destination asked for less, and a pause begins.
pub struct SlowedDown<'a> {
    /// Webhook name.
    pub webhook: &'a Arc<str>,
    /// The end of the pause, RFC 3339.
    pub until: &'a dyn std::fmt::Display,
}

impl SlowedDown<'_> {
    /// Log.
    pub fn emit(self) {
        let Self { webhook, until } = self;
        tracing::info!(webhook = %webhook, %until, "the destination asks for less: the webhook makes no attempt before");
    }
}

/// The breaker's gauge, set when a webhook appears and whenever it moves.
pub struct BreakerGauge<'a> {
    /// Webhook name.
    pub webhook: &'a Arc<str>,
    /// Whether it is open now.
    pub open: bool,
}

impl BreakerGauge<'_> {
    /// Metric.
    pub fn emit(self) {
        metrics::gauge!("sidehook_breaker_open", "webhook" => self.webhook.clone()).set(f64::from(u8::from(self.open)));
    }
}

/// Results of attempts could not be stored.
pub struct SettleFailed<'a> {
    /// How many results wait.
    pub results: usize,
    /// What the outbox said.
    pub error: &'a str,
    /// When it is tried again.
    pub again_in: Duration,
}

impl SettleFailed<'_> {
    /// Log.
    pub fn emit(self) {
        let Self { results, error, again_in } = self;
        tracing::error!(
            results,
            error,
            ?again_in,
            "results of attempts could not be stored; they are kept and stored later"
        );
    }
}

/// Deliveries could not be read.
pub struct RefillFailed<'a> {
    /// Webhook name.
    pub webhook: &'a str,
    /// What the outbox said.
    pub error: &'a str,
}

impl RefillFailed<'_> {
    /// Log.
    pub fn emit(self) {
        tracing::error!(webhook = self.webhook, error = self.error, "due deliveries could not be read; trying again");
    }
}
