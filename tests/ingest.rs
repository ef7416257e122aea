//! HTTP in: statuses, problem documents, atomicity, idempotency.

use serde_json::{Value, json};

use crate::support::events::{conversation, event};
use crate::support::{Connection, Receiver, Reply, Sidehook, eventually};

/// A sidehook whose only webhook takes everything.
async fn started() -> (Receiver, Sidehook) {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/all", "events: [\"*\"]\nparams: {id: event.id, type: event.type}");
    let sidehook = Sidehook::builder().webhook("all", &webhook).start().await;
    (receiver, sidehook)
}

#[track_caller]
fn problem(answer: &crate::support::Answer, status: u16) -> Value {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
    let media = answer.header("content-type");
    assert!(media.starts_with("application/problem+json"), "{media}");
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{problem}");
    for member in ["type", "title", "detail"] {
        assert!(problem[member].is_string(), "no {member}: {problem}");
    }
    problem
}

#[tokio::test]
async fn bad_events_are_refused_with_index_pointer_and_reason() {
    let (receiver, sidehook) = started().await;
    for (body, expected) in [
        (json!({"type": "conversation.begin"}), json!([[0, "/conversation/id"]])),
        (json!({"conversation": {"id": "c"}}), json!([[0, "/type"]])),
        (json!({"type": 7}), json!([[0, "/type"]])),
        (json!({"type": "no spaces, please"}), json!([[0, "/type"]])),
        (json!({"type": "message.received", "message": {}}), json!([[0, "/conversation/id"]])),
        (json!({"type": "conversation.begin", "conversation": {"id": true}}), json!([[0, "/conversation/id"]])),
        (json!({"type": "conversation.begin", "conversation": {"id": "c"}, "argument": []}), json!([[0, "/argument"]])),
        (json!({"type": "a.b", "time": "yesterday"}), json!([[0, "/time"]])),
        (json!([{"type": "a.b"}, {"type": "conversation.failed"}, 5]), json!([[1, "/conversation/id"], [2, ""]])),
        (json!(5), json!([[0, ""]])),
        (json!("conversation.begin"), json!([[0, ""]])),
        (json!(null), json!([[0, ""]])),
    ] {
        let answer = sidehook.post(&body).await;
        let problem = problem(&answer, 422);
        let errors = problem["errors"].as_array().unwrap();
        let found: Vec<Value> = errors.iter().map(|e| json!([e["index"], e["pointer"]])).collect();
        assert_eq!(json!(found), expected, "{body} gave {problem}");
        assert!(errors.iter().all(|e| e["reason"].as_str().is_some_and(|r| !r.is_empty())), "{problem}");
    }
    let required = sidehook.post(&json!({"type": "conversation.begin"})).await.json();
    assert_eq!(required["errors"][0]["reason"], "required");
    // Nothing of any of them was stored.
    assert_eq!(sidehook.ledger("all").await["matched"], 0);
    assert!(receiver.all().is_empty());
}

#[tokio::test]
async fn at_most_twenty_errors_are_listed() {
    let (_receiver, sidehook) = started().await;
    let answer = sidehook.post(&json!(vec![json!({}); 50])).await;
    assert_eq!(problem(&answer, 422)["errors"].as_array().unwrap().len(), 20);
}

#[tokio::test]
async fn what_is_no_json_is_malformed() {
    let (_receiver, sidehook) = started().await;
    for (media, body) in [
        ("application/json", "{\"type\": \"a.b\""),
        ("application/json", "{\"type\": \"a.b\"} trailing"),
        ("application/json", ""),
        ("application/json", "{\"type\": \"a.b\", \"x\": \u{1}}"),
        ("application/x-ndjson", "{\"type\": \"a.b\"}\n{\"type\": \"a.b"),
        ("application/x-ndjson", "{\"type\": \"a.b\"}\nnot json\n"),
    ] {
        let answer = sidehook.post_as(media, body).await;
        problem(&answer, 400);
    }
    let torn = sidehook.post_as("application/json", b"{\"type\": \"\xff\xfe\"}".to_vec()).await;
    problem(&torn, 400);
    let lines = sidehook.post_as("application/x-ndjson", "\n{\"type\": \"a.b\"}\n\n{\"type\": \n").await;
    assert_eq!(problem(&lines, 400)["errors"][0]["index"], 1, "blank lines do not count: {}", lines.text());
    for begin in ["", "\u{feff}", " \n"] {
        let array = format!("{begin}[{{\"type\": \"a.b\"}},{{\"type\": \"a.b\"}},{{\"type\":}}]");
        let array = sidehook.post_as("application/json", array).await;
        assert_eq!(problem(&array, 400)["errors"][0]["index"], 2, "{begin:?}: {}", array.text());
    }
    assert_eq!(sidehook.ledger("all").await["matched"], 0, "a request is atomic");
}

#[tokio::test]
async fn methods_paths_and_media_types() {
    let (_receiver, sidehook) = started().await;
    let ask = async |method: &str, path: &str, media: &str| {
        let headers = [("content-type", media)];
        sidehook.ask(&sidehook.ingest, method, path, &headers, r#"{"type": "a.b"}"#).await.unwrap()
    };
    problem(&ask("POST", "/v1/nothing", "application/json").await, 404);
    problem(&ask("POST", "/", "application/json").await, 404);
    let refused = ask("PUT", "/v1/events", "application/json").await;
    problem(&refused, 405);
    assert!(refused.header("allow").contains("POST"), "{refused:?}");
    problem(&ask("GET", "/v1/events", "application/json").await, 405);
    problem(&ask("POST", "/v1/events", "text/csv").await, 415);
    problem(&ask("POST", "/v1/events", "application/xml").await, 415);
    ask("POST", "/v1/events", "application/json; charset=utf-8").await.expect(202);
    ask("POST", "/v1/events", "Application/JSON").await.expect(202);
    assert_eq!(ask("GET", "/v1/health", "").await.status.as_u16(), 200);
    // Nothing said of the type is read as JSON.
    let untyped = sidehook.ask(&sidehook.ingest, "POST", "/v1/events", &[], r#"{"type": "a.b"}"#).await.unwrap();
    untyped.expect(202);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_at_once() {
    let receiver = Receiver::start().await;
    let sidehook = Sidehook::builder()
        .main("limits: {body: 4KiB}")
        .webhook("all", &receiver.webhook("/all", "events: [\"*\"]"))
        .start()
        .await;
    let big = json!({"type": "a.b", "metadata": {"x": "y".repeat(5000)}});
    problem(&sidehook.post(&big).await, 413);
    let small = json!({"type": "a.b", "metadata": {"x": "y".repeat(3000)}});
    sidehook.send(&small).await;
    receiver.wait("/all", 1).await;
}

#[tokio::test]
async fn a_source_with_a_token_takes_events_from_those_who_have_it() {
    let receiver = Receiver::start().await;
    let sidehook = Sidehook::builder()
        .source("token: {env: INGEST_TOKEN}")
        .env("INGEST_TOKEN", "open-sesame")
        .webhook("all", &receiver.webhook("/all", "events: [\"*\"]"))
        .start()
        .await;
    for (authorization, status) in [
        (None, 401),
        (Some("Bearer wrong"), 401),
        (Some("Bearer open-sesame2"), 401),
        (Some("Basic open-sesame"), 401),
        (Some("Bearer open-sesame"), 202),
        (Some("bearer open-sesame"), 202),
    ] {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(authorization.map(|value| ("authorization", value)));
        let answer = sidehook.ask(&sidehook.ingest, "POST", "/v1/events", &headers, r#"{"type":"a.b"}"#).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{authorization:?}: {}", answer.text());
        if status == 401 {
            problem(&answer, 401);
            assert!(answer.header("www-authenticate").starts_with("Bearer"), "{answer:?}");
            assert!(!answer.text().contains("sesame"), "{}", answer.text());
        }
    }
    receiver.wait("/all", 2).await;
}

#[tokio::test]
async fn lists_and_lines_are_answered_in_order() {
    let (receiver, sidehook) = started().await;
    let answer = sidehook.send(&json!([event("a", "x.y", "c"), event("b", "x.y", "c"), event("a", "x.y", "c")])).await;
    assert_eq!(answer, json!({"accepted": 2, "duplicates": 1, "ids": ["a", "b", "a"]}));
    let lines =
        "\n{\"type\":\"x.y\",\"id\":\"c\"}\r\n\n{\"type\":\"x.y\",\"id\":\"b\",\"conversation\":{\"id\":\"c\"}}";
    let answer = sidehook.post_as("application/x-ndjson", lines).await.expect(202).json();
    assert_eq!(answer, json!({"accepted": 1, "duplicates": 1, "ids": ["c", "b"]}));
    for (media, body) in [("application/json", "[]"), ("application/x-ndjson", ""), ("application/x-ndjson", "\n \n")] {
        let answer = sidehook.post_as(media, body).await.expect(202).json();
        assert_eq!(answer, json!({"accepted": 0, "duplicates": 0, "ids": []}), "{media} {body:?}");
    }
    let made = sidehook.send(&json!({"type": "x.y"})).await;
    assert!(made["ids"][0].as_str().is_some_and(|id| id.len() > 8), "{made}");
    let requests = receiver.wait("/all", 4).await;
    let mut ids: Vec<String> = requests.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
    ids.retain(|id| id.len() == 1);
    ids.sort();
    assert_eq!(ids, ["a", "b", "c"]);
}

#[tokio::test]
async fn an_id_means_one_event() {
    let (receiver, mut sidehook) = started().await;
    sidehook.send(&event("e1", "conversation.begin", "c1")).await;
    // The same again, even with other contents: the first wins.
    let mut again = event("e1", "conversation.begin", "c1");
    again["metadata"] = json!({"other": true});
    assert_eq!(sidehook.send(&again).await["duplicates"], 1);
    for other in [event("e1", "conversation.failed", "c1"), event("e1", "conversation.begin", "c2")] {
        let problem = problem(&sidehook.post(&json!([event("fresh", "a.b", "c9"), other])).await, 422);
        assert_eq!(problem["errors"][0]["index"], 1, "{problem}");
        assert!(problem["errors"][0]["reason"].as_str().unwrap().contains("id_conflict"), "{problem}");
    }
    let twice = json!([event("e2", "a.b", "c1"), event("e2", "a.c", "c1")]);
    assert!(
        problem(&sidehook.post(&twice).await, 422)["errors"][0]["reason"].as_str().unwrap().contains("id_conflict")
    );
    // Over a restart too.
    sidehook.stop().await;
    sidehook.start().await;
    assert_eq!(sidehook.send(&event("e1", "conversation.begin", "c1")).await["duplicates"], 1);
    let answer = sidehook.send(&json!([event("fresh", "a.b", "c9"), {"id": 17, "type": "a.b"}])).await;
    assert_eq!(
        answer,
        json!({"accepted": 2, "duplicates": 0, "ids": ["fresh", "17"]}),
        "a refused request left nothing"
    );
    let requests = receiver.wait("/all", 3).await;
    let ids: Vec<_> = requests.iter().map(|r| (r.json()["id"].clone(), r.id().to_owned())).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
}

#[tokio::test]
async fn namespaces_keep_ids_apart() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (left, right) = (dir.path().join("left.sock"), dir.path().join("right.sock"));
    let sources = format!(
        "sources:\n  left: {{type: http, listen: \"unix:{}\", namespace: left}}\n  right: {{type: http, listen: \"unix:{}\", namespace: right}}",
        left.display(),
        right.display()
    );
    let sidehook =
        Sidehook::builder().main(&sources).webhook("all", &receiver.webhook("/all", "events: [\"*\"]")).start().await;
    for socket in [&left, &right] {
        let mut connection = Connection::unix(socket).await.expect("the socket is there");
        for duplicates in [0, 1] {
            let body = event("e1", "conversation.begin", "c1").to_string();
            let headers = [("content-type", "application/json")];
            let answer = connection.send("POST", "/v1/events", &headers, body).await.unwrap().expect(202).json();
            assert_eq!(answer["duplicates"], duplicates, "{answer}");
        }
    }
    receiver.wait("/all", 2).await;
    assert_eq!(sidehook.ledger("all").await["created"], 2);
}

#[tokio::test]
async fn the_traceparent_of_the_request_reaches_the_webhook() {
    let (receiver, sidehook) = started().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("content-type", "application/json"), ("traceparent", parent)];
    let answer = sidehook.ask(&sidehook.ingest, "POST", "/v1/events", &headers, r#"{"type":"a.b"}"#).await.unwrap();
    answer.expect(202);
    let request = receiver.wait("/all", 1).await.remove(0);
    let carried = request.header("traceparent");
    assert!(carried.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{carried:?}");
}

#[tokio::test]
async fn a_full_outbox_says_so_and_recovers() {
    let receiver = Receiver::start().await;
    receiver.on("/all", &[Reply::status(503)]);
    let webhook = receiver.webhook(
        "/all",
        "events: [\"*\"]\nretry: {schedule: {initial: 200ms, factor: 1, max: 200ms, attempts: 100}, jitter: 0}\nbreaker: {failures: 100000}\nordering: none",
    );
    let sidehook = Sidehook::builder().main("outbox: {max_bytes: 4MiB}").webhook("all", &webhook).start().await;
    let mut accepted = Vec::new();
    let mut refused = None;
    for n in 0..400 {
        let mut event = conversation(&format!("e{n}"), &format!("c{n}"));
        event["metadata"]["ballast"] = json!("0123456789abcdef".repeat(4096));
        let answer = sidehook.post(&event).await;
        if answer.status.as_u16() != 202 {
            refused = Some(answer);
            break;
        }
        accepted.push(format!("e{n}"));
    }
    let refused = refused.expect("4 MiB hold no 400 events of 64 KiB");
    problem(&refused, 503);
    assert!(refused.header("retry-after").parse::<u32>().is_ok_and(|s| s > 0), "{refused:?}");
    assert!(accepted.len() > 5, "only {} fit", accepted.len());
    // The retries that go on beside this may free a page between the refusal and the probe: then it is filled again.
    eventually("a full outbox is not ready", async || {
        let mut event = conversation("again", "again");
        event["metadata"]["ballast"] = json!("0123456789abcdef".repeat(4096));
        let refused = sidehook.post(&event).await;
        let ready = sidehook.get("/ready").await;
        if ready.status.as_u16() == 503 { Ok(()) } else { Err(format!("{refused:?} {ready:?}")) }
    })
    .await;
    // The destination comes back: what was accepted arrives, and there is room again.
    receiver.on("/all", &[Reply::status(200)]);
    eventually("all of it arrives", async || {
        let row = sidehook.ledger("all").await;
        let done = row["pending"] == 0 && row["delivered"].as_u64().is_some_and(|n| n >= accepted.len() as u64);
        if done { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
    eventually("room again", async || {
        let answer = sidehook.post(&event("last", "a.b", "c")).await;
        if answer.status.as_u16() == 202 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

#[tokio::test]
async fn json_is_utf_8_and_says_no_other_charset() {
    let (_receiver, sidehook) = started().await;
    let event = r#"{"type": "a.b"}"#;
    for (media, status) in [
        ("application/json; charset=utf-8", 202),
        ("application/json; charset=US-ASCII", 202),
        ("application/json; charset=utf-16", 415),
        ("application/x-ndjson; charset=\"latin1\"", 415),
    ] {
        sidehook.post_as(media, event).await.expect(status);
    }
    let body = bytes::Bytes::from_static(b"{\"type\": \"a.b\", \"argument\": {\"x\": \"\xff\xfe\"}}");
    let answer = sidehook.post_as("application/json", body).await.expect(400);
    assert!(answer.json()["detail"].as_str().is_some_and(|d| d.to_lowercase().contains("utf-8")), "{}", answer.text());
}

#[tokio::test]
async fn a_conversation_is_assembled_up_to_its_limit_and_no_further() {
    for state in ["durable", "memory"] {
        let receiver = Receiver::start().await;
        let webhook = receiver.webhook("/x", "events: [conversation.completed]\nparams: {n: conversation.messages}");
        let sidehook = Sidehook::builder()
            .main(&format!("conversations: {{state: {state}}}"))
            .webhook("x", &webhook)
            .start()
            .await;
        let messages = vec![json!({}); 99_999];
        let update = json!({"type": "conversation.update", "conversation": {"id": "c", "messages": messages}});
        sidehook.send(&update).await;
        let one = json!({"type": "message.sent", "conversation": {"id": "c"}, "message": {"last": true}});
        sidehook.send(&one).await;
        let refused = sidehook.post(&json!([one, one])).await.expect(413).json();
        assert_eq!(refused["errors"][0]["reason"], "conversation_too_large", "{refused}");
        let detail =
            "item 0: the conversation would have 100001 messages; at most 100000 are assembled; nothing was stored";
        assert_eq!(refused["detail"], detail);
        // Another conversation is not concerned, and this one ends with all that was acknowledged.
        sidehook.send(&json!({"type": "message.sent", "conversation": {"id": "d"}, "message": {}})).await;
        sidehook.send(&json!({"type": "conversation.completed", "conversation": {"id": "c"}})).await;
        let arrived = receiver.wait("/x", 1).await[0].json();
        let all = arrived["n"].as_array().unwrap();
        assert_eq!((all.len(), &all[99_999]), (100_000, &json!({"last": true})), "{state}");
    }
}
