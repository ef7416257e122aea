//! The admin listener: probes, metrics, deliveries, ledger, and who may ask.

use serde_json::{Value, json};

use crate::support::events::event;
use crate::support::{Answer, Receiver, Reply, Sidehook};

/// `good` delivers, `bad` makes dead letters; ten events in five conversations.
async fn started() -> (Receiver, Sidehook) {
    let receiver = Receiver::start().await;
    receiver.on("/bad", &[Reply::status(400)]);
    let sidehook = Sidehook::builder()
        .webhook("good", &receiver.webhook("/good", "events: [\"*\"]"))
        .webhook("bad", &receiver.webhook("/bad", "events: [\"*\"]"))
        .start()
        .await;
    for n in 0..10 {
        sidehook.send(&event(&format!("e{n}"), if n < 5 { "a.b" } else { "a.c" }, &format!("c{}", n % 5))).await;
    }
    sidehook.await_deliveries("state=delivered", 10).await;
    sidehook.await_deliveries("state=dead", 10).await;
    (receiver, sidehook)
}

#[tokio::test]
async fn deliveries_are_listed_filtered_and_paged() {
    let (_receiver, sidehook) = started().await;
    for (filter, count) in [
        ("", 20),
        ("webhook=good", 10),
        ("webhook=bad&state=dead", 10),
        ("webhook=bad&state=delivered", 0),
        ("event=a.b", 10),
        ("conversation=c1", 4),
        ("webhook=good&event=a.c&conversation=c0", 1),
        ("since=2020-01-01T00:00:00Z", 20),
        ("until=2020-01-01T00:00:00Z", 0),
        ("webhook=nobody", 0),
    ] {
        assert_eq!(sidehook.deliveries(filter).await.len(), count, "{filter}");
    }
    // Pages: all of them, none twice, newest first.
    let mut cursor = String::new();
    let mut all: Vec<Value> = Vec::new();
    for page in 0.. {
        assert!(page < 10, "pages without end");
        let answer = sidehook.get(&format!("/api/v1/deliveries?limit=7{cursor}")).await.expect(200).json();
        all.extend(answer["items"].as_array().unwrap().iter().cloned());
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let mut ids: Vec<_> = all.iter().map(|d| d["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((all.len(), ids.len()), (20, 20));
    let times: Vec<jiff::Timestamp> = all.iter().map(|d| d["created_at"].as_str().unwrap().parse().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    for member in [
        "id",
        "event_id",
        "event",
        "conversation",
        "webhook",
        "state",
        "reason",
        "created_at",
        "next_attempt_at",
        "attempts",
    ] {
        assert!(all[0].as_object().unwrap().contains_key(member), "no {member}: {}", all[0]);
    }
    for bad in ["state=odd", "limit=0", "limit=1001", "limit=x", "cursor=@@", "since=yesterday", "nonsense=1"] {
        let answer = sidehook.get(&format!("/api/v1/deliveries?{bad}")).await;
        assert_eq!(answer.status.as_u16(), 400, "{bad}: {}", answer.text());
        assert!(answer.header("content-type").starts_with("application/problem+json"), "{bad}");
    }
    assert_eq!(sidehook.get("/api/v1/deliveries/msg_nobody").await.status.as_u16(), 404);
    assert_eq!(sidehook.get("/api/v1/nothing").await.status.as_u16(), 404);
}

#[tokio::test]
async fn deliveries_are_retried_one_by_one_and_by_filter() {
    let (receiver, sidehook) = started().await;
    receiver.on("/bad", &[Reply::status(200)]);
    let dead = sidehook.deliveries("state=dead&event=a.b").await;
    let id = dead[0]["id"].as_str().unwrap();
    let answer = sidehook.admin_post(&format!("/api/v1/deliveries/{id}/retry"), "").await;
    assert!(answer.status.is_success(), "{}", answer.text());
    sidehook.await_deliveries("webhook=bad&state=delivered", 1).await;
    assert_eq!(sidehook.admin_post("/api/v1/deliveries/msg_nobody/retry", "").await.status.as_u16(), 404);
    let answer = sidehook
        .admin_post("/api/v1/deliveries/retry", r#"{"webhook":"bad","state":"dead","event":"a.c"}"#)
        .await
        .expect(200);
    assert_eq!(answer.json(), json!({"retried": 5}));
    sidehook.await_deliveries("webhook=bad&state=delivered", 6).await;
    assert_eq!(sidehook.admin_post("/api/v1/deliveries/retry", r#"{"state":"odd"}"#).await.status.as_u16(), 400);
    let row = sidehook.ledger("bad").await;
    assert_eq!((&row["created"], &row["delivered"], &row["dead"]), (&json!(10), &json!(6), &json!(4)), "{row}");
    // Every attempt is kept.
    let shown = sidehook.get(&format!("/api/v1/deliveries/{id}")).await.json();
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 2, "{shown}");
}

#[tokio::test]
async fn a_delivered_one_is_sent_again_under_its_id_when_its_body_was_kept() {
    let receiver = Receiver::start().await;
    let sidehook = Sidehook::builder()
        .main("outbox: {retain: {bodies: true}}")
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]"))
        .start()
        .await;
    sidehook.send(&event("e", "a.b", "c")).await;
    let delivered = sidehook.await_deliveries("state=delivered", 1).await;
    let id = delivered[0]["id"].as_str().unwrap();
    let answer = sidehook.admin_post(&format!("/api/v1/deliveries/{id}/retry"), "").await;
    assert!(answer.status.is_success(), "{}", answer.text());
    let requests = receiver.wait("/x", 2).await;
    assert_eq!((requests[1].id(), &requests[1].body), (id, &requests[0].body));
    sidehook.await_deliveries("state=delivered", 1).await;
    let row = sidehook.ledger("x").await;
    assert_eq!((&row["created"], &row["delivered"]), (&json!(1), &json!(1)), "{row}");
}

#[tokio::test]
async fn a_held_one_is_not_retried() {
    let receiver = Receiver::start().await;
    receiver.on("/x", &[Reply::status(410)]);
    let sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", "events: [\"*\"]")).start().await;
    sidehook.send(&event("e", "a.b", "c")).await;
    let held = sidehook.await_deliveries("state=held", 1).await;
    let answer =
        sidehook.admin_post(&format!("/api/v1/deliveries/{}/retry", held[0]["id"].as_str().unwrap()), "").await;
    assert_eq!(answer.status.as_u16(), 409, "{}", answer.text());
}

#[tokio::test]
async fn the_ledger_and_the_status_have_their_shapes() {
    let (_receiver, sidehook) = started().await;
    let ledger = sidehook.get("/api/v1/ledger").await.expect(200).json();
    assert_eq!(ledger["balanced"], true);
    let row = ledger["webhooks"].as_array().unwrap().iter().find(|r| r["webhook"] == "bad").unwrap().clone();
    let expected = json!({"webhook": "bad", "matched": 10, "filtered": 0, "rendered": 10, "rule_failed": 0, "waiting": 0,
        "created": 10, "delivered": 0, "pending": 0, "held": 0, "dead": 10, "purged": 0});
    assert_eq!(row, expected);
    let status = sidehook.get("/api/v1/status").await.expect(200).json();
    for member in ["version", "generation", "config_hash", "last_reload", "sources", "webhooks", "outbox"] {
        assert!(!status[member].is_null(), "no {member}: {status}");
    }
}

#[tokio::test]
async fn probes_and_metrics_speak_prometheus() {
    let (_receiver, sidehook) = started().await;
    assert_eq!(sidehook.get("/live").await.status.as_u16(), 200);
    assert_eq!(sidehook.get("/ready").await.status.as_u16(), 200);
    let metrics = sidehook.get("/metrics").await.expect(200);
    assert!(metrics.header("content-type").starts_with("text/plain"), "{metrics:?}");
    for (name, labels, value) in [
        ("sidehook_events_received_total", &["source=\"events\"", "type=\"a.b\""][..], 5.0),
        ("sidehook_deliveries_total", &["webhook=\"good\"", "outcome=\"delivered\""], 10.0),
        ("sidehook_deliveries_total", &["webhook=\"bad\"", "outcome=\"dead\""], 10.0),
        ("sidehook_attempts_total", &["webhook=\"bad\"", "status=\"400\""], 10.0),
        ("sidehook_outbox_deliveries", &["webhook=\"bad\"", "state=\"dead\""], 10.0),
        ("sidehook_attempt_duration_seconds_count", &["webhook=\"good\""], 10.0),
        ("sidehook_event_to_delivery_seconds_count", &["webhook=\"good\""], 10.0),
        ("sidehook_build_info", &[], 1.0),
    ] {
        assert_eq!(sidehook.metric(name, labels).await, value, "{name} {labels:?}\n{}", metrics.text());
    }
    assert!(sidehook.metric("sidehook_outbox_bytes", &[]).await > 0.0);
    assert!(sidehook.metric("sidehook_config_generation", &[]).await >= 1.0);
    sidehook.post(&json!({})).await;
    assert!(sidehook.metric("sidehook_events_rejected_total", &["source=\"events\""]).await >= 1.0);
    let text = sidehook.get("/metrics").await.text();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        assert!(line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok()), "{line}");
    }
}

#[tokio::test]
async fn foreign_hosts_and_pages_are_refused() {
    let (_receiver, sidehook) = started().await;
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| -> Answer {
        sidehook.ask(&sidehook.admin, method, path, headers, "").await.unwrap()
    };
    for (method, path, headers, status) in [
        ("GET", "/api/v1/status", &[("host", "rebound.example")][..], 403),
        ("GET", "/api/v1/status", &[("host", "localhost")], 200),
        ("GET", "/api/v1/status", &[("host", "[::1]:7071")], 200),
        ("GET", "/metrics", &[("host", "rebound.example")], 200),
        ("GET", "/ready", &[("host", "10.0.0.7:7071")], 200),
        ("POST", "/api/v1/reload", &[("origin", "https://evil.example")], 403),
        ("POST", "/api/v1/reload", &[("sec-fetch-site", "cross-site")], 403),
        ("POST", "/api/v1/reload", &[("origin", "null")], 403),
        ("POST", "/api/v1/reload", &[("sec-fetch-site", "same-origin")], 200),
        ("POST", "/api/v1/reload", &[], 200),
    ] {
        let answer = ask(method, path, headers).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path} {headers:?}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_token_guards_the_api_but_not_the_probes() {
    let receiver = Receiver::start().await;
    let sidehook = Sidehook::builder()
        .admin("token: {env: ADMIN_TOKEN}, hosts: [hooks.internal]")
        .env("ADMIN_TOKEN", "sesame")
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]"))
        .start()
        .await;
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        sidehook.ask(&sidehook.admin, "GET", path, headers, "").await.unwrap().status.as_u16()
    };
    assert_eq!(ask("/api/v1/status", &[]).await, 401);
    assert_eq!(ask("/api/v1/status", &[("authorization", "Bearer wrong")]).await, 401);
    assert_eq!(ask("/api/v1/status", &[("authorization", "Bearer sesame")]).await, 200);
    assert_eq!(ask("/api/v1/status", &[("authorization", "Bearer sesame"), ("host", "hooks.internal")]).await, 200);
    for probe in ["/live", "/ready", "/metrics"] {
        assert_eq!(ask(probe, &[]).await, 200, "{probe}");
    }
}

#[tokio::test]
async fn webhooks_are_shown_paused_resumed_and_tried_out() {
    let receiver = Receiver::start().await;
    let more = "events: [conversation.completed]\ndescription: CRM notes\nheaders: {X-Key: hunter2}\n\
                params: {caller: argument.caller, kind: event.type, fixed: {value: [1]}}";
    let mut sidehook = Sidehook::builder()
        .webhook("crm", &receiver.webhook("/crm?key=hunter2", more))
        .webhook("off", &receiver.webhook("/off/${PART}?key=${PART}&b=c", "events: [\"*\"]\nenabled: false"))
        .env("PART", "hunter2")
        .start()
        .await;
    let hidden = sidehook.get("/api/v1/webhooks/off").await.expect(200).json();
    assert!(hidden["url"].as_str().unwrap().ends_with("/off/****?key=****&b=****"), "{hidden}");
    let shown = sidehook.get("/api/v1/webhooks/crm").await.expect(200);
    assert!(!shown.text().contains("hunter2"), "{}", shown.text());
    let shown = shown.json();
    for (member, value) in [
        ("name", json!("crm")),
        ("description", json!("CRM notes")),
        ("method", json!("POST")),
        ("events", json!(["conversation.completed"])),
        ("enabled", json!(true)),
        ("state", json!("active")),
        ("reason", Value::Null),
        ("headers", json!(["x-key"])),
        ("params", json!({"caller": "argument.caller", "kind": "event.type", "fixed": {"value": [1]}})),
        ("rule", Value::Null),
        ("counts", json!({"pending": 0, "held": 0, "dead": 0})),
        ("breaker", json!("closed")),
        ("last_success", Value::Null),
        ("last_failure", Value::Null),
    ] {
        assert_eq!(shown[member], value, "{member}");
    }
    assert!(shown["url"].as_str().unwrap().ends_with("/crm?key=****"), "{}", shown["url"]);
    let list = sidehook.get("/api/v1/webhooks").await.expect(200).json();
    let states: Vec<_> = list["items"].as_array().unwrap().iter().map(|w| (&w["name"], &w["state"])).collect();
    assert_eq!(states, [(&json!("crm"), &json!("active")), (&json!("off"), &json!("disabled"))]);

    let tried = sidehook.admin_post("/api/v1/webhooks/crm/test", "").await.expect(200).json();
    assert_eq!((&tried["state"], &tried["attempts"][0]["status"]), (&json!("delivered"), &json!("200")), "{tried}");
    let seen = receiver.wait("/crm", 1).await.remove(0);
    assert_eq!(Some(seen.id()), tried["id"].as_str());
    assert_eq!(seen.json(), json!({"kind": "conversation.completed", "fixed": [1]}));
    assert!(sidehook.get("/api/v1/webhooks/crm").await.json()["last_success"].is_string());

    let paused = sidehook.admin_post("/api/v1/webhooks/crm/pause", "").await.expect(200).json();
    assert_eq!((&paused["state"], &paused["reason"]), (&json!("paused"), &json!("paused")));
    assert_eq!(sidehook.admin_post("/api/v1/webhooks/crm/test", "").await.status.as_u16(), 409);
    sidehook.send(&event("e1", "conversation.completed", "c1")).await;
    sidehook.await_deliveries("webhook=crm&state=held", 1).await;
    sidehook.stop().await;
    sidehook.start().await;
    assert_eq!(sidehook.get("/api/v1/webhooks/crm").await.json()["counts"]["held"], json!(1));
    let resumed = sidehook.admin_post("/api/v1/webhooks/crm/resume", "").await.expect(200).json();
    assert_eq!((&resumed["state"], &resumed["reason"]), (&json!("active"), &Value::Null));
    sidehook.await_deliveries("webhook=crm&state=delivered", 2).await;
    receiver.wait("/crm", 2).await;

    for (path, status) in [("nobody/pause", 404), ("nobody/test", 404), ("off/test", 409)] {
        let answer = sidehook.admin_post(&format!("/api/v1/webhooks/{path}"), "").await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
    }
    assert_eq!(sidehook.get("/api/v1/webhooks/nobody").await.status.as_u16(), 404);
    assert_eq!(sidehook.get("/api/v1/ledger").await.expect(200).json()["balanced"], json!(true));
}

async fn a_wrong_method_is_told_the_right_ones() {
    let (_receiver, sidehook) = started().await;
    for (method, path, allow) in [
        ("GET", "/api/v1/reload", "POST"),
        ("PUT", "/api/v1/reload", "POST"),
        ("POST", "/api/v1/status", "GET,HEAD"),
        ("DELETE", "/api/v1/deliveries", "GET,HEAD"),
        ("PUT", "/api/v1/deliveries/msg_1", "GET,HEAD"),
        ("GET", "/api/v1/deliveries/msg_1/retry", "POST"),
        ("POST", "/api/v1/ledger", "GET,HEAD"),
        ("POST", "/live", "GET,HEAD"),
        ("DELETE", "/metrics", "GET,HEAD"),
    ] {
        let answer = sidehook.ask(&sidehook.admin, method, path, &[], "").await.unwrap();
        assert_eq!(answer.status.as_u16(), 405, "{method} {path}: {}", answer.text());
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
        let problem = answer.json();
        let detail = format!("use {}", allow.replace(',', ", "));
        assert_eq!((&problem["status"], &problem["detail"]), (&json!(405), &json!(detail)), "{method} {path}");
    }
    let head = sidehook.ask(&sidehook.admin, "HEAD", "/api/v1/status", &[], "").await.unwrap();
    assert_eq!(head.status.as_u16(), 200);
}

#[tokio::test]
async fn times_have_one_width() {
    let (_receiver, sidehook) = started().await;
    let wide = |value: &serde_json::Value| {
        let text = value.as_str().unwrap_or_default().to_owned();
        text.len() == "2026-01-03T11:38:10.000Z".len() && text.as_bytes()[19] == b'.' && text.ends_with('Z')
    };
    for delivery in sidehook.deliveries("").await {
        assert!(wide(&delivery["created_at"]) && wide(&delivery["attempts"][0]["at"]), "{delivery}");
    }
    let status = sidehook.get("/api/v1/status").await.json();
    assert!(wide(&status["last_reload"]["at"]), "{status}");
    for line in sidehook.log() {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(wide(&line["timestamp"]), "{line}");
    }
}

#[tokio::test]
async fn the_status_tells_how_each_webhook_stands() {
    let receiver = Receiver::start().await;
    receiver.on("/gone", &[Reply::status(410)]);
    receiver.on("/bad", &[Reply::status(400)]);
    let sidehook = Sidehook::builder()
        .webhook("bad", &receiver.webhook("/bad", "events: [a.b]"))
        .webhook("gone", &receiver.webhook("/gone", "events: [a.b]"))
        .webhook("off", &receiver.webhook("/off", "events: [a.b]\nenabled: false"))
        .start()
        .await;
    sidehook.send(&event("e", "a.b", "c")).await;
    sidehook.await_deliveries("state=held", 1).await;
    sidehook.await_deliveries("state=dead", 1).await;
    let status = sidehook.get("/api/v1/status").await.expect(200).json();
    let shown: Vec<_> = status["webhooks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| {
            let name = w["name"].as_str().unwrap();
            let text = |key: &str| w[key].as_str().unwrap_or("-").to_owned();
            (name.to_owned(), text("state"), text("reason"), text("breaker"), w["counts"].clone())
        })
        .collect();
    let row = |name: &str, state: &str, reason: &str, held: u64, dead: u64| {
        let text = str::to_owned;
        (text(name), text(state), text(reason), text("closed"), json!({"pending": 0, "held": held, "dead": dead}))
    };
    let expected = [
        row("bad", "active", "-", 0, 1),
        row("gone", "disabled", "status_410", 1, 0),
        row("off", "disabled", "not_enabled", 0, 0),
    ];
    assert_eq!(shown, expected);
    let source = &status["sources"][0];
    assert_eq!(
        (&source["name"], &source["type"], &source["listen"]),
        (&json!("events"), &json!("http"), &json!(sidehook.ingest))
    );
    let outbox = &status["outbox"];
    assert_eq!((&outbox["state"], &outbox["max_bytes"]), (&json!("healthy"), &json!(1 << 30)), "{outbox}");
    assert!(outbox["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{outbox}");
    sidehook.get("/metrics").await.expect(200);
    sidehook.remove("webhooks/off.yaml");
    sidehook.remove("webhooks/gone.yaml");
    sidehook.await_generation(2).await;
    crate::support::eventually("the removed webhook in the status", async || {
        let status = sidehook.get("/api/v1/status").await.json();
        let gone = status["webhooks"].as_array().unwrap().iter().find(|w| w["name"] == "gone").cloned();
        if gone.as_ref().is_some_and(|w| w["state"] == "removed") { Ok(()) } else { Err(format!("{gone:?}")) }
    })
    .await;
    crate::support::eventually("the metrics of what is left", async || {
        let text = sidehook.get("/metrics").await.expect(200).text();
        let has = |name: &str| text.contains(&format!("webhook=\"{name}\""));
        let left = (has("bad"), has("gone"), has("off"));
        if left == (true, true, false) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}
