//! `matches` and `replace_all`: regular expressions in linear time, compiled once per thread, and refused where even
//! linear is too long.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind};
use rhai::{Engine, EvalAltResult, ImmutableString};

use super::super::engine::check_time;
use super::{Fallible, too_long};
use crate::clock::Clock;
use crate::limits;

/// Patterns kept per thread; beyond that the cache starts anew.
const KEPT: usize = 64;
/// Longest pattern, and its size once compiled.
const PATTERN_BYTES: usize = 4 * 1024;
const COMPILED_BYTES: usize = 512 * 1024;
/// Worst case of a search: places in the pattern times bytes of text. A matching engine that is driven into its
/// slowest way does about ten of these in 0.1 µs.
const MOST_STEPS: usize = 16_000_000;

/// A compiled pattern and the number of places in it that can be active at once.
#[derive(Clone)]
struct Pattern {
    regex: Regex,
    places: usize,
}

thread_local! {
    static CACHE: RefCell<HashMap<String, Pattern>> = RefCell::new(HashMap::new());
}

pub(super) fn register(engine: &mut Engine, clock: &Clock) {
    let deadline = clock.clone();
    engine.register_fn("matches", move |text: &str, pattern: &str| -> Fallible<bool> {
        let regex = pattern_for("matches", pattern, text, &deadline)?;
        let found = regex.is_match(text);
        check_time(&deadline)?;
        Ok(found)
    });
    let deadline = clock.clone();
    engine.register_fn("replace_all", move |text: ImmutableString, pattern: &str, with: &str| {
        let regex = pattern_for("replace_all", pattern, &text, &deadline)?;
        replace_all(&regex, text, with, &deadline)
    });
}

fn replace_all(regex: &Regex, text: ImmutableString, with: &str, clock: &Clock) -> Fallible<ImmutableString> {
    let groups = with.matches('$').count();
    let mut out = String::new();
    let mut end = 0;
    for (i, captures) in regex.captures_iter(&text).enumerate() {
        let Some(whole) = captures.get(0) else { continue };
        let most = with.len().saturating_add(groups.saturating_mul(whole.len()));
        out.push_str(&text[end..whole.start()]);
        if out.len().saturating_add(most) > limits::SCRIPT_STRING_BYTES.saturating_mul(2) {
            return Err(too_long());
        }
        captures.expand(with, &mut out);
        end = whole.end();
        if i % 256 == 255 {
            check_time(clock)?;
        }
    }
    check_time(clock)?;
    if end == 0 && out.is_empty() {
        return Ok(text);
    }
    out.push_str(&text[end..]);
    super::bounded(out)
}

fn pattern_for(function: &str, pattern: &str, text: &str, clock: &Clock) -> Fallible<Regex> {
    let cached = CACHE.with_borrow(|cache| cache.get(pattern).cloned());
    let found = if let Some(found) = cached {
        found
    } else {
        let made = compile(pattern).map_err(|message| format!("{function}: {message}"));
        check_time(clock)?;
        let made = made?;
        CACHE.with_borrow_mut(|cache| {
            if cache.len() >= KEPT {
                cache.clear();
            }
            cache.insert(pattern.to_owned(), made.clone());
        });
        made
    };
    if found.places.saturating_mul(text.len()) > MOST_STEPS {
        let message = format!(
            "{function}: the pattern has {} places, too many for a text of {} bytes; shorten either",
            found.places,
            text.len()
        );
        return Err(Box::<EvalAltResult>::from(message));
    }
    Ok(found.regex)
}

fn compile(pattern: &str) -> Result<Pattern, String> {
    if pattern.len() > PATTERN_BYTES {
        return Err(format!("a pattern is at most {PATTERN_BYTES} bytes long"));
    }
    let hir = regex_syntax::parse(pattern)
        .map_err(|error| format!("`{pattern}` is no pattern: {}", last_line(&error.to_string())))?;
    let regex = RegexBuilder::new(pattern)
        .size_limit(COMPILED_BYTES)
        .dfa_size_limit(COMPILED_BYTES)
        .build()
        .map_err(|error| format!("`{pattern}` is no pattern: {}", last_line(&error.to_string())))?;
    Ok(Pattern { regex, places: places(&hir).max(1) })
}

/// The explanation stands in the last line; those before repeat the pattern.
fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text).trim_start_matches("error: ")
}

/// How many places of a pattern a matching engine may be at simultaneously. The depth is bounded by the parser.
fn places(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len(),
        // A character class is a few bytes long, however many characters it holds.
        HirKind::Class(_) => 2,
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min.saturating_add(1)).max(1);
            places(&repetition.sub).saturating_mul(usize::try_from(times).unwrap_or(usize::MAX))
        }
        HirKind::Capture(capture) => places(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().map(places).fold(0, usize::saturating_add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_the_repetitions() {
        for (pattern, want) in
            [("abc", 3), ("a|b|c", 2), ("[a-z]+", 4), ("a{10}", 10), ("(a{1,20}){30}", 600), (r"\bfoo\b", 5), ("", 1)]
        {
            assert_eq!(compile(pattern).expect(pattern).places, want, "{pattern}");
        }
    }
}
