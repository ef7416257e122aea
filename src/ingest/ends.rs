//! Ends that nobody reported: of conversations whose stream is over, whose stream a former run left behind, or that fell
//! silent. Each is an event like any other, made only while its conversation is open and the reason still holds; both are
//! looked at under the conversation's lock, so that no conversation ends twice.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::task::yield_now;

use super::Ingest;
use super::states::Life;
use crate::clock::Timestamp;
use crate::config::Generation;
use crate::config::model::SourceKind;
use crate::event::{Identity, Incoming, Json};
use crate::limits;
use crate::outbox::{ConversationKey, Health, OpenConversation, Origin};
use crate::source::{EndReason, Items, StreamEnd};
use crate::telemetry::ingest::{EndInferred, EndsFailed};

/// How often there is a look when nothing is known to be due, and how soon what failed is tried again.
const TICK: Duration = Duration::from_secs(5);
/// Least and most pause between two looks for silent conversations.
const BREATH: (Duration, Duration) = (Duration::from_millis(20), TICK);
/// First and longest pause before the ends of a stream are tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), TICK);

/// Why a conversation is to end.
enum Why {
    /// Its stream is over.
    Stream(i64, EndReason),
    /// The run before left its stream behind.
    Orphaned(EndReason),
    /// It fell silent for so long.
    Idle(Duration),
}

impl Why {
    fn reason(&self) -> &EndReason {
        match self {
            Self::Stream(_, reason) | Self::Orphaned(reason) => reason,
            Self::Idle(_) => &EndReason::IdleTimeout,
        }
    }

    /// Whether it is still so, of a conversation that is open.
    fn holds(&self, life: &Life, first: i64, now: Timestamp) -> bool {
        let stream = life.origin.as_ref().and_then(|origin| origin.stream);
        match self {
            Self::Stream(over, _) => stream == Some(*over),
            Self::Orphaned(_) => stream.is_some_and(|stream| stream < first),
            Self::Idle(timeout) => life.heard_at.is_some_and(|heard| now.since(heard) >= *timeout),
        }
    }
}

/// Conversations whose stream was left behind by the run before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Orphans {
    /// Nothing was done about any.
    All,
    /// Those that may come back are waited for.
    Awaited,
    None,
}

/// What is remembered from one look to the next.
pub(super) struct Watch {
    started: Timestamp,
    /// Since when everything that was said could be heard.
    hears_since: Timestamp,
    orphans: Orphans,
    /// When the next conversation may have been silent for long enough, by this timeout.
    idle: Option<(Duration, Timestamp)>,
}

impl Watch {
    pub fn new(now: Timestamp) -> Self {
        Self { started: now, hears_since: now, orphans: Orphans::All, idle: None }
    }

    /// From now on everything is heard: the outbox takes events again.
    pub fn hears_again(&mut self, now: Timestamp) {
        self.hears_since = now;
    }
}

impl Ingest {
    /// Ends what a stream left open, until that is durable or intake ends.
    pub(super) async fn end_stream(&self, end: &StreamEnd) {
        let mut pause = AGAIN.0;
        while !self.closed.is_cancelled() {
            let generation = Arc::clone(&self.generations.borrow());
            if !infers(&generation, &end.source) {
                return;
            }
            let streams = end.stream.0..end.stream.0.saturating_add(1);
            match self.end_all(streams, &generation, |_| Some(Why::Stream(end.stream.0, end.reason.clone()))).await {
                Ok(()) => return,
                Err(error) => EndsFailed { error: &error }.emit(),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.closed.cancelled() => {}
            }
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    /// Ends conversations that the run before left without a stream, and those that fall silent, until intake ends.
    pub async fn run_ends(self: Arc<Self>) {
        let mut watch = Watch::new(self.clock.now());
        let mut health = self.outbox.health();
        loop {
            let pause = match self.look_for_ends(&mut watch).await {
                Ok(next) => next.map_or(TICK, |next| next.since(self.clock.now()).clamp(BREATH.0, TICK)),
                Err(error) => {
                    EndsFailed { error: &error }.emit();
                    TICK
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = health.changed() => {
                    if *health.borrow_and_update() == Health::Healthy {
                        watch.hears_again(self.clock.now());
                    }
                }
                () = self.closed.cancelled() => return,
            }
        }
    }

    /// One look at what is due; answers when there is more.
    pub(super) async fn look_for_ends(&self, watch: &mut Watch) -> Result<Option<Timestamp>, String> {
        let generation = Arc::clone(&self.generations.borrow());
        let awaited = self.end_orphans(watch, &generation).await?;
        let Some(timeout) = generation.settings.conversations.idle_timeout else {
            watch.idle = None;
            return Ok(awaited);
        };
        let now = self.clock.now();
        let due = match watch.idle {
            // Where the clock was set back, what was expected says nothing.
            Some((known, next)) if known == timeout && next.since(now) <= timeout.max(BREATH.1) => next,
            _ => now,
        };
        let next = if due <= now { self.end_silent(watch, &generation, timeout).await? } else { due };
        watch.idle = Some((timeout, next));
        Ok(Some(awaited.map_or(next, |awaited| awaited.min(next))))
    }

    /// Those of processes that ended with the run before at once, the others when they had their time to come back;
    /// answers when that is over.
    async fn end_orphans(&self, watch: &mut Watch, generation: &Generation) -> Result<Option<Timestamp>, String> {
        let first = self.streams.first();
        let reason = |origin: &Origin| match generation.settings.sources.get(&*origin.source).map(|s| &s.kind) {
            Some(SourceKind::Exec(_)) => (EndReason::ProcessExited { code: None, signal: None }, true),
            Some(SourceKind::Stdin) => (EndReason::Disconnected, true),
            _ => (EndReason::Disconnected, false),
        };
        if watch.orphans == Orphans::All {
            let at_once = |origin: &Origin| {
                let (reason, at_once) = reason(origin);
                at_once.then_some(Why::Orphaned(reason))
            };
            self.end_all(i64::MIN..first, generation, at_once).await?;
            watch.orphans = Orphans::Awaited;
        }
        let until = watch.started.plus(limits::HEARD_AGAIN);
        if watch.orphans == Orphans::Awaited {
            if self.clock.now() < until {
                return Ok(Some(until));
            }
            self.end_all(i64::MIN..first, generation, |origin| Some(Why::Orphaned(reason(origin).0))).await?;
            watch.orphans = Orphans::None;
        }
        Ok(None)
    }

    /// Ends the open conversations of these streams for which there is a reason.
    async fn end_all(
        &self,
        streams: Range<i64>,
        generation: &Generation,
        why: impl Fn(&Origin) -> Option<Why>,
    ) -> Result<(), String> {
        let settings = &generation.settings.conversations;
        let mut after = None;
        loop {
            let page = self
                .states
                .open(Some(streams.clone()), after, settings, &self.outbox)
                .await
                .map_err(|error| error.to_string())?;
            let ending = page.items.into_iter().filter_map(|open| {
                let why = why(open.origin.as_ref()?)?;
                Some((open, why))
            });
            self.end_each(ending.collect()).await?;
            after = page.next;
            if after.is_none() || self.closed.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Ends the conversations that have been silent for `timeout`; answers when the next one may be. After a start all of
    /// them have a while to be heard of: nobody could be heard before it.
    async fn end_silent(&self, watch: &Watch, generation: &Generation, timeout: Duration) -> Result<Timestamp, String> {
        let settings = &generation.settings.conversations;
        let now = self.clock.now();
        let earliest = watch.hears_since.plus(timeout.min(limits::HEARD_AGAIN));
        if now < earliest {
            return Ok(earliest);
        }
        // One that is opened from here on is not due before that.
        let mut next = now.plus(timeout);
        let mut after = None;
        loop {
            let page =
                self.states.open(None, after, settings, &self.outbox).await.map_err(|error| error.to_string())?;
            let mut silent = Vec::new();
            for open in page.items {
                let Some(due) = open.heard_at.map(|heard| heard.plus(timeout)) else { continue };
                if !infers_for(generation, open.origin.as_ref()) {
                    continue;
                }
                if due <= now {
                    silent.push((open, Why::Idle(timeout)));
                } else {
                    next = next.min(due);
                }
            }
            self.end_each(silent).await?;
            after = page.next;
            if after.is_none() || self.closed.is_cancelled() {
                // Those that are due shortly after each other share a look.
                return Ok(next.max(now.plus((timeout / 32).clamp(BREATH.0, BREATH.1))));
            }
            yield_now().await;
        }
    }

    /// Ends some at once; answers the first failure.
    async fn end_each(&self, ending: Vec<(OpenConversation, Why)>) -> Result<(), String> {
        let ends = ending.into_iter().map(|(open, why)| async move { self.end(&open.key, &why).await });
        let ended: Vec<_> = stream::iter(ends).buffer_unordered(limits::ENDS_AT_ONCE).collect().await;
        ended.into_iter().collect()
    }

    /// Ends one conversation, if it is open and the reason holds.
    async fn end(&self, key: &ConversationKey, why: &Why) -> Result<(), String> {
        if self.closed.is_cancelled() {
            return Ok(());
        }
        let generation = Arc::clone(&self.generations.borrow());
        let _lock = self.locks.lock(vec![key.clone()]).await;
        let (settings, now) = (&generation.settings.conversations, self.clock.now());
        let Some(life) = self.states.life(key, settings, now, &self.outbox).await.map_err(|error| error.to_string())?
        else {
            return Ok(());
        };
        let still = life.open && life.heard_at.is_some() && why.holds(&life, self.streams.first(), now);
        if !still || !infers_for(&generation, life.origin.as_ref()) {
            return Ok(());
        }
        let source = life.origin.map_or_else(|| Arc::from("unknown"), |origin| origin.source);
        let items = Items {
            source,
            namespace: Arc::clone(&key.namespace),
            items: vec![end_of(key, why.reason())],
            traceparent: None,
            stream: None,
            offset: None,
        };
        self.store(&items, &generation).await.map_err(|refusal| refusal.detail().to_owned())?;
        EndInferred { source: &items.source, conversation: &key.id, reason: why.reason().name() }.emit();
        Ok(())
    }
}

/// Whether ends of this source's conversations are inferred. Of a source that is gone nothing says otherwise.
fn infers(generation: &Generation, source: &str) -> bool {
    generation.settings.sources.get(source).is_none_or(|source| source.infer_failure)
}

fn infers_for(generation: &Generation, origin: Option<&Origin>) -> bool {
    origin.is_none_or(|origin| infers(generation, &origin.source))
}

/// The event.
fn end_of(key: &ConversationKey, reason: &EndReason) -> Incoming {
    let mut extra = vec![(Arc::from("reason"), Json::text(reason.name()))];
    if let EndReason::ProcessExited { code, signal } = reason {
        extra.extend(code.map(|code| (Arc::from("exit_code"), Json::Int(code.into()))));
        extra.extend(signal.map(|signal| (Arc::from("signal"), Json::Int(signal.into()))));
    }
    Incoming {
        id: None,
        identity: Identity::None,
        kind: Arc::from("conversation.failed"),
        time: None,
        conversation: Some(Arc::clone(&key.id)),
        maps: Default::default(),
        messages: None,
        message: None,
        traceparent: None,
        extra,
    }
}

#[cfg(test)]
mod tests;
