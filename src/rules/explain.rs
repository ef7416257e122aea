//! Errors for people who write scripts: what went wrong, in which function, at which innermost line and column, with
//! the cure where it is known. Never runs anything.

use std::fmt::Write as _;
use std::sync::Arc;

use rhai::{Dynamic, EvalAltResult, ImmutableString, LexError, ParseError, ParseErrorType, Position};

use super::engine::{TOO_LARGE, TOO_LONG, TOO_MUCH};
use super::lint;
use super::program::RuleError;
use super::render;
use super::scripts::ScriptProblem;
use crate::limits;

/// Longest message of a thrown value.
const MESSAGE_CHARS: usize = 500;

/// The mistake that kept a script from compiling.
pub(super) fn parse_error(file: &str, text: &str, error: &ParseError) -> ScriptProblem {
    let position = error.position();
    let (line, column) = place(position);
    let problem = |message: String| ScriptProblem { file: file.to_owned(), line, column, message };
    let message = match error.err_type() {
        ParseErrorType::VariableUndefined(name) => undefined(name, text),
        ParseErrorType::ModuleUndefined(name) => unknown_module(name),
        ParseErrorType::BadInput(LexError::MalformedChar(text)) => {
            format!("'{text}' is no single character: a text stands in double quotes, \"{text}\"")
        }
        ParseErrorType::ExprTooDeep => {
            format!("an expression is nested deeper than {} levels", limits::SCRIPT_EXPRESSION_DEPTH)
        }
        ParseErrorType::Reserved(word)
            if !is_member(text, line, column) && !matches!(word.as_str(), "eval" | "curry" | "null") =>
        {
            format!("`{word}` is a word that Rhai keeps for itself: take another name; as a key write \"{word}\"")
        }
        kind => {
            let word = word_at(text, line, column);
            match word.as_str() {
                "eval" => return problem("there is no eval in rules".into()),
                "curry" => return problem("there is no curry in rules: a closure keeps the variables it uses".into()),
                "null" | "nil" | "undefined" if !is_member(text, line, column) => {
                    return problem(format!("`{word}` is written () in a rule"));
                }
                _ => {}
            }
            if is_member(text, line, column) && !word.is_empty() {
                format!("`{word}` is a word that Rhai keeps for itself: write [\"{word}\"] instead of .{word}")
            } else {
                lower_first(&kind.to_string())
            }
        }
    };
    problem(message)
}

/// A variable or a module that nothing declares.
pub(super) fn undeclared(file: &str, text: &str, found: &lint::Undeclared) -> ScriptProblem {
    let (line, column) = place(found.position);
    let message = if found.module { unknown_module(&found.name) } else { undefined(&found.name, text) };
    ScriptProblem { file: file.to_owned(), line, column, message }
}

fn unknown_module(name: &str) -> String {
    format!("unknown module `{name}`: import it first, for example import \"lib/{name}\" as {name};")
}

fn undefined(name: &str, text: &str) -> String {
    let declared = lint::declared(text);
    if declared.iter().any(|(kind, word)| *kind == "const" && *word == name) {
        return format!("`{name}` is a constant of the script: inside a function write global::{name}");
    }
    let names = declared.iter().map(|(_, word)| *word).chain(["event", "payload"]);
    if matches!(name, "event" | "payload") {
        return format!("`{name}` is not here: `when` sees `event` alone, and a function what it takes as parameters");
    }
    match lint::nearest(name, names) {
        Some(near) => format!("unknown variable `{name}`: did you mean `{near}`?"),
        None => format!("unknown variable `{name}`: declare it with let, or take it as a parameter"),
    }
}

/// What made a running script fail.
///
/// `text_of` gives the source of a script, since the failing line may stand in an imported one.
pub(super) fn run_error(
    file: &str,
    function: &str,
    text_of: &dyn Fn(&str) -> Option<Arc<str>>,
    error: Box<EvalAltResult>,
) -> RuleError {
    let mut found = RuleError {
        file: file.to_owned(),
        function: function.to_owned(),
        line: 0,
        column: 0,
        kind: "thrown",
        message: String::new(),
        excerpt: Box::default(),
    };
    let mut at = Position::NONE;
    let mut error = error;
    let inner = loop {
        let here = error.position();
        if !here.is_none() {
            at = here;
        }
        match *error {
            EvalAltResult::ErrorInFunctionCall(name, source, inner, _) => {
                found.function = if name.starts_with("anon$") { format!("{} (closure)", found.function) } else { name };
                if !source.is_empty() {
                    found.file = source;
                }
                error = inner;
            }
            EvalAltResult::ErrorInModule(_, inner, _) => error = inner,
            other => break other,
        }
    };
    let limit = inner.is_system_exception();
    (found.kind, found.message) = describe(inner);
    let text = text_of(&found.file);
    if at.is_none()
        && let Some(text) = &text
    {
        // At least where it begins: Rhai knows no place of what it does between two expressions.
        at = lint::position_of(text, &found.function);
    }
    (found.line, found.column) = place(at);
    if let Some(text) = text {
        // The place of an error at a limit is that of the call in the handler, whatever was called from there on.
        if limit && let Some(called) = called_at(&text, found.line, found.column, function) {
            let _ = write!(found.message, ", in `{called}`");
        }
        found.excerpt = excerpt(&text, found.line, found.column).into();
    }
    found
}

/// An error of a whole function, at the place where it is declared.
pub(super) fn at_declaration(mut error: RuleError, text: &str) -> RuleError {
    (error.line, error.column) = place(lint::position_of(text, &error.function));
    error.excerpt = excerpt(text, error.line, error.column).into();
    error
}

/// The function of a script that is called at a place: `inner`, `lib::inner`.
fn called_at(text: &str, line: usize, column: usize, but: &str) -> Option<String> {
    let source = text.lines().nth(line.checked_sub(1)?)?;
    // The place of a call into another file is behind its alias.
    let before: Vec<char> = source.chars().take(column.checked_sub(1)?).collect();
    let part = |c: &&char| c.is_alphanumeric() || matches!(c, '_' | ':');
    let alias = if before.ends_with(&[':', ':']) { before.iter().rev().take_while(part).count() } else { 0 };
    let rest: String = source.chars().skip(before.len() - alias).collect();
    let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':')))?;
    let name = &rest[..end];
    let of_script = name.contains("::") || !lint::position_of(text, name).is_none();
    (rest[end..].trim_start().starts_with('(') && of_script && name != but).then(|| name.to_owned())
}

fn describe(mut error: EvalAltResult) -> (&'static str, String) {
    use EvalAltResult as E;
    match error {
        E::ErrorTerminated(ref token, _) => match token.clone().into_string().as_deref() {
            Ok(TOO_LONG) => ("timeout", "the script took longer than limits.script_time allows".into()),
            Ok(TOO_MUCH) => ("operations", "the script used more operations than limits.script_operations".into()),
            Ok(TOO_LARGE) => ("size", "a value as text is nested too deep or too long".into()),
            _ => ("thrown", "the script was ended".into()),
        },
        E::ErrorTooManyOperations(_) => {
            ("operations", "the script used more operations than limits.script_operations".into())
        }
        E::ErrorDataTooLarge(what, _) => ("size", format!("{} is beyond the limit", lower_first(&what))),
        E::ErrorTooManyVariables(_) => ("size", format!("more than {} variables", limits::SCRIPT_VARIABLES)),
        E::ErrorTooManyModules(_) => ("size", format!("more than {} imports", limits::SCRIPT_MODULES)),
        E::ErrorStackOverflow(_) => ("depth", format!("calls are nested deeper than {}", limits::SCRIPT_CALL_LEVELS)),
        E::ErrorRuntime(value, _) => ("thrown", thrown(&value)),
        // Some of Rhai's own functions say with this error what they refuse.
        E::ErrorFunctionNotFound(text, _) if !text.contains('(') => ("type", lower_first(&text)),
        E::ErrorFunctionNotFound(signature, _) => {
            let signature = signature.replace("&str | ImmutableString | String", "string");
            ("type", format!("no function {signature} for values of these types"))
        }
        _ => {
            error.set_position(Position::NONE);
            ("type", lower_first(&error.to_string()))
        }
    }
}

/// A line of a script and below it a caret at the column; empty when the place is unknown. A long line is shown around
/// the column only.
#[must_use]
pub fn excerpt(text: &str, line: usize, column: usize) -> String {
    const BEFORE: usize = 60;
    const SHOWN: usize = 100;
    let Some(source) = line.checked_sub(1).and_then(|n| text.lines().nth(n)) else { return String::new() };
    let skipped = column.saturating_sub(1).saturating_sub(BEFORE);
    let part: String = source.chars().skip(skipped).take(SHOWN).map(|c| if c == '\t' { ' ' } else { c }).collect();
    let margin = line.to_string();
    let mut out = format!("{margin} | {}", part.trim_end());
    if column > 0 {
        let _ = write!(out, "\n{:>1$} | {2:>3$}", "", margin.len(), "^", column - skipped);
    }
    out
}

/// The text of what a script threw.
fn thrown(value: &Dynamic) -> String {
    let text = if let Some(text) = value.read_lock::<ImmutableString>() {
        text.to_string()
    } else {
        let mut out = Vec::new();
        match render::to_json(value, None, "value", &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err((_, message)) => message,
        }
    };
    match text.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

pub(super) fn place(position: Position) -> (usize, usize) {
    (position.line().unwrap_or(0), position.position().unwrap_or(0))
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // Not where the first word is all capitals, or a name in quotes.
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

/// The identifier that begins at a place.
fn word_at(text: &str, line: usize, column: usize) -> String {
    let rest = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().chars().skip(column.saturating_sub(1));
    rest.take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether a dot stands right before a place.
fn is_member(text: &str, line: usize, column: usize) -> bool {
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let before: String = line.chars().take(column.saturating_sub(1)).collect();
    before.trim_end().ends_with('.')
}
