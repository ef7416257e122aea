//! What crosses the seam of the store: batches in, rows out. No SQL and no transaction is visible here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::secret::SecretKey;

/// Everything that becomes durable together, or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// Accepted events, in the order of arrival.
    pub arrivals: Vec<Arrival>,
    /// Results of attempts.
    pub settlements: Vec<Settlement>,
    /// Waits that are over, with what became of them.
    pub releases: Vec<Release>,
    /// Events whose analyses are done.
    pub analysed: Vec<Analysed>,
    /// Changes of a webhook's standing.
    pub standings: Vec<(Arc<str>, Standing)>,
    /// How far stream sources have read: source name, opaque offset.
    pub offsets: Vec<(String, String)>,
}

/// A conversation's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationKey {
    /// Namespace of the source.
    pub namespace: Arc<str>,
    /// `conversation.id`.
    pub id: Arc<str>,
}

/// One accepted event with its decisions.
#[derive(Debug)]
pub struct Arrival {
    /// Namespace of the source.
    pub namespace: Arc<str>,
    /// The event's id.
    pub event_id: Arc<str>,
    /// The event's type.
    pub event_type: Arc<str>,
    /// Its conversation.
    pub conversation: Option<ConversationKey>,
    /// When it arrived.
    pub arrived: Timestamp,
    /// W3C trace context to hand on.
    pub traceparent: Option<Arc<str>>,
    /// How a copy is recognised; `None` for an event whose id sidehook made.
    pub dedupe: Option<Dedupe>,
    /// What the event does to its conversation's state.
    pub change: Option<ConversationChange>,
    /// What became of it, per matching webhook.
    pub decisions: Vec<(Arc<str>, Decision)>,
    /// Whether its waits last at least until its analyses are done ([`Batch::analysed`]).
    pub analyses: bool,
    /// The whole event, kept while any decision is [`Decision::Waiting`].
    pub waiting_body: Option<Bytes>,
    /// The whole event, kept for re-rendering (`outbox.retain.events`).
    pub kept_body: Option<Bytes>,
}

/// How a copy of an event is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedupe {
    /// What identifies the event; keys near each other are stored near each other.
    pub key: Vec<u8>,
    /// Hash of what must agree when the key does: type and conversation.
    pub fingerprint: [u8; 16],
    /// When the key may be used again.
    pub until: Timestamp,
}

/// What is known of a key that was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Id of the event that came first.
    pub event_id: String,
    /// Its fingerprint.
    pub fingerprint: [u8; 16],
}

/// A change of conversation state. Applied only to the revision it was made for.
#[derive(Debug, Default)]
pub struct ConversationChange {
    /// The revision this change builds on; 0 for a conversation that is not stored yet.
    pub expected_revision: u64,
    /// Replaces all messages (before `append`), each a JSON text.
    pub replace_messages: Option<Vec<Bytes>>,
    /// Appends messages, each a JSON text.
    pub append_messages: Vec<Bytes>,
    /// How many messages there are then, whatever rows they are in.
    pub messages: u64,
    /// Replaces the maps: a JSON object with `assistant`, `conversation` (without messages), `argument`, `metadata`,
    /// `option`, `analysis`.
    pub maps: Option<Bytes>,
    /// `Some(Some(t))` ends the conversation at `t`, `Some(None)` opens it again.
    pub ended: Option<Option<Timestamp>>,
    /// What the event says of the conversation's life; `None` for a change that no event makes.
    pub heard: Option<Heard>,
}

/// What an event says of its conversation's life, beside what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Whether it shows that the conversation goes on. An update does not where it is the first that is heard: it may be
    /// late for one that ended and was forgotten.
    pub lives: bool,
    /// Where the conversation comes from now; `None`: as before.
    pub origin: Option<Origin>,
}

/// Where a conversation comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Name of the source.
    pub source: Arc<str>,
    /// The stream, where the source has streams that can end.
    pub stream: Option<i64>,
}

/// Stored conversation state.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Grows with every change.
    pub revision: u64,
    /// JSON object, see [`ConversationChange::maps`].
    pub maps: Bytes,
    /// JSON texts, in order.
    pub messages: Vec<Bytes>,
    /// When its first event arrived.
    pub opened_at: Timestamp,
    /// When its end arrived, if it did.
    pub ended_at: Option<Timestamp>,
    /// Events of it that were accepted.
    pub events: u64,
    /// When it was last heard of; `None` while nothing but updates came.
    pub heard_at: Option<Timestamp>,
    /// Where it comes from, as far as that is known.
    pub origin: Option<Origin>,
}

/// What became of an event for one webhook.
#[derive(Debug)]
pub enum Decision {
    /// `when`, `accept` or `transform` said no.
    Filtered,
    /// Rendered to these deliveries, in order (several for a fan-out).
    Rendered(Vec<NewDelivery>),
    /// The rule failed; the deliveries are what `on_rule_error` made of it: a dead letter, the plain params, or none.
    RuleFailed(Vec<NewDelivery>),
    /// Held until analysis arrives or the deadline passes. Keeps its place in the conversation's order.
    Waiting {
        /// When it is rendered at the latest.
        deadline: Timestamp,
        /// Whether it holds a place in its conversation's order.
        ordered: bool,
    },
}

/// A delivery to be created.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// The `webhook-id`, `msg_…`.
    pub id: String,
    /// The frozen payload; `None` only for a dead letter whose rule failed.
    pub body: Option<Bytes>,
    /// Headers that a rule made, frozen with the payload.
    pub headers: Vec<(String, String)>,
    /// Whether it queues behind earlier deliveries of its conversation to the same webhook.
    pub ordered: bool,
    /// `Some(reason)`: it is born dead.
    pub dead: Option<String>,
}

/// The end of a wait.
#[derive(Debug)]
pub struct Release {
    /// The waiting row.
    pub wait: i64,
    /// What became of it; not [`Decision::Waiting`].
    pub decision: Decision,
}

/// The end of an event's analyses: its waits are released from now on.
#[derive(Debug)]
pub struct Analysed {
    /// The event, [`AnalysisDue::event`].
    pub event: i64,
    /// The whole event with what they came to; `None` when that is nothing.
    pub body: Option<Bytes>,
    /// The same for its conversation's state.
    pub change: Option<(ConversationKey, ConversationChange)>,
}

/// An event whose analyses are due.
#[derive(Debug, Clone)]
pub struct AnalysisDue {
    /// Its place in the order of arrival, for [`Analysed::event`].
    pub event: i64,
    /// Its conversation.
    pub conversation: Option<ConversationKey>,
    /// The whole event as stored ([`Arrival::waiting_body`]); empty where it is sealed and cannot be opened.
    pub body: Bytes,
}

/// An event that waits for analysis, for one webhook.
#[derive(Debug, Clone)]
pub struct Wait {
    /// Row, for [`Release::wait`].
    pub row: i64,
    /// The webhook.
    pub webhook: Arc<str>,
    /// Its conversation.
    pub conversation: Option<ConversationKey>,
    /// When it is over at the latest.
    pub deadline: Timestamp,
    /// The whole event as stored ([`Arrival::waiting_body`]); empty where it is sealed and cannot be opened.
    pub body: Bytes,
}

/// Result of one attempt.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Row of the delivery.
    pub row: i64,
    /// What happened; `None` for a verdict without an attempt.
    pub attempt: Option<Attempt>,
    /// What follows from it.
    pub verdict: Verdict,
}

/// One attempt, as kept and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// The status code as text, or `timeout`, `connect`, `tls`, `reset`, `denied`, `auth`.
    pub status: String,
    /// What went wrong, for a person.
    pub error: Option<String>,
    /// How long it took.
    pub duration_ms: u64,
    /// The first bytes of the response body, as text.
    pub response: Option<String>,
}

/// What follows from an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Delivered,
    /// Another attempt at this time.
    Retry(Timestamp),
    /// Given up, with the reason.
    Dead(String),
    /// Set aside until its webhook resumes.
    Held(String),
}

/// A webhook's standing, kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Delivers.
    Active,
    /// Paused by an operator.
    Paused,
    /// Disabled by a 410 until its file's contents change from this hash.
    Disabled {
        /// Why.
        reason: String,
        /// Hash of the file that was in force.
        file_hash: String,
    },
}

/// A page of kept events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptEvents {
    /// The whole events as stored ([`Arrival::kept_body`]), oldest first.
    pub bodies: Vec<Bytes>,
    /// The place to go on behind; `None` when there are no more.
    pub next: Option<i64>,
}

/// What came of pausing or resuming a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stood {
    /// It stands so now.
    Yes,
    /// The generation in force has no such webhook.
    Unknown,
    /// A 410 disabled it, which only another file lifts.
    Disabled,
}

/// A webhook as the generation in force has it, told to the outbox at start and after each reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownWebhook {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is enabled.
    pub enabled: bool,
    /// Hash of its file's contents.
    pub file_hash: String,
}

/// A delivery that may be attempted now: pending, due, and first in its conversation's order.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Row, for [`Settlement::row`].
    pub row: i64,
    /// The `webhook-id`.
    pub id: String,
    /// Its webhook.
    pub webhook: Arc<str>,
    /// The event it came from.
    pub event_id: Arc<str>,
    /// That event's type.
    pub event_type: Arc<str>,
    /// The payload.
    pub body: Bytes,
    /// Headers that a rule made.
    pub headers: Vec<(String, String)>,
    /// W3C trace context to hand on.
    pub traceparent: Option<Arc<str>>,
    /// Attempts made so far.
    pub attempts: u32,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its event arrived.
    pub arrived: Timestamp,
}

/// What a commit answered.
#[derive(Debug, Default)]
pub struct Receipt {
    /// Per arrival, in order: `None` for a new event, the first event's id for a duplicate.
    pub duplicates: Vec<Option<String>>,
}

/// What came of asking for one delivery to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// It is pending and due now.
    Yes,
    /// No such delivery.
    Unknown,
    /// It is held; resume its webhook instead.
    Held,
    /// It is settled, and its webhook sends nothing now; resume that first.
    Halted,
    /// Its payload is gone, for this reason.
    NoPayload(String),
}

/// What to do at the size limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse new events.
    Reject,
    /// The oldest pending `conversation.begin` deliveries become dead and lose their payload.
    DropOldestBegin,
}

/// How the outbox is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Size limit.
    pub max_bytes: u64,
    /// What to do there.
    pub when_full: WhenFull,
    /// How long delivered history is kept.
    pub retain_delivered: Duration,
    /// How long dead letters are kept.
    pub retain_dead: Duration,
    /// How long raw events are kept for re-rendering; zero keeps none.
    pub retain_events: Duration,
    /// Whether payloads stay after delivery.
    pub retain_bodies: bool,
    /// How long an ended conversation's state is kept.
    pub retain_conversations: Duration,
    /// When an open conversation's state is given up.
    pub max_open_age: Duration,
    /// The first seals what is written, all open; none seals nothing.
    pub encryption_keys: Vec<SecretKey>,
}

/// Why a commit was refused. Nothing of the batch is stored then.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The same id came before with another type or conversation.
    #[error("event {event_id:?} (item {index}) was already accepted with another type or conversation")]
    IdConflict {
        /// Position in [`Batch::arrivals`].
        index: usize,
        /// The id.
        event_id: String,
    },
    /// Somebody else changed the conversation in between.
    #[error("the conversation changed in between")]
    Stale,
    /// At `max_bytes`.
    #[error("the outbox is full ({bytes} of {max_bytes} bytes); deliver or purge, or raise outbox.max_bytes")]
    Full {
        /// In use.
        bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The store failed and is closed until it can be opened again.
    #[error("the outbox failed: {0}")]
    Failed(String),
    /// sidehook is ending.
    #[error("the outbox is closed")]
    Closed,
}
