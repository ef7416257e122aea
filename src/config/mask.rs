//! Which parts of a file, and of a URL, nobody may see. Works from the table of keys where the file
//! could be read, and from suspicion where it could not.

use std::ops::Range;
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
static VALUES_ONLY: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)secret|token|passw|key|bearer|credential|cookie|wh(?:sec|sk)_").ok());
static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"://[^\s\x22']*").ok());

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
        (Kind::Secret | Kind::HeaderValue, _) => everything(node, out),
        (Kind::Url, Value::Scalar(s)) => address(node, &s.text, out),
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
        (Kind::Map(Kind::HeaderValue), Value::Map(entries)) => {
            for (key, value) in entries {
                // A value whose colon was forgotten is part of what is read as the name.
                if key.text.contains(|c: char| !c.is_ascii_graphic() || c == '=') {
                    out.push(key.span);
                }
                tree(value, &Kind::HeaderValue, out);
            }
        }
        (Kind::Map(kind), Value::Map(entries)) => entries.iter().for_each(|(_, v)| tree(v, kind, out)),
        (Kind::List(kind), Value::List(items)) => items.iter().for_each(|item| tree(item, kind, out)),
        (Kind::List(kind), _) => tree(node, kind, out),
        (Kind::Either(kinds), _) => {
            let fits = |kind: &&Kind| match (kind, &node.value) {
                (Kind::Block(_) | Kind::Map(_), value) => matches!(value, Value::Map(_)),
                (Kind::Secret, value) => matches!(value, Value::Map(_) | Value::Scalar(_)),
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

/// Of a URL the query and the fragment are hidden, and all of it where it may hold a user's name.
fn address(node: &Node, text: &str, out: &mut Vec<Span>) {
    let at = text.chars().position(|c| matches!(c, '?' | '#'));
    match at {
        _ if text.contains('@') => out.push(node.span),
        Some(at) => {
            let from = node.place_within(1, at + 2);
            // Quotes are no part of what they hold.
            out.push(Span { end_line: node.span.end_line, end_column: node.span.end_column, ..from });
        }
        None => {}
    }
}

/// The places of keys that stand without a colon and a value, as in `{A, B}`: where a colon or a comma was forgotten, they
/// are values.
pub fn keys_alone(node: &Node, text: &str, out: &mut Vec<Span>) {
    let lines: Vec<&str> = text.lines().collect();
    alone(node, &lines, out);
}

fn alone(node: &Node, lines: &[&str], out: &mut Vec<Span>) {
    match &node.value {
        Value::Scalar(_) => {}
        Value::List(items) => items.iter().for_each(|item| alone(item, lines, out)),
        Value::Map(entries) => {
            for (key, value) in entries {
                let line = lines.get(key.span.end_line.saturating_sub(1)).copied().unwrap_or_default();
                let behind = line.chars().skip(key.span.end_column.saturating_sub(1)).find(|c| !c.is_whitespace());
                if value.is_null() && behind != Some(':') {
                    out.push(key.span);
                }
                alone(value, lines, out);
            }
        }
    }
}

/// A URL as it may be shown: without a user's name, what is in `hidden` (bytes of it), and its query's values.
#[must_use]
pub fn url(text: &str, hidden: &[Range<usize>]) -> String {
    let hidden_at = |at: usize| hidden.iter().any(|range| range.contains(&at));
    let query = text.find(['?', '#']).unwrap_or(text.len());
    let authority = text.find("://").map_or(0, |at| at + 3);
    let user = text[authority.min(query)..query].rfind('@').map_or(authority, |at| authority + at);
    let mut out = String::new();
    let mut starred = false;
    let mut in_value = false;
    for (at, c) in text.char_indices() {
        if at > query && matches!(c, '&' | '#') && !hidden_at(at) {
            in_value = false;
        }
        // A part of the query without `=` is a value.
        let begins =
            at > query && !hidden_at(at - 1) && (at == query + 1 || matches!(text.as_bytes()[at - 1], b'&' | b'#'));
        if begins && !matches!(c, '&' | '#') {
            let part = text[at..].split(['&', '#']).next().unwrap_or_default();
            in_value = !part.contains('=');
        }
        if in_value || hidden_at(at) || (authority <= at && at < user) {
            if !starred {
                out.push_str(STARS);
            }
            starred = true;
            continue;
        }
        starred = false;
        out.push(if c.is_control() { '\u{fffd}' } else { c });
        if at > query && c == '=' {
            in_value = true;
            // Empty values are starred like others.
            if text[at + 1..].chars().next().is_none_or(|c| matches!(c, '&' | '#')) {
                out.push_str(STARS);
            }
        }
    }
    out
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
pub fn line(text: &str, number: usize, masks: &[Span], doubt: Doubt, column: usize, width: usize) -> Shown {
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
    hide_behind(text, doubt, &mut hidden);
    for (from, to) in ranges(&ADDRESS, text) {
        let query = (from..to).find(|i| matches!(chars[*i], '?' | '#')).unwrap_or(to);
        let user = (from..query).rfind(|i| chars[*i] == '@').unwrap_or(from);
        let secrets = [(from + 3, user), (query + 1, to)];
        secrets.iter().filter(|(a, b)| a < b).for_each(|(a, b)| hidden[*a..*b].iter_mut().for_each(|h| *h = true));
    }
    keep_variables(text, &mut hidden);
    hide_keys(text, &mut hidden);
    render(&chars, &hidden, column.saturating_sub(1), width)
}

/// What is hidden of a line whose structure is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// Nothing.
    None,
    /// All behind the first word that speaks of a secret.
    Behind,
    /// All behind its first key: it stands under `headers`, `signing` and the like.
    Nested,
    /// All of it: it stands under a key that speaks of a secret.
    Whole,
}

/// How much of a line may be a secret, by its own words and by those of the lines that it is nested in. For files that
/// could not be read, where nothing better is known.
#[must_use]
pub fn doubt(text: &str, number: usize) -> Doubt {
    let indent = |line: &str| line.chars().take_while(|c| c.is_whitespace() || *c == '-').count();
    let lines: Vec<&str> = text.lines().take(number).collect();
    let Some((line, above)) = lines.split_last() else { return Doubt::None };
    let mut inside = indent(line);
    // Whether the line goes on with a value that begins above it.
    let mut in_value = false;
    for parent in above.iter().rev().filter(|l| !l.trim().is_empty()) {
        if indent(parent) < inside || (indent(parent) == inside && line.trim_start().starts_with('-')) {
            in_value |= !parent.trim_end().ends_with([':', '{', '[', ',']);
            if is_match(&SUSPICIOUS, parent) {
                return if in_value || is_match(&VALUES_ONLY, parent) { Doubt::Whole } else { Doubt::Nested };
            }
            inside = indent(parent);
        }
    }
    if is_match(&SUSPICIOUS, line) { Doubt::Behind } else { Doubt::None }
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

/// Hides what a line without a known structure may hold. Once one place is in doubt, all behind it is, to the end.
fn hide_behind(text: &str, doubt: Doubt, hidden: &mut [bool]) {
    if doubt == Doubt::None {
        return;
    }
    let chars: Vec<char> = text.chars().collect();
    let end = text.trim_end().chars().count();
    for (from, to) in ranges(&WORD, text) {
        if to == from + 1 && chars[from] == '-' {
            continue; // a list's dash
        }
        let word: String = chars[from..to].iter().collect();
        let is_key = chars.get(to) == Some(&':') && chars.get(to + 1).is_none_or(|c| c.is_whitespace());
        let source = matches!(word.as_str(), "env" | "file");
        if !is_key || (doubt == Doubt::Whole && !source) {
            // Its quote goes with it.
            let from = if from > 0 && matches!(chars[from - 1], '"' | '\'') { from - 1 } else { from };
            if doubt != Doubt::Behind || is_match(&SUSPICIOUS, &word) {
                hidden[from..end].iter_mut().for_each(|h| *h = true);
                return;
            }
            hidden[from..to].iter_mut().for_each(|h| *h = true);
        } else if doubt != Doubt::Behind || is_match(&SUSPICIOUS, &word) {
            let value = chars.iter().skip(to + 1).take_while(|c| c.is_whitespace()).count() + to + 1;
            if value < end {
                hidden[value..end].iter_mut().for_each(|h| *h = true);
            }
            return;
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

    fn shown(text: &str, masks: &[(usize, usize)], doubt: Doubt) -> String {
        let masks: Vec<Span> = masks
            .iter()
            .map(|(from, to)| Span { line: 1, column: *from, end_line: 1, end_column: *to, file: 0 })
            .collect();
        line(text, 1, &masks, doubt, 1, 1).text
    }

    #[test]
    fn secrets_are_starred_and_variables_stay() {
        assert_eq!(shown("token: hunter2 # x", &[(8, 15)], Doubt::None), "token: **** # x");
        assert_eq!(shown("token: ${TOKEN}", &[(8, 16)], Doubt::None), "token: ${TOKEN}");
        assert_eq!(shown("a: ${TOKEN:-hunter2}", &[], Doubt::None), "a: ${TOKEN:-****}");
        assert_eq!(shown("secrets: [whsec_MfKQ9r8G]", &[], Doubt::None), "secrets: [whsec_****]");
        assert_eq!(shown("secrets: [whsec_MfKQ9r8G]", &[(11, 25)], Doubt::None), "secrets: [whsec_****]");
        assert_eq!(keys("`whsec_MfKQ9r8G` begins with whsec_"), "`whsec_****` begins with whsec_");
    }

    #[test]
    fn what_is_in_doubt_is_hidden_to_the_end() {
        for (text, number, wanted) in [
            ("headers: {A: Bearer ${X}}", 1, "headers: ****${X}****"),
            ("headers: {}\ntimeout: 15 s", 2, "timeout: 15 s"),
            ("headers:\n  Authorization: LEAK: x", 2, "  Authorization: ****"),
            ("headers:\n  X: @LEAK", 2, "  X: ****"),
            ("headers: {Authorization: LEAK: x}", 1, "headers: ****"),
            ("headers:\n  LEAK", 2, "  ****"),
            ("a: b\npassword: user:LEAK", 2, "password: ****"),
            ("auth: {basic: {username: a, password: LEAK: b}}", 1, "auth: ****"),
            ("auth:\n  basic:\n    username: a\n    password: LEAK: b", 4, "    password: ****"),
            ("admin: {listen: LEAK, token: LEAK: b}", 1, "admin: {listen: ****, token: ****"),
            ("token LEAK", 1, "****"),
            ("password: a\n  LEAK: b", 2, "  ****"),
            ("headers:\n  A: b\n   LEAK: c", 3, "   ****"),
            ("signing:\n  secrets:\n  - *LEAK", 3, "  - ****"),
            ("signing:\n  secrets:\n  - env: LEAK: b", 3, "  - env: ****"),
            ("url: http://u:LEAK@x/?a=LEAK: y", 1, "url: http://****@x/?**** y"),
        ] {
            let last = text.lines().nth(number - 1).expect("a line");
            let got = line(last, number, &[], doubt(text, number), 1, 1).text;
            assert_eq!(got, wanted, "{text}");
        }
    }

    #[test]
    fn a_url_shows_neither_values_nor_variables() {
        for (from, hidden, to) in [
            ("https://a.example/hook", 0..0, "https://a.example/hook"),
            ("https://a.example/h?key=LEAK&LEAK&b=", 0..0, "https://a.example/h?key=****&****&b=****"),
            ("https://a.example/h?k=LEAK?x=LEAK#LEAK", 0..0, "https://a.example/h?k=****#****"),
            ("https://u:LEAK@a.example/h", 0..0, "https://****@a.example/h"),
            ("https://a.example/LEAK/h?k=LEAK", 18..22, "https://a.example/****/h?k=****"),
            ("https://a.example/LEAK?LEAK&b=LEAK", 18..27, "https://a.example/****&b=****"),
            ("https://a.example/?a=x&y=LEAK", 21..25, "https://a.example/?a=****"),
            ("LEAK", 0..4, "****"),
            ("?#LEAK", 0..0, "?#****"),
        ] {
            assert_eq!(url(from, &[hidden]), to, "{from}");
        }
    }

    #[test]
    fn marks_follow_what_was_starred() {
        let mask = Span { line: 1, column: 4, end_line: 1, end_column: 20, file: 0 };
        let shown = line("a: hunter2hunter2xx, b: c", 1, &[mask], Doubt::None, 22, 1);
        assert_eq!(shown, Shown { text: "a: ****, b: c".to_owned(), mark: (9, 1) });
        let shown = line("a: hunter2hunter2xx, b: c", 1, &[mask], Doubt::None, 4, 16);
        assert_eq!(shown.mark, (3, 4));
        let long = "x".repeat(1000);
        let shown = line(&long, 1, &[], Doubt::None, 500, 3);
        assert_eq!(shown.text.chars().nth(shown.mark.0), Some('x'));
        assert!(shown.text.chars().count() <= limits::SHOWN_LINE_CHARS + 2);
    }
}
