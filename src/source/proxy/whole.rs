//! Taps with `format: json`: one body, one message. Bodies are gathered beside the traffic and handed on in the order in
//! which they ended, since what a client sends next may depend on it; their commits then run side by side.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::Taps;
use super::decode::Decoding;
use super::framer::Lost;
use super::taps::CompiledTap;
use crate::event::Incoming;
use crate::limits;
use crate::net::relay::{Feed, Headers};
use crate::rules::Direction;
use crate::source::Sink;
use crate::source::feed::Place;

/// What a body takes beside its bytes, about.
const BODY_BYTES: usize = 512;

/// A body that is all there.
pub(super) struct Whole {
    tap: Arc<CompiledTap>,
    body: Vec<u8>,
    path: Arc<str>,
    headers: Arc<Headers>,
    direction: Direction,
    /// What it takes of the source's budget.
    taken: usize,
}

/// Gathers one body.
pub(super) struct Gathering<S> {
    taps: Arc<Taps<S>>,
    whole: Option<Whole>,
    limit: usize,
    lost: Option<Lost>,
}

impl<S: Sink> Gathering<S> {
    pub fn start(
        taps: &Arc<Taps<S>>,
        tap: &Arc<CompiledTap>,
        path: &Arc<str>,
        headers: &Arc<Headers>,
        direction: Direction,
    ) -> Box<dyn Feed> {
        let whole = Whole {
            tap: Arc::clone(tap),
            body: Vec::new(),
            path: Arc::clone(path),
            headers: Arc::clone(headers),
            direction,
            taken: 0,
        };
        Box::new(Self { taps: Arc::clone(taps), whole: Some(whole), limit: taps.limit(), lost: None })
    }

    fn lose(&mut self, lost: Lost) {
        self.lost = Some(lost);
        if let Some(whole) = &mut self.whole {
            whole.body = Vec::new();
            self.taps.budget.give_back(std::mem::take(&mut whole.taken));
        }
    }
}

impl<S: Sink> Feed for Gathering<S> {
    fn push(&mut self, bytes: &[u8]) {
        let (Some(whole), None) = (&mut self.whole, self.lost) else { return };
        let wanted = bytes.len() + if whole.taken == 0 { BODY_BYTES } else { 0 };
        if whole.body.len() + bytes.len() > self.limit {
            self.lose(Lost::TooLarge);
        } else if self.taps.budget.take(wanted, whole.tap.blocks()) {
            whole.taken += wanted;
            whole.body.extend_from_slice(bytes);
        } else {
            self.lose(Lost::Behind);
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.whole {
            // What it has gathered itself does not free anything while it waits.
            Some(whole) if whole.tap.blocks() && self.taps.is_handing_on() => self.taps.budget.poll_room(cx),
            _ => Poll::Ready(()),
        }
    }

    fn end(&mut self, whole: bool) {
        if !whole {
            return self.close();
        }
        match (self.lost, self.whole.take()) {
            (None, Some(whole)) if !whole.body.is_empty() => self.taps.hand_on(whole),
            (_, whole) => {
                self.whole = whole;
                self.close();
            }
        }
    }
}

impl<S> Gathering<S> {
    /// Without a message: there was none, or it is lost.
    fn close(&mut self) {
        if let Some(whole) = self.whole.take() {
            self.taps.budget.give_back(whole.taken);
            if !whole.body.is_empty() || self.lost.is_some() {
                self.taps.losses.count(self.lost.unwrap_or(Lost::Torn), &whole.path);
            }
        }
    }
}

impl<S> Drop for Gathering<S> {
    fn drop(&mut self) {
        // Not ended: the traffic broke off.
        self.close();
    }
}

/// Hands bodies on until there can be no more of them.
pub(super) async fn run<S: Sink>(taps: Arc<Taps<S>>, mut bodies: mpsc::UnboundedReceiver<Whole>) {
    let mut commits = FuturesUnordered::new();
    loop {
        let next = async {
            let mut whole = bodies.recv().await?;
            Some((read(&taps, &mut whole).await, whole))
        };
        tokio::pin!(next);
        let (items, whole) = loop {
            tokio::select! {
                // Each commit is begun before the next body is read, so that they queue for a conversation in their order.
                biased;
                Some(()) = commits.next(), if !commits.is_empty() => {}
                next = &mut next, if commits.len() < limits::TAP_COMMITS => {
                    if let Some(next) = next {
                        break next;
                    }
                    while commits.next().await.is_some() {}
                    return;
                }
            }
        };
        commits.push(commit(&taps, items, whole));
    }
}

/// What a body stands for; nothing where it cannot be read.
async fn read<S: Sink>(taps: &Taps<S>, whole: &mut Whole) -> Vec<Incoming> {
    let encodings = whole.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-encoding"));
    let decoding = Decoding::of(encodings.map(|(_, value)| value.as_str()));
    match decode(std::mem::take(&mut whole.body), decoding, taps.limit()) {
        Ok(body) => {
            let raw = taps.raw(&whole.tap, body, (&whole.path, &whole.headers), whole.direction);
            // Counted and logged already where it is no event.
            taps.feed.read(raw, whole.tap.adapter()).await.unwrap_or_default()
        }
        Err(lost) => {
            taps.losses.count(lost, &whole.path);
            Vec::new()
        }
    }
}

async fn commit<S: Sink>(taps: &Taps<S>, items: Vec<Incoming>, whole: Whole) {
    taps.deliver(&whole.tap, items, &whole.path, Place::default()).await;
    taps.budget.give_back(whole.taken);
    taps.handed_on();
}

fn decode(body: Vec<u8>, mut decoding: Decoding, limit: usize) -> Result<Vec<u8>, Lost> {
    if matches!(decoding, Decoding::Plain) {
        return Ok(body);
    }
    let (mut decoded, mut size) = (Vec::new(), 0);
    for step in body.chunks(4096) {
        decoding.feed(step, |part| {
            size += part.len();
            if size <= limit {
                decoded.extend_from_slice(part);
            }
        })?;
        if size > limit {
            return Err(Lost::TooLarge);
        }
    }
    Ok(decoded)
}
