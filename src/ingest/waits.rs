//! Events that wait for analysis: released when it is all there or their time is up, whichever is first, rendered by
//! the generation in force then.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Ingest;
use super::decide::has_all;
use crate::clock::Timestamp;
use crate::event::Event;
use crate::outbox::{Batch, ConversationKey, Decision, Release, Wait};
use crate::telemetry::ingest::WaitsFailed;

/// Waits looked at in one go.
const PAGE: usize = 256;
/// How often deadlines are looked at when nothing else happens, and how soon what failed is tried again.
const TICK: Duration = Duration::from_secs(5);
/// Least pause before the next deadline, so that many of them share a look.
const BREATH: Duration = Duration::from_millis(20);

/// Why an event still waits.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Conversations whose analysis changed, to be looked at.
#[derive(Default)]
pub(super) struct Changed {
    keys: Mutex<HashSet<ConversationKey>>,
    notify: Notify,
}

impl Changed {
    pub fn add(&self, key: ConversationKey) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        self.notify.notify_one();
    }

    /// Puts back what could not be looked at; the next look takes it, whenever that is.
    fn put_back(&self, key: ConversationKey) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// A new wait was stored: the next deadline may be sooner than thought.
    pub fn poke(&self) {
        self.notify.notify_one();
    }

    fn take(&self) -> Vec<ConversationKey> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }
}

impl Ingest {
    /// Releases waiting events until intake ends.
    pub async fn run_waits(self: Arc<Self>) {
        loop {
            let mut pause = TICK;
            for key in self.changed.take() {
                let released = match self.outbox.waits_of(&key).await {
                    Ok(waits) => self.release_all(waits, false).await,
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = released {
                    WaitsFailed { error: &error.to_string() }.emit();
                    self.changed.put_back(key);
                }
            }
            match self.release_due().await {
                // What failed is still due, and would be at once again.
                Err(error) => WaitsFailed { error: &error.to_string() }.emit(),
                Ok(Some(next)) => pause = pause.min(next.since(self.clock.now()).max(BREATH)),
                Ok(None) => {}
            }
            tokio::select! {
                () = self.changed.notify.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.closed.cancelled() => return,
            }
        }
    }

    /// Releases those whose time is up; answers when the next one's is.
    async fn release_due(&self) -> Result<Option<Timestamp>, Failed> {
        let (due, next) = self.outbox.waits_due(self.clock.now(), PAGE).await?;
        self.release_all(due, true).await?;
        Ok(next)
    }

    /// Tries all of them; answers the last failure.
    async fn release_all(&self, waits: Vec<Wait>, time_is_up: bool) -> Result<(), Failed> {
        let mut all = Ok(());
        for wait in waits {
            if let Err(error) = self.release(wait, time_is_up).await {
                all = Err(error);
            }
        }
        all
    }

    /// Renders and stores one waiting event, if it need not wait any longer.
    async fn release(&self, wait: Wait, time_is_up: bool) -> Result<(), Failed> {
        let generation = Arc::clone(&self.generations.borrow());
        let Some(webhook) = generation.webhooks.get(&wait.webhook).filter(|w| w.enabled) else {
            return Ok(()); // It stays until its webhook returns or retention takes it.
        };
        let Some(mut event) = Event::from_stored(wait.body) else {
            // It would be no different next time: a dead letter says that there was one.
            let decision = self.decider.lost(webhook);
            super::count(&webhook.name, &decision);
            let batch = Batch { releases: vec![Release { wait: wait.row, decision }], ..Batch::default() };
            self.outbox.commit(batch).await?;
            return Ok(());
        };
        let _lock = match &wait.conversation {
            Some(key) => self.locks.lock(vec![key.clone()]).await,
            None => Vec::new(),
        };
        if let Some(key) = &wait.conversation {
            let (settings, now) = (&generation.settings.conversations, self.clock.now());
            let analysis = self.states.read(key, false, settings, now, &self.outbox).await?.state.analysis();
            if !analysis.is_empty() {
                event = event.with_analysis(&analysis);
            }
        }
        let names = webhook.wait_for.as_ref().map_or(&[][..], |w| &w.analysis);
        if !time_is_up && !has_all(&event.map("analysis"), names) {
            return Ok(());
        }
        let rendered = self.decider.render(&event, vec![Arc::clone(webhook)]).await;
        let decision = rendered.into_iter().next().map_or(Decision::Filtered, |(_, decision)| decision);
        super::count(&webhook.name, &decision);
        let decided = [(Arc::clone(&webhook.name), decision)];
        let failed = super::own::dead_letters(&event.kind, &decided);
        let [(_, decision)] = decided;
        let batch = Batch { releases: vec![Release { wait: wait.row, decision }], ..Batch::default() };
        self.outbox.commit(batch).await?;
        for trouble in failed {
            self.troubles.tell(trouble);
        }
        Ok(())
    }
}
