//! The shapes of events that are taken in: canonical, Rapida's own webhook body, `CloudEvents`; ids and numbers.

use serde_json::{Value, json};

use crate::support::{Receiver, Sidehook};

const RAPIDA: &str = include_str!("fixtures/rapida.completed.json");

async fn started(rest: &str) -> (Receiver, Sidehook) {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/all", &format!("events: [\"*\"]\n{rest}"));
    let sidehook = Sidehook::builder().webhook("all", &webhook).start().await;
    (receiver, sidehook)
}

#[tokio::test]
async fn an_unpatched_rapida_body_passes_with_no_configuration() {
    let (receiver, sidehook) = started("").await;
    let answer = sidehook.post_as("application/json", RAPIDA).await.expect(202).json();
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(1), &json!(0)));
    // Its sender's retry: the same bytes.
    let again = sidehook.post_as("application/json", RAPIDA).await.expect(202).json();
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(0), &json!(1)));
    assert_eq!(again["ids"], answer["ids"]);
    // Another conversation's end is another event.
    let other = RAPIDA.replace("2216964057603244032", "2216964057603244099");
    assert_eq!(sidehook.post_as("application/json", other).await.expect(202).json()["accepted"], 1);
    let requests = receiver.wait("/all", 2).await;
    let sent: Value = serde_json::from_str(RAPIDA).unwrap();
    let first = requests.iter().find(|r| r.json() == sent);
    assert!(first.is_some(), "the default payload of a Rapida body is that body: {}", requests[0].json());
    assert_eq!(requests.len(), 2);
}

#[tokio::test]
async fn a_rapida_body_with_keys_of_its_own_choosing_keeps_them_for_params() {
    let params = "params: {note: event.conversation-analysis, who: argument.caller, kind: event.type}";
    let (receiver, sidehook) = started(params).await;
    let body = json!({"event": "conversation.begin", "conversation-analysis": {"result": "x"},
        "data": {"assistant": {"id": "1", "version": "vrsn_1"}, "conversation": {"id": "2", "messages": []}, "analysis": {}}});
    sidehook.send(&body).await;
    let payload = receiver.wait("/all", 1).await[0].json();
    assert_eq!(payload, json!({"kind": "conversation.begin", "note": {"result": "x"}}));
}

#[tokio::test]
async fn structured_cloudevents_are_taken() {
    let (receiver, sidehook) = started(
        "params: {id: event.id, type: event.type, conversation: conversation.id, time: event.time, x: argument.x}",
    )
    .await;
    let cloud = |source: &str, id: &str| {
        json!({"specversion": "1.0", "type": "conversation.begin", "source": source, "id": id, "subject": "c1",
            "time": "2026-01-03T11:38:10Z", "datacontenttype": "application/json", "data": {"argument": {"x": 1}}})
    };
    let media = "application/cloudevents+json";
    for (source, id, accepted) in [("/bot", "1", 1), ("/bot", "1", 0), ("/other", "1", 1), ("/bot", "2", 1)] {
        let answer = sidehook.post_as(media, cloud(source, id).to_string()).await.expect(202).json();
        assert_eq!(answer["accepted"], accepted, "{source} {id}: {answer}");
    }
    let requests = receiver.wait("/all", 3).await;
    for request in &requests {
        let payload = request.json();
        assert_eq!(payload["type"], "conversation.begin");
        assert_eq!(payload["conversation"], "c1", "the subject is the conversation where data has none");
        assert_eq!(payload["x"], 1);
    }
    assert_eq!(requests.len(), 3);
    let missing = json!({"specversion": "1.0", "type": "conversation.begin", "id": "1", "subject": "c1"});
    let refused = sidehook.post_as(media, missing.to_string()).await.expect(422);
    assert_eq!(refused.json()["errors"][0]["pointer"], "/source", "{}", refused.text());
}

#[tokio::test]
async fn batched_and_binary_cloudevents_are_taken() {
    let (receiver, sidehook) = started("params: {type: event.type, conversation: conversation.id}").await;
    let batch = json!([
        {"specversion": "1.0", "type": "a.one", "source": "/bot", "id": "1", "data": {"conversation": {"id": "c1"}}},
        {"specversion": "1.0", "type": "a.two", "source": "/bot", "id": "2"},
    ]);
    let answer = sidehook.post_as("application/cloudevents-batch+json", batch.to_string()).await.expect(202).json();
    assert_eq!(answer["accepted"], 2);
    let headers = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-type", "a.three"),
        ("ce-source", "/bot"),
        ("ce-id", "3"),
        ("ce-subject", "c3"),
    ];
    let answer = sidehook.ask(&sidehook.ingest, "POST", "/v1/events", &headers, "{}").await.unwrap();
    answer.expect(202);
    let mut payloads: Vec<String> = receiver.wait("/all", 3).await.iter().map(|r| r.json().to_string()).collect();
    payloads.sort();
    assert_eq!(
        payloads,
        [r#"{"conversation":"c1","type":"a.one"}"#, r#"{"conversation":"c3","type":"a.three"}"#, r#"{"type":"a.two"}"#,]
    );
}

#[tokio::test]
async fn a_cloudevent_may_carry_a_rapida_body() {
    let (receiver, sidehook) = started("").await;
    let body: Value = serde_json::from_str(RAPIDA).unwrap();
    let cloud =
        json!({"specversion": "1.0", "type": "conversation.completed", "source": "/rapida", "id": "1", "data": body});
    sidehook.post_as("application/cloudevents+json", cloud.to_string()).await.expect(202);
    assert_eq!(receiver.wait("/all", 1).await[0].json(), body);
}

#[tokio::test]
async fn ids_leave_as_strings_and_numbers_lose_no_digit() {
    let (receiver, sidehook) =
        started("params: {data: event.data, n: argument.n, f: argument.f, big: event.big}").await;
    let body = r#"{"type":"conversation.begin","id":9007199254740993,"assistant":{"id":2193965165215481856},
        "conversation":{"id":2216964057603244032},"argument":{"n":12345678901234567890123,"f":0.10000000000000000001},"big":-9223372036854775809}"#;
    let answer = sidehook.post_as("application/json", body).await.expect(202).json();
    assert_eq!(answer["ids"], json!(["9007199254740993"]));
    let request = receiver.wait("/all", 1).await.remove(0);
    let payload = String::from_utf8_lossy(&request.body).into_owned();
    for part in [
        r#""n":12345678901234567890123"#,
        r#""f":0.10000000000000000001"#,
        r#""big":-9223372036854775809"#,
        r#""id":"2193965165215481856""#,
        r#""id":"2216964057603244032""#,
    ] {
        assert!(payload.contains(part), "{part} is not in {payload}");
    }
}

#[tokio::test]
async fn unknown_types_are_carried_without_a_conversation() {
    let (receiver, sidehook) = started("params: {type: event.type, data: event.data}").await;
    sidehook.send(&json!({"type": "billing.invoice_made.v-2"})).await;
    let payload = receiver.wait("/all", 1).await[0].json();
    let data = json!({"assistant": {}, "conversation": {"messages": []}, "analysis": {}});
    assert_eq!(payload, json!({"type": "billing.invoice_made.v-2", "data": data}));
}

#[tokio::test]
async fn events_choose_webhooks_by_name_and_glob() {
    let receiver = Receiver::start().await;
    let mut builder = Sidehook::builder();
    for (name, events) in [
        ("exact", "[conversation.begin]"),
        ("glob", "[\"conversation.*\"]"),
        ("two", "[a.b, \"*.failed\"]"),
        ("all", "[\"*\"]"),
    ] {
        let yaml = receiver.webhook(&format!("/{name}"), &format!("events: {events}\nparams: {{t: event.type}}"));
        builder = builder.webhook(name, &yaml);
    }
    let sidehook = builder.start().await;
    let kinds = ["conversation.begin", "conversation.failed", "a.b", "a.b.c"];
    let events: Vec<_> = kinds.iter().map(|kind| json!({"type": kind, "conversation": {"id": "c"}})).collect();
    sidehook.send(&json!(events)).await;
    for (name, expected) in [("exact", 1), ("glob", 2), ("two", 2), ("all", 4)] {
        receiver.wait(&format!("/{name}"), expected).await;
        let row = sidehook.ledger(name).await;
        assert_eq!(row["matched"], expected, "{name}: {row}");
    }
}

#[tokio::test]
async fn members_of_rapidas_data_do_not_pass_for_the_envelopes_own() {
    let receiver = Receiver::start().await;
    let webhook = |path: &str, rest: &str| {
        receiver.webhook(
            path,
            &format!("events: [\"*\"]\nrule: x.rhai\nparams: {{type: event.type, id: conversation.id}}\n{rest}"),
        )
    };
    let sidehook = Sidehook::builder()
        .webhook("now", &webhook("/now", ""))
        .webhook("later", &webhook("/later", "wait_for: {analysis: [late], timeout: 200ms}"))
        .rule("x.rhai", "fn transform(event, payload) { payload.seen = event.type; payload }")
        .start()
        .await;
    let body = json!({"event": "conversation.completed", "data": {"type": "a.b", "id": "forged", "time": "noon",
        "assistant": {"id": "1", "version": "v"}, "conversation": {"id": "2", "messages": []}, "analysis": {}}});
    sidehook.send(&body).await;
    let expected = json!({"type": "conversation.completed", "id": "2", "seen": "conversation.completed"});
    for path in ["/now", "/later"] {
        assert_eq!(receiver.wait(path, 1).await[0].json(), expected, "{path}");
    }
}
