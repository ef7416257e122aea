//! Conversation state under `conversations.state: memory`: bounded in number and bytes, and given up by age as the outbox
//! does. Knows nothing of how events change it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::states::Size;
use crate::clock::Timestamp;
use crate::config::model::Conversations;
use crate::event::Json;
use crate::limits;
use crate::outbox::{ConversationKey, OpenConversation, Origin};
use crate::telemetry::ingest::ConversationsForgotten;

/// One conversation.
pub(super) struct Kept {
    pub maps: Bytes,
    /// Each holds on to its own text only, not to the request it came in.
    pub messages: Vec<Json>,
    /// Whether these are only the ones that come behind those that are kept already.
    pub tail: bool,
    pub size: Size,
    pub touched: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub heard_at: Option<Timestamp>,
    pub origin: Option<Origin>,
}

impl Kept {
    fn expired(&self, now: Timestamp, settings: &Conversations) -> bool {
        match self.ended_at {
            Some(ended) => now.since(ended) > settings.retain,
            None => now.since(self.touched) > settings.max_open_age,
        }
    }
}

/// All conversations.
#[derive(Default)]
pub(super) struct Memory(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    kept: HashMap<ConversationKey, Kept>,
    /// What they take, about.
    bytes: usize,
    swept_at: Timestamp,
}

impl Memory {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One conversation's state, unless its time is over; without its messages unless `messages` asks for them, so that one
    /// more costs the same however many there are.
    pub fn get(&self, key: &ConversationKey, messages: bool, now: Timestamp, settings: &Conversations) -> Option<Kept> {
        let inner = self.inner();
        let kept = inner.kept.get(key).filter(|kept| !kept.expired(now, settings))?;
        Some(Kept {
            maps: kept.maps.clone(),
            messages: if messages { kept.messages.clone() } else { Vec::new() },
            tail: !messages,
            size: kept.size,
            touched: kept.touched,
            ended_at: kept.ended_at,
            heard_at: kept.heard_at,
            origin: kept.origin.clone(),
        })
    }

    /// How many are open.
    pub fn count_open(&self) -> usize {
        self.inner().kept.values().filter(|kept| kept.ended_at.is_none()).count()
    }

    /// Those that are open, of all or of the streams within `streams`.
    pub fn open(&self, streams: Option<&Range<i64>>) -> Vec<OpenConversation> {
        let of_these = |kept: &Kept| {
            let stream = kept.origin.as_ref().and_then(|origin| origin.stream);
            streams.is_none_or(|streams| stream.is_some_and(|stream| streams.contains(&stream)))
        };
        let inner = self.inner();
        let open = inner.kept.iter().filter(|(_, kept)| kept.ended_at.is_none() && of_these(kept));
        let open = open.map(|(key, kept)| OpenConversation {
            key: key.clone(),
            heard_at: kept.heard_at,
            origin: kept.origin.clone(),
        });
        open.collect()
    }

    /// Keeps a state. Where there are too many, those that were silent longest are given up.
    pub fn put(&self, key: ConversationKey, mut kept: Kept, settings: &Conversations) {
        let now = kept.touched;
        let mut inner = self.inner();
        if std::mem::take(&mut kept.tail) {
            match inner.kept.get_mut(&key) {
                Some(before) => {
                    let tail = std::mem::replace(&mut kept.messages, std::mem::take(&mut before.messages));
                    kept.messages.extend(tail);
                }
                // Given up in the meantime: what is left is what came since.
                None => kept.size = Size::of(&kept.messages, &kept.maps),
            }
        }
        inner.bytes += kept.size.in_memory();
        if let Some(before) = inner.kept.insert(key, kept) {
            inner.bytes -= before.size.in_memory();
        }
        let over = |inner: &Inner| {
            inner.kept.len() > limits::MEMORY_CONVERSATIONS || inner.bytes > limits::MEMORY_CONVERSATION_BYTES
        };
        if over(&inner) || now.since(inner.swept_at) >= limits::RETENTION_INTERVAL || now < inner.swept_at {
            inner.swept_at = now;
            inner.retain(|kept| !kept.expired(now, settings));
        }
        if over(&inner) {
            inner.forget_quietest();
        }
    }
}

impl Inner {
    fn retain(&mut self, stays: impl Fn(&Kept) -> bool) {
        let bytes = &mut self.bytes;
        self.kept.retain(|_, kept| {
            let stays = stays(kept);
            if !stays {
                *bytes -= kept.size.in_memory();
            }
            stays
        });
    }

    /// Some more than needed, so that not every event has to.
    fn forget_quietest(&mut self) {
        let (most, most_bytes) = (limits::MEMORY_CONVERSATIONS / 8 * 7, limits::MEMORY_CONVERSATION_BYTES / 8 * 7);
        let mut ages: Vec<(Timestamp, usize)> =
            self.kept.values().map(|kept| (kept.touched, kept.size.in_memory())).collect();
        ages.sort_unstable_by_key(|(touched, _)| *touched);
        let (mut left, mut bytes, mut cut) = (ages.len(), self.bytes, None);
        for (touched, size) in ages {
            if left <= most && bytes <= most_bytes {
                break;
            }
            left -= 1;
            bytes -= size;
            cut = Some(touched);
        }
        let latest = self.swept_at;
        self.retain(|kept| kept.touched == latest || cut.is_none_or(|cut| kept.touched > cut));
        ConversationsForgotten { left: self.kept.len() }.emit();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings() -> Conversations {
        Conversations {
            durable: false,
            retain: Duration::from_secs(60),
            idle_timeout: None,
            max_open_age: Duration::from_secs(3600),
        }
    }

    fn key(n: i64) -> ConversationKey {
        ConversationKey { namespace: "".into(), id: n.to_string().into() }
    }

    fn kept(secs: i64, bytes: usize, ended: bool) -> Kept {
        let touched = Timestamp::from_millis(secs * 1000);
        let size = Size::of_maps(bytes);
        let (ended_at, heard_at) = (ended.then_some(touched), Some(touched));
        let messages = Vec::new();
        Kept { maps: Bytes::new(), messages, tail: false, size, touched, ended_at, heard_at, origin: None }
    }

    fn here(memory: &Memory, n: i64, secs: i64) -> bool {
        memory.get(&key(n), false, Timestamp::from_millis(secs * 1000), &settings()).is_some()
    }

    #[test]
    fn what_is_over_is_not_seen_again_and_leaves() {
        let memory = Memory::default();
        memory.put(key(1), kept(0, 10, true), &settings());
        memory.put(key(2), kept(0, 10, false), &settings());
        assert!(here(&memory, 1, 60) && here(&memory, 2, 60));
        assert!(!here(&memory, 1, 61) && here(&memory, 2, 3600) && !here(&memory, 2, 3601));
        assert_eq!((memory.count_open(), memory.open(None).len()), (1, 1));
        memory.put(key(3), kept(61, 10, false), &settings());
        let inner = memory.inner();
        assert_eq!((inner.kept.len(), inner.bytes), (2, 20), "the one that is over is gone");
    }

    #[test]
    fn what_comes_behind_is_kept_behind_what_is_there() {
        let memory = Memory::default();
        let at = Timestamp::from_millis(0);
        let one = |n: i64, tail| Kept { messages: vec![Json::Int(n)], tail, ..kept(0, 10, false) };
        let read = |n: i64, messages| memory.get(&key(n), messages, at, &settings()).expect("kept");
        memory.put(key(1), one(1, false), &settings());
        assert!(read(1, false).messages.is_empty() && read(1, false).tail);
        memory.put(key(1), one(2, true), &settings());
        let all: Vec<_> = read(1, true).messages.iter().map(Json::to_bytes).collect();
        assert_eq!(all, ["1", "2"]);
        memory.put(key(1), Kept { messages: Vec::new(), ..one(0, true) }, &settings());
        assert_eq!(read(1, true).messages.len(), 2);
        memory.put(key(1), one(3, false), &settings());
        assert_eq!(read(1, true).messages.len(), 1, "a snapshot replaces them");
        memory.put(key(2), Kept { size: Size::of_maps(1 << 20), ..one(1, true) }, &settings());
        assert_eq!(read(2, true).size, Size::of(&[Json::Int(1)], b""), "given up before");
    }

    #[test]
    fn number_and_bytes_are_bounded() {
        let memory = Memory::default();
        let many = i64::try_from(limits::MEMORY_CONVERSATIONS).expect("a number") + 1;
        for n in 0..many {
            memory.put(key(n), kept(n / 100, 1, false), &settings());
        }
        assert!(memory.inner().kept.len() <= limits::MEMORY_CONVERSATIONS);
        assert!(here(&memory, many - 1, many / 100) && !here(&memory, 0, many / 100), "the quietest went");

        let memory = Memory::default();
        let share = limits::MEMORY_CONVERSATION_BYTES / 4;
        for n in 0..6 {
            memory.put(key(n), kept(n, share, false), &settings());
            memory.put(key(n), kept(n, share, false), &settings());
            assert!(memory.inner().bytes <= limits::MEMORY_CONVERSATION_BYTES);
            assert!(here(&memory, n, n), "what came last stays");
        }
        let inner = memory.inner();
        assert_eq!(inner.bytes, inner.kept.len() * share);
    }
}
