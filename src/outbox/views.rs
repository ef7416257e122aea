//! What is seen of the store: deliveries, webhooks and the ledger, as lists, the API and the command line show them.

use std::sync::Arc;

use serde::Serialize;

use super::types::{Attempt, ConversationKey, Origin, Standing};
use crate::clock::Timestamp;

/// A webhook as the outbox sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookView {
    /// Its name.
    pub name: Arc<str>,
    /// Whether the generation in force has it.
    pub known: bool,
    /// Whether its file enables it.
    pub enabled: bool,
    /// Its standing.
    pub standing: Standing,
    /// Deliveries that wait for their attempt.
    pub pending: u64,
    /// Deliveries that wait for the webhook.
    pub held: u64,
    /// Deliveries that were given up.
    pub dead: u64,
    /// Events that wait for analysis.
    pub waiting: u64,
}

/// A conversation as lists and the API show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConversationView {
    /// Its id.
    pub id: String,
    /// The assistant's id, where it is known.
    pub assistant: Option<String>,
    /// `open` or `ended`.
    pub state: &'static str,
    /// Events of it that were accepted.
    pub events: u64,
    /// Messages that were assembled.
    pub messages: u64,
    /// When its first event arrived.
    pub opened_at: Timestamp,
    /// When its end arrived, if it did.
    pub ended_at: Option<Timestamp>,
}

/// A page of conversations.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConversationsPage {
    /// Those first that were opened last.
    pub items: Vec<ConversationView>,
    /// Where to go on; `None` at the end.
    pub next_cursor: Option<String>,
}

/// A conversation that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenConversation {
    /// Which.
    pub key: ConversationKey,
    /// When it was last heard of; `None` while nothing but updates came.
    pub heard_at: Option<Timestamp>,
    /// Where it comes from, as far as that is known.
    pub origin: Option<Origin>,
}

/// A page of conversations that are open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenPage {
    /// In the order that was asked for.
    pub items: Vec<OpenConversation>,
    /// The place to go on behind; `None` when there are no more.
    pub next: Option<(i64, i64)>,
}

/// State of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Owed.
    Pending,
    /// Done.
    Delivered,
    /// Given up.
    Dead,
    /// Set aside.
    Held,
}

/// A delivery as lists and the API show it.
#[derive(Debug, Clone, Serialize)]
pub struct DeliveryView {
    /// The `webhook-id`.
    pub id: String,
    /// Event id.
    pub event_id: String,
    /// Event type.
    pub event: String,
    /// Conversation id.
    pub conversation: Option<String>,
    /// Webhook name.
    pub webhook: String,
    /// State.
    pub state: State,
    /// Why it is dead or held.
    pub reason: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the next attempt is due; pending ones only.
    pub next_attempt_at: Option<Timestamp>,
    /// Attempts, oldest first.
    pub attempts: Vec<Attempt>,
}

/// Which deliveries to list or retry.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Webhook name.
    pub webhook: Option<String>,
    /// State.
    pub state: Option<State>,
    /// Event type.
    pub event: Option<String>,
    /// Conversation id.
    pub conversation: Option<String>,
    /// Created at or after.
    pub since: Option<Timestamp>,
    /// Created before.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// Sets one field from its name and text as the API and the command line take them; the error says what would be
    /// right.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let time = || {
            let wrong = || format!("{key} must be an RFC 3339 time such as \"2026-01-03T11:38:10Z\", not {value:?}");
            Timestamp::parse_rfc3339(value).map(Some).ok_or_else(wrong)
        };
        match key {
            "webhook" => self.webhook = Some(value.to_owned()),
            "event" => self.event = Some(value.to_owned()),
            "conversation" => self.conversation = Some(value.to_owned()),
            "since" => self.since = time()?,
            "until" => self.until = time()?,
            "state" => self.state = Some(State::parse(value)?),
            _ => {
                return Err(format!(
                    "unknown filter {key:?}; there are webhook, state, event, conversation, since and until"
                ));
            }
        }
        Ok(())
    }
}

impl State {
    /// From its name.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "pending" => Ok(Self::Pending),
            "delivered" => Ok(Self::Delivered),
            "dead" => Ok(Self::Dead),
            "held" => Ok(Self::Held),
            _ => Err(format!("unknown state {name:?}; there are pending, delivered, dead and held")),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Held => "held",
        }
    }
}

/// One page of deliveries, newest first.
#[derive(Debug, Clone, Serialize)]
pub struct Page {
    /// The deliveries.
    pub items: Vec<DeliveryView>,
    /// Hand it back for the next page; `None` on the last.
    pub next_cursor: Option<String>,
}

/// The ledger: one row a webhook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Rows, by webhook name.
    pub webhooks: Vec<LedgerRow>,
    /// Whether every row balances.
    pub balanced: bool,
}

/// `matched = filtered + rendered + rule_failed + waiting`, `created = delivered + pending + held + dead`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LedgerRow {
    /// Webhook name.
    pub webhook: String,
    /// Events that its patterns matched.
    pub matched: u64,
    /// Events filtered out.
    pub filtered: u64,
    /// Events rendered.
    pub rendered: u64,
    /// Events whose rule failed.
    pub rule_failed: u64,
    /// Events that wait for analysis.
    pub waiting: u64,
    /// Deliveries created and not purged.
    pub created: u64,
    /// Of these, delivered.
    pub delivered: u64,
    /// Of these, pending.
    pub pending: u64,
    /// Of these, held.
    pub held: u64,
    /// Of these, dead.
    pub dead: u64,
    /// Deliveries that retention or space removed.
    pub purged: u64,
}

impl LedgerRow {
    /// Whether both sums hold.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.matched == self.filtered + self.rendered + self.rule_failed + self.waiting
            && self.created == self.delivered + self.pending + self.held + self.dead
    }
}
