//! Killed at each named step of taking an event in and of settling its delivery. strace sends the signal as the system call
//! begins, so that the call itself does not happen; other steps are known from outside: who has read the 202, or the request,
//! kills.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use super::{PATIENT, Sent, Tally, count, record, rounds, settled, verified};
use crate::support::{Body, Connection, Receiver, Reply, Sidehook, eventually};

/// A sidehook that is killed again and again.
struct Victim {
    receiver: Receiver,
    sidehook: Sidehook,
    sent: Arc<Sent>,
    /// What nobody answered for; its sender sends it again.
    unanswered: Vec<String>,
}

/// How far the event had come that was under way when the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// It was not acknowledged, or there was none yet.
    Ingest,
    /// It was acknowledged and had not arrived.
    Owed,
    /// It had arrived.
    Settle,
}

impl Victim {
    async fn new() -> Self {
        let receiver = Receiver::start().await;
        let mut sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", PATIENT)).start().await;
        // The store is made and closed in order: from now on a start writes little.
        sidehook.stop().await;
        Self { receiver, sidehook, sent: Arc::default(), unanswered: Vec::new() }
    }

    /// Starts under strace with this injection, sends one event after another until it is gone, and answers how far the
    /// last one came; then starts plainly and lets everything settle, so that every round begins alike.
    async fn round(&mut self, inject: &str) -> Reached {
        let trace = self.sidehook.path("trace");
        let call = inject.split(':').next().unwrap_or_default();
        let (set, inject) = (format!("trace={call}"), format!("inject={inject}"));
        self.sidehook.wrap(&["strace", "-f", "-o", trace.to_str().unwrap(), "-e", &set, "-e", &inject]);
        let heard = self.sidehook.log().len();
        self.sidehook.spawn();
        // By its log: asking whether it is ready would be system calls that are counted.
        let up = eventually("ready, or gone", async || {
            let said = self.sidehook.log().iter().skip(heard).any(|line| line.contains("sidehook is ready"));
            let runs = self.sidehook.runs();
            if said || !runs { Ok(said) } else { Err("neither".to_owned()) }
        })
        .await;
        let reached = if up { self.talk().await } else { Reached::Ingest };
        self.sidehook.ended().await;
        self.recover().await;
        reached
    }

    async fn talk(&mut self) -> Reached {
        let Ok(mut connection) = Connection::tcp(&self.sidehook.ingest).await else { return Reached::Ingest };
        for _ in 0..40 {
            let id = self.sent.id();
            if self.sent.send(&mut connection, &id).await.is_none() {
                self.unanswered.push(id);
                return Reached::Ingest;
            }
            let arrived = eventually("its arrival, or the end", async || {
                let arrived = self.receiver.requests("/x").iter().any(|r| r.json()["id"] == id);
                if arrived || !self.sidehook.runs() { Ok(arrived) } else { Err("neither".to_owned()) }
            })
            .await;
            if !arrived {
                return Reached::Owed;
            }
            // Its record is the next thing that is written; the next event comes after it or together with it.
            for _ in 0..40 {
                if !self.sidehook.runs() {
                    return Reached::Settle;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        panic!("the fault did not come about within 40 events");
    }

    /// Starts plainly, sends what was not answered for once more, lets everything settle, and ends in order.
    async fn recover(&mut self) {
        self.sidehook.wrap(&[]);
        self.sidehook.start().await;
        if !self.unanswered.is_empty() {
            let mut connection = Connection::tcp(&self.sidehook.ingest).await.unwrap();
            for id in self.unanswered.drain(..) {
                assert_eq!(self.sent.send(&mut connection, &id).await, Some(202));
            }
        }
        settled(&self.sidehook, "x", &self.receiver, "/x", &self.sent).await;
        self.sidehook.stop().await;
    }

    async fn tally(mut self, kills: u64) -> Tally {
        self.sidehook.start().await;
        verified(&mut self.sidehook).await;
        let tally = count(&self.receiver, "/x", &self.sent.acknowledged());
        assert_eq!(tally.lost, 0, "{tally:?}");
        // One event at a time: a kill repeats one at most.
        assert!(tally.duplicated as u64 <= kills, "{tally:?} after {kills} kills");
        tally
    }
}

#[tokio::test]
async fn strace_kills_at_each_write_of_the_store() {
    let mut victim = Victim::new().await;
    let kills = rounds("SIDEHOOK_FAULT_ROUNDS", 32);
    let mut reached = Vec::new();
    for n in 0..kills {
        // From the first write of a start over those of an event's commit to those of its result's.
        let when = 1 + n * 92 / kills;
        reached.push(victim.round(&format!("pwrite64:signal=SIGKILL:when={when}")).await);
    }
    for step in [Reached::Ingest, Reached::Settle] {
        assert!(reached.contains(&step), "no kill at {step:?}: {reached:?}");
    }
    record(2, "SIGKILL at the n-th write: start, ingest's commit, settle's commit", kills, &victim.tally(kills).await);
}

#[tokio::test]
async fn strace_kills_at_each_sync_of_the_store() {
    let mut victim = Victim::new().await;
    let kills = rounds("SIDEHOOK_FAULT_ROUNDS", 32) / 2;
    let mut reached = Vec::new();
    for n in 0..kills {
        reached.push(victim.round(&format!("fdatasync:signal=SIGKILL:when={}", 1 + n % 16)).await);
    }
    for step in [Reached::Ingest, Reached::Settle] {
        assert!(reached.contains(&step), "no kill at {step:?}: {reached:?}");
    }
    record(3, "SIGKILL at the n-th sync: start, ingest's commit, settle's commit", kills, &victim.tally(kills).await);
}

#[tokio::test]
async fn strace_kills_between_the_commit_and_its_202() {
    let mut victim = Victim::new().await;
    let kills = rounds("SIDEHOOK_FAULT_ROUNDS", 32) / 3;
    for _ in 0..kills {
        // The first answer that is written at all.
        assert_eq!(victim.round("writev:signal=SIGKILL:when=1").await, Reached::Ingest);
    }
    // Committed although nobody was told, and recognised when they were sent again.
    let tally = victim.tally(kills).await;
    assert_eq!(tally.duplicated, 0, "{tally:?}");
    record(4, "SIGKILL after the commit, before the 202; sent again", kills, &tally);
}

#[tokio::test]
async fn strace_kills_before_the_request_is_sent() {
    let mut victim = Victim::new().await;
    let kills = rounds("SIDEHOOK_FAULT_ROUNDS", 32) / 3;
    for _ in 0..kills {
        assert_ne!(victim.round("connect:signal=SIGKILL:when=1").await, Reached::Settle);
    }
    let tally = victim.tally(kills).await;
    assert_eq!(tally.duplicated, 0, "{tally:?}");
    record(6, "SIGKILL as the destination is dialled", kills, &tally);
}

#[tokio::test]
async fn killed_when_the_202_is_read_or_the_request_is_out() {
    for (place, name, held) in [
        (5, "SIGKILL when the 202 has been read", false),
        (7, "SIGKILL after the request was sent, before its answer", true),
    ] {
        let mut victim = Victim::new().await;
        let kills = rounds("SIDEHOOK_FAULT_ROUNDS", 32) / 3;
        for _ in 0..kills {
            victim.sidehook.start().await;
            if held {
                victim.receiver.on("/x", &[Reply::status(200).body(Body::Hang)]);
            }
            let mut connection = Connection::tcp(&victim.sidehook.ingest).await.unwrap();
            let id = victim.sent.id();
            assert_eq!(victim.sent.send(&mut connection, &id).await, Some(202));
            if held {
                victim
                    .receiver
                    .wait_for("the request", |all| all.iter().find(|r| r.json()["id"] == *id).map(drop))
                    .await;
            }
            victim.sidehook.signal(Signal::KILL);
            victim.sidehook.ended().await;
            victim.receiver.on("/x", &[Reply::status(200)]);
            victim.recover().await;
        }
        record(place, name, kills, &victim.tally(kills).await);
    }
}
