//! What every source that reads messages one after another does with each: makes items of it and hands them on until they
//! are durable. Waits where the source may wait, and says what became of a message; who sent it is the source's business.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::problem::Item;
use super::{Accepted, Items, Refusal, Sink, StreamId};
use crate::clock::Timestamp;
use crate::event::{Incoming, Json, Kind};
use crate::limits;
use crate::rules::{Adapter, Direction, Message as Adaptable};
use crate::telemetry::ingest::EventRejected;

/// One source's way to the sink. Cloning shares it.
pub struct Feed<S> {
    name: Arc<str>,
    sink: Arc<S>,
    stop: CancellationToken,
    pace: Arc<Pace>,
}

impl<S> Clone for Feed<S> {
    fn clone(&self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            sink: Arc::clone(&self.sink),
            stop: self.stop.clone(),
            pace: Arc::clone(&self.pace),
        }
    }
}

/// A message as it was read.
#[derive(Debug, Clone)]
pub struct Raw {
    /// Its bytes.
    pub body: Bytes,
    /// Path and query of the request it came in; empty where there is none.
    pub path: String,
    /// Headers of that request or answer.
    pub headers: Vec<(String, String)>,
    /// Which way it went.
    pub direction: Direction,
    /// When it was read.
    pub arrived: Timestamp,
}

/// Where a message stands in what its source reads.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The stream that it came by.
    pub stream: Option<StreamId>,
    /// How far the source has read with it.
    pub offset: Option<String>,
}

/// Whether a message may wait for an outbox that takes nothing at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It is handed on again until it is taken, or intake ends.
    Wait,
    /// It is given up at once.
    None,
}

/// Why nothing of a message was stored. Counted and logged already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It is no event, or not one that can be taken: it would be no different next time.
    Bad(String),
    /// The outbox takes nothing at the moment, or sidehook is ending.
    Busy(String),
}

impl Unfit {
    /// What is wrong, for whoever sent it.
    #[must_use]
    pub fn detail(&self) -> &str {
        match self {
            Self::Bad(detail) | Self::Busy(detail) => detail,
        }
    }
}

/// What one message came to, and where it stands.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Its events; none where there is nothing to take, and then its place alone counts.
    pub items: Vec<Incoming>,
    /// Where it stands.
    pub place: Place,
}

/// Messages on their way into one commit.
#[derive(Debug, Default)]
pub struct Batch {
    messages: Vec<Message>,
    bytes: usize,
}

impl Batch {
    /// Adds a message that took so many bytes.
    pub fn push(&mut self, message: Message, bytes: usize) {
        self.messages.push(message);
        self.bytes += bytes;
    }

    /// Whether the next one should wait for the next commit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.messages.len() >= limits::BATCH_MESSAGES || self.bytes >= limits::BATCH_BYTES
    }

    /// What was gathered.
    pub fn take(&mut self) -> Vec<Message> {
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }
}

impl<S: Sink> Feed<S> {
    /// For the source called `name`; `stop` ends every wait.
    #[must_use]
    pub fn new(name: Arc<str>, sink: Arc<S>, stop: CancellationToken) -> Self {
        Self { name, sink, stop, pace: Arc::default() }
    }

    /// The source's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it leads.
    #[must_use]
    pub fn sink(&self) -> &Arc<S> {
        &self.sink
    }

    /// Cancelled when the source is to read nothing more.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Largest message, in bytes.
    #[must_use]
    pub fn most(&self) -> usize {
        usize::try_from(self.sink.settings(&self.name).body_bytes).unwrap_or(usize::MAX)
    }

    /// One message: what the adapter makes of it or, without one, an event or an array of them. All of it is stored
    /// together, or nothing is.
    pub async fn message(
        &self,
        message: Raw,
        adapter: Option<&Adapter>,
        place: Place,
        patience: Patience,
    ) -> Result<Accepted, Unfit> {
        let items = self.read(message, adapter).await?;
        self.items(items, place, patience).await
    }

    /// What one message stands for, checked and not yet handed on. What is wrong is counted and logged.
    pub async fn read(&self, message: Raw, adapter: Option<&Adapter>) -> Result<Vec<Incoming>, Unfit> {
        self.understand(message, adapter).await.map_err(|wrong| {
            self.reject(wrong.reason, &wrong.detail);
            Unfit::Bad(wrong.detail)
        })
    }

    /// What a line stands for: nothing came with it, and its source's adapter counts. What is wrong is the caller's to tell.
    pub async fn line(&self, body: Bytes) -> Result<Vec<Incoming>, Wrong> {
        let settings = self.sink.settings(&self.name);
        let (path, headers, arrived) = (String::new(), Vec::new(), settings.now);
        let raw = Raw { body, path, headers, direction: Direction::Request, arrived };
        self.understand(raw, settings.adapter.as_ref()).await
    }

    /// The only place where a message becomes events.
    async fn understand(&self, message: Raw, adapter: Option<&Adapter>) -> Result<Vec<Incoming>, Wrong> {
        let events = match adapter {
            None => events_of(message.body)?,
            Some(adapter) => {
                let message = Adaptable {
                    body: Adaptable::body_of(&message.body),
                    path: message.path,
                    headers: message.headers,
                    direction: message.direction,
                    arrived: message.arrived,
                };
                self.sink.adapt(adapter, message).await.map_err(|error| {
                    let detail = format!("the adapter failed: {error}");
                    Wrong { reason: "invalid", detail, errors: Vec::new() }
                })?
            }
        };
        events.iter().enumerate().map(|(index, event)| item_of(index, event)).collect()
    }

    /// Items that are read already; with none of them the place alone is stored.
    pub async fn items(&self, items: Vec<Incoming>, place: Place, patience: Patience) -> Result<Accepted, Unfit> {
        let refusal = match self.offer(items, place, patience).await {
            Ok(accepted) => return Ok(accepted),
            Err(refusal) => refusal,
        };
        self.refused(&refusal);
        let detail = refusal.detail().to_owned();
        Err(if is_busy(&refusal) { Unfit::Busy(detail) } else { Unfit::Bad(detail) })
    }

    /// Messages that came one after another, in one commit where they can all be taken, else each by itself. What cannot
    /// be taken is counted and logged; its place is stored all the same. The error tells how many were left when the
    /// outbox took nothing and the source could not wait: what that means is the source's to say.
    pub async fn together(&self, mut messages: Vec<Message>, patience: Patience) -> Result<(), usize> {
        let last = messages.last().map(|message| message.place.clone()).unwrap_or_default();
        let all: Vec<Incoming> = match messages.as_mut_slice() {
            [one] => std::mem::take(&mut one.items),
            many => many.iter().flat_map(|message| message.items.iter().cloned()).collect(),
        };
        if all.is_empty() && last.offset.is_none() {
            return Ok(());
        }
        match self.offer(all, last.clone(), patience).await {
            Ok(_) => return Ok(()),
            Err(refusal) if is_busy(&refusal) => return Err(messages.len()),
            Err(refusal) if messages.len() == 1 => self.refused(&refusal),
            Err(_) => {}
        }
        let mut left = messages.len();
        for Message { items, place } in messages {
            if !items.is_empty() {
                match self.offer(items, place.clone(), patience).await {
                    Ok(_) => {}
                    Err(refusal) if is_busy(&refusal) => return Err(left),
                    Err(refusal) => {
                        self.refused(&refusal);
                        self.place(place, patience).await.map_err(|()| left)?;
                    }
                }
            }
            left -= 1;
        }
        self.place(last, patience).await.map_err(|()| 0_usize)
    }

    /// Stores how far the source has read, where it has something to store.
    async fn place(&self, place: Place, patience: Patience) -> Result<(), ()> {
        if place.offset.is_none() {
            return Ok(());
        }
        self.offer(Vec::new(), place, patience).await.map(drop).map_err(drop)
    }

    /// Hands items on, until they are taken or it is clear that they will not be. Counts and logs nothing.
    pub(super) async fn offer(
        &self,
        items: Vec<Incoming>,
        place: Place,
        patience: Patience,
    ) -> Result<Accepted, Refusal> {
        let Place { stream, offset } = place;
        let mut pause = Duration::from_millis(50);
        loop {
            let items = Items {
                source: Arc::clone(&self.name),
                namespace: self.sink.settings(&self.name).namespace,
                items: items.clone(),
                traceparent: None,
                stream,
                offset: offset.clone(),
            };
            let retry_after = match self.sink.accept(items).await {
                Ok(accepted) => return Ok(accepted),
                Err(Refusal::Full { retry_after, .. } | Refusal::Unavailable { retry_after, .. })
                    if patience == Patience::Wait && !self.stop.is_cancelled() =>
                {
                    retry_after
                }
                Err(refusal) => return Err(refusal),
            };
            tokio::select! {
                () = tokio::time::sleep(pause.min(retry_after)) => {}
                () = self.stop.cancelled() => {}
            }
            pause *= 2;
        }
    }

    /// Counts and logs a refusal.
    pub(super) fn refused(&self, refusal: &Refusal) {
        let reason = match refusal {
            Refusal::IdConflict { .. } => "id_conflict",
            Refusal::TooLarge { .. } => "conversation_too_large",
            Refusal::Full { .. } => "full",
            Refusal::Unavailable { .. } => "failed",
        };
        self.reject(reason, refusal.detail());
    }

    /// Counts a message that is no good, and logs it unless there are too many.
    pub fn reject(&self, reason: &'static str, detail: &str) {
        let unsaid = self.pace.next(self.sink.settings(&self.name).now);
        EventRejected { source: &self.name, reason, detail, unsaid }.emit();
    }
}

/// Whether it may be different another time.
fn is_busy(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Full { .. } | Refusal::Unavailable { .. })
}

/// Why a message holds no events.
#[derive(Debug)]
pub struct Wrong {
    /// As the metric names it: `malformed`, `invalid` or `too_large`.
    pub reason: &'static str,
    /// What is wrong, of the first item that is no event.
    pub detail: String,
    /// Each thing that is wrong.
    pub(super) errors: Vec<Item>,
}

/// The events of a JSON text.
fn events_of(message: Bytes) -> Result<Vec<Json>, Wrong> {
    let root = Json::parse(message).map_err(|e| Wrong {
        reason: "malformed",
        detail: format!("this is not JSON: {e}"),
        errors: vec![Item { index: 0, pointer: String::new(), reason: e.to_string() }],
    })?;
    if root.kind() != Kind::Array {
        return Ok(vec![root]);
    }
    if root.len() > limits::EVENTS_PER_REQUEST {
        let detail = format!("more than {} events in one message", limits::EVENTS_PER_REQUEST);
        return Err(Wrong { reason: "too_large", detail, errors: Vec::new() });
    }
    Ok(root.items().collect())
}

/// Recognises and checks one.
fn item_of(index: usize, event: &Json) -> Result<Incoming, Wrong> {
    Incoming::read(event).map_err(|errors| {
        let first = errors.first();
        let detail = first.map_or_else(String::new, |e| format!("this is no event: {:?} {}", e.pointer, e.reason));
        let errors = errors.into_iter().map(|e| Item { index, pointer: e.pointer, reason: e.reason }).collect();
        Wrong { reason: "invalid", detail, errors }
    })
}

#[cfg(test)]
mod tests;
