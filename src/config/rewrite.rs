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
    let pad = " ".repeat(indent);
    let mut fresh = format!("{pad}expect:");
    block(json, indent + 2, &mut fresh);
    fresh.push('\n');
    // The key's line begins where its indentation does, so that its lines compare as they stand; before it may be a dash.
    let old = format!("{pad}{}", &text[from..to]);
    let merged = with_comments(&old, &fresh);
    format!("{}{}{}", &text[..from], &merged[pad.len()..], &text[to..])
}

/// One line of a mapping in block style: what it says, and the comment behind it.
struct Line<'a> {
    /// Comments and blank lines before it.
    before: Vec<&'a str>,
    says: &'a str,
    behind: &'a str,
}

/// `fresh` with the comments of `old`: each stays above or behind the line it was about, or where that line was.
fn with_comments(old: &str, fresh: &str) -> String {
    // What looks like a comment in a text of several lines is none.
    let is_text = |line: &str| line.trim_end().trim_end_matches(['+', '-']).ends_with(['|', '>']);
    let lines = lines(old);
    if lines.iter().any(|line| is_text(line.says) || line.says.matches('"').count() % 2 == 1) {
        return fresh.to_owned();
    }
    let before: Vec<&str> = lines.iter().map(|line| line.says).collect();
    let after: Vec<&str> = fresh.lines().collect();
    let mut out = String::new();
    let mut put = |line: &str| {
        out.push_str(line);
        out.push('\n');
    };
    for op in similar::capture_diff_slices(similar::Algorithm::Myers, &before, &after) {
        let (mut old, mut new) = (lines[op.old_range()].iter(), after[op.new_range()].iter());
        loop {
            let (old, new) = (old.next(), new.next());
            for comment in old.iter().flat_map(|old| &old.before) {
                put(comment);
            }
            match (old, new) {
                (Some(old), Some(new)) if key(old.says) == key(new) => put(&format!("{new}{}", old.behind)),
                (Some(_) | None, Some(new)) => put(new),
                (Some(_), None) => {}
                (None, None) => break,
            }
        }
    }
    out
}

/// What stands before the colon, indentation included.
fn key(line: &str) -> &str {
    line.split(':').next().unwrap_or(line)
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut found = Vec::new();
    let mut before = Vec::new();
    for line in text.lines() {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            before.push(line);
            continue;
        }
        let end = says_until(line);
        let says = line[..end].trim_end();
        found.push(Line { before: std::mem::take(&mut before), says, behind: line[says.len()..].trim_end() });
    }
    found
}

/// Where the comment behind a line begins: at a `#` after a blank, outside quotes.
fn says_until(line: &str) -> usize {
    let (mut quote, mut last) = (None, ' ');
    for (at, c) in line.char_indices() {
        match quote {
            Some(open) if c == open && last != '\\' => quote = None,
            None if c == '#' && last == ' ' => return at,
            None if matches!(c, '"' | '\'') && matches!(last, ' ' | '{' | '[' | ',') => quote = Some(c),
            Some(_) | None => {}
        }
        last = c;
    }
    line.len()
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
pub(super) fn text(text: &str, out: &mut String) {
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
