//! Order per conversation and webhook, without holding up anyone else.

use serde_json::json;

use crate::support::events::event;
use crate::support::{Body, Received, Receiver, Reply, Sidehook};

fn ids(requests: &[Received]) -> Vec<String> {
    requests.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect()
}

const SLOW_RETRIES: &str =
    "events: [\"*\"]\nparams: {id: event.id}\nretry: {schedule: [3s, 3s], jitter: 0}\nbreaker: {failures: 100000}";

#[tokio::test]
async fn a_retrying_conversation_keeps_its_order_and_blocks_no_other() {
    let receiver = Receiver::start().await;
    receiver.on_each("/x", |request, n| {
        let failing = n == 0 && request.json()["id"] == "a1";
        Reply::status(if failing { 503 } else { 200 })
    });
    let sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", SLOW_RETRIES)).start().await;
    sidehook.send(&json!([event("a1", "x.y", "a"), event("a2", "x.y", "a"), event("a3", "x.y", "a")])).await;
    receiver.wait("/x", 1).await;
    let others: Vec<_> = (0..20).map(|n| event(&format!("b{n}"), "x.y", &format!("b{}", n % 5))).collect();
    sidehook.send(&json!(others)).await;
    let all = ids(&receiver.wait("/x", 24).await);
    let of = |c: char| -> Vec<&String> { all.iter().filter(|id| id.starts_with(c)).collect() };
    assert_eq!(of('a'), ["a1", "a1", "a2", "a3"], "{all:?}");
    let last_b = all.iter().rposition(|id| id.starts_with('b')).unwrap();
    let second_a1 = all.iter().rposition(|id| id == "a1").unwrap();
    assert!(last_b < second_a1, "others went on while `a` waited for its retry: {all:?}");
    for conversation in 0..5 {
        let own: Vec<usize> =
            all.iter().filter_map(|id| id.strip_prefix('b')?.parse().ok()).filter(|n| n % 5 == conversation).collect();
        assert!(own.is_sorted(), "{own:?}");
    }
}

#[tokio::test]
async fn a_dead_begin_releases_its_end() {
    let receiver = Receiver::start().await;
    receiver.on_each("/x", |request, _| Reply::status(if request.json()["id"] == "begin" { 400 } else { 200 }));
    let sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", SLOW_RETRIES)).start().await;
    sidehook.send(&event("begin", "conversation.begin", "c")).await;
    sidehook.send(&event("end", "conversation.completed", "c")).await;
    assert_eq!(ids(&receiver.wait("/x", 2).await), ["begin", "end"]);
    sidehook.await_deliveries("state=delivered", 1).await;
    sidehook.await_deliveries("state=dead", 1).await;
}

#[tokio::test]
async fn without_ordering_nothing_waits() {
    let receiver = Receiver::start().await;
    receiver.on_each("/x", |request, _| {
        let reply = Reply::status(200);
        if request.json()["id"] == "first" { reply.body(Body::Hang) } else { reply }
    });
    let yaml = receiver.webhook("/x", &format!("{SLOW_RETRIES}\nordering: none"));
    let sidehook = Sidehook::builder().webhook("x", &yaml).start().await;
    sidehook.send(&json!([event("first", "x.y", "c"), event("second", "x.y", "c")])).await;
    sidehook.await_deliveries("state=delivered", 1).await;
    assert!(ids(&receiver.requests("/x")).contains(&"second".to_owned()));
}

#[tokio::test]
async fn one_dead_destination_delays_nobody_else() {
    let receiver = Receiver::start().await;
    receiver.on("/hangs", &[Reply::status(200).body(Body::Hang)]);
    let sidehook = Sidehook::builder()
        .main("limits: {concurrency: 64}")
        .webhook("hangs", &receiver.webhook("/hangs", "events: [\"*\"]\ntimeout: 5m"))
        .webhook("fine", &receiver.webhook("/fine", "events: [\"*\"]\nparams: {id: event.id}"))
        .start()
        .await;
    let events: Vec<_> = (0..200).map(|n| event(&format!("e{n}"), "x.y", &format!("c{n}"))).collect();
    for chunk in events.chunks(20) {
        sidehook.send(&json!(chunk)).await;
    }
    // The hanging ones never end within this test; the others all arrive.
    receiver.wait("/fine", 200).await;
    let row = sidehook.ledger("hangs").await;
    assert_eq!((&row["pending"], &row["delivered"]), (&json!(200), &json!(0)), "{row}");
}

#[tokio::test]
async fn order_holds_over_a_restart() {
    let receiver = Receiver::start().await;
    receiver.stop().await;
    let yaml = "events: [\"*\"]\nparams: {id: event.id}\nretry: {schedule: {initial: 50ms, factor: 1, max: 50ms, attempts: 100}, jitter: 0}\nbreaker: {failures: 100000}";
    let mut sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", yaml)).start().await;
    for n in 0..5 {
        sidehook.send(&event(&format!("e{n}"), "x.y", "c")).await;
    }
    sidehook.kill().await;
    sidehook.start().await;
    for n in 5..10 {
        sidehook.send(&event(&format!("e{n}"), "x.y", "c")).await;
    }
    receiver.resume().await;
    let order: Vec<_> = ids(&receiver.wait("/x", 10).await);
    let expected: Vec<_> = (0..10).map(|n| format!("e{n}")).collect();
    assert_eq!(order, expected);
}
