//! The table of params: every selector, what is missing, literals.

use serde_json::{Value, json};

use crate::support::{Receiver, Sidehook};

fn whole() -> Value {
    json!({
        "id": "evt_1", "type": "conversation.completed", "time": "2026-01-03T11:38:10Z", "reason": "hung_up",
        "extra": {"deep": [1, 2]}, "data": "its own data",
        "assistant": {"id": "a1", "name": "Support", "prompt": "Be kind.", "version": "v7", "mood": "good"},
        "conversation": {"id": "c1", "messages": [{"role": "user", "message": "hello", "time": "2026-01-03T11:38:00Z"}], "length": 3},
        "argument": {"caller": "+31612345678", "a.b": "exact", "a": {"b": "walked", "c": {"d": false}}, "none": null},
        "metadata": {"region": "eu", "n": 1.50},
        "option": {"voice": "alloy"},
        "analysis": {"conversation-analysis": {"result": "fine"}, "score": 0.25},
    })
}

/// What the params make of the event.
async fn picked(params: &str, event: &Value) -> Value {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/x", &format!("events: [\"*\"]\n{params}"));
    let sidehook = Sidehook::builder().webhook("x", &webhook).start().await;
    sidehook.send(event).await;
    receiver.wait("/x", 1).await[0].json()
}

#[tokio::test]
async fn every_selector_picks_what_it_names() {
    let event = whole();
    let data = json!({"assistant": {"id": "a1", "version": "v7"}, "conversation": {"id": "c1", "messages": event["conversation"]["messages"]},
        "analysis": event["analysis"]});
    let table = [
        ("event.type", json!("conversation.completed")),
        ("event.id", json!("evt_1")),
        ("event.time", json!("2026-01-03T11:38:10Z")),
        ("event.reason", json!("hung_up")),
        ("event.extra", json!({"deep": [1, 2]})),
        ("event.raw.data", json!("its own data")),
        ("event.data", data),
        ("assistant.id", json!("a1")),
        ("assistant.name", json!("Support")),
        ("assistant.prompt", json!("Be kind.")),
        ("assistant.version", json!("v7")),
        ("conversation.id", json!("c1")),
        ("conversation.messages", event["conversation"]["messages"].clone()),
        ("argument.caller", json!("+31612345678")),
        ("argument.a.b", json!("exact")),
        ("argument.a.c.d", json!(false)),
        ("argument.none", json!(null)),
        ("metadata.region", json!("eu")),
        ("metadata.n", json!(1.5)),
        ("option.voice", json!("alloy")),
        ("analysis.conversation-analysis", json!({"result": "fine"})),
        ("analysis.conversation-analysis.result", json!("fine")),
        ("analysis.score", json!(0.25)),
        ("argument.*", event["argument"].clone()),
        ("metadata.*", event["metadata"].clone()),
        ("option.*", event["option"].clone()),
        ("analysis.*", event["analysis"].clone()),
    ];
    let mut yaml = "params:\n".to_owned();
    let mut expected = serde_json::Map::new();
    for (n, (selector, value)) in table.iter().enumerate() {
        yaml.push_str(&format!("  k{n}: {selector}\n").replace(".*", ".*"));
        expected.insert(format!("k{n}"), value.clone());
    }
    yaml.push_str("  literal: {value: {list: [1, \"two\", null], yes: true}}\n  \"dotted.key\": event.type\n");
    expected.insert("literal".into(), json!({"list": [1, "two", null], "yes": true}));
    expected.insert("dotted.key".into(), json!("conversation.completed"));
    let payload = picked(&yaml, &event).await;
    for (n, (selector, value)) in table.iter().enumerate() {
        assert_eq!(&payload[format!("k{n}")], value, "{selector}");
    }
    assert_eq!(payload, Value::Object(expected));
}

#[tokio::test]
async fn without_params_the_payload_is_event_and_data() {
    let bare = json!({"type": "conversation.begin", "conversation": {"id": "c1"}});
    let data = json!({"assistant": {}, "conversation": {"id": "c1", "messages": []}, "analysis": {}});
    assert_eq!(picked("", &bare).await, json!({"event": "conversation.begin", "data": data}));
}

#[tokio::test]
async fn missing_entries_are_left_out_or_null() {
    let bare = json!({"type": "a.b"});
    let params = "params: {t: event.type, a: argument.nope, r: event.reason, m: assistant.name, i: conversation.id, s: analysis.x.y, w: metadata.*}";
    assert_eq!(picked(params, &bare).await, json!({"t": "a.b", "w": {}}));
    let nulls = json!({"t": "a.b", "a": null, "r": null, "m": null, "i": null, "s": null, "w": {}});
    for missing in ["missing: null", "missing: \"null\"", "missing: ~"] {
        assert_eq!(picked(&format!("{params}\n{missing}"), &bare).await, nulls, "{missing}");
    }
}

#[tokio::test]
async fn a_missing_entry_can_be_a_failure() {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/x", "events: [\"*\"]\nparams: {t: event.type, a: argument.nope}\nmissing: error");
    let sidehook = Sidehook::builder().webhook("x", &webhook).start().await;
    sidehook.send(&json!([{"type": "a.b"}, {"type": "a.b", "argument": {"nope": 1}}])).await;
    assert_eq!(receiver.wait("/x", 1).await[0].json(), json!({"t": "a.b", "a": 1}));
    let dead = sidehook.await_deliveries("state=dead", 1).await;
    let reason = dead[0]["reason"].as_str().unwrap();
    assert_eq!(reason, "rule_error: params: the event has no `argument.nope` for the key `a` (missing: error)");
    let row = sidehook.ledger("x").await;
    assert_eq!((&row["matched"], &row["rule_failed"], &row["dead"]), (&json!(2), &json!(1), &json!(1)), "{row}");
}
