//! Readers of single values: text, numbers, durations, choices, secrets. Each gives nothing after it recorded a problem.

use std::path::Path;
use std::time::Duration;

use super::decode::Decoder;
use super::mask;
use super::reader::ReadError;
use super::values;
use super::yaml::{self, Key, Meaning, Node, UNREADABLE, Value, meaning_of};
use crate::limits;
use crate::secret::Secret;

impl Decoder<'_> {
    /// Whether there is nothing to read: a null, which is recorded as a problem wherever a value is read, or what a problem
    /// was recorded for already. Whoever takes null for a value looks for it first.
    fn nothing(&mut self, node: &Node) -> bool {
        if node.is_null() {
            self.problem(node.span, "a value is missing here", Some("write it, or leave this out".to_owned()));
        }
        unreadable(node) || node.is_null()
    }

    /// Text. A plain number or boolean is none: it must be quoted.
    pub fn text(&mut self, node: &Node) -> Option<String> {
        let Value::Scalar(scalar) = &node.value else { return self.wrong(node, "text") };
        if self.nothing(node) {
            return None;
        }
        if scalar.meaning() != Meaning::Text {
            let (shown, span) = (self.quote(node), node.span);
            let hidden = shown.contains(mask::STARS);
            let help =
                if hidden { "put quotes around it".to_owned() } else { format!("quote it: \"{}\"", scalar.text) };
            self.problem(span, format!("{shown} is {} to YAML, and text is needed", what(node)), Some(help));
            return None;
        }
        Some(scalar.text.clone())
    }

    /// Text as written, be it a number or a boolean to YAML.
    pub fn loose(&mut self, node: &Node) -> Option<String> {
        let Value::Scalar(scalar) = &node.value else { return self.wrong(node, "text") };
        if self.nothing(node) { None } else { Some(scalar.text.clone()) }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, node: &Node) -> Option<bool> {
        let Value::Scalar(scalar) = &node.value else { return self.wrong(node, "true or false") };
        if self.nothing(node) {
            return None;
        }
        if let Meaning::Bool(value) = typed(scalar) {
            return Some(value);
        }
        let help = match scalar.text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" | "1" => "YAML 1.2 knows only true and false; write true, without quotes",
            "no" | "off" | "n" | "0" => "YAML 1.2 knows only true and false; write false, without quotes",
            "true" | "false" => "leave the quotes out",
            _ => "write true or false, without quotes",
        };
        let message = format!("{} is not true or false", self.quote(node));
        self.problem(node.span, message, Some(help.to_owned()));
        None
    }

    /// A whole number.
    pub fn integer(&mut self, node: &Node, min: i64, max: i64) -> Option<i64> {
        let Value::Scalar(scalar) = &node.value else { return self.wrong(node, "a whole number") };
        if self.nothing(node) {
            return None;
        }
        let value = (typed(scalar) == Meaning::Integer).then(|| scalar.text.parse::<i64>().ok()).flatten();
        match value {
            Some(value) if (min..=max).contains(&value) => Some(value),
            Some(_) => {
                let message = format!("{} is out of bounds", self.quote(node));
                self.problem(node.span, message, Some(format!("write a number from {min} to {max}")));
                None
            }
            None => {
                let message = format!("{} is not a whole number", self.quote(node));
                self.problem(node.span, message, Some(format!("write a number from {min} to {max}, without quotes")));
                None
            }
        }
    }

    /// A number.
    pub fn number(&mut self, node: &Node, min: f64, max: f64) -> Option<f64> {
        let Value::Scalar(scalar) = &node.value else { return self.wrong(node, "a number") };
        if self.nothing(node) {
            return None;
        }
        let is_number = matches!(typed(scalar), Meaning::Integer | Meaning::Float);
        match scalar.text.parse::<f64>() {
            Ok(value) if is_number && (min..=max).contains(&value) => Some(value),
            _ => {
                let message = format!("{} is not a number from {min} to {max}", self.quote(node));
                self.problem(node.span, message, Some(format!("write a number from {min} to {max}, without quotes")));
                None
            }
        }
    }

    /// A duration within bounds.
    pub fn duration(&mut self, node: &Node, min: Duration, max: Duration) -> Option<Duration> {
        let text = self.loose(node)?;
        match values::duration(&text) {
            Ok(value) if value < min || value > max => {
                let (low, high) = (values::show_duration(min), values::show_duration(max));
                let message = format!("{} is out of bounds", self.quote(node));
                let help = if value < min { format!("write at least {low}") } else { format!("write at most {high}") };
                self.problem(node.span, message, Some(help));
                None
            }
            Ok(value) => Some(value),
            Err(right) => {
                let help = match meaning_of(&text) {
                    Meaning::Integer => format!("{text}s or {text}ms?"),
                    _ => "write a number and a unit, like 50ms, 15s, 5m, 24h or 7d".to_owned(),
                };
                let (message, general) = right.split_once("; ").unwrap_or((&right, "write less"));
                let help = if self.quote(node).contains(mask::STARS) { general.to_owned() } else { help };
                self.problem(node.span, format!("{}: {message}", self.quote(node)), Some(help));
                None
            }
        }
    }

    /// A size in bytes.
    pub fn size(&mut self, node: &Node) -> Option<u64> {
        let text = self.loose(node)?;
        match values::size(&text) {
            Ok(value) => Some(value),
            Err(right) => {
                let (message, help) = right.split_once("; ").unwrap_or((&right, "write less"));
                self.problem(node.span, format!("{}: {message}", self.quote(node)), Some(help.to_owned()));
                None
            }
        }
    }

    /// One of several words.
    pub fn choice(&mut self, node: &Node, words: &'static [&'static str]) -> Option<&'static str> {
        let text = self.loose(node)?;
        if let Some(word) = words.iter().find(|w| **w == text) {
            return Some(word);
        }
        let all = words.join(", ");
        let near = values::nearest(&text, words.iter().copied());
        let help = near.map_or(format!("write one of {all}"), |near| format!("did you mean `{near}`?"));
        let message = format!("{} is none of {all}", self.quote(node));
        self.problem(node.span, message, Some(help));
        None
    }

    /// The entries of a list.
    pub fn list<'n>(&mut self, node: &'n Node) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            Value::Scalar(_) if self.nothing(node) => None,
            Value::Scalar(s) => {
                let shown = self.quote(node);
                let one = if s.interpolated { "${NAME}" } else { s.text.as_str() };
                let one = if shown.contains(mask::STARS) { "…" } else { one };
                let quote = if s.style == yaml::Style::Plain { "" } else { "\"" };
                let help = format!("put it in brackets: [{quote}{one}{quote}]");
                self.problem(node.span, format!("a list is needed here, not {}", what(node)), Some(help));
                None
            }
            Value::Map(_) => {
                self.problem(node.span, "a list is needed here, not a mapping", Some("write [ … ]".to_owned()));
                None
            }
        }
    }

    /// The entries of a mapping with free keys.
    pub fn map<'n>(&mut self, node: &'n Node) -> Option<&'n [(Key, Node)]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            Value::Scalar(_) if self.nothing(node) => None,
            Value::Scalar(s) if s.style == yaml::Style::Plain && s.text.contains(':') => {
                let help = "write `NAME: VALUE`, with a space after the colon".to_owned();
                self.problem(node.span, "a mapping is needed here, not text", Some(help));
                None
            }
            _ => {
                let message = format!("a mapping is needed here, not {}", what(node));
                self.problem(node.span, message, Some("write {NAME: …}".to_owned()));
                None
            }
        }
    }

    /// A secret: a literal, `{env: NAME}` or `{file: PATH}`. Files lose one trailing newline.
    pub fn secret(&mut self, node: &Node) -> Option<Secret> {
        let forms = "write {env: NAME}, {file: PATH} or the secret itself";
        let value = match &node.value {
            Value::List(_) => return self.wrong(node, "a secret"),
            Value::Scalar(_) => self.text(node)?,
            Value::Map(entries) => {
                let [(key, value)] = entries.as_slice() else {
                    self.problem(node.span, "a secret names one place", Some(forms.to_owned()));
                    return None;
                };
                let from_file = match key.text.as_str() {
                    "env" => false,
                    "file" => true,
                    _ => {
                        // Not named: `{whsec_…}` without a value is a key to YAML.
                        self.problem(key.span, "a secret has no such key", Some(forms.to_owned()));
                        return None;
                    }
                };
                if value.is_null() {
                    let message = format!("`{}` has no value", key.text);
                    self.problem(key.span, message, Some(forms.to_owned()));
                    return None;
                }
                let text = self.text(value)?;
                if from_file { self.secret_file(value, &text)? } else { self.secret_variable(value, &text)? }
            }
        };
        if value.is_empty() {
            self.problem(node.span, "this secret is empty", Some(forms.to_owned()));
            return None;
        }
        Some(Secret::new(value))
    }

    fn secret_variable(&mut self, node: &Node, name: &str) -> Option<String> {
        let value = (self.env)(name);
        if value.is_none() {
            let message = format!("the variable {} is not set", self.quote(node));
            self.problem(node.span, message, Some("set it, or use {file: PATH}".to_owned()));
        }
        value
    }

    fn secret_file(&mut self, node: &Node, path: &str) -> Option<String> {
        let path = self.locate(path);
        let mut text = self.file_text(node, &path)?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        self.warn_loose(&path);
        Some(text)
    }

    #[cfg(unix)]
    fn warn_loose(&mut self, path: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        if std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o002 != 0) {
            let warning = format!("the secret file {} can be written by everyone", self.show(path));
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    #[cfg(not(unix))]
    fn warn_loose(&mut self, _path: &Path) {}

    /// The text of a file that the configuration names.
    pub fn file_text(&mut self, node: &Node, path: &Path) -> Option<String> {
        match self.reader.text(path, limits::SECRET_FILE_BYTES) {
            Ok(text) => Some(text),
            Err(error) => self.unread(node, path, &error),
        }
    }

    /// The bytes of a file that the configuration names.
    pub fn file_bytes(&mut self, node: &Node, path: &Path) -> Option<std::sync::Arc<[u8]>> {
        match self.reader.read(path, limits::SECRET_FILE_BYTES) {
            Ok(bytes) => Some(bytes),
            Err(error) => self.unread(node, path, &error),
        }
    }

    fn unread<T>(&mut self, node: &Node, path: &Path, error: &ReadError) -> Option<T> {
        let hidden = self.quote(node).contains(mask::STARS);
        let name = if hidden { mask::STARS.to_owned() } else { self.show(path) };
        let absolute = Path::new(&name).is_absolute() || hidden;
        let help = if absolute { None } else { Some("relative paths are relative to the config directory".to_owned()) };
        self.problem(node.span, format!("the file {name}: {error}"), help);
        None
    }

    /// Records that a node is of another kind than needed.
    pub fn wrong<T>(&mut self, node: &Node, needed: &str) -> Option<T> {
        if !self.nothing(node) {
            self.problem(node.span, format!("{needed} is needed here, not {}", what(node)), None);
        }
        None
    }
}

/// A scalar's meaning where its key decides the type: what a variable held counts as if it stood there.
fn typed(scalar: &yaml::Scalar) -> Meaning {
    if scalar.interpolated { meaning_of(&scalar.text) } else { scalar.meaning() }
}

/// Whether a node's variables could not be read, so that a problem was recorded already.
#[must_use]
pub fn unreadable(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(s) if s.text == UNREADABLE)
}

/// What a node is, for a message.
#[must_use]
pub fn what(node: &Node) -> &'static str {
    match &node.value {
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
        Value::Scalar(s) => match s.meaning() {
            Meaning::Null => "null",
            Meaning::Bool(_) => "a boolean",
            Meaning::Integer | Meaning::Float => "a number",
            Meaning::Text => "text",
        },
    }
}
