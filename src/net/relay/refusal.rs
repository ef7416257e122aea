//! What the relay answers itself, as problem documents (RFC 9457): upstream cannot be reached, or the request cannot be
//! relayed. Says what happened, where, and what to do.

use http::StatusCode;

/// An answer that does not come from upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    reason: &'static str,
    title: &'static str,
    detail: String,
}

impl Refusal {
    /// Upstream did not answer.
    pub fn bad_gateway(upstream: &str, why: &str) -> Self {
        let detail = format!(
            "sidehook could not get an answer from the upstream {upstream}: {why}. Is the assistant running and listening there?"
        );
        Self { status: StatusCode::BAD_GATEWAY, reason: "upstream", title: "no answer from upstream", detail }
    }

    /// `CONNECT`.
    pub fn connect(upstream: &str) -> Self {
        let detail = format!(
            "CONNECT is not offered: this proxy leads to {upstream} only and reads what passes; \
             send plain http requests through it, or use it as the base URL"
        );
        Self { status: StatusCode::NOT_IMPLEMENTED, reason: "connect", title: "CONNECT is not offered", detail }
    }

    /// A request that is no proper one.
    pub fn bad_request(error: &super::head::HeadError) -> Self {
        let too_large = *error == super::head::HeadError::TooLarge;
        let status = if too_large { StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE } else { StatusCode::BAD_REQUEST };
        let detail = format!("the request was not passed on: {error}");
        Self { status, reason: "malformed", title: "not a request that can be relayed", detail }
    }

    /// The problem document.
    pub fn document(&self) -> String {
        serde_json::json!({
            "type": format!("urn:sidehook:problem:{}", self.reason),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        })
        .to_string()
    }

    /// All of an HTTP/1.1 response.
    pub fn response(&self, close: bool, head_only: bool) -> Vec<u8> {
        let document = self.document();
        let connection = if close { "connection: close\r\n" } else { "" };
        format!(
            "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n{connection}\r\n{}",
            self.status.as_u16(),
            self.status.canonical_reason().unwrap_or_default(),
            document.len(),
            if head_only { "" } else { &document },
        )
        .into_bytes()
    }
}
