//! What a child writes to its standard output: lines that are events go into a bounded queue, all others on to sidehook's own
//! standard output, byte for byte.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::model::Overflow;
use crate::event::{Incoming, Json, Kind};
use crate::limits;
use crate::source::feed::{Feed, Message, Place};
use crate::source::lines::{self, Lines, Piece};
use crate::source::{Sink, StreamId, stdin};
use crate::telemetry::ingest::EventsLost;

/// How much of a line that is no JSON is looked at to tell whether it was meant to be an event.
const LOOKED_AT: usize = 256;

/// Events between the child and the outbox.
pub(super) struct Queue {
    pub sender: mpsc::UnboundedSender<(Message, OwnedSemaphorePermit)>,
    /// In KiB.
    pub room: Arc<Semaphore>,
    pub on_overflow: Overflow,
}

/// Reads a child's standard output.
pub(super) struct Output<S, W> {
    feed: Feed<S>,
    place: Place,
    queue: Queue,
    passed_on: Option<W>,
    /// Dropped and not told yet, and when they were told last.
    dropped: usize,
    told: Option<Instant>,
}

/// What a line is.
#[derive(Debug)]
pub(super) enum Seen {
    Events(Vec<Incoming>),
    /// Meant to be an event, and none.
    Bad(&'static str, String),
    Other,
}

impl<S: Sink, W: AsyncWrite + Unpin> Output<S, W> {
    pub(super) fn new(feed: Feed<S>, stream: StreamId, queue: Queue, passed_on: W) -> Self {
        let place = Place { stream: Some(stream), offset: None };
        Self { feed, place, queue, passed_on: Some(passed_on), dropped: 0, told: None }
    }

    /// Reads to the end. Once the child is `over`, others that hold its output open are waited for a moment only.
    pub(super) async fn read(mut self, input: impl AsyncRead + Unpin, over: &CancellationToken) {
        let mut lines = Lines::new(input);
        let mut over_since = None;
        loop {
            let most = self.feed.most();
            let mut any = false;
            while let Some(piece) = lines.ready(most) {
                self.take(piece).await;
                any = true;
            }
            if any {
                self.flush().await;
            }
            if lines.is_ended() {
                break;
            }
            let silent = async {
                over.cancelled().await;
                let (rest, most) = limits::EXEC_REST;
                let since = *over_since.get_or_insert_with(tokio::time::Instant::now);
                tokio::time::sleep_until((tokio::time::Instant::now() + rest).min(since + most)).await;
            };
            tokio::select! {
                read = lines.fill() => if let Err(error) = read {
                    tracing::warn!(source = %self.feed.name(), %error, "the assistant's output can no longer be read");
                    break;
                },
                () = silent => break,
            }
        }
        if let Some(piece) = lines.rest() {
            self.take(piece).await;
        }
        self.flush().await;
        self.tell_dropped(true);
    }

    async fn take(&mut self, piece: Piece) {
        let line = match piece {
            Piece::Line(line) => line,
            Piece::Long { part, first, .. } => {
                if first && part.trim_ascii_start().starts_with(b"{") {
                    stdin::too_long(&self.feed);
                }
                return self.pass_on(&part).await;
            }
        };
        match seen(&self.feed, &line).await {
            Seen::Events(items) => self.enqueue(items, line.len()).await,
            Seen::Bad(reason, detail) => {
                self.feed.reject(reason, &format!("{detail}; the line is passed on"));
                self.pass_on(&line).await;
            }
            Seen::Other => self.pass_on(&line).await,
        }
    }

    async fn enqueue(&mut self, items: Vec<Incoming>, bytes: usize) {
        let most = u32::try_from(limits::EXEC_QUEUE_BYTES / 1024).unwrap_or(u32::MAX);
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(most).clamp(1, most);
        let room = Arc::clone(&self.queue.room);
        let permit = match self.queue.on_overflow {
            Overflow::Block => room.acquire_many_owned(kib).await.ok(),
            Overflow::Drop => room.try_acquire_many_owned(kib).ok(),
        };
        if let Some(permit) = permit {
            // Its receiver outlives this.
            let _ = self.queue.sender.send((Message { items, place: self.place.clone() }, permit));
            return;
        }
        self.dropped += items.len();
        EventsLost { source: self.feed.name(), reason: "overflow", events: items.len() }.count();
        self.tell_dropped(false);
    }

    /// A flood of them must not become a flood of log lines.
    fn tell_dropped(&mut self, last: bool) {
        let due = self.told.is_none_or(|told| told.elapsed() >= limits::DROPPED_EVERY);
        if self.dropped > 0 && (due || last) {
            EventsLost { source: self.feed.name(), reason: "overflow", events: self.dropped }.log();
            self.dropped = 0;
            self.told = Some(tokio::time::Instant::now());
        }
    }

    async fn pass_on(&mut self, bytes: &[u8]) {
        let Some(passed_on) = &mut self.passed_on else { return };
        if let Err(error) = passed_on.write_all(bytes).await {
            tracing::warn!(%error, "standard output is closed; what the assistant writes besides events goes nowhere");
            self.passed_on = None;
        }
    }

    async fn flush(&mut self) {
        if let Some(passed_on) = &mut self.passed_on {
            // Fails where the next write will.
            let _ = passed_on.flush().await;
        }
    }
}

/// What a line is. An adapter is asked about every one, and makes nothing of those that are none of its. Without one, JSON log
/// lines may well have a `type`; only a dotted one makes an event.
pub(super) async fn seen<S: Sink>(feed: &Feed<S>, line: &Bytes) -> Seen {
    let text = lines::text(line);
    let adapted = feed.sink().settings(feed.name()).adapter.is_some();
    let meant = if adapted { !text.is_empty() } else { is_meant(&text) };
    if !meant {
        return Seen::Other;
    }
    match feed.line(text).await {
        Ok(items) if items.is_empty() => Seen::Other,
        Ok(items) => Seen::Events(items),
        Err(wrong) => Seen::Bad(wrong.reason, wrong.detail),
    }
}

/// Whether a line was meant to be an event, or several.
fn is_meant(text: &Bytes) -> bool {
    if !text.starts_with(b"{") && !text.starts_with(b"[{") {
        return false;
    }
    let Ok(json) = Json::parse(text.clone()) else {
        // Torn, or cut off by what another thread wrote.
        let head = &text[..text.len().min(LOOKED_AT)];
        return ["\"type\"", "\"specversion\""].iter().any(|key| memchr::memmem::find(head, key.as_bytes()).is_some());
    };
    match json.kind() {
        Kind::Array => json.items().all(|item| looks_like_an_event(&item)),
        _ => looks_like_an_event(&json),
    }
}

/// Whether it looks like an event: a dotted type, a `CloudEvent`, the body of a Rapida webhook.
fn looks_like_an_event(json: &Json) -> bool {
    let text = |key: &str| json.get(key).and_then(|value| value.as_str().map(std::borrow::Cow::into_owned));
    let dotted = |key: &str| text(key).is_some_and(|text| text.contains('.'));
    dotted("type") || json.get("specversion").is_some() || (dotted("event") && json.get("data").is_some())
}
