//! A socket that answers line by line.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::{arrived, line, sidehook};
use crate::support::{Receiver, eventually};

async fn ask(socket: &mut BufReader<UnixStream>, line: &str) -> Value {
    socket.write_all(line.as_bytes()).await.unwrap();
    answer(socket).await
}

async fn answer(socket: &mut BufReader<UnixStream>) -> Value {
    let mut answer = String::new();
    socket.read_line(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer:?}"))
}

#[tokio::test]
async fn each_line_is_answered_after_its_commit_and_a_stale_socket_is_replaced() {
    let receiver = Receiver::start().await;
    let mut sidehook = sidehook(&receiver, "{type: unix, listen: \"unix:events.sock\"}").prepare();
    let path = sidehook.config.join("events.sock");
    sidehook.start().await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let status = sidehook.get("/api/v1/status").await.expect(200).json();
    assert_eq!((&status["sources"][0]["type"], status["sources"][0]["listen"].is_string()), (&json!("unix"), true));

    let mut one = BufReader::new(UnixStream::connect(&path).await.unwrap());
    let mut other = BufReader::new(UnixStream::connect(&path).await.unwrap());
    assert_eq!(ask(&mut one, &line("1", json!({}))).await, json!({"accepted": 1, "duplicates": 0, "ids": ["1"]}));
    assert_eq!(ask(&mut other, &line("1", json!({}))).await, json!({"accepted": 0, "duplicates": 1, "ids": ["1"]}));
    assert_eq!(ask(&mut one, "{\"type\":\"message.sent\"}\n").await["errors"][0]["pointer"], "/conversation/id");
    assert_eq!(ask(&mut one, "nonsense\n").await["status"], 400);
    let many: String = (0..100).map(|n| line(&format!("m{n}"), json!({}))).collect();
    one.write_all(many.as_bytes()).await.unwrap();
    for n in 0..100 {
        assert_eq!(answer(&mut one).await["ids"], json!([format!("m{n}")]));
    }
    receiver.wait("/x", 101).await;
    assert!(sidehook.metric("sidehook_events_received_total", &["source=\"in\""]).await >= 101.0);

    // What was answered is there after the hard way too, and the socket that is left behind is no obstacle.
    assert_eq!(ask(&mut one, &line("acknowledged", json!({}))).await["accepted"], 1);
    sidehook.kill().await;
    assert!(path.exists());
    sidehook.start().await;
    // Others may come once more after the kill.
    eventually("what was answered arrives", async || {
        let ids = arrived(&receiver);
        if ids.contains(&"acknowledged".to_owned()) { Ok(()) } else { Err(format!("{} ids", ids.len())) }
    })
    .await;
    let mut again = BufReader::new(UnixStream::connect(&path).await.unwrap());
    assert_eq!(ask(&mut again, &line("acknowledged", json!({}))).await["duplicates"], 1);
    sidehook.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_sender_under_way_at_the_end_knows_what_was_taken() {
    let receiver = Receiver::start().await;
    let mut sidehook = sidehook(&receiver, "{type: unix, listen: \"unix:events.sock\"}").prepare();
    let path = sidehook.config.join("events.sock");
    sidehook.start().await;
    let socket = UnixStream::connect(&path).await.unwrap();
    let (read, mut write) = socket.into_split();
    let sending = tokio::spawn(async move {
        for n in 0.. {
            if write.write_all(line(&format!("e{n}"), json!({})).as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let mut answers = BufReader::new(read).lines();
    let mut taken = 0;
    while let Ok(Some(answer)) = answers.next_line().await {
        let answer: Value = serde_json::from_str(&answer).unwrap();
        taken += usize::from(answer["accepted"] == 1);
        if taken == 20 {
            sidehook.signal(Signal::TERM);
        }
    }
    assert_eq!(sidehook.ended().await.code(), Some(0));
    sending.await.unwrap();
    assert!(taken >= 20, "{taken}");
    sidehook.start().await;
    receiver.wait("/x", taken).await;
    let mut ids = arrived(&receiver);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), taken, "all that was answered, and nothing else");
}

#[tokio::test]
async fn a_connection_that_closes_ends_what_it_left_open_and_sidehooks_own_end_does_not() {
    let receiver = Receiver::start().await;
    let mut sidehook = sidehook(&receiver, "{type: unix, listen: \"unix:events.sock\"}").prepare();
    let path = sidehook.config.join("events.sock");
    sidehook.start().await;
    let begin = |id: &str| format!("{{\"type\":\"conversation.begin\",\"conversation\":{{\"id\":\"{id}\"}}}}\n");
    let mut one = BufReader::new(UnixStream::connect(&path).await.unwrap());
    let mut other = BufReader::new(UnixStream::connect(&path).await.unwrap());
    assert_eq!(ask(&mut one, &begin("cut")).await["accepted"], 1);
    assert_eq!(ask(&mut other, &begin("kept")).await["accepted"], 1);
    drop(one);
    sidehook.logged("the conversation has failed").await;
    receiver.wait("/x", 3).await;
    sidehook.stop().await;
    let failed: Vec<_> = sidehook.log().into_iter().filter(|line| line.contains("has failed")).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].contains("\"cut\"") && failed[0].contains("disconnected"), "{failed:?}");
    drop(other);
}
