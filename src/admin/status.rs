//! `/api/v1/status`, `/api/v1/reload`, `/api/v1/ledger`, and the probes `/live`, `/ready`, `/metrics`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::problem::failed;
use super::{Admin, gauges, webhooks};
use crate::config::Generation;
use crate::outbox::Health;
use crate::telemetry;

pub(super) async fn live() -> &'static str {
    "live\n"
}

pub(super) async fn ready(State(admin): State<Admin>) -> Response {
    match admin.not_ready() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

pub(super) async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.outbox.gauges().await {
        Ok(gauges) => {
            let current = admin.generations.borrow().clone();
            let in_memory = admin.ingest.open_in_memory();
            gauges::publish(&gauges, in_memory, admin.clock.now(), |webhook| current.webhooks.contains_key(webhook));
        }
        Err(error) => tracing::warn!(%error, "the outbox's figures could not be read for a scrape"),
    }
    let text = telemetry::metrics().render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub(super) async fn status(State(admin): State<Admin>) -> Response {
    let webhooks = match webhooks::views(&admin).await {
        Ok(found) => found,
        Err(error) => return failed(&error),
    };
    let webhooks: Vec<Value> = webhooks.iter().map(|(_, whole)| in_short(whole)).collect();
    let current = admin.generations.borrow().clone();
    let generation: &Generation = &current;
    let health = admin.outbox.health().borrow().clone();
    let listening = admin.listening.get().map_or(&[][..], Vec::as_slice);
    let sources: Vec<Value> = generation
        .settings
        .sources
        .iter()
        .map(|(name, source)| {
            let listen = listening.iter().find(|(n, _)| n == name).map(|(_, listen)| listen.to_string());
            json!({"name": name, "type": source.type_name(), "listen": listen, "namespace": source.namespace})
        })
        .collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": admin.reload.generation(),
        "config_hash": generation.hash,
        "last_reload": admin.reload.last(),
        "sources": sources,
        "webhooks": webhooks,
        "outbox": {
            "path": generation.settings.outbox_path.display().to_string(),
            "bytes": admin.outbox.bytes(),
            "max_bytes": generation.settings.outbox.max_bytes,
            "state": match &health {
                Health::Healthy => "healthy",
                Health::Failed(_) => "failed",
                Health::Full => "full",
            },
            "error": match health {
                Health::Failed(error) => Some(error),
                Health::Healthy | Health::Full => None,
            },
        },
    }))
    .into_response()
}

/// What the status tells of a webhook; `/api/v1/webhooks` tells more.
fn in_short(webhook: &Value) -> Value {
    let keys = ["name", "enabled", "events", "state", "reason", "breaker", "counts"];
    keys.iter().map(|key| ((*key).to_owned(), webhook[*key].clone())).collect::<serde_json::Map<_, _>>().into()
}

pub(super) async fn reload(State(admin): State<Admin>) -> Response {
    Json(admin.reload.reload().await).into_response()
}

pub(super) async fn ledger(State(admin): State<Admin>) -> Response {
    match admin.outbox.ledger().await {
        Ok(ledger) => {
            // A ledger that does not balance is a fault of ours, and says so to whatever watches the status code.
            let status = if ledger.balanced { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            (status, Json(ledger)).into_response()
        }
        Err(error) => failed(&error),
    }
}
