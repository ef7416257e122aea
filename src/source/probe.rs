//! A sink for tests: it keeps what it got, or refuses it as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::{Accepted, Items, Refusal, Sink, SourceSettings, StreamEnd, StreamId};
use crate::clock::Timestamp;
use crate::event::Json;
use crate::rules::{Adapter, Message, RuleError};
use crate::secret::Secret;
use crate::sign::Verifier;

/// Keeps, refuses and counts.
#[derive(Default)]
pub(super) struct Probe {
    pub token: Option<Secret>,
    pub adapter: Option<Adapter>,
    pub verifier: Option<Arc<Verifier>>,
    /// 1000 unless given.
    pub body_bytes: Option<u64>,
    /// What everything is refused with.
    pub refuse: Option<Refusal>,
    /// What the next ones are refused with, one after another.
    pub refusals: Mutex<VecDeque<Refusal>>,
    /// An id that is refused as a conflict.
    pub conflict: Option<&'static str>,
    /// Handed out as the stored offset.
    pub stored: Option<String>,
    /// Ids that a sink before this one got.
    pub earlier: Vec<String>,
    pub got: Mutex<Vec<Items>>,
    pub streams: Mutex<i64>,
    pub ends: Mutex<Vec<StreamEnd>>,
}

impl Probe {
    /// Ids of everything that was taken, in order.
    pub fn ids(&self) -> Vec<String> {
        let got = self.got.lock().unwrap();
        got.iter().flat_map(|items| &items.items).map(|i| i.id.as_deref().unwrap_or("made").to_owned()).collect()
    }

    /// How many commits there were.
    pub fn commits(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    /// The offset that was stored last.
    pub fn offset(&self) -> Option<String> {
        self.got.lock().unwrap().iter().rev().find_map(|items| items.offset.clone())
    }
}

impl Sink for Probe {
    async fn accept(&self, items: Items) -> Result<Accepted, Refusal> {
        let once = self.refusals.lock().unwrap().pop_front();
        if let Some(refusal) = once.or_else(|| self.refuse.clone()) {
            return Err(refusal);
        }
        let ids: Vec<String> = items.items.iter().map(|i| i.id.as_deref().unwrap_or("made").to_owned()).collect();
        if let Some(at) = ids.iter().position(|id| self.conflict == Some(id.as_str())) {
            return Err(Refusal::IdConflict { items: vec![at], detail: format!("item {at}: taken") });
        }
        let accepted = items.items.len();
        self.got.lock().unwrap().push(items);
        Ok(Accepted { accepted, duplicates: 0, ids })
    }

    async fn adapt(&self, adapter: &Adapter, message: Message) -> Result<Vec<Json>, RuleError> {
        adapter.adapt(&message)
    }

    fn open_stream(&self) -> StreamId {
        let mut streams = self.streams.lock().unwrap();
        *streams += 1;
        StreamId(*streams)
    }

    async fn ended(&self, end: StreamEnd) {
        self.ends.lock().unwrap().push(end);
    }

    async fn offset(&self, _: &str) -> Result<Option<String>, String> {
        Ok(self.stored.clone())
    }

    fn settings(&self, _: &str) -> SourceSettings {
        SourceSettings {
            body_bytes: self.body_bytes.unwrap_or(1000),
            token: self.token.clone(),
            namespace: "".into(),
            adapter: self.adapter.clone(),
            verifier: self.verifier.clone(),
            now: Timestamp::from_millis(1_767_440_290_000),
        }
    }
}
