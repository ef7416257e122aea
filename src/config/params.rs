//! `params` of a webhook: payload keys and selectors, literals as JSON text.

use std::fmt::Write as _;

use bytes::Bytes;

use super::decode::Decoder;
use super::fields::Fields;
use super::scalars::unreadable;
use super::webhook::hide;
use super::yaml::{Meaning, Node, Value, meaning_of};
use crate::rules::{Missing, Params, Selector};

/// Reads `params` of a mapping that has no `missing`: what is not there is left out.
pub fn plain(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Params {
    entries(d, fields, Missing::Omit)
}

/// Reads `params` and `missing`.
pub fn decode(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Params {
    let missing = match fields.get_nullable("missing") {
        Some(node) if node.is_null() => Missing::Null,
        _ => match fields.choice_or_null(d, "missing", "omit") {
            "null" => Missing::Null,
            "error" => Missing::Error,
            _ => Missing::Omit,
        },
    };
    entries(d, fields, missing)
}

fn entries(d: &mut Decoder<'_>, fields: &Fields<'_>, missing: Missing) -> Params {
    let Some(node) = fields.get("params") else {
        return default(missing);
    };
    let mut entries = Vec::new();
    for (key, value) in d.map(node).unwrap_or_default() {
        if value.is_null() {
            let help = "write a selector such as event.data, or {value: null}".to_owned();
            d.problem(key.span, format!("`{}` selects nothing", key.text), Some(help));
            continue;
        }
        if let Some(selector) = selector(d, value) {
            entries.push((key.text.clone(), selector));
        }
    }
    Params::new(entries, missing)
}

/// Without `params` the payload is event type and data.
fn default(missing: Missing) -> Params {
    let pick = |text: &str| Selector::parse(text).ok();
    match (missing, pick("event.type"), pick("event.data")) {
        (Missing::Null | Missing::Error, Some(event), Some(data)) => {
            Params::new(vec![("event".to_owned(), event), ("data".to_owned(), data)], missing)
        }
        _ => Params::default(),
    }
}

fn selector(d: &mut Decoder<'_>, node: &Node) -> Option<Selector> {
    match &node.value {
        Value::Map(entries) => match entries.as_slice() {
            [(key, value)] if key.text == "value" => literal(d, value),
            _ => {
                let help = "write {value: …} for a literal, or a selector such as event.data".to_owned();
                d.problem(node.span, "a mapping here is a literal, and needs the one key `value`", Some(help));
                None
            }
        },
        Value::List(_) => {
            let help = "write {value: [ … ]} for a literal, or a selector such as event.data".to_owned();
            d.problem(node.span, "a selector is needed here, not a list", Some(help));
            None
        }
        Value::Scalar(scalar) => {
            if unreadable(node) {
                return None;
            }
            if scalar.meaning() != Meaning::Text {
                let help = format!("write {{value: {}}} for a literal", scalar.text);
                d.problem(node.span, format!("{} is no selector", d.quote(node)), Some(help));
                return None;
            }
            match Selector::parse(&scalar.text) {
                Ok(selector) => Some(selector),
                Err(message) => {
                    let (message, help) = split_help(hide(d, node, &scalar.text, message));
                    d.problem(node.span, message, help.or(Some("{value: …} gives a literal".to_owned())));
                    None
                }
            }
        }
    }
}

/// `message; what would be right` in two.
pub fn split_help(message: String) -> (String, Option<String>) {
    match message.split_once("; ") {
        Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
        None => (message, None),
    }
}

fn literal(d: &mut Decoder<'_>, node: &Node) -> Option<Selector> {
    let mut out = String::new();
    if json(d, node, &mut out) { Some(Selector::Literal(Bytes::from(out))) } else { None }
}

/// Writes a node as JSON. Numbers keep their digits wherever JSON can write them.
pub fn json(d: &mut Decoder<'_>, node: &Node, out: &mut String) -> bool {
    match &node.value {
        Value::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                if !json(d, item, out) {
                    return false;
                }
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (i, (key, value)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                push_text(out, &key.text);
                out.push(':');
                if !json(d, value, out) {
                    return false;
                }
            }
            out.push('}');
        }
        Value::Scalar(_) if unreadable(node) => return false,
        Value::Scalar(scalar) => match scalar.meaning() {
            Meaning::Null => out.push_str("null"),
            Meaning::Bool(b) => out.push_str(if b { "true" } else { "false" }),
            Meaning::Text => push_text(out, &scalar.text),
            Meaning::Integer | Meaning::Float => {
                if let Some(text) = number(&scalar.text) {
                    out.push_str(&text);
                } else {
                    let message = format!("{} has no form in JSON", d.quote(node));
                    d.problem(node.span, message, Some("quote it to send it as text".to_owned()));
                    return false;
                }
            }
        },
    }
    true
}

fn push_text(out: &mut String, text: &str) {
    match serde_json::to_string(text) {
        Ok(quoted) => out.push_str(&quoted),
        Err(_) => out.push_str("\"\""),
    }
}

/// A YAML number as JSON writes it.
fn number(text: &str) -> Option<String> {
    debug_assert!(matches!(meaning_of(text), Meaning::Integer | Meaning::Float));
    if serde_json::from_str::<serde_json::Number>(text).is_ok() {
        return Some(text.to_owned());
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return u128::from_str_radix(digits, radix).ok().map(|n| n.to_string());
        }
    }
    // Left are signs, leading zeros and bare points: +5, 007, .5, 1.
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.strip_prefix('+').unwrap_or(text)), |d| ("-", d));
    let mut fixed = sign.to_owned();
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        let trimmed = digits.trim_start_matches('0');
        let _ = write!(fixed, "{}", if trimmed.is_empty() { "0" } else { trimmed });
        return Some(fixed);
    }
    let value: f64 = digits.parse().ok()?;
    if !value.is_finite() {
        return None;
    }
    let _ = write!(fixed, "{}", serde_json::Number::from_f64(value)?);
    Some(fixed)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_become_json() {
        for (yaml, json) in [
            ("12345678901234567890123", Some("12345678901234567890123")),
            ("1.50", Some("1.50")),
            ("0x1F", Some("31")),
            ("0o17", Some("15")),
            ("+5", Some("5")),
            ("-007", Some("-7")),
            (".5", Some("0.5")),
            ("1.", Some("1.0")),
            ("-.inf", None),
            (".nan", None),
        ] {
            assert_eq!(number(yaml).as_deref(), json, "{yaml}");
        }
    }
}
