//! What every source that reads messages one after another does with each: makes items of it and hands them on until they
//! are durable. Waits where the source may wait, and says what became of a message; who sent it is the source's business.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{Accepted, Items, Refusal, Sink, StreamId};
use crate::clock::Timestamp;
use crate::event::{Incoming, Json, Kind};
use crate::limits;
use crate::rules::{Adapter, Direction, Message};
use crate::telemetry::ingest::EventRejected;

/// One source's way to the sink. Cloning shares it.
pub struct Feed<S> {
    name: Arc<str>,
    sink: Arc<S>,
    stop: CancellationToken,
}

impl<S> Clone for Feed<S> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), sink: Arc::clone(&self.sink), stop: self.stop.clone() }
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

impl<S: Sink> Feed<S> {
    /// For the source called `name`; `stop` ends every wait.
    #[must_use]
    pub fn new(name: Arc<str>, sink: Arc<S>, stop: CancellationToken) -> Self {
        Self { name, sink, stop }
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

    /// What one message stands for, checked and not yet handed on.
    pub async fn read(&self, message: Raw, adapter: Option<&Adapter>) -> Result<Vec<Incoming>, Unfit> {
        let events = match adapter {
            None => events_of(message.body),
            Some(adapter) => {
                let message = Message {
                    body: Message::body_of(&message.body),
                    path: message.path,
                    headers: message.headers,
                    direction: message.direction,
                    arrived: message.arrived,
                };
                self.sink.adapt(adapter, message).await.map_err(|error| format!("the adapter failed: {error}"))
            }
        };
        let items = events.and_then(|events| events.iter().map(item_of).collect::<Result<Vec<_>, _>>());
        items.map_err(|detail| self.bad("invalid", detail))
    }

    /// Items that are read already; with none of them the place alone is stored.
    pub async fn items(&self, items: Vec<Incoming>, place: Place, patience: Patience) -> Result<Accepted, Unfit> {
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
            let refusal = match self.sink.accept(items).await {
                Ok(accepted) => return Ok(accepted),
                Err(refusal) => refusal,
            };
            let (reason, retry_after) = match &refusal {
                Refusal::IdConflict { .. } => return Err(self.bad("id_conflict", refusal.detail().to_owned())),
                Refusal::TooLarge { .. } => return Err(self.bad("conversation_too_large", refusal.detail().to_owned())),
                Refusal::Full { retry_after, .. } => ("full", *retry_after),
                Refusal::Unavailable { retry_after, .. } => ("failed", *retry_after),
            };
            if patience == Patience::None || self.stop.is_cancelled() {
                EventRejected { source: &self.name, reason, detail: refusal.detail() }.emit();
                return Err(Unfit::Busy(refusal.detail().to_owned()));
            }
            tokio::select! {
                () = tokio::time::sleep(pause.min(retry_after)) => {}
                () = self.stop.cancelled() => {}
            }
            pause *= 2;
        }
    }

    fn bad(&self, reason: &'static str, detail: String) -> Unfit {
        EventRejected { source: &self.name, reason, detail: &detail }.emit();
        Unfit::Bad(detail)
    }
}

/// The events of a JSON text.
fn events_of(message: Bytes) -> Result<Vec<Json>, String> {
    let root = Json::parse(message).map_err(|e| format!("this is not JSON: {e}"))?;
    if root.kind() != Kind::Array {
        return Ok(vec![root]);
    }
    if root.len() > limits::EVENTS_PER_REQUEST {
        return Err(format!("more than {} events in one message", limits::EVENTS_PER_REQUEST));
    }
    Ok(root.items().collect())
}

/// Recognises and checks one; the error tells the first thing that is wrong.
fn item_of(event: &Json) -> Result<Incoming, String> {
    Incoming::read(event).map_err(|errors| {
        let first = errors.into_iter().next();
        first.map_or_else(String::new, |e| format!("this is no event: {:?} {}", e.pointer, e.reason))
    })
}
