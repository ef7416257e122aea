//! sidehook's own troubles as events, for those who ask for them.

use serde_json::{Value, json};

use crate::support::events::event;
use crate::support::{Receiver, Reply, Sidehook};

/// What a path was told: type, webhook, reason; without the deliveries' ids.
fn told(receiver: &Receiver, path: &str) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let read = |body: Value| (text(&body["type"]), text(&body["about"]["webhook"]), text(&body["about"]["reason"]));
    receiver.requests(path).iter().map(|request| read(request.json())).collect()
}

const ALERTS: &str = "events: [\"sidehook.*\"]\nparams: {type: event.type, about: metadata.*}";

#[tokio::test]
async fn troubles_reach_those_who_ask_and_never_their_own_webhook() {
    let receiver = Receiver::start().await;
    for (path, status) in [("/bad", 400), ("/gone", 410), ("/deaf", 400)] {
        receiver.on(path, &[Reply::status(status)]);
    }
    let mut builder = Sidehook::builder()
        .webhook("alerts", &receiver.webhook("/alerts", ALERTS))
        // It cannot be told of anything, and nobody is to hear of that for ever.
        .webhook("deaf", &receiver.webhook("/deaf", "events: [\"sidehook.*\", \"a.b\"]"))
        .webhook("all", &receiver.webhook("/all", "events: [\"*\"]"))
        .rule("failing.rhai", "fn transform(event, payload) { throw \"broken\" }");
    for (name, rest) in [("bad", ""), ("gone", ""), ("failing", "\nrule: failing.rhai")] {
        builder = builder.webhook(name, &receiver.webhook(&format!("/{name}"), &format!("events: [a.b]{rest}")));
    }
    let sidehook = builder.start().await;
    sidehook.send(&event("e1", "a.b", "c1")).await;
    let of = |kind: &str, webhook: &str| (format!("sidehook.{kind}"), webhook.to_owned());
    let expected = [
        of("delivery.dead", "bad"),
        of("delivery.dead", "deaf"),
        of("delivery.dead", "failing"),
        of("webhook.disabled", "gone"),
    ];
    receiver.wait("/alerts", expected.len()).await;
    let mut found: Vec<_> = told(&receiver, "/alerts").into_iter().map(|(kind, webhook, _)| (kind, webhook)).collect();
    found.sort();
    assert_eq!(found, expected);
    let reasons: Vec<String> = told(&receiver, "/alerts").into_iter().map(|(_, _, reason)| reason).collect();
    for part in ["status_400", "status_410", "rule_error: "] {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "{part}: {reasons:?}");
    }
    let dead = sidehook.await_deliveries("webhook=bad&state=dead", 1).await;
    let about = receiver.requests("/alerts").into_iter().map(|r| r.json()).find(|b| b["about"]["webhook"] == "bad");
    assert_eq!(about.unwrap()["about"]["delivery"], dead[0]["id"]);

    sidehook.write("webhooks/alerts.yaml", &format!("{}\ncolour: red\n", receiver.webhook("/alerts", ALERTS)));
    receiver.wait("/alerts", 5).await;
    let (kind, _, reason) = told(&receiver, "/alerts").pop().unwrap();
    assert_eq!(kind, "sidehook.reload.rejected");
    assert!(reason.starts_with("webhooks/alerts.yaml:") && reason.contains("unknown key `colour`"), "{reason}");

    // `a.b`, then what the others met; its own dead deliveries, of whatever kind, were told to nobody else either.
    sidehook.await_deliveries("webhook=deaf&state=dead", 5).await;
    let told_deaf: Vec<Value> = sidehook.deliveries("webhook=deaf").await.iter().map(|d| d["event"].clone()).collect();
    assert_eq!(told_deaf.iter().filter(|kind| **kind == json!("sidehook.delivery.dead")).count(), 2, "{told_deaf:?}");
    assert_eq!(receiver.requests("/alerts").len(), 5);
    assert_eq!(receiver.requests("/all").len(), 1, "a pattern that does not name sidehook does not mean it");
    assert_eq!(sidehook.get("/api/v1/ledger").await.expect(200).json()["balanced"], json!(true));
}

#[tokio::test]
async fn a_full_outbox_can_still_say_so() {
    let receiver = Receiver::start().await;
    receiver.on("/down", &[Reply::status(503)]);
    let sidehook = Sidehook::builder()
        .main("outbox: {max_bytes: 4MiB}")
        .webhook("alerts", &receiver.webhook("/alerts", ALERTS))
        .webhook("down", &receiver.webhook("/down", "events: [a.b]\nparams: {x: metadata.x}"))
        .start()
        .await;
    let mut refused = false;
    for n in 0..40 {
        let mut event = event(&format!("e{n}"), "a.b", &format!("c{n}"));
        event["metadata"] = json!({"x": "x".repeat(400_000)});
        refused |= sidehook.post(&event).await.status.as_u16() == 503;
    }
    assert!(refused, "it was never full");
    receiver.wait("/alerts", 1).await;
    let (kind, webhook, reason) = told(&receiver, "/alerts").remove(0);
    assert_eq!((kind.as_str(), webhook.as_str()), ("sidehook.outbox.full", ""));
    assert!(reason.contains("new events are refused"), "{reason}");
    for n in 40..60 {
        let mut event = event(&format!("e{n}"), "a.b", &format!("c{n}"));
        event["metadata"] = json!({"x": "x".repeat(400_000)});
        sidehook.post(&event).await;
    }
    assert_eq!(sidehook.ledger("alerts").await["matched"], json!(1), "it is not told at every refusal");
}
