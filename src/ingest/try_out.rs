//! A made-up event for one webhook, rendered, stored and delivered as every other one. Changes no conversation's state
//! and reaches no other webhook.

use std::sync::Arc;

use super::Ingest;
use crate::config::Webhook;
use crate::event::{Incoming, Json, Stamp, State};
use crate::outbox::{Batch, CommitError, Decision};

/// What became of a test event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// Deliveries, by their ids.
    Made(Vec<String>),
    /// `when` or the rule wants nothing of it.
    Filtered,
    /// The rule failed, and `on_rule_error: skip` left nothing.
    Failed,
}

/// Types that are tried first; the end of a conversation has the most to show.
const USUAL: [&str; 5] = [
    "conversation.completed",
    "conversation.failed",
    "conversation.begin",
    "conversation.resume",
    "conversation.update",
];

impl Ingest {
    /// Makes an event that `webhook` subscribes to and stores what it makes of it. Rendered at once, whatever
    /// `wait_for` says.
    pub async fn try_out(&self, webhook: &Arc<Webhook>) -> Result<Tried, CommitError> {
        let now = self.clock.now();
        let kind = kind_for(webhook);
        let conversation = self.entropy.id("test", now);
        let mut body = serde_json::json!({
            "type": "test",
            "time": now.to_string(),
            "assistant": {"id": "test", "name": "sidehook test", "version": env!("CARGO_PKG_VERSION")},
            "conversation": {"id": conversation, "messages": [
                {"role": "user", "message": "This is a test event."},
                {"role": "assistant", "message": "Then everything works."},
            ]},
            "argument": {},
            "metadata": {"test": true},
            "option": {},
            "analysis": {"conversation-analysis": {"result": "A test event of sidehook."}},
        });
        if kind.starts_with("message.") {
            body["message"] = serde_json::json!({"role": "user", "message": "This is a test event."});
        }
        let item = Json::parse(body.to_string()).map_err(|e| CommitError::Failed(e.to_string()))?;
        let mut incoming =
            Incoming::read(&item).map_err(|_| CommitError::Failed(format!("{kind:?} makes no test event")))?;
        // Set afterwards: a sender may not use every type that a webhook may ask for.
        incoming.kind = Arc::from(kind);
        let id = Arc::from(self.entropy.id("evt", now));
        let stamp = Stamp { namespace: Arc::from(""), id, arrived: now, traceparent: None };
        let event = State::default().assemble(&incoming, None, stamp);
        let decided = self.decider.render(&event, vec![Arc::clone(webhook)]).await;
        let made = decided.iter().flat_map(|(_, decision)| match decision {
            Decision::Rendered(all) | Decision::RuleFailed(all) => all.iter().map(|d| d.id.clone()).collect(),
            Decision::Filtered | Decision::Waiting { .. } => Vec::new(),
        });
        let tried = match (made.collect::<Vec<String>>(), decided.first().map(|(_, d)| d)) {
            (made, Some(Decision::RuleFailed(_))) if made.is_empty() => Tried::Failed,
            (made, _) if made.is_empty() => Tried::Filtered,
            (made, _) => Tried::Made(made),
        };
        for (webhook, decision) in &decided {
            super::count(webhook, decision);
        }
        let arrival = super::made_arrival(&event, decided, now);
        self.outbox.commit(Batch { arrivals: vec![arrival], ..Batch::default() }).await?;
        Ok(tried)
    }
}

/// A type that the webhook's patterns want.
fn kind_for(webhook: &Webhook) -> String {
    if let Some(kind) = USUAL.into_iter().find(|kind| webhook.events.matches(kind)) {
        return kind.to_owned();
    }
    let written = webhook.events.as_written();
    let exact = written.iter().find(|pattern| !pattern.contains(['*', '?', '[', '{']));
    let from_glob = || written.iter().map(|pattern| pattern.replace('*', "test")).find(|k| webhook.events.matches(k));
    exact.cloned().or_else(from_glob).unwrap_or_else(|| USUAL[0].to_owned())
}
