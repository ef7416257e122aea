//! Conversations that nobody ends: the end that sidehook infers, over restarts too.

use serde_json::{Value, json};

use crate::support::events::event;
use crate::support::{Receiver, Sidehook, eventually, own_address};

const WHOLE: &str = "events: [\"conversation.*\"]\nparams: {type: event.type, id: conversation.id, reason: event.reason, messages: conversation.messages, argument: argument.*}\nwhen: event.type == \"conversation.failed\" || event.type == \"conversation.completed\"";

fn message(conversation: &str, text: &str) -> Value {
    json!({"type": "message.received", "conversation": {"id": conversation}, "message": {"role": "user", "message": text}})
}

async fn start(receiver: &Receiver, idle: &str) -> Sidehook {
    let webhook = receiver.webhook("/w", WHOLE);
    let main = format!("conversations: {{idle_timeout: {idle}}}");
    Sidehook::builder().webhook("w", &webhook).main(&main).start().await
}

#[tokio::test]
async fn a_silent_conversation_fails_once_over_a_kill() {
    let receiver = Receiver::start().await;
    let mut sidehook = start(&receiver, "3s").await;
    let mut begin = event("b", "conversation.begin", "silent");
    begin["argument"] = json!({"caller": "+31"});
    sidehook.send(&begin).await;
    sidehook.send(&message("silent", "hello?")).await;
    sidehook.send(&event("b2", "conversation.begin", "done")).await;
    sidehook.send(&event("e2", "conversation.completed", "done")).await;
    assert_eq!(receiver.wait("/w", 1).await[0].json()["id"], "done");
    sidehook.await_deliveries("state=delivered", 1).await;
    sidehook.kill().await;
    sidehook.start().await;
    let failed = receiver.wait("/w", 2).await[1].json();
    assert_eq!(
        failed,
        json!({
            "type": "conversation.failed", "id": "silent", "reason": "idle_timeout",
            "messages": [{"role": "user", "message": "hello?"}], "argument": {"caller": "+31"},
        })
    );
    sidehook.await_deliveries("state=delivered", 2).await;
    let metrics = sidehook.get("/metrics").await.text();
    assert!(
        metrics.contains("sidehook_events_received_total{source=\"events\",type=\"conversation.failed\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("sidehook_conversations_open 0"), "{metrics}");
    // Killed again: it has ended, and stays so.
    sidehook.kill().await;
    sidehook.start().await;
    // What goes on is open again, and an end that is sent is the only one.
    sidehook.send(&event("r", "conversation.resume", "silent")).await;
    sidehook.send(&event("e", "conversation.completed", "silent")).await;
    assert_eq!(receiver.wait("/w", 3).await[2].json()["type"], "conversation.completed");
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(receiver.count("/w"), 3);
    let row = sidehook.ledger("w").await;
    assert_eq!((&row["delivered"], &row["waiting"]), (&json!(3), &json!(0)), "{row}");
}

#[tokio::test]
async fn conversations_are_listed_in_pages() {
    let receiver = Receiver::start().await;
    let sidehook = start(&receiver, "1h").await;
    let mut first = event("b", "conversation.begin", "one");
    first["assistant"] = json!({"id": 7, "name": "Support"});
    sidehook.send(&first).await;
    sidehook.send(&json!([message("one", "a"), message("one", "b")])).await;
    let mut whole = event("e", "conversation.completed", "two");
    whole["conversation"]["messages"] = json!([{"n": 1}, {"n": 2}, {"n": 3}]);
    sidehook.send(&whole).await;
    sidehook.send(&message("three", "a")).await;
    let list = async |query: &str| sidehook.get(&format!("/api/v1/conversations{query}")).await.expect(200).json();
    let ids = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect()
    };
    let page = list("?limit=2").await;
    assert_eq!(ids(&page), ["three", "two"]);
    let page = list(&format!("?limit=2&cursor={}", page["next_cursor"].as_str().unwrap())).await;
    assert_eq!((ids(&page), &page["next_cursor"]), (vec!["one".to_owned()], &Value::Null));
    let one = &page["items"][0];
    assert_eq!((&one["assistant"], &one["state"]), (&json!("7"), &json!("open")), "{one}");
    assert_eq!((&one["events"], &one["messages"], &one["ended_at"]), (&json!(3), &json!(2), &Value::Null), "{one}");
    assert_eq!(ids(&list("?state=open").await), ["three", "one"]);
    let ended = list("?state=ended").await;
    assert_eq!((ids(&ended), &ended["items"][0]["messages"]), (vec!["two".to_owned()], &json!(3)));
    assert!(ended["items"][0]["ended_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{ended}");
    for (bad, why) in
        [("state=new", "open or ended"), ("limit=0", "whole number"), ("cursor=d1", "cursor"), ("x=1", "unknown")]
    {
        let answer = sidehook.get(&format!("/api/v1/conversations?{bad}")).await;
        assert!(answer.status == 400 && answer.text().contains(why), "{bad}: {}", answer.text());
    }
}

#[tokio::test]
async fn an_inferred_end_waits_for_late_analysis_as_every_end_does() {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook(
        "/w",
        "events: [conversation.failed]\nparams: {reason: event.reason, analysis: analysis.*}\nwait_for: {analysis: [summary], timeout: 10m}",
    );
    let sidehook = Sidehook::builder()
        .webhook("w", &webhook)
        .main("conversations: {idle_timeout: 1s, state: memory}")
        .start()
        .await;
    sidehook.send(&event("b", "conversation.begin", "c1")).await;
    eventually("the end waits", async || {
        let row = sidehook.ledger("w").await;
        if row["waiting"] == 1 { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
    let mut update = json!({"type": "conversation.update", "conversation": {"id": "c1"}});
    update["analysis"] = json!({"summary": "cut off"});
    sidehook.send(&update).await;
    let payload = receiver.wait("/w", 1).await[0].json();
    assert_eq!(payload, json!({"reason": "idle_timeout", "analysis": {"summary": "cut off"}}));
}

/// An upstream that answers every request with an event stream: these frames, and then the connection breaks off, when
/// it is told to.
async fn broken_stream(frames: &'static str) -> (String, tokio::sync::oneshot::Sender<()>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (cut, is_cut) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await.unwrap();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{frames}\r\n",
            frames.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = is_cut.await;
    });
    (address, cut)
}

#[tokio::test]
async fn a_tapped_stream_that_breaks_off_fails_what_it_left_open() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let frames = "data: {\"type\":\"conversation.begin\",\"conversation\":{\"id\":\"open\"}}\n\n\
                  data: {\"type\":\"message.sent\",\"conversation\":{\"id\":\"open\"},\"message\":{\"n\":1}}\n\n\
                  data: {\"type\":\"conversation.begin\",\"conversation\":{\"id\":\"done\"}}\n\n\
                  data: {\"type\":\"conversation.completed\",\"conversation\":{\"id\":\"done\"}}\n\n";
    let (upstream, cut) = broken_stream(frames).await;
    let receiver = Receiver::start().await;
    let ip = own_address();
    let main = format!(
        "sources:\n  bot: {{type: proxy, listen: \"{ip}:7072\", upstream: \"http://{upstream}\", taps: [{{path: /stream, read: response, format: sse}}]}}"
    );
    let webhook = receiver.webhook("/w", WHOLE);
    let sidehook = Sidehook::builder().webhook("w", &webhook).main(&main).start().await;
    let mut assistant = tokio::net::TcpStream::connect((ip, 7072)).await.unwrap();
    assistant.write_all(b"GET /stream HTTP/1.1\r\nhost: bot\r\n\r\n").await.unwrap();
    assert_eq!(receiver.wait("/w", 1).await[0].json()["id"], "done");
    drop(cut);
    let mut rest = Vec::new();
    let _ = assistant.read_to_end(&mut rest).await;
    let failed = receiver.wait("/w", 2).await[1].json();
    assert_eq!((&failed["id"], &failed["reason"]), (&json!("open"), &json!("disconnected")), "{failed}");
    assert_eq!(failed["messages"], json!([{"n": 1}]));
    let metric = sidehook.metric("sidehook_events_received_total", &["source=\"bot\"", "conversation.failed"]).await;
    assert!((metric - 1.0).abs() < f64::EPSILON, "{metric}");
    assert_eq!(sidehook.get("/api/v1/ledger").await.json()["balanced"], true);
}
