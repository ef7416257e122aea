//! `/api/v1/deliveries`: list, show, retry.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde_json::json;

use super::pages::{DEFAULT_LIMIT, read_limit};
use super::problem::{bad_request, failed, not_found, problem};
use super::{Admin, replay};
use crate::outbox::{CommitError, Filter, OutboxError, Retried};

pub(super) async fn list(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let mut filter = Filter::default();
    let (mut cursor, mut limit) = (None, DEFAULT_LIMIT);
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let set = match &*key {
            "cursor" => {
                cursor = Some(value.into_owned());
                Ok(())
            }
            "limit" => read_limit(&value).map(|n| limit = n),
            key => filter.set(key, &value),
        };
        if let Err(reason) = set {
            return bad_request(&reason);
        }
    }
    match admin.outbox.list(&filter, cursor.as_deref(), limit).await {
        Ok(page) => Json(page).into_response(),
        Err(error @ OutboxError::BadCursor) => bad_request(&error.to_string()),
        Err(error) => failed(&error),
    }
}

pub(super) async fn show(State(admin): State<Admin>, Path(id): Path<String>) -> Response {
    match admin.outbox.get(&id).await {
        Ok(Some(delivery)) => Json(delivery).into_response(),
        Ok(None) => not_found(&format!("there is no delivery {id:?}")),
        Err(error) => failed(&error),
    }
}

pub(super) async fn retry(State(admin): State<Admin>, Path(id): Path<String>) -> Response {
    let conflict = |detail: &str| problem(StatusCode::CONFLICT, "cannot be retried", detail);
    match replay::retry(&admin, &id).await {
        Ok(Retried::Yes) => Json(json!({"retried": 1})).into_response(),
        Ok(Retried::Unknown) => not_found(&format!("there is no delivery {id:?}")),
        Ok(Retried::Held) => conflict("it is held; it goes out when its webhook resumes"),
        Ok(Retried::Halted) => conflict(
            "its webhook sends nothing now, so it stays as it is: it is paused, disabled, not enabled or removed; retry \
             it once the webhook is active again",
        ),
        Ok(Retried::NoPayload(reason)) => conflict(&format!("it cannot be sent: {reason}")),
        Err(error) => failed(&error),
    }
}

pub(super) async fn retry_where(State(admin): State<Admin>, body: Bytes) -> Response {
    let mut filter = Filter::default();
    if !body.is_empty() {
        let fields: serde_json::Map<String, serde_json::Value> = match serde_json::from_slice(&body) {
            Ok(fields) => fields,
            Err(error) => return bad_request(&format!("the body must be a JSON object with the filter: {error}")),
        };
        for (key, value) in fields {
            // A key that there is not is told before the kind of its value.
            if let Err(reason) = filter.set(&key, value.as_str().unwrap_or_default())
                && (value.is_string() || reason.starts_with("unknown filter"))
            {
                return bad_request(&reason);
            }
            if !value.is_string() {
                return bad_request(&format!("{key} must be a string"));
            }
        }
    }
    let retried = async {
        let with_payload = admin.outbox.retry_where(&filter).await?;
        Ok::<_, CommitError>(with_payload + replay::retry_where(&admin, &filter).await?)
    };
    match retried.await {
        Ok(retried) => Json(json!({"retried": retried})).into_response(),
        Err(error) => failed(&error),
    }
}
