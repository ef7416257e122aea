//! The relay between raw sockets: what one side writes, the other side reads, byte for byte.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::stage::{End, Played, soon};
use super::*;
use crate::config::model::Listen;
use crate::net::bind;

/// An upstream that the test plays, and a relay before it.
struct Stage {
    upstream: Played,
    relay: SocketAddr,
    stop: CancellationToken,
    done: tokio::task::JoinHandle<()>,
}

impl Stage {
    async fn new() -> Self {
        let upstream = Played::new().await;
        let (relay, stop, done) = relay_to(upstream.address().port()).await;
        Self { upstream, relay, stop, done }
    }

    async fn client(&self) -> End {
        End::connect(self.relay).await
    }

    async fn server(&self) -> End {
        self.upstream.accept().await
    }

    /// Whether nobody connects to upstream.
    async fn nobody_comes(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(50), self.upstream.accept()).await.is_err()
    }
}

async fn relay_to(port: u16) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.expect("bound");
    let address = listener.local_addr().expect("tcp");
    let upstream = Upstream::new("127.0.0.1", port, false).expect("an upstream");
    let relay = Relay::new(upstream, Arc::new(Unobserved), Entropy::seeded(1));
    let stop = CancellationToken::new();
    let done = tokio::spawn(relay.serve(listener, stop.clone(), Relay::options()));
    (address, stop, done)
}

/// Nobody reads along.
struct Unobserved;

impl Observer for Unobserved {
    fn watch(&self, _: &Seen<'_>) -> Option<Box<dyn Watch>> {
        None
    }
}

#[tokio::test]
async fn of_many_idle_connections_none_that_is_over_is_used_again() {
    const MANY: usize = 300;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("bound").port();
    let upstream = Upstream::new("127.0.0.1", port, false).expect("an upstream");
    let long = Duration::from_secs(60);
    for swept in [false, true] {
        let mut connections = Vec::new();
        for _ in 0..MANY {
            connections.push(upstream.connection(long).await.expect("a connection"));
            listener.accept().await.expect("it is taken, and dropped");
        }
        for connection in connections {
            upstream.keep(connection);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        if swept {
            upstream.sweep().await;
            assert_eq!(upstream.idle(), 0);
        }
        assert!(!upstream.connection(long).await.expect("a connection").reused, "swept: {swept}");
        listener.accept().await.expect("a new one");
    }
}

#[tokio::test]
async fn messages_pass_byte_for_byte() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    let request = "PoST /a/%2e/b?c=d&&e HTTP/1.1\r\nhOST: Any.Example\r\nX-One:1\r\nx-two:  2\r\nX-oNe: 3\r\nAccept: */*\r\n\
                   trailer: X-Sum\r\nTransfer-Encoding: CHUNKED\r\n\r\n";
    let body = "3;ext=\"1\"\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 7\r\nx-undeclared: 8\r\n\r\n";
    client.say(request).await;
    let mut server = stage.server().await;
    server.hear(request).await;
    client.say(body).await;
    server.hear(body).await;
    for interim in ["HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n", "HTTP/1.1 102 Wait\r\n\r\n"] {
        server.say(interim).await;
        client.hear(interim).await;
    }
    let response = "HTTP/1.1 207 Mixed Bag\r\nSet-Cookie: a=1\r\ndATE: never\r\nset-cookie: b=2\r\nServer:x\r\nX-Empty:\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
    server.say(response).await;
    client.hear(response).await;
    // Each piece at once, nothing is waited for.
    for piece in ["5\r\nhel", "lo\r", "\n", "0\r\nX-Last:", " 1\r\n\r\n"] {
        server.say(piece).await;
        client.hear(piece).await;
    }
    // The same connections serve again.
    client.say("GET /again HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.hear("GET /again HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.say("HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n").await;
    client.hear("HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n").await;
    client.say("HEAD /again HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.hear("HEAD /again HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n").await;
    client.hear("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n").await;
    client.say("GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    server.hear("GET /last HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.rest().await, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    assert!(stage.nobody_comes().await, "one upstream connection did for all of them");
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.say("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhiGET /3 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = stage.server().await;
    for (request, answer) in [
        ("GET /1 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1"),
        ("POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2"),
        ("GET /3 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3"),
    ] {
        server.hear(request).await;
        assert!(server.is_silent().await, "one at a time");
        server.say(answer).await;
        client.hear(answer).await;
    }
}

#[tokio::test]
async fn a_body_that_is_waited_for_goes_when_upstream_says_so() {
    let stage = Stage::new().await;
    let head = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let mut client = stage.client().await;
    client.say(head).await;
    let mut server = stage.server().await;
    server.hear(head).await;
    assert!(client.is_silent().await, "the relay does not answer for upstream");
    server.say("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.hear("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.say("hi").await;
    server.hear("hi").await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    client.hear("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;

    // Where upstream refuses, nobody knows whether a body follows, so the connection ends.
    client.say(head).await;
    server.hear(head).await;
    server.say("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.rest().await, "HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_arrives() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nbegin").await;
    let mut server = stage.server().await;
    server.hear("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nbegin").await;
    server.say("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").await;
    drop(server);
    client.hear("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await;

    // One that reads on gets the rest.
    let mut client = stage.client().await;
    client.say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nbegin").await;
    let mut server = stage.server().await;
    server.hear("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nbegin").await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    client.hear("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    client.say("12345").await;
    server.hear("12345").await;
    client.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.hear("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
}

#[tokio::test]
async fn a_body_that_goes_wrong_under_an_answer_ends_both() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.say(head).await;
    let mut server = stage.server().await;
    server.hear(head).await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun";
    server.say(answer).await;
    client.hear(answer).await;
    client.say("no size\r\n").await;
    assert_eq!(client.rest().await, "", "no second answer within the first");
    assert_eq!(server.rest().await, "");
}

#[tokio::test]
async fn upgraded_connections_pass_bytes_until_each_side_has_ended() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.say("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, upgrade\r\nUpgrade: Anything/1\r\nSec-Key: k\r\n\r\nearly").await;
    let mut server = stage.server().await;
    server
        .hear("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: Anything/1\r\nSec-Key: k\r\n\r\n")
        .await;
    assert!(server.is_silent().await, "what comes before the answer waits");
    let answer = "HTTP/1.1 101 Switching\r\nupgrade: Anything/1\r\nSec-Accept: y\r\nconnection: Upgrade\r\n\r\n";
    server.say(&format!("{answer}first")).await;
    client.hear(&format!("{answer}first")).await;
    server.hear("early").await;
    stage.stop.cancel();
    client.say("\u{1}\0binary").await;
    server.hear("\u{1}\0binary").await;
    client.end_sending().await;
    assert_eq!(server.rest().await, "", "one side's end is passed on");
    server.say("the other side goes on").await;
    client.hear("the other side goes on").await;
    assert!(!stage.done.is_finished(), "what is under way is waited for");
    drop(server);
    assert_eq!(client.rest().await, "");
    soon(stage.done).await.expect("ended");
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.say("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let mut server = stage.server().await;
    server.hear("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    server.say("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno").await;
    client.hear("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno").await;
    client.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.hear("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
}

#[tokio::test]
async fn a_clients_end_is_upstreams_to_judge() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.say("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = stage.server().await;
    server.hear("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.end_sending().await;
    assert_eq!(server.rest().await, "", "it sees that the client sends no more");
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(client.rest().await, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");

    // A body that ends too early ends too early on the other side.
    let mut client = stage.client().await;
    client.say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\ntorn").await;
    client.end_sending().await;
    let mut server = stage.server().await;
    assert!(server.rest().await.ends_with("\r\n\r\ntorn"));
    drop(server);
    assert_eq!(client.rest().await, "");

    // A client that is gone takes its stream with it.
    let mut client = stage.client().await;
    client.say("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = stage.server().await;
    server.hear("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.say("HTTP/1.1 200 OK\r\n\r\ndata").await;
    client.hear("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata").await;
    drop(client);
    assert_eq!(server.rest().await, "");
}

#[tokio::test]
async fn a_torn_answer_is_torn_for_the_client_too() {
    let stage = Stage::new().await;
    for (answer, seen) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntorn", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntorn"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntorn\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntorn\r\n",
        ),
        // Its end is the connection's.
        ("HTTP/1.1 200 OK\r\n\r\nall", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nall", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nall"),
    ] {
        let mut client = stage.client().await;
        client.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut server = stage.server().await;
        server.hear("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        server.say(answer).await;
        drop(server);
        assert_eq!(client.rest().await, seen);
    }
}

#[tokio::test]
async fn old_clients_are_served_as_they_ask() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    client.say("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let port = stage.upstream.address().port();
    let mut server = stage.server().await;
    server.hear(&format!("GET / HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n")).await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(client.rest().await, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
}

#[tokio::test]
async fn what_cannot_be_relayed_is_refused_with_a_reason() {
    let stage = Stage::new().await;
    for (request, status, reason) in [
        (
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
            "501 Not Implemented",
            "CONNECT is not offered",
        ),
        ("GET / HTTP/1.1\r\nbad name: x\r\n\r\n", "400 Bad Request", "this is no HTTP/1 message"),
        ("\u{16}\u{3}\u{1}\0\u{1}\r\n\r\n", "400 Bad Request", "this is no HTTP/1 message"),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "400 Bad Request",
            "both Transfer-Encoding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "400 Bad Request",
            "the chunked framing is broken",
        ),
    ] {
        let mut client = stage.client().await;
        client.say(request).await;
        let answer = client.rest().await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\ncontent-type: application/problem+json")),
            "{answer}"
        );
        assert!(answer.contains("connection: close") && answer.contains(reason), "{answer}");
    }
    let long = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(limits::HEADER_BYTES));
    let mut client = stage.client().await;
    client.say(&long).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 431 "));
    assert!(stage.nobody_comes().await, "none of it went upstream");
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_502() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("an address").port();
    let (relay, _stop, _done) = relay_to(closed).await;
    let mut client = End::connect(relay).await;
    client.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.hear("HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/problem+json\r\n").await;
    // The connection goes on.
    client.say("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let rest = client.rest().await;
    let whole = format!("sidehook could not get an answer from the upstream http://127.0.0.1:{closed}: ");
    assert!(rest.contains(&whole) && rest.contains("refused") && rest.contains("Is the assistant running"), "{rest}");
    assert!(rest.ends_with("connection: close\r\n\r\n"), "none for HEAD: {rest}");

    let stage = Stage::new().await;
    for (answer, why) in [
        ("", "it closed the connection"),
        ("HTTP/1.1 200", "in the middle of its answer's head"),
        ("hello\r\n\r\n", "it answered with something else"),
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "Content-Length is not a number"),
    ] {
        let mut client = stage.client().await;
        client.say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi").await;
        let mut server = stage.server().await;
        server.hear("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi").await;
        server.say(answer).await;
        server.end_sending().await;
        client.hear("HTTP/1.1 502 Bad Gateway\r\n").await;
        client.end_sending().await;
        let rest = client.rest().await;
        assert!(rest.contains(why), "{rest}");
    }
}

#[tokio::test]
async fn only_what_is_safe_is_sent_again() {
    let stage = Stage::new().await;
    let mut client = stage.client().await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    client.say(request).await;
    let mut server = stage.server().await;
    server.hear(request).await;
    server.say(ok).await;
    client.hear(ok).await;
    // A kept connection that has ended is not used.
    drop(server);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
    client.say(post).await;
    let mut server = stage.server().await;
    server.hear(post).await;
    server.say(ok).await;
    client.hear(ok).await;
    // One that ends when the request is on its way: a GET goes again.
    client.say(request).await;
    server.hear(request).await;
    drop(server);
    let mut server = stage.server().await;
    server.hear(request).await;
    server.say(ok).await;
    client.hear(ok).await;
    // What may have been done is not done twice.
    client.say(post).await;
    server.hear(post).await;
    drop(server);
    client.hear("HTTP/1.1 502 Bad Gateway\r\n").await;
    assert!(stage.nobody_comes().await);
    // A first answer that fails is no stale connection.
    let mut client = stage.client().await;
    client.say(request).await;
    drop(stage.server().await);
    client.hear("HTTP/1.1 502 Bad Gateway\r\n").await;
    assert!(stage.nobody_comes().await);
}

#[tokio::test]
async fn an_end_lets_what_is_under_way_finish() {
    let stage = Stage::new().await;
    let mut idle = stage.client().await;
    let mut client = stage.client().await;
    client.say("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut server = stage.server().await;
    server.hear("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").await;
    stage.stop.cancel();
    assert_eq!(idle.rest().await, "");
    server.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
    client.hear("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n").await;
    assert!(!stage.done.is_finished());
    server.say("0\r\n\r\n").await;
    assert_eq!(client.rest().await, "0\r\n\r\n");
    soon(stage.done).await.expect("ended");
    assert!(TcpStream::connect(stage.relay).await.is_err());
}

/// What arrives is told in the answer's body, with trailers.
async fn mirror(request: http::Request<Incoming>) -> Result<http::Response<Mirrored>, std::convert::Infallible> {
    let (parts, body) = request.into_parts();
    let collected = body.collect().await.expect("a body");
    let trailers = collected.trailers().cloned();
    let text = format!(
        "{:?} {} {} {:?} {:?} {trailers:?}",
        parts.version,
        parts.method,
        parts.uri,
        parts.headers,
        collected.to_bytes()
    );
    let mut last = http::HeaderMap::new();
    last.insert("x-last", http::HeaderValue::from_static("1"));
    let frames = [Ok(Frame::data(Bytes::from(text))), Ok(Frame::trailers(last))];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Ok(http::Response::builder().header("x-a", "1").header("x-a", "2").body(body.boxed_unsync()).expect("a response"))
}

type Mirrored = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

async fn http2(relay: SocketAddr) -> hyper::client::conn::http2::SendRequest<Mirrored> {
    let stream = TcpStream::connect(relay).await.expect("connected");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

fn post(body: &'static str) -> http::Request<Mirrored> {
    let mut last = http::HeaderMap::new();
    last.insert("x-sum", http::HeaderValue::from_static("7"));
    let frames = [Ok(Frame::data(Bytes::from(body))), Ok(Frame::trailers(last))];
    let request = http::Request::post("http://any.example/a?b").header("cookie", "a=1").header("cookie", "b=2");
    request
        .header("te", "trailers")
        .body(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
        .expect("a request")
}

#[tokio::test]
async fn http2_goes_on_as_http2_where_upstream_speaks_it() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = upstream.local_addr().expect("an address").port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = upstream.accept().await.expect("accepted");
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.auto_date_header(false);
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), hyper::service::service_fn(mirror)));
        }
    });
    let (relay, stop, done) = relay_to(port).await;
    let mut sender = http2(relay).await;
    for _ in 0..2 {
        let response = soon(sender.send_request(post("hello"))).await.expect("answered");
        assert_eq!(format!("{:?}", response.headers()), r#"{"x-a": "1", "x-a": "2"}"#, "nothing is added");
        let collected = response.into_body().collect().await.expect("a body");
        assert_eq!(
            collected.trailers().and_then(|t| t.get("x-last")).map(http::HeaderValue::as_bytes),
            Some(&b"1"[..])
        );
        let text = String::from_utf8(collected.to_bytes().to_vec()).expect("text");
        let wanted = r#"HTTP/2.0 POST http://any.example/a?b {"cookie": "a=1", "cookie": "b=2", "te": "trailers"} b"hello" Some({"x-sum": "7"})"#;
        assert_eq!(text, wanted);
    }
    stop.cancel();
    soon(done).await.expect("ended");
}

#[tokio::test]
async fn http2_goes_on_as_http1_where_upstream_speaks_only_that() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = upstream.local_addr().expect("an address").port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = upstream.accept().await.expect("accepted");
            tokio::spawn(async move {
                let service = hyper::service::service_fn(mirror);
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
            });
        }
    });
    let (relay, _stop, _done) = relay_to(port).await;
    let mut sender = http2(relay).await;
    let response = soon(sender.send_request(post("hello"))).await.expect("answered");
    let text =
        String::from_utf8(response.into_body().collect().await.expect("a body").to_bytes().to_vec()).expect("text");
    assert!(text.starts_with("HTTP/1.1 POST /a?b {") && text.contains(r#""host": "any.example""#), "{text}");
    assert!(text.contains(r#""cookie": "a=1; b=2""#) && text.contains(r#"b"hello""#), "{text}");
    let connect = http::Request::builder().method("CONNECT").uri("a.example:443");
    let connect = connect.body(Full::new(Bytes::new()).boxed_unsync()).expect("a request");
    let response = soon(sender.send_request(connect)).await.expect("answered");
    assert_eq!(response.status(), 501);
}

#[tokio::test]
async fn a_websocket_over_http2_goes_on_as_an_upgrade() {
    let stage = Stage::new().await;
    let mut sender = http2(stage.relay).await;
    // The upstream's settings say that it takes the extended CONNECT; they are there when a first request is answered.
    let asked = tokio::spawn(async move {
        let first = sender.send_request(post("")).await.expect("answered");
        assert_eq!(first.status(), 502);
        let mut request = http::Request::builder()
            .method("CONNECT")
            .uri("http://any.example/ws?x")
            .header("sec-websocket-version", "13")
            .body(Full::new(Bytes::new()).boxed_unsync())
            .expect("a request");
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        sender.send_request(request).await.expect("answered")
    });
    for _ in 0..2 {
        // It is asked for HTTP/2, and then gets the first request.
        drop(stage.server().await);
    }
    let mut server = stage.server().await;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let mut byte = [0];
        soon(server.0.read_exact(&mut byte)).await.expect("read");
        head.push(char::from(byte[0]));
    }
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("get /ws?x http/1.1\r\n") && head.contains("\r\nhost: any.example\r\n"), "{head}");
    assert!(head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nsec-websocket-key: "), "{head}");
    server.say("HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\nX-A: 1\r\n\r\n").await;
    let mut response = soon(asked).await.expect("a task");
    assert_eq!(
        (response.status(), format!("{:?}", response.headers())),
        (http::StatusCode::OK, r#"{"x-a": "1"}"#.to_owned())
    );
    let upgraded = soon(hyper::upgrade::on(&mut response)).await.expect("upgraded");
    let mut client = TokioIo::new(upgraded);
    client.write_all(b"from the client").await.expect("written");
    server.hear("from the client").await;
    server.say("from the server").await;
    let mut read = [0; 15];
    soon(client.read_exact(&mut read)).await.expect("read");
    assert_eq!(&read, b"from the server");
    drop(server);
    assert_eq!(soon(client.read(&mut read)).await.expect("ended"), 0);
}
