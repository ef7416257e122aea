//! HTTP/1 from a client to upstream and back, one exchange after the other on a connection. Heads lose what belongs to one
//! connection only; all other bytes go across as they came, framing and trailers included.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::copier::{Copier, Copiers, Headers, Seen, Watch};
use super::framing::Broken;
use super::head::{self, HeadError, Lines, RequestHead, ResponseHead};
use super::pump::{self, Stopped};
use super::refusal::Refusal;
use super::upstream::Connection;
use super::{Relay, Way};
use crate::limits;

/// Room for a head.
const HEAD: usize = 8 * 1024;

/// A client's connection.
struct Client<I> {
    read: ReadHalf<I>,
    write: WriteHalf<I>,
    /// Read, and not yet used.
    buffer: BytesMut,
}

/// How a connection goes on after an exchange.
enum Next {
    /// With the next request.
    Again,
    /// It ends in good order; something of a request may be unread.
    Close,
    /// It is cut off, so that the client sees that something is missing.
    Abort,
}

/// How upstream answered.
enum Answer {
    /// The response is across.
    Whole(ResponseHead),
    /// The protocol changes.
    Switched(ResponseHead, Copiers),
}

/// Why there is no whole answer.
enum Failed {
    /// Upstream went away before it said anything.
    NoAnswer(String),
    /// What it said is no response.
    Nonsense(String),
    /// It broke off in the middle of one.
    Torn(Stopped),
    /// The client is gone.
    Client,
    /// The client's body has no clear end.
    Request(HeadError),
}

/// How far the request's body is.
#[derive(Clone, Copy)]
enum Sending {
    /// On its way.
    Body,
    /// All of it is across.
    Done,
    /// Upstream takes no more of it.
    Stuck,
    /// The client has ended its side.
    HalfClosed,
}

/// Serves a connection whose first bytes are `prefix`.
pub async fn serve<I>(relay: &Relay, io: I, prefix: Bytes, stop: &CancellationToken, idle: Duration)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let mut client = Client { read, write, buffer: BytesMut::from(prefix) };
    loop {
        let next = match next_head(&mut client, stop, idle).await {
            Ok(Some(head)) => exchange(relay, &mut client, head, stop).await,
            Ok(None) => Next::Abort,
            Err(error) => refuse(&mut client, &Refusal::bad_request(&error), true, false).await,
        };
        match next {
            Next::Again => {}
            Next::Close => return linger(client).await,
            Next::Abort => return,
        }
    }
}

/// Reads the next request's head; none when the connection is over.
async fn next_head<I: AsyncRead + AsyncWrite>(
    client: &mut Client<I>,
    stop: &CancellationToken,
    idle: Duration,
) -> Result<Option<RequestHead>, HeadError> {
    if !client.buffer.is_empty()
        && let Some(head) = head::request(&mut client.buffer)?
    {
        return Ok(Some(head));
    }
    let read = async {
        loop {
            let quiet = client.buffer.is_empty();
            let read = tokio::select! {
                biased;
                read = pump::fill(&mut client.read, &mut client.buffer, HEAD) => read,
                () = stop.cancelled(), if quiet => return Ok(None),
            };
            if read.is_err() || read.is_ok_and(|n| n == 0) {
                return Ok(None);
            }
            if let Some(head) = head::request(&mut client.buffer)? {
                return Ok(Some(head));
            }
        }
    };
    timeout(idle, read).await.unwrap_or(Ok(None))
}

/// Answers in upstream's place.
async fn refuse<I: AsyncRead + AsyncWrite>(
    client: &mut Client<I>,
    refusal: &Refusal,
    close: bool,
    head_only: bool,
) -> Next {
    let response = refusal.response(close, head_only);
    match client.write.write_all(&response).await {
        Ok(()) if client.write.flush().await.is_ok() => {
            if close {
                Next::Close
            } else {
                Next::Again
            }
        }
        _ => Next::Abort,
    }
}

/// Ends in good order: a close with unread bytes would take away the answer that was just sent.
async fn linger<I: AsyncRead + AsyncWrite + Unpin>(mut client: Client<I>) {
    if client.write.shutdown().await.is_err() {
        return;
    }
    let mut left = limits::LINGER_BYTES;
    let _ = timeout(limits::LINGER, async {
        while left > 0 {
            client.buffer.clear();
            match client.read.read_buf(&mut client.buffer).await {
                Ok(n) if n > 0 => left = left.saturating_sub(n),
                _ => break,
            }
        }
    })
    .await;
}

/// Names and values for who reads along.
fn headers(lines: &Lines) -> Headers {
    lines.iter().map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned())).collect()
}

async fn exchange<I>(relay: &Relay, client: &mut Client<I>, mut head: RequestHead, stop: &CancellationToken) -> Next
where
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    let way = &*relay.way.load_full();
    if head.is_connect() {
        return refuse(client, &Refusal::connect(&way.url), true, false).await;
    }
    let seen = Seen { method: &head.method, target: &head.target, headers: &|| headers(&head.lines) };
    let mut watch = relay.observer.watch(&seen);
    let mut copier = watch.as_mut().and_then(|watch| watch.request());
    let repeatable = head.may_be_repeated();
    let mut first = Vec::with_capacity(1024);
    head.write(&way.authority, &mut first);
    if let Err(broken) = pump::take(&mut client.buffer, &mut head.framing, copier.as_mut(), &mut first) {
        let error = HeadError::Chunks(broken);
        return refuse(client, &Refusal::bad_request(&error), true, false).await;
    }
    loop {
        let rested = if repeatable { limits::POOL_IDLE_TIMEOUT } else { limits::RELAY_RESTED };
        let connected = async {
            let mut upstream = way.upstream.connection(rested).await?;
            let written = upstream.write.write(&first).await;
            Ok::<_, io::Error>((upstream, written))
        };
        let (upstream, written) = match connected.await {
            Ok((upstream, Ok(written))) => (upstream, written),
            // Nothing of the request has left.
            Ok((upstream, Err(_))) if upstream.reused => continue,
            Ok((_, Err(error))) | Err(error) => return no_answer(way, client, &head, &error.to_string()).await,
        };
        let reused = upstream.reused;
        let run = Run { way, head: &mut head, stop, rest: &first[written..], watch: &mut watch, copier: &mut copier };
        match run.run(client, upstream).await {
            Err(Failed::NoAnswer(_)) if reused && repeatable => {}
            Err(Failed::NoAnswer(why) | Failed::Nonsense(why)) => return no_answer(way, client, &head, &why).await,
            Err(Failed::Request(error)) => return refuse(client, &Refusal::bad_request(&error), true, false).await,
            Err(Failed::Torn(why)) => {
                tracing::debug!(upstream = way.url, %why, "a response broke off");
                return Next::Abort;
            }
            Err(Failed::Client) => return Next::Abort,
            Ok(next) => return next,
        }
    }
}

async fn no_answer<I: AsyncRead + AsyncWrite>(
    way: &Way,
    client: &mut Client<I>,
    head: &RequestHead,
    why: &str,
) -> Next {
    tracing::warn!(upstream = way.url, why, "no answer from upstream");
    let close = !head.keep_alive || !head.framing.is_done();
    refuse(client, &Refusal::bad_gateway(&way.url, why), close, head.method == "HEAD").await
}

/// One exchange on one upstream connection.
struct Run<'a> {
    way: &'a Way,
    head: &'a mut RequestHead,
    stop: &'a CancellationToken,
    /// What is left of the first write.
    rest: &'a [u8],
    watch: &'a mut Option<Box<dyn Watch>>,
    copier: &'a mut Option<Copier>,
}

impl Run<'_> {
    async fn run<I>(self, client: &mut Client<I>, mut upstream: Connection) -> Result<Next, Failed>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let Self { way, head, stop, rest, watch, copier } = self;
        let stage = Stage::new();
        let asked = Asked {
            head_only: head.method == "HEAD",
            keep_alive: head.keep_alive,
            waits: head.expects && !head.framing.is_done(),
        };
        let Client { read, write, buffer } = client;
        let answer = {
            let mut sending =
                pin!(send(Sender { read, buffer, to: &mut upstream.write, rest, head, copier, stage: &stage }));
            let receiver = Receiver {
                from: &mut upstream.read,
                buffer: &mut upstream.buffer,
                to: &mut *write,
                asked,
                stage: &stage,
                stop,
                watch,
            };
            let mut receiving = pin!(receiver.receive());
            let answer = poll_fn(|cx| {
                if let Poll::Ready(Err(failed)) = sending.as_mut().poll(cx) {
                    return Poll::Ready(Err(failed));
                }
                receiving.as_mut().poll(cx)
            })
            .await?;
            if let (Answer::Whole(response), false) = (&answer.0, answer.1) {
                // Upstream may answer before it has read all, and go on reading.
                let goes_on = response.keep_alive;
                poll_fn(|cx| {
                    if !(goes_on && stage.is(Sending::Body)) {
                        return Poll::Ready(Ok(()));
                    }
                    match sending.as_mut().poll(cx) {
                        Poll::Ready(Err(failed)) => Poll::Ready(Err(failed)),
                        Poll::Pending if stage.is(Sending::Body) => Poll::Pending,
                        _ => Poll::Ready(Ok(())),
                    }
                })
                .await?;
            }
            answer
        };
        match answer {
            (Answer::Whole(response), close) => {
                let done = stage.is(Sending::Done);
                if done && response.keep_alive && !response.framing.ends_with_connection() {
                    way.upstream.keep(upstream);
                }
                Ok(if close || !done { Next::Close } else { Next::Again })
            }
            (Answer::Switched(response, copiers), _) => {
                drop(watch.take());
                tunnel(client, upstream, &response, copiers).await;
                Ok(Next::Abort)
            }
        }
    }
}

/// What of the request decides how the response is read and passed on.
#[derive(Clone, Copy)]
struct Asked {
    head_only: bool,
    keep_alive: bool,
    /// The client sends its body only when it is told to.
    waits: bool,
}

/// Where sending is, for who receives; and whether something was passed on to the client, for who sends.
struct Stage(AtomicU8, AtomicBool);

impl Stage {
    fn new() -> Self {
        Self(AtomicU8::new(Sending::Body as u8), AtomicBool::new(false))
    }

    fn set(&self, sending: Sending) {
        self.0.store(sending as u8, Ordering::Relaxed);
    }

    /// Why the exchange ends where the request turns out to be none: an answer that has begun is not followed by another.
    fn bad(&self, broken: Broken) -> Failed {
        if self.1.load(Ordering::Relaxed) { Failed::Client } else { Failed::Request(HeadError::Chunks(broken)) }
    }

    fn is(&self, sending: Sending) -> bool {
        self.0.load(Ordering::Relaxed) == sending as u8
    }
}

struct Sender<'a, I> {
    read: &'a mut ReadHalf<I>,
    buffer: &'a mut BytesMut,
    to: &'a mut WriteHalf<super::Transport>,
    rest: &'a [u8],
    head: &'a mut RequestHead,
    copier: &'a mut Option<Copier>,
    stage: &'a Stage,
}

/// Sends the request, then watches the client: what else it sends is kept for later, its end is passed on. Ends only if
/// the exchange cannot go on.
async fn send<I: AsyncRead + AsyncWrite>(s: Sender<'_, I>) -> Result<Infallible, Failed> {
    let Sender { read, buffer, to, rest, head, copier, stage } = s;
    let sent = match to.write_all(rest).await {
        Ok(()) if head.framing.is_done() => to.flush().await.map_err(Stopped::Write),
        Ok(()) => match to.flush().await {
            Ok(()) => pump::body(read, buffer, to, &mut head.framing, copier.as_mut()).await,
            Err(error) => Err(Stopped::Write(error)),
        },
        Err(error) => Err(Stopped::Write(error)),
    };
    match sent {
        Ok(()) => {
            if let Some(copier) = copier.take() {
                copier.finish();
            }
            stage.set(Sending::Done);
        }
        Err(Stopped::Write(_)) => {
            // It may have answered all the same.
            stage.set(Sending::Stuck);
            return pending().await;
        }
        Err(Stopped::Short) => return half_close(to, stage).await,
        Err(Stopped::Read(_)) => return Err(Failed::Client),
        Err(Stopped::Broken(broken)) => return Err(stage.bad(broken)),
    }
    loop {
        if buffer.len() >= limits::RELAY_READ_BYTES {
            return pending().await;
        }
        match pump::fill(read, buffer, HEAD).await {
            Ok(0) => return half_close(to, stage).await,
            Ok(_) => {}
            Err(_) => return Err(Failed::Client),
        }
    }
}

/// What upstream makes of it is its own affair, as without a proxy.
async fn half_close(to: &mut (impl AsyncWrite + Unpin), stage: &Stage) -> Result<Infallible, Failed> {
    stage.set(Sending::HalfClosed);
    let _ = to.shutdown().await;
    pending().await
}

struct Receiver<'a, I> {
    from: &'a mut ReadHalf<super::Transport>,
    buffer: &'a mut BytesMut,
    to: &'a mut WriteHalf<I>,
    asked: Asked,
    stage: &'a Stage,
    stop: &'a CancellationToken,
    watch: &'a mut Option<Box<dyn Watch>>,
}

impl<I: AsyncRead + AsyncWrite> Receiver<'_, I> {
    /// Passes the response on; also answers whether the client's connection ends with it.
    async fn receive(mut self) -> Result<(Answer, bool), Failed> {
        let mut told_to_go_on = false;
        let mut out = Vec::with_capacity(1024);
        let mut response = loop {
            let response = self.head().await?;
            if !response.is_interim() {
                break response;
            }
            told_to_go_on |= response.status == 100;
            out.clear();
            response.write(false, &mut out);
            self.write(&out).await?;
        };
        let copiers = match self.watch {
            Some(watch) => watch.response(response.status, &|| headers(&response.lines)),
            None => Copiers::default(),
        };
        if response.status == 101 {
            return Ok((Answer::Switched(response, copiers), true));
        }
        let silent = self.asked.waits && !told_to_go_on && self.stage.is(Sending::Body);
        let close = !self.asked.keep_alive
            || !response.is_11
            || response.framing.ends_with_connection()
            || silent
            || self.stop.is_cancelled();
        out.clear();
        response.write(close && response.is_11, &mut out);
        let mut copier = copiers.server;
        let torn = |why| Failed::Torn(why);
        pump::take(self.buffer, &mut response.framing, copier.as_mut(), &mut out).map_err(|b| torn(b.into()))?;
        self.write(&out).await?;
        drop(out);
        match pump::body(self.from, self.buffer, self.to, &mut response.framing, copier.as_mut()).await {
            Ok(()) => {}
            Err(Stopped::Write(_)) => return Err(Failed::Client),
            Err(why) => return Err(torn(why)),
        }
        if let Some(copier) = copier {
            copier.finish();
        }
        Ok((Answer::Whole(response), close))
    }

    async fn head(&mut self) -> Result<ResponseHead, Failed> {
        loop {
            match head::response(self.buffer, self.asked.head_only) {
                Ok(Some(response)) => return Ok(response),
                Ok(None) => {}
                Err(error) => return Err(Failed::Nonsense(format!("it answered with something else: {error}"))),
            }
            let why = match pump::fill(self.from, self.buffer, HEAD).await {
                Ok(0) => "it closed the connection".to_owned(),
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            return Err(if self.stage.is(Sending::HalfClosed) {
                // The client ended first: it gets what it would get without a proxy.
                Failed::Client
            } else if self.buffer.is_empty() {
                Failed::NoAnswer(why)
            } else {
                Failed::Nonsense(format!("{why} in the middle of its answer's head"))
            });
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        self.stage.1.store(true, Ordering::Relaxed);
        self.to.write_all(bytes).await.map_err(|_| Failed::Client)?;
        self.to.flush().await.map_err(|_| Failed::Client)
    }
}

/// After a change of protocol: bytes in both directions until both have ended.
async fn tunnel<I>(client: &mut Client<I>, mut upstream: Connection, response: &ResponseHead, copiers: Copiers)
where
    I: AsyncRead + AsyncWrite,
{
    let mut out = Vec::new();
    response.write(false, &mut out);
    if client.write.write_all(&out).await.is_err() || client.write.flush().await.is_err() {
        return;
    }
    let up = pump::direction(&mut client.read, &mut client.buffer, &mut upstream.write, copiers.client);
    let down = pump::direction(&mut upstream.read, &mut upstream.buffer, &mut client.write, copiers.server);
    // Boxed: a tunnel lives long, and its futures need not weigh on every exchange.
    if let Err(error) = Box::pin(futures_util::future::try_join(up, down)).await {
        tracing::debug!(%error, "an upgraded connection broke");
    }
}
