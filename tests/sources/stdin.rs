//! Standard input.

use std::path::Path;

use serde_json::json;

use super::{arrived, line, redirected, sidehook};
use crate::support::{Receiver, Sidehook, own_address};

fn with_input(builder: crate::support::sidehook::Builder, input: &Path) -> Sidehook {
    let words = redirected(Path::new("/dev/null"), input);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    builder.wrapper(&words).prepare()
}

#[tokio::test]
async fn the_end_of_the_only_source_is_the_end_once_all_is_delivered() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("events.ndjson");
    let mut text: String = (0..500).map(|n| line(&format!("e{n}"), json!({"n": n}))).collect();
    text.push_str("nonsense\n");
    std::fs::write(&input, text.trim_end().to_owned() + "\n" + line("last", json!({})).trim_end()).unwrap();
    let mut sidehook = with_input(sidehook(&receiver, "{type: stdin}"), &input);
    sidehook.spawn();
    assert_eq!(sidehook.ended().await.code(), Some(0));
    let mut ids = arrived(&receiver);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 501);
    sidehook.logged("standard input has ended").await;
    sidehook.logged("this is not JSON").await;
}

#[tokio::test]
async fn beside_another_source_its_end_changes_nothing() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("events.ndjson");
    std::fs::write(&input, line("1", json!({}))).unwrap();
    let http = format!("{}:7070", own_address());
    let builder = Sidehook::builder()
        .main(&format!("sources: {{in: {{type: stdin}}, http: {{type: http, listen: \"{http}\"}}}}"))
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]\nparams: {id: event.id}"));
    let mut sidehook = with_input(builder, &input);
    sidehook.start().await;
    sidehook.logged("standard input has ended").await;
    let headers = [("content-type", "application/x-ndjson")];
    sidehook.ask(&http, "POST", "/v1/events", &headers, line("2", json!({}))).await.unwrap().expect(202);
    receiver.wait("/x", 2).await;
    assert!(sidehook.metric("sidehook_events_received_total", &["source=\"in\""]).await > 0.0);
    sidehook.stop().await;
}

#[tokio::test]
async fn input_that_never_ends_does_not_keep_sidehook_from_ending() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut sidehook = with_input(sidehook(&receiver, "{type: stdin}"), &fifo);
    sidehook.spawn();
    let open = fifo.clone();
    let mut writer =
        tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(open).unwrap()).await.unwrap();
    std::io::Write::write_all(&mut writer, line("1", json!({})).as_bytes()).unwrap();
    receiver.wait("/x", 1).await;
    sidehook.stop().await;
    drop(writer);
}
