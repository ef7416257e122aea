//! Params: which parts of an event make the payload. Selectors are checked when the configuration is read and only
//! walk the event afterwards; the parts they pick are spliced, never rebuilt. Runs no script.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::{Event, Json, MAPS};
use crate::limits;

/// What a missing entry becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// Left out.
    #[default]
    Omit,
    /// Sent as null.
    Null,
    /// A rule failure.
    Error,
}

/// One entry of `params`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// A checked selector such as `analysis.sentiment`; made by [`Selector::parse`].
    Path(String),
    /// `{value: …}`, as JSON text.
    Literal(Bytes),
}

impl Selector {
    /// Checks a selector; the error says what would be right ("did you mean").
    pub fn parse(text: &str) -> Result<Self, String> {
        Pick::parse(text)?;
        Ok(Self::Path(text.to_owned()))
    }
}

/// A compiled `params` map.
#[derive(Debug, Clone)]
pub struct Params {
    entries: Vec<(Arc<str>, Pick)>,
    missing: Missing,
}

impl Params {
    /// From payload keys and selectors, in the order they stand in the file.
    #[must_use]
    pub fn new(entries: Vec<(String, Selector)>, missing: Missing) -> Self {
        let entries = entries.into_iter().map(|(key, selector)| (Arc::from(key), Pick::compile(selector))).collect();
        Self { entries, missing }
    }

    /// Payload keys with their selectors as they are written in a file.
    #[must_use]
    pub fn written(&self) -> serde_json::Map<String, serde_json::Value> {
        let written = |pick: &Pick| match pick {
            Pick::Literal(json) => {
                let value = serde_json::from_slice::<serde_json::Value>(&json.to_bytes()).unwrap_or_default();
                serde_json::json!({"value": value})
            }
            Pick::Field(path) if **path == *"data" => "event.raw.data".into(),
            pick => pick.to_string().into(),
        };
        self.entries.iter().map(|(key, pick)| (key.to_string(), written(pick))).collect()
    }

    /// The payload as it stands; what is missing is left out whatever [`Missing`] says.
    #[must_use]
    pub fn payload(&self, event: &Event) -> Bytes {
        let members = self.entries.iter().filter_map(|(key, pick)| Some((Arc::clone(key), pick.value(event)?)));
        Json::map(members.collect()).to_bytes()
    }

    /// The payload's members in their order. The error is the key and selector that found nothing, for
    /// [`Missing::Error`].
    pub(super) fn pick(&self, event: &Event) -> Result<Vec<(Arc<str>, Json)>, String> {
        let mut members = Vec::with_capacity(self.entries.len());
        for (key, pick) in &self.entries {
            match (pick.value(event), self.missing) {
                (Some(value), _) => members.push((Arc::clone(key), value)),
                (None, Missing::Omit) => {}
                (None, Missing::Null) => members.push((Arc::clone(key), Json::Null)),
                (None, Missing::Error) => {
                    return Err(format!("the event has no `{pick}` for the key `{key}` (missing: error)"));
                }
            }
        }
        Ok(members)
    }
}

impl Default for Params {
    /// `{"event": event.type, "data": event.data}`
    fn default() -> Self {
        Self {
            entries: vec![(Arc::from("event"), Pick::Type), (Arc::from("data"), Pick::Data)],
            missing: Missing::Omit,
        }
    }
}

/// A compiled selector.
#[derive(Debug, Clone)]
enum Pick {
    Type,
    Id,
    Time,
    Data,
    ConversationId,
    Messages,
    /// `event.FIELD`: an unknown member of the envelope.
    Field(Arc<str>),
    /// `assistant.NAME`
    Assistant(&'static str),
    /// `MAP.*`
    Whole(&'static str),
    /// `MAP.KEY`
    Entry(&'static str, Arc<str>),
    Literal(Json),
}

/// The maps whose entries can be picked by key.
const KEYED: [&str; 4] = ["argument", "metadata", "option", "analysis"];
const ROOTS: [&str; 7] = ["event", "assistant", "conversation", "argument", "metadata", "option", "analysis"];
const ASSISTANT: [&str; 4] = ["id", "name", "prompt", "version"];
const CONVERSATION: [&str; 2] = ["id", "messages"];
const EVENT: [&str; 5] = ["type", "id", "time", "reason", "data"];

impl Pick {
    fn compile(selector: Selector) -> Self {
        match selector {
            // A path that was not made by `Selector::parse` picks nothing rather than something else.
            Selector::Path(text) => Self::parse(&text).unwrap_or_else(|_| Self::Field(Arc::from(text))),
            Selector::Literal(bytes) => Self::Literal(Json::parse(bytes).unwrap_or(Json::Null)),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.len() > limits::SELECTOR_BYTES {
            return Err(format!("a selector is at most {} bytes long", limits::SELECTOR_BYTES));
        }
        if text.trim() != text || text.is_empty() {
            return Err(format!("`{text}` is not a selector: it is empty or begins or ends with a blank"));
        }
        let Some((root, rest)) = text.split_once('.') else {
            return Err(not_a_selector(text));
        };
        if rest.is_empty() {
            return Err(format!("`{text}` ends with a dot: name what to pick, for example `{root}.{}`", sample(root)));
        }
        match root {
            "event" => Self::event(text, rest),
            "assistant" => match ASSISTANT.iter().find(|name| **name == rest) {
                Some(name) => Ok(Self::Assistant(name)),
                None => Err(unknown(text, "assistant", rest, &ASSISTANT)),
            },
            "conversation" => match rest {
                "id" => Ok(Self::ConversationId),
                "messages" => Ok(Self::Messages),
                _ => Err(unknown(text, "conversation", rest, &CONVERSATION)),
            },
            _ => match KEYED.iter().find(|name| **name == root) {
                Some(name) if rest == "*" => Ok(Self::Whole(name)),
                Some(name) => Ok(Self::Entry(name, Arc::from(rest))),
                None => Err(not_a_selector(text)),
            },
        }
    }

    fn event(text: &str, rest: &str) -> Result<Self, String> {
        match rest {
            "type" => Ok(Self::Type),
            "id" => Ok(Self::Id),
            "time" => Ok(Self::Time),
            "data" => Ok(Self::Data),
            "raw.data" => Ok(Self::Field(Arc::from("data"))),
            "*" => Err(format!("`{text}` is not a selector: for the usual parts of the event write `event.data`")),
            _ => {
                let (first, inner) = rest.split_once('.').unwrap_or((rest, "*"));
                if first == "data" {
                    return Err(format!(
                        "`{text}` reaches into `event.data`, which is put together for the payload: pick the part \
                         itself (for example `analysis.NAME` or `conversation.messages`), or `event.raw.data` for a \
                         field of the event that is called data"
                    ));
                }
                if MAPS.contains(&first) {
                    let right = match first {
                        "assistant" | "conversation" if inner == "*" => format!("{first}.{}", sample(first)),
                        _ => format!("{first}.{inner}"),
                    };
                    return Err(format!("`{text}` is not a selector: leave out `event.`: did you mean `{right}`?"));
                }
                // A near miss of a known name is far likelier a slip than a field of that name.
                if let Some(near) = EVENT.iter().find(|known| first.len() > 2 && is_slip(first, known)) {
                    return Err(format!("`{text}`: did you mean `event.{near}`?"));
                }
                Ok(Self::Field(Arc::from(rest)))
            }
        }
    }

    fn value(&self, event: &Event) -> Option<Json> {
        match self {
            Self::Type => Some(Json::Text(Arc::clone(&event.kind))),
            Self::Id => Some(Json::Text(Arc::clone(&event.id))),
            Self::Time => Some(Json::Text(Arc::clone(&event.time))),
            Self::Data => Some(data(event)),
            Self::ConversationId => event.conversation.clone().map(Json::Text),
            Self::Messages => Some(event.messages()),
            Self::Field(path) => lookup(&event.root, path),
            Self::Assistant("id") => id_of(&event.map("assistant")),
            Self::Assistant(name) => event.map("assistant").get(name),
            Self::Whole(map) => Some(event.map(map)),
            Self::Entry(map, key) => lookup(&event.map(map), key),
            Self::Literal(json) => Some(json.clone()),
        }
    }
}

impl std::fmt::Display for Pick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Type => f.write_str("event.type"),
            Self::Id => f.write_str("event.id"),
            Self::Time => f.write_str("event.time"),
            Self::Data => f.write_str("event.data"),
            Self::ConversationId => f.write_str("conversation.id"),
            Self::Messages => f.write_str("conversation.messages"),
            Self::Field(path) => write!(f, "event.{path}"),
            Self::Assistant(name) => write!(f, "assistant.{name}"),
            Self::Whole(map) => write!(f, "{map}.*"),
            Self::Entry(map, key) => write!(f, "{map}.{key}"),
            Self::Literal(_) => f.write_str("value"),
        }
    }
}

/// `event.data`: the parts of an event that most receivers want.
fn data(event: &Event) -> Json {
    let from = event.map("assistant");
    let mut assistant: Vec<(Arc<str>, Json)> = Vec::with_capacity(2);
    if let Some(id) = id_of(&from) {
        assistant.push((Arc::from("id"), id));
    }
    if let Some(version) = from.get("version").filter(|v| !v.is_null()) {
        assistant.push((Arc::from("version"), version));
    }
    let mut conversation: Vec<(Arc<str>, Json)> = Vec::with_capacity(2);
    if let Some(id) = &event.conversation {
        conversation.push((Arc::from("id"), Json::Text(Arc::clone(id))));
    }
    conversation.push((Arc::from("messages"), event.messages()));
    Json::map(vec![
        (Arc::from("assistant"), Json::map(assistant)),
        (Arc::from("conversation"), Json::map(conversation)),
        (Arc::from("analysis"), event.map("analysis")),
    ])
}

/// Ids leave as strings, whatever they came as.
fn id_of(map: &Json) -> Option<Json> {
    let id = map.get("id")?;
    match id.as_number() {
        Some(digits) => Some(Json::text(&digits)),
        None => Some(id).filter(|id| !id.is_null()),
    }
}

/// The entry with exactly this key; when there is none, dots walk inward.
fn lookup(map: &Json, key: &str) -> Option<Json> {
    if let Some(found) = map.get(key) {
        return Some(found);
    }
    key.match_indices('.').find_map(|(dot, _)| lookup(&map.get(&key[..dot])?, &key[dot + 1..]))
}

fn sample(root: &str) -> &'static str {
    match root {
        "event" => "type",
        "assistant" | "conversation" => "id",
        _ => "NAME",
    }
}

/// One or two letters apart, or one the beginning of the other.
fn is_slip(written: &str, known: &str) -> bool {
    written != known
        && (strsim::damerau_levenshtein(&written.to_lowercase(), known) <= 1 && known.len() > 2
            || written.eq_ignore_ascii_case(known))
}

fn unknown(text: &str, root: &str, rest: &str, known: &[&str]) -> String {
    let first = rest.split('.').next().unwrap_or(rest);
    let mut message = format!("`{text}` is not a selector: {root} has ");
    for (i, name) in known.iter().enumerate() {
        let join = if i == 0 { "" } else { ", " };
        let _ = write!(message, "{join}`{root}.{name}`");
    }
    if let Some(near) = nearest(first, known) {
        let _ = write!(message, "; did you mean `{root}.{near}`?");
    }
    message
}

fn not_a_selector(text: &str) -> String {
    let root = text.split('.').next().unwrap_or(text);
    if ROOTS.contains(&root) {
        let hint = match root {
            "event" => "`event.type`, `event.data`".to_owned(),
            "assistant" | "conversation" => format!("`{root}.id`"),
            _ => format!("`{root}.*` for the whole map or `{root}.NAME` for one entry"),
        };
        return format!("`{text}` is not a selector: name what to pick, for example {hint}");
    }
    if let Some(near) = nearest(root, &ROOTS) {
        let rest = text.get(root.len()..).unwrap_or_default();
        return format!("`{text}` is not a selector: did you mean `{near}{rest}`?");
    }
    format!(
        "`{text}` is not a selector: it begins with one of event, assistant, conversation, argument, metadata, option, \
         analysis; a fixed value is written {{value: {text}}}"
    )
}

fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&word, name), *name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
