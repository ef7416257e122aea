//! What follows from an answer: the schedule, Retry-After, final statuses, 410, bodies without end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::events::event;
use crate::support::{Body, Receiver, Reply, Sidehook};

const QUICK: &str = "retry: {schedule: [50ms, 50ms, 50ms], jitter: 0}\nbreaker: {failures: 1000}";

/// A sidehook with the webhook `x` and one event sent to it.
async fn sent(replies: &[Reply], rest: &str) -> (Receiver, Sidehook) {
    let receiver = Receiver::start().await;
    receiver.on("/x", replies);
    let webhook = receiver.webhook("/x", &format!("events: [\"*\"]\n{rest}"));
    let sidehook = Sidehook::builder().webhook("x", &webhook).start().await;
    sidehook.send(&event("e", "a.b", "c")).await;
    (receiver, sidehook)
}

/// The only delivery, once it is in this state, with its attempts.
async fn only(sidehook: &Sidehook, state: &str) -> Value {
    let found = sidehook.await_deliveries(&format!("state={state}"), 1).await;
    sidehook.get(&format!("/api/v1/deliveries/{}", found[0]["id"].as_str().unwrap())).await.expect(200).json()
}

fn statuses(delivery: &Value) -> Vec<String> {
    let attempts = delivery["attempts"].as_array().unwrap();
    attempts.iter().map(|a| a["status"].as_str().map_or_else(|| a["status"].to_string(), str::to_owned)).collect()
}

#[tokio::test]
async fn failures_are_retried_by_the_schedule_until_it_succeeds() {
    let replies =
        [Reply::status(503).text("busy"), Reply::status(429), Reply::status(500), Reply::status(201).text("done")];
    let (receiver, sidehook) = sent(&replies, QUICK).await;
    let requests = receiver.wait("/x", 4).await;
    assert!(requests.iter().all(|r| r.id() == requests[0].id()));
    for pair in requests.windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(50), "sooner than the schedule says");
    }
    let delivery = only(&sidehook, "delivered").await;
    assert_eq!(statuses(&delivery), ["503", "429", "500", "201"], "{delivery}");
    assert_eq!(delivery["id"], requests[0].id());
    assert_eq!(
        (&delivery["event_id"], &delivery["event"], &delivery["conversation"], &delivery["webhook"]),
        (&json!("e"), &json!("a.b"), &json!("c"), &json!("x"))
    );
    let last = &delivery["attempts"][3];
    assert_eq!(last["response"], "done");
    assert!(last["duration_ms"].is_number() && last["at"].is_string(), "{last}");
    assert_eq!(sidehook.metric("sidehook_attempts_total", &["webhook=\"x\"", "status=\"503\""]).await, 1.0);
    assert_eq!(sidehook.metric("sidehook_deliveries_total", &["webhook=\"x\"", "outcome=\"delivered\""]).await, 1.0);
}

#[tokio::test]
async fn a_schedule_that_is_used_up_makes_it_dead() {
    let (receiver, sidehook) = sent(&[Reply::status(502)], QUICK).await;
    let delivery = only(&sidehook, "dead").await;
    assert_eq!(statuses(&delivery), ["502"; 4], "{delivery}");
    assert!(delivery["reason"].as_str().is_some_and(|r| !r.is_empty()), "{delivery}");
    // The operator mends the destination and retries.
    receiver.on("/x", &[Reply::status(200)]);
    let answer = sidehook.admin_post("/api/v1/deliveries/retry", r#"{"state":"dead"}"#).await.expect(200);
    assert_eq!(answer.json(), json!({"retried": 1}));
    let again = only(&sidehook, "delivered").await;
    assert_eq!(again["id"], delivery["id"]);
    let row = sidehook.ledger("x").await;
    assert_eq!((&row["created"], &row["delivered"], &row["dead"]), (&json!(1), &json!(1), &json!(0)), "{row}");
}

#[tokio::test]
async fn an_exponential_schedule_counts_all_attempts() {
    let rest = "retry: {schedule: {initial: 20ms, factor: 2, max: 1s, attempts: 3}, jitter: 0}";
    let (_receiver, sidehook) = sent(&[Reply::status(500)], rest).await;
    assert_eq!(statuses(&only(&sidehook, "dead").await).len(), 3);
}

#[tokio::test]
async fn retry_after_is_a_floor() {
    let replies = [Reply::status(503).header("retry-after", "2"), Reply::status(200)];
    let (receiver, _sidehook) = sent(&replies, QUICK).await;
    let requests = receiver.wait("/x", 2).await;
    let gap = requests[1].at - requests[0].at;
    assert!(gap >= Duration::from_secs(2), "{gap:?}");
}

#[tokio::test]
async fn statuses_that_are_not_listed_are_final() {
    for (status, rest) in [
        (400, QUICK.to_owned()),
        (404, QUICK.to_owned()),
        (401, QUICK.to_owned()),
        (503, "retry: {schedule: [50ms], statuses: [500]}".to_owned()),
        (302, QUICK.to_owned()),
        (304, QUICK.to_owned()),
    ] {
        let reply = Reply::status(status).header("location", "/elsewhere");
        let (receiver, sidehook) = sent(&[reply], &rest).await;
        let delivery = only(&sidehook, "dead").await;
        assert_eq!(delivery["reason"], format!("status_{status}"), "{delivery}");
        assert_eq!(statuses(&delivery), [status.to_string()]);
        assert_eq!(receiver.all().len(), 1, "{status}: redirects are not followed, final is final");
    }
}

#[tokio::test]
async fn listed_statuses_are_retried_in_rapidas_spelling_too() {
    let rest = "retry: {schedule: [50ms], jitter: 0, statuses: [\"40X\", 5xx]}";
    let (_receiver, sidehook) = sent(&[Reply::status(404), Reply::status(200)], rest).await;
    assert_eq!(statuses(&only(&sidehook, "delivered").await), ["404", "200"]);
}

#[tokio::test]
async fn a_410_disables_the_webhook_until_its_file_changes() {
    let (receiver, mut sidehook) = sent(&[Reply::status(410)], QUICK).await;
    let held = only(&sidehook, "held").await;
    assert_eq!(held["event_id"], "e", "the delivery that met the 410 is held");
    receiver.on("/x", &[Reply::status(200)]);
    sidehook.send(&event("e2", "a.b", "c")).await;
    sidehook.await_deliveries("state=held", 2).await;
    // Over a restart, and over reloads of other files.
    sidehook.stop().await;
    sidehook.start().await;
    sidehook.write("webhooks/other.yaml", &receiver.webhook("/other", "events: [\"*\"]"));
    sidehook.admin_post("/api/v1/reload", "").await.expect(200);
    sidehook.send(&event("e3", "a.b", "c")).await;
    receiver.wait("/other", 1).await;
    sidehook.await_deliveries("state=held&webhook=x", 3).await;
    assert_eq!(receiver.requests("/x").len(), 1);
    let yaml = sidehook.read("webhooks/x.yaml");
    sidehook.write("webhooks/x.yaml", &format!("{yaml}description: mended\n"));
    sidehook.admin_post("/api/v1/reload", "").await.expect(200);
    sidehook.await_deliveries("state=delivered&webhook=x", 3).await;
    let requests = receiver.wait("/x", 4).await;
    assert_eq!(requests[1].id(), held["id"], "in order, under its id");
    assert_eq!(sidehook.ledger("x").await["held"], 0);
}

#[tokio::test]
async fn the_timeout_covers_a_dripping_body() {
    let dripping = Reply::status(200).body(Body::Drip(100_000));
    let rest = format!("timeout: 500ms\n{QUICK}");
    let (_receiver, sidehook) = sent(&[dripping, Reply::status(200)], &rest).await;
    let delivery = only(&sidehook, "delivered").await;
    assert_eq!(statuses(&delivery), ["timeout", "200"], "{delivery}");
}

#[tokio::test]
async fn a_slow_body_within_the_timeout_is_waited_for() {
    let (_receiver, sidehook) = sent(&[Reply::status(200).body(Body::Drip(6))], QUICK).await;
    let delivery = only(&sidehook, "delivered").await;
    assert_eq!((statuses(&delivery), &delivery["attempts"][0]["response"]), (vec!["200".to_owned()], &json!("......")));
}

#[tokio::test]
async fn an_endless_body_is_read_for_4_kib_and_no_further() {
    let (receiver, sidehook) = sent(&[Reply::status(200).body(Body::Endless)], &format!("timeout: 50s\n{QUICK}")).await;
    let delivery = only(&sidehook, "delivered").await;
    assert_eq!(delivery["attempts"][0]["response"].as_str().unwrap().len(), 4096);
    assert_eq!(receiver.all().len(), 1);
}

#[tokio::test]
async fn an_answer_that_never_comes_and_a_reset_are_retried() {
    let hang = Reply::status(200).body(Body::Hang);
    let reset = Reply::status(200).body(Body::Reset);
    let (_receiver, sidehook) = sent(&[hang, reset, Reply::status(200)], &format!("timeout: 500ms\n{QUICK}")).await;
    let delivery = only(&sidehook, "delivered").await;
    assert_eq!(statuses(&delivery), ["timeout", "reset", "200"], "{delivery}");
}

#[tokio::test]
async fn a_destination_that_is_down_is_retried_until_it_is_back() {
    let receiver = Receiver::start().await;
    let rest = "events: [\"*\"]\nretry: {schedule: {initial: 100ms, factor: 1, max: 100ms, attempts: 100}, jitter: 0}\nbreaker: {failures: 100000}";
    let sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", rest)).start().await;
    receiver.stop().await;
    sidehook.send(&event("e", "a.b", "c")).await;
    let pending = only(&sidehook, "pending").await;
    crate::support::eventually("a failed attempt", async || {
        let id = pending["id"].as_str().unwrap();
        let now = sidehook.get(&format!("/api/v1/deliveries/{id}")).await.json();
        if statuses(&now).iter().any(|s| s == "connect") { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    receiver.resume().await;
    let delivery = only(&sidehook, "delivered").await;
    assert_eq!(statuses(&delivery).last().map(String::as_str), Some("200"));
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let receiver = Receiver::start().await;
    let yaml = format!(
        "url: {}\nevents: [\"*\"]\nsigning: {{scheme: none}}\nretry: {{schedule: [20ms]}}\n",
        receiver.url("/x")
    );
    let sidehook = Sidehook::builder().webhook("x", &yaml).start().await;
    sidehook.send(&event("e", "a.b", "c")).await;
    let delivery = only(&sidehook, "dead").await;
    assert_eq!(statuses(&delivery), ["tls", "tls"], "{delivery}");
    assert!(receiver.all().is_empty());
}

#[tokio::test]
async fn denied_addresses_are_never_dialled() {
    let receiver = Receiver::start().await;
    let [a, b, ..] = match receiver.address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => unreachable!("the receiver is on IPv4"),
    };
    let metadata =
        "url: https://169.254.169.254/x\nevents: [\"*\"]\nsigning: {scheme: none}\nretry: {schedule: [20ms]}\n";
    let sidehook = Sidehook::builder()
        .main(&format!("egress: {{deny: [\"{a}.{b}.0.0/16\"]}}"))
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]\nretry: {schedule: [20ms]}"))
        .webhook("metadata", metadata)
        .start()
        .await;
    sidehook.send(&event("e", "a.b", "c")).await;
    for delivery in sidehook.await_deliveries("state=dead", 2).await {
        let shown = sidehook.get(&format!("/api/v1/deliveries/{}", delivery["id"].as_str().unwrap())).await.json();
        assert_eq!(statuses(&shown), ["denied", "denied"], "{shown}");
    }
    assert!(receiver.all().is_empty());
}

#[tokio::test]
async fn the_breaker_leaves_a_failing_destination_alone_for_a_while() {
    let receiver = Receiver::start().await;
    receiver.on("/x", &[Reply::status(500)]);
    let rest = "events: [\"*\"]\nordering: none\nretry: {schedule: {initial: 10ms, factor: 1, max: 10ms, attempts: 100}, jitter: 0}\nbreaker: {failures: 3, open_for: 3s}";
    let sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", rest)).start().await;
    sidehook.send(&event("e", "a.b", "c")).await;
    let requests = receiver.wait("/x", 4).await;
    let gap = requests[3].at - requests[2].at;
    assert!(gap >= Duration::from_millis(2500), "{gap:?}");
}

#[tokio::test]
async fn rate_and_concurrency_of_a_webhook_are_kept() {
    let receiver = Receiver::start().await;
    receiver.on("/slow", &[Reply::status(200).after(Duration::from_millis(100))]);
    let sidehook = Sidehook::builder()
        .webhook("rated", &receiver.webhook("/rated", "events: [\"*\"]\nrate_limit: 10/s\nordering: none"))
        .webhook("slow", &receiver.webhook("/slow", "events: [\"*\"]\nconcurrency: 2\nordering: none"))
        .start()
        .await;
    let events: Vec<_> = (0..20).map(|n| event(&format!("e{n}"), "a.b", &format!("c{n}"))).collect();
    let start = Instant::now();
    sidehook.send(&json!(events)).await;
    let slow = receiver.wait("/slow", 20).await;
    for window in slow.windows(3) {
        // The third of any three begins after one of the two before it was answered.
        assert!(window[2].at - window[0].at >= Duration::from_millis(80), "three at once");
    }
    let rated = receiver.wait("/rated", 20).await;
    // Ten at once, then ten more at 10 a second.
    assert!(rated[19].at - start >= Duration::from_millis(850), "{:?}", rated[19].at - start);
}
