//! What the outbox promises, tried on a real store in a temporary directory.

mod batches;
mod failure;
mod held;
mod inspect;
mod lists;
mod open;
mod order;
mod property;
mod retention;
mod sealing;
mod settling;
mod space;
mod waiting;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::clock::{Clock, Timestamp};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

pub(super) fn options() -> Options {
    Options {
        max_bytes: 1 << 30,
        when_full: WhenFull::Reject,
        retain_delivered: 24 * HOUR,
        retain_dead: 30 * 24 * HOUR,
        retain_events: Duration::ZERO,
        retain_bodies: false,
        retain_conversations: HOUR,
        max_open_age: 7 * 24 * HOUR,
        encryption_keys: Vec::new(),
    }
}

/// An outbox in a directory of its own, with a clock that stands still.
pub(super) struct Rig {
    pub(super) dir: tempfile::TempDir,
    pub(super) clock: Clock,
    pub(super) outbox: Outbox,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(options())
    }

    pub(super) fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Clock::manual(START);
        let outbox = Outbox::open(dir.path(), options, clock.clone()).expect("an outbox");
        Self { dir, clock, outbox }
    }

    /// Closes and opens it again.
    pub(super) async fn reopen(mut self, options: Options) -> Self {
        self.outbox.close().await;
        self.outbox = Outbox::open(self.dir.path(), options, self.clock.clone()).expect("the same outbox");
        self
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) async fn accept(&self, arrivals: Vec<Arrival>) -> Receipt {
        self.outbox.commit(Batch { arrivals, ..Batch::default() }).await.expect("a commit")
    }

    pub(super) async fn settle(&self, row: i64, verdict: Verdict) {
        let attempt = Some(attempt(self.now(), "200"));
        let batch = Batch { settlements: vec![Settlement { row, attempt, verdict }], ..Batch::default() };
        self.outbox.commit(batch).await.expect("a commit");
    }

    pub(super) async fn stand(&self, webhook: &str, standing: Standing) {
        let batch = Batch { standings: vec![(Arc::from(webhook), standing)], ..Batch::default() };
        self.outbox.commit(batch).await.expect("a commit");
    }

    pub(super) async fn due(&self, webhook: &str) -> Vec<Ready> {
        self.outbox.due(webhook, self.now(), 1000).await.expect("a look")
    }

    /// Ids of what is due, as they come.
    pub(super) async fn due_ids(&self, webhook: &str) -> Vec<String> {
        self.due(webhook).await.into_iter().map(|r| r.id).collect()
    }

    pub(super) async fn row(&self, webhook: &str) -> LedgerRow {
        let ledger = self.outbox.ledger().await.expect("the ledger");
        assert!(ledger.balanced, "{ledger:?}");
        ledger.webhooks.into_iter().find(|w| w.webhook == webhook).unwrap_or_default()
    }

    pub(super) async fn view(&self, id: &str) -> DeliveryView {
        self.outbox.get(id).await.expect("a look").expect("the delivery")
    }

    /// Asks the store itself, past the outbox.
    pub(super) fn count(&self, sql: &str) -> i64 {
        let conn = schema::open_reader(self.dir.path()).expect("a reader");
        conn.query_row(sql, [], |row| row.get(0)).expect("a number")
    }
}

pub(super) fn attempt(at: Timestamp, status: &str) -> Attempt {
    Attempt { at, status: status.to_owned(), error: None, duration_ms: 5, response: Some("ok".to_owned()) }
}

pub(super) fn key(id: &str) -> ConversationKey {
    ConversationKey { namespace: Arc::from(""), id: Arc::from(id) }
}

/// An arrival without decisions, dedupe or state.
pub(super) fn arrival(event_id: &str, conversation: &str) -> Arrival {
    Arrival {
        namespace: Arc::from(""),
        event_id: Arc::from(event_id),
        event_type: Arc::from("conversation.completed"),
        conversation: Some(key(conversation)),
        arrived: START,
        traceparent: None,
        dedupe: None,
        change: None,
        decisions: Vec::new(),
        analyses: false,
        waiting_body: None,
        kept_body: None,
    }
}

pub(super) fn delivery(id: &str) -> NewDelivery {
    NewDelivery {
        id: id.to_owned(),
        body: Some(Bytes::from(format!("{{\"id\":\"{id}\"}}"))),
        headers: Vec::new(),
        ordered: true,
        dead: None,
    }
}

/// An arrival that is one ordered delivery to `webhook`, named like the event.
pub(super) fn rendered(id: &str, conversation: &str, webhook: &str) -> Arrival {
    Arrival {
        decisions: vec![(Arc::from(webhook), Decision::Rendered(vec![delivery(id)]))],
        ..arrival(id, conversation)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what an arrival takes")]
pub(super) fn dedupe(key: u8, fingerprint: u8, until: Timestamp) -> Option<Dedupe> {
    Some(Dedupe { key: vec![key; 16], fingerprint: [fingerprint; 16], until })
}

pub(super) fn known(name: &str, enabled: bool, hash: &str) -> KnownWebhook {
    KnownWebhook { name: Arc::from(name), enabled, file_hash: hash.to_owned() }
}

/// Copies the store's files as they are at this moment, as a crash would leave them.
pub(super) fn snapshot(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
    }
}
