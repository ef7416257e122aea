//! What YAML does not take for what was meant: the scanner's error is turned into what to write instead. Looks only
//! at the line and the error; never guesses a value.

use std::sync::LazyLock;

use regex::Regex;
use saphyr_parser::Tag;

use super::yaml::{Mistake, Span};

fn regex(pattern: &'static str) -> Option<Regex> {
    Regex::new(pattern).ok()
}

macro_rules! pattern {
    ($name:ident, $text:literal) => {
        static $name: LazyLock<Option<Regex>> = LazyLock::new(|| regex($text));
    };
}

pattern!(TEMPLATE, r"\{\{.*\}\}");
pattern!(BRACKET_ADDRESS, r"(?:^|[\s,:\[{])(\[[0-9a-fA-F:.%]*:[0-9a-fA-F:.%]*\](?::\d+)?)");
pattern!(FLOW_VARIABLE, r#"[\[{][^"']*\$\{"#);
pattern!(VARIABLE_WITH_COLON, r"\$\{[^}]*: ");
pattern!(STAR, r"(?:^|[\s\[,{:])(\*[^\s,\]}]*)");
pattern!(PLAIN_COLON, r#"^\s*(?:- )?[A-Za-z_.-]+:\s+[^"'\[{|>#&*!].*:\s"#);

fn finds(regex: &LazyLock<Option<Regex>>, line: &str) -> Option<String> {
    let captures = regex.as_ref()?.captures(line)?;
    let found = captures.get(1).or_else(|| captures.get(0))?;
    Some(found.as_str().trim().to_owned())
}

/// The line's value, without its key.
fn value_of(line: &str) -> &str {
    let line = line.trim_start().trim_start_matches("- ");
    line.split_once(": ").map_or(line, |(_, value)| value).trim()
}

/// Explains an error of the scanner. `open` is the line where the innermost open collection began.
#[must_use]
pub fn explain(text: &str, at: Span, info: &str, open: Option<usize>) -> Mistake {
    let line = text.lines().nth(at.line - 1).unwrap_or_default();
    let make = |message: &str, help: &str| Mistake {
        span: at,
        message: message.to_owned(),
        help: (!help.is_empty()).then(|| help.to_owned()),
    };
    let indentation: String = line.chars().take_while(|c| c.is_whitespace()).collect();
    let value = value_of(line);
    if indentation.contains('\t') || (info.contains("tab") && line.contains('\t')) {
        return make("YAML does not allow tabs for indentation", "indent with spaces");
    }
    if finds(&TEMPLATE, line).is_some() {
        return make("this looks like a template that was not rendered", "render it first, or quote the value");
    }
    if finds(&VARIABLE_WITH_COLON, line).is_some() && !info.contains("quoted scalar") {
        return make(
            "`: ` inside `${…}` ends the value for YAML, unless it is quoted",
            "put quotes around the whole value: \"${NAME:?message: more}\"",
        );
    }
    if finds(&FLOW_VARIABLE, line).is_some() {
        return make(
            "`${…}` between `{ }` or `[ ]` needs quotes: YAML reads its brace as its own",
            "put quotes around the value: \"${NAME}\", \"Bearer ${NAME}\"",
        );
    }
    if let Some(address) = finds(&BRACKET_ADDRESS, line) {
        let help = format!("quote it: \"{address}\"");
        return make("an IPv6 address in brackets is a list to YAML, unless it is quoted", &help);
    }
    if let Some(word) = finds(&STAR, line) {
        // Shown only where it is plainly a pattern; a password may begin with a star as well.
        let pattern = word == "*" || word.strip_prefix("*.").is_some_and(|w| !w.contains(|c: char| c.is_ascii_digit()));
        let help = if pattern { format!("quote it: \"{word}\"") } else { "put quotes around the value".to_owned() };
        return make("a value that begins with `*` is an alias to YAML, unless it is quoted", &help);
    }
    for (sign, name) in [('@', "`@`"), ('`', "a backtick"), ('%', "`%`")] {
        let begins = value.starts_with(sign) || value.trim_start_matches(['[', '{', ' ']).starts_with(sign);
        if begins {
            let message = format!("a value may not begin with {name} in YAML, unless it is quoted");
            return make(&message, "put quotes around the value");
        }
    }
    if info.contains("unexpected end of stream") || info.contains("invalid indentation in quoted scalar") {
        let help = open.map_or_else(String::new, |l| format!("look for the opening quote, on or after line {l}"));
        return make("a quote is opened and not closed", &help);
    }
    if info.contains("unknown escape") || info.contains("hexadecimal number") || info.contains("Unicode character") {
        return make(
            "this backslash is no escape that YAML knows in double quotes",
            "use single quotes, in which a backslash is just a backslash",
        );
    }
    if info.contains("trailing content after") || (value.starts_with(['"', '\'']) && info.contains("did not find")) {
        return make(
            "text follows the closing quote",
            "quote the whole value, with the other kind of quotes if it holds quotes itself",
        );
    }
    if info.contains("mapping values are not allowed") || finds(&PLAIN_COLON, line).is_some() {
        return make(
            "`: ` begins a new value here, where YAML allows none",
            "quote the whole value if it holds `: `; else check the indentation",
        );
    }
    if info.contains("simple key expect") {
        return make("a key is expected here, and it has no `:`", "write `key: value`, with a space after the colon");
    }
    if info.contains("illegal placement of ':'")
        || info.contains("flow sequence")
        || info.contains("flow mapping")
        || info.contains("flow construct")
    {
        return make(
            "a `[` or `{` is opened and not closed, or a comma is missing",
            "close it, put commas between the entries, and quote values that hold any of , [ ] { }",
        );
    }
    if info.contains("did not find expected node content") {
        return make(
            "a value is missing here, or a `[` or `{` is not closed",
            "close it, or quote the value if the sign belongs to it",
        );
    }
    if info.contains("misplaced bracket") {
        return make("a bracket is closed that was not opened", "quote the value if the bracket belongs to it");
    }
    if info.contains("indentation") || info.contains("did not find expected key") || info.contains("expected '-'") {
        return make("the indentation does not fit the lines above", "align it with its siblings, using spaces");
    }
    if info.contains("block sequence entries are not allowed") {
        return make("a list begins here, where YAML allows none", "put `- ` on a line of its own below the key");
    }
    if info.contains("recursion limit") {
        return make("nested too deeply", "");
    }
    if info.contains("unknown anchor") {
        return make("this alias names an anchor that is not there", "quote the value if the `*` belongs to it");
    }
    make(&format!("not YAML: {info}"), "")
}

/// Explains a tag: nothing in a configuration has one, so it is a value that begins with `!`.
#[must_use]
pub fn tag(text: &str, span: Span, tag: &Tag, rest: &str) -> Mistake {
    let line = text.lines().nth(span.line.saturating_sub(1)).unwrap_or_default();
    let column = line.find('!').map_or(span.column, |at| line[..at].chars().count() + 1);
    let message = "a value that begins with `!` is a tag to YAML, unless it is quoted".to_owned();
    let expression = line.trim_start().trim_start_matches("- ").starts_with("when:");
    let help = if tag.handle == "!" && !expression {
        "put quotes around the whole value".to_owned()
    } else if tag.handle == "!" {
        let value = format!("!{}{}{rest}", tag.suffix, if rest.is_empty() { "" } else { " " });
        let quote = if value.contains('"') { '\'' } else { '"' };
        format!("quote the whole value: {quote}{value}{quote}")
    } else {
        "leave the tag out".to_owned()
    };
    Mistake { span: Span { column, end_column: column + 1, end_line: span.line, ..span }, message, help: Some(help) }
}

/// Explains an anchor of nothing: nobody refers to that, so it is a value that begins with `&`.
#[must_use]
pub fn anchor(text: &str, span: Span) -> Mistake {
    let line = text.lines().nth(span.line.saturating_sub(1)).unwrap_or_default();
    let before: String = line.chars().take(span.column.saturating_sub(1)).collect();
    let column = before.rfind('&').map_or(span.column, |at| before[..at].chars().count() + 1);
    Mistake {
        span: Span { column, end_column: column + 1, end_line: span.line, ..span },
        message: "a value that begins with `&` is an anchor to YAML, unless it is quoted".to_owned(),
        help: Some("put quotes around the value".to_owned()),
    }
}

/// Explains a key that is a list or a mapping.
#[must_use]
pub fn compound_key(text: &str, span: Span) -> Mistake {
    let line = text.lines().nth(span.line.saturating_sub(1)).unwrap_or_default();
    let (message, help) = if finds(&TEMPLATE, line).is_some() || line.contains("{{") {
        ("this looks like a template that was not rendered", "render it first, or quote the value")
    } else if finds(&BRACKET_ADDRESS, line).is_some() {
        ("an IPv6 address in brackets is a list to YAML, unless it is quoted", "quote it: \"[::1]:7070\"")
    } else {
        ("a key is a text, not a list or a mapping", "quote it if the brackets belong to it")
    };
    Mistake { span, message: message.to_owned(), help: Some(help.to_owned()) }
}
