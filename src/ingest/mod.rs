//! From checked items to a durable commit: conversation state is read and changed, every webhook that wants the event
//! gets its decision, and all of it is stored in one batch before the sender is answered. Opens no connection and
//! attempts no delivery.

mod again;
mod analyses;
mod decide;
mod ends;
mod locks;
mod memory;
mod own;
mod refusals;
mod states;
mod streams;
#[cfg(test)]
mod tests;
mod try_out;
mod waits;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Entropy, Timestamp};
use crate::config::Generation;
use crate::config::model::{self, SourceKind};
use crate::event::own::Troubles;
use crate::event::{Change, Event, Identity, Incoming, Json, Role, Stamp, State};
use crate::outbox::{
    Arrival, Batch, CommitError, ConversationKey, Decision, Dedupe, Outbox, OutboxError, Receipt, Seen,
};
use crate::rules::{Adapter, Message, RuleError};
use crate::source::{Accepted, Items, Refusal, Sink, SourceSettings, StreamEnd, StreamId};
use crate::telemetry::ingest::{EventAccepted, NotDelivered};
pub use again::{Again, Counts, Replay, ReplayError, Replayed};
use analyses::Calls;
use decide::Decider;
use locks::Locks;
pub use own::troubles;
use refusals::{refusal, unavailable, without_conflicts};
use states::{States, Way, Working};
use streams::Streams;
pub use try_out::Tried;
use waits::Changed;

/// Within this time the same bytes of a sender without ids are its retry, not a second event.
const CONTENT_WINDOW: Duration = Duration::from_secs(60);
/// How often a request is worked out anew when its conversation changed under it.
const TRIES: usize = 3;

/// The actor between sources and the outbox.
pub struct Ingest {
    outbox: Outbox,
    generations: watch::Receiver<Arc<Generation>>,
    clock: Clock,
    entropy: Entropy,
    decider: Decider,
    locks: Locks,
    states: States,
    streams: Streams,
    changed: Changed,
    calls: Calls,
    closed: CancellationToken,
    troubles: Troubles,
}

/// One request being worked out against the state as it is now.
struct Draft {
    batch: Batch,
    /// Per item: the id to answer, and whether it is known to be a copy before the commit says so.
    ids: Vec<(String, bool)>,
    /// Which item each arrival is.
    items: Vec<usize>,
    working: HashMap<ConversationKey, Working>,
    /// Conversations whose stored messages some item has to see: a lifecycle event without a snapshot of its own.
    needs_messages: HashSet<ConversationKey>,
    analysis_changed: Vec<ConversationKey>,
    any_waiting: bool,
    any_analyses: bool,
}

impl Ingest {
    /// `closed` is cancelled when intake ends.
    #[must_use]
    pub fn new(
        outbox: Outbox,
        generations: watch::Receiver<Arc<Generation>>,
        clock: Clock,
        entropy: Entropy,
        closed: CancellationToken,
    ) -> Self {
        Self {
            decider: Decider::new(clock.clone(), entropy.clone()),
            streams: Streams::new(clock.now()),
            outbox,
            generations,
            clock,
            entropy,
            locks: Locks::default(),
            states: States::default(),
            changed: Changed::default(),
            calls: Calls::default(),
            closed,
            troubles: Troubles::default(),
        }
    }

    /// Tells failed rules to these.
    #[must_use]
    pub fn with_troubles(mut self, troubles: Troubles) -> Self {
        self.troubles = troubles;
        self
    }

    /// Takes note of what a former run left, before any source serves.
    pub async fn prepare(&self) -> Result<(), OutboxError> {
        if let Some(last) = self.outbox.last_stream().await? {
            self.streams.begin_behind(last);
        }
        Ok(())
    }

    /// How many conversations are open whose state is kept in memory.
    #[must_use]
    pub fn open_in_memory(&self) -> usize {
        self.states.open_in_memory()
    }

    async fn accept_items(&self, items: &Items) -> Result<Accepted, Refusal> {
        let generation = Arc::clone(&self.generations.borrow());
        let keys = items.items.iter().filter_map(|item| key_of(&items.namespace, item)).collect();
        let _locks = self.locks.lock(keys).await;
        self.store(items, &generation).await
    }

    /// Works out and commits items whose conversations are locked.
    async fn store(&self, items: &Items, generation: &Generation) -> Result<Accepted, Refusal> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut draft = self.draft(items, generation).await?;
            let mut batch = std::mem::take(&mut draft.batch);
            batch.offsets.extend(items.offset.iter().map(|offset| (items.source.to_string(), offset.clone())));
            let counted: Vec<_> = batch
                .arrivals
                .iter()
                .map(|a| a.decisions.iter().map(|(w, d)| (Arc::clone(w), fate(d))).collect::<Vec<_>>())
                .collect();
            let failed: Vec<_> =
                batch.arrivals.iter().flat_map(|a| own::dead_letters(&a.event_type, &a.decisions)).collect();
            if batch.arrivals.is_empty() && batch.offsets.is_empty() {
                return Ok(answer(items, draft, &Receipt::default(), &[]));
            }
            match self.outbox.commit(batch).await {
                Ok(receipt) => {
                    self.remember(&mut draft, &generation.settings.conversations);
                    for trouble in failed {
                        self.troubles.tell(trouble);
                    }
                    return Ok(answer(items, draft, &receipt, &counted));
                }
                Err(CommitError::Stale) if tries < TRIES => {}
                Err(error) => return Err(refusal(&draft, error)),
            }
        }
    }

    /// Works out every item in order, each seeing what those before it did.
    async fn draft(&self, items: &Items, generation: &Generation) -> Result<Draft, Refusal> {
        let now = self.clock.now();
        let seen = self.seen(items, now).await.map_err(|e| unavailable(&e.to_string()))?;
        without_conflicts(items, &seen)?;
        let mut draft = Draft {
            batch: Batch::default(),
            ids: Vec::with_capacity(items.items.len()),
            items: Vec::new(),
            working: HashMap::new(),
            needs_messages: items
                .items
                .iter()
                .filter(|item| needs_messages(item))
                .filter_map(|item| key_of(&items.namespace, item))
                .collect(),
            analysis_changed: Vec::new(),
            any_waiting: false,
            any_analyses: false,
        };
        let mut within: HashMap<Vec<u8>, usize> = HashMap::new();
        for (index, (item, seen)) in items.items.iter().zip(seen).enumerate() {
            let key = item.dedupe_key(&items.namespace);
            let fingerprint = item.fingerprint();
            if let Some(seen) = seen.filter(|seen| seen.fingerprint == fingerprint) {
                draft.ids.push((seen.event_id, true));
                continue;
            }
            let first =
                key.as_ref().and_then(|key| within.get(key)).filter(|i| items.items[**i].fingerprint() == fingerprint);
            if let Some(first) = first {
                let id = draft.ids[*first].0.clone();
                draft.ids.push((id, true));
                continue;
            }
            let id: Arc<str> = match &item.id {
                Some(id) => Arc::clone(id),
                None => Arc::from(self.entropy.id("evt", now)),
            };
            draft.ids.push((id.to_string(), false));
            draft.items.push(index);
            if let Some(key) = key.as_ref().filter(|_| items.items.len() > 1) {
                within.insert(key.clone(), index);
            }
            let dedupe = key.map(|key| Dedupe { key, fingerprint, until: now.plus(window(item, generation)) });
            let stamp = Stamp {
                namespace: Arc::clone(&items.namespace),
                id,
                arrived: now,
                traceparent: items.traceparent.clone(),
            };
            let way =
                Way { source: &items.source, stream: items.stream.map(|stream| stream.0), first: self.streams.first() };
            let arrival = self.arrival(&mut draft, (item, way), stamp, dedupe, generation).await?;
            draft.batch.arrivals.push(arrival);
        }
        Ok(draft)
    }

    /// Looks copies up before the work is done, so that a copy runs no rule, logs nothing, and does not change what the
    /// items after it see. The commit checks again: of two copies at once it takes the first.
    async fn seen(&self, items: &Items, now: Timestamp) -> Result<Vec<Option<Seen>>, OutboxError> {
        let mut seen = vec![None; items.items.len()];
        if items.items.iter().any(|item| item.identity != Identity::None) {
            let keys: Vec<(usize, Vec<u8>)> = items
                .items
                .iter()
                .enumerate()
                .filter_map(|(i, item)| Some((i, item.dedupe_key(&items.namespace)?)))
                .collect();
            let (places, keys): (Vec<usize>, Vec<Vec<u8>>) = keys.into_iter().unzip();
            let found = self.outbox.seen(keys, now).await?;
            for (i, found) in places.into_iter().zip(found) {
                seen[i] = found;
            }
        }
        Ok(seen)
    }

    async fn arrival(
        &self,
        draft: &mut Draft,
        (item, way): (&Incoming, Way<'_>),
        stamp: Stamp,
        dedupe: Option<Dedupe>,
        generation: &Generation,
    ) -> Result<Arrival, Refusal> {
        let settings = &generation.settings;
        let conversations = &settings.conversations;
        let conversation = key_of(&stamp.namespace, item);
        let mut change = None;
        let mut event = None;
        let role = item.role();
        // Other events change nothing of a conversation, but show that it goes on to those who want to know.
        let shows_life = conversations.idle_timeout.is_some() || way.stream.is_some();
        if let Some(key) = conversation.as_ref().filter(|_| role != Role::Other || shows_life) {
            if !draft.working.contains_key(key) {
                let messages = draft.needs_messages.contains(key);
                let read = self.states.read(key, messages, conversations, stamp.arrived, &self.outbox).await;
                let read = read.map_err(|e| unavailable(&e.to_string()))?;
                if role != Role::Other || read.lives() {
                    draft.working.insert(key.clone(), read);
                }
            }
            if let Some(working) = draft.working.get_mut(key).filter(|working| role != Role::Other || working.lives()) {
                let changed = working.state.apply(item).or_else(|| (role == Role::Other).then(Change::nothing));
                let before = working.size();
                let heard = Some(working.hear(role, way));
                change = changed
                    .as_ref()
                    .map(|changed| working.follow(changed, heard, stamp.arrived))
                    .filter(|_| conversations.durable);
                if let Some(detail) = working.size().refused(before, settings.body_bytes) {
                    return Err(Refusal::TooLarge { index: draft.items.last().copied().unwrap_or(0), detail });
                }
                let messages = needs_messages(item).then(|| working.messages());
                event = Some(working.state.assemble(item, messages.as_ref(), stamp.clone()));
                if item.maps[5].is_some() {
                    draft.analysis_changed.push(key.clone());
                }
            }
        }
        let event = event.unwrap_or_else(|| State::default().assemble(item, None, stamp));
        let (decisions, analyses) = self.decider.decide(&event, generation).await;
        let waiting = decisions.iter().any(|(_, d)| matches!(d, Decision::Waiting { .. }));
        draft.any_waiting |= waiting;
        draft.any_analyses |= analyses;
        Ok(Arrival {
            namespace: Arc::clone(&event.namespace),
            event_id: Arc::clone(&event.id),
            event_type: Arc::clone(&event.kind),
            conversation,
            arrived: event.arrived,
            traceparent: event.traceparent.clone(),
            dedupe,
            change,
            decisions,
            analyses,
            waiting_body: waiting.then(|| event.to_stored()),
            kept_body: (!settings.outbox.retain_events.is_zero()).then(|| event.to_stored()),
        })
    }

    /// Takes the state that a commit made durable, or keeps it in memory where that is its only place.
    fn remember(&self, draft: &mut Draft, settings: &model::Conversations) {
        let now = self.clock.now();
        for (key, working) in draft.working.drain() {
            if settings.durable {
                self.states.note(key, &working);
            } else {
                self.states.keep(key, working, now, settings);
            }
        }
        for key in draft.analysis_changed.drain(..) {
            self.changed.add(key);
        }
        if draft.any_waiting {
            self.changed.poke();
        }
        if draft.any_analyses {
            self.calls.poke();
        }
    }
}

impl Sink for Ingest {
    async fn accept(&self, items: Items) -> Result<Accepted, Refusal> {
        if self.closed.is_cancelled() {
            return Err(unavailable("sidehook is ending"));
        }
        self.accept_items(&items).await
    }

    fn settings(&self, source: &str) -> SourceSettings {
        let generation = self.generations.borrow();
        let settings = &generation.settings;
        let source = settings.sources.get(source);
        let token = match source.map(|source| &source.kind) {
            Some(SourceKind::Http { token, .. }) => token.clone(),
            _ => None,
        };
        let namespace = source.map_or_else(|| Arc::from(""), |source| Arc::clone(&source.namespace));
        let adapter = source.and_then(|source| source.adapter.clone());
        let verifier = source.and_then(|source| source.verify.clone());
        let now = self.clock.now();
        SourceSettings { body_bytes: settings.body_bytes, token, verifier, namespace, adapter, now }
    }

    async fn adapt(&self, adapter: &Adapter, message: Message) -> Result<Vec<Json>, RuleError> {
        self.decider.adapt(adapter, message).await
    }

    fn open_stream(&self) -> StreamId {
        StreamId(self.streams.open())
    }

    async fn ended(&self, end: StreamEnd) {
        self.end_stream(&end).await;
    }

    async fn offset(&self, source: &str) -> Result<Option<String>, String> {
        self.outbox.offset(source).await.map_err(|e| e.to_string())
    }
}

/// What sidehook brings in itself: no copy of anything, and no change of a conversation's state.
fn made_arrival(event: &Event, decisions: Vec<(Arc<str>, Decision)>, arrived: Timestamp) -> Arrival {
    let key = |id| ConversationKey { namespace: Arc::clone(&event.namespace), id };
    Arrival {
        namespace: Arc::clone(&event.namespace),
        event_id: Arc::clone(&event.id),
        event_type: Arc::clone(&event.kind),
        conversation: event.conversation.clone().map(key),
        arrived,
        traceparent: event.traceparent.clone(),
        dedupe: None,
        change: None,
        decisions,
        analyses: false,
        waiting_body: None,
        kept_body: None,
    }
}

/// Counts what was stored and answers the sender.
fn answer(items: &Items, draft: Draft, receipt: &Receipt, fates: &[Vec<(Arc<str>, Fate)>]) -> Accepted {
    let mut ids = draft.ids;
    for ((item, duplicate), fates) in draft.items.iter().zip(&receipt.duplicates).zip(fates) {
        if let Some(first) = duplicate {
            ids[*item] = (first.clone(), true);
            continue;
        }
        EventAccepted { source: &items.source, kind: &items.items[*item].kind }.emit();
        for (webhook, fate) in fates {
            fate.emit(webhook);
        }
    }
    let duplicates = ids.iter().filter(|(_, copy)| *copy).count();
    Accepted { accepted: ids.len() - duplicates, duplicates, ids: ids.into_iter().map(|(id, _)| id).collect() }
}

/// What the metrics say of a decision that leads to no delivery.
#[derive(Clone, Copy)]
enum Fate {
    Delivery,
    Filtered,
    RuleFailed,
}

impl Fate {
    fn emit(self, webhook: &str) {
        match self {
            Self::Delivery => {}
            Self::Filtered => NotDelivered { webhook, outcome: "filtered" }.emit(),
            Self::RuleFailed => NotDelivered { webhook, outcome: "rule_failed" }.emit(),
        }
    }
}

fn fate(decision: &Decision) -> Fate {
    match decision {
        Decision::Filtered => Fate::Filtered,
        Decision::RuleFailed(_) => Fate::RuleFailed,
        Decision::Rendered(_) | Decision::Waiting { .. } => Fate::Delivery,
    }
}

fn count(webhook: &str, decision: &Decision) {
    fate(decision).emit(webhook);
}

fn key_of(namespace: &Arc<str>, item: &Incoming) -> Option<ConversationKey> {
    let id = item.conversation.as_ref()?;
    Some(ConversationKey { namespace: Arc::clone(namespace), id: Arc::clone(id) })
}

fn needs_messages(item: &Incoming) -> bool {
    item.role().is_lifecycle() && item.messages.is_none()
}

fn window(item: &Incoming, generation: &Generation) -> Duration {
    match item.identity {
        Identity::Content(_) => CONTENT_WINDOW,
        _ => generation.settings.dedupe_window,
    }
}
