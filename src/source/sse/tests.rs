//! A real server on loopback that says what a test wants, to a sink that keeps what it got.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::model::Listen;
use crate::net::{Listener, bind};
use crate::source::probe::Probe;

const OPEN: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n";

/// Answers connections one after another, and keeps the request heads.
struct Server {
    listener: Arc<Listener>,
    url: url::Url,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start() -> Self {
        let listener = bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.unwrap();
        let url = format!("http://{}/events?key=k", listener.local_addr().unwrap()).parse().unwrap();
        Self { listener: Arc::new(listener), url, asked: Arc::default() }
    }

    /// One answer after another; the last one stays open.
    fn say(&self, answers: &[&str]) -> tokio::task::JoinHandle<()> {
        let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
        let (listener, asked) = (Arc::clone(&self.listener), Arc::clone(&self.asked));
        tokio::spawn(async move {
            let count = answers.len();
            for (n, answer) in answers.into_iter().enumerate() {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                asked.lock().unwrap().push(String::from_utf8(head).unwrap().to_ascii_lowercase());
                stream.write_all(answer.as_bytes()).await.unwrap();
                if n + 1 == count {
                    std::future::pending::<()>().await;
                }
            }
        })
    }

    fn source(&self, sink: &Arc<Probe>, egress: Egress) -> (SseSource<Probe>, CancellationToken) {
        let stop = CancellationToken::new();
        let feed = Feed::new("stream".into(), Arc::clone(sink), stop.clone());
        let headers = vec![(header::AUTHORIZATION, HeaderValue::from_static("Bearer t0k"))];
        let source =
            SseSource::new(feed, self.url.clone(), headers, Arc::new(move || egress.clone()), Entropy::seeded(1));
        (source, stop)
    }
}

fn event(id: &str, more: &str) -> String {
    format!("id: {id}\ndata: {{\"id\":\"e{id}\",\"type\":\"a.b\"}}\n{more}\n")
}

async fn until_ids(sink: &Probe, count: usize) {
    for _ in 0..1000 {
        if sink.ids().len() >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", sink.ids());
}

#[tokio::test]
async fn a_stream_is_taken_up_where_it_was_lost_and_after_a_restart() {
    let server = Server::start().await;
    let one = format!("{OPEN}retry: 1\n\n: hello\n\n{}{}id: bad\ndata: nonsense\n\n", event("1", ""), event("2", ""));
    let two = format!("{OPEN}{}", event("3", "event: x\n"));
    let serving = server.say(&[&one, "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", &two]);
    let sink = Arc::new(Probe::default());
    let (source, stop) = server.source(&sink, Egress::default());
    let running = tokio::spawn(source.run());
    until_ids(&sink, 3).await;
    stop.cancel();
    running.await.unwrap();
    serving.abort();
    assert_eq!(sink.ids(), ["e1", "e2", "e3"]);
    let asked = server.asked.lock().unwrap().clone();
    assert!(
        asked[0].starts_with("get /events?key=k http/1.1") && asked[0].contains("authorization: bearer t0k"),
        "{asked:?}"
    );
    assert!(asked[0].contains("accept: text/event-stream") && !asked[0].contains("last-event-id"), "{asked:?}");
    assert!(asked[1].contains("last-event-id: bad\r\n") && asked[2].contains("last-event-id: bad\r\n"), "{asked:?}");
    assert!(
        sink.ends.lock().unwrap().is_empty(),
        "it was there again in time, and sidehook's end is none of the stream"
    );
    let streams: Vec<_> = sink.got.lock().unwrap().iter().map(|items| items.stream).collect();
    assert!(streams.iter().all(|stream| *stream == Some(StreamId(1))), "{streams:?}");

    let stored = sink.offset();
    assert!(!stored.as_deref().unwrap_or_default().contains("key=k"), "{stored:?}");
    let sink = Arc::new(Probe { stored, ..Probe::default() });
    let serving = server.say(&[&format!("{OPEN}{}", event("4", ""))]);
    let (source, stop) = server.source(&sink, Egress::default());
    let running = tokio::spawn(source.run());
    until_ids(&sink, 1).await;
    stop.cancel();
    running.await.unwrap();
    serving.abort();
    assert!(server.asked.lock().unwrap()[3].contains("last-event-id: 3\r\n"));
}

#[tokio::test]
async fn a_204_ends_the_stream_for_good() {
    let server = Server::start().await;
    let open = format!("{OPEN}retry: 1\n\n{}", event("1", ""));
    let serving = server.say(&[&open, "HTTP/1.1 204 Nothing\r\n\r\n"]);
    let sink = Arc::new(Probe::default());
    let (source, stop) = server.source(&sink, Egress::default());
    let running = tokio::spawn(source.run());
    for _ in 0..1000 {
        if !sink.ends.lock().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ends = sink.ends.lock().unwrap().clone();
    assert_eq!((ends.len(), ends[0].stream, &ends[0].reason), (1, StreamId(1), &EndReason::Disconnected));
    assert!(!running.is_finished());
    stop.cancel();
    running.await.unwrap();
    serving.abort();
}

#[tokio::test]
async fn what_is_no_stream_and_what_may_not_be_dialled_is_told() {
    let server = Server::start().await;
    let loopback = Egress { deny: vec!["127.0.0.0/8".parse().unwrap()], ..Egress::default() };
    let (mut source, _) = server.source(&Arc::default(), loopback);
    let client = source.client().unwrap();
    let Err(Over::Refused(why)) = source.open(client).await else { panic!("it was dialled") };
    assert!(why.contains("is blocked by egress.deny 127.0.0.0/8"), "{why}");

    let (mut source, _) = server.source(&Arc::default(), Egress::default());
    let serving = server.say(&[
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 301 Moved\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
        "",
    ]);
    for expected in ["the answer is \"text/html\", not text/event-stream", "the server answered 301"] {
        let client = source.client().unwrap();
        let Err(Over::Refused(why)) = source.open(client).await else { panic!("{expected}") };
        assert_eq!(why, expected);
    }
    serving.abort();
    source.url = "http://stream.example.com/".parse().unwrap();
    let client = source.client().unwrap();
    let Err(Over::Refused(why)) = source.open(client).await else { panic!("it was dialled") };
    assert!(why.contains("http:// is blocked"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_back_in_time_has_ended() {
    let server = Server::start().await;
    let sink = Arc::new(Probe::default());
    let (mut source, _) = server.source(&sink, Egress::default());
    source.url = "http://127.0.0.1:1/".parse().unwrap();
    let began = tokio::time::Instant::now();
    let (mut stream, mut lost) = (Some(StreamId(9)), Some(began));
    assert!(matches!(source.until_over(&mut stream, &mut lost, &mut 0).await, Over::Refused(_)));
    assert_eq!(deadline(stream, lost), Some(began + limits::SSE_RESUME));
    assert!(deadline(None, lost).is_none() && deadline(stream, None).is_none());
    source.end(&mut stream).await;
    source.end(&mut stream).await;
    assert_eq!(sink.ends.lock().unwrap().len(), 1, "an end is told once");
}

#[test]
fn pauses_grow_within_bounds_and_are_spread() {
    let feed = Feed::new("stream".into(), Arc::new(Probe::default()), CancellationToken::new());
    let url = "https://stream.example.com/".parse().unwrap();
    let mut source = SseSource::new(feed, url, Vec::new(), Arc::new(Egress::default), Entropy::seeded(3));
    for (retry, failures, least, most) in [
        (Duration::from_secs(3), 0, 2250, 3750),
        (Duration::from_secs(3), 2, 9000, 15_000),
        (Duration::from_secs(3), 40, 45_000, 75_000),
        (Duration::ZERO, 0, 75, 125),
        (Duration::MAX, 0, 45_000, 75_000),
    ] {
        source.retry = retry;
        let pauses: Vec<u64> = (0..20).map(|_| millis(source.pause(failures))).collect();
        assert!(pauses.iter().all(|pause| (least..=most).contains(pause)), "{retry:?} {failures}: {pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
    }
}
