//! One webhook's state: what is ready, what is in flight, and what holds it back. Belongs to the webhook's name and
//! outlives generations. Does no I/O.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::Webhook;
use crate::delivery::{Admission, Breaker, BreakerState, Outcome, Throttle, TokenBucket};
use crate::limits;
use crate::net::Way;
use crate::outbox::Ready;

/// State of one webhook's deliveries.
#[derive(Default)]
pub(super) struct Lane {
    /// The webhook as it is now; `None` while it is removed or disabled.
    pub(super) webhook: Option<Arc<Webhook>>,
    queue: VecDeque<Ready>,
    queued_bytes: usize,
    /// Rows that are queued, in flight or being settled. A row is in here at most once, so nothing is sent twice.
    known: HashSet<i64>,
    pub(super) in_flight: usize,
    pub(super) breaker: Breaker,
    bucket: Option<TokenBucket>,
    throttle: Throttle,
    /// The end of a pause that began with the last result.
    pub(super) slowed: Option<Timestamp>,
    /// The destination that the breaker and the throttle are about.
    url: Option<url::Url>,
    backlog: Backlog,
    question: Question,
    /// Rows settled since the question was asked: its answer may still name them.
    settled_meanwhile: HashSet<i64>,
    /// Whether one of them is to be tried again: the answer may not know when.
    retried_meanwhile: bool,
    /// When the next delivery is due that was not at the last look.
    pub(super) next_due: Option<Timestamp>,
    /// The file's hash when the destination said 410.
    gone: Option<String>,
    /// An operator paused it. After a restart the store alone knows, and hands nothing out.
    paused: bool,
    /// Held back until then.
    blocked_until: Option<Timestamp>,
    /// Held back until something comes back.
    waiting_for_result: bool,
    /// The way to the destination and the TLS and auth identity it was made for.
    pub(super) way: Option<(String, Result<Way, String>)>,
    /// Order of the last start, for taking turns.
    pub(super) last_start: u64,
    /// Order of the last question to the store, likewise.
    pub(super) last_asked: u64,
}

/// Whether the store holds due deliveries that are not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Backlog {
    /// As far as is known, no.
    None,
    /// Perhaps; ask.
    #[default]
    Maybe,
    /// Perhaps, but asking is of no use before one of the known rows is settled.
    Behind,
}

/// A question to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Question {
    #[default]
    None,
    Asked,
    /// Its answer is about a time before [`Lane::forget`].
    Outdated,
}

/// What a question to the store answered.
pub(super) struct Refill {
    pub(super) due: Vec<Ready>,
    pub(super) next: Option<Timestamp>,
}

impl Lane {
    /// Takes over the webhook of a new generation (`None`: removed or disabled). With another destination the breaker and the
    /// throttle begin anew; answers whether that closed the breaker.
    #[must_use]
    pub(super) fn set_webhook(&mut self, webhook: Option<Arc<Webhook>>, now: Timestamp) -> bool {
        let mut closed = false;
        if let Some(webhook) = &webhook {
            if !self.is_for(&webhook.url) {
                closed = self.breaker.state(now) != BreakerState::Closed;
                (self.breaker, self.throttle) = (Breaker::default(), Throttle::default());
            }
            self.url = Some(webhook.url.clone());
            if self.gone.as_ref().is_some_and(|hash| *hash != webhook.file_hash) {
                self.gone = None;
            }
            match (&mut self.bucket, webhook.rate_limit) {
                (Some(bucket), Some(rate)) => bucket.set_rate(rate),
                (bucket, rate) => *bucket = rate.map(|rate| TokenBucket::new(rate, now)),
            }
        }
        self.webhook = webhook;
        if self.webhook.is_none() {
            self.forget();
        }
        self.unblock();
        self.suspect_backlog();
        closed
    }

    /// Whether its breaker and throttle are about this destination; before there was one they are about any.
    pub(super) fn is_for(&self, url: &url::Url) -> bool {
        self.url.as_ref().is_none_or(|of| of == url)
    }

    /// The store may hold more than is known here: it says so only while it has room to, and not at all before the
    /// dispatcher listens.
    pub(super) fn suspect_backlog(&mut self) {
        self.backlog = Backlog::Maybe;
    }

    /// Drops what is queued; the store knows better now.
    pub(super) fn forget(&mut self) {
        for ready in self.queue.drain(..) {
            self.known.remove(&ready.row);
        }
        self.queued_bytes = 0;
        if self.question == Question::Asked {
            self.question = Question::Outdated;
        }
        self.suspect_backlog();
        self.next_due = None;
        self.unblock();
    }

    /// An operator changed the webhook's standing, or made deliveries ready again.
    pub(super) fn wake(&mut self) {
        self.gone = None;
        self.forget();
    }

    /// The destination said 410: nothing more is sent until the file changes.
    pub(super) fn set_gone(&mut self, file_hash: String) {
        self.gone = Some(file_hash);
        self.forget();
    }

    /// An operator paused or resumed it.
    pub(super) fn pause(&mut self, paused: bool) {
        self.paused = paused;
        self.forget();
    }

    /// Whether deliveries may be sent at all.
    pub(super) fn active(&self) -> bool {
        self.webhook.is_some() && self.gone.is_none() && !self.paused
    }

    /// Whether nothing of it is left to wait for.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.known.is_empty() && self.question == Question::None
    }

    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// A delivery that became ready just now. While the store holds older ones, it waits there for its turn unless the
    /// queue is nearly empty.
    pub(super) fn offer(&mut self, ready: Ready, space: usize) {
        let behind = self.backlog != Backlog::None && self.queue.len() >= limits::READY_DELIVERIES / 4;
        if self.active() && !self.known.contains(&ready.row) && !behind {
            self.push(ready, space);
        }
    }

    /// `false`: no room, the store has it.
    fn push(&mut self, ready: Ready, space: usize) -> bool {
        let bytes = ready.body.len();
        let room = space.min(limits::READY_BYTES.saturating_sub(self.queued_bytes));
        if self.queue.len() >= limits::READY_DELIVERIES || (bytes > room && !self.queue.is_empty()) {
            self.suspect_backlog();
            return false;
        }
        self.known.insert(ready.row);
        self.queued_bytes += bytes;
        self.queue.push_back(ready);
        true
    }

    /// Whether to ask the store for more now.
    pub(super) fn wants_refill(&self, now: Timestamp) -> bool {
        let asks = self.active() && self.question == Question::None && self.backlog != Backlog::Behind;
        let due = self.backlog == Backlog::Maybe || self.next_due.is_some_and(|at| at <= now);
        let low = self.queue.len() <= limits::READY_DELIVERIES / 2 && self.queued_bytes <= limits::READY_BYTES / 2;
        asks && due && low
    }

    /// The question is on its way; answers the rows that need no telling.
    pub(super) fn ask(&mut self, turn: u64) -> HashSet<i64> {
        self.question = Question::Asked;
        self.last_asked = turn;
        self.known.clone()
    }

    /// Takes the store's answer.
    pub(super) fn refilled(&mut self, refill: Refill, mut space: usize) {
        let settled = std::mem::take(&mut self.settled_meanwhile);
        let retried = std::mem::take(&mut self.retried_meanwhile);
        let question = std::mem::take(&mut self.question);
        if question == Question::Outdated || !self.active() {
            self.suspect_backlog();
            return;
        }
        let bytes: usize = refill.due.iter().map(|ready| ready.body.len()).sum();
        // The store answers up to a number of deliveries or of bytes; near either, there may be more.
        let truncated = refill.due.len() >= limits::READY_DELIVERIES || bytes >= limits::DUE_BYTES / 2;
        let more = truncated || retried;
        self.backlog = if more { Backlog::Maybe } else { Backlog::None };
        self.next_due = refill.next;
        let mut taken = 0;
        for ready in refill.due {
            if self.known.contains(&ready.row) || settled.contains(&ready.row) {
                continue;
            }
            let bytes = ready.body.len();
            if !self.push(ready, space) {
                break;
            }
            taken += 1;
            space = space.saturating_sub(bytes);
        }
        if self.backlog == Backlog::Maybe && taken == 0 && !self.known.is_empty() {
            self.backlog = Backlog::Behind;
        }
    }

    /// The question could not be answered.
    pub(super) fn refill_failed(&mut self, again_at: Timestamp) {
        self.question = Question::None;
        self.settled_meanwhile.clear();
        self.retried_meanwhile = false;
        self.backlog = Backlog::None;
        self.next_due = Some(again_at);
    }

    /// The next delivery, if one may start: with whether it is the breaker's probe. Otherwise the lane remembers until
    /// when it is held back.
    pub(super) fn start(&mut self, now: Timestamp) -> Option<(Ready, bool)> {
        let webhook = self.webhook.as_ref()?;
        if self.queue.is_empty() || self.held_back(now) {
            return None;
        }
        match self.throttle.allowed(now, webhook.concurrency) {
            Err(until) => return self.block(Some(until)),
            Ok(allowed) if self.in_flight >= allowed => return self.block(None),
            Ok(_) => {}
        }
        let probe = match self.breaker.admit(now, &webhook.breaker) {
            Admission::Pass => false,
            Admission::Probe => true,
            Admission::Wait(until) => return self.block(until),
        };
        if let Some(Err(until)) = self.bucket.as_mut().map(|bucket| bucket.take(now)) {
            self.breaker.abandon(probe, now);
            return self.block(Some(until));
        }
        let ready = self.queue.pop_front()?;
        self.queued_bytes -= ready.body.len();
        self.in_flight += 1;
        Some((ready, probe))
    }

    fn block<T>(&mut self, until: Option<Timestamp>) -> Option<T> {
        self.blocked_until = until;
        self.waiting_for_result = until.is_none();
        None
    }

    fn unblock(&mut self) {
        self.blocked_until = None;
        self.waiting_for_result = false;
    }

    /// Whether an earlier answer of [`Lane::start`] still holds.
    pub(super) fn held_back(&self, now: Timestamp) -> bool {
        self.waiting_for_result || self.blocked_until.is_some_and(|until| now < until)
    }

    /// An attempt came back. Answers the breaker's new state when it opened or closed.
    pub(super) fn came_back(
        &mut self,
        outcome: Option<Outcome>,
        retry_after: Option<std::time::Duration>,
        probe: bool,
        now: Timestamp,
    ) -> Option<BreakerState> {
        let in_flight = self.in_flight;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.unblock();
        let Some(outcome) = outcome else {
            self.breaker.abandon(probe, now);
            return None;
        };
        match outcome {
            Outcome::Status(status) if Throttle::asked_by(status) => {
                self.slowed = self.throttle.slow_down(now, in_flight, retry_after);
            }
            _ if outcome.is_success() => {
                let configured = self.webhook.as_ref().map_or(1, |webhook| webhook.concurrency);
                self.throttle.speed_up(configured);
            }
            _ => {}
        }
        let policy = self.webhook.as_ref().map(|webhook| webhook.breaker).unwrap_or_default();
        self.breaker.record(!outcome.is_outage(), probe, now, &policy)
    }

    /// A result is durable.
    pub(super) fn settled(&mut self, row: i64, retry: Option<Timestamp>) {
        self.known.remove(&row);
        if self.backlog == Backlog::Behind {
            self.backlog = Backlog::Maybe;
        }
        if self.question != Question::None {
            self.settled_meanwhile.insert(row);
            self.retried_meanwhile |= retry.is_some();
        }
        if let Some(at) = retry {
            self.next_due = Some(self.next_due.map_or(at, |due| due.min(at)));
        }
    }

    /// When something happens here by itself, after `now`.
    pub(super) fn wakes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let blocked = self.blocked_until.filter(|_| self.has_work());
        let due = self.next_due.filter(|_| self.active() && self.question == Question::None);
        blocked.into_iter().chain(due).filter(|at| *at > now).min()
    }
}
