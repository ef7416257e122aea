//! Conversation state while a request works on it: read once, changed by each of its events, and turned into the
//! changes that the commit carries. `conversations.state: memory` keeps it here instead of in the outbox.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::memory::{Kept, Memory};
use crate::clock::Timestamp;
use crate::config::model::Conversations;
use crate::event::{Change, Json, Kind, Messages, Role, State};
use crate::limits;
use crate::outbox::{Conversation, ConversationChange, ConversationKey, Heard, OpenPage, Origin, Outbox, OutboxError};

/// A conversation as one request sees and changes it.
pub(super) struct Working {
    pub state: State,
    revision: u64,
    messages: Vec<Json>,
    /// So many of the messages hold on to nothing but their own text.
    own: usize,
    /// Whether there are others before these, in memory.
    tail: bool,
    size: Size,
    ended_at: Option<Timestamp>,
    heard_at: Option<Timestamp>,
    origin: Option<Origin>,
}

/// What is known of a conversation's life, whatever was said in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Life {
    pub open: bool,
    /// When it was last heard of; `None` while nothing but updates came.
    pub heard_at: Option<Timestamp>,
    pub origin: Option<Origin>,
}

/// The way that an event came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    pub source: &'a Arc<str>,
    pub stream: Option<i64>,
    /// The first stream since the start; those below it are over.
    pub first: i64,
}

/// What a message takes in memory beyond its text.
const MESSAGE_BYTES: usize = 512;

/// What a conversation comes to, as JSON text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    messages: usize,
    message_bytes: usize,
    map_bytes: usize,
}

impl Size {
    fn bytes(self) -> usize {
        self.message_bytes.saturating_add(self.map_bytes)
    }

    /// Of these.
    pub fn of(messages: &[Json], maps: &[u8]) -> Self {
        let message_bytes = messages.iter().map(|message| message.to_bytes().len()).sum();
        Self { messages: messages.len(), message_bytes, map_bytes: maps.len() }
    }

    /// What it takes in memory, about.
    pub fn in_memory(self) -> usize {
        self.messages.saturating_mul(MESSAGE_BYTES).saturating_add(self.bytes())
    }

    #[cfg(test)]
    pub fn of_maps(map_bytes: usize) -> Self {
        Self { map_bytes, ..Self::default() }
    }

    /// Why an event may not make a conversation this large; `None` where it may. One that is too large already, since a
    /// limit was lower later, may still end.
    pub fn refused(self, before: Self, body_bytes: u64) -> Option<String> {
        let most = limits::CONVERSATION_BYTES.max(usize::try_from(body_bytes).unwrap_or(usize::MAX));
        if self.messages > limits::CONVERSATION_MESSAGES.max(before.messages) {
            return Some(format!(
                "the conversation would have {} messages; at most {} are assembled",
                self.messages,
                limits::CONVERSATION_MESSAGES
            ));
        }
        (self.bytes() > most.max(before.bytes()))
            .then(|| format!("the conversation would come to {} bytes; at most {most} are assembled", self.bytes()))
    }
}

impl Working {
    fn from_stored(stored: Option<Conversation>) -> Self {
        let Some(stored) = stored else {
            return Self {
                state: State::default(),
                revision: 0,
                messages: Vec::new(),
                own: 0,
                tail: false,
                size: Size::default(),
                ended_at: None,
                heard_at: None,
                origin: None,
            };
        };
        let message_bytes = stored.messages.iter().map(Bytes::len).sum();
        let messages: Vec<Json> = stored.messages.into_iter().flat_map(messages_of).collect();
        Self {
            state: State::from_stored(&stored.maps),
            revision: stored.revision,
            size: Size { messages: messages.len(), message_bytes, map_bytes: stored.maps.len() },
            messages,
            own: 0,
            tail: false,
            ended_at: stored.ended_at,
            heard_at: stored.heard_at,
            origin: stored.origin,
        }
    }

    fn from_memory(kept: Kept) -> Self {
        let Kept { maps, messages, tail, size, ended_at, heard_at, origin, .. } = kept;
        let (state, own) = (State::from_stored(&maps), messages.len());
        Self { state, revision: 0, messages, own, tail, size, ended_at, heard_at, origin }
    }

    fn into_memory(mut self, now: Timestamp) -> Kept {
        for message in self.messages.iter_mut().skip(self.own) {
            // A place in a request keeps all of the request, however little of it this is.
            if let Ok(own) = Json::parse(Bytes::copy_from_slice(&message.to_bytes())) {
                *message = own;
            }
        }
        let maps = self.state.to_stored();
        let Self { messages, tail, size, ended_at, heard_at, origin, .. } = self;
        Kept { maps, messages, tail, size, touched: now, ended_at, heard_at, origin }
    }

    /// What it comes to, whether its messages were read or not.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The messages up to now.
    pub fn messages(&self) -> Json {
        Json::List(Arc::new(self.messages.clone()))
    }

    /// Whether there is a state of it, or none yet.
    pub fn is_kept(&self) -> bool {
        self.revision > 0 || self.heard_at.is_some()
    }

    /// Whether it is open and known to go on.
    pub fn lives(&self) -> bool {
        self.ended_at.is_none() && self.heard_at.is_some()
    }

    /// What an event of this role says of the conversation's life. It comes from where it was begun, and then from each
    /// stream that carries it on; an update alone moves it only from a stream that is over.
    pub fn hear(&self, role: Role, way: Way<'_>) -> Heard {
        let here = Origin { source: Arc::clone(way.source), stream: way.stream };
        let stream = self.origin.as_ref().and_then(|origin| origin.stream);
        let moves = match role {
            Role::Begin | Role::Resume => true,
            Role::Update => {
                self.heard_at.is_some() && way.stream.is_some() && stream.is_some_and(|stream| stream < way.first)
            }
            Role::Message | Role::End | Role::Other => way.stream.is_some() || stream.is_none(),
        };
        let origin = Some(here).filter(|here| moves && self.origin.as_ref() != Some(here));
        Heard { lives: role != Role::Update, origin }
    }

    /// Follows a change and says what has to be stored for it; `heard` where it is an event that makes it.
    pub fn follow(&mut self, change: &Change, heard: Option<Heard>, now: Timestamp) -> ConversationChange {
        let mut stored = ConversationChange {
            expected_revision: self.revision,
            replace_messages: None,
            append_messages: Vec::new(),
            messages: 0,
            maps: change.maps_changed.then(|| self.state.to_stored()),
            ended: None,
            heard: None,
        };
        match &change.messages {
            Messages::Keep => {}
            Messages::Append(message) => {
                let text = message.to_bytes();
                self.size.messages += 1;
                self.size.message_bytes += text.len();
                stored.append_messages.push(text);
                self.messages.push(message.clone());
            }
            Messages::Replace(messages) => {
                // A snapshot is stored as the one array that it is.
                let all = if messages.is_empty() { Vec::new() } else { vec![messages.to_bytes()] };
                self.size.message_bytes = all.iter().map(Bytes::len).sum();
                stored.replace_messages = Some(all);
                self.messages = messages.items().collect();
                (self.own, self.tail) = (0, false);
                self.size.messages = self.messages.len();
            }
        }
        if let Some(maps) = &stored.maps {
            self.size.map_bytes = maps.len();
        }
        if let Some(ended) = change.ended {
            self.ended_at = ended.then_some(now);
            stored.ended = Some(self.ended_at);
        }
        if let Some(heard) = &heard {
            if heard.lives || self.heard_at.is_some() {
                self.heard_at = Some(now);
            }
            if let Some(origin) = &heard.origin {
                self.origin = Some(origin.clone());
            }
        }
        stored.heard = heard;
        stored.messages = self.size.messages as u64;
        self.revision += 1;
        stored
    }
}

/// A stored row is one message or, after a snapshot, an array of them.
fn messages_of(row: Bytes) -> Vec<Json> {
    match Json::parse(row) {
        Ok(row) if row.kind() == Kind::Array => row.items().collect(),
        Ok(row) => vec![row],
        Err(_) => Vec::new(),
    }
}

/// Where state is kept.
#[derive(Default)]
pub(super) struct States {
    memory: Memory,
    /// What durable conversations came to after a commit, with the revision it made, so that one more message need not
    /// read those before it.
    sizes: Mutex<HashMap<ConversationKey, (u64, Size)>>,
}

impl States {
    /// Reads a conversation's state; its messages only where `messages` asks for them.
    pub async fn read(
        &self,
        key: &ConversationKey,
        messages: bool,
        settings: &Conversations,
        now: Timestamp,
        outbox: &Outbox,
    ) -> Result<Working, OutboxError> {
        if settings.durable {
            let mut working = Working::from_stored(outbox.conversation(key, messages).await?);
            if !messages && working.revision > 0 {
                let known = self.sizes.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied();
                working.size = match known {
                    Some((revision, size)) if revision == working.revision => size,
                    _ => Working::from_stored(outbox.conversation(key, true).await?).size,
                };
            }
            return Ok(working);
        }
        Ok(self
            .memory
            .get(key, messages, now, settings)
            .map_or_else(|| Working::from_stored(None), Working::from_memory))
    }

    /// What is known of a conversation's life; `None` where nothing is known of it.
    pub async fn life(
        &self,
        key: &ConversationKey,
        settings: &Conversations,
        now: Timestamp,
        outbox: &Outbox,
    ) -> Result<Option<Life>, OutboxError> {
        if settings.durable {
            let stored = outbox.conversation(key, false).await?;
            let life = |c: Conversation| Life { open: c.ended_at.is_none(), heard_at: c.heard_at, origin: c.origin };
            return Ok(stored.map(life));
        }
        let life = |kept: Kept| Life { open: kept.ended_at.is_none(), heard_at: kept.heard_at, origin: kept.origin };
        Ok(self.memory.get(key, false, now, settings).map(life))
    }

    /// How many are open in memory.
    pub fn open_in_memory(&self) -> usize {
        self.memory.count_open()
    }

    /// A page of open conversations, of all or of the streams within `streams`; from memory all at once.
    pub async fn open(
        &self,
        streams: Option<Range<i64>>,
        after: Option<(i64, i64)>,
        settings: &Conversations,
        outbox: &Outbox,
    ) -> Result<OpenPage, OutboxError> {
        match streams {
            _ if !settings.durable => Ok(OpenPage { items: self.memory.open(streams.as_ref()), next: None }),
            None => outbox.open_conversations(after, limits::OPEN_PAGE).await,
            Some(streams) => outbox.open_conversations_of(streams, after, limits::OPEN_PAGE).await,
        }
    }

    /// Remembers what a durable conversation comes to after a commit.
    pub fn note(&self, key: ConversationKey, working: &Working) {
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        if working.ended_at.is_some() {
            sizes.remove(&key);
            return;
        }
        if sizes.len() >= limits::CONVERSATION_SIZES && !sizes.contains_key(&key) {
            sizes.clear();
        }
        sizes.insert(key, (working.revision, working.size));
    }

    /// Keeps the state in memory.
    pub fn keep(&self, key: ConversationKey, working: Working, now: Timestamp, settings: &Conversations) {
        self.memory.put(key, working.into_memory(now), settings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_grows_to_its_limit_and_may_still_end() {
        let size = |messages, message_bytes, map_bytes| Size { messages, message_bytes, map_bytes };
        let (most, body) = (limits::CONVERSATION_BYTES, limits::DEFAULT_BODY_BYTES);
        for (before, after, body, refused) in [
            (size(0, 0, 0), size(1, most, 0), body, None),
            (size(0, 0, 0), size(1, most - 1, 2), body, Some("come to 67108865 bytes; at most 67108864")),
            (size(1, 0, most), size(1, 0, most + 1), body, Some("bytes")),
            (size(1, most + 9, 0), size(1, most + 9, 0), body, None),
            (size(1, most + 9, 0), size(1, 0, 0), body, None),
            (size(1, most, 0), size(1, most + 1, 0), 2 * most as u64, None),
            (size(99_999, 0, 0), size(100_000, 0, 0), body, None),
            (size(100_000, 0, 0), size(100_001, 0, 0), body, Some("100001 messages; at most 100000")),
        ] {
            let told = after.refused(before, body);
            assert_eq!(told.is_some(), refused.is_some(), "{before:?} {after:?}: {told:?}");
            assert!(told.unwrap_or_default().contains(refused.unwrap_or_default()), "{before:?} {after:?}");
        }
    }

    #[test]
    fn changes_keep_count_of_what_is_stored() {
        let incoming = |text: &str| crate::event::Incoming::read(&Json::parse(text.to_owned()).unwrap()).unwrap();
        let mut working = Working::from_stored(None);
        let mut rows: Vec<Bytes> = Vec::new();
        let mut maps = Bytes::from_static(b"{}");
        for text in [
            r#"{"type":"conversation.begin","conversation":{"id":"c"},"argument":{"a":1}}"#,
            r#"{"type":"message.sent","conversation":{"id":"c"},"message":{"n":1}}"#,
            r#"{"type":"conversation.update","conversation":{"id":"c","messages":[{"n":1},{"n":2}]},"metadata":{"b":2}}"#,
            r#"{"type":"message.sent","conversation":{"id":"c"},"message":{"n":3}}"#,
        ] {
            let change = working.state.apply(&incoming(text)).expect("a change");
            let stored = working.follow(&change, None, Timestamp::from_millis(0));
            if let Some(all) = stored.replace_messages {
                rows = all;
            }
            rows.extend(stored.append_messages);
            maps = stored.maps.unwrap_or(maps);
        }
        let stored = Conversation { messages: rows, maps, revision: 4, ..Conversation::default() };
        let read = Working::from_stored(Some(stored));
        assert_eq!(working.size(), read.size());
        assert_eq!((working.size.messages, working.revision), (3, 4));
    }

    #[test]
    fn what_is_kept_in_memory_keeps_no_request() {
        let request = Bytes::from(format!(r#"[{{"n":1}},"{}"]"#, "x".repeat(1 << 16)));
        let message = Json::parse(request.clone()).unwrap().at(0).unwrap();
        let mut working = Working::from_stored(None);
        let change = Change { messages: Messages::Append(message), maps_changed: false, ended: None };
        working.follow(&change, None, Timestamp::from_millis(0));
        drop(change);
        let kept = working.into_memory(Timestamp::from_millis(0));
        assert_eq!(kept.messages[0].to_bytes(), r#"{"n":1}"#);
        assert!(request.is_unique(), "nothing else holds it");
        assert_eq!(Working::from_memory(kept).own, 1);
    }

    #[test]
    fn snapshots_and_single_messages_read_back_in_order() {
        let rows = [&br#"[{"n":1},{"n":2}]"#[..], br#"{"n":3}"#];
        let stored = Conversation {
            messages: rows.map(Bytes::from_static).to_vec(),
            maps: Bytes::from_static(b"{}"),
            revision: 4,
            ..Conversation::default()
        };
        let working = Working::from_stored(Some(stored));
        assert_eq!(working.messages().to_bytes(), r#"[{"n":1},{"n":2},{"n":3}]"#);
        assert_eq!(working.revision, 4);
    }
}
