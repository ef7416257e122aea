//! What one dead destination costs the others, and how fast a backlog goes out, as ratios within one run:
//!
//! ```sh
//! cargo bench --bench crowd
//! ```
//!
//! A hundred webhooks share one sidehook, and senders that each wait for their answer send to all of them in turn. There are
//! two such sidehooks with receivers of their own: at one all destinations answer, at the other one of them never answers, or
//! answers 503. They take turns of a tenth of a second, so that other work on the machine weighs on both alike; counted is
//! what arrives at the other ninety-nine. Three hundred such pairs give a median of ratios with its interval of confidence; a
//! first round in which all destinations of both answer shows what the method itself makes of nothing. Then all of one are
//! down for a while, and what has gathered goes out. `SIDEHOOK_BENCH_PAIRS` sets how many pairs there are.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a benchmark measures by the real clock, prints, and fails by panicking"
)]

use std::convert::Infallible;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use sidehook::config::model::Listen;
use sidehook::net::{self, ServeOptions};
use tokio_util::sync::CancellationToken;

const WEBHOOKS: u64 = 100;
const SENDERS: u64 = 64;
const TURN: Duration = Duration::from_millis(100);

/// How destinations answer: the first one, or all.
const GOOD: u8 = 0;
const FIRST_HANGS: u8 = 1;
const FIRST_FAILS: u8 = 2;
const ALL_FAIL: u8 = 3;

#[derive(Default)]
struct Destinations {
    mode: AtomicU8,
    first: AtomicU64,
    others: AtomicU64,
}

impl Destinations {
    fn arrived(&self) -> u64 {
        self.first.load(Ordering::SeqCst) + self.others.load(Ordering::SeqCst)
    }

    async fn receive(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let first = request.uri().path() == "/0";
        // Cut off when its sender ends.
        let _ = request.into_body().collect().await;
        let mut response = Response::new(Full::new(Bytes::new()));
        match self.mode.load(Ordering::SeqCst) {
            FIRST_HANGS if first => std::future::pending().await,
            FIRST_FAILS if first => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
            ALL_FAIL => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
            _ => {
                let count = if first { &self.first } else { &self.others };
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(response)
    }
}

struct Bench {
    destinations: Arc<Destinations>,
    ingest: String,
    sent: Arc<AtomicU64>,
    child: Child,
    _home: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (well, ill) = (Bench::start().await, Bench::start().await);
        println!("{WEBHOOKS} webhooks, {SENDERS} senders, {} pairs of {} ms", how_many_pairs(), TURN.as_millis());
        for (name, mode) in
            [("none is dead", GOOD), ("one never answers", FIRST_HANGS), ("one answers 503", FIRST_FAILS)]
        {
            ill.destinations.mode.store(mode, Ordering::SeqCst);
            // Connections are made, breakers open.
            for _ in 0..4 {
                well.turn().await;
                ill.turn().await;
            }
            let mut pairs = Vec::new();
            for pair in 0..how_many_pairs() {
                // Each comes first in every other pair.
                let (good, bad) = if pair % 2 == 0 {
                    let good = well.turn().await;
                    (good, ill.turn().await)
                } else {
                    let bad = ill.turn().await;
                    (well.turn().await, bad)
                };
                pairs.push((bad / good, good, bad));
            }
            report(name, pairs);
        }
        drop(ill);
        well.backlog().await;
    });
}

/// The median of the ratios, its interval of 95 % confidence by the ranks of a binomial distribution (no assumption about how
/// ratios are spread), and the middle half of them.
fn report(name: &str, mut pairs: Vec<(f64, f64, f64)>) {
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n = pairs.len() as f64;
    let ratio = |rank: f64| pairs[(rank.max(0.0) as usize).min(pairs.len() - 1)].0;
    let half_width = 0.98 * n.sqrt();
    let mean = |of: fn(&(f64, f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / n;
    println!(
        "{name:<18} the others get {:.3} of the rate, 95 % sure within {:.3} to {:.3} (half of the pairs: {:.2} to {:.2}; \
         {:.0}/s and {:.0}/s)",
        ratio(n / 2.0),
        ratio(n / 2.0 - half_width),
        ratio(n / 2.0 + half_width),
        ratio(n / 4.0),
        ratio(n * 3.0 / 4.0),
        mean(|pair| pair.2),
        mean(|pair| pair.1)
    );
}

/// Pairs of turns for each state of the one destination.
fn how_many_pairs() -> usize {
    std::env::var("SIDEHOOK_BENCH_PAIRS").ok().and_then(|s| s.parse().ok()).unwrap_or(300)
}

fn seconds() -> Duration {
    let secs = std::env::var("SIDEHOOK_BENCH_SECS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    Duration::from_secs(secs)
}

impl Bench {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let identity = net::self_signed(&["localhost".to_owned()]).unwrap();
        std::fs::write(home.path().join("ca.pem"), &identity.ca_pem).unwrap();
        let listener = net::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let destinations = Arc::new(Destinations::default());
        let service = {
            let destinations = Arc::clone(&destinations);
            hyper::service::service_fn(move |request| {
                let destinations = Arc::clone(&destinations);
                async move { destinations.receive(request).await }
            })
        };
        let options = ServeOptions { tls: Some(Arc::new(identity.server)), ..ServeOptions::default() };
        tokio::spawn(net::serve(listener, service, CancellationToken::new(), options));

        let ingest = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let settings = format!(
            "sources: {{events: {{type: http, listen: {ingest}}}}}\nadmin: {{listen: 127.0.0.1:0}}\noutbox: {{max_bytes: 16GiB}}\n"
        );
        std::fs::write(home.path().join("sidehook.yaml"), settings).unwrap();
        std::fs::create_dir(home.path().join("webhooks")).unwrap();
        for n in 0..WEBHOOKS {
            let webhook = format!(
                "url: https://localhost:{port}/{n}\nevents: [to.{n}]\ntls: {{ca_file: ca.pem}}\ntimeout: 5s\n\
                 signing: {{scheme: standard, secrets: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw]}}\n\
                 retry: {{schedule: {{initial: 1s, factor: 1, max: 1s, attempts: 100}}}}\nbreaker: {{open_for: 1s}}\n"
            );
            std::fs::write(home.path().join(format!("webhooks/w{n}.yaml")), webhook).unwrap();
        }
        let child = Command::new(env!("CARGO_BIN_EXE_sidehook"))
            .args(["run", "--config"])
            .arg(home.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(&ingest).await.is_err() {
            assert!(Instant::now() < deadline, "it did not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { destinations, ingest, sent: Arc::default(), child, _home: home }
    }

    /// Sends for a moment and waits for what can arrive. Answers what arrived at the others, a second.
    async fn turn(&self) -> f64 {
        let start = Instant::now();
        let (before, sent) =
            (self.destinations.others.load(Ordering::SeqCst), others_among(self.sent.load(Ordering::SeqCst)));
        self.flood(TURN).await;
        let expected = before + others_among(self.sent.load(Ordering::SeqCst)) - sent;
        arrive(expected, || self.destinations.others.load(Ordering::SeqCst)).await;
        (expected - before) as f64 / start.elapsed().as_secs_f64()
    }

    /// Sends while all answer, until everything has arrived. Answers webhooks a second.
    async fn fresh(&self) -> f64 {
        let (start, before) = (Instant::now(), self.sent.load(Ordering::SeqCst));
        self.flood(seconds()).await;
        self.settle(self.sent.load(Ordering::SeqCst)).await;
        (self.sent.load(Ordering::SeqCst) - before) as f64 / start.elapsed().as_secs_f64()
    }

    /// What gathers while all are down goes out, beside the rate of what is fresh.
    async fn backlog(&self) {
        let fresh = self.fresh().await;
        self.destinations.mode.store(ALL_FAIL, Ordering::SeqCst);
        let before = self.destinations.arrived();
        self.flood(seconds()).await;
        let owed = self.sent.load(Ordering::SeqCst) - before;
        self.destinations.mode.store(GOOD, Ordering::SeqCst);
        // The first tenth is what breakers and retries wait for.
        self.settle(before + owed / 10).await;
        let (start, from) = (Instant::now(), self.destinations.arrived());
        self.settle(before + owed * 9 / 10).await;
        let rate = (self.destinations.arrived() - from) as f64 / start.elapsed().as_secs_f64();
        println!("a backlog of {owed} drains {rate:.0}/s, fresh {fresh:.0}/s, ratio {:.2}", rate / fresh);
    }

    async fn settle(&self, expected: u64) {
        arrive(expected, || self.destinations.arrived()).await;
    }

    async fn flood(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut senders = Vec::new();
        for _ in 0..SENDERS {
            let (ingest, sent) = (self.ingest.clone(), Arc::clone(&self.sent));
            senders.push(tokio::spawn(async move {
                let stream = tokio::net::TcpStream::connect(&ingest).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                while Instant::now() < end {
                    let n = sent.fetch_add(1, Ordering::SeqCst);
                    let request = Request::post("/v1/events")
                        .header("host", "localhost")
                        .header("content-type", "application/json")
                        .body(Full::new(Bytes::from(event(n))))
                        .unwrap();
                    sender.ready().await.unwrap();
                    let response = sender.send_request(request).await.unwrap();
                    assert_eq!(response.status(), 202);
                    response.into_body().collect().await.unwrap();
                }
            }));
        }
        for sender in senders {
            sender.await.unwrap();
        }
    }
}

/// How many of the first `sent` events are not the first webhook's.
fn others_among(sent: u64) -> u64 {
    sent - sent.div_ceil(WEBHOOKS)
}

async fn arrive(expected: u64, arrived: impl Fn() -> u64) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while arrived() < expected {
        assert!(Instant::now() < deadline, "missing: {} of {expected}", arrived());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A kilobyte for the next webhook in turn, of a conversation of its own.
fn event(n: u64) -> String {
    let words = "words and more words ".repeat(40);
    format!(r#"{{"id":"evt_{n}","type":"to.{}","conversation":{{"id":"c{n}"}},"words":"{words}"}}"#, n % WEBHOOKS)
}
