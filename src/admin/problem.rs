//! Problem documents (RFC 9457) of the admin API.

use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};

/// A refusal or failure, for a person and a program.
pub(super) fn problem(status: StatusCode, title: &str, detail: &str) -> Response {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
    });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

pub(super) fn bad_request(detail: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, "bad request", detail)
}

pub(super) fn not_found(detail: &str) -> Response {
    problem(StatusCode::NOT_FOUND, "not found", detail)
}

pub(super) fn failed(error: &dyn std::error::Error) -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "outbox not available", &error.to_string())
}
