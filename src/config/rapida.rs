//! Webhook definitions of a Rapida assistant, written anew as webhook files. Pure: a JSON value in, texts out. What has no
//! counterpart is said in the file, as a comment.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};

use super::rewrite::text;
use super::values;
use crate::delivery::StatusSet;
use crate::event::{Json, Kind};
use crate::limits;
use crate::rules::{Selector, is_framing};

/// What is wrong with a definition, at a JSON pointer into the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", if pointer.is_empty() { "the file" } else { pointer.as_str() })]
pub struct ImportError {
    /// JSON pointer.
    pub pointer: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// One webhook, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The file's name without suffix.
    pub name: String,
    /// The file.
    pub yaml: String,
    /// What has no counterpart, or works in another way; in the file as comments.
    pub notes: Vec<String>,
}

/// Members that say nothing about what is sent.
const ASIDE: [&str; 16] = [
    "id",
    "assistantId",
    "assistant",
    "projectId",
    "organizationId",
    "status",
    "createdBy",
    "createdUser",
    "createdDate",
    "updatedBy",
    "updatedUser",
    "updatedDate",
    "visibility",
    "source",
    "sourceIdentifier",
    "description",
];

const KNOWN: [&str; 10] = [
    "httpMethod",
    "httpUrl",
    "httpHeaders",
    "httpBody",
    "assistantEvents",
    "retryStatusCodes",
    "maxRetryCount",
    "retryCount",
    "timeoutSecond",
    "executionPriority",
];

/// A definition, an array of them, or either in the `data` of an answer of Rapida's API. All mistakes come back together.
pub fn import(file: &Json) -> Result<Vec<Imported>, Vec<ImportError>> {
    let data = file.get("data").filter(|_| file.get("httpUrl").is_none());
    let at = if data.is_some() { "/data" } else { "" };
    let root = data.unwrap_or_else(|| file.clone());
    let definitions: Vec<(String, Json)> = match root.kind() {
        Kind::Array => root.items().enumerate().map(|(i, item)| (format!("{at}/{i}"), item)).collect(),
        _ => vec![(at.to_owned(), root)],
    };
    let (mut done, mut errors, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
    if definitions.is_empty() {
        errors.push(ImportError { pointer: at.to_owned(), reason: "there is no webhook in this array".to_owned() });
    }
    for (pointer, definition) in definitions {
        let mut one = Definition { at: pointer, json: definition, errors: Vec::new(), notes: Vec::new() };
        let imported = one.import(&mut names);
        errors.append(&mut one.errors);
        done.extend(imported);
    }
    if errors.is_empty() { Ok(done) } else { Err(errors) }
}

struct Definition {
    at: String,
    json: Json,
    errors: Vec<ImportError>,
    notes: Vec<String>,
}

impl Definition {
    fn wrong(&mut self, member: &str, reason: impl Into<String>) {
        let slash = if member.is_empty() { "" } else { "/" };
        self.errors.push(ImportError { pointer: format!("{}{slash}{member}", self.at), reason: reason.into() });
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn import(&mut self, names: &mut BTreeSet<String>) -> Option<Imported> {
        if self.json.kind() != Kind::Object {
            self.wrong("", format!("a webhook definition is an object with httpUrl, not {}", self.json.kind()));
            return None;
        }
        let url = self.url();
        let events = self.events();
        let mut body = String::new();
        let description = self.text("description").filter(|text| !text.trim().is_empty());
        if let Some(description) = &description {
            line(&mut body, "description", description);
        }
        if let Some(url) = &url {
            line(&mut body, "url", url.as_str());
        }
        self.method(&mut body);
        let _ = writeln!(body, "events: [{}]", events.join(", "));
        if let Some(status) = self.text("status").filter(|status| !status.eq_ignore_ascii_case("active")) {
            self.note(format!("its status was {status}: it is switched off here"));
            body.push_str("enabled: false\n");
        }
        self.headers(&mut body);
        self.params(&mut body);
        body.push_str(
            "# Rapida signs nothing. `sidehook secret new` makes a secret; then write\n\
             #   signing: {scheme: standard, secrets: [{env: WEBHOOK_SECRET}]}\n\
             signing: {scheme: none}\n",
        );
        self.timeout(&mut body);
        self.retry(&mut body);
        self.priority(&mut body);
        for (key, _) in self.json.clone().members() {
            if !KNOWN.contains(&&*key) && !ASIDE.contains(&&*key) {
                self.note(format!("{key} has no counterpart"));
            }
        }
        if !self.errors.is_empty() {
            return None;
        }
        let name = unused(names, description.as_deref(), url.as_ref()?.host_str().unwrap_or_default());
        let mut yaml = String::from("# Made of a Rapida webhook.\n");
        for note in &self.notes {
            let _ = writeln!(yaml, "# - {note}");
        }
        yaml.push_str(&body);
        Some(Imported { name, yaml, notes: std::mem::take(&mut self.notes) })
    }

    fn text(&self, name: &str) -> Option<String> {
        self.json.get(name).and_then(|value| value.as_str().map(std::borrow::Cow::into_owned))
    }

    fn url(&mut self) -> Option<url::Url> {
        let right = "write the destination, https://host/path";
        let Some(written) = self.text("httpUrl") else {
            self.wrong("httpUrl", format!("is missing, or no text; {right}"));
            return None;
        };
        match url::Url::parse(&written) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                if url.scheme() == "http" {
                    self.note(
                        "plain http: sidehook sends there only with `egress: {allow_http: true}` in sidehook.yaml",
                    );
                }
                Some(url)
            }
            _ => {
                self.wrong("httpUrl", format!("is no http URL; {right}"));
                None
            }
        }
    }

    fn events(&mut self) -> Vec<String> {
        let right = "write for example [\"conversation.completed\"]";
        let Some(list) = self.json.get("assistantEvents").filter(|list| list.kind() == Kind::Array && !list.is_empty())
        else {
            self.wrong("assistantEvents", format!("is missing, empty or no array; {right}"));
            return Vec::new();
        };
        let mut events: Vec<String> = Vec::new();
        for (i, item) in list.items().enumerate() {
            let Some(event) = item.as_str().filter(|event| is_event(event)) else {
                self.wrong(&format!("assistantEvents/{i}"), format!("is no event type; {right}"));
                continue;
            };
            events.push(if *event == *"conversation.error" { "conversation.failed" } else { &event }.to_owned());
            // Rapida has no subscription to it: it is sent to those who subscribe to the beginning.
            if *event == *"conversation.begin" && !events.iter().any(|event| event == "conversation.resume") {
                events.push("conversation.resume".to_owned());
                self.note(
                    "conversation.resume is there since Rapida sends it to those who subscribe to conversation.begin",
                );
            }
        }
        let mut seen = BTreeSet::new();
        events.retain(|event| seen.insert(event.clone()));
        events
    }

    fn method(&mut self, body: &mut String) {
        match self.text("httpMethod").as_deref() {
            None | Some("POST") => {}
            Some(method @ ("PUT" | "PATCH" | "GET")) => line(body, "method", method),
            Some(other) => {
                self.note(format!(
                    "httpMethod {other:?}: Rapida sends GET, with the params in the query, and so does this"
                ));
                line(body, "method", "GET");
            }
        }
    }

    /// A map that may stand in a text, as Rapida's database has it.
    fn map(&mut self, name: &str) -> Vec<(String, String)> {
        let Some(value) = self.json.get(name).filter(|value| !value.is_null()) else { return Vec::new() };
        let inner = value.as_str().and_then(|text| Json::parse(text.into_owned()).ok());
        let value = inner.unwrap_or(value);
        if value.kind() != Kind::Object {
            self.wrong(name, format!("is an object of texts, not {}", value.kind()));
            return Vec::new();
        }
        let mut pairs = Vec::new();
        for (key, value) in value.members() {
            match value.as_str() {
                Some(text) => pairs.push((key.to_string(), text.into_owned())),
                None => self.wrong(&format!("{name}/{}", escaped(&key)), format!("is a text, not {}", value.kind())),
            }
        }
        pairs
    }

    fn headers(&mut self, body: &mut String) {
        let mut kept: Vec<(HeaderName, String)> = Vec::new();
        for (name, value) in self.map("httpHeaders") {
            let at = format!("httpHeaders/{}", escaped(&name));
            let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
                self.wrong(&at, "is no header name; write one such as X-Source");
                continue;
            };
            if HeaderValue::from_str(&value).is_err() {
                self.wrong(&at, "holds a line break, a control character or one beyond ASCII");
            } else if header.as_str().starts_with("webhook-") || is_framing(header.as_str()) {
                self.note(format!("the header {name} is left out: sidehook sets it itself"));
            } else if kept.iter().any(|(other, _)| *other == header) {
                self.note(format!("the header {name} is left out: it is there twice"));
            } else {
                let _ = write!(body, "{}", if kept.is_empty() { "headers:\n" } else { "" });
                body.push_str("  ");
                line(body, &name, &value);
                kept.push((header, value));
            }
        }
        if !kept.is_empty() {
            self.note("header values stand here as they were: for one that is a secret write \"${NAME}\", and set NAME in the environment");
        }
    }

    fn params(&mut self, body: &mut String) {
        let (mut written, mut keys) = (String::new(), BTreeSet::new());
        let map = self.map("httpBody");
        for (selector, key) in &map {
            if let Err(reason) = checked(selector) {
                self.note(format!("{selector} for the key {key:?}: {reason}"));
            } else if !keys.insert(key.clone()) {
                self.note(format!("{selector} for the key {key:?} is left out: the key is there already"));
            } else {
                if matches!(selector.as_str(), "assistant.name" | "assistant.prompt") {
                    self.note(format!("{selector} was never sent by Rapida; here it is, where the event has it"));
                }
                written.push_str("  ");
                line(&mut written, key, selector);
            }
        }
        if written.is_empty() {
            self.note("no parameter is left of httpBody, so that the payload is event and data; Rapida would send {}");
        } else {
            let _ = write!(body, "params:\n{written}");
        }
    }

    fn number(&mut self, name: &str) -> Option<i64> {
        let value = self.json.get(name).filter(|value| !value.is_null())?;
        // Protobuf's JSON writes large integers as texts.
        let number = value.as_id().and_then(|digits| digits.parse().ok());
        if number.is_none() {
            self.wrong(name, "is no whole number");
        }
        number
    }

    fn timeout(&mut self, body: &mut String) {
        match self.number("timeoutSecond") {
            None => {}
            Some(0) => {
                self.note("timeoutSecond 0 means no timeout in Rapida; here it is an hour, which is the most");
                body.push_str("timeout: 1h\n");
            }
            Some(seconds @ 1..=3600) => {
                let _ = writeln!(body, "timeout: {seconds}s");
            }
            Some(seconds @ 3601..) => {
                self.note(format!("timeoutSecond {seconds} is longer than an hour, which is the most"));
                body.push_str("timeout: 1h\n");
            }
            Some(_) => self.wrong("timeoutSecond", "is negative; write seconds"),
        }
    }

    fn retry(&mut self, body: &mut String) {
        let count = self.number("maxRetryCount").or_else(|| self.number("retryCount"));
        let mut statuses = Vec::new();
        if let Some(list) = self.json.get("retryStatusCodes").filter(|list| !list.is_null()) {
            if list.kind() == Kind::Array {
                for (i, item) in list.items().enumerate() {
                    let written = item.as_id().map(std::borrow::Cow::into_owned).unwrap_or_default();
                    match StatusSet::parse([written.as_str()]) {
                        Ok(_) => statuses.push(written),
                        Err(_) if written == "410" => {
                            self.note("410 is never retried: it disables the webhook");
                        }
                        Err(reason) => self.wrong(&format!("retryStatusCodes/{i}"), reason),
                    }
                }
            } else {
                self.wrong("retryStatusCodes", format!("is an array such as [\"50X\"], not {}", list.kind()));
            }
        }
        let most = i64::try_from(limits::RETRY_ENTRIES).unwrap_or(i64::MAX);
        let attempts = match count {
            None => None,
            Some(count) if count < 0 => {
                self.wrong("maxRetryCount", "is negative; write how many retries follow the first attempt");
                None
            }
            Some(0) => {
                self.note("maxRetryCount 0: Rapida's own API shows 0 whatever is stored, so look whether one attempt is meant");
                Some(1)
            }
            Some(count) if count >= most => {
                self.note(format!("maxRetryCount {count} is more than sidehook makes: {most} attempts in all"));
                Some(most)
            }
            Some(count) => Some(count + 1),
        };
        if attempts.is_none() && statuses.is_empty() {
            return;
        }
        body.push_str("retry:\n");
        if let Some(attempts) = attempts {
            let _ = writeln!(body, "  schedule: {{initial: 2s, factor: 1, attempts: {attempts}}}");
        }
        if !statuses.is_empty() {
            if statuses.iter().any(|status| status.to_ascii_lowercase().contains('x')) {
                self.note("classes such as 50X are retried here; Rapida compares them letter by letter, so that they never match");
            }
            let quoted: Vec<String> = statuses.iter().map(|status| format!("\"{status}\"")).collect();
            let _ = writeln!(body, "  statuses: [{}]", quoted.join(", "));
        }
    }

    fn priority(&mut self, body: &mut String) {
        match self.number("executionPriority") {
            // -1 is what the database writes where nobody said anything.
            None | Some(0 | -1) => {}
            Some(priority @ -1_000_000..=1_000_000) => {
                let _ = writeln!(body, "priority: {priority}");
            }
            Some(_) => self.wrong("executionPriority", "is beyond a million"),
        }
    }
}

/// A selector of Rapida's, where it is one here, or why it is none.
fn checked(selector: &str) -> Result<(), String> {
    let (kind, name) = selector.split_once('.').unwrap_or((selector, ""));
    match kind {
        "custom" => Err(format!("Rapida never sends it; for a fixed value write {{value: {name}}}")),
        "event" if !matches!(name, "type" | "data") => Err("Rapida never sends it".to_owned()),
        "system" | "session" | "client" => Err("it has no counterpart; what an event has can be selected".to_owned()),
        _ => Selector::parse(selector).map(drop),
    }
}

fn is_event(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    !text.is_empty() && text.len() <= limits::NAME_BYTES && text.bytes().all(allowed)
}

/// A name for a file that no other one has.
fn unused(names: &mut BTreeSet<String>, description: Option<&str>, host: &str) -> String {
    let words = description.filter(|text| text.len() <= 40).unwrap_or(host).to_lowercase();
    let letters: String = words.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let joined = letters.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    let base: String = joined.chars().take(limits::CONFIG_NAME_BYTES - 4).collect();
    let base = if values::name(&base).is_ok() { base } else { "rapida".to_owned() };
    let numbered = (2..).map(|n| format!("{base}-{n}"));
    let name = std::iter::once(base.clone()).chain(numbered).find(|name| !names.contains(name)).unwrap_or(base);
    names.insert(name.clone());
    name
}

/// `key: value` in which nothing is read as a variable.
fn line(out: &mut String, key: &str, value: &str) {
    text(key, out);
    out.push_str(": ");
    text(&value.replace("${", "$${"), out);
    out.push('\n');
}

/// A member's name in a JSON pointer (RFC 6901).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests;
