//! What others may see of the dispatcher and ask of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::clock::Timestamp;
use crate::delivery::{Breaker, BreakerState};

/// Speaks to a running [`super::Dispatcher`]. Cloning shares it.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) board: Board,
}

/// What may be asked.
pub(super) enum Command {
    /// Ask the store again about one webhook, or about all.
    Wake(Option<Arc<str>>),
    /// Starts nothing for a webhook any more, or again.
    Pause(Arc<str>, bool, oneshot::Sender<()>),
}

/// What is shown of one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneStatus {
    /// The breaker.
    pub breaker: BreakerState,
    /// Attempts in flight.
    pub in_flight: usize,
    /// Last 2xx since the start.
    pub last_success: Option<Timestamp>,
    /// Last failed attempt since the start.
    pub last_failure: Option<Timestamp>,
}

impl Handle {
    /// Says that a webhook's deliveries changed in the outbox by something other than an arrival or a result: it was
    /// paused, resumed, or deliveries were made ready again. What is queued is forgotten and read anew.
    pub async fn wake(&self, webhook: &str) {
        // A dispatcher that has ended needs no waking.
        let _ = self.commands.send(Command::Wake(Some(webhook.into()))).await;
    }

    /// [`Handle::wake`] for every webhook; after `Outbox::set_webhooks`.
    pub async fn wake_all(&self) {
        let _ = self.commands.send(Command::Wake(None)).await;
    }

    /// After `Outbox::pause`: what is queued for the webhook is forgotten, and when this returns no further attempt
    /// starts. `paused: false` takes it up again.
    pub async fn pause(&self, webhook: &str, paused: bool) {
        let (done, wait) = oneshot::channel();
        // A dispatcher that has ended starts nothing.
        if self.commands.send(Command::Pause(webhook.into(), paused, done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// What is known of a webhook; `None` before its first attempt.
    #[must_use]
    pub fn status(&self, webhook: &str, now: Timestamp) -> Option<LaneStatus> {
        let board = self.board.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = board.get(webhook)?;
        Some(LaneStatus {
            breaker: entry.breaker.state(now),
            in_flight: entry.in_flight,
            last_success: entry.last_success,
            last_failure: entry.last_failure,
        })
    }
}

/// Shared between the actor, which writes, and handles, which read. Never held across an await.
#[derive(Clone, Default)]
pub(super) struct Board(Arc<Mutex<BTreeMap<Arc<str>, Entry>>>);

#[derive(Default)]
struct Entry {
    breaker: Breaker,
    in_flight: usize,
    last_success: Option<Timestamp>,
    last_failure: Option<Timestamp>,
}

impl Board {
    /// Notes an attempt's end.
    pub(super) fn came_back(&self, webhook: &Arc<str>, breaker: &Breaker, in_flight: usize, ok: bool, now: Timestamp) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = board.entry(webhook.clone()).or_default();
        entry.breaker = breaker.clone();
        entry.in_flight = in_flight;
        if ok {
            entry.last_success = Some(now);
        } else {
            entry.last_failure = Some(now);
        }
    }

    /// Shows a breaker that began anew.
    pub(super) fn reset(&self, webhook: &str) {
        if let Some(entry) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(webhook) {
            entry.breaker = Breaker::default();
        }
    }

    /// Forgets a webhook that is gone.
    pub(super) fn remove(&self, webhook: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(webhook);
    }
}
