//! Messages of platforms over HTTP: adapted, verified, delivered; and definitions of another product taken over.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::cli::{cli, cli_in};
use crate::support::{Answer, Connection, Receiver, Sidehook};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn mac(key: &str, content: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), content.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|d| char::from_digit(d.into(), 16)).collect()
}

async fn post(sidehook: &Sidehook, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut connection = Connection::tcp(&sidehook.ingest).await.unwrap();
    connection.send("POST", path, headers, body.to_owned()).await.unwrap()
}

/// A sidehook whose source has these keys, with a webhook that takes everything.
async fn started(source: &str) -> (Receiver, Sidehook) {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook(
        "/all",
        "events: [\"*\"]\nparams: {id: event.id, type: event.type, reason: event.reason, data: event.data}",
    );
    let sidehook = Sidehook::builder().source(source).webhook("all", &webhook).start().await;
    (receiver, sidehook)
}

#[tokio::test]
async fn a_retell_call_comes_signed_and_leaves_as_webhooks() {
    let (receiver, sidehook) = started(
        "adapter: sidehook/retell, verify: {scheme: hmac, header: X-Retell-Signature, template: \"v={timestamp_ms},d={signature}\", \
         content: \"{body}{timestamp_ms}\", secrets: [key_1]}",
    )
    .await;
    let signed = |body: &str, key: &str, seconds: u64| {
        format!("v={0}000,d={1}", seconds, hex(mac(key, &format!("{body}{seconds}000")).as_ref()))
    };
    let call = |event: &str, more: Value| {
        let mut call = json!({"call_id": "c1", "agent_id": "a1"});
        call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"event": event, "call": call}).to_string()
    };
    let begin = call("call_started", json!({"start_timestamp": 1_767_440_290_000_u64}));
    let end = call(
        "call_ended",
        json!({"disconnection_reason": "user_hangup", "transcript_object": [{"role": "agent", "content": "hi"}]}),
    );
    for body in [&begin, &end, &end] {
        let signature = signed(body, "key_1", now());
        let answer = post(&sidehook, "/hooks/retell", &[("x-retell-signature", &signature)], body).await.expect(202);
        assert_eq!(answer.json()["ids"].as_array().unwrap().len(), 1, "{}", answer.text());
    }
    let got = receiver.wait("/all", 2).await;
    assert_eq!(got[0].json()["type"], "conversation.begin");
    let completed = got[1].json();
    assert_eq!(completed["id"], "c1/end", "a copy is no second event");
    assert_eq!(completed["reason"], "user_hangup");
    assert_eq!(completed["data"]["assistant"], json!({"id": "a1"}));
    assert_eq!(completed["data"]["conversation"]["messages"], json!([{"role": "assistant", "message": "hi"}]));

    for (signature, part) in [
        (signed(&begin, "key_2", now()), "no signature matches"),
        (signed(&begin, "key_1", now() - 600), "in the past, more than the tolerance"),
        ("v=1".to_owned(), "holds no signature of the configured form"),
    ] {
        let answer = post(&sidehook, "/", &[("x-retell-signature", &signature)], &begin).await.expect(401);
        let problem = answer.json();
        assert_eq!(problem["type"], "urn:sidehook:problem:signature", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
    }
    post(&sidehook, "/", &[], &begin).await.expect(401);
    assert!(sidehook.metric("sidehook_events_rejected_total", &["reason=\"signature\""]).await >= 4.0);
    assert!(sidehook.log().iter().all(|line| !line.contains("key_1")), "no secret in the log");
}

#[tokio::test]
async fn a_livekit_room_comes_with_a_token() {
    let (receiver, sidehook) =
        started("adapter: sidehook/livekit, verify: {scheme: livekit, api_key: API1, api_secret: hunter2}").await;
    let body =
        json!({"event": "room_started", "id": "EV_1", "createdAt": "1767440290", "room": {"sid": "RM_1", "name": "x"}})
            .to_string();
    let token = |secret: &str, body: &str| {
        let sum = STANDARD.encode(digest::digest(&digest::SHA256, body.as_bytes()));
        let claims = json!({"iss": "API1", "nbf": now(), "exp": now() + 300, "sha256": sum}).to_string();
        let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac(secret, &signed)))
    };
    let media = ("content-type", "application/webhook+json");
    let good = token("hunter2", &body);
    post(&sidehook, "/livekit", &[media, ("authorization", &good)], &body).await.expect(202);
    post(&sidehook, "/livekit", &[media, ("authorization", &token("other", &body))], &body).await.expect(401);
    post(&sidehook, "/livekit", &[media, ("authorization", &token("hunter2", "{}"))], &body).await.expect(401);
    let got = receiver.wait("/all", 1).await[0].json();
    assert_eq!((&got["id"], &got["data"]["conversation"]["id"]), (&json!("EV_1"), &json!("RM_1")));
}

#[tokio::test]
async fn a_twilio_form_and_an_own_adapter_that_is_mended_while_it_runs() {
    let (receiver, sidehook) = started("adapter: sidehook/twilio-status").await;
    let form = "CallSid=CA1&CallStatus=busy&From=%2B15550100";
    let media = ("content-type", "application/x-www-form-urlencoded");
    post(&sidehook, "/twilio", &[media], form).await.expect(202);
    let got = receiver.wait("/all", 1).await[0].json();
    assert_eq!((&got["type"], &got["reason"]), (&json!("conversation.failed"), &json!("busy")));

    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/all", "events: [\"*\"]\nparams: {type: event.type, data: event.data}");
    let sidehook = Sidehook::builder()
        .source("adapter: adapters/bot.rhai")
        .rule("adapters/bot.rhai", "fn adapt(message) { #{ type: message.body.kind.sub } }")
        .webhook("all", &webhook)
        .start()
        .await;
    let answer = post(&sidehook, "/v1/events", &[], r#"{"kind":"a.b"}"#).await.expect(503);
    assert!(answer.text().contains("bot.rhai: adapt, line 1"), "{}", answer.text());
    assert!(!answer.header("retry-after").is_empty());
    let (_, generation) = sidehook.generation().await;
    sidehook.write("rules/adapters/bot.rhai", "fn adapt(message) { #{ type: message.body.kind } }");
    sidehook.admin_post("/api/v1/reload", "").await.expect(200);
    sidehook.await_generation(generation + 1).await;
    post(&sidehook, "/v1/events", &[], r#"{"kind":"a.b"}"#).await.expect(202);
    assert_eq!(receiver.wait("/all", 1).await[0].json()["type"], "a.b");
}

#[tokio::test]
async fn every_shipped_adapter_passes_its_tests() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("sidehook.yaml"), "{}\n").unwrap();
    let (from, to) = (concat!(env!("CARGO_MANIFEST_DIR"), "/rules/adapters"), dir.path().join("rules/adapters"));
    std::fs::create_dir_all(&to).unwrap();
    let mut scripts = 0;
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        scripts += usize::from(path.extension().is_some_and(|e| e == "rhai"));
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    let output = cli(&["test", "--config", dir.path().to_str().unwrap()]).await.expect(0);
    assert_eq!(scripts, 9);
    assert!(output.stdout.contains(" passed") && !output.stdout.contains("FAIL"), "{}", output.stdout);
}

const DEFINITION: &str = r#"{"httpMethod":"POST","httpUrl":"https://crm.example.com/hooks/assistant",
 "httpHeaders":{"Authorization":"Bearer x"},
 "httpBody":{"analysis.conversation-analysis":"conversation-analysis","event.data":"data","event.type":"event"},
 "assistantEvents":["conversation.completed"],"retryStatusCodes":["500","40X","50X"],"maxRetryCount":3,
 "timeoutSecond":180,"executionPriority":-1,"description":"CRM notes"}"#;

#[tokio::test]
async fn a_rapida_definition_becomes_a_webhook_that_checks_and_sends_the_seed_payload() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().to_str().unwrap();
    std::fs::write(dir.path().join("sidehook.yaml"), "{}\n").unwrap();
    std::fs::write(dir.path().join("one.json"), DEFINITION).unwrap();
    std::fs::write(dir.path().join("two.json"), format!("[{DEFINITION},{DEFINITION}]")).unwrap();

    let printed = cli_in(dir.path(), &["import", "rapida", "one.json"], "").await.expect(0);
    assert!(printed.stdout.contains("signing: {scheme: none}\n"), "{}", printed.stdout);
    assert!(
        printed.stderr.contains("sidehook: note: crm-notes: classes such as 50X are retried here"),
        "{}",
        printed.stderr
    );
    let piped = cli_in(dir.path(), &["import", "rapida", "-"], DEFINITION).await.expect(0);
    assert_eq!(piped.stdout, printed.stdout);
    assert!(!dir.path().join("webhooks").exists(), "printing writes nothing");

    let written =
        cli_in(dir.path(), &["import", "rapida", "two.json", "--write", "--config", config], "").await.expect(0);
    assert!(
        written.stdout.contains("webhooks/crm-notes.yaml\n") && written.stdout.contains("webhooks/crm-notes-2.yaml\n")
    );
    assert_eq!(std::fs::read_to_string(dir.path().join("webhooks/crm-notes.yaml")).unwrap(), printed.stdout);
    cli(&["check", "--config", config]).await.expect(0);
    let event = json!({"type": "conversation.completed", "conversation": {"id": "c1"},
        "analysis": {"conversation-analysis": {"result": "good"}}});
    std::fs::write(dir.path().join("event.json"), event.to_string()).unwrap();
    let event = dir.path().join("event.json");
    let preview =
        ["preview", "--config", config, "--webhook", "crm-notes", "--json", "--event", event.to_str().unwrap()];
    let preview = cli(&preview).await.expect(0).json();
    assert_eq!(
        preview["deliveries"][0]["payload"],
        json!({"conversation-analysis": {"result": "good"}, "event": "conversation.completed",
            "data": {"assistant": {}, "conversation": {"id": "c1", "messages": []},
                "analysis": {"conversation-analysis": {"result": "good"}}}})
    );

    // What is there is never replaced.
    let again =
        cli_in(dir.path(), &["import", "rapida", "one.json", "--write", "--config", config], "").await.expect(1);
    assert!(again.stderr.contains("crm-notes.yaml is there already"), "{}", again.stderr);
    for (text, part) in [
        ("{\"httpUrl\": 5}", "bad.json: /httpUrl: is missing, or no text"),
        ("{", "bad.json is not JSON"),
        ("[]", "bad.json: the file: there is no webhook in this array"),
    ] {
        std::fs::write(dir.path().join("bad.json"), text).unwrap();
        let bad = cli_in(dir.path(), &["import", "rapida", "bad.json"], "").await.expect(1);
        assert!(bad.stderr.contains(part), "{part} is not in {}", bad.stderr);
        assert_eq!(bad.stdout, "");
    }
    let missing = cli_in(dir.path(), &["import", "rapida", "none.json"], "").await.expect(1);
    assert!(missing.stderr.contains("none.json"), "{}", missing.stderr);
    let nowhere = ["import", "rapida", "one.json", "--write", "--config", "sidehook.yaml"];
    assert!(cli_in(dir.path(), &nowhere, "").await.expect(1).stderr.contains("is no config directory"));
    cli_in(dir.path(), &["import", "rapida"], "").await.expect(2);
}

#[tokio::test]
async fn a_batch_and_one_cloud_event_are_told_apart_by_their_media_types() {
    let (receiver, sidehook) = started("namespace: bot").await;
    let one = json!({"specversion": "1.0", "type": "a.b", "source": "s", "id": "1", "data": {}});
    for (media, body, part) in [
        ("application/cloudevents-batch+json", one.clone(), "application/cloudevents-batch+json is an array of events"),
        ("application/cloudevents+json", json!([one]), "several are application/cloudevents-batch+json"),
    ] {
        let answer = sidehook.post_as(media, body.to_string()).await.expect(422);
        assert_eq!(answer.json()["errors"][0]["index"], 0);
        assert!(answer.text().contains(part), "{}", answer.text());
    }
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-type", "a.b"),
        ("ce-source", "s"),
        ("ce-id", "2"),
        ("content-type", "application/octet-stream"),
    ];
    let answer = post(&sidehook, "/v1/events", &binary, "\u{1}").await.expect(415);
    assert!(answer.text().contains("a CloudEvent's data must be JSON here"), "{}", answer.text());
    assert!(receiver.all().is_empty());
}
