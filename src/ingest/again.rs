//! Kept events through the rules of today: one dead letter that lost its payload, or a stretch of time for every webhook
//! that wants it. Changes no conversation's state; a replay makes new deliveries and touches no old one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::Ingest;
use crate::clock::Timestamp;
use crate::config::{Generation, Webhook};
use crate::event::{Event, Role};
use crate::limits;
use crate::outbox::{Batch, CommitError, ConversationKey, Decision, KeptEvent, OutboxError};

/// What today's rules make of one kept event for one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Again {
    /// Its payload and the rule's headers.
    Payload(Bytes, Vec<(String, String)>),
    /// None, and why.
    Nothing(String),
}

/// Which kept events are rendered again.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Arrived at or after this.
    pub since: Timestamp,
    /// Arrived before this.
    pub until: Timestamp,
    /// For this webhook only.
    pub webhook: Option<Arc<str>>,
    /// Counts, and stores nothing.
    pub dry_run: bool,
    /// Goes on behind this place ([`Replayed::next`]).
    pub after: i64,
}

/// One page of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Kept events that were looked at.
    pub events: u64,
    /// Deliveries that were made, or would be.
    pub deliveries: u64,
    /// By webhook.
    pub webhooks: BTreeMap<String, Counts>,
    /// The first failures, for a person.
    pub errors: Vec<String>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<i64>,
}

/// What became of the events that one webhook wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Events of its types.
    pub matched: u64,
    /// Filtered by `when` or the rule.
    pub filtered: u64,
    /// Rendered.
    pub rendered: u64,
    /// The rule failed.
    pub rule_failed: u64,
}

/// Why a page could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is no such webhook, or it is not enabled.
    #[error("there is no enabled webhook {0:?}")]
    Unknown(String),
    /// The outbox could not be read.
    #[error(transparent)]
    Read(#[from] OutboxError),
    /// The outbox refused the page; the pages before it stay.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Ingest {
    /// Renders the event of a delivery that has no payload.
    pub async fn render_again(&self, kept: KeptEvent) -> Again {
        let nothing = |why: &str| Again::Nothing(why.to_owned());
        let generation = Arc::clone(&self.generations.borrow());
        let Some(webhook) = generation.webhooks.get(&kept.webhook).filter(|webhook| webhook.enabled) else {
            return nothing("its webhook is gone or not enabled");
        };
        let Some(event) = Event::from_stored(kept.body) else { return nothing("its kept event cannot be read") };
        let Ok(event) = self.late_analysis(event, webhook, &generation).await else {
            return nothing("the outbox could not be read");
        };
        let decided = self.decider.render(&event, vec![Arc::clone(webhook)]).await;
        match decided.into_iter().next() {
            Some((_, Decision::Rendered(mut made))) => {
                // A failed rule left one dead letter for all that the event would have made.
                if made.len() > 1 && kept.reason.as_deref().is_some_and(|reason| reason.starts_with("rule_error")) {
                    let why = format!("its event makes {} payloads now; `sidehook replay` sends them all", made.len());
                    return Again::Nothing(why);
                }
                let found = (kept.place < made.len()).then(|| made.swap_remove(kept.place));
                match found.and_then(|delivery| Some((delivery.body?, delivery.headers))) {
                    Some((body, headers)) => Again::Payload(body, headers),
                    None => nothing("its event makes fewer payloads now"),
                }
            }
            Some((_, Decision::RuleFailed(dead))) => {
                let why = dead.first().and_then(|delivery| delivery.dead.clone());
                Again::Nothing(format!("its rule still fails: {}", why.unwrap_or_else(|| "see the log".to_owned())))
            }
            _ => nothing("today's rules filter its event"),
        }
    }

    /// Renders one page of kept events, oldest first, and stores what they make as new deliveries.
    pub async fn replay(&self, wanted: &Replay) -> Result<Replayed, ReplayError> {
        let generation = Arc::clone(&self.generations.borrow());
        let all = || generation.webhooks.values().filter(|webhook| webhook.enabled);
        if let Some(name) = &wanted.webhook
            && !all().any(|webhook| webhook.name == *name)
        {
            return Err(ReplayError::Unknown(name.to_string()));
        }
        let kept = self.outbox.kept_events(wanted.since, wanted.until, wanted.after, limits::REPLAY_EVENTS).await?;
        let mut page = Replayed { next: kept.next, ..Replayed::default() };
        let mut batch = Batch::default();
        for body in kept.bodies {
            page.events += 1;
            let Some(event) = Event::from_stored(body) else {
                page.complain("a kept event cannot be read".to_owned());
                continue;
            };
            let named = |webhook: &Arc<Webhook>| wanted.webhook.as_ref().is_none_or(|name| webhook.name == *name);
            let wanting = all().filter(|webhook| webhook.events.matches(&event.kind) && named(webhook));
            let mut decisions = Vec::new();
            for webhook in wanting {
                let complete = self.late_analysis(event.clone(), webhook, &generation).await?;
                decisions.extend(self.decider.render(&complete, vec![Arc::clone(webhook)]).await);
            }
            for (webhook, decision) in &decisions {
                page.count(webhook, &event, decision);
                if !wanted.dry_run {
                    super::count(webhook, decision);
                }
            }
            if !decisions.is_empty() {
                batch.arrivals.push(super::made_arrival(&event, decisions, self.clock.now()));
            }
        }
        if !wanted.dry_run && !batch.arrivals.is_empty() {
            self.outbox.commit(batch).await?;
        }
        Ok(page)
    }

    /// What came after the event's own end counts where the webhook would have waited for it, or for calls.
    async fn late_analysis(
        &self,
        event: Event,
        webhook: &Webhook,
        generation: &Generation,
    ) -> Result<Event, OutboxError> {
        let waits =
            (webhook.wait_for.is_some() || !generation.analyses.is_empty()) && Role::of(&event.kind) == Role::End;
        let Some(id) = event.conversation.clone().filter(|_| waits) else { return Ok(event) };
        let key = ConversationKey { namespace: Arc::clone(&event.namespace), id };
        let (settings, now) = (&generation.settings.conversations, self.clock.now());
        let analysis = self.states.read(&key, false, settings, now, &self.outbox).await?.state.analysis();
        Ok(if analysis.is_empty() { event } else { event.with_analysis(&analysis) })
    }
}

impl Replayed {
    fn complain(&mut self, error: String) {
        if self.errors.len() < limits::REPLAY_ERRORS {
            self.errors.push(error);
        }
    }

    fn count(&mut self, webhook: &str, event: &Event, decision: &Decision) {
        let counts = self.webhooks.entry(webhook.to_owned()).or_default();
        counts.matched += 1;
        match decision {
            Decision::Filtered | Decision::Waiting { .. } => counts.filtered += 1,
            Decision::Rendered(made) => {
                counts.rendered += 1;
                self.deliveries += made.len() as u64;
            }
            Decision::RuleFailed(made) => {
                counts.rule_failed += 1;
                self.deliveries += made.len() as u64;
                let why = made.first().and_then(|delivery| delivery.dead.as_deref()).unwrap_or("the rule failed");
                self.complain(format!("{webhook}: event {}: {why}", event.id));
            }
        }
    }
}
