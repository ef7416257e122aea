//! `POST /v1/events`: a request in, items to the sink, and the acknowledgement after the sink says they are durable.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::sync::Semaphore;

use super::problem::{Item, Problem};
use super::{Accepted, HttpSettings, Items, Refusal, Sink};
use crate::event::{Incoming, ItemError, Json, Kind};
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
        let settings = self.sink.http_settings(&self.name);
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
        if items.len() > limits::EVENTS_PER_REQUEST {
            let detail = format!("{} events in one request; at most {}", items.len(), limits::EVENTS_PER_REQUEST);
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "too many events", detail));
        }
        let items = all_or_problem(items)?;
        if items.is_empty() {
            return Ok(Accepted { accepted: 0, duplicates: 0, ids: Vec::new() });
        }
        let items = Items { source: Arc::clone(&self.name), namespace: settings.namespace, items, traceparent };
        self.sink.accept(items).await.map_err(refused)
    }

    /// Reads the body within its limit and the memory that all bodies share.
    async fn read<B>(
        &self,
        request: Request<B>,
        settings: &HttpSettings,
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
    let body = serde_json::json!({
        "accepted": accepted.accepted,
        "duplicates": accepted.duplicates,
        "ids": accepted.ids,
    });
    let response = Response::builder().status(StatusCode::ACCEPTED).header(header::CONTENT_TYPE, "application/json");
    response.body(Full::new(Bytes::from(body.to_string()))).unwrap_or_default()
}

fn method_not_allowed(allow: &'static str) -> Response<Full<Bytes>> {
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "wrong method", format!("use {allow}"));
    let mut response = problem.into_response();
    response.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static(allow));
    response
}

fn authorize(headers: &HeaderMap, settings: &HttpSettings) -> Result<(), Problem> {
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
    let essence = match headers.get(header::CONTENT_TYPE) {
        None => String::new(),
        Some(value) => value.to_str().unwrap_or("?").split(';').next().unwrap_or_default().trim().to_ascii_lowercase(),
    };
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

/// W3C Trace Context, version 00; anything else is not handed on.
fn traceparent_of(headers: &HeaderMap) -> Option<Arc<str>> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let parts: Vec<&str> = value.split('-').collect();
    let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let [version, trace, span, flags] = parts[..] else { return None };
    let zero = |s: &str| s.bytes().all(|b| b == b'0');
    let valid = version == "00" && hex(trace, 32) && hex(span, 16) && hex(flags, 2) && !zero(trace) && !zero(span);
    valid.then(|| Arc::from(value))
}

type Read = Result<Incoming, Vec<ItemError>>;

fn split_json(body: Bytes) -> Result<Vec<Read>, Problem> {
    let root = Json::parse(body).map_err(|e| malformed(0, &e))?;
    if root.kind() == Kind::Array {
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

fn too_large(limit: u64) -> Problem {
    let detail = format!("the body is larger than limits.body ({limit} bytes)");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "body too large", detail)
}

fn refused(refusal: Refusal) -> Problem {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    match refusal {
        Refusal::IdConflict { index, detail } => {
            let item = Item { index, pointer: "/id".into(), reason: "id_conflict".into() };
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "id_conflict", "id conflict", detail).items(vec![item])
        }
        Refusal::Full { detail, retry_after } => {
            Problem::new(unavailable, "full", "outbox full", detail).retry_after(retry_after.as_secs())
        }
        Refusal::Unavailable { detail, retry_after } => {
            Problem::new(unavailable, "failed", "not available", detail).retry_after(retry_after.as_secs())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::secret::Secret;

    #[derive(Default)]
    struct Probe {
        token: Option<Secret>,
        refuse: Option<Refusal>,
        got: Mutex<Vec<Items>>,
    }

    impl Sink for Probe {
        async fn accept(&self, items: Items) -> Result<Accepted, Refusal> {
            if let Some(refusal) = &self.refuse {
                return Err(refusal.clone());
            }
            let ids = items.items.iter().map(|i| i.id.as_deref().unwrap_or("made").to_owned()).collect();
            let accepted = items.items.len();
            self.got.lock().unwrap().push(items);
            Ok(Accepted { accepted, duplicates: 0, ids })
        }

        fn http_settings(&self, _: &str) -> HttpSettings {
            HttpSettings { body_bytes: 1000, token: self.token.clone(), namespace: "".into() }
        }
    }

    async fn ask(sink: Probe, request: http::request::Builder, body: &str) -> (u16, serde_json::Value, Arc<Probe>) {
        let sink = Arc::new(sink);
        let source = HttpSource::new("events".into(), Arc::clone(&sink));
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let response = source.handle(request).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default(), sink)
    }

    fn post(media: &str) -> http::request::Builder {
        let request = Request::post("/v1/events");
        if media.is_empty() { request } else { request.header("content-type", media) }
    }

    #[tokio::test]
    async fn good_requests_are_acknowledged() {
        let event = r#"{"id":"e1","type":"x.y"}"#;
        for (media, body, ids) in [
            ("application/json", event.to_owned(), vec!["e1"]),
            ("", event.to_owned(), vec!["e1"]),
            ("application/json; charset=utf-8", format!("[{event},{{\"type\":\"z\"}}]"), vec!["e1", "made"]),
            ("application/x-ndjson", format!("\n{event}\r\n\n{event}\n"), vec!["e1", "e1"]),
            ("application/json", "[]".to_owned(), vec![]),
            ("application/x-ndjson", "\n".to_owned(), vec![]),
            (
                "application/cloudevents+json",
                r#"{"specversion":"1.0","id":"e2","source":"s","type":"t"}"#.to_owned(),
                vec!["e2"],
            ),
        ] {
            let (status, answer, _) = ask(Probe::default(), post(media), &body).await;
            assert_eq!(status, 202, "{media} {body}: {answer}");
            assert_eq!(answer["ids"], serde_json::json!(ids), "{media} {body}");
            assert_eq!(answer["accepted"], ids.len());
        }
    }

    #[tokio::test]
    async fn binary_cloud_events_and_trace_context_are_read() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let request = post("application/json")
            .header("ce-specversion", "1.0")
            .header("ce-type", "conversation.begin")
            .header("ce-source", "bot%20one")
            .header("ce-id", "e3")
            .header("ce-subject", "c1")
            .header("traceparent", trace);
        let (status, answer, sink) = ask(Probe::default(), request, r#"{"argument":{"a":1}}"#).await;
        assert_eq!((status, &answer["ids"][0]), (202, &serde_json::json!("e3")));
        let got = sink.got.lock().unwrap();
        assert_eq!(got[0].traceparent.as_deref(), Some(trace));
        assert_eq!(got[0].items[0].conversation.as_deref(), Some("c1"));
        assert_eq!(got[0].items[0].identity, crate::event::Identity::Source("bot one".into()));
    }

    #[tokio::test]
    async fn bad_requests_say_what_is_wrong() {
        let long = format!("\"{}\"", "x".repeat(1000));
        let cases = [
            (
                post("application/json"),
                "{",
                400,
                "item 0 is not JSON: EOF while parsing an object at line 1, column 2; nothing was stored",
            ),
            (
                post("application/x-ndjson"),
                "{\"type\":\"a\"}\n{\"ty",
                400,
                "item 1 is not JSON: EOF while parsing a string at line 1, column 5; nothing was stored",
            ),
            (
                post("application/json"),
                "7",
                422,
                "1 of 1 items are no events; nothing was stored. The first: item 0, \"\": must be an object, not a number",
            ),
            (
                post("application/json"),
                "[{\"type\":\"a\"},{\"type\":\"conversation.begin\"}]",
                422,
                "1 of 2 items are no events; nothing was stored. The first: item 1, \"/conversation/id\": required",
            ),
            (post("application/json"), long.as_str(), 413, "the body is larger than limits.body (1000 bytes)"),
            (
                post("text/csv"),
                "a",
                415,
                "\"text/csv\" is not read; use application/json, application/x-ndjson or application/cloudevents+json",
            ),
            (
                post("application/json").header("content-encoding", "gzip"),
                "a",
                415,
                "content-encoding \"gzip\" is not read; send the body as it is",
            ),
            (Request::get("/v1/events"), "", 405, "use POST"),
            (Request::post("/v1/health"), "", 405, "use GET, HEAD"),
            (Request::post("/events"), "", 404, "there is nothing at \"/events\"; events go to POST /v1/events"),
        ];
        for (request, body, status, detail) in cases {
            let (got, answer, sink) = ask(Probe::default(), request, body).await;
            assert_eq!((got, answer["detail"].as_str().unwrap_or_default()), (status, detail), "{body}");
            assert_eq!(answer["status"], status);
            assert!(sink.got.lock().unwrap().is_empty(), "nothing reaches the sink: {body}");
        }
    }

    #[tokio::test]
    async fn at_most_twenty_bad_items_are_listed() {
        let body = format!("[{}]", vec!["{}"; 50].join(","));
        let (status, answer, _) = ask(Probe::default(), post("application/json"), &body).await;
        assert_eq!((status, answer["errors"].as_array().map(Vec::len)), (422, Some(20)));
        assert_eq!(answer["errors"][19], serde_json::json!({"index": 19, "pointer": "/type", "reason": "required"}));
        assert!(answer["detail"].as_str().unwrap().starts_with("50 of 50 items"));
    }

    #[tokio::test]
    async fn tokens_are_wanted_where_configured() {
        let probe = || Probe { token: Some(Secret::new("t0k")), ..Probe::default() };
        for (header, status) in
            [(None, 401), (Some("Bearer nope"), 401), (Some("Basic t0k"), 401), (Some("bearer t0k"), 202)]
        {
            let mut request = post("application/json");
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let (got, answer, _) = ask(probe(), request, r#"{"type":"a"}"#).await;
            assert_eq!(got, status, "{header:?}");
            assert!(!answer.to_string().contains("t0k"));
        }
    }

    #[tokio::test]
    async fn refusals_carry_their_status() {
        let full = Refusal::Full { detail: "full".into(), retry_after: Duration::from_secs(5) };
        let (status, answer, _) =
            ask(Probe { refuse: Some(full), ..Probe::default() }, post(""), r#"{"type":"a"}"#).await;
        assert_eq!((status, &answer["type"]), (503, &serde_json::json!("urn:sidehook:problem:full")));
        let conflict = Refusal::IdConflict { index: 0, detail: "taken".into() };
        let (status, answer, _) =
            ask(Probe { refuse: Some(conflict), ..Probe::default() }, post(""), r#"{"type":"a"}"#).await;
        assert_eq!((status, &answer["errors"][0]["reason"]), (422, &serde_json::json!("id_conflict")));
    }
}
