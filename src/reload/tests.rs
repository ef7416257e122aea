//! Reloads on real directories: edits, volume swaps, mistakes and their mending.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::config::model::Listen;

const LONG: Duration = Duration::from_secs(60);
const WEBHOOK: &str = "url: https://example.com/1\nevents: [conversation.completed]\nsigning: {scheme: none}\n";

struct Running {
    handle: ReloadHandle,
    generations: watch::Receiver<Arc<Generation>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn start(path: &Path, poll: Duration) -> Running {
    let env: Env = Arc::new(|_| None);
    let first = config::load(path, &*env, &Clock::System).expect("a good configuration");
    let (reloader, handle, generations) = Reloader::new(path.to_owned(), first, Clock::System);
    let pace = Pace { quiet: Duration::from_millis(20), delay: Duration::from_millis(200), poll };
    let stop = CancellationToken::new();
    let task = tokio::spawn(reloader.with_env(env).with_pace(pace).run(stop.clone()));
    Running { handle, generations, stop, task }
}

impl Running {
    /// Waits for a generation in which the webhook `crm` goes to `path`.
    async fn until_url(&mut self, path: &str) {
        let wanted = |g: &Arc<Generation>| g.webhooks.get("crm").is_some_and(|w| w.url.path() == path);
        timeout(LONG, self.generations.wait_for(wanted)).await.expect("in time").expect("still running");
    }

    /// Waits until the last reload has this result.
    async fn until_last(&self, result: ReloadResult) -> LastReload {
        let wait = async {
            loop {
                let last = self.handle.last();
                if last.result == result {
                    return last;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, wait).await.expect("in time")
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(LONG, self.task).await.expect("in time").expect("no panic");
    }
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
}

fn basic(dir: &Path) {
    write(dir, &[("sidehook.yaml", ""), ("webhooks/crm.yaml", WEBHOOK)]);
}

#[tokio::test]
async fn an_edit_is_noticed_and_swapped_in() {
    let dir = tempfile::tempdir().expect("a directory");
    basic(dir.path());
    let mut running = start(dir.path(), LONG);
    write(dir.path(), &[("webhooks/crm.yaml", &WEBHOOK.replace("/1", "/2"))]);
    running.until_url("/2").await;
    assert_eq!(running.handle.generation(), 2);
    assert_eq!(running.handle.reload().await.result, ReloadResult::Unchanged);
    assert_eq!(running.handle.generation(), 2);
    // A new file in the folder counts as well.
    write(dir.path(), &[("webhooks/other.yaml", WEBHOOK)]);
    let both = |g: &Arc<Generation>| g.webhooks.len() == 2;
    timeout(LONG, running.generations.wait_for(both)).await.expect("in time").expect("still running");
    running.end().await;
}

#[tokio::test]
async fn the_poll_finds_what_the_watch_missed() {
    let dir = tempfile::tempdir().expect("a directory");
    basic(dir.path());
    let env: Env = Arc::new(|_| None);
    let first = config::load(dir.path(), &*env, &Clock::System).expect("a good configuration");
    // Changed before anything is watched.
    write(dir.path(), &[("webhooks/crm.yaml", &WEBHOOK.replace("/1", "/2"))]);
    let (reloader, _handle, mut generations) = Reloader::new(dir.path().to_owned(), first, Clock::System);
    let pace = Pace { quiet: LONG, delay: LONG, poll: Duration::from_millis(10) };
    let stop = CancellationToken::new();
    let task = tokio::spawn(reloader.with_pace(pace).without_watches().run(stop.clone()));
    let wanted = |g: &Arc<Generation>| g.webhooks.get("crm").is_some_and(|w| w.url.path() == "/2");
    timeout(LONG, generations.wait_for(wanted)).await.expect("in time").expect("still running");
    stop.cancel();
    timeout(LONG, task).await.expect("in time").expect("no panic");
}

#[tokio::test]
async fn a_bad_one_is_refused_whole_and_the_next_good_one_recovers() {
    let dir = tempfile::tempdir().expect("a directory");
    basic(dir.path());
    let mut running = start(dir.path(), LONG);
    write(dir.path(), &[("webhooks/crm.yaml", "url: nonsense\n"), ("webhooks/new.yaml", WEBHOOK)]);
    let last = running.until_last(ReloadResult::Rejected).await;
    assert!(last.problems.iter().any(|p| p.file == "webhooks/crm.yaml" && p.line == 1), "{last:?}");
    assert_eq!(running.generations.borrow().webhooks.len(), 1, "nothing of a refused one is in force");
    assert_eq!(running.handle.reload().await.result, ReloadResult::Rejected, "asked again, it is refused again");
    write(dir.path(), &[("webhooks/crm.yaml", &WEBHOOK.replace("/1", "/3"))]);
    running.until_url("/3").await;
    assert_eq!(running.handle.last().result, ReloadResult::Accepted);
    assert!(running.handle.last().problems.is_empty());
    running.end().await;
}

#[tokio::test]
async fn going_back_to_what_is_in_force_clears_the_refusal() {
    let dir = tempfile::tempdir().expect("a directory");
    basic(dir.path());
    let running = start(dir.path(), LONG);
    write(dir.path(), &[("webhooks/crm.yaml", "url: nonsense\n")]);
    running.until_last(ReloadResult::Rejected).await;
    basic(dir.path());
    let last = running.until_last(ReloadResult::Unchanged).await;
    assert!(last.problems.is_empty());
    assert_eq!(running.handle.generation(), 1);
    running.end().await;
}

#[tokio::test]
async fn volume_swaps_are_followed_again_and_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    let swap = |n: u32| {
        let state = format!("..state{n}");
        let webhook = WEBHOOK.replace("/1", &format!("/{n}"));
        let text =
            format!("webhooks:\n  crm: {{url: https://example.com/{n}, events: [a.b], signing: {{scheme: none}}}}\n");
        assert!(!webhook.is_empty());
        write(root, &[(&format!("{state}/sidehook.yaml"), &text)]);
        symlink(&state, root.join("..data_tmp")).expect("a link");
        fs::rename(root.join("..data_tmp"), root.join("..data")).expect("a swap");
    };
    swap(1);
    symlink("..data/sidehook.yaml", root.join("sidehook.yaml")).expect("a link");
    let mut running = start(root, LONG);
    running.until_url("/1").await;
    for n in 2..=4 {
        swap(n);
        fs::remove_dir_all(root.join(format!("..state{}", n - 1))).expect("the old state goes");
        running.until_url(&format!("/{n}")).await;
    }
    assert_eq!(running.handle.generation(), 4);
    running.end().await;
}

#[tokio::test]
async fn secrets_and_scripts_count_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let secrets = tempfile::tempdir().expect("a directory");
    let secret = secrets.path().join("crm");
    fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").expect("a secret");
    let webhook = format!(
        "url: https://example.com/1\nevents: [a.b]\nrule: crm.rhai\nsigning: {{scheme: standard, secrets: [{{file: {}}}]}}\n",
        secret.display()
    );
    write(
        dir.path(),
        &[("sidehook.yaml", ""), ("webhooks/crm.yaml", &webhook), ("rules/crm.rhai", "fn accept(event) { true }\n")],
    );
    let mut running = start(dir.path(), LONG);
    fs::write(&secret, "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n").expect("a secret");
    let number = |running: &Running, n: u64| running.handle.generation() >= n;
    timeout(LONG, running.generations.changed()).await.expect("in time").expect("still running");
    assert!(number(&running, 2));
    write(dir.path(), &[("rules/crm.rhai", "fn accept(event) { false }\n")]);
    timeout(LONG, running.generations.changed()).await.expect("in time").expect("still running");
    assert!(number(&running, 3));
    write(dir.path(), &[("rules/crm.rhai", "fn accept(event) { \n")]);
    let last = running.until_last(ReloadResult::Rejected).await;
    assert_eq!(last.problems[0].file, "rules/crm.rhai");
    let before = running.handle.generation();
    fs::remove_file(&secret).expect("gone");
    let gone = async {
        while !running.handle.last().problems.iter().any(|p| p.message.contains("no such file")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, gone).await.expect("in time");
    assert_eq!(running.handle.generation(), before);
    running.end().await;
}

#[tokio::test]
async fn addresses_and_the_store_wait_for_a_restart_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    basic(dir.path());
    let mut running = start(dir.path(), LONG);
    let text = "admin: {listen: 127.0.0.1:9}\noutbox: {path: elsewhere, max_bytes: 2GiB}\n\
                sources: {events: {type: http, listen: 127.0.0.1:8}, more: {type: http, listen: 127.0.0.1:7}}\n";
    write(dir.path(), &[("sidehook.yaml", text)]);
    let applied = |g: &Arc<Generation>| g.settings.outbox.max_bytes == 2 << 30;
    timeout(LONG, running.generations.wait_for(applied)).await.expect("in time").expect("still running");
    let last = running.handle.last();
    assert_eq!(last.restart_required, ["outbox.path", "admin.listen", "sources.events.listen", "sources.more"]);
    let generation = Arc::clone(&running.generations.borrow());
    assert_eq!(generation.settings.admin.listen, Listen::Tcp(([127, 0, 0, 1], 7071).into()));
    assert_eq!(generation.settings.sources.len(), 1);
    assert!(generation.settings.outbox_path.ends_with("data"));
    running.end().await;
}

#[tokio::test]
async fn a_configuration_that_goes_away_leaves_the_old_one_in_force() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("conf");
    basic(&path);
    let mut running = start(&path, Duration::from_millis(50));
    fs::rename(&path, dir.path().join("aside")).expect("moved");
    running.until_last(ReloadResult::Rejected).await;
    assert_eq!(running.generations.borrow().webhooks.len(), 1);
    basic(&path);
    write(&path, &[("webhooks/crm.yaml", &WEBHOOK.replace("/1", "/5"))]);
    running.until_url("/5").await;
    running.end().await;
}
