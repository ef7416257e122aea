//! Expectations written anew into the text of a test file, the rest of which stays as it is. Works on text only.

use super::cases::Place;
use super::yaml::{Meaning, meaning_of};
use crate::event::{Json, Kind};

/// The text with other expectations, each at its place.
#[must_use]
pub fn expectations(text: &str, mut updates: Vec<(Place, Json)>) -> String {
    let mut out = text.to_owned();
    // From the end, so that places before an update stay what they are.
    updates.sort_by_key(|(place, _)| std::cmp::Reverse(place.key));
    for (place, json) in updates {
        out = if place.braces { in_braces(&out, place, &json) } else { in_lines(&out, place, &json) };
    }
    out
}

fn in_braces(text: &str, place: Place, json: &Json) -> String {
    let (from, to) = (offset(text, place.begin), offset(text, place.end));
    format!("{}{}{}", &text[..from], String::from_utf8_lossy(&json.to_bytes()), &text[to..])
}

fn in_lines(text: &str, place: Place, json: &Json) -> String {
    let indent = place.key.1 - 1;
    let from = offset(text, place.key);
    let mut to = from;
    let mut at = from;
    for (n, line) in text[from..].split_inclusive('\n').enumerate() {
        let content = line.trim_start_matches(' ');
        let depth = line.len() - content.len();
        let says_nothing = content.trim().is_empty() || content.starts_with('#');
        if n > 0 && !says_nothing && depth <= indent {
            break;
        }
        at += line.len();
        // Blank lines and comments belong to what follows them.
        if n == 0 || !says_nothing {
            to = at;
        }
    }
    let mut fresh = String::from("expect:");
    block(json, indent + 2, &mut fresh);
    fresh.push('\n');
    format!("{}{fresh}{}", &text[..from], &text[to..])
}

/// Byte offset of a line and column.
fn offset(text: &str, (line, column): (usize, usize)) -> usize {
    let begin: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let rest = &text[begin..];
    begin + rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(i, _)| i)
}

/// A value as YAML in lines, behind a key or a dash.
fn block(json: &Json, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match json.kind() {
        Kind::Object if !json.is_empty() => {
            for (key, value) in json.members() {
                out.push('\n');
                out.push_str(&pad);
                text(&key, out);
                out.push(':');
                block(&value, indent + 2, out);
            }
        }
        Kind::Array if !json.is_empty() => {
            for item in json.items() {
                out.push('\n');
                out.push_str(&pad);
                out.push('-');
                block(&item, indent + 2, out);
            }
        }
        Kind::String => {
            out.push(' ');
            text(json.as_str().as_deref().unwrap_or_default(), out);
        }
        _ => {
            out.push(' ');
            out.push_str(&String::from_utf8_lossy(&json.to_bytes()));
        }
    }
}

/// A text, in quotes unless it is plainly a text.
fn text(text: &str, out: &mut String) {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with(' ')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '.' | '-'))
        && meaning_of(text) == Meaning::Text;
    if plain {
        out.push_str(text);
    } else {
        // A JSON string is a YAML one in double quotes.
        let mut quoted = Vec::new();
        crate::event::json::write_string(text, &mut quoted);
        out.push_str(&String::from_utf8_lossy(&quoted));
    }
}
