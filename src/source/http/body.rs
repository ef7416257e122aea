//! What a request's body holds, by its media type: one event, several, or `CloudEvents`. Reads no adapter's messages and knows
//! no sink.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use super::super::problem::{Item, Problem};
use crate::event::{Incoming, ItemError, Json, Kind, element_at};
use crate::limits;

/// How the body is to be read.
pub(super) enum Media {
    Json,
    Lines,
    /// A CloudEvent in structured mode.
    One,
    /// An array of CloudEvents.
    Batch,
    /// For an adapter only.
    Other,
    /// A CloudEvent whose attributes are headers.
    Binary(Vec<(String, String)>),
}

pub(super) fn media_of(headers: &HeaderMap, adapted: bool) -> Result<Media, Problem> {
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
    if adapted && !is_lines(&essence) {
        return Ok(Media::Other);
    }
    if headers.contains_key("ce-specversion") {
        if !essence.is_empty() && !is_json(&essence) {
            return Err(unsupported(format!("a CloudEvent's data must be JSON here, not {essence:?}")));
        }
        return Ok(Media::Binary(binary_attributes(headers)));
    }
    match essence.as_str() {
        lines if is_lines(lines) => Ok(Media::Lines),
        "application/cloudevents+json" => Ok(Media::One),
        "application/cloudevents-batch+json" => Ok(Media::Batch),
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

fn is_lines(essence: &str) -> bool {
    matches!(essence, "application/x-ndjson" | "application/ndjson" | "application/jsonl")
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

/// The items of a body without an adapter.
pub(super) fn items_of(media: Media, body: Bytes) -> Result<Vec<Read>, Problem> {
    match media {
        Media::Batch => split_batch(&body),
        Media::One => split_one(&body),
        Media::Json | Media::Other => split_json(&body),
        Media::Lines => split_lines(&body),
        Media::Binary(attributes) => {
            let data = if body.is_empty() { None } else { Some(Json::parse(body).map_err(|e| malformed(0, &e))?) };
            Ok(vec![Incoming::read_binary(&attributes, data.as_ref())])
        }
    }
}

/// One item, or what is wrong with it.
pub(super) type Read = Result<Incoming, Vec<ItemError>>;

/// One document, which may be an array of items.
fn parse(body: &Bytes) -> Result<Json, Problem> {
    Json::parse(body.clone()).map_err(|error| {
        // The parser passes over a byte order mark, and counts from behind it.
        let text = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
        let is_array = text.trim_ascii_start().starts_with(b"[");
        let index = if is_array { element_at(text, error.offset) } else { 0 };
        malformed(index, &error)
    })
}

fn split_json(body: &Bytes) -> Result<Vec<Read>, Problem> {
    let root = parse(body)?;
    if root.kind() == Kind::Array { split_array(&root) } else { Ok(vec![Incoming::read(&root)]) }
}

/// CloudEvents batched mode (HTTP protocol binding 1.0, section 3.3): an array, be it empty.
fn split_batch(body: &Bytes) -> Result<Vec<Read>, Problem> {
    let root = parse(body)?;
    if root.kind() != Kind::Array {
        let reason = format!("application/cloudevents-batch+json is an array of events, not {}", root.kind());
        return Ok(vec![Err(vec![ItemError { pointer: String::new(), reason }])]);
    }
    split_array(&root)
}

/// CloudEvents structured mode (the same, section 3.2): one event.
fn split_one(body: &Bytes) -> Result<Vec<Read>, Problem> {
    let root = parse(body)?;
    if root.kind() == Kind::Array {
        let reason =
            "application/cloudevents+json is one event, not an array: several are application/cloudevents-batch+json";
        return Ok(vec![Err(vec![ItemError { pointer: String::new(), reason: reason.to_owned() }])]);
    }
    Ok(vec![Incoming::read(&root)])
}

fn split_array(root: &Json) -> Result<Vec<Read>, Problem> {
    if root.len() > limits::EVENTS_PER_REQUEST {
        return Err(too_many());
    }
    Ok(root.items().map(|item| Incoming::read(&item)).collect())
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

pub(super) fn all_or_problem(items: Vec<Read>) -> Result<Vec<Incoming>, Problem> {
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
pub(super) fn too_many() -> Problem {
    let detail = format!("more than {} events in one request; send them in several", limits::EVENTS_PER_REQUEST);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "too many events", detail)
}
