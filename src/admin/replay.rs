//! Kept events through today's rules: `POST /api/v1/replay`, and dead letters without payload that are asked for again.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::Admin;
use super::problem::{bad_request, failed, not_found};
use crate::clock::Timestamp;
use crate::ingest::{Again, Replay, ReplayError};
use crate::outbox::{CommitError, DeliveryView, Filter, Retried, State as DeliveryState};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    since: String,
    until: Option<String>,
    webhook: Option<String>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    after: i64,
}

/// One page; whoever asks goes on with `after` until `next` is null.
pub(super) async fn replay(State(admin): State<Admin>, body: Bytes) -> Response {
    let asked: Asked = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => return bad_request(&format!("the body must be {{\"since\": TIME, …}}: {error}")),
    };
    let time = |name: &str, text: &str| {
        Timestamp::parse_rfc3339(text).ok_or_else(|| format!("{name} must be an RFC 3339 time, not {text:?}"))
    };
    let since = time("since", &asked.since);
    let until = asked.until.map_or_else(|| Ok(admin.clock.now()), |text| time("until", &text));
    let (since, until) = match (since, until) {
        (Ok(since), Ok(until)) => (since, until),
        (Err(reason), _) | (_, Err(reason)) => return bad_request(&reason),
    };
    let webhook = asked.webhook.map(Arc::from);
    let wanted = Replay { since, until, webhook, dry_run: asked.dry_run, after: asked.after };
    match admin.ingest.replay(&wanted).await {
        Ok(page) => Json(page).into_response(),
        Err(error @ ReplayError::Unknown(_)) => not_found(&error.to_string()),
        Err(error) => failed(&error),
    }
}

/// Retries a delivery, rendering its payload anew where it has none and its event was kept.
pub(super) async fn retry(admin: &Admin, id: &str) -> Result<Retried, CommitError> {
    let retried = admin.outbox.retry(id).await?;
    let Retried::NoPayload(why) = retried else { return Ok(retried) };
    let kept = admin.outbox.kept_event(id).await.map_err(|error| CommitError::Failed(error.to_string()))?;
    // One that was delivered has no reason: under its id nothing but what it was may be sent.
    let Some(kept) = kept.filter(|kept| kept.reason.is_some()) else { return Ok(Retried::NoPayload(why)) };
    match admin.ingest.render_again(kept).await {
        Again::Payload(body, headers) => admin.outbox.retry_with(id, body, headers).await,
        Again::Nothing(why) => Ok(Retried::NoPayload(why)),
    }
}

/// Dead ones that match and have no payload, as far as their events were kept; answers how many are due now.
pub(super) async fn retry_where(admin: &Admin, filter: &Filter) -> Result<u64, CommitError> {
    if !matches!(filter.state, None | Some(DeliveryState::Dead)) {
        return Ok(0);
    }
    let filter = Filter { state: Some(DeliveryState::Dead), ..filter.clone() };
    let (mut retried, mut cursor) = (0, None);
    loop {
        let page = admin.outbox.list(&filter, cursor.as_deref(), 500).await;
        let page = page.map_err(|error| CommitError::Failed(error.to_string()))?;
        for delivery in page.items.iter().filter(|delivery| lacks_payload(delivery)) {
            if retry(admin, &delivery.id).await? == Retried::Yes {
                retried += 1;
            }
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(retried);
        }
    }
}

/// By its reason: what died of anything else keeps its payload.
fn lacks_payload(delivery: &DeliveryView) -> bool {
    let reason = delivery.reason.as_deref().unwrap_or_default();
    reason.starts_with("rule_error") || matches!(reason, "outbox_full" | "no_payload")
}
