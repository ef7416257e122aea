//! `type: proxy`: taps on the traffic of a relay. They read copies, make messages of them and hand those on. A tap never
//! delays, alters or fails the traffic, unless `on_overflow: block` asks it to wait.

mod decode;
mod framer;
mod losses;
mod stream;
mod taps;
mod whole;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::framer::Lost;
use self::losses::Losses;
use self::stream::Following;
use self::taps::CompiledTap;
use self::whole::{Gathering, Whole};
use super::Sink;
use super::feed::{self, Patience, Place, Raw, Unfit};
use crate::clock::{Clock, Entropy};
use crate::config::model::{Tap, TapFormat};
use crate::event::Incoming;
use crate::limits;
use crate::net::Listener;
use crate::net::relay::{
    self, Budget, Copier, Copiers, Feed, Headers, Observer, QueueHandle, Relay, Seen, Side, Upstream, UpstreamError,
    Watch,
};
use crate::rules::Direction;

/// A proxy source.
pub struct ProxySource<S> {
    taps: Arc<Taps<S>>,
    relay: Arc<Relay>,
    /// Taken when it begins to serve.
    bodies: std::sync::Mutex<Option<mpsc::UnboundedReceiver<Whole>>>,
}

/// What the taps of one source share.
struct Taps<S> {
    feed: feed::Feed<S>,
    clock: Clock,
    compiled: ArcSwap<Vec<Arc<CompiledTap>>>,
    /// The largest message, from the generation in force.
    limit: AtomicUsize,
    budget: Arc<Budget>,
    bodies: mpsc::UnboundedSender<Whole>,
    /// Bodies that are being handed on.
    handing_on: AtomicUsize,
    losses: Losses,
    tasks: TaskTracker,
}

impl<S: Sink> ProxySource<S> {
    /// For the source called `name`. `stop` is cancelled when it is to take nothing more.
    pub fn new(
        name: &Arc<str>,
        sink: Arc<S>,
        (upstream, taps): (&url::Url, &[Tap]),
        (clock, entropy): (Clock, Entropy),
        stop: CancellationToken,
    ) -> Result<Self, UpstreamError> {
        let (sender, bodies) = mpsc::unbounded_channel();
        let taps = Arc::new(Taps {
            feed: feed::Feed::new(Arc::clone(name), sink, stop),
            clock,
            compiled: ArcSwap::from_pointee(compile(taps)),
            limit: AtomicUsize::new(0),
            budget: Budget::new(limits::TAP_SOURCE_BYTES),
            bodies: sender,
            handing_on: AtomicUsize::new(0),
            losses: Losses::new(Arc::clone(name)),
            tasks: TaskTracker::new(),
        });
        taps.refresh();
        let relay = Relay::new(self::upstream(upstream)?, Arc::new(Tapping(Arc::clone(&taps))), entropy);
        Ok(Self { taps, relay, bodies: std::sync::Mutex::new(Some(bodies)) })
    }

    /// Takes over what a reload changed; exchanges that are under way go on as they began.
    pub fn apply(&self, upstream: &url::Url, taps: &[Tap]) -> Result<(), UpstreamError> {
        self.relay.lead_to(self::upstream(upstream)?);
        self.taps.compiled.store(Arc::new(compile(taps)));
        self.taps.refresh();
        Ok(())
    }

    /// Serves until its `stop` is cancelled and what was under way has ended by itself.
    pub async fn serve(self: Arc<Self>, listener: Listener) {
        let bodies = self.bodies.lock().ok().and_then(|mut bodies| bodies.take());
        if let Some(bodies) = bodies {
            tokio::spawn(whole::run(Arc::clone(&self.taps), bodies));
        }
        let stop = self.taps.feed.stop().clone();
        Arc::clone(&self.relay).serve(listener, stop, Relay::options()).await;
        self.taps.tasks.close();
        self.taps.tasks.wait().await;
    }
}

fn upstream(url: &url::Url) -> Result<Upstream, UpstreamError> {
    Upstream::new(
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or(80),
        url.scheme() == "https",
    )
}

fn compile(taps: &[Tap]) -> Vec<Arc<CompiledTap>> {
    taps.iter().filter_map(CompiledTap::new).map(Arc::new).collect()
}

impl<S: Sink> Taps<S> {
    /// The largest message.
    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes over what the settings say now.
    fn refresh(&self) {
        let bytes = self.feed.sink().settings(self.feed.name()).body_bytes;
        self.limit.store(usize::try_from(bytes).unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    fn hand_on(&self, whole: Whole) {
        self.handing_on.fetch_add(1, Ordering::SeqCst);
        // Fails only if nobody serves any more.
        let _ = self.bodies.send(whole);
    }

    fn handed_on(&self) {
        self.handing_on.fetch_sub(1, Ordering::SeqCst);
    }

    fn is_handing_on(&self) -> bool {
        self.handing_on.load(Ordering::SeqCst) > 0
    }

    /// A message as the seam of all sources takes it. Headers are for the adapter, where there is one.
    fn raw(&self, tap: &CompiledTap, body: Vec<u8>, (path, headers): (&str, &Headers), direction: Direction) -> Raw {
        let headers = if tap.adapter().is_some() { headers.clone() } else { Headers::new() };
        Raw { body: body.into(), path: path.to_owned(), headers, direction, arrived: self.clock.now() }
    }

    /// Hands on what a message stood for. Returns when it is durable, or lost.
    async fn deliver(&self, tap: &CompiledTap, items: Vec<Incoming>, path: &str, place: Place) {
        if items.is_empty() {
            return;
        }
        let patience = if tap.blocks() { Patience::Wait } else { Patience::None };
        if let Err(Unfit::Busy(_)) = self.feed.items(items, place, patience).await {
            self.losses.count(Lost::Behind, path);
        }
    }
}

/// The observer of the relay.
struct Tapping<S>(Arc<Taps<S>>);

impl<S: Sink> Observer for Tapping<S> {
    fn watch(&self, request: &Seen<'_>) -> Option<Box<dyn Watch>> {
        let compiled = self.0.compiled.load();
        let path = request.target.split('?').next().unwrap_or_default();
        let matching: Vec<_> = compiled.iter().filter(|tap| tap.matches(request.method, path)).collect();
        if matching.is_empty() {
            return None;
        }
        let read =
            matching.into_iter().map(|tap| Reading { tap: Arc::clone(tap), queue: None, response: Arc::default() });
        Some(Box::new(Watching {
            taps: Arc::clone(&self.0),
            reading: read.collect(),
            path: Arc::from(request.target),
            request: Arc::new((request.headers)()),
        }))
    }
}

/// One exchange that is read along.
struct Watching<S> {
    taps: Arc<Taps<S>>,
    reading: Vec<Reading>,
    path: Arc<str>,
    request: Arc<Headers>,
}

/// One tap on it.
struct Reading {
    tap: Arc<CompiledTap>,
    queue: Option<QueueHandle>,
    response: Arc<OnceLock<Arc<Headers>>>,
}

impl Reading {
    /// Whether what the response says matters.
    fn wants_response(&self) -> bool {
        self.tap.reads_response() || self.tap.format() == TapFormat::Websocket
    }
}

impl<S: Sink> Watching<S> {
    /// One direction of a stream; the first one starts whoever reads it.
    fn follow(
        taps: &Arc<Taps<S>>,
        reading: &mut Reading,
        side: Side,
        path: &Arc<str>,
        request: &Arc<Headers>,
    ) -> Box<dyn Feed> {
        let queue = reading.queue.get_or_insert_with(|| {
            let (queue, reader) = relay::queue(limits::TAP_QUEUE_BYTES, &taps.budget);
            let following = Following {
                taps: Arc::clone(taps),
                tap: Arc::clone(&reading.tap),
                path: Arc::clone(path),
                request: Arc::clone(request),
                response: Arc::clone(&reading.response),
            };
            taps.tasks.spawn(following.run(reader));
            queue
        });
        queue.side(side, reading.tap.blocks())
    }
}

impl<S: Sink> Watch for Watching<S> {
    fn request(&mut self) -> Option<Copier> {
        let Self { taps, reading, path, request } = self;
        let feeds = reading.iter_mut().filter(|reading| reading.tap.reads_request());
        let feeds = feeds.filter_map(|reading| match reading.tap.format() {
            TapFormat::Websocket => None,
            TapFormat::Json => Some(Gathering::start(taps, &reading.tap, path, request, Direction::Request)),
            TapFormat::Ndjson | TapFormat::Sse => Some(Self::follow(taps, reading, Side::Client, path, request)),
        });
        Copier::of(feeds.collect())
    }

    fn response(&mut self, status: u16, headers: &(dyn Fn() -> Headers + Sync)) -> Copiers {
        let Self { taps, reading, path, request } = self;
        if !reading.iter().any(Reading::wants_response) {
            return Copiers::default();
        }
        let headers = Arc::new(headers());
        let (mut client, mut server) = (Vec::new(), Vec::new());
        for reading in reading {
            let _ = reading.response.set(Arc::clone(&headers));
            let (reads_request, reads_response) = (reading.tap.reads_request(), reading.tap.reads_response());
            match (reading.tap.format(), status) {
                (TapFormat::Websocket, 101) => {
                    if reads_request {
                        client.push(Self::follow(taps, reading, Side::Client, path, request));
                    }
                    if reads_response {
                        server.push(Self::follow(taps, reading, Side::Server, path, request));
                    }
                }
                (TapFormat::Websocket, _) | (_, 101) => {}
                (TapFormat::Json, _) if reads_response => {
                    server.push(Gathering::start(taps, &reading.tap, path, &headers, Direction::Response));
                }
                (TapFormat::Ndjson | TapFormat::Sse, _) if reads_response => {
                    server.push(Self::follow(taps, reading, Side::Server, path, request));
                }
                _ => {}
            }
        }
        Copiers { client: Copier::of(client), server: Copier::of(server) }
    }
}
