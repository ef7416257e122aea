//! `POST /v1/events`: a request in, items to the sink, and the acknowledgement after the sink says they are durable.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::sync::Semaphore;

use super::problem::{Item, Problem};
use super::{Accepted, Items, Sink, SourceSettings};
use crate::event::{Incoming, ItemError, Json, Kind, trace};
use crate::limits;
use crate::telemetry::ingest::EventRejected;

/// One http source.
pub struct HttpSource<S> {
    name: Arc<str>,
    sink: Arc<S>,
    /// Bounds the bytes of bodies in memory, in KiB.
    memory: Arc<Semaphore>,
}

/// How the body is to be read.
enum Media {
    Json,
    Lines,
    /// A CloudEvent whose attributes are headers.
    Binary(Vec<(String, String)>),
}

impl<S: Sink> HttpSource<S> {
    /// A source called `name` in the configuration.
    #[must_use]
    pub fn new(name: Arc<str>, sink: Arc<S>) -> Self {
        Self { name, sink, memory: Arc::new(Semaphore::new(limits::INFLIGHT_BODY_BYTES / 1024)) }
    }

    /// Answers one request. Never fails: what is wrong is told to the sender.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match (request.uri().path(), request.method()) {
            ("/v1/events", &Method::POST) => match self.events(request).await {
                Ok(accepted) => accepted_response(&accepted),
                Err(problem) => {
                    EventRejected { source: &self.name, reason: problem.reason(), detail: problem.detail() }.emit();
                    problem.into_response()
                }
            },
            ("/v1/health", &Method::GET | &Method::HEAD) => {
                let body = Full::new(Bytes::from_static(br#"{"status":"ok"}"#));
                let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
                response.body(body).unwrap_or_default()
            }
            ("/v1/events", _) => method_not_allowed("POST"),
            ("/v1/health", _) => method_not_allowed("GET, HEAD"),
            (path, _) => {
                let detail = format!("there is nothing at {path:?}; events go to POST /v1/events");
                Problem::new(StatusCode::NOT_FOUND, "not_found", "no such path", detail).into_response()
            }
        }
    }

    async fn events<B>(&self, request: Request<B>) -> Result<Accepted, Problem>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let settings = self.sink.settings(&self.name);
        authorize(request.headers(), &settings)?;
        let media = media_of(request.headers())?;
        let traceparent = traceparent_of(request.headers());
        let (body, _memory) = self.read(request, &settings).await?;
        let items = match media {
            Media::Json => split_json(body)?,
            Media::Lines => split_lines(&body)?,
            Media::Binary(attributes) => {
                let data = if body.is_empty() { None } else { Some(Json::parse(body).map_err(|e| malformed(0, &e))?) };
                vec![Incoming::read_binary(&attributes, data.as_ref())]
            }
        };
        let items = all_or_problem(items)?;
        if items.is_empty() {
            return Ok(Accepted { accepted: 0, duplicates: 0, ids: Vec::new() });
        }
        let items = Items {
            source: Arc::clone(&self.name),
            namespace: settings.namespace,
            items,
            traceparent,
            stream: None,
            offset: None,
        };
        self.sink.accept(items).await.map_err(Problem::refused)
    }

    /// Reads the body within its limit and the memory that all bodies share.
    async fn read<B>(
        &self,
        request: Request<B>,
        settings: &SourceSettings,
    ) -> Result<(Bytes, tokio::sync::OwnedSemaphorePermit), Problem>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limit = settings.body_bytes;
        let announced =
            request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|n| n > limit) {
            return Err(too_large(limit));
        }
        let kib = announced.unwrap_or(limit).div_ceil(1024).min(limits::INFLIGHT_BODY_BYTES as u64 / 1024);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.memory).acquire_many_owned(kib).await.map_err(|_| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "failed", "ending", "sidehook is ending").retry_after(1)
        })?;
        let limited = Limited::new(request.into_body(), usize::try_from(limit).unwrap_or(usize::MAX));
        let mut limited = std::pin::pin!(limited);
        match tokio::time::timeout(limits::BODY_READ, limited.as_mut().collect()).await {
            Ok(Ok(body)) => Ok((body.to_bytes(), memory)),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(limit)),
            Ok(Err(error)) => {
                let detail = format!("the body could not be read: {error}");
                Err(Problem::new(StatusCode::BAD_REQUEST, "malformed", "incomplete body", detail))
            }
            Err(_) => {
                let detail = format!("the body did not arrive within {} s", limits::BODY_READ.as_secs());
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "malformed", "slow body", detail))
            }
        }
    }
}

fn accepted_response(accepted: &Accepted) -> Response<Full<Bytes>> {
    let body = accepted.to_json();
    let response = Response::builder().status(StatusCode::ACCEPTED).header(header::CONTENT_TYPE, "application/json");
    response.body(Full::new(Bytes::from(body.to_string()))).unwrap_or_default()
}

fn method_not_allowed(allow: &'static str) -> Response<Full<Bytes>> {
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "wrong method", format!("use {allow}"));
    let mut response = problem.into_response();
    response.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static(allow));
    response
}

fn authorize(headers: &HeaderMap, settings: &SourceSettings) -> Result<(), Problem> {
    let Some(token) = &settings.token else { return Ok(()) };
    let shown = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let shown = shown.and_then(|v| v.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    if shown.is_some_and(|(_, shown)| token.matches(shown.trim())) {
        return Ok(());
    }
    let detail = "this source wants the header \"Authorization: Bearer TOKEN\" with its token";
    Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "not authorized", detail))
}

fn media_of(headers: &HeaderMap) -> Result<Media, Problem> {
    let unsupported = |detail: String| {
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", "unsupported media type", detail)
    };
    if let Some(encoding) =
        headers.get(header::CONTENT_ENCODING).filter(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(unsupported(format!("content-encoding {encoding:?} is not read; send the body as it is")));
    }
    let written = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let (essence, parameters) = written.split_once(';').unwrap_or((written, ""));
    let essence = essence.trim().to_ascii_lowercase();
    if let Some(charset) = charset_of(parameters).filter(|c| !matches!(c.as_str(), "utf-8" | "utf8" | "us-ascii")) {
        return Err(unsupported(format!("charset {charset:?} is not read; send JSON as UTF-8")));
    }
    if headers.contains_key("ce-specversion") {
        if !essence.is_empty() && !is_json(&essence) {
            return Err(unsupported(format!("a CloudEvent's data must be JSON here, not {essence:?}")));
        }
        return Ok(Media::Binary(binary_attributes(headers)));
    }
    match essence.as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Media::Lines),
        "" => Ok(Media::Json),
        other if is_json(other) => Ok(Media::Json),
        other => Err(unsupported(format!(
            "{other:?} is not read; use application/json, application/x-ndjson or application/cloudevents+json"
        ))),
    }
}

/// The charset among the parameters of a media type (RFC 9110, section 8.3), in lower case.
fn charset_of(parameters: &str) -> Option<String> {
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("charset").then(|| value.to_ascii_lowercase())
    })
}

fn is_json(essence: &str) -> bool {
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// CloudEvents binary mode (HTTP protocol binding 1.0, section 3.1): percent-encoded values of `ce-` headers.
fn binary_attributes(headers: &HeaderMap) -> Vec<(String, String)> {
    let attributes = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix("ce-")?;
        let value = percent_encoding::percent_decode(value.as_bytes()).decode_utf8_lossy().into_owned();
        Some((name.to_owned(), value))
    });
    attributes.take(64).collect()
}

/// The request's trace context; what is none is not handed on.
fn traceparent_of(headers: &HeaderMap) -> Option<Arc<str>> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    trace::parse(value).map(|_| Arc::from(value))
}

type Read = Result<Incoming, Vec<ItemError>>;

fn split_json(body: Bytes) -> Result<Vec<Read>, Problem> {
    let root = Json::parse(body).map_err(|e| malformed(0, &e))?;
    if root.kind() == Kind::Array {
        if root.len() > limits::EVENTS_PER_REQUEST {
            return Err(too_many());
        }
        return Ok(root.items().map(|item| Incoming::read(&item)).collect());
    }
    Ok(vec![Incoming::read(&root)])
}

fn split_lines(body: &Bytes) -> Result<Vec<Read>, Problem> {
    let mut items = Vec::new();
    for line in body.split(|b| *b == b'\n') {
        let trimmed = line.trim_ascii();
        if trimmed.is_empty() {
            continue;
        }
        if items.len() == limits::EVENTS_PER_REQUEST {
            return Err(too_many());
        }
        let item = Json::parse(body.slice_ref(trimmed)).map_err(|e| malformed(items.len(), &e))?;
        items.push(Incoming::read(&item));
    }
    Ok(items)
}

fn all_or_problem(items: Vec<Read>) -> Result<Vec<Incoming>, Problem> {
    let mut good = Vec::with_capacity(items.len());
    let mut bad = Vec::new();
    let mut count = 0;
    for (index, item) in items.into_iter().enumerate() {
        match item {
            Ok(item) => good.push(item),
            Err(errors) => {
                count += 1;
                if bad.len() < limits::PROBLEM_ERRORS {
                    bad.extend(errors.into_iter().map(|e| Item { index, pointer: e.pointer, reason: e.reason }));
                }
            }
        }
    }
    if bad.is_empty() {
        return Ok(good);
    }
    let first = &bad[0];
    let detail = format!(
        "{count} of {} items are no events; nothing was stored. The first: item {}, {:?}: {}",
        count + good.len(),
        first.index,
        first.pointer,
        first.reason
    );
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "not an event", detail).items(bad))
}

fn malformed(index: usize, error: &crate::event::JsonError) -> Problem {
    let detail = format!("item {index} is not JSON: {error}; nothing was stored");
    let item = Item { index, pointer: String::new(), reason: error.to_string() };
    Problem::new(StatusCode::BAD_REQUEST, "malformed", "not JSON", detail).items(vec![item])
}

/// Told before any of them is read: what is wrong with millions of items would take far more room than the items.
fn too_many() -> Problem {
    let detail = format!("more than {} events in one request; send them in several", limits::EVENTS_PER_REQUEST);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "too many events", detail)
}

fn too_large(limit: u64) -> Problem {
    let detail = format!("the body is larger than limits.body ({limit} bytes)");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "body too large", detail)
}

#[cfg(test)]
mod tests;
