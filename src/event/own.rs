//! sidehook's own troubles as events: what happened, and the way by which those who notice tell it to whoever makes
//! events of it. Keeps and sends nothing.

use std::sync::Arc;

use super::{Event, Incoming, Json, Stamp, State};
use crate::clock::Timestamp;

/// Types of sidehook's own events begin so.
pub const PREFIX: &str = "sidehook.";

/// Whether an event is about sidehook itself. Troubles with such events are not told again, or two webhooks that cannot
/// be reached would tell of each other for ever.
#[must_use]
pub fn is_own(kind: &str) -> bool {
    kind.starts_with(PREFIX)
}

/// Something an operator wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// A delivery was given up.
    DeliveryDead {
        /// Its webhook.
        webhook: Arc<str>,
        /// Its id.
        delivery: String,
        /// Why.
        reason: String,
    },
    /// A destination answered 410.
    WebhookDisabled {
        /// The webhook.
        webhook: Arc<str>,
        /// The delivery that met it.
        delivery: String,
        /// Why.
        reason: String,
    },
    /// A changed configuration was refused.
    ReloadRejected {
        /// Its first problem, masked.
        reason: String,
    },
    /// The outbox refuses new events.
    OutboxFull {
        /// How full it is.
        reason: String,
    },
}

impl Trouble {
    /// The event's type.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DeliveryDead { .. } => "sidehook.delivery.dead",
            Self::WebhookDisabled { .. } => "sidehook.webhook.disabled",
            Self::ReloadRejected { .. } => "sidehook.reload.rejected",
            Self::OutboxFull { .. } => "sidehook.outbox.full",
        }
    }

    /// The webhook whose trouble it is, if it is one's; it is not told of it.
    #[must_use]
    pub fn webhook(&self) -> Option<&str> {
        match self {
            Self::DeliveryDead { webhook, .. } | Self::WebhookDisabled { webhook, .. } => Some(webhook),
            Self::ReloadRejected { .. } | Self::OutboxFull { .. } => None,
        }
    }

    /// The event; `None` would be a fault of ours.
    #[must_use]
    pub fn event(&self, id: Arc<str>, now: Timestamp) -> Option<Event> {
        let mut metadata = Vec::new();
        let mut entry = |key: &str, value: &str| metadata.push((Arc::from(key), Json::text(value)));
        match self {
            Self::DeliveryDead { webhook, delivery, reason } | Self::WebhookDisabled { webhook, delivery, reason } => {
                entry("webhook", webhook);
                entry("delivery", delivery);
                entry("reason", reason);
            }
            Self::ReloadRejected { reason } | Self::OutboxFull { reason } => entry("reason", reason),
        }
        // Read as another type: from a sender this one would be refused.
        let members = vec![(Arc::from("type"), Json::text("own")), (Arc::from("metadata"), Json::map(metadata))];
        let mut incoming = Incoming::read(&Json::parse(Json::map(members).to_bytes()).ok()?).ok()?;
        incoming.kind = Arc::from(self.kind());
        let stamp = Stamp { namespace: Arc::from(""), id, arrived: now, traceparent: None };
        Some(State::default().assemble(&incoming, None, stamp))
    }
}

/// Where troubles are told; by default to nobody.
#[derive(Clone, Default)]
pub struct Troubles(Option<Arc<dyn Fn(Trouble) + Send + Sync>>);

impl std::fmt::Debug for Troubles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Troubles").field(&self.0.is_some()).finish()
    }
}

impl Troubles {
    /// Told to `hear`, which may not wait.
    pub fn to(hear: impl Fn(Trouble) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hear)))
    }

    /// Tells one.
    pub fn tell(&self, trouble: Trouble) {
        if let Some(hear) = &self.0 {
            hear(trouble);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_become_events_with_their_metadata() {
        let dead = Trouble::DeliveryDead { webhook: "crm".into(), delivery: "msg_1".into(), reason: "a \"b\"".into() };
        let full = Trouble::OutboxFull { reason: "full".into() };
        for (trouble, kind, metadata) in [
            (&dead, "sidehook.delivery.dead", r#"{"webhook":"crm","delivery":"msg_1","reason":"a \"b\""}"#),
            (&full, "sidehook.outbox.full", r#"{"reason":"full"}"#),
        ] {
            let event = trouble.event("evt_1".into(), Timestamp::from_millis(0)).expect("an event");
            assert_eq!((&*event.kind, &*event.id, &event.conversation), (kind, "evt_1", &None));
            assert_eq!(event.map("metadata").to_bytes(), metadata);
            assert!(is_own(&event.kind));
        }
        assert!(!is_own("conversation.completed") && !is_own("sidehooks"));
    }
}
