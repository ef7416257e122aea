//! A proxy source as its users meet it: an assistant behind it, a client before it, webhooks beside it.

use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{PATIENCE, Receiver, Reply, Sidehook, eventually, own_address};

/// An assistant that answers each request, by its path: what follows the head of an answer, and the end of the connection
/// where that is its end.
struct Assistant {
    address: String,
}

impl Assistant {
    async fn start() -> Self {
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // Ended by its client.
                tokio::spawn(async move { Self::serve(stream).await.ok() });
            }
        });
        Self { address }
    }

    async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
        let mut read = Vec::new();
        loop {
            let Some(head) = read.windows(4).position(|w| w == b"\r\n\r\n") else {
                if stream.read_buf(&mut read).await? == 0 {
                    return Ok(());
                }
                continue;
            };
            let text = String::from_utf8_lossy(&read[..head]).into_owned();
            read.drain(..head + 4);
            let length = text
                .to_ascii_lowercase()
                .split_once("content-length: ")
                .map_or(0, |(_, rest)| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
            let mut body = length;
            while body > 0 {
                let taken = body.min(read.len());
                read.drain(..taken);
                body -= taken;
                if body > 0 && stream.read_buf(&mut read).await? == 0 {
                    return Ok(());
                }
            }
            match text.split(' ').nth(1).unwrap() {
                "/sse" => {
                    let event = json!({"n": 1});
                    let events = format!("event: begun\nid: 7\ndata: {event}\n\nevent: other\ndata: {event}\n\n");
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
                    stream.write_all(format!("{head}{events}").as_bytes()).await?;
                    return Ok(());
                }
                "/slow" => {
                    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                    stream.write_all(format!("{head}5\r\nfirst\r\n").as_bytes()).await?;
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                    stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await?;
                }
                path if path.starts_with("/large") => {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
                    stream.write_all(head.as_bytes()).await?;
                    let part = vec![b'x'; 1024 * 1024];
                    for _ in 0..LARGE / part.len() {
                        stream.write_all(&part).await?;
                    }
                }
                _ => {
                    let text = format!("{length} bytes");
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
                    stream.write_all(format!("{head}{text}").as_bytes()).await?;
                }
            }
        }
    }
}

/// A gigabyte.
const LARGE: usize = 1024 * 1024 * 1024;

/// `sources` with one proxy called `bot`.
fn sources(listen: &str, upstream: &str, taps: &str) -> String {
    format!(
        "sources: {{bot: {{type: proxy, listen: \"{listen}\", upstream: \"http://{upstream}\", taps: [{taps}]}}}}\n"
    )
}

fn free() -> String {
    format!("{}:7072", own_address())
}

async fn post(proxy: &str, path: &str, body: &Value) -> String {
    let body = body.to_string();
    raw(
        proxy,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: bot\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
    .await
}

/// What comes back, to the end of the connection.
async fn raw(proxy: &str, request: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time")
}

fn begun(id: &str) -> Value {
    json!({"id": id, "type": "conversation.begin", "conversation": {"id": "c"}})
}

#[tokio::test]
async fn what_passes_becomes_webhooks() {
    let (assistant, receiver, proxy) = (Assistant::start().await, Receiver::start().await, free());
    let taps = "{path: /events, method: POST, read: request, format: json}, \
                {path: /sse, read: response, format: sse, adapter: sse.rhai}";
    let script = r#"
        fn adapt(message) {
            if message.headers["sse-event"] != "begun" { return (); }
            #{ type: "conversation.begin", conversation: #{ id: "from-" + message.path }, argument: #{
                n: message.body.n, id: message.headers["sse-id"], direction: message.direction } }
        }"#;
    let sidehook = Sidehook::builder()
        .main(&sources(&proxy, &assistant.address, taps))
        .rule("sse.rhai", script)
        .webhook(
            "crm",
            &receiver.webhook(
                "/crm",
                "events: [\"*\"]\nparams: {id: event.id, conversation: conversation.id, argument: \"argument.*\", reason: event.reason}",
            ),
        )
        .start()
        .await;
    let answer = post(&proxy, "/events", &begun("e1")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(" bytes"), "{answer}");
    assert_eq!(receiver.wait("/crm", 1).await[0].json(), json!({"id": "e1", "conversation": "c", "argument": {}}));
    let answer = raw(&proxy, "GET http://elsewhere.example/sse HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n").await;
    assert!(answer.contains("event: other"), "through the proxy, and to its upstream: {answer}");
    let got = receiver.wait("/crm", 2).await[1].json();
    assert_eq!(got["conversation"], "from-/sse");
    assert_eq!(got["argument"], json!({"n": 1, "id": "7", "direction": "response"}));
    // The stream ended and left its conversation open; a body that ends leaves none.
    let got = receiver.wait("/crm", 3).await[2].json();
    assert_eq!((&got["conversation"], &got["reason"]), (&json!("from-/sse"), &json!("disconnected")));
    let begun = ["source=\"bot\"", "type=\"conversation.begin\""];
    assert_eq!(sidehook.metric("sidehook_events_received_total", &begun).await, 2.0);
    assert_eq!(sidehook.metric("sidehook_tap_dropped_total", &[]).await, 0.0);
    let status = sidehook.get("/api/v1/status").await.json();
    assert_eq!(status["sources"], json!([{"name": "bot", "type": "proxy", "listen": proxy, "namespace": ""}]));
}

#[tokio::test]
async fn failing_rules_and_a_full_outbox_leave_the_traffic_alone() {
    let (assistant, receiver, proxy) = (Assistant::start().await, Receiver::start().await, free());
    receiver.on("/down", &[Reply::status(503)]);
    let taps = "{path: \"/json/*\", format: json, read: request}, {path: /broken, format: json, read: request, adapter: broken.rhai}";
    let sidehook = Sidehook::builder()
        .main(&sources(&proxy, &assistant.address, taps))
        .main("outbox: {max_bytes: 4MiB}")
        .rule("broken.rhai", "fn adapt(message) { throw \"no\"; }")
        .rule("rule.rhai", "fn transform(event, payload) { throw \"no\"; }")
        .webhook("rule", &receiver.webhook("/rule", "events: [\"*\"]\nrule: rule.rhai"))
        .webhook(
            "down",
            &receiver.webhook(
                "/down",
                "events: [\"*\"]\nparams: {words: argument.words}\nretry: {schedule: [1h], jitter: 0}",
            ),
        )
        .start()
        .await;
    assert!(post(&proxy, "/broken", &begun("b")).await.ends_with(" bytes"));
    sidehook.logged("the adapter failed").await;
    assert!(post(&proxy, "/json/1", &json!("no event")).await.ends_with("10 bytes"));
    sidehook.logged("this is no event").await;
    // Until nothing more is taken.
    let words = "x".repeat(200_000);
    eventually("the outbox is full", async || {
        let mut event = begun("e");
        event["id"] = json!(format!("e{}", rand()));
        event["argument"] = json!({"words": words});
        let answer = post(&proxy, "/json/2", &event).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(" bytes"), "{answer}");
        match sidehook.metric("sidehook_tap_dropped_total", &["source=\"bot\""]).await {
            dropped if dropped >= 3.0 => Ok(()),
            dropped => Err(format!("{dropped} dropped")),
        }
    })
    .await;
    sidehook.logged("a tap lost messages").await;
    assert!(post(&proxy, "/untapped", &begun("u")).await.ends_with(" bytes"));
    assert!(sidehook.ledger("rule").await["rule_failed"].as_u64() > Some(0), "and the rule failed all along");
}

/// A number that no other call has given.
fn rand() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// The most memory that the process has had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_gigabyte_passes_at_flat_memory() {
    let (assistant, proxy) = (Assistant::start().await, free());
    let taps = "{path: /large/json, format: json}, {path: /large/lines, format: ndjson}, {path: /large/block, format: sse, on_overflow: block}";
    let sidehook = Sidehook::builder().main(&sources(&proxy, &assistant.address, taps)).start().await;
    // What the first requests take is there from then on.
    for path in ["/large/json", "/large/lines", "/large/block"] {
        post(&proxy, path.trim_start_matches("/large"), &begun("x")).await;
    }
    let before = peak(sidehook.pid());
    for path in ["/large", "/large/json", "/large/lines", "/large/block"] {
        let mut stream = TcpStream::connect(&proxy).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: bot\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut total) = (vec![0; 256 * 1024], 0);
        loop {
            let n = tokio::time::timeout(PATIENCE, stream.read(&mut read)).await.unwrap().unwrap();
            if n == 0 {
                break;
            }
            total += n;
        }
        assert!((LARGE..LARGE + 200).contains(&total), "{path}: {total}");
    }
    // And up.
    let mut stream = TcpStream::connect(&proxy).await.unwrap();
    let head = format!("POST /up HTTP/1.1\r\nHost: bot\r\nConnection: close\r\nContent-Length: {LARGE}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let part = Bytes::from(vec![b'x'; 1024 * 1024]);
    for _ in 0..LARGE / part.len() {
        tokio::time::timeout(PATIENCE, stream.write_all(&part)).await.unwrap().unwrap();
    }
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.ends_with(&format!("{LARGE} bytes")), "{answer}");
    let grown = peak(sidehook.pid()) - before;
    // A message of `limits.body`, 8 MiB, is gathered before it is seen to be too large.
    assert!(grown < 48 * 1024 * 1024, "{} MiB more", grown / 1024 / 1024);
    assert!(sidehook.metric("sidehook_tap_dropped_total", &["source=\"bot\""]).await >= 3.0);
}

#[tokio::test]
async fn a_reload_changes_taps_and_upstream() {
    let (first, second) = (Assistant::start().await, TcpListener::bind((own_address(), 0)).await.unwrap());
    let (receiver, proxy) = (Receiver::start().await, free());
    let sidehook = Sidehook::builder()
        .main(&sources(&proxy, &first.address, ""))
        .webhook("crm", &receiver.webhook("/crm", "events: [\"*\"]"))
        .start()
        .await;
    assert!(post(&proxy, "/events", &begun("unheard")).await.ends_with(" bytes"));
    let settings = sidehook.read("sidehook.yaml");
    let settings: Vec<_> = settings.lines().filter(|line| !line.starts_with("sources")).collect();
    let tap = "{path: /events, read: request, format: json}";
    let upstream = second.local_addr().unwrap().to_string();
    sidehook.write("sidehook.yaml", &format!("{}\n{}", settings.join("\n"), sources(&proxy, &upstream, tap)));
    sidehook.await_generation(2).await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = second.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond").await;
        }
    });
    eventually("the new upstream answers", async || {
        let answer = post(&proxy, "/events", &begun("heard")).await;
        if answer.ends_with("second") { Ok(()) } else { Err(answer) }
    })
    .await;
    receiver.wait("/crm", 1).await;
    assert_eq!(receiver.all().len(), 1, "the first one was not read along");
}

#[tokio::test]
async fn a_stream_goes_on_while_sidehook_ends() {
    let (assistant, proxy) = (Assistant::start().await, free());
    let mut sidehook = Sidehook::builder()
        .main(&sources(&proxy, &assistant.address, "{path: \"/**\", format: ndjson}"))
        .main("shutdown: {accept: 0s, grace: 30s}")
        .start()
        .await;
    let mut stream = TcpStream::connect(&proxy).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: bot\r\n\r\n").await.unwrap();
    let mut first = [0; 64];
    let n = stream.read(&mut first).await.unwrap();
    assert!(String::from_utf8_lossy(&first[..n]).starts_with("HTTP/1.1 200 OK"));
    sidehook.signal(Signal::TERM);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("4\r\nlast\r\n0\r\n\r\n"), "{rest:?}");
    assert_eq!(sidehook.ended().await.code(), Some(0));
}
