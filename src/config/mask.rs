//! Which parts of a file nobody may see when one of its lines is shown. Works from the table of keys where the file
//! could be read, and from suspicion where it could not.

use std::sync::LazyLock;

use regex::Regex;

use super::shape::{self, Block, Kind};
use super::values;
use super::yaml::{Meaning, Node, Span, Value, meaning_of};
use crate::limits;

/// What replaces a secret.
pub const STARS: &str = "****";

static KEY_TEXT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"wh(?:sec|sk)_[A-Za-z0-9+/=_-]*").ok());
static VARIABLE: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\$\{[A-Za-z0-9_]*(?::-(?P<default>[^}]*)|[^}]*)?\}?").ok());
static SUSPICIOUS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)secret|token|auth|passw|key|header|bearer|credential|cookie|signing|wh(?:sec|sk)_").ok()
});
static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[^\s{}\[\],:\x22']+").ok());

/// The places of all secrets of a tree.
pub fn tree(node: &Node, kind: &Kind, out: &mut Vec<Span>) {
    match (kind, &node.value) {
        (Kind::Secret | Kind::HeaderValue, Value::Map(entries)) => {
            for (key, value) in entries {
                if key.text != "env" && key.text != "file" {
                    out.push(key.span);
                    everything(value, out);
                }
            }
        }
        (Kind::Secret | Kind::Hidden | Kind::HeaderValue, _) => everything(node, out),
        (Kind::Url, Value::Scalar(s)) if s.text.contains('@') => out.push(node.span),
        (Kind::Block(block), Value::Map(entries)) => entries.iter().for_each(|(k, v)| entry(block, &k.text, v, out)),
        (Kind::Source, Value::Map(entries)) => {
            let named = entries.iter().find(|(k, _)| k.text == "type").and_then(|(_, v)| match &v.value {
                Value::Scalar(s) => shape::source(&s.text),
                _ => None,
            });
            let block = named.unwrap_or(&shape::SOURCE_HTTP);
            for (key, value) in entries {
                entry(block, &key.text, value, out);
            }
        }
        (Kind::Map(kind), Value::Map(entries)) => entries.iter().for_each(|(_, v)| tree(v, kind, out)),
        (Kind::List(kind), Value::List(items)) => items.iter().for_each(|item| tree(item, kind, out)),
        (Kind::List(kind), _) => tree(node, kind, out),
        (Kind::Either(kinds), _) => {
            let fits = |kind: &&Kind| match (kind, &node.value) {
                (Kind::Block(_) | Kind::Map(_), value) => matches!(value, Value::Map(_)),
                (Kind::List(_), value) => matches!(value, Value::List(_)),
                (_, value) => matches!(value, Value::Scalar(_)),
            };
            if let Some(kind) = kinds.iter().find(fits) {
                tree(node, kind, out);
            }
        }
        (Kind::Block(_) | Kind::Map(_) | Kind::Source, _) => unless_harmless(node, out),
        _ => {}
    }
}

fn entry(block: &Block, name: &str, value: &Node, out: &mut Vec<Span>) {
    match block.key(name) {
        Some(key) => tree(value, &key.kind, out),
        None => unless_harmless(value, out),
    }
}

/// The places of all scalars of a tree.
pub fn everything(node: &Node, out: &mut Vec<Span>) {
    match &node.value {
        Value::Scalar(s) if s.text.is_empty() => {}
        Value::Scalar(_) => out.push(node.span),
        Value::List(items) => items.iter().for_each(|item| everything(item, out)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| everything(value, out)),
    }
}

/// Under a key that is not known anything may be a secret, save what is too plain to be one.
fn unless_harmless(node: &Node, out: &mut Vec<Span>) {
    match &node.value {
        Value::Scalar(s) => {
            let plain = matches!(meaning_of(&s.text), Meaning::Null | Meaning::Bool(_));
            let number = meaning_of(&s.text) == Meaning::Integer && s.text.len() < 6;
            if !plain && !number && values::duration(&s.text).is_err() && values::size(&s.text).is_err() {
                out.push(node.span);
            }
        }
        Value::List(items) => items.iter().for_each(|item| unless_harmless(item, out)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| unless_harmless(value, out)),
    }
}

/// A line as it may be shown, and where a mark at `column` (1-based) of `width` characters goes under it.
#[must_use]
pub fn line(text: &str, number: usize, masks: &[Span], suspect: bool, column: usize, width: usize) -> Shown {
    let chars: Vec<char> = text.chars().collect();
    let mut hidden = vec![false; chars.len()];
    for span in masks.iter().filter(|s| s.line <= number && number <= s.end_line) {
        let from = if span.line == number { span.column.saturating_sub(1) } else { 0 };
        // A block's end is the beginning of the line below it.
        let to = if span.end_line == number { span.end_column.saturating_sub(1) } else { chars.len() };
        let to = to.min(chars.len());
        // Quotes are no part of what they hold.
        let quoted = to > from + 1 && matches!(chars[from], '"' | '\'') && chars[from] == chars[to - 1];
        let (from, to) = if quoted { (from + 1, to - 1) } else { (from, to) };
        hidden.iter_mut().take(to).skip(from).for_each(|h| *h = true);
    }
    if suspect {
        hide_words(text, &mut hidden);
    }
    keep_variables(text, &mut hidden);
    hide_keys(text, &mut hidden);
    render(&chars, &hidden, column.saturating_sub(1), width)
}

/// Whether a line may hold a secret, by its own words or by those of the lines that it is nested in. For files that
/// could not be read, where nothing better is known.
#[must_use]
pub fn is_suspicious(text: &str, number: usize) -> bool {
    let indent = |line: &str| line.chars().take_while(|c| c.is_whitespace() || *c == '-').count();
    let lines: Vec<&str> = text.lines().take(number).collect();
    let Some((line, above)) = lines.split_last() else { return false };
    if is_match(&SUSPICIOUS, line) {
        return true;
    }
    let mut inside = indent(line);
    for parent in above.iter().rev().filter(|l| !l.trim().is_empty()) {
        if indent(parent) < inside || (indent(parent) == inside && line.trim_start().starts_with('-')) {
            if is_match(&SUSPICIOUS, parent) {
                return true;
            }
            inside = indent(parent);
        }
    }
    false
}

/// A text with all signing keys in it starred.
#[must_use]
pub fn keys(text: &str) -> String {
    static WHOLE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(wh(?:sec|sk)_)[A-Za-z0-9+/=_-]{4,}").ok());
    WHOLE.as_ref().map_or_else(|| STARS.to_owned(), |r| r.replace_all(text, "${1}****").into_owned())
}

/// A shown line with its mark.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    /// The line.
    pub text: String,
    /// Characters before the mark, and its length.
    pub mark: (usize, usize),
}

fn is_match(regex: &LazyLock<Option<Regex>>, text: &str) -> bool {
    regex.as_ref().is_none_or(|r| r.is_match(text))
}

fn ranges(regex: &LazyLock<Option<Regex>>, text: &str) -> Vec<(usize, usize)> {
    let chars = |bytes: usize| text[..bytes].chars().count();
    regex.as_ref().map_or_else(Vec::new, |r| r.find_iter(text).map(|m| (chars(m.start()), chars(m.end()))).collect())
}

/// Every word behind the first colon that is not itself a key.
fn hide_words(text: &str, hidden: &mut [bool]) {
    let chars: Vec<char> = text.chars().collect();
    let first = chars.iter().position(|c| *c == ':').unwrap_or(0);
    for (from, to) in ranges(&WORD, text) {
        let is_key = chars.get(to) == Some(&':') && chars.get(to + 1).is_none_or(|c| c.is_whitespace());
        if to == from + 1 && chars[from] == '-' {
            continue; // a list's dash
        }
        if from > first && !is_key {
            hidden[from..to].iter_mut().for_each(|h| *h = true);
        } else if first == 0 {
            hidden[from..to].iter_mut().for_each(|h| *h = true);
        }
    }
}

/// `${NAME}` may be seen, its default may not.
fn keep_variables(text: &str, hidden: &mut [bool]) {
    let Some(regex) = VARIABLE.as_ref() else { return };
    let chars = |bytes: usize| text[..bytes].chars().count();
    for captures in regex.captures_iter(text) {
        if let Some(all) = captures.get(0) {
            hidden[chars(all.start())..chars(all.end())].iter_mut().for_each(|h| *h = false);
        }
        if let Some(default) = captures.name("default") {
            hidden[chars(default.start())..chars(default.end())].iter_mut().for_each(|h| *h = true);
        }
    }
}

/// `whsec_…` is hidden wherever it stands; its prefix is not.
fn hide_keys(text: &str, hidden: &mut [bool]) {
    let chars: Vec<char> = text.chars().collect();
    for (from, to) in ranges(&KEY_TEXT, text) {
        let prefix = chars[from..to].iter().position(|c| *c == '_').map_or(0, |at| at + 1);
        hidden[from..from + prefix].iter_mut().for_each(|h| *h = false);
        hidden[from + prefix..to].iter_mut().for_each(|h| *h = true);
    }
}

fn render(chars: &[char], hidden: &[bool], mark: usize, width: usize) -> Shown {
    let mut out = String::new();
    let mut at = 0; // characters written
    let (mut begin, mut end) = (None, None);
    for (i, c) in chars.iter().enumerate() {
        if i == mark {
            begin = Some(at);
        }
        if i == mark + width {
            end = Some(at);
        }
        if !hidden[i] {
            out.push(if c.is_control() && *c != '\t' { '\u{fffd}' } else { *c });
            at += 1;
        } else if i == 0 || !hidden[i - 1] {
            out.push_str(STARS);
            at += STARS.len();
            if begin == Some(at) {
                begin = Some(at - STARS.len());
            }
        }
    }
    // A mark inside a hidden part goes under its stars.
    let mut begin = begin.unwrap_or(at);
    if mark > 0 && mark < hidden.len() && hidden[mark] && hidden[mark - 1] {
        begin = begin.saturating_sub(STARS.len());
    }
    let width = end.unwrap_or(at).saturating_sub(begin).max(1);
    window(&out, begin, width)
}

/// Cuts a long line to what is around its mark.
fn window(text: &str, begin: usize, width: usize) -> Shown {
    let total = text.chars().count();
    let max = limits::SHOWN_LINE_CHARS;
    if total <= max {
        return Shown { text: text.to_owned(), mark: (begin, width) };
    }
    let from = begin.saturating_sub(max / 4);
    let cut: String = text.chars().skip(from).take(max).collect();
    let (lead, before) = if from == 0 { ("", begin) } else { ("…", begin - from + 1) };
    let tail = if from + max < total { "…" } else { "" };
    Shown { text: format!("{lead}{cut}{tail}"), mark: (before, width.min(max.saturating_sub(begin - from)).max(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, masks: &[(usize, usize)], suspect: bool) -> String {
        let masks: Vec<Span> = masks
            .iter()
            .map(|(from, to)| Span { line: 1, column: *from, end_line: 1, end_column: *to, file: 0 })
            .collect();
        line(text, 1, &masks, suspect, 1, 1).text
    }

    #[test]
    fn secrets_are_starred_and_variables_stay() {
        assert_eq!(shown("token: hunter2 # x", &[(8, 15)], false), "token: **** # x");
        assert_eq!(shown("token: ${TOKEN}", &[(8, 16)], false), "token: ${TOKEN}");
        assert_eq!(shown("a: ${TOKEN:-hunter2}", &[], false), "a: ${TOKEN:-****}");
        assert_eq!(shown("secrets: [whsec_MfKQ9r8G]", &[], false), "secrets: [whsec_****]");
        assert_eq!(shown("secrets: [whsec_MfKQ9r8G]", &[(11, 25)], false), "secrets: [whsec_****]");
        assert_eq!(shown("headers: {A: Bearer ${X}}", &[], true), "headers: {A: **** ${X}}");
        assert_eq!(shown("  password: user:pass", &[], true), "  password: ****:****");
        assert!(is_suspicious("signing:\n  secrets:\n  - *hunter2\n", 3));
        assert!(is_suspicious("headers:\n  X: @hunter2\n", 2));
        assert!(!is_suspicious("headers: {}\ntimeout: 15 s\n", 2));
        assert_eq!(shown("  - *hunter2", &[], true), "  - ****");
        assert_eq!(keys("`whsec_MfKQ9r8G` begins with whsec_"), "`whsec_****` begins with whsec_");
    }

    #[test]
    fn marks_follow_what_was_starred() {
        let mask = Span { line: 1, column: 4, end_line: 1, end_column: 20, file: 0 };
        let shown = line("a: hunter2hunter2xx, b: c", 1, &[mask], false, 22, 1);
        assert_eq!(shown, Shown { text: "a: ****, b: c".to_owned(), mark: (9, 1) });
        let shown = line("a: hunter2hunter2xx, b: c", 1, &[mask], false, 4, 16);
        assert_eq!(shown.mark, (3, 4));
        let long = "x".repeat(1000);
        let shown = line(&long, 1, &[], false, 500, 3);
        assert_eq!(shown.text.chars().nth(shown.mark.0), Some('x'));
        assert!(shown.text.chars().count() <= limits::SHOWN_LINE_CHARS + 2);
    }
}
