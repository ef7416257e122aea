//! What a webhook asks of its destination and of its turn: client certificates, CloudEvents, priority, the breaker's probe.

use std::time::Duration;

use serde_json::json;

use crate::support::events::event;
use crate::support::signature::{SECRET, verify};
use crate::support::{Receiver, Reply, Sidehook, eventually};

#[tokio::test]
async fn a_client_certificate_opens_a_door_that_stays_shut_without_it() {
    let (receiver, cert, key) = Receiver::start_mutual().await;
    let tls = |more: &str| format!("tls: {{ca_file: {}{more}}}\n", receiver.ca_file().display());
    let pair = format!(", client_cert_file: {}, client_key_file: {}", cert.display(), key.display());
    let rest = format!(
        "events: [\"*\"]\nsigning: {{scheme: standard, secrets: [{SECRET}]}}\nretry: {{schedule: [20ms], jitter: 0}}\n"
    );
    let sidehook = Sidehook::builder()
        .webhook("known", &format!("url: {}\n{}{rest}", receiver.url("/known"), tls(&pair)))
        .webhook("stranger", &format!("url: {}\n{}{rest}", receiver.url("/stranger"), tls("")))
        .start()
        .await;
    sidehook.send(&event("e", "a.b", "c")).await;
    verify(SECRET, &receiver.wait("/known", 1).await[0]).unwrap();
    let dead = sidehook.await_deliveries("webhook=stranger&state=dead", 1).await;
    let shown = sidehook.get(&format!("/api/v1/deliveries/{}", dead[0]["id"].as_str().unwrap())).await.json();
    let attempt = &shown["attempts"][0];
    assert!(attempt["error"].as_str().is_some_and(|e| !e.is_empty()), "{shown}");
    assert!(receiver.requests("/stranger").is_empty());
}

#[tokio::test]
async fn a_cloudevent_leaves_in_structured_mode_and_signed_whole() {
    let receiver = Receiver::start().await;
    let rest = "events: [\"*\"]\nformat: cloudevents\nparams: {kind: event.type, x: argument.x}";
    let sidehook =
        Sidehook::builder().source("namespace: eu").webhook("x", &receiver.webhook("/x", rest)).start().await;
    let time = "2026-01-03T11:38:10Z";
    let sent = json!({"id": "e1", "type": "conversation.begin", "time": time, "conversation": {"id": 7}, "argument": {"x": 1}});
    sidehook.send(&sent).await;
    let request = receiver.wait("/x", 1).await.remove(0);
    verify(SECRET, &request).unwrap();
    assert!(request.header("content-type").starts_with("application/cloudevents+json"), "{request:?}");
    let expected = json!({"specversion": "1.0", "id": "e1", "source": "sidehook/eu", "type": "conversation.begin", "time": time,
        "subject": "7", "datacontenttype": "application/json", "data": {"kind": "conversation.begin", "x": 1}});
    assert_eq!(request.json(), expected);
}

#[tokio::test]
async fn a_lower_priority_goes_first_where_places_are_scarce() {
    let receiver = Receiver::start().await;
    receiver.on("/block", &[Reply::status(200).after(Duration::from_millis(700))]);
    let rest = "events: [a.b]\nordering: none\n";
    let sidehook = Sidehook::builder()
        .main("limits: {concurrency: 1}")
        .webhook("block", &receiver.webhook("/block", "events: [z.z]"))
        // By name the later one would come first.
        .webhook("aa-late", &receiver.webhook("/late", &format!("{rest}priority: 5")))
        .webhook("zz-soon", &receiver.webhook("/soon", &format!("{rest}priority: -5")))
        .start()
        .await;
    sidehook.send(&event("block", "z.z", "c")).await;
    receiver.wait("/block", 1).await;
    // While the one place is taken all of these queue up.
    let events: Vec<_> = (0..5).map(|n| event(&format!("e{n}"), "a.b", &format!("c{n}"))).collect();
    sidehook.send(&json!(events)).await;
    receiver.wait("/late", 5).await;
    let order: Vec<String> = receiver.all().into_iter().map(|r| r.path).collect();
    let expected = ["/block", "/soon", "/soon", "/soon", "/soon", "/soon", "/late", "/late", "/late", "/late", "/late"];
    assert_eq!(order, expected);
}

#[tokio::test]
async fn an_open_breaker_lets_one_probe_through_and_closes_on_its_success() {
    let receiver = Receiver::start().await;
    let bad = Reply::status(500);
    let probe = Reply::status(200).after(Duration::from_millis(600));
    receiver.on("/x", &[bad.clone(), bad.clone(), bad, probe, Reply::status(200)]);
    let rest = "events: [\"*\"]\nordering: none\nconcurrency: 1\nretry: {schedule: {initial: 10ms, factor: 1, max: 10ms, attempts: 100}, jitter: 0}\nbreaker: {failures: 3, open_for: 1s}";
    let sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", rest)).start().await;
    let events: Vec<_> = (0..4).map(|n| event(&format!("e{n}"), "a.b", &format!("c{n}"))).collect();
    sidehook.send(&json!(events)).await;
    receiver.wait("/x", 3).await;
    let breaker = async |wanted: &[&str]| {
        eventually(&format!("a breaker that is {wanted:?}"), async || {
            let status = sidehook.get("/api/v1/status").await.json();
            let now = status["webhooks"][0]["breaker"].as_str().unwrap_or_default().to_owned();
            if wanted.contains(&now.as_str()) { Ok(()) } else { Err(now) }
        })
        .await;
    };
    breaker(&["open", "half_open"]).await;
    sidehook.await_deliveries("state=delivered", 4).await;
    breaker(&["closed"]).await;
    let requests = receiver.requests("/x");
    assert_eq!(requests.len(), 7, "three failures, the probe, and the other three");
    // Nothing else went out before the probe was answered.
    assert!(requests[4].at - requests[3].at >= Duration::from_millis(550), "{requests:?}");
    assert!(requests[3].at - requests[2].at >= Duration::from_millis(900), "{requests:?}");
}
