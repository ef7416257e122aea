//! What the proxy source costs, beside a bare hyper reverse proxy, as ratios within one run:
//!
//! ```sh
//! cargo bench --bench proxy
//! ```
//!
//! Clients that each wait for their answer post a kilobyte of JSON through one of them to an upstream that answers a
//! kilobyte. Stretches follow each other in turn, so that other work on the machine weighs on all alike. Then one client
//! alone tells what each adds to a request's time.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a benchmark measures by the real clock, prints, and fails by panicking"
)]

use std::convert::Infallible;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

const CLIENTS: usize = 32;
const ROUNDS: usize = 6;
const ALONE: usize = 4000;
/// The process that is the bare proxy knows it, and its upstream, by this.
const BARE: &str = "SIDEHOOK_BENCH_BARE_UPSTREAM";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match std::env::var(BARE) {
            Ok(upstream) => bare(upstream).await,
            Err(_) => compare().await,
        }
    });
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn compare() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    tokio::spawn(serve(listener));
    let home = tempfile::tempdir().unwrap();
    let [plain, admin, bare] = [free(), free(), free()];
    let settings = format!(
        "sources:\n  bot:\n    type: proxy\n    listen: {plain}\n    upstream: http://{upstream}\n    taps: [{{path: /tapped, read: request, format: json}}]\n\
         admin: {{listen: {admin}}}\noutbox: {{max_bytes: 16GiB}}\n"
    );
    std::fs::write(home.path().join("sidehook.yaml"), settings).unwrap();
    let _sidehook = Running(
        Command::new(env!("CARGO_BIN_EXE_sidehook"))
            .args(["run", "--config"])
            .arg(home.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let _bare = Running(
        Command::new(std::env::current_exe().unwrap()).env(BARE, format!("{bare} {upstream}")).spawn().unwrap(),
    );
    for address in [&plain, &bare] {
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < deadline, "it did not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let ways = [
        ("no proxy", upstream.as_str(), "/plain"),
        ("a bare hyper proxy", bare.as_str(), "/plain"),
        ("sidehook, no tap", plain.as_str(), "/plain"),
        ("sidehook, JSON tap", plain.as_str(), "/tapped"),
    ];
    for (_, address, path) in ways {
        flood(address, path, Duration::from_millis(300)).await;
    }
    let mut rates = [const { Vec::new() }; 4];
    for round in 0..ROUNDS {
        for n in 0..ways.len() {
            let way = (n + round) % ways.len();
            rates[way].push(flood(ways[way].1, ways[way].2, stretch()).await);
        }
    }
    let rate = |way: usize| rates[way].iter().sum::<f64>() / ROUNDS as f64;
    println!("{CLIENTS} clients, 1 KB each way, {ROUNDS} stretches of {} ms", stretch().as_millis());
    for (way, (name, ..)) in ways.iter().enumerate() {
        let mut ratios: Vec<_> = (0..ROUNDS).map(|round| rates[way][round] / rates[1][round]).collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "{name:<20} {:>7.0}/s, {:.2} of the bare proxy (median of rounds {:.2})",
            rate(way),
            rate(way) / rate(1),
            ratios[ROUNDS / 2]
        );
    }
    println!("events lost by the tap: {}", lost(&admin).await);
    let mut medians = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        for (way, (_, address, path)) in ways.iter().enumerate() {
            medians[way].push(alone(address, path).await);
        }
    }
    let median = |way: usize| {
        let mut all: Vec<f64> = medians[way].clone();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    for (way, (name, ..)) in ways.iter().enumerate() {
        println!("{name:<20} median {:>5.0} us alone, {:+.0} us", median(way), median(way) - median(0));
    }
}

fn stretch() -> Duration {
    let millis = std::env::var("SIDEHOOK_BENCH_MILLIS").ok().and_then(|s| s.parse().ok()).unwrap_or(1500);
    Duration::from_millis(millis)
}

fn free() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The upstream: reads all, answers a kilobyte.
async fn serve(listener: TcpListener) {
    let answer = Bytes::from(vec![b'x'; 1024]);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let answer = answer.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer.clone();
            async move {
                let _ = request.into_body().collect().await;
                Ok::<_, Infallible>(Response::new(Full::new(answer)))
            }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// As little of a reverse proxy as hyper needs: its server, its pooled client, no header touched but the target.
async fn bare(addresses: String) {
    let (listen, upstream) = addresses.split_once(' ').unwrap();
    let listener = TcpListener::bind(listen).await.unwrap();
    let mut connector = legacy::connect::HttpConnector::new();
    connector.set_nodelay(true);
    let client: legacy::Client<_, Incoming> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let upstream: http::uri::Authority = upstream.parse().unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (client, upstream) = (client.clone(), upstream.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (client, upstream) = (client.clone(), upstream.clone());
            async move {
                let target = request.uri().path_and_query().unwrap().clone();
                let uri = Uri::builder().scheme("http").authority(upstream).path_and_query(target);
                *request.uri_mut() = uri.build().unwrap();
                client.request(request).await
            }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn connect(address: &str) -> Sender {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn post(sender: &mut Sender, path: &str, body: Bytes) {
    let request = Request::post(path).header("host", "localhost").header("content-type", "application/json");
    let request = request.header("user-agent", "bench").header("accept", "*/*").body(Full::new(body)).unwrap();
    sender.ready().await.unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 1024);
}

/// Requests a second.
async fn flood(address: &str, path: &'static str, time: Duration) -> f64 {
    let (start, end) = (Instant::now(), Instant::now() + time);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let address = address.to_owned();
            tokio::spawn(async move {
                let (mut sender, mut count) = (connect(&address).await, 0_u64);
                while Instant::now() < end {
                    post(&mut sender, path, event()).await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for client in clients {
        count += client.await.unwrap();
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// The median of one client's requests, in microseconds.
async fn alone(address: &str, path: &str) -> f64 {
    let mut sender = connect(address).await;
    let mut times = Vec::with_capacity(ALONE);
    for n in 0..ALONE + 200 {
        let body = event();
        let start = Instant::now();
        post(&mut sender, path, body).await;
        if n >= 200 {
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    times[ALONE / 2].as_secs_f64() * 1e6
}

/// A kilobyte that is an event.
fn event() -> Bytes {
    Bytes::from(format!(r#"{{"type":"a.b","words":"{}"}}"#, "words and more words ".repeat(46)))
}

/// What the tap says it has lost.
async fn lost(admin: &str) -> String {
    let stream = TcpStream::connect(admin).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/metrics").header("host", admin).body(Full::new(Bytes::new())).unwrap();
    let response = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&response).into_owned();
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.and_then(|line| line.rsplit(' ').next()).unwrap_or("0").to_owned()
    };
    format!("{}, taken: {}", of("sidehook_tap_dropped_total"), of("sidehook_events_received_total"))
}
