//! What one more message costs in a long conversation and in a short one, as a ratio within one run:
//!
//! ```sh
//! cargo bench --bench long
//! ```
//!
//! Requests of a hundred messages, all of one conversation, go through the actor into an outbox on disk: to a conversation that holds ten
//! thousand already, and to one that holds ten, in turn, so that other work on the machine weighs on both alike. No webhook wants
//! messages, so that what is measured is the conversation's state.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark measures by the real clock, prints, and fails by panicking"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use sidehook::app;
use sidehook::clock::{Clock, Entropy};
use sidehook::config;
use sidehook::event::{Incoming, Json};
use sidehook::ingest::Ingest;
use sidehook::outbox::Outbox;
use sidehook::source::{Items, Sink as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LONG: usize = 10_000;
const SHORT: usize = 10;
const REQUEST: usize = 100;
const ROUNDS: usize = 60;

fn messages(conversation: &str, count: usize) -> Items {
    let text = format!(
        r#"{{"type":"message.sent","conversation":{{"id":"{conversation}"}},"message":{{"role":"assistant","message":"{}"}}}}"#,
        "word ".repeat(20)
    );
    let item = Incoming::read(&Json::parse(text).unwrap()).unwrap();
    let (source, namespace) = ("bench".into(), "".into());
    Items { source, namespace, items: vec![item; count], traceparent: None, stream: None, offset: None }
}

async fn timed(ingest: &Ingest, conversation: &str, count: usize) -> Duration {
    let items = messages(conversation, count);
    let began = Instant::now();
    ingest.accept(items).await.unwrap();
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

async fn run(state: &str) {
    let dir = tempfile::tempdir().unwrap();
    let yaml = format!(
        "conversations: {{state: {state}}}\nwebhooks: {{w: {{url: https://w.example.com, events: [conversation.completed], signing: {{scheme: none}}}}}}\n"
    );
    std::fs::write(dir.path().join("sidehook.yaml"), yaml).unwrap();
    let clock = Clock::System;
    let generation = config::load(dir.path(), &|_| None, &clock).unwrap();
    let options = app::options(&generation.settings);
    let outbox = Outbox::open(&dir.path().join("data"), options, clock.clone()).unwrap();
    let (_keep, generations) = watch::channel(Arc::new(generation));
    let stop = CancellationToken::new();
    let ingest = Ingest::new(outbox.clone(), generations, clock, Entropy::system(), stop);
    timed(&ingest, "long", LONG).await;
    let (mut long, mut short) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let conversation = format!("short{round}");
        timed(&ingest, &conversation, SHORT).await;
        // Whichever goes first has the warmer caches.
        if round % 2 == 0 {
            long.push(timed(&ingest, "long", REQUEST).await);
            short.push(timed(&ingest, &conversation, REQUEST).await);
        } else {
            short.push(timed(&ingest, &conversation, REQUEST).await);
            long.push(timed(&ingest, "long", REQUEST).await);
        }
    }
    let (long, short) = (median(long), median(short));
    println!(
        "state: {state}: {REQUEST} messages to a conversation of {LONG} or more take {long:?}, to one of {SHORT} {short:?}: {:.2} times as long",
        long.as_secs_f64() / short.as_secs_f64()
    );
    outbox.close().await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        run("durable").await;
        run("memory").await;
    });
}
