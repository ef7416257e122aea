//! `POST /v1/events`: a request in, items to the sink, and the acknowledgement after the sink says they are durable. With an
//! adapter any path takes messages of any kind.

mod body;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::sync::Semaphore;

use self::body::{Media, Read, all_or_problem, items_of, media_of, too_many};
use super::pace::Pace;
use super::problem::Problem;
use super::{Accepted, Items, Sink, SourceSettings};
use crate::clock::Timestamp;
use crate::event::{Incoming, trace};
use crate::limits;
use crate::rules::{Adapter, Direction, Message, RuleError};
use crate::telemetry::ingest::EventRejected;

/// One http source.
pub struct HttpSource<S> {
    name: Arc<str>,
    sink: Arc<S>,
    /// Bounds the bytes of bodies in memory, in KiB.
    memory: Arc<Semaphore>,
    pace: Pace,
}

impl<S: Sink> HttpSource<S> {
    /// A source called `name` in the configuration.
    #[must_use]
    pub fn new(name: Arc<str>, sink: Arc<S>) -> Self {
        Self { name, sink, memory: Arc::new(Semaphore::new(limits::INFLIGHT_BODY_BYTES / 1024)), pace: Pace::default() }
    }

    /// Answers one request. Never fails: what is wrong is told to the sender.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match (request.uri().path(), request.method()) {
            ("/v1/health", &Method::GET | &Method::HEAD) => {
                let body = Full::new(Bytes::from_static(br#"{"status":"ok"}"#));
                let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
                return response.body(body).unwrap_or_default();
            }
            ("/v1/health", _) => return method_not_allowed("GET, HEAD"),
            _ => {}
        }
        let settings = self.sink.settings(&self.name);
        let path = request.uri().path();
        if path != "/v1/events" && settings.adapter.is_none() {
            let detail = format!("there is nothing at {path:?}; events go to POST /v1/events");
            return Problem::new(StatusCode::NOT_FOUND, "not_found", "no such path", detail).into_response();
        }
        if request.method() != Method::POST {
            return method_not_allowed("POST");
        }
        let now = settings.now;
        match self.events(request, settings).await {
            Ok(accepted) => accepted_response(&accepted),
            Err(problem) => {
                let (reason, detail) = (problem.reason(), problem.detail());
                EventRejected { source: &self.name, reason, detail, unsaid: self.pace.next(now) }.emit();
                problem.into_response()
            }
        }
    }

    async fn events<B>(&self, request: Request<B>, settings: SourceSettings) -> Result<Accepted, Problem>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        authorize(request.headers(), &settings)?;
        let media = media_of(request.headers(), settings.adapter.is_some())?;
        let traceparent = traceparent_of(request.headers());
        let (head, body) = request.into_parts();
        let (body, _memory) = self.read(&head.headers, body, &settings).await?;
        if let Some(verifier) = &settings.verifier {
            verifier.verify(&head.headers, &body, settings.now).map_err(|error| {
                Problem::new(StatusCode::UNAUTHORIZED, "signature", "signature refused", error.to_string())
            })?;
        }
        let items = match &settings.adapter {
            Some(adapter) => self.adapted(adapter, &media, &head, &body, settings.now).await?,
            None => items_of(media, body)?,
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

    /// What the adapter makes of the body: of each line where it is lines, else of the whole.
    async fn adapted(
        &self,
        adapter: &Adapter,
        media: &Media,
        head: &http::request::Parts,
        body: &Bytes,
        arrived: Timestamp,
    ) -> Result<Vec<Read>, Problem> {
        let headers: Vec<(String, String)> = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        let lines = match media {
            Media::Lines => body.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|l| !l.is_empty()).collect(),
            _ => vec![body.as_ref()],
        };
        let mut items = Vec::new();
        for line in lines {
            let message = Message {
                body: Message::body_of(&body.slice_ref(line)),
                path: path.clone(),
                headers: headers.clone(),
                direction: Direction::Request,
                arrived,
            };
            let events = self.sink.adapt(adapter, message).await.map_err(|error| adapter_failed(&error))?;
            if items.len() + events.len() > limits::EVENTS_PER_REQUEST {
                return Err(too_many());
            }
            items.extend(events.iter().map(Incoming::read));
        }
        Ok(items)
    }

    /// Reads the body within its limit and the memory that all bodies share.
    async fn read<B>(
        &self,
        headers: &HeaderMap,
        body: B,
        settings: &SourceSettings,
    ) -> Result<(Bytes, tokio::sync::OwnedSemaphorePermit), Problem>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limit = settings.body_bytes;
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|n| n > limit) {
            return Err(too_large(limit));
        }
        let kib = announced.unwrap_or(limit).div_ceil(1024).min(limits::INFLIGHT_BODY_BYTES as u64 / 1024);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.memory).acquire_many_owned(kib).await.map_err(|_| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "failed", "ending", "sidehook is ending").retry_after(1)
        })?;
        let limited = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
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
    // Numbers and texts always become JSON.
    let body = serde_json::to_vec(accepted).unwrap_or_default();
    let response = Response::builder().status(StatusCode::ACCEPTED).header(header::CONTENT_TYPE, "application/json");
    response.body(Full::new(Bytes::from(body))).unwrap_or_default()
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

/// The request's trace context; what is none is not handed on.
fn traceparent_of(headers: &HeaderMap) -> Option<Arc<str>> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    trace::parse(value).map(|_| Arc::from(value))
}

/// A script that throws says so of the message, which would be no different next time. All else is to be mended here, so that
/// the sender does well to try again.
fn adapter_failed(error: &RuleError) -> Problem {
    let detail = format!("the adapter failed: {error}; nothing was stored");
    if error.kind == "thrown" {
        return Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "adapter", "refused by the adapter", detail);
    }
    let retry_after = limits::ADAPTER_REST.as_secs();
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "adapter", "the adapter failed", detail).retry_after(retry_after)
}

fn too_large(limit: u64) -> Problem {
    let detail = format!("the body is larger than limits.body ({limit} bytes)");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "body too large", detail)
}

#[cfg(test)]
mod tests;
