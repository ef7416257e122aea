//! Killed at any moment, nothing acknowledged is lost; and nothing is acknowledged before it is synced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use crate::faults;
use crate::support::events::event;
use crate::support::random::Random;
use crate::support::{Connection, Receiver, Reply, Sidehook, eventually};

/// How often the process is killed after it acknowledged something, at least; `SIDEHOOK_FAULT_ROUNDS` says otherwise.
const KILLS: u64 = 32;

/// Sends events one after another until the connection breaks; what was acknowledged goes to `acknowledged`.
async fn sender(ingest: String, numbers: Arc<AtomicU64>, acknowledged: Arc<Mutex<BTreeSet<String>>>) {
    let Ok(mut connection) = Connection::tcp(&ingest).await else { return };
    loop {
        let first = numbers.fetch_add(3, Ordering::Relaxed);
        let ids: Vec<_> = (first..first + 3).map(|n| format!("evt_{n}")).collect();
        let kinds = ["conversation.begin", "message.received", "conversation.completed"];
        let events: Vec<_> = ids
            .iter()
            .zip(kinds)
            .map(|(id, kind)| {
                let mut event = event(id, kind, &format!("c{}", first % 11));
                event["message"] = json!({"role": "user", "message": "hello"});
                event
            })
            .collect();
        let headers = [("content-type", "application/json")];
        // One event at a time and three at once, in turn.
        let bodies = if first.is_multiple_of(2) { vec![json!(events)] } else { events };
        for body in bodies {
            match connection.send("POST", "/v1/events", &headers, body.to_string()).await {
                Ok(answer) if answer.status.as_u16() == 202 => {
                    let answer = answer.json();
                    let ids = answer["ids"].as_array().unwrap();
                    acknowledged.lock().unwrap().extend(ids.iter().map(|id| id.as_str().unwrap().to_owned()));
                }
                Ok(answer) => panic!("{}: {}", answer.status, answer.text()),
                Err(_) => return,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_moments_every_acknowledged_event_arrives_under_one_id() {
    let mut random = Random::from_env("SIDEHOOK_CRASH_SEED");
    let receiver = Receiver::start().await;
    // Some attempts fail, some are slow: kills meet deliveries in every state.
    receiver.on_each("/x", |_, n| match n % 9 {
        3 => Reply::status(503),
        5 => Reply::status(200).after(Duration::from_millis(40)),
        _ => Reply::status(200),
    });
    let webhook = receiver.webhook(
        "/x",
        "events: [\"*\"]\nparams: {id: event.id, messages: conversation.messages}\nretry: {schedule: {initial: 50ms, factor: 1, max: 50ms, attempts: 100}, jitter: 0.2}\nbreaker: {failures: 1000000}",
    );
    let mut sidehook = Sidehook::builder().webhook("x", &webhook).start().await;
    let numbers = Arc::new(AtomicU64::new(0));
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let (mut productive, mut round) = (0, 0);
    let kills = faults::rounds("SIDEHOOK_FAULT_ROUNDS", KILLS);
    while productive < kills {
        // More only on a machine so slow that kills come before the first acknowledgement.
        assert!(round < 6 * kills, "only {productive} of {round} kills followed an acknowledgement");
        let before = acknowledged.lock().unwrap().len();
        let mut senders = JoinSet::new();
        for _ in 0..3 {
            senders.spawn(sender(sidehook.ingest.clone(), Arc::clone(&numbers), Arc::clone(&acknowledged)));
        }
        if round % 4 == 0 {
            // Every fourth kill follows an acknowledgement as closely as it can.
            eventually("an acknowledgement", async || {
                if acknowledged.lock().unwrap().len() > before { Ok(()) } else { Err("none".to_owned()) }
            })
            .await;
        } else {
            tokio::time::sleep(Duration::from_micros(1000 + random.below(250_000))).await;
        }
        sidehook.signal(Signal::KILL);
        sidehook.ended().await;
        while let Some(sender) = senders.join_next().await {
            sender.unwrap();
        }
        productive += u64::from(acknowledged.lock().unwrap().len() > before);
        if round % 5 == 0 {
            // Killed while starting, too.
            sidehook.spawn();
            tokio::time::sleep(Duration::from_micros(random.below(60_000))).await;
            sidehook.signal(Signal::KILL);
            sidehook.ended().await;
        }
        sidehook.start().await;
        round += 1;
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    println!("{} events acknowledged over {round} kills", acknowledged.len());
    // Each request is read once: the check runs for every one that comes, and there are thousands.
    let read = Mutex::new((0, BTreeMap::<String, BTreeSet<String>>::new()));
    receiver
        .wait_for("every acknowledged event", |all| {
            let mut read = read.lock().unwrap();
            let (seen, copies) = &mut *read;
            for request in &all[*seen..] {
                let id = request.json()["id"].as_str().unwrap().to_owned();
                copies.entry(id).or_default().insert(request.id().to_owned());
            }
            *seen = all.len();
            acknowledged.iter().all(|id| copies.contains_key(id)).then_some(())
        })
        .await;
    let (_, copies) = read.into_inner().unwrap();
    for (event, ids) in &copies {
        assert_eq!(ids.len(), 1, "{event} came under {ids:?}");
    }
    eventually("nothing is left", async || {
        let row = sidehook.ledger("x").await;
        if row["pending"] == 0 { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
    let row = sidehook.ledger("x").await;
    assert_eq!(row["delivered"], row["created"], "{row}");
    assert!(row["created"].as_u64().unwrap() >= acknowledged.len() as u64, "{row}");
    faults::verified(&mut sidehook).await;
    let tally = faults::count(&receiver, "/x", &acknowledged);
    assert_eq!(tally.lost, 0);
    faults::record(1, "SIGKILL at random moments, starts included", round + round.div_ceil(5), &tally);
}

/// Every acknowledged id of a trace must have a sync of the outbox between the end of the read that brought it and the
/// beginning of the write that acknowledges it. Answers how many do; complains of the first that does not.
fn check_trace(trace: &str, ids: &[String], outbox: &str) -> Result<usize, String> {
    let calls = parse(trace);
    let mut synced = 0;
    for id in ids {
        let quoted = format!("\\\"{id}\\\"");
        let read = calls
            .iter()
            .find(|c| c.reads() && c.text.contains(&quoted))
            .ok_or_else(|| format!("no read of {id} in {} calls", calls.len()))?;
        let write = calls
            .iter()
            .filter(|c| c.begun > read.ended && c.writes())
            .find(|c| c.text.contains(&quoted) && c.text.contains("accepted"))
            .ok_or_else(|| format!("no acknowledgement of {id}"))?;
        let sync = calls.iter().any(|c| {
            c.syncs()
                && c.text.contains(outbox)
                && c.text.ends_with("= 0")
                && c.begun > read.ended
                && c.ended < write.begun
        });
        if !sync {
            return Err(format!(
                "{id}: read in line {}, acknowledged in line {}, no sync between",
                read.ended, write.begun
            ));
        }
        synced += 1;
    }
    Ok(synced)
}

/// One system call; lines are counted from 0 and tell the order.
struct Call {
    begun: usize,
    ended: usize,
    name: String,
    text: String,
}

impl Call {
    fn reads(&self) -> bool {
        matches!(self.name.as_str(), "read" | "readv" | "recvfrom" | "recvmsg")
    }

    fn writes(&self) -> bool {
        matches!(self.name.as_str(), "write" | "writev" | "sendto" | "sendmsg")
    }

    fn syncs(&self) -> bool {
        // What strace itself answered instead of the kernel synced nothing.
        matches!(self.name.as_str(), "fsync" | "fdatasync") && !self.text.contains("INJECTED")
    }
}

/// Joins the halves of calls that others interrupted.
fn parse(trace: &str) -> Vec<Call> {
    let mut open = BTreeMap::<&str, Call>::new();
    let mut calls = Vec::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            if let Some(mut call) = open.remove(pid) {
                call.ended = number;
                call.text.push_str(resumed.split_once("resumed>").map_or("", |(_, text)| text));
                calls.push(call);
            }
        } else if let Some((name, _)) = rest.split_once('(') {
            let mut call = Call { begun: number, ended: number, name: name.to_owned(), text: rest.to_owned() };
            if let Some(text) = rest.strip_suffix("<unfinished ...>") {
                text.clone_into(&mut call.text);
                open.insert(pid, call);
            } else {
                calls.push(call);
            }
        }
    }
    calls.sort_by_key(|c| c.begun);
    calls
}

/// Sends events to a sidehook under strace and answers the trace, the ids and the outbox's directory.
async fn traced(options: &[&str]) -> (String, Vec<String>, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace");
    let mut words = vec!["strace", "-f", "-y", "-s", "1000", "-o", file.to_str().unwrap()];
    words.extend(["-e", "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,fsync,fdatasync"]);
    words.extend(options);
    assert!(
        std::process::Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success()),
        "this test needs strace (apt-get install strace); tests/run installs it, tests/run --quick leaves the test out"
    );
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/x", "events: [\"*\"]\nparams: {type: event.type}");
    let mut sidehook = Sidehook::builder().webhook("x", &webhook).wrapper(&words).start().await;
    let mut ids = Vec::new();
    let mut connection = Connection::tcp(&sidehook.ingest).await.unwrap();
    for n in 0..20 {
        let id = format!("traced-{n}-event");
        let body = event(&id, "conversation.begin", &format!("c{n}")).to_string();
        let headers = [("content-type", "application/json")];
        connection.send("POST", "/v1/events", &headers, body).await.unwrap().expect(202);
        ids.push(id);
    }
    drop(connection);
    let outbox = sidehook.config.join("data").display().to_string();
    sidehook.signal(Signal::TERM);
    sidehook.ended().await;
    (std::fs::read_to_string(&file).unwrap(), ids, outbox)
}

#[tokio::test]
async fn strace_sees_a_sync_between_reading_an_event_and_its_202() {
    let (trace, ids, outbox) = traced(&[]).await;
    assert_eq!(check_trace(&trace, &ids, &outbox), Ok(20));
    // The same trace without its syncs must not pass.
    let without: String = trace.lines().filter(|l| !l.contains("sync")).map(|l| format!("{l}\n")).collect();
    let complaint = check_trace(&without, &ids, &outbox).unwrap_err();
    assert!(complaint.contains("no sync between"), "{complaint}");
}

#[tokio::test]
async fn strace_notices_when_syncing_is_switched_off() {
    // strace answers 0 in the kernel's place: the process believes that it synced, and nothing was.
    let (trace, ids, outbox) = traced(&["-e", "inject=fsync,fdatasync:retval=0"]).await;
    let complaint = check_trace(&trace, &ids, &outbox).unwrap_err();
    assert!(complaint.contains("no sync between"), "{complaint}");
}

#[tokio::test]
async fn strace_makes_a_sync_fail_and_nothing_is_acknowledged_until_it_works_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace");
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/x", "events: [\"*\"]\nparams: {id: event.id}");
    // Fails from the sixtieth sync of a thread on, for a while: long after the start.
    let words = [
        "strace",
        "-f",
        "-o",
        file.to_str().unwrap(),
        "-e",
        "trace=fsync,fdatasync",
        "-e",
        "inject=fsync,fdatasync:error=EIO:when=60..63",
    ];
    let mut sidehook = Sidehook::builder().webhook("x", &webhook).wrapper(&words).start().await;
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    eventually("a failing sync, and a working one after it", async || {
        let id = format!("e{}", acknowledged.len() + refused);
        let answer = sidehook.post(&event(&id, "a.b", &id)).await;
        match answer.status.as_u16() {
            202 => acknowledged.push(id),
            503 => {
                assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
                refused += 1;
            }
            other => panic!("{other}: {}", answer.text()),
        }
        if refused > 0 && answer.status.as_u16() == 202 {
            Ok(())
        } else {
            Err(format!("{acknowledged:?}, {refused} refused"))
        }
    })
    .await;
    receiver
        .wait_for("every acknowledged event", |all| {
            let ids: BTreeSet<_> = all.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
            acknowledged.iter().all(|id| ids.contains(id)).then_some(())
        })
        .await;
    sidehook.signal(Signal::TERM);
    sidehook.ended().await;
}

#[test]
fn the_checker_of_traces_tells_good_from_bad() {
    let read = r#"7 recvfrom(9<socket:[1]>, "POST /v1/events {\"id\":\"e1\"}", 4096, 0, NULL, NULL) = 40"#;
    let sync = "8 fdatasync(5</d/outbox.db-wal>) = 0";
    let write =
        r#"7 writev(9<socket:[1]>, [{iov_base="HTTP/1.1 202 Accepted {\"accepted\":1,\"ids\":[\"e1\"]}"}], 1) = 60"#;
    let split =
        ["8 fdatasync(5</d/outbox.db-wal> <unfinished ...>", write, "8 <... fdatasync resumed>) = 0"].join("\n");
    let ids = ["e1".to_owned()];
    for (trace, good) in [
        ([read, sync, write].join("\n"), true),
        ([sync, read, write].join("\n"), false),
        ([read, write, sync].join("\n"), false),
        ([read, write].join("\n"), false),
        ([read, &split].join("\n"), false),
        (
            [read, "8 fdatasync(5</d/outbox.db-wal> <unfinished ...>", "8 <... fdatasync resumed>) = 0", write]
                .join("\n"),
            true,
        ),
        ([read, "8 fdatasync(5</elsewhere>) = 0", write].join("\n"), false),
        ([read, "8 fdatasync(5</d/outbox.db-wal>) = -1 EIO (Input/output error)", write].join("\n"), false),
        ([read, "8 fdatasync(5</d/outbox.db-wal>) = 0 (INJECTED)", write].join("\n"), false),
    ] {
        assert_eq!(check_trace(&trace, &ids, "/d/").is_ok(), good, "{trace}");
    }
}
