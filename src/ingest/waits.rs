//! Events that wait for analysis: released when it is all there or their time is up, whichever is first, rendered by
//! the generation in force then.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Ingest;
use super::decide::has_all;
use crate::event::Event;
use crate::outbox::{Batch, ConversationKey, Decision, Release, Wait};

/// Waits looked at in one go.
const PAGE: usize = 256;
/// How often deadlines are looked at when nothing else happens, and how soon a failed release is tried again.
const TICK: Duration = Duration::from_secs(5);
/// Least pause between two looks, so that a release that keeps failing does not spin.
const BREATH: Duration = Duration::from_millis(20);

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
                let found = self.outbox.waits_of(&key).await;
                self.release_all(found.unwrap_or_default(), false).await;
            }
            match self.outbox.waits_due(self.clock.now(), PAGE).await {
                Ok((due, next)) => {
                    if let Some(next) = next {
                        pause = pause.min(next.since(self.clock.now()).max(BREATH));
                    }
                    self.release_all(due, true).await;
                }
                Err(error) => tracing::warn!(%error, "waiting events could not be read; trying again"),
            }
            tokio::select! {
                () = self.changed.notify.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.closed.cancelled() => return,
            }
        }
    }

    async fn release_all(&self, waits: Vec<Wait>, time_is_up: bool) {
        for wait in waits {
            let row = wait.row;
            if let Err(error) = self.release(wait, time_is_up).await {
                tracing::warn!(row, %error, "a waiting event could not be released; trying again");
            }
        }
    }

    /// Renders and stores one waiting event, if it need not wait any longer.
    async fn release(&self, wait: Wait, time_is_up: bool) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let generation = Arc::clone(&self.generations.borrow());
        let Some(webhook) = generation.webhooks.get(&wait.webhook).filter(|w| w.enabled) else {
            return Ok(()); // It stays until its webhook returns or retention takes it.
        };
        let Some(mut event) = Event::from_stored(wait.body) else {
            return Err("its stored form cannot be read".into());
        };
        let _lock = match &wait.conversation {
            Some(key) => self.locks.lock(vec![key.clone()]).await,
            None => Vec::new(),
        };
        if let Some(key) = &wait.conversation {
            let durable = generation.settings.conversations.durable;
            let analysis = self.states.read(key, durable, false, &self.outbox).await?.state.analysis();
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
        let batch = Batch { releases: vec![Release { wait: wait.row, decision }], ..Batch::default() };
        self.outbox.commit(batch).await?;
        Ok(())
    }
}
