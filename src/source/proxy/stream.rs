//! Taps on streams: NDJSON, server-sent events, WebSockets. A task per exchange takes the copies, finds the messages in them
//! and hands them on one after another. It has a place in the traffic's way only where `on_overflow: block` gives it one.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use super::Taps;
use super::decode::Decoding;
use super::framer::{Deflate, Events, Framer, Frames, Heard, Lines, Lost};
use super::taps::CompiledTap;
use crate::config::model::TapFormat;
use crate::limits;
use crate::net::relay::{Headers, Piece, Reader, Side};
use crate::rules::Direction;
use crate::source::feed::{Place, Raw};
use crate::source::{EndReason, Sink, StreamEnd, StreamId};

/// Where an adapter finds what a server-sent event says beside its data.
const EVENT_HEADER: &str = "sse-event";
const ID_HEADER: &str = "sse-id";

/// One tapped exchange.
pub(super) struct Following<S> {
    pub taps: Arc<Taps<S>>,
    pub tap: Arc<CompiledTap>,
    pub path: Arc<str>,
    pub request: Arc<Headers>,
    /// Set before anything comes from the server.
    pub response: Arc<OnceLock<Arc<Headers>>>,
}

/// One direction of it.
struct Half {
    direction: Direction,
    headers: Arc<Headers>,
    decoding: Decoding,
    framer: Framer,
    /// Whether what it says can still be read.
    readable: bool,
    /// Whether conversations end with it.
    is_stream: bool,
}

/// Messages that wait to be handed on.
#[derive(Default)]
struct Waiting {
    messages: VecDeque<(Raw, bool)>,
    bytes: usize,
}

impl<S: Sink> Following<S> {
    /// Reads until both halves have ended and everything is handed on.
    pub async fn run(self, mut reader: Reader) {
        let mut halves = [None, None];
        let mut waiting = Waiting::default();
        let mut stream = None;
        let mut open = true;
        while open || !waiting.messages.is_empty() {
            let Some((message, is_stream)) = waiting.take() else {
                open = self.hear(reader.next().await, &mut halves, &mut waiting);
                continue;
            };
            if is_stream && stream.is_none() {
                stream = Some(self.taps.feed.sink().open_stream());
            }
            let place = Place { stream: stream.filter(|_| is_stream), offset: None };
            let delivery = async {
                // Counted and logged already where it is no event.
                let items = self.taps.feed.read(message, self.tap.adapter()).await.unwrap_or_default();
                self.taps.deliver(&self.tap, items, &self.path, place).await;
            };
            tokio::pin!(delivery);
            loop {
                let full = self.tap.blocks() && waiting.bytes >= limits::TAP_QUEUE_BYTES;
                tokio::select! {
                    biased;
                    () = &mut delivery => break,
                    piece = reader.next(), if open && !full => open = self.hear(piece, &mut halves, &mut waiting),
                }
            }
        }
        if let Some(stream) = stream {
            self.over(stream).await;
        }
    }

    async fn over(&self, stream: StreamId) {
        let source = Arc::clone(self.taps.feed.name());
        self.taps.feed.sink().ended(StreamEnd { source, stream, reason: EndReason::Disconnected }).await;
    }

    /// Takes in one piece; answers whether more can come.
    fn hear(&self, piece: Option<Piece>, halves: &mut [Option<Half>; 2], waiting: &mut Waiting) -> bool {
        let Some(piece) = piece else { return false };
        let (Piece::Data(side, _) | Piece::Gap(side) | Piece::End(side, _)) = piece;
        let half = halves[side as usize].get_or_insert_with(|| self.half(side));
        let mut heard = Heard::new();
        match piece {
            Piece::Data(_, bytes) => half.data(&bytes, &mut heard),
            Piece::Gap(_) => half.gap(&mut heard),
            Piece::End(_, whole) if half.readable => half.framer.end(whole, &mut heard),
            Piece::End(..) => {}
        }
        for found in heard {
            match found {
                Ok(found) if !self.tap.blocks() && waiting.bytes + found.body.len() > limits::TAP_QUEUE_BYTES => {
                    self.taps.losses.count(Lost::Behind, &self.path);
                }
                Ok(found) => {
                    waiting.bytes += found.body.len();
                    let mut headers = Headers::clone(&half.headers);
                    headers.extend(found.event.map(|event| (EVENT_HEADER.to_owned(), event)));
                    headers.extend(found.id.map(|id| (ID_HEADER.to_owned(), id)));
                    let raw = self.taps.raw(&self.tap, found.body, (&self.path, &headers), half.direction);
                    waiting.messages.push_back((raw, half.is_stream));
                }
                Err(lost) => self.taps.losses.count(lost, &self.path),
            }
        }
        true
    }

    fn half(&self, side: Side) -> Half {
        let format = self.tap.format();
        let limit = self.taps.limit();
        let answer = || self.response.get().map_or_else(Arc::default, Arc::clone);
        let websocket = format == TapFormat::Websocket;
        let headers = if websocket || side == Side::Client { Arc::clone(&self.request) } else { answer() };
        let framer = match format {
            TapFormat::Websocket => {
                let answer = answer();
                let agreed = Deflate::agreed(all(&answer, "sec-websocket-extensions"));
                let alone = if side == Side::Client { agreed.client_alone } else { agreed.server_alone };
                Framer::Frames(Box::new(Frames::new(limit, agreed.on.then_some(alone))))
            }
            TapFormat::Sse => Framer::Events(Events::new(limit)),
            TapFormat::Ndjson | TapFormat::Json => Framer::Lines(Lines::new(limit)),
        };
        let decoding = if websocket { Decoding::Plain } else { Decoding::of(all(&headers, "content-encoding")) };
        let direction = match (websocket, side) {
            (true, Side::Client) => Direction::Client,
            (true, Side::Server) => Direction::Server,
            (false, Side::Client) => Direction::Request,
            (false, Side::Server) => Direction::Response,
        };
        let is_stream = websocket || side == Side::Server;
        Half { direction, headers, decoding, framer, readable: true, is_stream }
    }
}

impl Half {
    fn data(&mut self, bytes: &[u8], heard: &mut Heard) {
        if !self.readable {
            return;
        }
        let framer = &mut self.framer;
        if let Err(lost) = self.decoding.feed(bytes, |part| framer.feed(part, heard)) {
            self.readable = false;
            heard.push(Err(lost));
        }
    }

    /// What is compressed cannot be read without what is missing.
    fn gap(&mut self, heard: &mut Heard) {
        if self.readable {
            self.readable = self.framer.gap(heard) && matches!(self.decoding, Decoding::Plain);
        }
    }
}

impl Waiting {
    fn take(&mut self) -> Option<(Raw, bool)> {
        let next = self.messages.pop_front()?;
        self.bytes -= next.0.body.len();
        Some(next)
    }
}

fn all<'a>(headers: &'a Headers, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
    headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}
