//! Incremental events are assembled durably; events wait for late analysis.

use serde_json::{Value, json};

use crate::support::events::event;
use crate::support::{Receiver, Reply, Sidehook, eventually};

fn message(kind: &str, conversation: &str, text: &str) -> Value {
    let role = if kind == "message.received" { "user" } else { "assistant" };
    json!({"type": kind, "conversation": {"id": conversation}, "message": {"role": role, "message": text}})
}

fn update(conversation: &str, maps: Value) -> Value {
    let mut update = json!({"type": "conversation.update", "conversation": {"id": conversation}});
    update.as_object_mut().unwrap().extend(maps.as_object().unwrap().clone());
    update
}

const WHOLE: &str = "params: {type: event.type, messages: conversation.messages, argument: argument.*, metadata: metadata.*, option: option.*, analysis: analysis.*, name: assistant.name}";

#[tokio::test]
async fn incremental_events_are_assembled_over_a_restart() {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/ends", &format!("events: [conversation.completed]\n{WHOLE}"));
    let mut sidehook = Sidehook::builder().webhook("ends", &webhook).start().await;
    let mut begin = event("b", "conversation.begin", "c1");
    begin["argument"] = json!({"caller": "+31", "gone": 1});
    begin["assistant"] = json!({"id": "a", "name": "Support"});
    sidehook.send(&begin).await;
    sidehook.send(&message("message.received", "c1", "hello")).await;
    sidehook.send(&message("message.received", "c2", "another conversation")).await;
    sidehook.kill().await;
    sidehook.start().await;
    sidehook
        .send(&json!([
            message("message.sent", "c1", "hi"),
            update("c1", json!({"argument": {"gone": null, "more": {"x": 1}}, "metadata": {"region": "eu"}})),
            update("c1", json!({"argument": {"more": {"y": 2}}, "analysis": {"early": 1}})),
        ]))
        .await;
    let mut end = event("e", "conversation.completed", "c1");
    end["option"] = json!({"voice": "alloy"});
    end["metadata"] = json!({"wins": true});
    sidehook.send(&end).await;
    let payload = receiver.wait("/ends", 1).await[0].json();
    assert_eq!(
        payload,
        json!({
            "type": "conversation.completed",
            "messages": [{"role": "user", "message": "hello"}, {"role": "assistant", "message": "hi"}],
            // Maps merge one level deep; null removes.
            "argument": {"caller": "+31", "more": {"y": 2}},
            // A map that the lifecycle event itself brings wins whole.
            "metadata": {"wins": true},
            "option": {"voice": "alloy"},
            "analysis": {"early": 1},
            "name": "Support",
        })
    );
}

#[tokio::test]
async fn messages_of_the_end_event_win_over_the_state() {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/ends", "events: [conversation.failed]\nparams: {messages: conversation.messages}");
    let sidehook = Sidehook::builder().webhook("ends", &webhook).start().await;
    sidehook.send(&message("message.received", "c1", "from the stream")).await;
    let mut end = event("e", "conversation.failed", "c1");
    end["conversation"]["messages"] = json!([{"role": "user", "message": "from the end"}]);
    sidehook.send(&end).await;
    assert_eq!(
        receiver.wait("/ends", 1).await[0].json(),
        json!({"messages": [{"role": "user", "message": "from the end"}]})
    );
}

async fn waiting(timeout: &str) -> (Receiver, Sidehook) {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook(
        "/w",
        &format!(
            "events: [\"conversation.*\"]\nparams: {{type: event.type, analysis: analysis.*, messages: conversation.messages, metadata: metadata.*}}\nwhen: event.type != \"conversation.update\"\nwait_for: {{analysis: [summary, score], timeout: {timeout}}}"
        ),
    );
    let sidehook = Sidehook::builder().webhook("w", &webhook).start().await;
    (receiver, sidehook)
}

#[tokio::test]
async fn an_end_waits_for_late_analysis_over_a_restart() {
    let (receiver, mut sidehook) = waiting("10m").await;
    sidehook.send(&message("message.received", "c1", "hello")).await;
    let mut end = event("e1", "conversation.completed", "c1");
    end["metadata"] = json!({"at": "the trigger"});
    sidehook.send(&end).await;
    eventually("the event waits", async || {
        let row = sidehook.ledger("w").await;
        if row["waiting"] == 1 { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
    // Another conversation is not held up, and an end that brings all it needs does not wait.
    let mut other = event("e2", "conversation.completed", "c2");
    other["analysis"] = json!({"summary": "s", "score": 1});
    sidehook.send(&other).await;
    assert_eq!(receiver.wait("/w", 1).await[0].json()["analysis"], json!({"summary": "s", "score": 1}));
    // Settled, so that the kill does not have it sent again.
    sidehook.await_deliveries("state=delivered", 1).await;
    sidehook.kill().await;
    sidehook.start().await;
    sidehook.send(&update("c1", json!({"analysis": {"summary": "late"}, "metadata": {"at": "later"}}))).await;
    assert_eq!(sidehook.ledger("w").await["waiting"], 1, "one of two names is not enough");
    sidehook.send(&message("message.sent", "c1", "after the end")).await;
    sidehook.send(&update("c1", json!({"analysis": {"score": 7, "extra": true}}))).await;
    let requests = receiver.wait("/w", 2).await;
    assert_eq!(
        requests[1].json(),
        json!({
            "type": "conversation.completed",
            "analysis": {"summary": "late", "score": 7, "extra": true},
            // Messages and maps as of the trigger, analysis as of the end of the wait.
            "messages": [{"role": "user", "message": "hello"}],
            "metadata": {"at": "the trigger"},
        })
    );
    let row = sidehook.ledger("w").await;
    assert_eq!(row["waiting"], 0, "{row}");
}

#[tokio::test]
async fn a_wait_ends_with_its_timeout() {
    let (receiver, sidehook) = waiting("300ms").await;
    let mut end = event("e1", "conversation.completed", "c1");
    end["analysis"] = json!({"summary": "only this"});
    sidehook.send(&end).await;
    assert_eq!(receiver.wait("/w", 1).await[0].json()["analysis"], json!({"summary": "only this"}));
    assert_eq!(sidehook.ledger("w").await["waiting"], 0);
}

#[tokio::test]
async fn a_wait_that_ran_out_while_sidehook_was_down_ends_at_the_start() {
    let (receiver, mut sidehook) = waiting("300ms").await;
    sidehook.send(&event("e1", "conversation.completed", "c1")).await;
    sidehook.kill().await;
    sidehook.start().await;
    let requests = receiver.wait("/w", 1).await;
    assert_eq!(requests[0].json()["analysis"], json!({}));
}

#[tokio::test]
async fn later_events_of_the_conversation_queue_behind_the_one_that_waits() {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook(
        "/w",
        "events: [\"conversation.*\", \"note.*\"]\nparams: {id: event.id}\nwhen: event.type != \"conversation.update\"\nwait_for: {analysis: [summary], timeout: 10m}",
    );
    let sidehook = Sidehook::builder().webhook("w", &webhook).start().await;
    sidehook
        .send(&json!([
            event("b1", "conversation.begin", "c1"),
            event("e1", "conversation.completed", "c1"),
            event("n1", "note.made", "c1"),
            event("n2", "note.made", "c2"),
        ]))
        .await;
    // c2 does not wait for c1.
    let ids = |all: &[crate::support::Received]| -> Vec<String> {
        all.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect()
    };
    let first = receiver.wait("/w", 2).await;
    let mut names = ids(&first);
    names.sort();
    assert_eq!(names, ["b1", "n2"]);
    sidehook.send(&update("c1", json!({"analysis": {"summary": 1}}))).await;
    let all = receiver.wait("/w", 4).await;
    let order: Vec<_> = ids(&all).into_iter().filter(|id| id != "n2").collect();
    assert_eq!(order, ["b1", "e1", "n1"]);
}

#[tokio::test]
async fn a_waiting_event_is_rendered_by_the_generation_in_force_then() {
    let (receiver, sidehook) = waiting("10m").await;
    sidehook.send(&event("e1", "conversation.completed", "c1")).await;
    let yaml = sidehook.read("webhooks/w.yaml").replace("params: {", "params: {generation: {value: 2}, ");
    sidehook.write("webhooks/w.yaml", &yaml);
    sidehook.admin_post("/api/v1/reload", "").await.expect(200);
    sidehook.send(&update("c1", json!({"analysis": {"summary": 1, "score": 2}}))).await;
    assert_eq!(receiver.wait("/w", 1).await[0].json()["generation"], 2);
}

#[tokio::test]
async fn a_conversation_kept_in_memory_is_assembled_all_the_same() {
    let receiver = Receiver::start().await;
    receiver.on("/ends", &[Reply::status(204)]);
    let webhook =
        receiver.webhook("/ends", "events: [conversation.completed]\nparams: {messages: conversation.messages}");
    let sidehook = Sidehook::builder().main("conversations: {state: memory}").webhook("ends", &webhook).start().await;
    sidehook
        .send(&json!([message("message.received", "c1", "hello"), event("e", "conversation.completed", "c1")]))
        .await;
    assert_eq!(receiver.wait("/ends", 1).await[0].json(), json!({"messages": [{"role": "user", "message": "hello"}]}));
}
