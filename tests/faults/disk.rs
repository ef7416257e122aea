//! A disk that fails, writes only part, or is full.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{PATIENT, Sent, record, record_clean, sender, settled, verified};
use crate::support::random::Random;
use crate::support::{Receiver, Sidehook, eventually};

/// Senders that go on through whatever happens.
struct Load {
    sent: Arc<Sent>,
    stop: CancellationToken,
    senders: JoinSet<()>,
}

impl Load {
    fn on(sidehook: &Sidehook) -> Self {
        let (sent, stop) = (Arc::new(Sent::default()), CancellationToken::new());
        let mut senders = JoinSet::new();
        for _ in 0..3 {
            senders.spawn(sender(sidehook.ingest.clone(), Arc::clone(&sent), stop.clone()));
        }
        Self { sent, stop, senders }
    }

    /// Waits until another event was refused.
    async fn refused(&self) {
        let before = self.sent.refused();
        eventually("a refusal", async || if self.sent.refused() > before { Ok(()) } else { Err("none".to_owned()) })
            .await;
    }

    /// Waits until another event was acknowledged.
    async fn acknowledged(&self) {
        let before = self.sent.acknowledged().len();
        eventually("an acknowledgement", async || {
            if self.sent.acknowledged().len() > before + 3 { Ok(()) } else { Err("none".to_owned()) }
        })
        .await;
    }

    async fn end(mut self) -> Arc<Sent> {
        self.stop.cancel();
        while let Some(sender) = self.senders.join_next().await {
            sender.unwrap();
        }
        self.sent
    }
}

fn failures(sidehook: &Sidehook) -> u64 {
    let log = sidehook.log();
    log.iter().filter(|l| l.contains("the outbox failed and is being opened again")).count() as u64
}

/// Under strace, which fails these calls of the store.
async fn injected(place: u32, name: &str, fault: &str) {
    const ROUNDS: u64 = 20;
    let receiver = Receiver::start().await;
    let call = fault.split(':').next().unwrap_or_default();
    let (set, fault) = (format!("trace={call}"), format!("inject={fault}"));
    let mut sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", PATIENT)).prepare();
    let trace = sidehook.path("trace");
    sidehook.wrap(&["strace", "-f", "-o", trace.to_str().unwrap(), "-e", &set, "-e", &fault]);
    sidehook.start().await;
    let load = Load::on(&sidehook);
    eventually("failures of the store", async || match failures(&sidehook) {
        n if n >= ROUNDS => Ok(()),
        n => Err(format!("{n}, {} acknowledged", load.sent.acknowledged().len())),
    })
    .await;
    load.acknowledged().await;
    let events = load.end().await;
    let tally = settled(&sidehook, "x", &receiver, "/x", &events).await;
    let rounds = failures(&sidehook);
    // strace passes the signal on and ends with it: not an orderly end to the eyes of a parent.
    sidehook.kill().await;
    sidehook.wrap(&[]);
    sidehook.start().await;
    verified(&mut sidehook).await;
    record_clean(place, name, rounds, &tally);
}

#[tokio::test]
async fn strace_fails_writes_for_lack_of_space() {
    injected(8, "writes fail with ENOSPC", "pwrite64:error=ENOSPC:when=200..40000+499").await;
}

#[tokio::test]
async fn strace_fails_writes() {
    injected(9, "writes fail with EIO", "pwrite64:error=EIO:when=200..40000+499").await;
}

#[tokio::test]
async fn strace_fails_syncs() {
    injected(10, "syncs fail with EIO", "fdatasync:error=EIO:when=40..2000+17").await;
}

/// The limit on the size of files cuts a write short in its middle and fails the next: the kernel's own short write, at
/// any byte. Nothing that strace could answer would be one, since it cannot write a part.
#[tokio::test]
async fn writes_are_cut_short() {
    const ROUNDS: u64 = 20;
    let mut random = Random::from_env("SIDEHOOK_FAULT_SEED");
    let receiver = Receiver::start().await;
    let words = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    let mut sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", PATIENT)).wrapper(&words).start().await;
    let pid = Pid::from_raw(i32::try_from(sidehook.pid()).unwrap());
    let limit = |bytes| {
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    };
    let load = Load::on(&sidehook);
    for _ in 0..ROUNDS {
        load.acknowledged().await;
        let log = std::fs::metadata(sidehook.config.join("data/outbox.db-wal")).map_or(0, |m| m.len());
        limit(Some(log + 1 + random.below(40_000)));
        load.refused().await;
        limit(None);
    }
    load.acknowledged().await;
    let events = load.end().await;
    let tally = settled(&sidehook, "x", &receiver, "/x", &events).await;
    assert!(failures(&sidehook) >= ROUNDS, "{} failures", failures(&sidehook));
    verified(&mut sidehook).await;
    record_clean(11, "writes cut short at any byte, then failing (RLIMIT_FSIZE)", ROUNDS, &tally);
}

/// Takes all the space that is left of a file system.
fn fill(ballast: &str) {
    let file = std::fs::File::create(ballast).unwrap();
    let block = vec![0; 64 * 1024];
    let mut at = 0;
    while file.write_all_at(&block, at).is_ok() {
        at += block.len() as u64;
    }
}

/// A file system of its own, which only those see who enter it; it outlives each of them.
struct Volume(std::process::Child);

impl Volume {
    fn at(dir: &std::path::Path) -> Self {
        std::fs::create_dir(dir).unwrap();
        let mount = "mount -t tmpfs -o size=32m,mode=700 none \"$0\" && touch \"$0/mounted\" && exec sleep 600";
        let namespace = if rustix::process::getuid().is_root() { "-m" } else { "-rm" };
        let held = std::process::Command::new("unshare")
            .args([namespace, "sh", "-c", mount, dir.to_str().unwrap()])
            .spawn()
            .expect("unshare, of util-linux");
        Self(held)
    }

    /// Words that run a command inside.
    fn enter(&self) -> Vec<String> {
        let pid = self.0.id().to_string();
        let mut words: Vec<String> = ["nsenter", "-t", &pid, "-m"].map(str::to_owned).to_vec();
        if !rustix::process::getuid().is_root() {
            words.extend(["-U".to_owned(), "--preserve-credentials".to_owned()]);
        }
        words
    }

    /// The path by which those outside see a path inside.
    fn seen(&self, path: &std::path::Path) -> String {
        format!("/proc/{}/root{}", self.0.id(), path.display())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn killed_while_the_disk_is_full_and_started_onto_it() {
    const ROUNDS: u64 = 12;
    let receiver = Receiver::start().await;
    let mut sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", PATIENT)).prepare();
    let data = sidehook.config.join("data");
    let volume = Volume::at(&data);
    let mounted = volume.seen(&data.join("mounted"));
    eventually("the volume", async || {
        if std::path::Path::new(&mounted).exists() { Ok(()) } else { Err("not mounted".to_owned()) }
    })
    .await;
    let words = volume.enter();
    sidehook.wrap(&words.iter().map(String::as_str).collect::<Vec<_>>());
    sidehook.start().await;
    let ballast = volume.seen(&data.join("ballast"));
    let sent = Arc::new(Sent::default());
    let (mut refused_starts, mut rounds) = (0, 0);
    while rounds < ROUNDS {
        let stop = CancellationToken::new();
        let mut senders = JoinSet::new();
        for _ in 0..3 {
            senders.spawn(sender(sidehook.ingest.clone(), Arc::clone(&sent), stop.clone()));
        }
        let load = Load { sent: Arc::clone(&sent), stop, senders };
        load.acknowledged().await;
        fill(&ballast);
        load.refused().await;
        sidehook.kill().await;
        drop(load.end().await);
        // Onto the full disk: either it serves, refusing events, or it says why it does not.
        let heard = sidehook.log().len();
        sidehook.spawn();
        eventually("a start or its refusal", async || {
            let said = sidehook.log().split_off(heard).iter().any(|line| line.contains("sidehook is ready"));
            if said || !sidehook.runs() { Ok(()) } else { Err("neither".to_owned()) }
        })
        .await;
        if sidehook.runs() {
            sidehook.kill().await;
        } else {
            assert_eq!(sidehook.ended().await.code(), Some(1));
            let log = sidehook.log().split_off(heard).join("\n");
            assert!(log.contains("outbox.db") && log.contains("free space on its volume"), "{log}");
            refused_starts += 1;
        }
        std::fs::remove_file(&ballast).unwrap();
        sidehook.start().await;
        rounds += 1;
    }
    let tally = settled(&sidehook, "x", &receiver, "/x", &sent).await;
    sidehook.stop().await;
    let copy = sidehook.path("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(volume.seen(&data)).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    crate::support::cli(&["outbox", "verify", copy.to_str().unwrap()]).await.expect(0);
    assert_eq!(tally.lost, 0);
    println!("{refused_starts} of {rounds} starts onto the full disk were refused");
    record(13, "SIGKILL while the disk is full, then a start onto the full disk", rounds, &tally);
}

#[tokio::test]
async fn the_disk_is_full() {
    const ROUNDS: u64 = 12;
    let receiver = Receiver::start().await;
    let mut sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", PATIENT)).prepare();
    let data = sidehook.config.join("data");
    std::fs::create_dir(&data).unwrap();
    // A file system of its own, which only this process and what it starts sees.
    let mount = "mount -t tmpfs -o size=32m,mode=700 none \"$0\" && exec \"$@\"";
    let namespace = if rustix::process::getuid().is_root() { "-m" } else { "-rm" };
    sidehook.wrap(&["unshare", namespace, "sh", "-c", mount, data.to_str().unwrap()]);
    sidehook.start().await;
    let inside = format!("/proc/{}/root{}/ballast", sidehook.pid(), data.display());
    let load = Load::on(&sidehook);
    for _ in 0..ROUNDS {
        load.acknowledged().await;
        fill(&inside);
        load.refused().await;
        // It stays full for a while: what comes back from destinations cannot be recorded either.
        tokio::time::sleep(Duration::from_millis(300)).await;
        std::fs::remove_file(&inside).unwrap();
    }
    load.acknowledged().await;
    let events = load.end().await;
    let tally = settled(&sidehook, "x", &receiver, "/x", &events).await;
    assert!(failures(&sidehook) >= ROUNDS, "{} failures", failures(&sidehook));
    let copy = sidehook.path("copy");
    std::fs::create_dir(&copy).unwrap();
    let log = sidehook.log();
    assert!(log.iter().any(|line| line.contains("free space on its volume")), "the log says what to do");
    // The file system ends with the process; its store is checked while both are there.
    for file in std::fs::read_dir(format!("/proc/{}/root{}", sidehook.pid(), data.display())).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    sidehook.stop().await;
    crate::support::cli(&["outbox", "verify", copy.to_str().unwrap()]).await.expect(0);
    record_clean(12, "disk full (tmpfs), until space is made", ROUNDS, &tally);
}
