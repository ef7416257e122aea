//! Headers that a rule makes: names and values are checked here, and what the config or the protocol keeps for itself
//! is dropped with a warning.

use http::header::{HeaderName, HeaderValue};
use rhai::{Dynamic, ImmutableString, Map};

use super::number::Exact;
use super::{engine, view};
use crate::limits;
use crate::telemetry::rules::HeaderDropped;

/// What frames a request belongs to the connection. All in lower case.
const FRAMING: [&str; 8] =
    ["host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade"];

/// Whether a header, by its name in lower case, is one that neither a configuration nor a rule sets.
#[must_use]
pub fn is_framing(name: &str) -> bool {
    FRAMING.contains(&name)
}

/// Turns what `headers` returned into header lines. `reserved` are names in lower case.
pub(super) fn check(given: &Dynamic, reserved: &[String], file: &str) -> Result<Vec<(String, String)>, String> {
    if given.is_unit() {
        return Ok(Vec::new());
    }
    let given = view::thaw(given).map_err(|error| error.to_string())?;
    let Some(map) = given.read_lock::<Map>() else {
        return Err(format!("headers gave {}; it returns a map of names and values, or ()", view::describe(&given)));
    };
    if map.len() > limits::RULE_HEADERS {
        return Err(format!("headers gave {} headers; at most {} are sent", map.len(), limits::RULE_HEADERS));
    }
    let mut lines = Vec::with_capacity(map.len());
    for (name, value) in map.iter() {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("`{}` is no header name: letters, digits and - only", name.escape_default()))?;
        if value.is_unit() {
            continue;
        }
        let Some(text) = text(value) else {
            return Err(format!(
                "the header {name} is {}; a header is a string, a number, true, false, or () to leave it out",
                view::describe(value)
            ));
        };
        if text.contains(['\r', '\n']) {
            return Err(format!("the header {name} holds a line break"));
        }
        if name.len() + text.len() > limits::RULE_HEADER_BYTES {
            return Err(format!("the header {name} is longer than {} bytes", limits::RULE_HEADER_BYTES));
        }
        if HeaderValue::from_str(&text).is_err() {
            return Err(format!("the header {name} holds a control character"));
        }
        let lower = parsed.as_str();
        if lower.starts_with("webhook-") || is_framing(lower) || reserved.iter().any(|r| r == lower) {
            if engine::muted() {
                engine::keep_line(&format!(
                    "the header {lower} was dropped: it is kept for the signature, the protocol or the config"
                ));
            } else {
                HeaderDropped { rule: file, header: lower }.emit();
            }
            continue;
        }
        lines.push((name.to_string(), text));
    }
    Ok(lines)
}

/// What a header value is as text.
fn text(value: &Dynamic) -> Option<String> {
    if let Some(text) = value.read_lock::<ImmutableString>() {
        Some(text.to_string())
    } else if let Ok(c) = value.as_char() {
        Some(c.to_string())
    } else if let Ok(n) = value.as_int() {
        Some(n.to_string())
    } else if let Ok(b) = value.as_bool() {
        Some(b.to_string())
    } else if let Ok(f) = value.as_float() {
        Some(f.to_string())
    } else {
        value.read_lock::<Exact>().map(|exact| exact.digits().to_owned())
    }
}
