//! From a delivery and its webhook as it is now to an HTTP request. Pure: signs, but sends nothing.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::Full;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use url::{Position, Url};

use crate::clock::{Entropy, Timestamp};
use crate::config::Webhook;
use crate::config::model::{Auth, Method};
use crate::event::compact;
use crate::event::trace::{self, TraceParent};
use crate::net::AGENT;
use crate::outbox::Ready;
use crate::rules::{Format, is_framing};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CLOUDEVENTS: HeaderValue = HeaderValue::from_static("application/cloudevents+json");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Why no request can be made of a delivery; no later attempt would fare better with the same configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsendable {
    #[error("the URL with its parameters is no usable address: {0}")]
    Url(String),
    #[error("method GET needs a payload that is a JSON object: {0}")]
    NotAnObject(String),
}

impl Unsendable {
    /// The reason that the dead delivery carries.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Url(_) => "url_unusable",
            Self::NotAnObject(_) => "payload_not_an_object",
        }
    }
}

/// Builds and signs one attempt's request.
pub(super) fn build(
    webhook: &Webhook,
    delivery: &Ready,
    now: Timestamp,
    entropy: &Entropy,
) -> Result<Request<Full<Bytes>>, Unsendable> {
    let mut url = webhook.url.clone();
    let body = if webhook.method == Method::Get {
        add_params(&mut url, &delivery.body)?;
        Bytes::new()
    } else {
        delivery.body.clone()
    };
    let mut headers = own_headers(webhook, delivery);
    if let Some(Auth::Header(value)) = &webhook.auth {
        headers.insert(AUTHORIZATION, value.clone());
    }
    headers.entry(USER_AGENT).or_insert(AGENT);
    if webhook.method != Method::Get {
        headers.entry(CONTENT_TYPE).or_insert(match webhook.program.format {
            Format::Json => JSON,
            Format::CloudEvents => CLOUDEVENTS,
        });
    }
    let parent = delivery.traceparent.as_deref().and_then(|parent| child_span(parent, entropy));
    if let Some(parent) = parent.or_else(|| own_trace(&delivery.id, entropy)) {
        headers.entry(TRACEPARENT).or_insert(parent);
    }
    for (name, value) in webhook.signer.headers(&delivery.id, now.as_secs(), &body) {
        headers.insert(name, value);
    }
    let uri: Uri =
        url[..Position::AfterQuery].parse().map_err(|e: http::uri::InvalidUri| Unsendable::Url(e.to_string()))?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = match webhook.method {
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Patch => http::Method::PATCH,
        Method::Get => http::Method::GET,
    };
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Configured headers and the rule's, as far as they may be set. Both were checked when they were made; they are checked
/// again because a rule's headers are frozen while the configuration moves on.
fn own_headers(webhook: &Webhook, delivery: &Ready) -> HeaderMap {
    let reserved = webhook.signer.reserved();
    let free = |name: &HeaderName| {
        let taken = *name == AUTHORIZATION && webhook.auth.is_some();
        !taken && !reserved.contains(name) && !is_framing(name.as_str())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in webhook.headers.iter().filter(|(name, _)| free(name)) {
        headers.append(name, value.clone());
    }
    for (name, value) in &delivery.headers {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) else { continue };
        if free(&name) && !webhook.headers.iter().any(|(configured, _)| *configured == name) {
            headers.append(name, value);
        }
    }
    headers
}

/// A trace for a delivery whose event brought none: the same over all its attempts, with a span for each.
fn own_trace(id: &str, entropy: &Entropy) -> Option<HeaderValue> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.as_bytes());
    let trace = u128::from_be_bytes(digest.as_ref().first_chunk().copied()?);
    child_span(&format!("00-{trace:032x}-{}-01", "1".repeat(16)), entropy)
}

/// W3C trace context: the same trace, a span of our own.
fn child_span(parent: &str, entropy: &Entropy) -> Option<HeaderValue> {
    let TraceParent { trace, flags, .. } = trace::parse(parent)?;
    let mut id = [0; 8];
    entropy.fill(&mut id);
    let id = u64::from_be_bytes(id).max(1);
    HeaderValue::from_str(&format!("00-{trace}-{id:016x}-{flags}")).ok()
}

/// The members of a JSON object, in order, values as they are written: no digit of a number is lost.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Strings as they are and the rest as compact JSON; the URL's own query stays.
fn add_params(url: &mut Url, body: &[u8]) -> Result<(), Unsendable> {
    let wrong = |e: serde_json::Error| Unsendable::NotAnObject(e.to_string());
    let Members(members) = serde_json::from_slice(body).map_err(wrong)?;
    if members.is_empty() {
        return Ok(());
    }
    let mut query = url.query_pairs_mut();
    for (key, raw) in members {
        let text = raw.get();
        if text.starts_with('"') {
            query.append_pair(&key, &serde_json::from_str::<String>(text).map_err(wrong)?);
        } else {
            query.append_pair(&key, &compact(text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_params_keep_strings_digits_and_the_urls_own_query() {
        let mut url: Url = "https://x.example/h?own=1%202#frag".parse().expect("a url");
        let body =
            br#"{"s": "a b&c", "n": 12345678901234567890123, "m": {"k" : [1, "x \" y"]}, "z": null, "u": "\u00e9"}"#;
        add_params(&mut url, body).expect("an object");
        assert_eq!(
            &url[..Position::AfterQuery],
            "https://x.example/h?own=1%202&s=a+b%26c&n=12345678901234567890123&m=%7B%22k%22%3A%5B1%2C%22x+%5C%22+y%22%5D%7D&z=null&u=%C3%A9"
        );
        let mut url: Url = "https://x.example/h".parse().expect("a url");
        add_params(&mut url, b"{}").expect("an object");
        assert_eq!(url.as_str(), "https://x.example/h");
        let error = add_params(&mut url, b"[1]").expect_err("an array").to_string();
        assert!(error.contains("a JSON object"), "{error}");
    }

    #[test]
    fn trace_context_is_handed_on_with_a_span_of_our_own() {
        let entropy = Entropy::seeded(1);
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let child = child_span(parent, &entropy).expect("valid");
        let child = child.to_str().expect("ascii");
        assert!(child.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && child.ends_with("-01"), "{child}");
        assert_ne!(child, parent);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(child_span(bad, &entropy), None, "{bad}");
        }
    }
}
