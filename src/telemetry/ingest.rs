//! Facts that `ingest` and `source` state.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Distinct event types that get a series of their own; the rest count as `other`, so that an assistant that makes
/// up types cannot grow the metrics without bound.
const TYPES: usize = 100;

static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// An event was accepted and is durable.
pub struct EventAccepted<'a> {
    /// Name of its source.
    pub source: &'a str,
    /// Its type.
    pub kind: &'a str,
}

impl EventAccepted<'_> {
    /// Moves the metric.
    pub fn emit(self) {
        let kind = {
            let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
            if known.contains(self.kind) || (known.len() < TYPES && known.insert(self.kind.to_owned())) {
                self.kind.to_owned()
            } else {
                "other".to_owned()
            }
        };
        metrics::counter!("sidehook_events_received_total", "source" => self.source.to_owned(), "type" => kind)
            .increment(1);
    }
}

/// A request, or an item of it, was refused.
pub struct EventRejected<'a> {
    /// Name of its source.
    pub source: &'a str,
    /// `malformed`, `invalid`, `id_conflict`, `too_large`, `conversation_too_large`, `media_type`, `unauthorized`,
    /// `full`, `failed`; of events that nobody can be told of, `overflow`.
    pub reason: &'static str,
    /// For the log: what the sender was told.
    pub detail: &'a str,
    /// How many were not logged since the last one that was; none where this one is not either.
    pub unsaid: Option<u64>,
}

impl EventRejected<'_> {
    /// Moves the metric, and writes the log line where it is not too many.
    pub fn emit(self) {
        metrics::counter!("sidehook_events_rejected_total", "source" => self.source.to_owned(), "reason" => self.reason)
            .increment(1);
        let (source, reason, detail) = (self.source, self.reason, self.detail);
        match self.unsaid {
            None => {}
            Some(0) => tracing::warn!(source, reason, detail, "event refused"),
            Some(before) => {
                tracing::warn!(source, reason, detail, before, "event refused; as many before it were only counted");
            }
        }
    }
}

/// Events that were read could not be stored, and whoever sent them cannot send them again.
pub struct EventsLost<'a> {
    /// Name of the source.
    pub source: &'a str,
    /// `overflow`, or `failed` when sidehook ended first.
    pub reason: &'static str,
    /// How many.
    pub events: usize,
}

impl EventsLost<'_> {
    /// Moves the metric only.
    pub fn count(&self) {
        let (source, reason) = (self.source.to_owned(), self.reason);
        metrics::counter!("sidehook_events_rejected_total", "source" => source, "reason" => reason)
            .increment(self.events as u64);
    }

    /// Writes the log line only.
    pub fn log(&self) {
        let (source, reason, events) = (self.source, self.reason, self.events);
        if reason == "overflow" {
            tracing::error!(
                source,
                reason,
                events,
                "events were dropped: the outbox does not keep up, and the assistant is not made to wait (`on_overflow: drop`)"
            );
        } else {
            tracing::error!(source, reason, events, "events were read but could not be stored before sidehook ended");
        }
    }
}

/// A tap of a proxy source lost a message. The traffic is as it was.
pub struct TapDropped<'a> {
    /// Name of the source.
    pub source: &'a str,
    /// Why.
    pub why: &'static str,
    /// Path of the exchange.
    pub path: &'a str,
    /// Messages since the last line in the log, where it is time for one.
    pub messages: Option<u64>,
}

impl TapDropped<'_> {
    /// Moves the metric, and writes the log line where it is time for one.
    pub fn emit(self) {
        metrics::counter!("sidehook_tap_dropped_total", "source" => self.source.to_owned()).increment(1);
        if let Some(messages) = self.messages {
            tracing::warn!(
                source = self.source,
                messages,
                path = self.path,
                "a tap lost messages; the last one {}. What passed through the proxy is not affected",
                self.why
            );
        }
    }
}

/// One decision about an event for a webhook that led to no delivery.
pub struct NotDelivered<'a> {
    /// The webhook.
    pub webhook: &'a str,
    /// `filtered` or `rule_failed`.
    pub outcome: &'static str,
}

impl NotDelivered<'_> {
    /// Moves the metric.
    pub fn emit(self) {
        metrics::counter!("sidehook_deliveries_total", "webhook" => self.webhook.to_owned(), "outcome" => self.outcome)
            .increment(1);
    }
}

/// Some of sidehook's own events could not be stored.
pub struct OwnEventsLost<'a> {
    /// How many.
    pub events: usize,
    /// What the outbox said.
    pub error: &'a str,
}

impl OwnEventsLost<'_> {
    /// Writes the log line.
    pub fn emit(self) {
        tracing::warn!(events = self.events, error = self.error, "events about sidehook itself could not be stored");
    }
}

/// Conversation state in memory was full.
pub struct ConversationsForgotten {
    /// How many conversations are left.
    pub left: usize,
}

impl ConversationsForgotten {
    /// Writes the log line.
    pub fn emit(self) {
        tracing::warn!(
            left = self.left,
            "conversation state in memory is full; the quietest conversations lost theirs (`conversations: {{state: durable}}` keeps it on disk)"
        );
    }
}

/// A conversation was ended that nobody ended.
pub struct EndInferred<'a> {
    /// Where it came from.
    pub source: &'a str,
    /// Its id.
    pub conversation: &'a str,
    /// The event's `reason`.
    pub reason: &'static str,
}

impl EndInferred<'_> {
    /// Writes the log line.
    pub fn emit(self) {
        tracing::info!(
            source = self.source,
            conversation = self.conversation,
            reason = self.reason,
            "the conversation has failed"
        );
    }
}

/// Conversations that nobody ended could not be ended.
pub struct EndsFailed<'a> {
    /// Why.
    pub error: &'a str,
}

impl EndsFailed<'_> {
    /// Writes the log line.
    pub fn emit(self) {
        tracing::warn!(error = self.error, "ends that nobody reported could not be stored; trying again");
    }
}

/// An analysis was called.
pub struct AnalysisCalled<'a> {
    /// Its name.
    pub analysis: &'a str,
    /// Its conversation.
    pub conversation: &'a str,
    /// How often.
    pub attempts: u32,
    /// How long all of it took.
    pub took: std::time::Duration,
    /// Why there is no result, where there is none.
    pub error: Option<&'a str>,
}

impl AnalysisCalled<'_> {
    /// Writes the log line of a failed one and moves the metric.
    pub fn emit(self) {
        let Self { analysis, conversation, attempts, took, error } = self;
        let outcome = if error.is_some() { "failed" } else { "done" };
        metrics::counter!("sidehook_analyses_total", "analysis" => analysis.to_owned(), "outcome" => outcome)
            .increment(1);
        if let Some(error) = error {
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(
                analysis,
                conversation,
                attempts,
                took_ms,
                error,
                "an analysis failed; the webhooks go without it"
            );
        }
    }
}

/// Events that wait for analyses could not be read, or what came of them could not be stored.
pub struct AnalysesFailed<'a> {
    /// Why.
    pub error: &'a str,
}

impl AnalysesFailed<'_> {
    /// Writes the log line.
    pub fn emit(self) {
        tracing::warn!(error = self.error, "events that wait for analyses could not be read or stored; trying again");
    }
}

/// Waiting events could not be read or released.
pub struct WaitsFailed<'a> {
    /// Why.
    pub error: &'a str,
}

impl WaitsFailed<'_> {
    /// Writes the log line.
    pub fn emit(self) {
        tracing::warn!(error = self.error, "events that wait for analysis could not be released; trying again");
    }
}

/// A rule failed on an event.
pub struct RuleFailed<'a> {
    /// The webhook.
    pub webhook: &'a str,
    /// The event's id.
    pub event: &'a str,
    /// File, function, line, column and message.
    pub error: &'a str,
}

impl RuleFailed<'_> {
    /// Writes the log line.
    pub fn emit(self) {
        tracing::error!(webhook = self.webhook, event = self.event, error = self.error, "rule failed");
    }
}
