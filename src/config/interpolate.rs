//! `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$${` inside string values, after parsing. Values never show
//! in a message: a text that any of them came into is marked and shown as `****` from then on.

use std::ops::Range;

use super::yaml::{Node, Style, UNREADABLE, Value};
use crate::limits;

/// What a text became.
#[derive(Debug, PartialEq, Eq)]
pub struct Interpolated {
    /// The text.
    pub text: String,
    /// What came from variables, as bytes of it.
    pub variables: Vec<Range<usize>>,
}

/// A mistake in a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad {
    /// Characters before it.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// Replaces all variables of `text`; all mistakes come back together.
pub fn text(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Interpolated, Vec<Bad>> {
    let mut out = String::with_capacity(text.len());
    let mut bad = Vec::new();
    let mut variables = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, tail) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &tail[2..];
            continue;
        }
        out.push_str(before);
        let offset = text[..text.len() - tail.len()].chars().count();
        let Some(end) = tail.find('}') else {
            bad.push(Bad {
                offset,
                message: "`${` is not closed".to_owned(),
                help: "write ${NAME}, or $${ for the characters themselves; where ` #` is inside, quote the whole value: it \
                       begins a comment"
                    .to_owned(),
            });
            rest = "";
            break;
        };
        match variable(&tail[2..end], env) {
            Ok(value) => {
                variables.push(out.len()..out.len() + value.len());
                out.push_str(&value);
            }
            Err((message, help)) => bad.push(Bad { offset, message, help }),
        }
        rest = &tail[end + 1..];
        if out.len() > limits::INTERPOLATED_BYTES {
            let message = format!("longer than {} bytes once its variables are read", limits::INTERPOLATED_BYTES);
            bad.push(Bad { offset, message, help: "use a file".to_owned() });
            break;
        }
    }
    out.push_str(rest);
    if bad.is_empty() { Ok(Interpolated { text: out, variables }) } else { Err(bad) }
}

/// The value of what stands between the braces.
fn variable(inner: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, (String, String)> {
    let stop = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
    let (name, how) = inner.split_at(stop);
    let forms = "write ${NAME}, ${NAME:-default} or ${NAME:?message}, or $${ for the characters themselves";
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(("`${…}` needs the name of a variable".to_owned(), forms.to_owned()));
    }
    if how.contains("${") {
        return Err((format!("`${{{name}…}}` holds another `${{`"), "variables do not nest".to_owned()));
    }
    let value = env(name);
    if how.is_empty() {
        return value.ok_or_else(|| {
            let help = format!("set it, or give a default: ${{{name}:-…}}");
            (format!("the variable {name} is not set"), help)
        });
    }
    // As in a shell: with a colon, an empty variable counts as unset.
    let value = value.filter(|v| !v.is_empty());
    if let Some(default) = how.strip_prefix(":-") {
        return Ok(value.unwrap_or_else(|| default.to_owned()));
    }
    if let Some(message) = how.strip_prefix(":?") {
        let said = if message.is_empty() { "it is required" } else { message };
        return value.ok_or_else(|| (format!("the variable {name} is not set: {said}"), format!("set {name}")));
    }
    Err((
        format!("`${{{name}{}…}}` is no form of a variable", how.chars().take(2).collect::<String>()),
        forms.to_owned(),
    ))
}

/// Replaces all variables of a tree's values, in place.
pub fn tree(node: &mut Node, env: &dyn Fn(&str) -> Option<String>, found: &mut dyn FnMut(&Node, Bad)) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| tree(item, env, found)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| tree(value, env, found)),
        Value::Scalar(scalar) => {
            if !scalar.text.contains("${") {
                return;
            }
            match text(&scalar.text, env) {
                Ok(done) => {
                    scalar.text = done.text;
                    scalar.interpolated = !done.variables.is_empty();
                    scalar.variables = done.variables;
                    if !scalar.interpolated {
                        scalar.style = if scalar.style == Style::Block { Style::Block } else { Style::Quoted };
                    }
                }
                Err(all) => {
                    for bad in all {
                        found(node, bad);
                    }
                    // What stays is treated like a variable's value, so that no further problem is made of it.
                    if let Value::Scalar(scalar) = &mut node.value {
                        scalar.interpolated = true;
                        UNREADABLE.clone_into(&mut scalar.text);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "TOKEN" => Some("s3cret".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_read() {
        for (given, wanted, variables) in [
            ("Bearer ${TOKEN}", "Bearer s3cret", true),
            ("${TOKEN}${TOKEN}", "s3crets3cret", true),
            ("${NONE:-eu}", "eu", true),
            ("${EMPTY:-eu}", "eu", true),
            ("${EMPTY}", "", true),
            ("${TOKEN:?needed}", "s3cret", true),
            ("$${TOKEN}", "${TOKEN}", false),
            ("$TOKEN costs $5 {x}", "$TOKEN costs $5 {x}", false),
        ] {
            let done = text(given, &env).expect(given);
            assert_eq!((done.text.as_str(), !done.variables.is_empty()), (wanted, variables), "{given}");
        }
    }

    #[test]
    fn mistakes_are_all_named_and_show_no_value() {
        for (given, offset, says) in [
            ("a ${NONE}", 2, "the variable NONE is not set"),
            ("${NONE:?ask ops}", 0, "the variable NONE is not set: ask ops"),
            ("ä ${TOKEN", 2, "`${` is not closed"),
            ("${}", 0, "needs the name"),
            ("${1X}", 0, "needs the name"),
            ("${TOKEN-x}", 0, "`${TOKEN-x…}` is no form"),
            ("${NONE:-${TOKEN}}", 0, "holds another"),
        ] {
            let bad = text(given, &env).expect_err(given);
            assert_eq!(bad[0].offset, offset, "{given}");
            assert!(bad[0].message.contains(says), "{given}: {}", bad[0].message);
            assert!(!bad[0].message.contains("s3cret"));
        }
        assert_eq!(text("a${TOKEN}b${EMPTY}", &env).expect("good").variables, [1..7, 8..8]);
        assert_eq!(text("${A} ${B}", &env).expect_err("two").len(), 2);
    }
}
