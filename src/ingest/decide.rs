//! What becomes of one event for each webhook that wants it.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::clock::{Clock, Entropy, Timestamp};
use crate::config::model::Analysis;
use crate::config::{Generation, Webhook};
use crate::event::{Event, Json, Role};
use crate::limits;
use crate::outbox::{Decision, NewDelivery, clip};
use crate::rules::{Adapter, Message, OnRuleError, Outcome, Payload, RuleError};
use crate::telemetry::ingest::RuleFailed;

/// Evaluates rules: what takes next to no time where it is asked, everything else away from the threads that serve
/// connections, a bounded number at a time.
pub(super) struct Decider {
    scripts: Arc<Semaphore>,
    clock: Clock,
    entropy: Entropy,
}

impl Decider {
    pub fn new(clock: Clock, entropy: Entropy) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self { scripts: Arc::new(Semaphore::new(cores)), clock, entropy }
    }

    /// Decides `event` for every webhook of `generation` that wants it; in no order. Where analyses are due, all of them
    /// wait, and the second answer is true.
    pub async fn decide(&self, event: &Event, generation: &Generation) -> (Vec<(Arc<str>, Decision)>, bool) {
        let wanting = generation.webhooks.values().filter(|w| w.enabled && w.events.matches(&event.kind));
        let analyses = !analyses_due(event, generation).is_empty();
        let mut decisions = Vec::new();
        let mut now_due = Vec::new();
        for webhook in wanting {
            match waits_until(webhook, event).or(analyses.then_some(event.arrived)) {
                Some(deadline) => {
                    let ordered = webhook.ordered && event.conversation.is_some();
                    decisions.push((Arc::clone(&webhook.name), Decision::Waiting { deadline, ordered }));
                }
                None => now_due.push(Arc::clone(webhook)),
            }
        }
        decisions.extend(self.render(event, now_due).await);
        let analyses = analyses && !decisions.is_empty();
        (decisions, analyses)
    }

    /// Renders `event` for these webhooks now.
    pub async fn render(&self, event: &Event, webhooks: Vec<Arc<Webhook>>) -> Vec<(Arc<str>, Decision)> {
        // Most rules take some tens of microseconds, less than a hand-over to another thread.
        let until = self.clock.instant() + limits::QUICK_RULES_TIME;
        let mut outcomes = Vec::with_capacity(webhooks.len());
        let mut scripted = Vec::new();
        for webhook in webhooks {
            let outcome = if !webhook.program.runs_scripts() {
                Some(webhook.program.evaluate(event, None))
            } else if self.clock.instant() < until {
                webhook.program.evaluate_quickly(event)
            } else {
                None
            };
            match outcome {
                Some(outcome) => outcomes.push((outcome, webhook)),
                None => scripted.push(webhook),
            }
        }
        if !scripted.is_empty() {
            // The semaphore is never closed.
            let permit = Arc::clone(&self.scripts).acquire_owned().await.ok();
            let job = {
                let event = event.clone();
                let scripted = scripted.clone();
                move || {
                    let _permit = permit;
                    scripted.into_iter().map(|w| (w.program.evaluate(&event, None), w)).collect::<Vec<_>>()
                }
            };
            match tokio::task::spawn_blocking(job).await {
                Ok(decided) => outcomes.extend(decided),
                Err(error) => outcomes.extend(scripted.into_iter().map(|w| (broken(&error), w))),
            }
        }
        outcomes.into_iter().map(|(outcome, webhook)| self.decision(event, &webhook, outcome)).collect()
    }

    /// What an adapter makes of a message.
    pub async fn adapt(&self, adapter: &Adapter, message: Message) -> Result<Vec<Json>, RuleError> {
        if let Some(events) = adapter.adapt_quickly(&message) {
            return Ok(events);
        }
        // The semaphore is never closed.
        let permit = Arc::clone(&self.scripts).acquire_owned().await.ok();
        let (script, file) = (adapter.clone(), adapter.file().to_owned());
        let job = move || {
            let _permit = permit;
            script.adapt(&message)
        };
        tokio::task::spawn_blocking(job).await.unwrap_or_else(|error| Err(panicked(&file, "adapt", &error)))
    }

    fn decision(&self, event: &Event, webhook: &Webhook, outcome: Outcome) -> (Arc<str>, Decision) {
        let decision = match outcome {
            Outcome::Filtered(_) => Decision::Filtered,
            Outcome::Payloads(payloads) => {
                Decision::Rendered(payloads.into_iter().map(|p| self.delivery(event, webhook, p)).collect())
            }
            Outcome::Failed { error, fallback } => {
                let error = error.to_string();
                let error = clip(&error, limits::REASON_BYTES);
                RuleFailed { webhook: &webhook.name, event: &event.id, error }.emit();
                Decision::RuleFailed(match (webhook.program.on_rule_error, fallback) {
                    (OnRuleError::Skip, _) => Vec::new(),
                    (OnRuleError::SendParams, Some(payload)) => vec![self.delivery(event, webhook, payload)],
                    (OnRuleError::DeadLetter | OnRuleError::SendParams, _) => {
                        vec![self.dead_letter(event, webhook, error)]
                    }
                })
            }
        };
        (Arc::clone(&webhook.name), decision)
    }

    /// What becomes of a stored event that cannot be read any more.
    pub fn lost(&self, webhook: &Webhook) -> Decision {
        let id = self.entropy.id("msg", self.clock.now());
        let dead = Some("event_unreadable".to_owned());
        let letter = NewDelivery { id, body: None, headers: Vec::new(), ordered: webhook.ordered, dead };
        Decision::RuleFailed(vec![letter])
    }

    fn delivery(&self, event: &Event, webhook: &Webhook, payload: Payload) -> NewDelivery {
        NewDelivery {
            id: self.entropy.id("msg", self.clock.now()),
            body: Some(payload.body),
            headers: payload.headers,
            ordered: webhook.ordered && event.conversation.is_some(),
            dead: None,
        }
    }

    fn dead_letter(&self, event: &Event, webhook: &Webhook, error: &str) -> NewDelivery {
        NewDelivery {
            id: self.entropy.id("msg", self.clock.now()),
            body: None,
            headers: Vec::new(),
            ordered: webhook.ordered && event.conversation.is_some(),
            dead: Some(format!("rule_error: {error}")),
        }
    }
}

/// The analyses that are called for this event: of an end, those whose result is not there.
pub(super) fn analyses_due(event: &Event, generation: &Generation) -> Vec<Arc<Analysis>> {
    if generation.analyses.is_empty() || event.conversation.is_none() || Role::of(&event.kind) != Role::End {
        return Vec::new();
    }
    let there = event.map("analysis");
    generation.analyses.iter().filter(|analysis| there.get(&analysis.name).is_none()).cloned().collect()
}

/// Until when `webhook` waits for analysis before this event is rendered; `None` when it need not wait.
fn waits_until(webhook: &Webhook, event: &Event) -> Option<Timestamp> {
    let wait = webhook.wait_for.as_ref().filter(|_| Role::of(&event.kind) == Role::End)?;
    (!has_all(&event.map("analysis"), &wait.analysis)).then(|| event.arrived.plus(wait.timeout))
}

/// Whether every name is there.
pub(super) fn has_all(analysis: &Json, names: &[String]) -> bool {
    names.iter().all(|name| analysis.get(name).is_some())
}

fn broken(error: &tokio::task::JoinError) -> Outcome {
    Outcome::Failed { error: panicked("", "rule", error), fallback: None }
}

fn panicked(file: &str, function: &str, error: &tokio::task::JoinError) -> RuleError {
    RuleError::new(file, function, "panic", format!("the evaluation ended unexpectedly: {error}"))
}
