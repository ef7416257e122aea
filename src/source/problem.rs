//! Problem documents (RFC 9457): what a sender is told when a request is refused.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use super::Refusal;
use crate::limits;

/// A refused request. Boxed, since it travels in every `Result` on the way of a good one.
#[derive(Debug)]
pub(super) struct Problem(Box<Document>);

#[derive(Debug, Serialize)]
struct Document {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Item>,
    /// The reason as the metric names it.
    #[serde(skip)]
    reason: &'static str,
    #[serde(skip)]
    retry_after_secs: Option<u64>,
}

/// What is wrong with one item of the request.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Item {
    /// From 0, over events.
    pub index: usize,
    /// JSON pointer into the item.
    pub pointer: String,
    /// What is wrong.
    pub reason: String,
}

impl Problem {
    /// `reason` is the metric's label and the last part of the problem's type.
    pub fn new(status: StatusCode, reason: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Document {
            kind: format!("urn:sidehook:problem:{reason}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            reason,
            retry_after_secs: None,
        }))
    }

    /// With the bad items, at most [`limits::PROBLEM_ERRORS`] of them.
    pub fn items(mut self, mut errors: Vec<Item>) -> Self {
        errors.truncate(limits::PROBLEM_ERRORS);
        self.0.errors = errors;
        self
    }

    /// With a `Retry-After`.
    pub fn retry_after(mut self, secs: u64) -> Self {
        self.0.retry_after_secs = Some(secs.max(1));
        self
    }

    /// What a refusal of the sink means.
    pub fn refused(refusal: Refusal) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match refusal {
            Refusal::IdConflict { items, detail } => {
                let item = |index| Item { index, pointer: "/id".into(), reason: "id_conflict".into() };
                let items = items.into_iter().map(item).collect();
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "id_conflict", "id conflict", detail).items(items)
            }
            Refusal::TooLarge { index, detail } => {
                let item = Item { index, pointer: "/conversation".into(), reason: "conversation_too_large".into() };
                let detail = format!("item {index}: {detail}; nothing was stored");
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "conversation_too_large", "conversation too large", detail)
                    .items(vec![item])
            }
            Refusal::Full { detail, retry_after } => {
                Self::new(unavailable, "full", "outbox full", detail).retry_after(retry_after.as_secs())
            }
            Refusal::Unavailable { detail, retry_after } => {
                Self::new(unavailable, "failed", "not available", detail).retry_after(retry_after.as_secs())
            }
        }
    }

    /// As one line, for senders that are answered by lines.
    pub fn into_line(self) -> Vec<u8> {
        let mut line = serde_json::to_vec(&self.0).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// What went wrong, for the log.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The reason as the metric names it.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response =
            Response::builder().status(self.0.status).header(header::CONTENT_TYPE, "application/problem+json");
        if let Some(secs) = self.0.retry_after_secs {
            response = response.header(header::RETRY_AFTER, secs);
        }
        // A signature is shown in headers of its own, which no challenge asks for.
        if self.0.status == 401 && self.0.reason != "signature" {
            response = response.header(header::WWW_AUTHENTICATE, "Bearer");
        }
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        response.body(Full::new(Bytes::from(body))).unwrap_or_default()
    }
}
