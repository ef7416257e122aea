//! What sidehook costs beside a forwarder that does nothing but forward, in one run on one machine:
//!
//! ```sh
//! cargo bench --bench forward
//! ```
//!
//! One process makes the load and receives; sidehook and the bare forwarder are processes of their own. An event is a
//! 2.5 KB conversation. sidehook picks params, runs a rule, commits with fsync, answers, signs and sends over TLS; the bare
//! one reads the request, sends the same bytes over TLS (hyper, rustls, pooled connections) and answers. Both speak what the
//! receiver offers: HTTP/2, then once more HTTP/1.1. Rates are webhooks that arrived a second, with 256 senders that each wait
//! for their answer; delays are from the moment an event was due to be sent to the arrival of its webhook, at a quarter of the
//! rate before. Processor time is what the forwarder's process used per webhook at the highest rate. Figures of one run
//! differ from those of the next on a shared machine; the ratios are what to compare, and they are taken in turns, round by
//! round. `SIDEHOOK_BENCH_BIN` measures other builds of sidehook (several, separated by colons, side by side),
//! `SIDEHOOK_BENCH_SECS` sets how long delays are measured; a round of the highest rate takes a quarter of it.
//! `SIDEHOOK_BENCH_HTTP` (`2` or `1.1`) measures one of the two.
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
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject as _;
use sidehook::config::model::Listen;
use sidehook::net::{self, ServeOptions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// At the highest rate. With fewer each forwarder waits for them now and then.
const SENDERS: usize = 256;
/// At a quarter of it.
const PACED_SENDERS: usize = 128;
/// Of the highest rate, in turns.
const ROUNDS: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if args.get(1).is_some_and(|arg| arg == "bare") {
        return runtime.block_on(bare(&args[2], &args[3]));
    }
    let only = std::env::var("SIDEHOOK_BENCH_HTTP").ok();
    assert!(matches!(only.as_deref(), None | Some("2" | "1.1")), "SIDEHOOK_BENCH_HTTP is 2 or 1.1");
    for version in [Version::Http2, Version::Http1] {
        if only.as_ref().is_none_or(|only| only == version.name()) {
            runtime.block_on(bench(version));
        }
    }
}

fn seconds() -> Duration {
    let secs = std::env::var("SIDEHOOK_BENCH_SECS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    Duration::from_secs(secs)
}

/// What the receiver speaks.
#[derive(Clone, Copy, PartialEq)]
enum Version {
    Http2,
    Http1,
}

impl Version {
    fn name(self) -> &'static str {
        if self == Self::Http2 { "2" } else { "1.1" }
    }
}

/// What arrived: how often, and the delay of each.
#[derive(Clone)]
struct Arrivals {
    count: Arc<AtomicU64>,
    delays: mpsc::UnboundedSender<u64>,
    epoch: Instant,
}

async fn bench(version: Version) {
    let home = tempfile::tempdir().unwrap();
    let mut identity = net::self_signed(&["localhost".to_owned()]).unwrap();
    std::fs::write(home.path().join("ca.pem"), &identity.ca_pem).unwrap();
    if version == Version::Http1 {
        identity.server.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    let listener = net::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (delays, mut arrived) = mpsc::unbounded_channel();
    let arrivals = Arrivals { count: Arc::default(), delays, epoch: Instant::now() };
    let options = ServeOptions { tls: Some(Arc::new(identity.server)), ..ServeOptions::default() };
    let service = {
        let arrivals = arrivals.clone();
        hyper::service::service_fn(move |request| receive(request, arrivals.clone()))
    };
    tokio::spawn(net::serve(listener, service, CancellationToken::new(), options));

    let target = format!("https://localhost:{port}/hook");
    let mut contenders = vec![Contender::new("bare", Process::bare(&target, home.path()).await)];
    let built = std::env::var("SIDEHOOK_BENCH_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sidehook").to_owned());
    for (n, bin) in built.split(':').enumerate() {
        let home = home.path().join(n.to_string());
        contenders.push(Contender::new(bin, Process::sidehook(bin, &target, &home).await));
    }
    for contender in &contenders {
        flood(&contender.process, &arrivals, Duration::from_secs(2)).await;
    }
    let several = contenders.len();
    for round in 0..ROUNDS {
        // Nobody always comes behind the same one.
        for turn in 0..several {
            contenders[(round + turn) % several].round(&arrivals, seconds() / 4).await;
        }
    }
    println!(
        "HTTP/{}: events of {} bytes, {SENDERS} senders, medians of {ROUNDS} rounds",
        version.name(),
        event(0, 0).len()
    );
    let mut bare: Option<(Vec<f64>, f64)> = None;
    for contender in &mut contenders {
        let (p50, p99) = contender.delays(&arrivals, &mut arrived).await;
        let Contender { name, process, idle, rates, micros, .. } = contender;
        println!("{name}");
        let Some((of_bare, cost)) = &bare else {
            println!("  webhooks/s {:.0}, processor us a webhook {:.0}", median(rates), median(micros));
            println!("  at a quarter: p50 {p50:.2} ms, p99 {p99:.2} ms");
            bare = Some((rates.clone(), median(micros)));
            continue;
        };
        // Each round beside the one of the same moment: what the machine does meanwhile is the same for both.
        let ratios: Vec<f64> = rates.iter().zip(of_bare).map(|(rate, bare)| rate / bare).collect();
        let (low, high) = ratios.iter().fold((f64::MAX, 0.0_f64), |(low, high), r| (low.min(*r), high.max(*r)));
        println!("  webhooks/s {:.0}, of bare {:.2} ({low:.2} to {high:.2})", median(rates), median(&ratios));
        println!("  processor us a webhook {:.0}, of bare {:.1}", median(micros), median(micros) / cost);
        println!("  at a quarter: p50 {p50:.2} ms, p99 {p99:.2} ms");
        println!("  resident: idle {idle:.1} MB, after load {:.1} MB", process.rss_mb());
    }
}

/// The middle one; of an even number the upper.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// A forwarder with what was measured of it.
struct Contender {
    name: String,
    process: Process,
    idle: f64,
    /// Webhooks a second with closed-loop senders, one per round.
    rates: Vec<f64>,
    /// Processor time of its process per webhook, likewise.
    micros: Vec<f64>,
}

impl Contender {
    fn new(name: &str, process: Process) -> Self {
        Self { name: name.to_owned(), idle: process.rss_mb(), process, rates: Vec::new(), micros: Vec::new() }
    }

    async fn round(&mut self, arrivals: &Arrivals, time: Duration) {
        let (used, count) = (self.process.used_micros(), arrivals.count.load(Ordering::SeqCst));
        self.rates.push(flood(&self.process, arrivals, time).await);
        let webhooks = arrivals.count.load(Ordering::SeqCst) - count;
        self.micros.push((self.process.used_micros() - used) / webhooks as f64);
    }

    /// p50 and p99 in milliseconds at a quarter of the highest rate.
    async fn delays(&self, arrivals: &Arrivals, arrived: &mut mpsc::UnboundedReceiver<u64>) -> (f64, f64) {
        while arrived.try_recv().is_ok() {}
        let before = arrivals.count.load(Ordering::SeqCst);
        let sent = paced(&self.process, arrivals, median(&self.rates) / 4.0).await;
        settle(arrivals, before + sent).await;
        let mut delays = Vec::new();
        while let Ok(micros) = arrived.try_recv() {
            delays.push(micros);
        }
        delays.sort_unstable();
        let at = |q: f64| delays[((delays.len() - 1) as f64 * q) as usize] as f64 / 1000.0;
        (at(0.5), at(0.99))
    }
}

async fn flood(process: &Process, arrivals: &Arrivals, time: Duration) -> f64 {
    let before = arrivals.count.load(Ordering::SeqCst);
    let start = Instant::now();
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        let (addr, epoch) = (process.addr.clone(), arrivals.epoch);
        senders.push(tokio::spawn(async move {
            let mut connection = connect(&addr).await;
            let mut sent = 0;
            while start.elapsed() < time {
                post(&mut connection, event(next(), micros(epoch))).await;
                sent += 1;
            }
            sent
        }));
    }
    let mut sent = 0;
    for sender in senders {
        sent += sender.await.unwrap();
    }
    settle(arrivals, before + sent).await;
    sent as f64 / start.elapsed().as_secs_f64()
}

/// Sends at a fixed rate whatever the answers do; the delay counts from when an event was due.
async fn paced(process: &Process, arrivals: &Arrivals, rate: f64) -> u64 {
    let total = (rate * seconds().as_secs_f64()) as u64;
    let start = Instant::now();
    let mut senders = Vec::new();
    for sender in 0..PACED_SENDERS as u64 {
        let (addr, epoch) = (process.addr.clone(), arrivals.epoch);
        senders.push(tokio::spawn(async move {
            let mut connection = connect(&addr).await;
            let mut n = sender;
            while n < total {
                let due = start + Duration::from_secs_f64(n as f64 / rate);
                tokio::time::sleep_until(due.into()).await;
                let due = u64::try_from(due.duration_since(epoch).as_micros()).unwrap();
                post(&mut connection, event(next(), due)).await;
                n += PACED_SENDERS as u64;
            }
        }));
    }
    for sender in senders {
        sender.await.unwrap();
    }
    total
}

async fn settle(arrivals: &Arrivals, expected: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while arrivals.count.load(Ordering::SeqCst) < expected {
        assert!(
            Instant::now() < deadline,
            "webhooks are missing: {} of {expected}",
            arrivals.count.load(Ordering::SeqCst)
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn micros(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_micros()).unwrap()
}

/// A completed conversation of ten turns, about 2.5 KB.
fn event(n: u64, due: u64) -> String {
    let turn = |i: usize| {
        let role = if i.is_multiple_of(2) { "user" } else { "assistant" };
        format!(
            r#"{{"role":"{role}","message":"Turn {i}: my order has not arrived yet, and I would like to know where it is and when it will be delivered to the address that I gave you. Could you look that up?","time":"2026-01-03T11:38:1{i}Z"}}"#
        )
    };
    let turns: Vec<String> = (0..10).map(turn).collect();
    format!(
        r#"{{"id":"evt_{n}","type":"conversation.completed","time":"2026-01-03T11:38:20Z","assistant":{{"id":"2193965165215481856","name":"Support","version":"vrsn_2216851806678417408"}},"conversation":{{"id":"c{n}","messages":[{}]}},"argument":{{"caller":"+49 30 901820","due":{due}}},"metadata":{{"region":"eu"}},"analysis":{{"conversation-analysis":{{"result":"Late delivery, customer reassured."}}}}}}"#,
        turns.join(",")
    )
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn connect(addr: &str) -> Sender {
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn post(sender: &mut Sender, event: String) {
    let request = Request::post("/v1/events")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(event)))
        .unwrap();
    sender.ready().await.unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 202);
    response.into_body().collect().await.unwrap();
}

async fn receive(request: Request<Incoming>, arrivals: Arrivals) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    // Both carry the moment the event was due as `"due":N`.
    let at = body.windows(6).position(|w| w == b"\"due\":").expect("a due time") + 6;
    let digits: String = body[at..].iter().map(|b| *b as char).take_while(char::is_ascii_digit).collect();
    let delay = micros(arrivals.epoch).saturating_sub(digits.parse().unwrap());
    arrivals.delays.send(delay).unwrap();
    arrivals.count.fetch_add(1, Ordering::SeqCst);
    Ok(Response::new(Full::new(Bytes::new())))
}

/// A forwarder under test, killed when it is dropped.
struct Process {
    child: Child,
    addr: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    async fn bare(target: &str, home: &Path) -> Self {
        let addr = free_addr();
        let own = std::env::current_exe().unwrap();
        let child = Command::new(own).args(["bare", &addr, target]).current_dir(home).spawn().unwrap();
        Self { child, addr }.up().await
    }

    async fn sidehook(bin: &str, target: &str, home: &Path) -> Self {
        let addr = free_addr();
        std::fs::create_dir_all(home.join("webhooks")).unwrap();
        std::fs::create_dir_all(home.join("rules")).unwrap();
        let settings = format!(
            "sources: {{events: {{type: http, listen: {addr}}}}}\nadmin: {{listen: 127.0.0.1:0}}\nconversations: {{retain: 1m}}\n"
        );
        std::fs::write(home.join("sidehook.yaml"), settings).unwrap();
        let webhook = format!(
            "url: {target}\nevents: [\"conversation.*\"]\nparams: {{event: event.type, data: event.data, due: argument.due}}\nrule: note.rhai\nsigning: {{scheme: standard, secrets: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw]}}\nconcurrency: 64\ntls: {{ca_file: ../ca.pem}}\n"
        );
        std::fs::write(home.join("webhooks/crm.yaml"), webhook).unwrap();
        let rule = "fn transform(event, payload) {\n    payload.caller = mask(event.argument.caller);\n    payload.summary = event.analysis[\"conversation-analysis\"]?.result ?? \"\";\n    payload\n}\n";
        std::fs::write(home.join("rules/note.rhai"), rule).unwrap();
        let child = Command::new(bin).args(["run", "--config"]).arg(home).stderr(Stdio::null()).spawn().unwrap();
        Self { child, addr }.up().await
    }

    async fn up(self) -> Self {
        let deadline = Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(&self.addr).await.is_err() {
            assert!(Instant::now() < deadline, "it did not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        self
    }

    /// Processor time since its start, from `/proc` in ticks of 10 ms.
    fn used_micros(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name in parentheses may hold anything; user and system time are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10_000.0
    }

    fn rss_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

fn free_addr() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The reference: request in, the same bytes over pooled TLS connections, answer.
async fn bare(addr: &str, target: &str) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file("ca.pem").unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_all_versions()
        .wrap_connector(http);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (client, target) = (client.clone(), target.to_owned());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (client, target) = (client.clone(), target.clone());
                async move {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let forward =
                        Request::post(target).header("content-type", "application/json").body(Full::new(body)).unwrap();
                    let answer = client.request(forward).await.unwrap();
                    answer.into_body().collect().await.unwrap();
                    Ok::<_, Infallible>(Response::builder().status(202).body(Full::new(Bytes::new())).unwrap())
                }
            });
            // A sender that goes away ends its connection; nothing else is to be done about it.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
