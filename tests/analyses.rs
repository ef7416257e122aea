//! Calls at the end of a conversation: made before its webhooks, merged, survived, and done without where they fail.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::events::event;
use crate::support::{Body, Receiver, Reply, Sidehook, cli, eventually};

const WHOLE: &str = "params: {type: event.type, id: conversation.id, analysis: analysis.*, messages: conversation.messages, reason: event.reason}";

/// An entry of `analyses` for a path of the receiver.
fn analysis(receiver: &Receiver, name: &str, rest: &str) -> String {
    let (url, ca) = (receiver.url(&format!("/{name}")), receiver.ca_file().display());
    format!("  - {{name: {name}, url: \"{url}\", tls: {{ca_file: \"{ca}\"}}{rest}}}\n")
}

async fn start(receiver: &Receiver, main: &str, analyses: &[String]) -> Sidehook {
    let webhook = receiver.webhook("/w", &format!("events: [conversation.completed, conversation.failed]\n{WHOLE}"));
    let main = format!("{main}\nanalyses:\n{}", analyses.concat());
    Sidehook::builder().webhook("w", &webhook).main(&main).start().await
}

async fn balanced(sidehook: &Sidehook, delivered: u64) {
    eventually("everything is delivered", async || {
        let row = sidehook.ledger("w").await;
        let done = row["delivered"] == delivered && row["waiting"] == 0 && row["pending"] == 0;
        if done { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
    assert_eq!(sidehook.get("/api/v1/ledger").await.json()["balanced"], true);
}

fn update(conversation: &str, analysis: Value) -> Value {
    json!({"type": "conversation.update", "conversation": {"id": conversation}, "analysis": analysis})
}

#[tokio::test]
async fn results_come_before_the_webhooks_and_count_for_late_updates() {
    for state in ["durable", "memory"] {
        let receiver = Receiver::start().await;
        receiver.on("/mood", &[Reply::status(200).text(r#"{"score": 0.25, "big": 12345678901234567890123}"#)]);
        receiver.on("/topic", &[Reply::status(201).text("a table").header("content-type", "text/plain")]);
        receiver.on("/tags", &[Reply::status(200).text(r#"["x"]"#)]);
        let analyses = [
            analysis(
                &receiver,
                "mood",
                ", params: {who: argument.caller, all: conversation.messages, model: {value: {n: 1}}, none: argument.none}, headers: {X-Key: hush}, auth: {bearer: swordfish}",
            ),
            analysis(&receiver, "topic", ""),
            analysis(&receiver, "tags", ""),
        ];
        let sidehook = start(&receiver, &format!("conversations: {{state: {state}}}"), &analyses).await;
        sidehook
            .send(&json!([
                {"type": "conversation.begin", "conversation": {"id": "c1"}, "argument": {"caller": "+31"}},
                {"type": "message.received", "conversation": {"id": "c1"}, "message": {"role": "user", "content": "hi"}},
                {"id": "e1", "type": "conversation.completed", "conversation": {"id": "c1"}},
            ]))
            .await;
        let got = &receiver.wait("/w", 1).await[0];
        let payload = got.json();
        assert_eq!(payload["analysis"]["mood"]["score"], 0.25, "{payload}");
        assert_eq!(payload["analysis"]["topic"], json!({"result": "a table"}));
        assert_eq!(payload["analysis"]["tags"], json!({"result": "[\"x\"]"}));
        assert!(String::from_utf8_lossy(&got.body).contains("12345678901234567890123"), "no digit is lost");
        assert_eq!(payload["messages"], json!([{"role": "user", "content": "hi"}]));
        let asked = &receiver.requests("/mood")[0];
        assert_eq!(asked.json(), json!({"who": "+31", "all": [{"role": "user", "content": "hi"}], "model": {"n": 1}}));
        assert_eq!((asked.method.as_str(), asked.header("x-key")), ("POST", "hush"));
        assert_eq!(asked.header("authorization"), "Bearer swordfish");
        assert_eq!(asked.header("content-type"), "application/json");
        assert!(asked.header("user-agent").starts_with("sidehook/"));
        assert_eq!(asked.header("webhook-signature"), "", "an analysis is no webhook");
        assert_eq!(receiver.requests("/topic")[0].json()["event"], "conversation.completed", "the default payload");
        // A second end sees what the first one's calls came to; they are not made again.
        sidehook.send(&update("c1", json!({"late": 1, "topic": null}))).await;
        sidehook.send(&event("e2", "conversation.failed", "c1")).await;
        let second = receiver.wait("/w", 2).await[1].json();
        assert_eq!(second["analysis"]["late"], 1, "{state}: {second}");
        assert_eq!(second["analysis"]["mood"]["score"], 0.25, "{second}");
        assert_eq!(receiver.requests("/mood").len(), 1);
        assert_eq!(receiver.requests("/topic").len(), 2, "what was taken out is asked for again");
        balanced(&sidehook, 2).await;
        assert!(sidehook.metric("sidehook_analyses_total", &["analysis=\"mood\"", "outcome=\"done\""]).await >= 1.0);
    }
}

#[tokio::test]
async fn what_fails_is_left_out_counted_and_told() {
    let receiver = Receiver::start().await;
    let huge = format!(r#"{{"x":"{}"}}"#, "y".repeat(1024 * 1024));
    receiver.on("/huge", &[Reply::status(200).text(&huge)]);
    receiver.on("/slow", &[Reply::status(200).text("{}").after(Duration::from_secs(30))]);
    receiver.on("/drip", &[Reply::status(200).body(Body::Drip(100_000))]);
    receiver.on("/refused", &[Reply::status(400).text("no")]);
    receiver.on("/broken", &[Reply::status(500)]);
    receiver.on("/cut", &[Reply::status(200).body(Body::Reset)]);
    receiver.on(
        "/good",
        &[Reply::status(503), Reply::status(429).header("retry-after", "1"), Reply::status(200).text("{}")],
    );
    receiver.on("/empty", &[Reply::status(204)]);
    let entry = |name: &str, timeout: &str| analysis(&receiver, name, &format!(", timeout: {timeout}"));
    let analyses = [
        entry("huge", "20s"),
        entry("slow", "300ms"),
        entry("drip", "300ms"),
        entry("refused", "20s"),
        entry("broken", "20s"),
        entry("cut", "20s"),
        entry("good", "20s"),
        entry("empty", "20s"),
        "  - {name: denied, url: \"https://169.254.169.254/\", timeout: 20s}\n".to_owned(),
    ];
    let sidehook = start(&receiver, "", &analyses).await;
    sidehook.send(&event("e", "conversation.completed", "c1")).await;
    let payload = receiver.wait("/w", 1).await[0].json();
    assert_eq!(payload["analysis"], json!({"good": {}, "empty": {"result": ""}}));
    assert_eq!(receiver.requests("/refused").len(), 1, "another attempt would fare no better");
    assert_eq!(receiver.requests("/huge").len(), 1);
    assert_eq!(receiver.requests("/broken").len(), 3);
    assert_eq!(receiver.requests("/cut").len(), 3);
    assert_eq!(receiver.requests("/good").len(), 3);
    for (name, why) in [
        ("huge", "its answer is larger than 1024 KiB"),
        ("slow", "did not come within"),
        ("drip", "did not come within"),
        ("refused", "it answered 400"),
        ("broken", "it answered 500"),
        ("denied", "169.254.169.254"),
    ] {
        let labels = [format!("analysis=\"{name}\""), "outcome=\"failed\"".to_owned()];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        assert!((sidehook.metric("sidehook_analyses_total", &labels).await - 1.0).abs() < f64::EPSILON, "{name}");
        let line = sidehook.logged(&format!("\"analysis\":\"{name}\"")).await;
        assert!(line.contains(why) && line.contains("an analysis failed"), "{line}");
    }
    balanced(&sidehook, 1).await;
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_call_costs_nothing_but_another_call() {
    for state in ["durable", "memory"] {
        let receiver = Receiver::start().await;
        receiver.on("/mood", &[Reply::status(200).body(Body::Hang), Reply::status(200).text(r#"{"score": 1}"#)]);
        let analyses = [analysis(&receiver, "mood", ", timeout: 1m")];
        let mut sidehook = start(&receiver, &format!("conversations: {{state: {state}}}"), &analyses).await;
        sidehook.send(&event("e1", "conversation.completed", "c1")).await;
        receiver.wait("/mood", 1).await;
        assert_eq!(sidehook.ledger("w").await["waiting"], 1);
        // A later event of the conversation queues behind the one that waits.
        sidehook.send(&event("e2", "conversation.failed", "c1")).await;
        sidehook.kill().await;
        assert_eq!(receiver.requests("/w").len(), 0);
        sidehook.start().await;
        let got = receiver.wait("/w", 2).await;
        assert_eq!(got[0].json()["type"], "conversation.completed", "{state}");
        assert_eq!(got[0].json()["analysis"], json!({"mood": {"score": 1}}), "{state}");
        assert_eq!(got[1].json()["type"], "conversation.failed");
        assert_eq!(got[1].json()["analysis"], json!({"mood": {"score": 1}}), "{state}");
        balanced(&sidehook, 2).await;
    }
}

#[tokio::test]
async fn results_satisfy_wait_for_and_webhooks_keep_their_place() {
    let receiver = Receiver::start().await;
    receiver.on("/mood", &[Reply::status(200).text(r#"{"score": 1}"#).after(Duration::from_secs(1))]);
    let plain = receiver.webhook("/plain", &format!("events: [\"conversation.*\"]\n{WHOLE}"));
    let waits = receiver.webhook(
        "/waits",
        &format!("events: [conversation.completed]\n{WHOLE}\nwait_for: {{analysis: [mood, crm], timeout: 10m}}"),
    );
    let late = receiver.webhook(
        "/late",
        &format!("events: [conversation.completed]\n{WHOLE}\nwait_for: {{analysis: [crm], timeout: 1ms}}"),
    );
    let main = format!("analyses:\n{}", analysis(&receiver, "mood", ""));
    let sidehook = Sidehook::builder()
        .webhook("plain", &plain)
        .webhook("waits", &waits)
        .webhook("late", &late)
        .main(&main)
        .start()
        .await;
    sidehook.send(&event("e", "conversation.completed", "c1")).await;
    sidehook.send(&event("r", "conversation.resume", "c1")).await;
    let got = receiver.wait("/plain", 2).await;
    assert_eq!(got[0].json()["analysis"], json!({"mood": {"score": 1}}), "without wait_for it waits for the call");
    assert_eq!(got[1].json()["type"], "conversation.resume", "and what comes later goes later");
    let late = receiver.wait("/late", 1).await[0].json();
    assert_eq!(late["analysis"], json!({"mood": {"score": 1}}), "a time that is up does not overtake the call");
    assert_eq!(receiver.requests("/waits").len(), 0);
    sidehook.send(&update("c1", json!({"crm": 1}))).await;
    assert_eq!(receiver.wait("/waits", 1).await[0].json()["analysis"], json!({"mood": {"score": 1}, "crm": 1}));
    assert_eq!(receiver.requests("/mood").len(), 1, "one call for all webhooks");
    let ledger = sidehook.get("/api/v1/ledger").await.json();
    assert_eq!(ledger["balanced"], true, "{ledger}");
}

#[tokio::test]
async fn nothing_is_called_for_nobody_or_for_what_is_there() {
    let receiver = Receiver::start().await;
    receiver.on("/mood", &[Reply::status(200).text("{}")]);
    let webhook = receiver.webhook("/w", &format!("events: [conversation.completed]\n{WHOLE}"));
    let main = format!("analyses:\n{}", analysis(&receiver, "mood", ""));
    let sidehook = Sidehook::builder().webhook("w", &webhook).main(&main).start().await;
    // Nobody wants this end, and no other event is one.
    sidehook.send(&event("f", "conversation.failed", "c0")).await;
    sidehook.send(&event("b", "conversation.begin", "c1")).await;
    let mut end = event("e1", "conversation.completed", "c1");
    end["analysis"] = json!({"mood": "sent along"});
    sidehook.send(&end).await;
    sidehook.send(&update("c2", json!({"mood": "known before"}))).await;
    sidehook.send(&event("e2", "conversation.completed", "c2")).await;
    let got = receiver.wait("/w", 2).await;
    assert!(got.iter().any(|r| r.json()["analysis"]["mood"] == "sent along"));
    assert!(got.iter().any(|r| r.json()["analysis"]["mood"] == "known before"));
    assert_eq!(receiver.requests("/mood").len(), 0);
    let page = sidehook.admin_post("/api/v1/webhooks/w/test", "").await;
    assert!(page.status.is_success(), "{}", page.text());
    assert_eq!(receiver.requests("/mood").len(), 0, "a test event calls nothing");
}

#[tokio::test]
async fn inferred_ends_are_analysed_and_many_conversations_wait_their_turn() {
    let receiver = Receiver::start().await;
    receiver.on("/mood", &[Reply::status(200).text(r#"{"score": 1}"#).after(Duration::from_millis(30))]);
    let analyses = [analysis(&receiver, "mood", "")];
    let sidehook = start(&receiver, "conversations: {idle_timeout: 1s}", &analyses).await;
    sidehook.send(&event("b", "conversation.begin", "silent")).await;
    let many: Vec<Value> =
        (0..100).map(|n| event(&format!("e{n}"), "conversation.completed", &format!("c{n}"))).collect();
    sidehook.send(&Value::Array(many)).await;
    let got = receiver.wait("/w", 101).await;
    assert!(got.iter().all(|r| r.json()["analysis"] == json!({"mood": {"score": 1}})));
    assert!(got.iter().any(|r| r.json()["reason"] == "idle_timeout" && r.json()["id"] == "silent"));
    assert_eq!(receiver.requests("/mood").len(), 101);
    balanced(&sidehook, 101).await;
}

#[tokio::test]
async fn a_replay_sees_what_the_calls_came_to() {
    let receiver = Receiver::start().await;
    receiver.on("/mood", &[Reply::status(200).text(r#"{"score": 1}"#)]);
    let analyses = [analysis(&receiver, "mood", "")];
    let main = "outbox: {retain: {events: 1h}}\nconversations: {retain: 0s}";
    let sidehook = start(&receiver, main, &analyses).await;
    sidehook.send(&event("e", "conversation.completed", "c1")).await;
    receiver.wait("/w", 1).await;
    let answer = sidehook.admin_post("/api/v1/replay", r#"{"since": "2020-01-01T00:00:00Z"}"#).await;
    assert_eq!(answer.json()["deliveries"], 1, "{}", answer.text());
    assert_eq!(receiver.wait("/w", 2).await[1].json()["analysis"], json!({"mood": {"score": 1}}));
    assert_eq!(receiver.requests("/mood").len(), 1);
}

/// A chat completion of the worked example's endpoint.
fn completion() -> String {
    let content = json!({"summary": "A table for two.", "sentiment": "positive"}).to_string();
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-mini",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 40, "completion_tokens": 12, "total_tokens": 52},
    })
    .to_string()
}

#[tokio::test]
async fn the_worked_example_asks_a_model_and_tells_the_crm() {
    let receiver = Receiver::start().await;
    receiver.on("/v1/chat/completions", &[Reply::status(200).text(&completion())]);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/analysis");
    let read = |name: &str| std::fs::read_to_string(example.join(name)).unwrap();
    let ca = format!("tls: {{ca_file: \"{}\"}}\n", receiver.ca_file().display());
    // The example's own lines; where it listens and whom it trusts are the test's.
    let main = read("sidehook.yaml");
    let kept =
        |line: &&str| !line.starts_with("sources:") && !line.starts_with("  events:") && !line.starts_with("admin:");
    let main: String = main.lines().filter(kept).map(|line| format!("{line}\n")).collect();
    let main = main.replace("    timeout: 60s\n", &format!("    timeout: 60s\n    {ca}"));
    let sidehook = Sidehook::builder()
        .main(&main)
        .webhook("crm", &format!("{}{ca}", read("webhooks/crm.yaml")))
        .rule("review.rhai", &read("rules/review.rhai"))
        .file("rules/review.test.yaml", &read("rules/review.test.yaml"))
        .env("LLM_URL", &receiver.url("/v1/chat/completions"))
        .env("LLM_API_KEY", "sk-test")
        .env("CRM_URL", &receiver.url("/crm"))
        .env("CRM_SECRET", crate::support::signature::SECRET)
        .start()
        .await;
    let said =
        json!([{"role": "user", "content": "A table for two, please."}, {"role": "assistant", "content": "Done."}]);
    sidehook.send(&json!({"type": "conversation.completed", "conversation": {"id": "c1", "messages": said}})).await;
    assert_eq!(
        receiver.wait("/crm", 1).await[0].json(),
        json!({"event": "conversation.completed", "conversation": "c1", "summary": "A table for two.", "sentiment": "positive"})
    );
    let asked = &receiver.requests("/v1/chat/completions")[0];
    assert_eq!(asked.header("authorization"), "Bearer sk-test");
    assert_eq!((&asked.json()["messages"], &asked.json()["model"]), (&said, &json!("gpt-4o-mini")));
    assert_eq!(asked.json()["response_format"]["json_schema"]["strict"], true);
}

#[tokio::test]
async fn a_preview_calls_nothing_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "sidehook.yaml",
        "analyses: [{name: mood, url: https://mood.example.com}, {name: topic, url: https://topic.example.com}]\nwebhooks: {w: {url: https://w.example.com, events: [\"conversation.*\"], signing: {scheme: none}}}\n",
    );
    write("end.json", r#"{"type":"conversation.completed","conversation":{"id":"c"},"analysis":{"topic":1}}"#);
    write("begin.json", r#"{"type":"conversation.begin","conversation":{"id":"c"}}"#);
    let config = dir.path().display().to_string();
    let preview = async |event: &str, json: bool| {
        let event = dir.path().join(event).display().to_string();
        let mut args = vec!["preview", "--config", &config, "--webhook", "w", "--event", &event];
        args.extend(json.then_some("--json"));
        cli(&args).await.expect(0).stdout
    };
    let shown = preview("end.json", false).await;
    assert!(shown.contains("note: analyses are not called in a preview; without mood in"), "{shown}");
    let shown: Value = serde_json::from_str(&preview("end.json", true).await).unwrap();
    assert_eq!(shown["analyses_not_called"], json!(["mood"]));
    assert!(!preview("begin.json", false).await.contains("analyses"));
    let checked = cli(&["check", "--config", &config]).await.expect(0).stdout;
    assert!(checked.contains("1 webhook, 1 source, 2 analyses"), "{checked}");
}
