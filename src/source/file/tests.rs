//! Files that grow, are moved, cut and replaced, to a sink that keeps what it got.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::source::probe::Probe;

struct Rig {
    dir: tempfile::TempDir,
    path: PathBuf,
    sink: Arc<Probe>,
    running: Option<(tokio::task::JoinHandle<()>, CancellationToken)>,
    wanted: Vec<String>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.ndjson");
        Self { dir, path, sink: Arc::default(), running: None, wanted: Vec::new() }
    }

    fn start(&mut self) {
        let stop = CancellationToken::new();
        let feed = Feed::new("log".into(), Arc::clone(&self.sink), stop.clone());
        self.running = Some((spawn(feed, self.path.clone()), stop));
    }

    /// Ends the source and hands what it stored to the next one.
    async fn stop(&mut self) {
        let (task, stop) = self.running.take().unwrap();
        stop.cancel();
        task.await.unwrap();
        let (offset, got) = (self.sink.offset().or_else(|| self.sink.stored.clone()), self.sink.ids());
        self.sink =
            Arc::new(Probe { stored: offset, earlier: [self.sink.earlier.clone(), got].concat(), ..Probe::default() });
    }

    fn write(&mut self, name: &str, ids: std::ops::Range<usize>) {
        let path = self.dir.path().join(name);
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        for id in ids {
            self.wanted.push(id.to_string());
            file.write_all(format!("{{\"id\":\"{id}\",\"type\":\"a.b\"}}\n").as_bytes()).unwrap();
        }
    }

    fn append(&self, text: &str) {
        OpenOptions::new().create(true).append(true).open(&self.path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.dir.path().join(from), self.dir.path().join(to)).unwrap();
    }

    fn got(&self) -> Vec<String> {
        [self.sink.earlier.clone(), self.sink.ids()].concat()
    }

    /// Waits until all that was written was taken, once and in order.
    #[track_caller]
    fn settled(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            for _ in 0..1000 {
                if self.got().len() >= self.wanted.len() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(self.got(), self.wanted, "{caller}");
        }
    }
}

#[tokio::test]
async fn a_file_is_read_from_its_beginning_and_a_torn_line_waits() {
    let mut rig = Rig::new();
    rig.start();
    tokio::time::sleep(Duration::from_millis(50)).await;
    rig.write("events.ndjson", 0..200);
    rig.settled().await;
    rig.append("{\"id\":\"torn\",");
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.settled().await;
    rig.append("\"type\":\"a.b\"}\n");
    rig.wanted.push("torn".to_owned());
    rig.settled().await;
    // Bad lines are left behind for good, blank ones too.
    rig.append(&format!("nonsense\n\n{{\"type\":\"message.sent\"}}\n\"{}\"\n", "x".repeat(5000)));
    rig.write("events.ndjson", 200..201);
    rig.settled().await;
    rig.append("nonsense again\n");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let size = std::fs::metadata(&rig.path).unwrap().len();
    let offset: Offset = serde_json::from_str(&rig.sink.offset().unwrap()).unwrap();
    assert_eq!(serde_json::to_value(&offset).unwrap()["at"], size, "the place of a bad line is stored as well");
    rig.stop().await;
    rig.start();
    rig.write("events.ndjson", 201..202);
    rig.settled().await;
}

#[tokio::test]
async fn rotation_and_truncation_lose_nothing() {
    let mut rig = Rig::new();
    rig.write("events.ndjson", 0..10);
    rig.start();
    rig.settled().await;
    // Renamed, written to once more, and only then made anew.
    rig.rename("events.ndjson", "events.ndjson.1");
    rig.write("events.ndjson.1", 10..12);
    rig.write("events.ndjson", 12..20);
    rig.settled().await;
    // Copied and cut.
    std::fs::copy(&rig.path, rig.dir.path().join("events.ndjson.0")).unwrap();
    OpenOptions::new().write(true).open(&rig.path).unwrap().set_len(0).unwrap();
    rig.write("events.ndjson", 20..22);
    rig.settled().await;
    // Cut, and longer than before at the next look.
    std::fs::write(&rig.path, "").unwrap();
    rig.write("events.ndjson", 22..60);
    rig.settled().await;
    // Replaced by another one at once.
    rig.write("new", 60..65);
    rig.rename("new", "events.ndjson");
    rig.settled().await;
}

#[tokio::test]
async fn a_link_that_leads_elsewhere_is_a_rotation() {
    let mut rig = Rig::new();
    rig.write("a", 0..3);
    std::os::unix::fs::symlink("a", &rig.path).unwrap();
    rig.start();
    rig.settled().await;
    rig.write("a", 3..4);
    rig.write("b", 4..6);
    std::os::unix::fs::symlink("b", rig.dir.path().join("link")).unwrap();
    rig.rename("link", "events.ndjson");
    rig.settled().await;
    rig.stop().await;
    // While nobody looks as well.
    rig.write("b", 6..8);
    rig.write("c", 8..9);
    std::os::unix::fs::symlink("c", rig.dir.path().join("link")).unwrap();
    rig.rename("link", "events.ndjson");
    rig.start();
    rig.settled().await;
}

#[tokio::test]
async fn whatever_happens_while_sidehook_is_down_is_made_up_for() {
    let mut rig = Rig::new();
    rig.write("events.ndjson", 0..10);
    rig.start();
    rig.settled().await;
    rig.stop().await;

    rig.write("events.ndjson", 10..20);
    rig.start();
    rig.settled().await;
    rig.stop().await;

    // Rotated twice: one file was never seen at its place.
    rig.write("events.ndjson", 20..25);
    rig.rename("events.ndjson", "events.ndjson.1");
    tokio::time::sleep(Duration::from_millis(20)).await;
    rig.write("events.ndjson", 25..30);
    rig.rename("events.ndjson.1", "events.ndjson.2");
    rig.rename("events.ndjson", "events.ndjson.1");
    tokio::time::sleep(Duration::from_millis(20)).await;
    rig.write("events.ndjson", 30..35);
    rig.start();
    rig.settled().await;
    rig.stop().await;

    // Copied and cut: the rest is in the copy.
    rig.write("events.ndjson", 35..40);
    std::fs::copy(&rig.path, rig.dir.path().join("events.ndjson-20260103")).unwrap();
    std::fs::write(&rig.path, "").unwrap();
    rig.write("events.ndjson", 40..41);
    rig.start();
    rig.settled().await;
    rig.stop().await;

    // Gone altogether, with nothing unread.
    std::fs::remove_file(&rig.path).unwrap();
    rig.write("events.ndjson", 41..45);
    rig.start();
    rig.settled().await;
}

#[tokio::test]
async fn what_is_no_regular_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let socket = dir.path().join("socket");
    let listener = crate::net::bind(&crate::config::model::Listen::Unix(socket.clone())).await.unwrap();
    for (path, expected) in [
        (dir.path().to_owned(), "is a directory; name the file in it that the assistant writes to"),
        (fifo, "is a named pipe, not a regular file; use `type: stdin`"),
        (socket, "is a socket, not a regular file; use `type: unix`"),
        (PathBuf::from("/dev/null"), "is a device, not a regular file"),
    ] {
        let told = check(&path).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }
    drop(listener);
    assert!(check(&dir.path().join("not there yet")).is_ok());
}
