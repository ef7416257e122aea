//! sidehook's own events: from what the actors tell to deliveries for those webhooks that ask for them by a pattern that
//! begins with `sidehook.`. Makes nothing where nobody asks, and nothing for the webhook whose trouble it is.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Ingest;
use crate::clock::Timestamp;
use crate::event::own::{Trouble, Troubles};
use crate::limits;
use crate::outbox::{Arrival, Batch, Decision, Health};
use crate::telemetry::ingest::OwnEventsLost;

/// A way to tell and the end where it is heard. Telling never waits: what does not fit is lost and logged, the work that
/// met the trouble goes on.
#[must_use]
pub fn troubles() -> (Troubles, mpsc::Receiver<Trouble>) {
    let (tell, hear) = mpsc::channel(limits::OWN_EVENTS);
    let troubles = Troubles::to(move |trouble| {
        if let Err(mpsc::error::TrySendError::Full(_)) = tell.try_send(trouble) {
            OwnEventsLost { events: 1, error: "too many at once" }.emit();
        }
    });
    (troubles, hear)
}

impl Ingest {
    /// Hears troubles, and watches the outbox for its own, until nobody tells any more.
    pub async fn run_own(self: Arc<Self>, mut troubles: mpsc::Receiver<Trouble>) {
        let mut health = self.outbox.health();
        let mut heard = Vec::new();
        let mut full_told: Option<Timestamp> = None;
        loop {
            tokio::select! {
                count = troubles.recv_many(&mut heard, limits::OWN_EVENTS_BATCH) => if count == 0 { return },
                Ok(()) = health.changed() => {
                    let now = self.clock.now();
                    let lately = full_told.is_some_and(|at| at <= now && now.since(at) < limits::OUTBOX_FULL_EVERY);
                    if *health.borrow_and_update() == Health::Full && !lately {
                        full_told = Some(now);
                        let reason = format!("{} bytes are in use; new events are refused", self.outbox.bytes());
                        heard.push(Trouble::OutboxFull { reason });
                    }
                }
            }
            let arrivals = self.own_arrivals(&heard).await;
            heard.clear();
            if arrivals.is_empty() {
                continue;
            }
            let count = arrivals.len();
            // Nothing is tried again: what is lost is in the log, and the trouble itself in the outbox.
            if let Err(error) = self.outbox.commit(Batch { arrivals, ..Batch::default() }).await {
                OwnEventsLost { events: count, error: &error.to_string() }.emit();
            }
        }
    }

    async fn own_arrivals(&self, troubles: &[Trouble]) -> Vec<Arrival> {
        let generation = Arc::clone(&self.generations.borrow());
        let now = self.clock.now();
        let mut arrivals = Vec::new();
        for trouble in troubles {
            let wants = |w: &&Arc<crate::config::Webhook>| {
                w.enabled && w.events.matches(trouble.kind()) && trouble.webhook() != Some(&*w.name)
            };
            let wanting: Vec<_> = generation.webhooks.values().filter(wants).cloned().collect();
            if wanting.is_empty() {
                continue;
            }
            let id = Arc::from(self.entropy.id("evt", now));
            let Some(event) = trouble.event(id, now) else { continue };
            let decisions = self.decider.render(&event, wanting).await;
            for (webhook, decision) in &decisions {
                super::count(webhook, decision);
            }
            arrivals.push(super::made_arrival(&event, decisions, now));
        }
        arrivals
    }
}

/// The dead letters that failed rules left, to be told once they are stored.
pub(super) fn dead_letters<'a>(
    kind: &str,
    decisions: impl IntoIterator<Item = &'a (Arc<str>, Decision)>,
) -> Vec<Trouble> {
    if crate::event::own::is_own(kind) {
        return Vec::new();
    }
    let mut told = Vec::new();
    for (webhook, decision) in decisions {
        let Decision::RuleFailed(made) = decision else { continue };
        for delivery in made {
            let Some(reason) = &delivery.dead else { continue };
            told.push(Trouble::DeliveryDead {
                webhook: Arc::clone(webhook),
                delivery: delivery.id.clone(),
                reason: reason.clone(),
            });
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telling_never_waits() {
        let (troubles, mut heard) = troubles();
        for _ in 0..limits::OWN_EVENTS + 10 {
            troubles.tell(Trouble::OutboxFull { reason: String::new() });
        }
        let mut count = 0;
        while heard.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, limits::OWN_EVENTS);
        Troubles::default().tell(Trouble::OutboxFull { reason: String::new() });
    }
}
