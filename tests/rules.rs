//! Rules as a user writes them: accept, transform, headers, when, and what follows from a failure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::events::{conversation, event};
use crate::support::{Connection, Receiver, Sidehook, eventually};

async fn started(rest: &str, rule: &str) -> (Receiver, Sidehook) {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/x", &format!("events: [\"*\"]\nrule: x.rhai\n{rest}"));
    let sidehook = Sidehook::builder().webhook("x", &webhook).rule("x.rhai", rule).start().await;
    (receiver, sidehook)
}

#[tokio::test]
async fn accept_transform_and_headers_shape_a_delivery() {
    let rule = r#"
        const PREFIX = "call";
        fn accept(event) { event.metadata.region == "eu" }
        fn transform(event, payload) {
            payload.turns = event.conversation.messages.len();
            payload.first = event.conversation.messages[0].message.to_upper();
            payload.label = `${global::PREFIX}-${event.argument["caller"]}`;
            payload.summary = event.analysis["conversation-analysis"]?.result ?? "";
            payload.nothing = event.analysis["absent"]?.result ?? "none";
            payload
        }
        fn headers(event, payload) { #{ "X-Region": event.metadata.region, "X-Turns": payload.turns, "X-Out": () } }
    "#;
    let (receiver, sidehook) = started("params: {type: event.type}", rule).await;
    let mut other = conversation("e0", "c0");
    other["metadata"]["region"] = json!("us");
    sidehook.send(&json!([other, conversation("e1", "c1")])).await;
    let request = receiver.wait("/x", 1).await.remove(0);
    let payload = request.json();
    assert_eq!(payload["turns"], 20);
    assert!(payload["first"].as_str().unwrap().starts_with("TURN 0: WORDS"), "{payload}");
    assert_eq!(
        (&payload["label"], &payload["summary"], &payload["nothing"]),
        (&json!("call-+31612345678"), &json!("fine"), &json!("none"))
    );
    assert_eq!(
        (request.header("x-region"), request.header("x-turns"), request.headers.contains_key("x-out")),
        ("eu", "20", false)
    );
    let row = sidehook.ledger("x").await;
    assert_eq!(
        (&row["matched"], &row["filtered"], &row["rendered"], &row["created"]),
        (&json!(2), &json!(1), &json!(1), &json!(1)),
        "{row}"
    );
}

#[tokio::test]
async fn when_filters_before_the_rule() {
    let rule = "fn transform(event, payload) { if event.metadata.n == 1 { throw \"must not run\" } payload }";
    let (receiver, sidehook) = started("when: event.metadata.n > 1", rule).await;
    sidehook.send(&json!([{"type": "a.b", "metadata": {"n": 1}}, {"type": "a.b", "metadata": {"n": 2}}])).await;
    receiver.wait("/x", 1).await;
    let row = sidehook.ledger("x").await;
    assert_eq!((&row["filtered"], &row["rule_failed"], &row["rendered"]), (&json!(1), &json!(0), &json!(1)), "{row}");
}

#[tokio::test]
async fn a_transform_may_send_nothing_or_several_in_order() {
    let rule = r"
        fn transform(event, payload) {
            if event.metadata.n == 0 { return; }
            let out = [];
            for n in 0..event.metadata.n { out.push(#{ n: n }); }
            out
        }";
    let (receiver, sidehook) = started("", rule).await;
    let of = |id: &str, n: i64| json!({"id": id, "type": "a.b", "conversation": {"id": "c"}, "metadata": {"n": n}});
    sidehook.send(&json!([of("e0", 0), of("e1", 5)])).await;
    let requests = receiver.wait("/x", 5).await;
    let order: Vec<Value> = requests.iter().map(|r| r.json()["n"].clone()).collect();
    assert_eq!(order, [0, 1, 2, 3, 4], "a fan-out keeps its array's order");
    let mut ids: Vec<_> = requests.iter().map(|r| r.id().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5, "each has an id of its own");
    let row = sidehook.ledger("x").await;
    assert_eq!((&row["filtered"], &row["rendered"], &row["created"]), (&json!(1), &json!(1), &json!(5)), "{row}");
}

/// Deliveries after one event whose rule throws and one whose rule does not.
async fn after_a_failure(on_rule_error: &str) -> (Receiver, Sidehook) {
    let rule = "fn transform(event, payload) {\n  if event.metadata.bad == true {\n    throw \"no good\";\n  }\n  #{ ok: true }\n}";
    let (receiver, sidehook) =
        started(&format!("params: {{id: event.id}}\non_rule_error: {on_rule_error}"), rule).await;
    sidehook
        .send(&json!([{"id": "bad", "type": "a.b", "metadata": {"bad": true}}, {"id": "good", "type": "a.b"}]))
        .await;
    (receiver, sidehook)
}

#[tokio::test]
async fn a_failing_rule_makes_a_dead_letter() {
    let (receiver, sidehook) = after_a_failure("dead_letter").await;
    assert_eq!(receiver.wait("/x", 1).await[0].json(), json!({"ok": true}));
    let dead = sidehook.await_deliveries("state=dead", 1).await;
    assert_eq!(dead[0]["event_id"], "bad");
    let shown = sidehook.get(&format!("/api/v1/deliveries/{}", dead[0]["id"].as_str().unwrap())).await.expect(200);
    for part in ["no good", "x.rhai", "transform", "3"] {
        assert!(shown.text().contains(part), "{part} is not in {}", shown.text());
    }
    let row = sidehook.ledger("x").await;
    assert_eq!(
        (&row["rule_failed"], &row["rendered"], &row["dead"], &row["created"]),
        (&json!(1), &json!(1), &json!(1), &json!(2)),
        "{row}"
    );
    assert!(sidehook.metric("sidehook_rule_errors_total", &["rule=\"x\""]).await >= 1.0);
    // Its event was not kept, so a retry cannot render it and says so.
    let id = dead[0]["id"].as_str().unwrap();
    let refused = sidehook.admin_post(&format!("/api/v1/deliveries/{id}/retry"), "").await;
    assert!(refused.status.is_client_error(), "{}", refused.text());
}

#[tokio::test]
async fn a_failing_rule_can_be_skipped() {
    let (receiver, sidehook) = after_a_failure("skip").await;
    receiver.wait("/x", 1).await;
    let row = sidehook.ledger("x").await;
    assert_eq!((&row["rule_failed"], &row["created"], &row["dead"]), (&json!(1), &json!(1), &json!(0)), "{row}");
}

#[tokio::test]
async fn a_failing_rule_can_send_the_params() {
    let (receiver, sidehook) = after_a_failure("send_params").await;
    let mut payloads: Vec<_> = receiver.wait("/x", 2).await.iter().map(|r| r.json().to_string()).collect();
    payloads.sort();
    assert_eq!(payloads, [r#"{"id":"bad"}"#, r#"{"ok":true}"#]);
    let row = sidehook.ledger("x").await;
    assert_eq!((&row["rule_failed"], &row["created"], &row["dead"]), (&json!(1), &json!(2), &json!(0)), "{row}");
}

#[tokio::test]
async fn what_a_rule_may_not_do_fails_and_leaks_nothing() {
    for (rule, said) in [
        ("fn transform(event, payload) { 5 }", ""),
        ("fn transform(event, payload) { [1] }", ""),
        ("fn transform(event, payload) { event.metadata.x = 1; payload }", ""),
        ("fn transform(event, payload) { let s = \"x\"; loop { s += s; } }", ""),
        ("fn transform(event, payload) { fn_that(1) } fn fn_that(n) { fn_that(n + 1) }", ""),
        ("fn transform(event, payload) { let n = 0; loop { n += 1; } }", ""),
        ("fn headers(event, payload) { #{ \"X-A\": \"a\\r\\nX-B: b\" } }", ""),
    ] {
        let (receiver, sidehook) = started("", rule).await;
        sidehook.send(&json!({"id": "e", "type": "a.b", "metadata": {"secret": "transcript"}})).await;
        let dead = sidehook.await_deliveries("state=dead", 1).await;
        assert!(dead[0]["reason"].as_str().is_some_and(|r| r.contains(said) && !r.is_empty()), "{rule}: {dead:?}");
        assert!(receiver.all().is_empty(), "{rule}");
    }
}

#[tokio::test]
async fn a_rule_cannot_override_signature_or_framing_or_configured_headers() {
    let rule = r#"fn headers(event, payload) {
        #{ "webhook-id": "forged", "Webhook-Signature": "v1,x", "Host": "evil", "Content-Length": "1", "Transfer-Encoding": "x",
           "Connection": "close", "Authorization": "mine", "X-Fine": "yes" }
    }"#;
    let (receiver, sidehook) = started("headers: {Authorization: \"Bearer theirs\"}", rule).await;
    sidehook.send(&event("e", "a.b", "c")).await;
    let request = receiver.wait("/x", 1).await.remove(0);
    assert_ne!(request.id(), "forged");
    assert_eq!(crate::support::signature::verify(crate::support::signature::SECRET, &request), Ok(()));
    assert_eq!((request.header("authorization"), request.header("x-fine")), ("Bearer theirs", "yes"));
    assert!(!request.header("host").contains("evil"));
}

#[tokio::test]
async fn rules_import_from_their_folder_and_the_same_event_gives_the_same_output() {
    let receiver = Receiver::start().await;
    let webhook = |path: &str| receiver.webhook(path, "events: [\"*\"]\nrule: main.rhai\nparams: {}");
    let main = r#"
        import "lib/common" as common;
        fn transform(event, payload) { #{ uuid: uuid(), again: uuid(), now: now(), mask: common::hide(event.argument.card), hash: sha256("abc") } }
    "#;
    let sidehook = Sidehook::builder()
        .webhook("one", &webhook("/one"))
        .webhook("two", &webhook("/two"))
        .rule("main.rhai", main)
        .rule("lib/common.rhai", "fn hide(s) { mask(s) }")
        .start()
        .await;
    sidehook.send(&json!({"type": "a.b", "argument": {"card": "4111111111111111"}})).await;
    let one = receiver.wait("/one", 1).await[0].json();
    let two = receiver.wait("/two", 1).await[0].json();
    assert_eq!(one, two);
    assert_ne!(one["uuid"], one["again"]);
    assert!(one["mask"].as_str().is_some_and(|m| m.ends_with("1111") && !m.contains('4')), "{one}");
    assert_eq!(one["hash"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

/// Events of the load, and the conversations they belong to.
const EVENTS: u32 = 400;
const CONVERSATIONS: u32 = 8;

/// Sends the load over as many connections as there are conversations, while the webhooks named are configured; gives
/// the bodies that `/good` received by conversation, in order, and the ledger.
async fn loaded(with_bad: bool) -> (BTreeMap<u64, Vec<bytes::Bytes>>, Value) {
    let receiver = Receiver::start().await;
    let good = receiver.webhook("/good", "events: [\"*\"]\nrule: good.rhai");
    let bad = receiver.webhook("/bad", "events: [\"*\"]\nrule: bad.rhai\nbreaker: {open_for: 1s}");
    let mut builder = Sidehook::builder()
        .webhook("good", &good)
        .rule("good.rhai", "fn transform(event, payload) { #{ c: event.metadata.c, n: event.metadata.n, turns: event.conversation.messages.len() } }")
        .rule(
            "bad.rhai",
            "fn transform(event, payload) {\n    switch event.metadata.n % 4 {\n        0 => throw `no ${event.id}`,\n        1 => { loop {} }\n        2 => 1,\n        _ => event.metadata.n.nothing\n    }\n}",
        );
    if with_bad {
        builder = builder.webhook("bad", &bad);
    }
    let sidehook = builder.start().await;
    let mut senders = tokio::task::JoinSet::new();
    for c in 0..CONVERSATIONS {
        let ingest = sidehook.ingest.clone();
        senders.spawn(async move {
            let mut connection = Connection::tcp(&ingest).await.unwrap();
            for n in 0..EVENTS / CONVERSATIONS {
                let mut event = conversation(&format!("e-{c}-{n}"), &format!("c-{c}"));
                event["metadata"] = json!({"c": c, "n": n});
                let headers = [("content-type", "application/json")];
                connection.send("POST", "/v1/events", &headers, event.to_string()).await.unwrap().expect(202);
            }
        });
    }
    senders.join_all().await;
    let mut bodies: BTreeMap<u64, Vec<bytes::Bytes>> = BTreeMap::new();
    for request in receiver.wait("/good", EVENTS as usize).await {
        bodies.entry(request.json()["c"].as_u64().unwrap()).or_default().push(request.body);
    }
    let ledger = eventually("all is settled", async || {
        let ledger = sidehook.get("/api/v1/ledger").await.expect(200).json();
        let open = ledger["webhooks"].as_array().unwrap().iter().any(|row| row["pending"] != 0);
        if open { Err(ledger.to_string()) } else { Ok(ledger) }
    })
    .await;
    assert_eq!(receiver.requests("/good").len(), EVENTS as usize, "nothing comes twice");
    assert!(receiver.requests("/bad").is_empty());
    (bodies, ledger)
}

fn row<'a>(ledger: &'a Value, webhook: &str) -> &'a Value {
    ledger["webhooks"].as_array().unwrap().iter().find(|row| row["webhook"] == webhook).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_fails_under_load_changes_nothing_for_other_webhooks() {
    let (alone, ledger_alone) = loaded(false).await;
    let (beside, ledger) = loaded(true).await;
    assert_eq!(alone, beside, "payloads and their order");
    assert_eq!(alone.len(), CONVERSATIONS as usize);
    for (conversation, bodies) in &alone {
        let numbers: Vec<Value> =
            bodies.iter().map(|b| serde_json::from_slice::<Value>(b).unwrap()["n"].clone()).collect();
        let wanted: Vec<Value> = (0..EVENTS / CONVERSATIONS).map(Value::from).collect();
        assert_eq!(numbers, wanted, "conversation {conversation}");
    }
    assert_eq!(row(&ledger, "good"), row(&ledger_alone, "good"));
    assert_eq!(
        (&row(&ledger, "good")["delivered"], &row(&ledger, "bad")["matched"], &row(&ledger, "bad")["rule_failed"]),
        (&json!(EVENTS), &json!(EVENTS), &json!(EVENTS))
    );
    assert_eq!((&row(&ledger, "bad")["dead"], &ledger["balanced"]), (&json!(EVENTS), &json!(true)), "{ledger}");
}
