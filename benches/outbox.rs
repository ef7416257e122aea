//! What the outbox alone costs an event from its commit to the end of its delivery, beside a file that the same bytes are
//! appended to, in one run:
//!
//! ```sh
//! cargo bench --bench outbox
//! ```
//!
//! 64 callers commit an event with a conversation of 2 KB and a payload of 3 KB each and wait for the answer, and while 128
//! deliveries are under way for some of these to be settled, which happens in batches. Counted is the processor time of the threads that write (`outbox`, `checkpoint`) per event,
//! and what the process writes; the file is written and synced in groups of as many. `SIDEHOOK_BENCH_SECS` sets how long.
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

use std::io::{Seek as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sidehook::clock::{Clock, Timestamp};
use sidehook::outbox::{
    Arrival, Attempt, Batch, ConversationChange, ConversationKey, Decision, Dedupe, NewDelivery, Options, Outbox,
    Settlement, Verdict, WhenFull,
};
use tokio::sync::Semaphore;

const CALLERS: u64 = 64;
const SETTLED_TOGETHER: usize = 128;
/// Deliveries under way at once.
const UNSETTLED: usize = 128;
const CONVERSATION_BYTES: usize = 2000;
const PAYLOAD_BYTES: usize = 3000;
/// All that has to be stored of an event.
const EVENT_BYTES: usize = CONVERSATION_BYTES + PAYLOAD_BYTES + 1000;

fn main() {
    let secs = std::env::var("SIDEHOOK_BENCH_SECS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let time = Duration::from_secs(secs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (events, transactions, took, used, written) = runtime.block_on(outbox(time));
    let group = events as f64 / transactions as f64;
    let file = appended(time / 4, group as usize);
    let per_event = used.as_micros() as f64 / events as f64;
    println!("outbox: {:.0} events/s, {group:.1} events a transaction", events as f64 / took.as_secs_f64());
    println!("  processor us an event {per_event:.1}, of an appended file {:.1}", per_event / file);
    println!(
        "  written per event: {:.0} bytes, of an appended file {:.1}",
        written as f64 / events as f64,
        written as f64 / events as f64 / EVENT_BYTES as f64
    );
    println!("appended file: processor us an event {file:.1}");
}

async fn outbox(time: Duration) -> (u64, u64, Duration, Duration, u64) {
    let dir = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let options = Options {
        max_bytes: 8 << 30,
        when_full: WhenFull::Reject,
        retain_delivered: 24 * hour,
        retain_dead: 24 * hour,
        retain_events: Duration::ZERO,
        retain_bodies: false,
        retain_conversations: hour,
        max_open_age: hour,
        encryption_keys: Vec::new(),
    };
    let outbox = Outbox::open(dir.path(), options, Clock::System).unwrap();
    let mut ready = outbox.ready().unwrap();
    let unsettled = Arc::new(Semaphore::new(UNSETTLED));
    let settler = {
        let (outbox, unsettled) = (outbox.clone(), Arc::clone(&unsettled));
        tokio::spawn(async move {
            let mut rows = Vec::new();
            while ready.recv_many(&mut rows, SETTLED_TOGETHER).await > 0 {
                let settlements: Vec<Settlement> = rows.drain(..).map(|ready| delivered(ready.row)).collect();
                let settled = settlements.len();
                outbox.commit(Batch { settlements, ..Batch::default() }).await.unwrap();
                unsettled.add_permits(settled);
            }
        })
    };
    let (start, before, transactions, written) = (Instant::now(), writers(), outbox.transactions(), written_bytes());
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (outbox, unsettled) = (outbox.clone(), Arc::clone(&unsettled));
            tokio::spawn(async move {
                let mut n = 0;
                while start.elapsed() < time {
                    unsettled.acquire().await.unwrap().forget();
                    let arrivals = vec![arrival(n * CALLERS + caller)];
                    outbox.commit(Batch { arrivals, ..Batch::default() }).await.unwrap();
                    n += 1;
                }
                n
            })
        })
        .collect();
    let mut events = 0;
    for caller in callers {
        events += caller.await.unwrap();
    }
    let took = start.elapsed();
    let (used, written) = (writers().saturating_sub(before), written_bytes() - written);
    let transactions = outbox.transactions() - transactions;
    // All of them are free again once everything is settled.
    drop(unsettled.acquire_many(UNSETTLED as u32).await.unwrap());
    settler.abort();
    outbox.close().await;
    (events, transactions, took, used, written)
}

fn arrival(n: u64) -> Arrival {
    let id: Arc<str> = Arc::from(format!("evt_{n}"));
    let now = Clock::System.now();
    let delivery = NewDelivery {
        id: format!("msg_{n:026}"),
        body: Some(Bytes::from(vec![b'x'; PAYLOAD_BYTES])),
        headers: Vec::new(),
        ordered: true,
        dead: None,
    };
    Arrival {
        namespace: Arc::from("events"),
        event_id: Arc::clone(&id),
        event_type: Arc::from("conversation.completed"),
        conversation: Some(ConversationKey { namespace: Arc::from("events"), id: Arc::from(format!("c{n}")) }),
        arrived: now,
        traceparent: None,
        dedupe: Some(Dedupe {
            key: id.as_bytes().to_vec(),
            fingerprint: [1; 16],
            until: now.plus(Duration::from_secs(3600)),
        }),
        change: Some(ConversationChange {
            replace_messages: Some(vec![Bytes::from(vec![b'y'; CONVERSATION_BYTES])]),
            messages: 10,
            maps: Some(Bytes::from(vec![b'z'; 400])),
            ended: Some(Some(now)),
            ..ConversationChange::default()
        }),
        decisions: vec![(Arc::from("crm"), Decision::Rendered(vec![delivery]))],
        analyses: false,
        waiting_body: None,
        kept_body: None,
    }
}

fn delivered(row: i64) -> Settlement {
    let attempt = Attempt {
        at: Timestamp::from_millis(1_700_000_000_000),
        status: "200".to_owned(),
        error: None,
        duration_ms: 3,
        response: None,
    };
    Settlement { row, attempt: Some(attempt), verdict: Verdict::Delivered }
}

/// Processor time of the threads that write.
fn writers() -> Duration {
    let mut used = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if matches!(name.trim(), "outbox" | "checkpoint") {
            used += nanos(&task.join("schedstat"));
        }
    }
    Duration::from_nanos(used)
}

/// Bytes that this process has written so far, whatever the system made of them.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    line.parse().unwrap()
}

fn nanos(schedstat: &std::path::Path) -> u64 {
    let text = std::fs::read_to_string(schedstat).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Processor time in microseconds per event of appending the same bytes to a file, as often synced.
fn appended(time: Duration, group: usize) -> f64 {
    let mut file = tempfile::tempfile().unwrap();
    let event = vec![b'x'; EVENT_BYTES * group.max(1)];
    let own = std::path::Path::new("/proc/thread-self/schedstat");
    let (start, before) = (Instant::now(), nanos(own));
    let mut events = 0;
    while start.elapsed() < time {
        // As long as the log, and over again.
        if file.stream_position().unwrap() > 16 << 20 {
            file.rewind().unwrap();
        }
        file.write_all(&event).unwrap();
        file.sync_data().unwrap();
        events += group.max(1);
    }
    (nanos(own) - before) as f64 / 1000.0 / events as f64
}
