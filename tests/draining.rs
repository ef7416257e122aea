//! Ending and starting again.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::events::event;
use crate::support::{Body, Receiver, Reply, Sidehook, cli, eventually};

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight_and_exits_0() {
    let receiver = Receiver::start().await;
    receiver.on("/slow", &[Reply::status(200).after(Duration::from_millis(1500))]);
    receiver.on("/down", &[Reply::status(503)]);
    let retry = "retry: {schedule: [1h], jitter: 0}";
    let mut sidehook = Sidehook::builder()
        .main("shutdown: {accept: 0s, grace: 30s}")
        .webhook("slow", &receiver.webhook("/slow", "events: [\"*\"]"))
        .webhook("down", &receiver.webhook("/down", &format!("events: [\"*\"]\n{retry}")))
        .start()
        .await;
    sidehook.send(&event("e", "a.b", "c")).await;
    receiver.wait("/slow", 1).await;
    receiver.wait("/down", 1).await;
    sidehook.signal(Signal::TERM);
    assert_eq!(sidehook.ended().await.code(), Some(0));
    assert_eq!(receiver.all().len(), 2, "nothing was sent twice");
    let last = sidehook.logged("wait").await;
    assert!(sidehook.log().iter().any(|line| line.contains("\"deliveries\":1")), "it says what waits: {last}");
    let config = sidehook.config_arg().to_owned();
    let listed = cli(&["deliveries", "list", "--json", "--config", &config]).await.expect(0).json();
    let state =
        |webhook: &str| listed.as_array().unwrap().iter().find(|d| d["webhook"] == webhook).unwrap()["state"].clone();
    assert_eq!((state("slow"), state("down")), (json!("delivered"), json!("pending")));
}

#[tokio::test]
async fn events_are_still_taken_for_a_while_but_readiness_goes_at_once() {
    let receiver = Receiver::start().await;
    let mut sidehook = Sidehook::builder()
        .main("shutdown: {accept: 3s, grace: 30s}")
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]"))
        .start()
        .await;
    sidehook.signal(Signal::TERM);
    let signalled = Instant::now();
    eventually("not ready", async || {
        let status = sidehook.get("/ready").await.status.as_u16();
        if status == 503 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(sidehook.get("/live").await.status.as_u16(), 200);
    let answer = sidehook.post(&event("last words", "conversation.completed", "c")).await;
    if signalled.elapsed() < Duration::from_secs(2) {
        answer.expect(202);
        receiver.wait("/x", 1).await;
    }
    assert_eq!(sidehook.ended().await.code(), Some(0));
    assert!(signalled.elapsed() >= Duration::from_secs(3), "intake was open for {:?}", signalled.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_loses_nothing() {
    let receiver = Receiver::start().await;
    receiver.on("/x", &[Reply::status(200).body(Body::Hang), Reply::status(200)]);
    let mut sidehook = Sidehook::builder()
        .main("shutdown: {accept: 5m, grace: 5m}")
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]\ntimeout: 10m"))
        .start()
        .await;
    sidehook.send(&event("e", "a.b", "c")).await;
    receiver.wait("/x", 1).await;
    sidehook.signal(Signal::TERM);
    sidehook.logged("ending").await;
    sidehook.signal(Signal::TERM);
    sidehook.ended().await;
    // Within PATIENCE instead of ten minutes; the delivery goes out after the next start under its id.
    sidehook.start().await;
    let requests = receiver.wait("/x", 2).await;
    assert_eq!(requests[0].id(), requests[1].id());
}

#[tokio::test]
async fn grace_is_a_limit() {
    let receiver = Receiver::start().await;
    receiver.on("/x", &[Reply::status(200).body(Body::Hang), Reply::status(200)]);
    let mut sidehook = Sidehook::builder()
        .main("shutdown: {accept: 0s, grace: 500ms}")
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]\ntimeout: 10m"))
        .start()
        .await;
    sidehook.send(&event("e", "a.b", "c")).await;
    receiver.wait("/x", 1).await;
    sidehook.signal(Signal::INT);
    assert_eq!(sidehook.ended().await.code(), Some(0));
    sidehook.start().await;
    receiver.wait("/x", 2).await;
}

#[tokio::test]
async fn what_waits_goes_out_after_the_next_start_with_unchanged_ids() {
    let receiver = Receiver::start().await;
    receiver.stop().await;
    let mut sidehook =
        Sidehook::builder().webhook("x", &receiver.webhook("/x", "events: [\"*\"]\nretry: {schedule: [500ms, 500ms, 500ms, 500ms, 500ms, 500ms, 500ms, 500ms], jitter: 0}\nbreaker: {failures: 100000}")).start().await;
    let events: Vec<_> = (0..10).map(|n| event(&format!("e{n}"), "a.b", &format!("c{n}"))).collect();
    sidehook.send(&json!(events)).await;
    let owed = sidehook.await_deliveries("state=pending", 10).await;
    sidehook.stop().await;
    receiver.resume().await;
    sidehook.start().await;
    let mut arrived: Vec<_> = receiver.wait("/x", 10).await.iter().map(|r| r.id().to_owned()).collect();
    let mut owed: Vec<_> = owed.iter().map(|d| d["id"].as_str().unwrap().to_owned()).collect();
    arrived.sort();
    owed.sort();
    assert_eq!(arrived, owed);
}

#[tokio::test]
async fn two_sidehooks_do_not_share_an_outbox() {
    let receiver = Receiver::start().await;
    let first = Sidehook::builder().webhook("x", &receiver.webhook("/x", "events: [\"*\"]")).start().await;
    let outbox = first.config.join("data");
    let mut second = Sidehook::builder()
        .main(&format!("outbox: {{path: {}}}", outbox.display()))
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]"))
        .prepare();
    second.spawn();
    assert_eq!(second.ended().await.code(), Some(1));
    let said = second.log().join("\n");
    assert!(said.contains("outbox"), "{said}");
    first.send(&event("e", "a.b", "c")).await;
    receiver.wait("/x", 1).await;
}

#[tokio::test]
async fn a_taken_address_is_told_by_its_key() {
    let receiver = Receiver::start().await;
    let first = Sidehook::builder().webhook("x", &receiver.webhook("/x", "events: [\"*\"]")).start().await;
    let mut second = Sidehook::builder()
        .main(&format!("sources: {{events: {{type: http, listen: \"{}\"}}}}", first.ingest))
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]"))
        .prepare();
    second.spawn();
    assert_eq!(second.ended().await.code(), Some(1));
    eventually("its last words", async || {
        let said = second.log().join("\n");
        if said.contains("sources.events.listen") && said.contains(&first.ingest) { Ok(()) } else { Err(said) }
    })
    .await;
}

/// The soft limit on open files, of a sidehook with this source and 256 to begin with.
async fn open_files(source: &str) -> u64 {
    let limited = ["sh", "-c", "ulimit -Sn 256; exec \"$@\"", "sh"];
    let sidehook = Sidehook::builder().main(source).wrapper(&limited).start().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", sidehook.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_on_open_files_is_raised_unless_a_child_would_inherit_it() {
    assert!(open_files("").await > 256);
    assert_eq!(open_files("sources: {bot: {type: exec, command: [sleep, \"60\"]}}").await, 256);
}

/// Whoever reads the log may go away, and the disk under it may be full.
#[tokio::test]
async fn a_log_that_cannot_be_written_holds_nothing_up() {
    let receiver = Receiver::start().await;
    receiver.on("/x", &[Reply::status(503), Reply::status(503), Reply::status(200)]);
    let webhook = receiver.webhook("/x", "events: [\"*\"]\nretry: {schedule: [0s, 0s, 0s]}");
    let full = ["sh", "-c", "exec \"$0\" \"$@\" 2>/dev/full"];
    let mut sidehook = Sidehook::builder().webhook("x", &webhook).wrapper(&full).prepare();
    sidehook.spawn();
    eventually("it is ready", async || match sidehook.try_get("/ready").await {
        Ok(answer) if answer.status.is_success() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    sidehook.send(&event("e1", "a.b", "c")).await;
    // One that is refused is logged as well.
    assert_eq!(sidehook.post(&serde_json::json!({"type": 1})).await.status.as_u16(), 422);
    sidehook.await_deliveries("state=delivered", 1).await;
    sidehook.signal(Signal::TERM);
    assert_eq!(sidehook.ended().await.code(), Some(0));
    assert!(sidehook.log().is_empty(), "the log was readable all the time: {:?}", sidehook.log());
}
