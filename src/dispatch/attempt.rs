//! One attempt, a type per state: [`Prepared`] → [`Called`] → [`Handled`]. Nothing can be settled that was not called,
//! and nothing called that was not signed afresh.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::request::{self, Unsendable};
use crate::clock::{Clock, Entropy, Timestamp, millis};
use crate::config::Webhook;
use crate::delivery::{Fault, Judgement, Outcome, judge, parse_retry_after};
use crate::event::own::{Trouble, is_own};
use crate::net::{Answer, Failure, Way};
use crate::outbox::{Attempt, Ready, Settlement, Standing, Verdict};
use crate::telemetry::dispatch as facts;

/// What a delivery is beyond its payload; the payload is let go once it is sent.
pub(super) struct Parcel {
    pub(super) row: i64,
    pub(super) id: String,
    pub(super) made: u32,
    pub(super) arrived: Timestamp,
    /// Whether its event is about sidehook itself.
    pub(super) own: bool,
}

impl Parcel {
    /// What is kept of a delivery while its attempt is under way.
    pub(super) fn of(delivery: &Ready) -> Self {
        Self {
            row: delivery.row,
            id: delivery.id.clone(),
            made: delivery.attempts.saturating_add(1),
            arrived: delivery.arrived,
            own: is_own(&delivery.event_type),
        }
    }
}

/// A request that was built and signed for the present moment.
pub(super) struct Prepared {
    webhook: Arc<Webhook>,
    parcel: Parcel,
    request: Result<Request<Full<Bytes>>, Unsendable>,
    at: Timestamp,
}

/// An attempt that is over.
pub(super) struct Called {
    webhook: Arc<Webhook>,
    parcel: Parcel,
    at: Timestamp,
    took: Duration,
    result: Result<(Outcome, Option<Duration>), Unsendable>,
    error: Option<String>,
    response: Option<String>,
}

/// What follows, ready to be stored.
pub(super) struct Handled {
    pub(super) settlement: Settlement,
    /// The webhook's new standing, after a 410.
    pub(super) standing: Option<Standing>,
    /// How it ended; `None` when nothing could be sent.
    pub(super) outcome: Option<Outcome>,
    /// What the destination asked for.
    pub(super) retry_after: Option<Duration>,
    /// What an operator may want to hear.
    pub(super) trouble: Option<Trouble>,
}

impl Prepared {
    /// Builds and signs the request by the webhook as it is now.
    pub(super) fn new(webhook: Arc<Webhook>, delivery: Ready, clock: &Clock, entropy: &Entropy) -> Self {
        let at = clock.now();
        let request = request::build(&webhook, &delivery, at, entropy);
        let parcel = Parcel::of(&delivery);
        // From here on only the request holds the payload.
        drop(delivery);
        Self { webhook, parcel, request, at }
    }

    /// Sends it. A way that could not be made is a failed attempt.
    pub(super) async fn call(self, way: Result<Way, String>, clock: &Clock) -> Called {
        let Self { webhook, parcel, request, at } = self;
        let started = clock.instant();
        let answer = match (request, way) {
            (Ok(request), Ok(way)) => Ok(way.send(request, webhook.timeout).await),
            (Ok(_), Err(message)) => Ok(Err(Failure::new(Fault::Tls, message))),
            (Err(unsendable), _) => Err(unsendable),
        };
        let took = started.elapsed();
        let (result, error, response) = match answer {
            Ok(Ok(Answer { status, retry_after, body })) => {
                let wait = retry_after.and_then(|value| parse_retry_after(&value, clock.now()));
                let text = (!body.is_empty()).then(|| String::from_utf8_lossy(&body).into_owned());
                (Ok((Outcome::Status(status), wait)), explain(status).map(str::to_owned), text)
            }
            Ok(Err(Failure { fault, message, body })) => {
                let text = (!body.is_empty()).then(|| String::from_utf8_lossy(&body).into_owned());
                (Ok((Outcome::Fault(fault), None)), Some(webhook.hide_host(message)), text)
            }
            Err(unsendable) => {
                let message = unsendable.to_string();
                (Err(unsendable), Some(message), None)
            }
        };
        Called { webhook, parcel, at, took, result, error, response }
    }
}

impl Called {
    /// An attempt whose task ended without an answer, through a fault of ours.
    pub(super) fn lost(webhook: Arc<Webhook>, parcel: Parcel, at: Timestamp) -> Self {
        let error = Some("the attempt ended unexpectedly inside sidehook".to_owned());
        let result = Ok((Outcome::Fault(Fault::Reset), None));
        Self { webhook, parcel, at, took: Duration::ZERO, result, error, response: None }
    }

    /// Judges it. `current`: whether the webhook's file is still what it was when the attempt began. `unit` is uniform in
    /// `[0, 1)`.
    pub(super) fn handle(self, current: bool, now: Timestamp, unit: f64) -> Handled {
        let Self { webhook, parcel, at, took, result, mut error, response } = self;
        let (outcome, retry_after, judgement) = match &result {
            Ok((outcome, wait)) => {
                let judgement = judge(&webhook.retry, *outcome, parcel.made, now, *wait, unit);
                (Some(*outcome), *wait, judgement)
            }
            Err(unsendable) => (None, None, Judgement::Dead(unsendable.reason().to_owned())),
        };
        let status = outcome.map_or_else(|| "unsendable".to_owned(), Outcome::label);
        if let Some(outcome) = outcome {
            let (delivery, attempts, error) = (&parcel.id, parcel.made, error.as_deref());
            facts::Attempted { webhook: &webhook.name, delivery, status: outcome.label(), error, attempts, took }
                .emit();
        }
        let judgement = match judgement {
            Judgement::Gone if !current => {
                error = Some("the destination is gone for good; the webhook's file changed meanwhile".to_owned());
                Judgement::Retry(now)
            }
            judgement => judgement,
        };
        let (verdict, standing) = follow(&webhook, &parcel, judgement, now, &status);
        let trouble = trouble(&webhook, &parcel, &verdict, standing.as_ref());
        // An attempt that never left is not counted as one, but its error is what the operator needs to see.
        let attempt = Attempt { at, status, error, duration_ms: millis(took), response };
        let settlement = Settlement { row: parcel.row, attempt: Some(attempt), verdict };
        Handled { settlement, standing, outcome, retry_after, trouble }
    }
}

fn follow(
    webhook: &Webhook,
    parcel: &Parcel,
    judgement: Judgement,
    now: Timestamp,
    status: &str,
) -> (Verdict, Option<Standing>) {
    match judgement {
        Judgement::Delivered => {
            facts::Delivered { webhook: &webhook.name, since_event: now.since(parcel.arrived) }.emit();
            (Verdict::Delivered, None)
        }
        Judgement::Retry(at) => {
            facts::WillRetry { webhook: &webhook.name, delivery: &parcel.id, reason: status, at: &at }.emit();
            (Verdict::Retry(at), None)
        }
        Judgement::Dead(reason) => {
            let (delivery, attempts) = (&parcel.id, parcel.made);
            facts::Died { webhook: &webhook.name, delivery, reason: &reason, attempts }.emit();
            (Verdict::Dead(reason), None)
        }
        Judgement::Gone => {
            facts::WebhookDisabled { webhook: &webhook.name }.emit();
            let reason = "status_410".to_owned();
            let standing = Standing::Disabled { reason: reason.clone(), file_hash: webhook.file_hash.clone() };
            (Verdict::Held(reason), Some(standing))
        }
    }
}

fn trouble(webhook: &Webhook, parcel: &Parcel, verdict: &Verdict, standing: Option<&Standing>) -> Option<Trouble> {
    if parcel.own {
        return None;
    }
    let (webhook, delivery) = (Arc::clone(&webhook.name), parcel.id.clone());
    match (verdict, standing) {
        (Verdict::Dead(reason), _) => Some(Trouble::DeliveryDead { webhook, delivery, reason: reason.clone() }),
        (_, Some(Standing::Disabled { reason, .. })) => {
            Some(Trouble::WebhookDisabled { webhook, delivery, reason: reason.clone() })
        }
        _ => None,
    }
}

fn explain(status: u16) -> Option<&'static str> {
    match status {
        304 => Some("this answer belongs to a request with a condition, and sidehook makes none"),
        300..400 => Some("redirects are not followed; set url to where the destination is now"),
        410 => Some("the destination is gone for good; the webhook is disabled until its file changes"),
        _ => None,
    }
}
