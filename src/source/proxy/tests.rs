//! What the tests of this folder share.

/// `bytes` in pieces, cut at places that are taken modulo their number.
pub(super) fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut from = 0;
    cuts.into_iter().map(|cut| &bytes[std::mem::replace(&mut from, cut)..cut]).collect()
}

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::*;
use crate::config::model::{Listen, Overflow, Read};
use crate::event::Json;
use crate::net::bind;
use crate::net::relay::stage::{End, Played, soon};
use crate::rules::{Adapter, Message, RuleError};
use crate::source::{Accepted, Items, Refusal, SourceSettings, StreamEnd, StreamId};

/// Keeps what it got, as `id` or `id@stream`, or refuses it.
struct Probe {
    got: Mutex<Vec<String>>,
    refuses: AtomicBool,
    /// Each message that is taken takes one.
    permits: Semaphore,
    streams: AtomicUsize,
}

impl Probe {
    fn got(&self) -> Vec<String> {
        self.got.lock().expect("not poisoned").clone()
    }

    fn note(&self, text: String) {
        self.got.lock().expect("not poisoned").push(text);
    }

    async fn got_all(&self, expected: &[&str]) {
        for _ in 0..1000 {
            if self.got().len() >= expected.len() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.got(), expected);
    }
}

impl Sink for Probe {
    async fn accept(&self, items: Items) -> Result<Accepted, Refusal> {
        let ids: Vec<String> = items.items.iter().map(|i| i.id.clone().unwrap_or_default().to_string()).collect();
        let stream = items.stream.map_or_else(String::new, |stream| format!("@{}", stream.0));
        self.permits.acquire().await.expect("open").forget();
        if self.refuses.load(Ordering::SeqCst) {
            return Err(Refusal::Full { detail: "full".to_owned(), retry_after: Duration::from_millis(1) });
        }
        self.note(format!("{}{stream}", ids.join("+")));
        Ok(Accepted { accepted: ids.len(), duplicates: 0, ids })
    }

    fn settings(&self, _: &str) -> SourceSettings {
        SourceSettings {
            body_bytes: 1000,
            token: None,
            namespace: "".into(),
            adapter: None,
            verifier: None,
            now: Clock::System.now(),
        }
    }

    async fn adapt(&self, _: &Adapter, _: Message) -> Result<Vec<Json>, RuleError> {
        Ok(Vec::new())
    }

    fn open_stream(&self) -> StreamId {
        StreamId(i64::try_from(self.streams.fetch_add(1, Ordering::SeqCst)).expect("few") + 1)
    }

    async fn ended(&self, end: StreamEnd) {
        self.note(format!("end {}", end.stream.0));
    }

    async fn offset(&self, _: &str) -> Result<Option<String>, String> {
        Ok(None)
    }
}

fn tap(path: &str, read: Read, format: TapFormat, on_overflow: Overflow) -> Tap {
    Tap { path: path.to_owned(), method: None, read, format, adapter: None, on_overflow }
}

/// A proxy before an upstream that the test plays.
struct Stage {
    probe: Arc<Probe>,
    upstream: Played,
    proxy: SocketAddr,
    _stop: tokio_util::sync::DropGuard,
}

impl Stage {
    async fn new(tap: Tap) -> Self {
        let probe = Probe {
            got: Mutex::default(),
            refuses: AtomicBool::new(false),
            permits: Semaphore::new(100_000),
            streams: AtomicUsize::new(0),
        };
        let probe = Arc::new(probe);
        let upstream = Played::new().await;
        let url = url::Url::parse(&format!("http://{}", upstream.address())).expect("a URL");
        let listener = bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.expect("bound");
        let proxy = listener.local_addr().expect("tcp");
        let stop = CancellationToken::new();
        let by = (Clock::System, Entropy::seeded(1));
        let source = ProxySource::new(&"bot".into(), Arc::clone(&probe), (&url, &[tap]), by, stop.clone());
        tokio::spawn(Arc::new(source.expect("a source")).serve(listener));
        Self { probe, upstream, proxy, _stop: stop.drop_guard() }
    }

    /// A client that has sent `request`, and the server that has read it.
    async fn exchange(&self, request: &[u8]) -> (End, End) {
        let mut client = End::connect(self.proxy).await;
        client.say(request).await;
        let mut server = self.upstream.accept().await;
        server.hear(request).await;
        (client, server)
    }
}

/// Says it on one side and hears it on the other.
async fn pass(from: &mut End, to: &mut End, bytes: &[u8]) {
    from.pass(to, bytes).await;
}

fn event(id: &str) -> String {
    format!(r#"{{"id":"{id}","type":"a.b"}}"#)
}

/// A larger event.
fn padded(bytes: usize) -> String {
    format!(r#"{{"id":"large","type":"a.b","words":"{}"}}"#, "x".repeat(bytes))
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).expect("encoded");
    encoder.finish().expect("encoded")
}

const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn bodies_are_read_along_in_the_order_in_which_they_ended() {
    let stage = Stage::new(tap("/events/*", Read::Both, TapFormat::Json, Overflow::Drop)).await;
    let body = event("a");
    let request = format!("POST /events/1?x HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (mut client, mut server) = stage.exchange(request.as_bytes()).await;
    let body = gzip(&format!("[{},{}]", event("b"), event("c")));
    let (first, second) = body.split_at(9);
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for part in [first, second, b""] {
        answer.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        answer.extend_from_slice(part);
        answer.extend_from_slice(b"\r\n");
    }
    pass(&mut server, &mut client, &answer).await;
    let mut expected = vec!["a".to_owned(), "b+c".to_owned()];
    for n in 0..100 {
        let body = event(&n.to_string());
        let request = format!("POST /events/{n} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        pass(&mut client, &mut server, request.as_bytes()).await;
        pass(&mut server, &mut client, EMPTY).await;
        expected.push(n.to_string());
    }
    for ignored in ["/other", "/events/1/2"] {
        let request = format!("POST {ignored} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}");
        pass(&mut client, &mut server, request.as_bytes()).await;
        pass(&mut server, &mut client, EMPTY).await;
    }
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    stage.probe.got_all(&expected).await;
    // One that breaks off is none, and no end of a stream either.
    let torn = format!("POST /events/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{}", event("torn"));
    pass(&mut client, &mut server, torn.as_bytes()).await;
    drop((client, server));
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.probe.got_all(&expected).await;
}

#[tokio::test]
async fn lines_and_events_are_read_while_they_come_and_their_end_is_told() {
    let lines = tap("/s", Read::Response, TapFormat::Ndjson, Overflow::Drop);
    let events = tap("/s", Read::Both, TapFormat::Sse, Overflow::Block);
    // A last line needs no end, but only the body's end tells that it is the last.
    for (at_once, tap, pieces) in [
        (2, lines, [event("a") + "\n{\"id\":\"b\"", ",\"type\":\"a.b\"}\n".to_owned(), event("c")]),
        (
            3,
            events,
            [
                format!("data: {}\n\ndata: {{\"id\":\"b\"", event("a")),
                ",\ndata: \"type\":\"a.b\"}\n\n".to_owned(),
                format!("data: {}\n\n", event("c")),
            ],
        ),
    ] {
        let stage = Stage::new(tap).await;
        let (mut client, mut server) = stage.exchange(b"GET /s HTTP/1.1\r\nHost: x\r\n\r\n").await;
        pass(&mut server, &mut client, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for (piece, seen) in pieces.iter().zip([1, 2, at_once]) {
            pass(&mut server, &mut client, format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await;
            stage.probe.got_all(&["a@1", "b@1", "c@1"][..seen]).await;
        }
        pass(&mut server, &mut client, b"0\r\n\r\n").await;
        stage.probe.got_all(&["a@1", "b@1", "c@1", "end 1"]).await;
        // One that says nothing ends silently; another stream has another number.
        pass(&mut client, &mut server, b"GET /s HTTP/1.1\r\nHost: x\r\n\r\n").await;
        pass(&mut server, &mut client, EMPTY).await;
        pass(&mut client, &mut server, b"GET /s HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\ndata: {}\n\n", event("d"));
        let line = format!("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}\n", event("d"));
        pass(&mut server, &mut client, if pieces[0].starts_with('d') { &head } else { &line }.as_bytes()).await;
        drop(server);
        stage.probe.got_all(&["a@1", "b@1", "c@1", "end 1", "d@2", "end 2"]).await;
    }
}

/// A masked or plain frame of up to 125 bytes.
fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    let mut out = vec![first, if masked { 0x80 | length } else { length }];
    let key = if masked { [9, 8, 7, 6] } else { [0; 4] };
    out.extend(masked.then_some(key).into_iter().flatten());
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

#[tokio::test]
async fn websocket_messages_are_read_from_both_sides() {
    let stage = Stage::new(tap("/ws", Read::Both, TapFormat::Websocket, Overflow::Drop)).await;
    let request = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (mut client, mut server) = stage.exchange(request).await;
    let answer = b"HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    pass(&mut server, &mut client, answer).await;
    pass(&mut client, &mut server, &frame(0x81, event("a").as_bytes(), true)).await;
    stage.probe.got_all(&["a@1"]).await;
    let mut deflate = flate2::Compress::new(flate2::Compression::best(), false);
    for id in ["b", "c"] {
        let mut packed = Vec::with_capacity(200);
        deflate.compress_vec(event(id).as_bytes(), &mut packed, flate2::FlushCompress::Sync).expect("room");
        let (one, two) = packed[..packed.len() - 4].split_at(3);
        pass(&mut server, &mut client, &frame(0x41, one, false)).await;
        pass(&mut client, &mut server, &frame(0x89, b"", true)).await;
        pass(&mut server, &mut client, &frame(0x80, two, false)).await;
    }
    stage.probe.got_all(&["a@1", "b@1", "c@1"]).await;
    pass(&mut client, &mut server, &frame(0x81, event("d").as_bytes(), true)).await;
    drop(client);
    assert_eq!(server.rest().await, "");
    drop(server);
    stage.probe.got_all(&["a@1", "b@1", "c@1", "d@1", "end 1"]).await;
}

#[tokio::test]
async fn a_sink_that_takes_nothing_leaves_the_traffic_alone() {
    for (format, path) in [(TapFormat::Json, "/json"), (TapFormat::Ndjson, "/lines")] {
        let stage = Stage::new(tap(path, Read::Both, format, Overflow::Drop)).await;
        stage.probe.permits.forget_permits(100_000);
        let (mut client, mut server) =
            stage.exchange(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        // More than may be held in all.
        let line = padded(900) + "\n";
        let chunk = format!("{:x}\r\n{}\r\n", line.len() * 100, line.repeat(100));
        pass(&mut server, &mut client, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for _ in 0..(limits::TAP_SOURCE_BYTES / chunk.len() / 4) {
            pass(&mut server, &mut client, chunk.as_bytes()).await;
        }
        pass(&mut server, &mut client, b"0\r\n\r\n").await;
        // And one that refuses.
        stage.probe.refuses.store(true, Ordering::SeqCst);
        stage.probe.permits.add_permits(100_000);
        for _ in 0..3 {
            pass(&mut client, &mut server, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
            pass(
                &mut server,
                &mut client,
                format!("HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{}", event("ab")).as_bytes(),
            )
            .await;
        }
        assert!(
            stage.probe.got().iter().all(|got| got.starts_with("end ")),
            "nothing was taken: {:?}",
            stage.probe.got()
        );
    }
}

#[tokio::test]
async fn with_block_the_traffic_waits_and_nothing_is_lost() {
    let stage = Stage::new(tap("/lines", Read::Response, TapFormat::Ndjson, Overflow::Block)).await;
    stage.probe.permits.forget_permits(100_000);
    let (mut client, mut server) = stage.exchange(b"GET /lines HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let line = padded(900) + "\n";
    let lines = limits::TAP_QUEUE_BYTES * 8 / line.len();
    let length = lines * line.len();
    let writing = tokio::spawn(async move {
        server.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await;
        for _ in 0..lines {
            server.say(&line).await;
        }
        server
    });
    let reading = tokio::spawn(async move {
        let mut all = 0;
        while all < length {
            all += client.some().await;
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!reading.is_finished(), "the client waits, {:?}", reading.await);
    stage.probe.permits.add_permits(100_000);
    soon(reading).await.expect("all of it arrives");
    drop(soon(writing).await.expect("written"));
    for _ in 0..1000 {
        if stage.probe.got().len() > lines {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stage.probe.got().len(), lines + 1, "each line, and the end");
}

#[tokio::test]
async fn what_is_too_large_is_lost_and_the_rest_is_not() {
    let stage = Stage::new(tap("/**", Read::Request, TapFormat::Json, Overflow::Drop)).await;
    let large = padded(2000);
    let request = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{large}", large.len());
    let (mut client, mut server) = stage.exchange(request.as_bytes()).await;
    pass(&mut server, &mut client, EMPTY).await;
    let inflated = gzip(&large);
    let head =
        format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", inflated.len());
    pass(&mut client, &mut server, &[head.as_bytes(), &inflated].concat()).await;
    pass(&mut server, &mut client, EMPTY).await;
    let good = event("good");
    let request = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{good}", good.len());
    pass(&mut client, &mut server, request.as_bytes()).await;
    pass(&mut server, &mut client, EMPTY).await;
    stage.probe.got_all(&["good"]).await;
}
