//! One item of a request, recognised and checked: the canonical envelope, the webhook body of a Rapida assistant, or a
//! CloudEvent. What comes out is in the canonical shape whatever came in. Adds nothing from a conversation's state.

use std::borrow::Cow;
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;

use super::{Json, Kind, MAPS, json, own, trace};
use crate::clock::Timestamp;
use crate::limits;

/// Why an item is not an event: which member, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemError {
    /// JSON pointer into the item.
    pub pointer: String,
    /// What is wrong.
    pub reason: String,
}

impl ItemError {
    fn new(pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), reason: reason.into() }
    }
}

/// Members that belong to the envelope itself wherever an item's other members stand.
const RESERVED: [&str; 3] = ["id", "type", "time"];

/// What identifies an event to its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Nothing does; every copy is an event of its own.
    None,
    /// The envelope's `id`.
    Id,
    /// A CloudEvent's `source` and `id`.
    Source(Arc<str>),
    /// A Rapida body has no id; its bytes are all there is, for a short while.
    Content([u8; 32]),
}

/// A checked item.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// `id`, where the sender gave one.
    pub id: Option<Arc<str>>,
    /// What a copy of it is recognised by.
    pub identity: Identity,
    /// `type`
    pub kind: Arc<str>,
    /// `time`, RFC 3339, where the sender gave one.
    pub time: Option<Arc<str>>,
    /// `conversation.id`
    pub conversation: Option<Arc<str>>,
    /// The maps of [`MAPS`] that were present, in that order; `conversation` without `messages`.
    pub maps: [Option<Json>; 6],
    /// `conversation.messages`, where present.
    pub messages: Option<Json>,
    /// `message` of a `message.*` event.
    pub message: Option<Json>,
    /// W3C trace context that the item itself carries, where it is one.
    pub traceparent: Option<Arc<str>>,
    /// Every other top-level member, `message` and `reason` included.
    pub extra: Vec<json::Member>,
}

/// What an event's type means for its conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `conversation.begin`
    Begin,
    /// `conversation.resume`
    Resume,
    /// `conversation.completed`, `conversation.failed`
    End,
    /// `message.received`, `message.sent`
    Message,
    /// `conversation.update`
    Update,
    /// Anything else.
    Other,
}

impl Role {
    /// From the event's type.
    #[must_use]
    pub fn of(kind: &str) -> Self {
        match kind {
            "conversation.begin" => Self::Begin,
            "conversation.resume" => Self::Resume,
            "conversation.completed" | "conversation.failed" => Self::End,
            "message.received" | "message.sent" => Self::Message,
            "conversation.update" => Self::Update,
            _ => Self::Other,
        }
    }

    /// Whether the event sees its conversation's state.
    #[must_use]
    pub fn is_lifecycle(self) -> bool {
        matches!(self, Self::Begin | Self::Resume | Self::End)
    }
}

impl Incoming {
    /// Recognises and checks one item.
    pub fn read(item: &Json) -> Result<Self, Vec<ItemError>> {
        if item.kind() != Kind::Object {
            return Err(vec![ItemError::new("", format!("must be an object, not {}", item.kind()))]);
        }
        if item.get("specversion").is_some() && item.get("type").is_some() {
            return read_cloud_event(item);
        }
        if is_rapida(item) {
            return Reader::default().rapida(item, "");
        }
        Reader::default().canonical(item)
    }

    /// A CloudEvent in binary mode: attributes from `ce-` headers (names without the prefix), data from the body.
    pub fn read_binary(attributes: &[(String, String)], data: Option<&Json>) -> Result<Self, Vec<ItemError>> {
        let members = attributes.iter().map(|(k, v)| (Arc::from(k.as_str()), Json::text(v)));
        let data = data.map(|d| (Arc::from("data"), d.clone()));
        read_cloud_event(&Json::map(members.chain(data).collect()))
    }

    /// What the type means for the conversation.
    #[must_use]
    pub fn role(&self) -> Role {
        Role::of(&self.kind)
    }

    /// What a copy of this event has the same of: namespace and id (of a `CloudEvent` its source too), or its bytes where it
    /// has no id. At most [`limits::DEDUPE_KEY_BYTES`]. Ids stay readable in it, in their order: most grow with time, and
    /// keys that are neighbours share a page of the store, where hashes would each touch another one.
    #[must_use]
    pub fn dedupe_key(&self, namespace: &str) -> Option<Vec<u8>> {
        let (tag, source, id): (u8, &[u8], &[u8]) = match &self.identity {
            Identity::None => return None,
            Identity::Id => (1, &[], self.id.as_deref()?.as_bytes()),
            Identity::Source(source) => (2, source.as_bytes(), self.id.as_deref()?.as_bytes()),
            Identity::Content(content) => (3, &[], content),
        };
        let mut key = Vec::with_capacity(namespace.len() + source.len() + id.len() + 9);
        key.push(tag);
        for part in [namespace.as_bytes(), source] {
            key.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            key.extend_from_slice(part);
        }
        key.extend_from_slice(id);
        if key.len() > limits::DEDUPE_KEY_BYTES {
            let hash = digest::digest(&digest::SHA256, &key);
            key.truncate(limits::DEDUPE_KEY_BYTES - hash.as_ref().len());
            key.extend_from_slice(hash.as_ref());
            key[0] |= 0x80;
        }
        Some(key)
    }

    /// Hash of what must agree between copies: type and conversation.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 16] {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(self.kind.as_bytes());
        hash.update(&[0]);
        hash.update(self.conversation.as_deref().unwrap_or_default().as_bytes());
        first_half(hash.finish().as_ref())
    }
}

fn first_half(hash: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    half
}

fn is_rapida(item: &Json) -> bool {
    item.get("type").is_none()
        && item.get("event").is_some_and(|v| v.kind() == Kind::String)
        && item.get("data").is_some_and(|v| v.kind() == Kind::Object)
}

/// Attributes of a CloudEvent that do not stay in the event under their own names.
const ATTRIBUTES: [&str; 8] =
    ["specversion", "id", "type", "time", "data", "data_base64", "datacontenttype", "dataschema"];

/// CloudEvents 1.0, structured mode: attributes beside `data`.
fn read_cloud_event(item: &Json) -> Result<Incoming, Vec<ItemError>> {
    let mut reader = Reader::default();
    let version = item.get("specversion").and_then(|v| v.as_str().map(Cow::into_owned)).unwrap_or_default();
    if !version.starts_with("1.") {
        reader.wrong("/specversion", "must be \"1.0\"");
    }
    let source = reader.required_text(item, "source", "/source");
    let id = reader.required_text(item, "id", "/id");
    let kind = reader.event_type(item.get("type").as_ref(), "/type");
    let time = reader.time(item.get("time").as_ref(), "/time");
    let subject = item.get("subject").and_then(|v| v.as_str().map(|s| Arc::<str>::from(&*s)));
    let data = match (item.get("data"), item.get("data_base64")) {
        (Some(data), _) => Some((data, "/data")),
        (None, Some(encoded)) => reader.base64_data(&encoded).map(|d| (d, "/data_base64")),
        (None, None) => None,
    };
    let mut incoming = match data {
        Some((data, at)) if data.kind() == Kind::Object => {
            if is_rapida(&data) {
                reader.sections(&data.get("data").unwrap_or_else(Json::empty_map), &format!("{at}/data"), &["event"])
            } else {
                reader.sections(&data, at, &[])
            }
        }
        Some((data, _)) if data.is_null() => reader.sections(&Json::empty_map(), "/data", &[]),
        Some((data, at)) => {
            reader.wrong(at, format!("must be an object, not {}", data.kind()));
            reader.sections(&Json::empty_map(), at, &[])
        }
        None => reader.sections(&Json::empty_map(), "/data", &[]),
    };
    let parent = item.get("traceparent");
    incoming.traceparent =
        parent.and_then(|value| value.as_str().filter(|v| trace::parse(v).is_some()).map(|v| Arc::from(&*v)));
    json::add_missing(&mut incoming.extra, item.members().filter(|(key, _)| !ATTRIBUTES.contains(&&**key)));
    incoming.kind = kind;
    incoming.id = Some(id);
    incoming.time = time;
    incoming.identity = Identity::Source(source);
    if incoming.conversation.is_none() {
        incoming.conversation = subject.filter(|s| !s.is_empty());
    }
    reader.finish(incoming, "/subject")
}

/// Collects everything that is wrong with one item.
#[derive(Default)]
struct Reader {
    errors: Vec<ItemError>,
}

impl Reader {
    /// Records a mistake; beyond what a sender is told they are only more of the same.
    fn wrong(&mut self, pointer: impl Into<String>, reason: impl Into<String>) {
        if self.errors.len() < limits::PROBLEM_ERRORS {
            self.errors.push(ItemError::new(pointer, reason));
        }
    }

    fn canonical(mut self, item: &Json) -> Result<Incoming, Vec<ItemError>> {
        let kind = self.event_type(item.get("type").as_ref(), "/type");
        let id = self.id(item.get("id").as_ref(), "/id");
        let time = self.time(item.get("time").as_ref(), "/time");
        let mut incoming = self.sections(item, "", &[]);
        incoming.identity = if id.is_some() { Identity::Id } else { Identity::None };
        (incoming.kind, incoming.id, incoming.time) = (kind, id, time);
        self.finish(incoming, "/conversation/id")
    }

    /// `{"event": …, "data": {…}, …}`; in the newest generation `assistant` and `conversation` stand beside `data`.
    fn rapida(mut self, item: &Json, at: &str) -> Result<Incoming, Vec<ItemError>> {
        let kind = self.event_type(item.get("event").as_ref(), &format!("{at}/event"));
        let data = item.get("data").unwrap_or_else(Json::empty_map);
        let mut incoming = self.sections(&data, &format!("{at}/data"), &[]);
        let beside = self.sections(item, at, &["event", "data"]);
        for (mine, other) in incoming.maps.iter_mut().zip(beside.maps) {
            *mine = mine.take().or(other);
        }
        incoming.conversation = incoming.conversation.or(beside.conversation);
        if incoming.messages.is_none() {
            let at = incoming.extra.iter().position(|(k, v)| &**k == "messages" && v.kind() == Kind::Array);
            incoming.messages = beside.messages.or_else(|| at.map(|at| incoming.extra.remove(at).1));
        }
        json::add_missing(&mut incoming.extra, beside.extra);
        let mut content = [0; 32];
        content.copy_from_slice(digest::digest(&digest::SHA256, &item.to_bytes()).as_ref());
        incoming.kind = kind;
        incoming.identity = Identity::Content(content);
        self.finish(incoming, &format!("{at}/data/conversation/id"))
    }

    /// The maps, the messages and whatever else stands in `object`, less what is [`RESERVED`] and the members in `skip`.
    fn sections(&mut self, object: &Json, at: &str, skip: &[&str]) -> Incoming {
        let mut incoming = Incoming {
            id: None,
            identity: Identity::None,
            kind: Arc::from(""),
            time: None,
            conversation: None,
            maps: Default::default(),
            messages: None,
            message: None,
            traceparent: None,
            extra: Vec::new(),
        };
        for (key, value) in object.members() {
            if let Some(slot) = MAPS.iter().position(|name| *name == &*key) {
                if value.kind() == Kind::Object {
                    incoming.maps[slot] = Some(value);
                } else if value.is_null() {
                    incoming.maps[slot] = None;
                } else {
                    self.wrong(format!("{at}/{key}"), format!("must be an object, not {}", value.kind()));
                }
            } else if !RESERVED.contains(&&*key) && !skip.contains(&&*key) {
                if &*key == "message" {
                    incoming.message = Some(value.clone());
                }
                incoming.extra.push((key, value));
            }
        }
        json::keep_last(&mut incoming.extra);
        if let Some(assistant) = incoming.maps[0].take() {
            let id = self.id(assistant.get("id").as_ref(), &format!("{at}/assistant/id"));
            incoming.maps[0] = Some(with_text_id(assistant, id.as_ref()));
        }
        if let Some(conversation) = incoming.maps[1].take() {
            let id = self.id(conversation.get("id").as_ref(), &format!("{at}/conversation/id"));
            incoming.messages = self.messages(conversation.get("messages"), &format!("{at}/conversation/messages"));
            let others = conversation.members().filter(|(k, _)| !matches!(&**k, "id" | "messages")).collect();
            incoming.maps[1] = Some(Json::map(others));
            incoming.conversation = id;
        }
        incoming
    }

    fn messages(&mut self, messages: Option<Json>, at: &str) -> Option<Json> {
        let messages = messages.filter(|m| !m.is_null())?;
        if messages.kind() != Kind::Array {
            self.wrong(at, format!("must be an array, not {}", messages.kind()));
            return None;
        }
        if let Some((i, bad)) = messages.items().enumerate().find(|(_, m)| m.kind() != Kind::Object) {
            self.wrong(format!("{at}/{i}"), format!("must be an object, not {}", bad.kind()));
            return None;
        }
        Some(messages)
    }

    fn event_type(&mut self, value: Option<&Json>, at: &str) -> Arc<str> {
        let Some(value) = value else {
            self.wrong(at, "required");
            return Arc::from("");
        };
        let Some(text) = value.as_str() else {
            self.wrong(at, format!("must be a string, not {}", value.kind()));
            return Arc::from("");
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if text.is_empty() {
            self.wrong(at, "must not be empty");
        } else if text.len() > limits::NAME_BYTES {
            self.wrong(at, format!("must not be longer than {} bytes", limits::NAME_BYTES));
        } else if !text.bytes().all(allowed) {
            self.wrong(at, "may hold only letters, digits, '_', '-' and '.'");
        } else if own::is_own(&text) {
            self.wrong(at, "types that begin with \"sidehook.\" are sidehook's own");
        }
        Arc::from(&*text)
    }

    fn id(&mut self, value: Option<&Json>, at: &str) -> Option<Arc<str>> {
        let value = value.filter(|v| !v.is_null())?;
        let Some(id) = value.as_id() else {
            self.wrong(at, format!("must be a string or a number, not {}", value.kind()));
            return None;
        };
        if id.is_empty() {
            self.wrong(at, "must not be empty");
        } else if id.len() > limits::NAME_BYTES {
            self.wrong(at, format!("must not be longer than {} bytes", limits::NAME_BYTES));
        } else if id.chars().any(char::is_control) {
            self.wrong(at, "must not hold control characters");
        }
        Some(Arc::from(&*id))
    }

    fn required_text(&mut self, item: &Json, key: &str, at: &str) -> Arc<str> {
        if let Some(text) = self.id(item.get(key).as_ref(), at) {
            return text;
        }
        if !self.errors.iter().any(|e| e.pointer == at) {
            self.wrong(at, "required");
        }
        Arc::from("")
    }

    fn time(&mut self, value: Option<&Json>, at: &str) -> Option<Arc<str>> {
        let value = value.filter(|v| !v.is_null())?;
        let text = value.as_str().map(|t| Arc::<str>::from(&*t));
        if text.as_ref().is_none_or(|t| t.len() > limits::NAME_BYTES || Timestamp::parse_rfc3339(t).is_none()) {
            self.wrong(at, "must be an RFC 3339 time such as \"2026-01-03T11:38:10Z\"");
        }
        text
    }

    fn base64_data(&mut self, encoded: &Json) -> Option<Json> {
        use base64::Engine as _;
        let text = encoded.as_str().unwrap_or_default();
        let decoded = base64::engine::general_purpose::STANDARD.decode(text.as_bytes()).ok().map(Bytes::from);
        let read = decoded.and_then(|bytes| Json::parse(bytes).ok());
        if read.is_none() {
            self.wrong("/data_base64", "must be base64 of a JSON object");
        }
        read
    }

    fn finish(mut self, incoming: Incoming, conversation_at: &str) -> Result<Incoming, Vec<ItemError>> {
        let needs = incoming.kind.starts_with("conversation.") || incoming.kind.starts_with("message.");
        let already = self.errors.iter().any(|e| e.pointer.ends_with("/conversation/id"));
        if needs && incoming.conversation.is_none() && !already {
            self.wrong(conversation_at, "required");
        }
        if incoming.role() == Role::Message {
            match &incoming.message {
                None => self.wrong("/message", "required"),
                Some(message) if message.kind() != Kind::Object => {
                    self.wrong("/message", format!("must be an object, not {}", message.kind()));
                }
                Some(_) => {}
            }
        }
        if self.errors.is_empty() { Ok(incoming) } else { Err(self.errors) }
    }
}

/// The map with its `id` as text; the map itself, bytes untouched, when it is one already.
fn with_text_id(map: Json, id: Option<&Arc<str>>) -> Json {
    match (map.get("id").map(|v| v.kind()), id) {
        (Some(Kind::Number), Some(id)) => Json::map(
            map.members().map(|(k, v)| if &*k == "id" { (k, Json::Text(Arc::clone(id))) } else { (k, v) }).collect(),
        ),
        _ => map,
    }
}

#[cfg(test)]
mod tests;
