//! `outbox.encryption_key`: nothing of what was said is on the disk, over restarts and while keys change.

use rustix::process::Signal;
use serde_json::json;

use crate::support::events::event;
use crate::support::{Receiver, Reply, Sidehook, cli};

const SAID: &str = "my card number is blue";

async fn new_key() -> String {
    cli(&["secret", "new", "--outbox"]).await.expect(0).stdout
}

/// Whether any file of the outbox holds what was said, now.
fn shown(sidehook: &Sidehook) -> bool {
    let mut files = Vec::new();
    let mut shown = false;
    for entry in std::fs::read_dir(sidehook.config.join("data")).unwrap() {
        let path = entry.unwrap().path();
        shown |= std::fs::read(&path).unwrap().windows(SAID.len()).any(|w| w == SAID.as_bytes());
        files.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    assert!(files.iter().any(|name| name == "outbox.db-wal"), "looked at while in use: {files:?}");
    shown
}

#[tokio::test]
async fn what_was_said_is_in_no_file_and_is_delivered_over_restarts_and_new_keys() {
    let receiver = Receiver::start().await;
    receiver.on("/down", &[Reply::status(503).text(SAID)]);
    let params = "params: {said: conversation.messages}\nretry: {schedule: [1h], jitter: 0}";
    let (first, second) = (new_key().await, new_key().await);
    let mut sidehook = Sidehook::builder()
        .main("outbox: {encryption_key: {file: key}, retain: {events: 1h}}")
        .file("key", &first)
        .webhook("down", &receiver.webhook("/down", &format!("events: [a.b]\n{params}")))
        .webhook("sad", &receiver.webhook("/sad", "events: [a.b]\nrule: sad.rhai"))
        .webhook(
            "slow",
            &receiver.webhook("/slow", "events: [conversation.completed]\nwait_for: {analysis: [x], timeout: 1h}"),
        )
        .rule("sad.rhai", "fn transform(event, payload) { throw event.conversation.messages[0].message }")
        .start()
        .await;
    let say = |id: &str, kind: &str| {
        let mut event = event(id, kind, &format!("c-{id}"));
        event["conversation"]["messages"] = json!([{"role": "user", "message": SAID}]);
        event["metadata"] = json!({"note": SAID});
        event
    };
    sidehook.send(&say("e1", "a.b")).await;
    sidehook.send(&say("w1", "conversation.completed")).await;
    receiver.wait("/down", 1).await;
    let dead = sidehook.await_deliveries("webhook=sad&state=dead", 1).await;
    assert!(dead[0]["reason"].as_str().unwrap().contains(SAID), "the API shows it to who may ask: {dead:?}");
    assert!(!shown(&sidehook));
    sidehook.kill().await;
    sidehook.start().await;
    assert!(!shown(&sidehook));

    // A new key before the old one is taken by a reload.
    sidehook.write("key", &format!("{second}{first}"));
    sidehook.await_generation(2).await;
    sidehook.send(&say("e2", "a.b")).await;
    receiver.wait("/down", 2).await;
    assert!(!shown(&sidehook));
    // Without the key that sealed what is there, no reload: the next start would fail.
    sidehook.write("key", &second);
    let refused = sidehook.admin_post("/api/v1/reload", "").await.json();
    assert_eq!(refused["result"], "rejected", "{refused}");
    let why = refused["problems"][0]["message"].as_str().unwrap();
    assert!(why.contains("`outbox.encryption_key` does not list key "), "{why}");
    sidehook.write("key", &format!("{second}{first}"));
    sidehook.admin_post("/api/v1/reload", "").await.expect(200);
    let data = sidehook.config.join("data");
    let inspected = cli(&["outbox", "inspect", "--json", data.to_str().unwrap()]).await.expect(0).json();
    assert_eq!(inspected["keys"].as_array().map(Vec::len), Some(2), "{inspected}");
    cli(&["outbox", "verify", data.to_str().unwrap()]).await.expect(0);
    sidehook.stop().await;

    // The outbox is looked at without any key, and with them.
    let id = |all: &serde_json::Value| {
        all.as_array().unwrap().iter().find(|d| d["webhook"] == "down").unwrap()["id"].as_str().unwrap().to_owned()
    };
    cli(&["ledger", "--outbox", data.to_str().unwrap()]).await.expect(0);
    let id = id(&cli(&["deliveries", "list", "--json", "--outbox", data.to_str().unwrap()]).await.expect(0).json());
    let answer = async |with: [&str; 2]| {
        let shown = cli(&["deliveries", "show", &id, "--json", with[0], with[1]]).await.expect(0).json();
        shown["attempts"][0]["response"].as_str().unwrap_or_default().to_owned()
    };
    assert!(answer(["--outbox", data.to_str().unwrap()]).await.starts_with("(sealed by key "));
    assert_eq!(answer(["--config", sidehook.config_arg()]).await, SAID);

    // Without the first key, or with another one, it does not start.
    for keys in [second.clone(), new_key().await] {
        sidehook.write("key", &keys);
        sidehook.spawn();
        assert_eq!(sidehook.ended().await.code(), Some(1));
        let last = sidehook.log().join("\n");
        assert!(last.contains("outbox.db: it holds what key ") && last.contains("outbox.encryption_key"), "{last}");
    }
    // A key file that cannot be used does not take the ledger away.
    sidehook.write("key", "nonsense");
    cli(&["ledger", "--config", sidehook.config_arg()]).await.expect(0);

    sidehook.write("key", &format!("{second}{first}"));
    receiver.on("/down", &[Reply::status(200)]);
    sidehook.start().await;
    let retried = sidehook.admin_post("/api/v1/deliveries/retry", r#"{"webhook": "down", "state": "pending"}"#).await;
    assert_eq!(retried.expect(200).json()["retried"], 2);
    let sent = receiver.wait("/down", 4).await;
    for request in &sent[2..] {
        assert_eq!(request.json()["said"][0]["message"], SAID);
    }
    sidehook.await_deliveries("webhook=down&state=delivered", 2).await;
    assert!(!shown(&sidehook));
    sidehook.signal(Signal::KILL);
    sidehook.ended().await;
}
