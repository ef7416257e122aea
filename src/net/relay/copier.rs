//! What reads along: copies of the bytes that pass, in a queue of bounded size on the side of the traffic. Whoever relays
//! only ever puts something in; it waits for room only where that was asked for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;

/// Small pieces are put together up to this size.
const PIECE_BYTES: usize = 16 * 1024;
/// What a queue with anything in it takes beside its bytes, about.
const QUEUE_BYTES: usize = 512;

/// Names and values, in order. Bytes that are not UTF-8 are replaced.
pub type Headers = Vec<(String, String)>;

/// A request as an [`Observer`] sees it.
pub struct Seen<'a> {
    /// Its method; `GET` where HTTP/2 opens a WebSocket, as it would be in HTTP/1.1.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Its headers.
    pub headers: &'a (dyn Fn() -> Headers + Sync),
}

/// Decides which exchanges are read along.
pub trait Observer: Send + Sync + 'static {
    /// Asked once for every request; none where nothing is to be read.
    fn watch(&self, request: &Seen<'_>) -> Option<Box<dyn Watch>>;
}

/// Reads along in one exchange. Dropped when it is over.
pub trait Watch: Send {
    /// Who gets a copy of the request's body.
    fn request(&mut self) -> Option<Copier>;

    /// Who gets a copy of what follows the response's head. With status 101 both directions are open from here on.
    fn response(&mut self, status: u16, headers: &(dyn Fn() -> Headers + Sync)) -> Copiers;
}

/// Who gets copies of both directions.
#[derive(Default)]
pub struct Copiers {
    /// Of what the client sends after an upgrade.
    pub client: Option<Copier>,
    /// Of what the server sends.
    pub server: Option<Copier>,
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// From the client.
    Client,
    /// From the server.
    Server,
}

/// What comes out of a queue, in the order in which it passed.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data(Side, Bytes),
    /// Bytes are missing here.
    Gap(Side),
    /// Nothing more comes from this side; whether its end was the proper one.
    End(Side, bool),
}

/// Takes copies of one direction's bytes. Dropped without `end` where the traffic broke off.
pub trait Feed: Send {
    /// Further bytes. Returns at once.
    fn push(&mut self, bytes: &[u8]);

    /// Pending where the traffic is to wait.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Nothing more comes; whether this is the proper end.
    fn end(&mut self, whole: bool);
}

/// What all copies of one source may hold together, in bytes.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
    waiting: Mutex<Vec<Waker>>,
}

impl Budget {
    /// So many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit, waiting: Mutex::default() })
    }

    /// Whether there was room for `bytes`, which are taken then. With `beyond` they are taken in any case.
    pub fn take(&self, bytes: usize, beyond: bool) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = beyond || before + bytes <= self.limit;
        if !fits {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::SeqCst);
        if before > self.limit {
            for waker in self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                waker.wake();
            }
        }
    }

    /// Pending while more is taken than there is.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let has_room = || self.used.load(Ordering::SeqCst) <= self.limit;
        if has_room() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        drop(waiting);
        if has_room() { Poll::Ready(()) } else { Poll::Pending }
    }
}

struct Shared {
    state: Mutex<State>,
    limit: usize,
    budget: Arc<Budget>,
    readable: AtomicWaker,
    writable: [AtomicWaker; 2],
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Part>,
    bytes: usize,
    senders: usize,
    /// The reader is gone.
    closed: bool,
}

enum Part {
    Data(Side, BytesMut),
    Gap(Side),
    End(Side, bool),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A queue of at most `limit` bytes, and the reader's end of it.
#[must_use]
pub fn queue(limit: usize, budget: &Arc<Budget>) -> (QueueHandle, Reader) {
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        limit,
        budget: Arc::clone(budget),
        readable: AtomicWaker::new(),
        writable: [AtomicWaker::new(), AtomicWaker::new()],
    });
    // The handle counts as a sender, so that the reader does not end before the first side begins.
    shared.lock().senders = 1;
    (QueueHandle(Arc::clone(&shared)), Reader(shared))
}

/// Opens sides of a queue.
pub struct QueueHandle(Arc<Shared>);

impl QueueHandle {
    /// Copies of one direction go into the queue. With `block` the traffic waits while it is full.
    #[must_use]
    pub fn side(&self, side: Side, block: bool) -> Box<dyn Feed> {
        self.0.lock().senders += 1;
        Box::new(QueueFeed { shared: Arc::clone(&self.0), side, block, whole: false })
    }
}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        self.0.lock().senders -= 1;
        self.0.readable.wake();
    }
}

/// Puts one direction's bytes into one queue.
struct QueueFeed {
    shared: Arc<Shared>,
    side: Side,
    block: bool,
    whole: bool,
}

impl Feed for QueueFeed {
    fn push(&mut self, bytes: &[u8]) {
        let mut state = self.shared.lock();
        if state.closed || bytes.is_empty() {
            return;
        }
        let extra = if state.bytes == 0 { QUEUE_BYTES } else { 0 };
        let fits = self.block || state.bytes + bytes.len() <= self.shared.limit;
        if fits && self.shared.budget.take(bytes.len() + extra, self.block) {
            state.bytes += bytes.len() + extra;
            match state.pieces.back_mut() {
                Some(Part::Data(side, part)) if *side == self.side && part.len() + bytes.len() <= PIECE_BYTES => {
                    part.extend_from_slice(bytes);
                }
                _ => state.pieces.push_back(Part::Data(self.side, BytesMut::from(bytes))),
            }
        } else if !matches!(state.pieces.back(), Some(Part::Gap(side)) if *side == self.side) {
            state.pieces.push_back(Part::Gap(self.side));
        }
        drop(state);
        self.shared.readable.wake();
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // One that is empty never waits: what takes up the common room is not its own.
        let has_room = || {
            let state = self.shared.lock();
            (state.closed || state.bytes == 0, state.bytes < self.shared.limit)
        };
        if !self.block {
            return Poll::Ready(());
        }
        self.shared.writable[self.side as usize].register(cx.waker());
        match has_room() {
            (true, _) => Poll::Ready(()),
            (false, true) => self.shared.budget.poll_room(cx),
            (false, false) => Poll::Pending,
        }
    }

    fn end(&mut self, whole: bool) {
        self.whole = whole;
    }
}

impl Drop for QueueFeed {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        if !state.closed {
            state.pieces.push_back(Part::End(self.side, self.whole));
        }
        drop(state);
        self.shared.readable.wake();
    }
}

/// Takes the pieces out of a queue. What is in it when this is dropped is dropped too.
pub struct Reader(Arc<Shared>);

impl Reader {
    /// The next piece; none when every side has ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        if let Poll::Ready(next) = self.take() {
            return Poll::Ready(next);
        }
        self.0.readable.register(cx.waker());
        self.take()
    }

    /// The next piece; none when every side has ended.
    pub async fn next(&mut self) -> Option<Piece> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn take(&mut self) -> Poll<Option<Piece>> {
        let mut state = self.0.lock();
        let piece = match state.pieces.pop_front() {
            None if state.senders == 0 => return Poll::Ready(None),
            None => return Poll::Pending,
            Some(Part::Gap(side)) => Piece::Gap(side),
            Some(Part::End(side, whole)) => Piece::End(side, whole),
            Some(Part::Data(side, bytes)) => {
                let empty = !state.pieces.iter().any(|part| matches!(part, Part::Data(..)));
                let freed = if empty { state.bytes } else { bytes.len() };
                state.bytes -= freed;
                self.0.budget.give_back(freed);
                Piece::Data(side, bytes.freeze())
            }
        };
        drop(state);
        for writable in &self.0.writable {
            writable.wake();
        }
        Poll::Ready(Some(piece))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.pieces.clear();
        self.0.budget.give_back(state.bytes);
        state.bytes = 0;
        drop(state);
        for writable in &self.0.writable {
            writable.wake();
        }
    }
}

/// All who get a copy of one direction.
pub struct Copier(Vec<Box<dyn Feed>>);

impl Copier {
    /// None where nobody does.
    #[must_use]
    pub fn of(feeds: Vec<Box<dyn Feed>>) -> Option<Self> {
        (!feeds.is_empty()).then_some(Self(feeds))
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        for feed in &mut self.0 {
            feed.push(bytes);
        }
    }

    /// Waits until everybody who may hold up the traffic has room.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ready = true;
        for feed in &mut self.0 {
            ready &= feed.poll_room(cx).is_ready();
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    pub(super) async fn room(&mut self) {
        std::future::poll_fn(|cx| self.poll_room(cx)).await;
    }

    /// The direction's end was the proper one.
    pub(super) fn finish(mut self) {
        for feed in &mut self.0 {
            feed.end(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(side: Side, text: &'static str) -> Piece {
        Piece::Data(side, Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn pieces_come_out_in_order_and_the_end_is_told() {
        let budget = Budget::new(10_000);
        let (handle, mut reader) = queue(5_000, &budget);
        let mut client = Copier::of(vec![handle.side(Side::Client, false)]).expect("one feed");
        let mut server = Copier::of(vec![handle.side(Side::Server, false)]).expect("one feed");
        drop(handle);
        client.push(b"a");
        client.push(b"b");
        server.push(b"c");
        client.push(b"");
        client.push(b"d");
        client.finish();
        drop(server);
        for expected in [
            data(Side::Client, "ab"),
            data(Side::Server, "c"),
            data(Side::Client, "d"),
            Piece::End(Side::Client, true),
            Piece::End(Side::Server, false),
        ] {
            assert_eq!(reader.next().await, Some(expected));
        }
        assert_eq!(reader.next().await, None);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_a_gap_and_never_waits() {
        for (limit, common) in [(4, 10_000), (10_000, QUEUE_BYTES + 4)] {
            let budget = Budget::new(common);
            let (handle, mut reader) = queue(limit, &budget);
            let mut copier = Copier::of(vec![handle.side(Side::Client, false)]).expect("one feed");
            copier.push(b"abcd");
            copier.push(b"e");
            copier.push(b"f");
            copier.room().await;
            assert_eq!(reader.next().await, Some(data(Side::Client, "abcd")));
            copier.push(b"gh");
            assert_eq!(reader.next().await, Some(Piece::Gap(Side::Client)));
            assert_eq!(reader.next().await, Some(data(Side::Client, "gh")));
            copier.push(b"left behind");
            drop(reader);
            copier.push(b"nobody reads");
            assert_eq!(budget.used.load(Ordering::Relaxed), 0);
        }
    }

    #[tokio::test]
    async fn who_blocks_loses_nothing_and_waits_for_room() {
        for (limit, common) in [(4, 10_000), (10_000, QUEUE_BYTES)] {
            let budget = Budget::new(common);
            let (handle, mut reader) = queue(limit, &budget);
            let mut copier = Copier::of(vec![handle.side(Side::Client, true)]).expect("one feed");
            copier.push(b"abcdef");
            let (other, _) = queue(10_000, &budget);
            let mut other = other.side(Side::Client, true);
            {
                let mut room = Box::pin(copier.room());
                assert!(futures_util::poll!(&mut room).is_pending());
                std::future::poll_fn(|cx| other.poll_room(cx)).await;
                assert_eq!(reader.next().await, Some(data(Side::Client, "abcdef")));
                room.await;
            }
            copier.push(b"abcdef");
            drop(reader);
            copier.room().await;
        }
    }
}
