//! Events: bytes in, validated and lazily readable facts about conversations out. Knows nothing of configuration,
//! rules or the store.

pub mod conversation;
pub mod incoming;
pub mod json;
pub mod own;
pub mod trace;

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Timestamp;
pub use conversation::{Change, Messages, Stamp, State};
pub use incoming::{Identity, Incoming, ItemError, Role};
pub use json::{Json, JsonError, Kind, compact, element_at};

/// The members of an envelope that are always maps to a reader, empty when absent.
pub const MAPS: [&str; 6] = ["assistant", "conversation", "argument", "metadata", "option", "analysis"];

/// One lifecycle fact about one conversation, in the canonical shape, complete: what the conversation's state had to
/// add has been added. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Event {
    /// Namespace of the source; empty by default.
    pub namespace: Arc<str>,
    /// Idempotency key within the namespace.
    pub id: Arc<str>,
    /// Dotted type, `conversation.completed` for example.
    pub kind: Arc<str>,
    /// RFC 3339, as the sender wrote it, else the arrival.
    pub time: Arc<str>,
    /// When sidehook received it.
    pub arrived: Timestamp,
    /// `conversation.id`, as text.
    pub conversation: Option<Arc<str>>,
    /// W3C trace context of the request that brought it.
    pub traceparent: Option<Arc<str>>,
    /// The envelope: `id`, `type`, `time`, the six maps of [`MAPS`] (`conversation` holds `id`, where there is one, and
    /// always `messages`), `reason` where there is one, and every unknown field the sender sent.
    pub root: Json,
}

impl Event {
    /// One of [`MAPS`]; an empty map when it is absent.
    #[must_use]
    pub fn map(&self, name: &str) -> Json {
        self.root.get(name).filter(|v| v.kind() == Kind::Object).unwrap_or_else(Json::empty_map)
    }

    /// `conversation.messages`; an empty array when absent.
    #[must_use]
    pub fn messages(&self) -> Json {
        let found = self.map("conversation").get("messages");
        found.filter(|v| v.kind() == Kind::Array).unwrap_or_else(Json::empty_list)
    }

    /// The envelope as JSON text.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.root.to_bytes()
    }
}
