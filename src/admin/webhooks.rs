//! `/api/v1/webhooks`: list, show, pause, resume, test. Header values are never shown, and of a URL neither what stands
//! in its query nor what came from `${…}`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::Admin;
use super::problem::{failed, not_found, problem};
use crate::config::Webhook;
use crate::config::model::Method;
use crate::ingest::Tried;
use crate::outbox::{DeliveryView, OutboxError, Standing, State as DeliveryState, Stood, WebhookView};

/// How often a test's delivery is looked at.
const LOOK: Duration = Duration::from_millis(25);
/// How long a test waits for its attempt beyond the webhook's own deadline.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn list(State(admin): State<Admin>) -> Response {
    match views(&admin).await {
        Ok(items) => {
            let items: Vec<Value> = items.into_iter().map(|(_, shown)| shown).collect();
            Json(json!({"items": items, "next_cursor": null})).into_response()
        }
        Err(error) => failed(&error),
    }
}

pub(super) async fn show(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    one(&admin, &name).await
}

async fn one(admin: &Admin, name: &str) -> Response {
    match views(admin).await {
        Ok(items) => match items.into_iter().find(|(n, _)| **n == *name) {
            Some((_, shown)) => Json(shown).into_response(),
            None => unknown(name),
        },
        Err(error) => failed(&error),
    }
}

fn unknown(name: &str) -> Response {
    not_found(&format!("there is no webhook {name:?}"))
}

pub(super) async fn pause(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    stand(&admin, &name, true).await
}

pub(super) async fn resume(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    stand(&admin, &name, false).await
}

async fn stand(admin: &Admin, name: &str, paused: bool) -> Response {
    match admin.outbox.pause(name, paused).await {
        Ok(Stood::Yes) => {
            admin.dispatch.pause(name, paused).await;
            tracing::info!(webhook = name, paused, "asked for over the admin API");
            one(admin, name).await
        }
        Ok(Stood::Unknown) => unknown(name),
        Ok(Stood::Disabled) => {
            let detail = "its destination answered 410: it is disabled until its file changes";
            problem(StatusCode::CONFLICT, "webhook disabled", detail)
        }
        Err(error) => failed(&error),
    }
}

pub(super) async fn test(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    let Some(webhook) = admin.generations.borrow().webhooks.get(name.as_str()).cloned() else { return unknown(&name) };
    match admin.outbox.webhooks().await {
        Ok(all) => {
            let known = all.into_iter().find(|view| *view.name == *name);
            let (state, _) = standing(Some(&webhook), known.as_ref());
            if state != "active" {
                let detail = format!("it is {state}, so a test event would only be held");
                return problem(StatusCode::CONFLICT, "webhook not active", &detail);
            }
        }
        Err(error) => return failed(&error),
    }
    let nothing = |detail: &str| problem(StatusCode::UNPROCESSABLE_ENTITY, "nothing to send", detail);
    match admin.ingest.try_out(&webhook).await {
        Ok(Tried::Made(ids)) => match attempted(&admin, &ids[0], webhook.timeout + PATIENCE).await {
            Ok(Some(delivery)) => Json(delivery).into_response(),
            Ok(None) => not_found("the test's delivery is gone already"),
            Err(error) => failed(&error),
        },
        Ok(Tried::Filtered) => nothing("`when` or the rule filters the test event (it has metadata.test: true)"),
        Ok(Tried::Failed) => nothing("the rule failed, and on_rule_error: skip leaves nothing to send"),
        Err(error) => failed(&error),
    }
}

/// The delivery once it has an attempt or needs none; after `patience` as it is, such as while its breaker is open.
async fn attempted(admin: &Admin, id: &str, patience: Duration) -> Result<Option<DeliveryView>, OutboxError> {
    let started = admin.clock.instant();
    loop {
        let found = admin.outbox.get(id).await?;
        let waits = found.as_ref().is_some_and(|d| d.state == DeliveryState::Pending && d.attempts.is_empty());
        if !waits || started.elapsed() >= patience {
            return Ok(found);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Every webhook of the generation in force, and those removed ones that are still owed something or have dead letters,
/// by name.
pub(super) async fn views(admin: &Admin) -> Result<Vec<(Arc<str>, Value)>, OutboxError> {
    let known = admin.outbox.webhooks().await?;
    let generation = Arc::clone(&admin.generations.borrow());
    let mut out: Vec<(Arc<str>, Value)> = generation
        .webhooks
        .values()
        .map(|webhook| {
            let view = known.iter().find(|view| view.name == webhook.name);
            (Arc::clone(&webhook.name), shown(admin, &webhook.name, Some(webhook), view))
        })
        .collect();
    let removed = known.iter().filter(|view| !generation.webhooks.contains_key(&view.name));
    for view in removed.filter(|view| view.pending + view.held + view.dead + view.waiting > 0) {
        out.push((Arc::clone(&view.name), shown(admin, &view.name, None, Some(view))));
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

/// A webhook's state and why it is in it.
fn standing(webhook: Option<&Webhook>, view: Option<&WebhookView>) -> (&'static str, Option<String>) {
    let Some(webhook) = webhook else { return ("removed", Some("removed".to_owned())) };
    if !webhook.enabled {
        return ("disabled", Some("not_enabled".to_owned()));
    }
    match view.map(|view| &view.standing) {
        Some(Standing::Paused) => ("paused", Some("paused".to_owned())),
        Some(Standing::Disabled { reason, .. }) => ("disabled", Some(reason.clone())),
        Some(Standing::Active) | None => ("active", None),
    }
}

fn shown(admin: &Admin, name: &str, webhook: Option<&Arc<Webhook>>, view: Option<&WebhookView>) -> Value {
    let (state, reason) = standing(webhook.map(|webhook| &**webhook), view);
    let status = admin.dispatch.status(name, admin.clock.now());
    let breaker = status.map_or("closed", |status| status.breaker.as_str());
    let count = |of: fn(&WebhookView) -> u64| view.map_or(0, of);
    let method = webhook.map(|webhook| match webhook.method {
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Patch => "PATCH",
        Method::Get => "GET",
    });
    json!({
        "name": name,
        "description": webhook.and_then(|webhook| webhook.description.clone()),
        "url": webhook.map(|webhook| &webhook.shown_url),
        "method": method,
        "events": webhook.map_or(&[][..], |webhook| webhook.events.as_written()),
        "enabled": webhook.is_some_and(|webhook| webhook.enabled),
        "state": state,
        "reason": reason,
        "headers": webhook.map_or_else(Vec::new, |webhook| names(webhook)),
        "params": webhook.map(|webhook| webhook.program.params.written()),
        "rule": webhook.and_then(|webhook| webhook.program.rule.as_ref().map(|rule| rule.file().to_owned())),
        "counts": {"pending": count(|v| v.pending), "held": count(|v| v.held), "dead": count(|v| v.dead)},
        "breaker": breaker,
        "last_success": status.and_then(|status| status.last_success).map(|at| at.to_string()),
        "last_failure": status.and_then(|status| status.last_failure).map(|at| at.to_string()),
    })
}

fn names(webhook: &Webhook) -> Vec<&str> {
    webhook.headers.iter().map(|(name, _)| name.as_str()).collect()
}
