//! A file that is followed.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::{arrived, line, sidehook};
use crate::support::{Receiver, Sidehook, eventually};

/// Writes lines like a logger that rotates: the file is renamed, and opened anew with the next line.
async fn log_rotating(path: PathBuf, count: usize, each: usize) {
    let name = |n: usize| path.with_file_name(format!("{}.{n}", path.file_name().unwrap().to_str().unwrap()));
    for n in 0..count {
        if n > 0 && n % each == 0 {
            for old in (1..20).rev().filter(|old| name(*old).exists()) {
                std::fs::rename(name(old), name(old + 1)).unwrap();
            }
            std::fs::rename(&path, name(1)).unwrap();
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(line(&format!("e{n}"), json!({"n": n})).as_bytes()).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Ids by how often they arrived under different delivery ids: more than once means that a line was read twice.
fn deliveries(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::<String, std::collections::BTreeSet<String>>::new();
    for request in receiver.requests("/x") {
        let id = request.json()["n"].to_string();
        seen.entry(id).or_default().insert(request.id().to_owned());
    }
    seen.into_iter().map(|(id, deliveries)| (id, deliveries.len())).collect()
}

async fn all_once(receiver: &Receiver, count: usize) {
    eventually(&format!("{count} lines"), async || match deliveries(receiver).len() {
        n if n >= count => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    let twice: Vec<_> = deliveries(receiver).into_iter().filter(|(_, n)| *n > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

fn following(receiver: &Receiver, path: &Path) -> crate::support::sidehook::Builder {
    sidehook(receiver, &format!("{{type: file, path: {}}}", path.display()))
}

#[tokio::test]
async fn rotation_under_load_loses_nothing_and_takes_nothing_twice() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.ndjson");
    let mut sidehook = following(&receiver, &path).start().await;
    sidehook.logged("waiting for it").await;
    log_rotating(path, 1500, 400).await;
    all_once(&receiver, 1500).await;
    let status = sidehook.get("/api/v1/status").await.expect(200).json();
    assert_eq!(status["sources"][0]["type"], "file");
    sidehook.stop().await;
}

#[tokio::test]
async fn sigkill_while_following_loses_no_line() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.ndjson");
    let mut sidehook = following(&receiver, &path).start().await;
    let writing = tokio::spawn(log_rotating(path, 1500, 600));
    for n in 0..6 {
        tokio::time::sleep(Duration::from_millis(200 + 70 * n)).await;
        sidehook.kill().await;
        sidehook.start().await;
    }
    writing.await.unwrap();
    all_once(&receiver, 1500).await;
}

#[tokio::test]
async fn without_ids_each_line_is_one_event_over_an_orderly_restart() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.ndjson");
    let write = |range: std::ops::Range<usize>| {
        let text: String = range.map(|n| format!("{{\"type\":\"a.b\",\"n\":{n}}}\n")).collect();
        OpenOptions::new().create(true).append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
    };
    write(0..300);
    let mut sidehook = following(&receiver, &path).start().await;
    // In the middle of it, most likely.
    receiver.wait("/x", 1).await;
    sidehook.stop().await;
    write(300..400);
    sidehook.start().await;
    all_once(&receiver, 400).await;
}

#[tokio::test]
async fn bad_lines_are_told_with_their_place_and_left_behind() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.ndjson");
    std::fs::write(&path, format!("{}nonsense\n{}", line("1", json!({})), line("2", json!({})))).unwrap();
    let mut sidehook = following(&receiver, &path).start().await;
    receiver.wait("/x", 2).await;
    let told = sidehook.logged("at byte").await;
    assert!(told.contains(&format!("at byte {} of {}", line("1", json!({})).len(), path.display())), "{told}");
    assert!(sidehook.metric("sidehook_events_rejected_total", &["reason=\"malformed\"", "source=\"in\""]).await > 0.0);
    sidehook.stop().await;
    sidehook.start().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sidehook.log().iter().filter(|line| line.contains("at byte")).count(), 1, "it is not read again");
    assert_eq!(arrived(&receiver).len(), 2);
}

#[tokio::test]
async fn a_directory_or_a_pipe_is_a_failed_start() {
    let receiver = Receiver::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut sidehook: Sidehook = following(&receiver, dir.path()).prepare();
    sidehook.spawn();
    assert_eq!(sidehook.ended().await.code(), Some(1));
    let told = sidehook.log().pop().unwrap();
    let expected = format!("sidehook: sources.in: path: {} is a directory;", dir.path().display());
    assert!(told.starts_with(&expected), "{told}");
}
