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

/// Gives the bare answer to a wrong method its document; every other answer passes as it is.
pub(super) async fn of_wrong_method(response: Response) -> Response {
    if response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    let allow = response.headers().get(header::ALLOW).cloned();
    let methods = allow.as_ref().and_then(|v| v.to_str().ok()).unwrap_or_default().replace(',', ", ");
    let mut told = problem(StatusCode::METHOD_NOT_ALLOWED, "wrong method", &format!("use {methods}"));
    if let Some(allow) = allow {
        told.headers_mut().insert(header::ALLOW, allow);
    }
    told
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
