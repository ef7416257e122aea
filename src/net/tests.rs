//! The client against real receivers on loopback: good ones, and ones that misbehave in every way that matters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connector::Names;
use super::*;
use crate::clock::Clock;
use crate::config::model::{Egress, Listen, Tls};
use crate::delivery::Fault;
use crate::limits;
use crate::secret::Secret;
use crate::sign::{Signer, SigningKey, VerifyKey};

const AT_ONCE: usize = 64;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn guard(egress: &Egress) -> Arc<Guard> {
    Arc::new(Guard::new(egress))
}

fn plain_client() -> Client {
    Client::new(&Tls::default(), guard(&Egress { allow_http: true, ..Egress::default() }), AT_ONCE).expect("a client")
}

fn post(url: &str) -> Request<Full<Bytes>> {
    Request::post(url).body(Full::new(Bytes::from_static(b"{}"))).expect("a request")
}

async fn tls_receiver(names: &[&str]) -> (SocketAddr, Tls, mpsc::Receiver<Received>, CancellationToken) {
    let made = self_signed(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).expect("certificates");
    let options = ReceiverOptions {
        listen: Listen::Tcp(([127, 0, 0, 1], 0).into()),
        tls: Some(made.server),
        keys: vec![VerifyKey::parse(&Secret::new(SECRET)).expect("a key")],
        tolerance: None,
        status: StatusCode::NO_CONTENT,
        clock: Clock::System,
    };
    let receiver = Receiver::bind(options).await.expect("bound");
    let Listen::Tcp(addr) = receiver.local().clone() else { panic!("tcp") };
    let stop = CancellationToken::new();
    (addr, Tls { ca: vec![made.ca], ..Tls::default() }, receiver.start(stop.clone()), stop)
}

/// Answers every connection with the same bytes, after reading a request head; counts connections.
async fn canned(answer: &'static [u8], then: Then) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(speak(stream, answer, then));
        }
    });
    (url, count)
}

#[derive(Clone, Copy)]
enum Then {
    Close,
    Stall,
    Drip,
    Endless,
    KeepAlive,
}

async fn speak(mut stream: TcpStream, answer: &'static [u8], then: Then) {
    let mut buffer = vec![0; 4096];
    loop {
        if stream.read(&mut buffer).await.unwrap_or(0) == 0 || stream.write_all(answer).await.is_err() {
            return;
        }
        match then {
            Then::Close => return,
            Then::Stall => return std::future::pending().await,
            Then::Drip => loop {
                if stream.write_all(b"x").await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            },
            Then::Endless => while stream.write_all(&[b'x'; 1024]).await.is_ok() {},
            Then::KeepAlive => {}
        }
    }
}

#[tokio::test]
async fn signed_over_http2_with_tls_and_one_connection_for_many() {
    let (addr, tls, mut received, _stop) = tls_receiver(&["localhost", "127.0.0.1"]).await;
    let client = Client::new(&tls, guard(&Egress::default()), AT_ONCE).expect("a client");
    let signer = Signer::Standard(vec![SigningKey::parse(&Secret::new(SECRET)).expect("a key")]);
    for (host, signed) in [("localhost", true), ("127.0.0.1", true), ("localhost", false)] {
        let mut request = post(&format!("https://{host}:{}/a?b=c", addr.port()));
        let body: &[u8] = if signed { b"{}" } else { b"[]" };
        request.headers_mut().extend(signer.headers("msg_1", 1_700_000_000, body).into_iter());
        let answer = client.send(request, Duration::from_secs(20)).await.expect("an answer");
        let seen = received.recv().await.expect("a request");
        assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.version.as_str()), ("POST", "/a?b=c", "HTTP/2.0"));
        assert_eq!(seen.verified.clone().map(|v| v.is_ok()), Some(signed), "{:?}", seen.verified);
        assert_eq!(answer.status, if signed { 204 } else { 401 });
    }
}

#[tokio::test]
async fn http1_connections_are_used_again_however_many_there_are() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
    let connections = Arc::new(AtomicUsize::new(0));
    let (counter, all_here) = (Arc::clone(&connections), Arc::new(tokio::sync::Barrier::new(AT_ONCE)));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let all_here = Arc::clone(&all_here);
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                    all_here.wait().await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            });
        }
    });
    let client = plain_client();
    for wave in 1..=3 {
        let mut sending = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let (client, request) = (client.clone(), post(&url));
            sending.spawn(async move { client.send(request, Duration::from_secs(20)).await });
        }
        while let Some(sent) = sending.join_next().await {
            assert_eq!(sent.expect("no panic").expect("an answer").status, 200, "wave {wave}");
        }
        // A connection is free a moment after its answer was read.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(connections.load(Ordering::SeqCst), AT_ONCE);
}

#[tokio::test]
async fn certificates_are_checked_and_the_message_helps() {
    let (addr, tls, _received, _stop) = tls_receiver(&["hooks.internal"]).await;
    let url = format!("https://127.0.0.1:{}/", addr.port());
    for (tls, expected) in [
        (Tls::default(), Some("tls.ca_file adds one to the built-in store")),
        (tls.clone(), Some("tls.server_name sets the name to expect")),
        (Tls { server_name: Some("hooks.internal".into()), ..tls.clone() }, None),
        (Tls { server_name: Some("hooks.internal".into()), min_tls13: true, ..tls }, None),
    ] {
        let client = Client::new(&tls, guard(&Egress::default()), AT_ONCE).expect("a client");
        match (client.send(post(&url), Duration::from_secs(20)).await, expected) {
            (Ok(answer), None) => assert_eq!(answer.status, 401),
            (Err(failure), Some(text)) => {
                assert_eq!(failure.fault, Fault::Tls);
                assert!(failure.message.contains(text), "{}", failure.message);
            }
            (answer, expected) => panic!("{answer:?}, expected {expected:?}"),
        }
    }
}

#[tokio::test]
async fn faults_are_told_apart() {
    let (not_tls, _) = canned(b"HTTP/1.1 200 OK\r\n\r\n", Then::Close).await;
    let (reset, _) = canned(b"", Then::Close).await;
    let (torn, _) = canned(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", Then::Close).await;
    let (nonsense, _) = canned(b"hello there, this is no HTTP\r\n\r\n", Then::Close).await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        format!("http://{}/", listener.local_addr().expect("bound"))
    };
    for (url, fault, text) in [
        (not_tls.replace("http:", "https:"), Fault::Tls, "does it speak TLS on this port?"),
        (reset, Fault::Reset, "broke before the answer was complete"),
        (torn, Fault::Reset, "broke before the answer was complete"),
        (nonsense, Fault::Reset, "broke before the answer was complete"),
        (closed, Fault::Connect, "could not be reached: Connection refused"),
        ("http://does-not-exist.invalid/".to_owned(), Fault::Connect, "could not be resolved"),
        ("http://169.254.169.254/latest".to_owned(), Fault::Denied, "built-in rule link-local (169.254.0.0/16)"),
        ("http://[::ffff:169.254.169.254]/".to_owned(), Fault::Denied, "which leads to 169.254.169.254"),
    ] {
        let failure = plain_client().send(post(&url), Duration::from_secs(20)).await.expect_err(&url);
        assert_eq!(failure.fault, fault, "{url}: {}", failure.message);
        assert!(failure.message.contains(text), "{url}: {}", failure.message);
    }
    let strict = Client::new(&Tls::default(), guard(&Egress::default()), AT_ONCE).expect("a client");
    let failure = strict.send(post("http://127.0.0.1:1/"), Duration::from_secs(20)).await.expect_err("http");
    assert_eq!((failure.fault, failure.message.contains("egress.allow_http")), (Fault::Denied, true));
    let deny = Egress { allow_http: true, deny: vec!["127.0.0.0/8".parse().expect("a net")], ..Egress::default() };
    let client = Client::new(&Tls::default(), guard(&deny), AT_ONCE).expect("a client");
    let failure = client.send(post("http://localhost:1/"), Duration::from_secs(20)).await.expect_err("denied");
    assert!(matches!(failure.fault, Fault::Denied | Fault::Connect), "{failure:?}");
}

#[tokio::test]
async fn the_deadline_covers_the_body_and_nothing_is_read_beyond_the_limit() {
    let short = Duration::from_millis(150);
    let (silent, _) = canned(b"", Then::Stall).await;
    let (dripping, _) = canned(b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n", Then::Drip).await;
    let (stalling, _) = canned(b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\nabc", Then::Stall).await;
    for (url, text, came) in
        [(silent, "an answer did not", ""), (dripping, "answer's body did not", "x"), (stalling, "body did not", "abc")]
    {
        let failure = plain_client().send(post(&url), short).await.expect_err("a timeout");
        assert_eq!(failure.fault, Fault::Timeout, "{}", failure.message);
        assert!(failure.message.contains(text), "{}", failure.message);
        assert!(failure.body.starts_with(came.as_bytes()), "what came is kept: {:?}", failure.body);
    }
    let (refusing, _) = canned(b"HTTP/1.1 400 Bad\r\ncontent-length: 4000\r\n\r\nabc", Then::Stall).await;
    let answer = plain_client().send(post(&refusing), short).await.expect("a refusal is known from its head");
    assert_eq!((answer.status, &answer.body[..]), (400, &b"abc"[..]));

    let (endless, _) = canned(b"HTTP/1.1 200 OK\r\n\r\n", Then::Endless).await;
    let answer = plain_client().send(post(&endless), Duration::from_secs(20)).await.expect("enough was read");
    assert_eq!((answer.status, answer.body.len()), (200, limits::RESPONSE_BYTES));
}

#[tokio::test]
async fn an_answer_may_end_without_tls_saying_so_but_not_in_its_middle() {
    let made = self_signed(&["localhost".to_owned()]).expect("certificates");
    let tls = Tls { ca: vec![made.ca], ..Tls::default() };
    let mut settings = made.server;
    settings.alpn_protocols = Vec::new();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(settings));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("https://localhost:{}/hook", listener.local_addr().expect("bound").port());
    let client = Client::new(&tls, guard(&Egress::default()), AT_ONCE).expect("a client");
    for (said, whole) in [
        ("HTTP/1.0 200 OK\r\n\r\nall of it", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nall of it", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nall of it", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nall of it\r\n", false),
        ("HTTP/1.1 200 OK\r\n", false),
    ] {
        let serve = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut stream = acceptor.accept(stream).await.expect("shaken hands");
            let mut buffer = vec![0; 4096];
            let _ = stream.read(&mut buffer).await.expect("a request");
            stream.write_all(said.as_bytes()).await.expect("sent");
            stream.flush().await.expect("sent");
            // The connection ends below TLS, which says nothing.
            stream.get_mut().0.shutdown().await.expect("an end");
            let _ = stream.read(&mut buffer).await;
        };
        let (answer, ()) = tokio::join!(client.send(post(&url), Duration::from_secs(20)), serve);
        match answer {
            Ok(answer) => {
                assert_eq!((answer.status, &answer.body[..], whole), (200, &b"all of it"[..], true), "{said}");
            }
            Err(failure) => assert_eq!((failure.fault, whole), (Fault::Reset, false), "{said}: {}", failure.message),
        }
    }
}

#[tokio::test]
async fn redirects_are_answers_and_retry_after_is_handed_on() {
    let (url, count) =
        canned(b"HTTP/1.1 302 Found\r\nlocation: /b\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\nno", Then::KeepAlive)
            .await;
    let client = plain_client();
    for _ in 0..3 {
        let answer = client.send(post(&url), Duration::from_secs(20)).await.expect("an answer");
        assert_eq!((answer.status, answer.retry_after.as_deref(), &answer.body[..]), (302, Some("7"), &b"no"[..]));
    }
    assert_eq!(count.load(Ordering::SeqCst), 1, "one pooled connection served them all");
}

#[tokio::test]
async fn a_pooled_connection_that_was_closed_meanwhile_is_no_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
    let client = plain_client();
    for _ in 0..5 {
        let (answer, ()) = tokio::join!(client.send(post(&url), Duration::from_secs(20)), async {
            let (stream, _) = listener.accept().await.expect("a fresh connection");
            // Ends, and with it closes the connection, which the client has kept for the next request.
            speak(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Close).await;
        });
        assert_eq!(answer.expect("an answer").status, 200);
    }
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_at_the_next_attempt_is_caught() {
    let (url, count) = canned(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n", Then::Close).await;
    let url = url.replace("127.0.0.1", "crm.example.com");
    let asked = AtomicUsize::new(0);
    let names = Names::Scripted(Arc::new(move |_, port| {
        let good = SocketAddr::from(([127, 0, 0, 1], port));
        let metadata = SocketAddr::from(([169, 254, 169, 254], port));
        let disguised = SocketAddr::new("64:ff9b::a9fe:a9fe".parse().expect("an address"), port);
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => vec![good],
            1 => vec![metadata],
            2 => vec![disguised],
            _ => vec![metadata, disguised, good],
        }
    }));
    let egress = Egress { allow_http: true, ..Egress::default() };
    let client = Client::with_names(&Tls::default(), guard(&egress), AT_ONCE, names).expect("a client");
    for expected in
        [None, Some("169.254.169.254 is blocked by the built-in rule link-local"), Some("which leads to"), None]
    {
        match (client.send(post(&url), Duration::from_secs(20)).await, expected) {
            (Ok(answer), None) => assert_eq!(answer.status, 204),
            (Err(failure), Some(text)) => {
                assert_eq!(failure.fault, Fault::Denied);
                assert!(failure.message.contains(text), "{}", failure.message);
                assert!(failure.message.contains("crm.example.com"), "{}", failure.message);
            }
            (answer, expected) => panic!("{answer:?}, expected {expected:?}"),
        }
    }
    assert_eq!(count.load(Ordering::SeqCst), 2, "only allowed addresses are dialled");
}

#[test]
fn a_time_limit_is_told_without_the_digits_nobody_wants() {
    let told = |micros| client::shown(Duration::from_micros(micros));
    assert_eq!(told(2_000_000), "2s");
    assert_eq!(told(1_998_734), "1.998s");
    assert_eq!(told(249_999), "249ms");
}
