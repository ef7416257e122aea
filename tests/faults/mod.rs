//! Faults of the machine, of the network and of those who receive: what was acknowledged arrives, once, and the books are
//! right. Each fault leaves a row in `target/tmp/faults`; `tests/run` prints them as a table at its end.
//!
//! Lost: acknowledged and never answered with success by the receiver. Duplicated: arrived again after it had been answered
//! with success. Balanced: the ledger of the running sidehook balances, and `sidehook outbox verify` finds its rows and
//! counters the same once it has ended. Only a kill may duplicate, of sidehook or of a connection with an answer under way;
//! whatever arrives again has the same `webhook-id`.

mod clocks;
mod disk;
mod lock;
mod million;
mod receivers;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::support::events::event;
use crate::support::{Connection, Receiver, Sidehook, cli, eventually};

/// A webhook that tries again soon and for as long as a test may take.
pub const PATIENT: &str = "events: [\"*\"]\nparams: {id: event.id}\ntimeout: 2s\nbreaker: {failures: 1000000}\n\
                           retry: {schedule: {initial: 50ms, factor: 1, max: 50ms, attempts: 100}, jitter: 0.2}";

/// What is known of the events that were sent.
#[derive(Default)]
pub struct Sent {
    /// Each event of a conversation of its own; otherwise of few ones, so that many queue behind others.
    pub spread: bool,
    next: AtomicU64,
    refused: AtomicU64,
    acknowledged: Mutex<BTreeSet<String>>,
}

impl Sent {
    pub fn acknowledged(&self) -> BTreeSet<String> {
        self.acknowledged.lock().unwrap().clone()
    }

    pub fn is_acknowledged(&self, id: &str) -> bool {
        self.acknowledged.lock().unwrap().contains(id)
    }

    /// How often an event was refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// An id that was not used before.
    pub fn id(&self) -> String {
        format!("evt_{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends one event; `None` when the connection broke.
    pub async fn send(&self, connection: &mut Connection, id: &str) -> Option<u16> {
        let body = if self.spread {
            event(id, "a.b", id)
        } else {
            let conversation = format!("c{}", id.len() * 7 + usize::from(*id.as_bytes().last().unwrap_or(&0)));
            let mut body = event(id, "message.received", &conversation);
            body["message"] = serde_json::json!({"role": "user", "message": "hello"});
            body
        };
        let headers = [("content-type", "application/json")];
        let answer = connection.send("POST", "/v1/events", &headers, body.to_string()).await.ok()?;
        match answer.status.as_u16() {
            202 => drop(self.acknowledged.lock().unwrap().insert(id.to_owned())),
            503 => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
            other => panic!("{other}: {}", answer.text()),
        }
        Some(answer.status.as_u16())
    }
}

/// Sends events one after another, each refused one again, until told to stop or the connection breaks.
pub async fn sender(ingest: String, sent: Arc<Sent>, stop: CancellationToken) {
    let Ok(mut connection) = Connection::tcp(&ingest).await else { return };
    while !stop.is_cancelled() {
        let id = sent.id();
        loop {
            match sent.send(&mut connection, &id).await {
                None => return,
                Some(202) => break,
                Some(_) if stop.is_cancelled() => return,
                Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

/// What came of all that was sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Tally {
    pub acknowledged: usize,
    pub lost: usize,
    pub duplicated: usize,
}

/// Counts at the receiver. Panics when an event came under two ids.
pub fn count(receiver: &Receiver, path: &str, acknowledged: &BTreeSet<String>) -> Tally {
    let mut arrived = BTreeMap::<String, (BTreeSet<String>, usize)>::new();
    for request in receiver.requests(path) {
        let good = request.answered.is_some_and(|status| status / 100 == 2);
        let (ids, times) = arrived.entry(request.json()["id"].as_str().unwrap().to_owned()).or_default();
        ids.insert(request.id().to_owned());
        *times += usize::from(good);
    }
    for (event, (ids, _)) in &arrived {
        assert_eq!(ids.len(), 1, "{event} came under {ids:?}");
    }
    let lost = acknowledged.iter().filter(|id| arrived.get(*id).is_none_or(|(_, times)| *times == 0)).count();
    let duplicated = arrived.values().map(|(_, times)| times.saturating_sub(1)).sum();
    Tally { acknowledged: acknowledged.len(), lost, duplicated }
}

/// Waits until nothing is pending, and counts.
pub async fn settled(sidehook: &Sidehook, webhook: &str, receiver: &Receiver, path: &str, sent: &Sent) -> Tally {
    eventually("nothing is left", async || {
        let row = sidehook.ledger(webhook).await;
        if row["pending"] == 0 && row["created"] == row["delivered"] { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
    count(receiver, path, &sent.acknowledged())
}

/// Ends sidehook in order and has its outbox checked.
pub async fn verified(sidehook: &mut Sidehook) {
    sidehook.stop().await;
    let outbox = sidehook.config.join("data");
    let said = cli(&["outbox", "verify", outbox.to_str().unwrap(), "--json"]).await.expect(0);
    assert_eq!(said.json()["ok"], true, "{}", said.stdout);
}

/// A row of the table. What comes here has balanced.
pub fn record(place: u32, injected: &str, rounds: u64, tally: &Tally) {
    let Tally { acknowledged, lost, duplicated } = tally;
    let row =
        format!("| {injected:<66} | {rounds:>6} | {acknowledged:>12} | {lost:>4} | {duplicated:>10} | yes      |\n");
    print!("{row}");
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(format!("{place:02}.row")), row).unwrap();
}

/// Figures that go with a row.
pub fn note(place: u32, text: &str) {
    println!("{text}");
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(format!("{place:02}.note")), format!("{text}\n")).unwrap();
}

/// As [`record`], where nothing may be lost or come twice.
pub fn record_clean(place: u32, injected: &str, rounds: u64, tally: &Tally) {
    assert_eq!((tally.lost, tally.duplicated), (0, 0), "{injected}: {tally:?}");
    record(place, injected, rounds, tally);
}

/// The number in this variable of the environment, or this one.
pub fn rounds(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
