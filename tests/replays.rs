//! Kept events through today's rules: dead letters of a rule that was mended, and a stretch of time.

use serde_json::{Value, json};

use crate::support::events::event;
use crate::support::{Receiver, Sidehook, cli};

const MENDED: &str = "fn accept(event) { event.metadata.n != 9 }\n\
                      fn transform(event, payload) { payload.n = event.metadata.n; payload }";

fn numbered(n: u64) -> Value {
    let mut event = event(&format!("e{n}"), "conversation.completed", &format!("c{n}"));
    event["metadata"] = json!({"n": n});
    event
}

async fn started() -> (Receiver, Sidehook) {
    let receiver = Receiver::start().await;
    let sidehook = Sidehook::builder()
        .main("outbox: {retain: {events: 1h}}")
        .webhook("x", &receiver.webhook("/x", "events: [\"conversation.*\"]\nrule: x.rhai\nparams: {id: event.id}"))
        .webhook("y", &receiver.webhook("/y", "events: [\"conversation.*\"]\nparams: {id: event.id}"))
        .rule("x.rhai", "fn transform(event, payload) { throw \"not yet\" }")
        .start()
        .await;
    for n in [1, 2, 3, 9] {
        sidehook.send(&numbered(n)).await;
    }
    sidehook.await_deliveries("webhook=x&state=dead", 4).await;
    sidehook.await_deliveries("webhook=y&state=delivered", 4).await;
    (receiver, sidehook)
}

#[tokio::test]
async fn dead_letters_of_a_failed_rule_are_rendered_again_by_a_retry() {
    let (receiver, sidehook) = started().await;
    let dead = sidehook.deliveries("webhook=x&state=dead").await;
    let of = |event: &str| {
        let found = dead.iter().find(|d| d["event_id"] == event).unwrap_or_else(|| panic!("{event}: {dead:?}"));
        found["id"].as_str().unwrap().to_owned()
    };
    let retry = async |id: &str| sidehook.admin_post(&format!("/api/v1/deliveries/{id}/retry"), "").await;
    let answer = retry(&of("e1")).await;
    assert_eq!(answer.status.as_u16(), 409);
    assert!(answer.text().contains("its rule still fails: ") && answer.text().contains("not yet"), "{}", answer.text());

    sidehook.write("rules/x.rhai", MENDED);
    sidehook.await_generation(2).await;
    assert!(retry(&of("e1")).await.status.is_success());
    let request = receiver.wait("/x", 1).await.remove(0);
    assert_eq!((request.id(), request.json()), (of("e1").as_str(), json!({"id": "e1", "n": 1})));
    let answer = retry(&of("e9")).await;
    assert_eq!(answer.status.as_u16(), 409);
    assert!(answer.text().contains("today's rules filter its event"), "{}", answer.text());

    let answer = sidehook.admin_post("/api/v1/deliveries/retry", r#"{"webhook":"x"}"#).await.expect(200);
    assert_eq!(answer.json(), json!({"retried": 2}));
    sidehook.await_deliveries("webhook=x&state=delivered", 3).await;
    let row = sidehook.ledger("x").await;
    assert_eq!((&row["created"], &row["delivered"], &row["dead"]), (&json!(4), &json!(3), &json!(1)), "{row}");
    assert_eq!(receiver.requests("/y").len(), 4, "other webhooks are left alone");
}

#[tokio::test]
async fn a_stretch_of_time_is_rendered_again_and_a_dry_run_makes_nothing() {
    let (receiver, sidehook) = started().await;
    sidehook.write("rules/x.rhai", MENDED);
    sidehook.await_generation(2).await;
    let replay = async |more: &[&str]| {
        let args = [&["replay", "--config", sidehook.config_arg(), "--json", "--since", "1h"], more].concat();
        cli(&args).await
    };
    let dry = replay(&["--dry-run"]).await.expect(0).json();
    let counts = |matched: u64, filtered: u64, rendered: u64| json!({"matched": matched, "filtered": filtered, "rendered": rendered, "rule_failed": 0});
    assert_eq!(
        dry,
        json!({"dry_run": true, "events": 4, "deliveries": 7, "errors": [],
               "webhooks": {"x": counts(4, 1, 3), "y": counts(4, 0, 4)}})
    );
    assert_eq!(sidehook.deliveries("").await.len(), 8, "nothing was made");

    let done = replay(&["--webhook", "x"]).await.expect(0).json();
    assert_eq!((&done["deliveries"], &done["webhooks"]), (&json!(3), &json!({"x": counts(4, 1, 3)})));
    let mut bodies: Vec<Value> = receiver.wait("/x", 3).await.iter().map(|r| r.json()["id"].clone()).collect();
    bodies.sort_by_key(ToString::to_string);
    assert_eq!(bodies, [json!("e1"), json!("e2"), json!("e3")]);
    sidehook.await_deliveries("webhook=x&state=delivered", 3).await;
    let row = sidehook.ledger("x").await;
    assert_eq!((&row["matched"], &row["dead"], &row["created"]), (&json!(8), &json!(4), &json!(7)), "{row}");
    assert_eq!(receiver.requests("/y").len(), 4);

    let none = replay(&["--until", "30m"]).await.expect(0).json();
    assert_eq!((&none["events"], &none["deliveries"]), (&json!(0), &json!(0)));
    let unknown = replay(&["--webhook", "nobody"]).await.expect(1);
    assert!(unknown.stderr.contains("there is no enabled webhook \"nobody\""), "{}", unknown.stderr);
    cli(&["replay", "--since", "yesterday"]).await.expect(2);
    for (body, status) in
        [("{}", 400), (r#"{"since":"soon"}"#, 400), (r#"{"since":"2026-01-01T00:00:00Z","x":1}"#, 400)]
    {
        assert_eq!(sidehook.admin_post("/api/v1/replay", body).await.status.as_u16(), status, "{body}");
    }
}
