//! An event stream over plain HTTP on loopback.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{arrived, sidehook};
use crate::support::{Receiver, eventually};

/// Sends the events after the one that `Last-Event-ID` names, a few to a connection, and keeps the request heads.
async fn serve(listener: TcpListener, events: usize, each: usize, heads: Arc<Mutex<Vec<String>>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let last = head.lines().find_map(|line| line.strip_prefix("last-event-id: ")?.parse::<usize>().ok());
        heads.lock().unwrap().push(head);
        let first = last.map_or(0, |last| last + 1);
        let mut text =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\nretry: 20\n\n".to_owned();
        for n in first..events.min(first + each) {
            let event = json!({"type": "a.b", "n": n, "id": format!("e{n}")});
            text.push_str(&format!("id: {n}\ndata: {event}\n\n"));
        }
        // Torn in the middle of an event, as a connection that breaks does.
        text.push_str("id: 99999\ndata: {\"type\":");
        let _ = stream.write_all(text.as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_stream_is_taken_up_again_without_a_loss_over_kills_too() {
    let receiver = Receiver::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let server = tokio::spawn(serve(listener, 300, 7, Arc::clone(&heads)));
    let source = format!("{{type: sse, url: \"http://{address}/stream?x=1\", headers: {{Authorization: Bearer t0k}}}}");
    let mut sidehook = sidehook(&receiver, &source).start().await;
    receiver.wait("/x", 30).await;
    sidehook.kill().await;
    sidehook.start().await;
    receiver.wait("/x", 150).await;
    sidehook.stop().await;
    let before = heads.lock().unwrap().len();
    sidehook.start().await;
    eventually("all events", async || {
        let mut ids = arrived(&receiver);
        ids.sort();
        ids.dedup();
        if ids.len() == 300 { Ok(()) } else { Err(ids.len().to_string()) }
    })
    .await;
    let heads = heads.lock().unwrap().clone();
    assert!(heads[0].contains("authorization: bearer t0k") && !heads[0].contains("last-event-id"), "{}", heads[0]);
    assert!(heads[before].contains("last-event-id: "), "after a restart too: {}", heads[before]);
    assert!(!sidehook.log().iter().any(|line| line.contains("t0k") || line.contains("x=1")));
    let ledger = sidehook.ledger("x").await;
    assert_eq!(ledger["created"], 300, "none came twice: {ledger}");
    server.abort();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_and_tried_again() {
    let receiver = Receiver::start().await;
    let mut sidehook = sidehook(&receiver, "{type: sse, url: \"http://127.0.0.1:1/stream\"}").start().await;
    let told = sidehook.logged("connecting again").await;
    assert!(told.contains("could not be reached"), "{told}");
    sidehook.stop().await;
}
