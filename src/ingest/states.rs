//! Conversation state while a request works on it: read once, changed by each of its events, and turned into the
//! changes that the commit carries. `conversations.state: memory` keeps it here instead of in the outbox.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::config::model::Conversations;
use crate::event::{Change, Json, Kind, Messages, State};
use crate::limits;
use crate::outbox::{Conversation, ConversationChange, ConversationKey, Outbox, OutboxError};

/// A conversation as one request sees and changes it.
pub(super) struct Working {
    pub state: State,
    revision: u64,
    messages: Vec<Json>,
    ended_at: Option<Timestamp>,
}

impl Working {
    fn from_stored(stored: Option<Conversation>) -> Self {
        let Some(stored) = stored else {
            return Self { state: State::default(), revision: 0, messages: Vec::new(), ended_at: None };
        };
        Self {
            state: State::from_stored(&stored.maps),
            revision: stored.revision,
            messages: stored.messages.into_iter().flat_map(messages_of).collect(),
            ended_at: stored.ended_at,
        }
    }

    /// The messages up to now.
    pub fn messages(&self) -> Json {
        Json::List(std::sync::Arc::new(self.messages.clone()))
    }

    /// Follows a change and says what has to be stored for it.
    pub fn follow(&mut self, change: &Change, now: Timestamp) -> ConversationChange {
        let mut stored = ConversationChange {
            expected_revision: self.revision,
            replace_messages: None,
            append_messages: Vec::new(),
            maps: change.maps_changed.then(|| self.state.to_stored()),
            ended: None,
        };
        match &change.messages {
            Messages::Keep => {}
            Messages::Append(message) => {
                stored.append_messages.push(message.to_bytes());
                self.messages.push(message.clone());
            }
            Messages::Replace(messages) => {
                // A snapshot is stored as the one array that it is.
                stored.replace_messages =
                    Some(if messages.is_empty() { Vec::new() } else { vec![messages.to_bytes()] });
                self.messages = messages.items().collect();
            }
        }
        if let Some(ended) = change.ended {
            self.ended_at = ended.then_some(now);
            stored.ended = Some(self.ended_at);
        }
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
    memory: Mutex<HashMap<ConversationKey, Kept>>,
}

struct Kept {
    maps: Bytes,
    messages: Vec<Json>,
    touched: Timestamp,
    ended_at: Option<Timestamp>,
}

impl States {
    /// Reads a conversation's state, messages included where `messages` asks for them.
    pub async fn read(
        &self,
        key: &ConversationKey,
        durable: bool,
        messages: bool,
        outbox: &Outbox,
    ) -> Result<Working, OutboxError> {
        if durable {
            return Ok(Working::from_stored(outbox.conversation(key, messages).await?));
        }
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match memory.get(key) {
            None => Working::from_stored(None),
            Some(kept) => Working {
                state: State::from_stored(&kept.maps),
                revision: 0,
                messages: kept.messages.clone(),
                ended_at: kept.ended_at,
            },
        })
    }

    /// Keeps the state in memory. Past [`limits::MEMORY_CONVERSATIONS`] those that were silent longest are given up.
    pub fn keep(&self, key: ConversationKey, working: Working, now: Timestamp, settings: &Conversations) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = Kept {
            maps: working.state.to_stored(),
            messages: working.messages,
            touched: now,
            ended_at: working.ended_at,
        };
        memory.insert(key, kept);
        if memory.len() <= limits::MEMORY_CONVERSATIONS {
            return;
        }
        let expired = |kept: &Kept| match kept.ended_at {
            Some(ended) => now.since(ended) > settings.retain,
            None => now.since(kept.touched) > settings.max_open_age,
        };
        memory.retain(|_, kept| !expired(kept));
        if memory.len() > limits::MEMORY_CONVERSATIONS {
            let mut ages: Vec<Timestamp> = memory.values().map(|kept| kept.touched).collect();
            let spare = memory.len() / 8;
            let (_, cut, _) = ages.select_nth_unstable(spare);
            let cut = *cut;
            memory.retain(|_, kept| kept.touched > cut || kept.touched == now);
            tracing::warn!(
                kept = memory.len(),
                "conversation state in memory is full; the quietest conversations lost theirs"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn memory_is_bounded() {
        let states = States::default();
        let settings =
            Conversations { durable: false, retain: Duration::from_secs(1), max_open_age: Duration::from_secs(3600) };
        for i in 0..limits::MEMORY_CONVERSATIONS + 10 {
            let key = ConversationKey { namespace: "".into(), id: i.to_string().into() };
            let now = Timestamp::from_millis(i64::try_from(i).unwrap());
            states.keep(key, Working::from_stored(None), now, &settings);
        }
        assert!(states.memory.lock().unwrap().len() <= limits::MEMORY_CONVERSATIONS);
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
