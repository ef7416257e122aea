//! Ends that are inferred, by a clock that a test moves and streams that it opens and closes itself.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::{Clock, Entropy};
use crate::config;
use crate::event::Event;
use crate::outbox::{Filter, Options, Outbox, WhenFull};
use crate::source::{Sink as _, StreamId};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// Every lifecycle event goes to `all`, so that the store tells what was made.
const WEBHOOK: &str =
    "webhooks: {all: {url: https://x.example.com, events: [\"conversation.*\"], signing: {scheme: none}}}\n";

struct Rig {
    dir: tempfile::TempDir,
    clock: Clock,
    outbox: Outbox,
    ingest: Arc<Ingest>,
    watch: Watch,
    closed: CancellationToken,
    generations: watch::Sender<Arc<config::Generation>>,
}

fn options(max_bytes: u64) -> Options {
    Options {
        max_bytes,
        when_full: WhenFull::Reject,
        retain_delivered: HOUR,
        retain_dead: HOUR,
        retain_events: 100 * HOUR,
        retain_bodies: false,
        retain_conversations: HOUR,
        max_open_age: 24 * HOUR,
        encryption_keys: Vec::new(),
    }
}

fn generation(dir: &std::path::Path, yaml: &str, clock: &Clock) -> config::Generation {
    std::fs::write(dir.join("sidehook.yaml"), format!("outbox: {{retain: {{events: 1h}}}}\n{WEBHOOK}{yaml}"))
        .expect("written");
    config::load(dir, &|_| None, clock).unwrap_or_else(|report| panic!("{}", report.render(false)))
}

impl Rig {
    async fn new(yaml: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        Self::at(dir, clock, yaml).await
    }

    async fn at(dir: tempfile::TempDir, clock: Clock, yaml: &str) -> Self {
        let generation = generation(dir.path(), yaml, &clock);
        let outbox = Outbox::open(&dir.path().join("data"), options(1 << 30), clock.clone()).expect("an outbox");
        let (generations, receiver) = watch::channel(Arc::new(generation));
        let closed = CancellationToken::new();
        let entropy = Entropy::system();
        let ingest = Arc::new(Ingest::new(outbox.clone(), receiver, clock.clone(), entropy, closed.clone()));
        ingest.prepare().await.expect("prepared");
        let watch = Watch::new(clock.now());
        Self { dir, clock, outbox, ingest, watch, closed, generations }
    }

    /// The same after a restart that took `down`.
    async fn restart(self, down: Duration, yaml: &str) -> Self {
        let Self { dir, clock, outbox, .. } = self;
        outbox.close().await;
        clock.advance(down);
        Self::at(dir, clock, yaml).await
    }

    async fn send(&self, source: &str, stream: Option<StreamId>, body: &str) {
        let item = Incoming::read(&Json::parse(body.to_owned()).expect("JSON")).expect("an event");
        let items = Items {
            source: source.into(),
            namespace: "".into(),
            items: vec![item],
            traceparent: None,
            stream,
            offset: None,
        };
        self.ingest.accept(items).await.expect("accepted");
    }

    async fn heard(&self, source: &str, stream: Option<StreamId>, kind: &str, conversation: &str) {
        let message = if kind.starts_with("message.") { r#","message":{"role":"user","message":"hi"}"# } else { "" };
        let body = format!(r#"{{"type":"{kind}","conversation":{{"id":"{conversation}"}}{message}}}"#);
        self.send(source, stream, &body).await;
    }

    async fn look(&mut self) -> Option<Timestamp> {
        self.ingest.look_for_ends(&mut self.watch).await.expect("a look")
    }

    async fn over(&self, source: &str, stream: StreamId, reason: EndReason) {
        self.ingest.ended(StreamEnd { source: source.into(), stream, reason }).await;
    }

    /// What was made of conversations that failed, by conversation: the whole events.
    async fn failed(&self) -> Vec<Event> {
        let kept = self.outbox.recent_events(1000).await.expect("a look");
        let mut all: Vec<Event> = kept.into_iter().filter_map(Event::from_stored).collect();
        all.retain(|event| &*event.kind == "conversation.failed");
        all.sort_by(|a, b| a.conversation.cmp(&b.conversation));
        all
    }

    /// Conversation and reason of each.
    async fn reasons(&self) -> Vec<(String, String)> {
        let text = |json: Option<Json>| json.and_then(|v| v.as_str().map(std::borrow::Cow::into_owned));
        let failed = self.failed().await;
        failed
            .iter()
            .map(|e| {
                (e.conversation.as_deref().unwrap_or("").to_owned(), text(e.root.get("reason")).unwrap_or_default())
            })
            .collect()
    }

    async fn open(&self) -> u64 {
        self.outbox.gauges().await.expect("figures").conversations_open
    }
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

const MEMORY: &str = "conversations: {state: memory}\n";

#[tokio::test]
async fn a_stream_that_ends_fails_what_it_left_open_and_nothing_else() {
    for yaml in ["", MEMORY] {
        let rig = Rig::new(yaml).await;
        let (one, two) = (rig.ingest.open_stream(), rig.ingest.open_stream());
        let (one_, two_) = (Some(one), Some(two));
        rig.send(
            "bot",
            one_,
            r#"{"type":"conversation.begin","conversation":{"id":"open"},"argument":{"caller":"+31"}}"#,
        )
        .await;
        rig.heard("bot", one_, "message.received", "open").await;
        rig.heard("bot", one_, "conversation.begin", "done").await;
        rig.heard("bot", one_, "conversation.completed", "done").await;
        rig.heard("bot", one_, "conversation.begin", "moved").await;
        rig.heard("bot", two_, "message.received", "moved").await;
        // An update by the way moves nothing, nor does what comes without a stream.
        rig.heard("bot", one_, "conversation.begin", "updated").await;
        rig.heard("bot", two_, "conversation.update", "updated").await;
        rig.heard("events", None, "message.received", "updated").await;
        rig.heard("events", None, "conversation.begin", "elsewhere").await;
        // Nothing but late analysis: it ended long ago, and nobody knows.
        rig.heard("bot", one_, "conversation.update", "late").await;
        rig.over("bot", one, EndReason::Disconnected).await;
        assert_eq!(rig.reasons().await, pairs(&[("open", "disconnected"), ("updated", "disconnected")]), "{yaml}");
        rig.over("bot", one, EndReason::Disconnected).await;
        assert_eq!(rig.failed().await.len(), 2, "an end is told once");
        let event = rig.failed().await.remove(0);
        assert_eq!(event.messages().len(), 1, "it sees everything that came before it");
        assert_eq!(event.map("argument").to_bytes(), r#"{"caller":"+31"}"#);
        rig.over("bot", two, EndReason::Disconnected).await;
        assert_eq!(rig.reasons().await[0], ("moved".to_owned(), "disconnected".to_owned()), "{yaml}");
        let ledger = rig.outbox.ledger().await.expect("the ledger");
        assert!(ledger.balanced, "{ledger:?}");
    }
}

#[tokio::test]
async fn a_process_that_ends_tells_its_code_or_signal() {
    let rig = Rig::new("").await;
    for (id, code, signal) in [("a", Some(3), None), ("b", None, Some(9))] {
        let stream = rig.ingest.open_stream();
        rig.heard("bot", Some(stream), "conversation.begin", id).await;
        rig.over("bot", stream, EndReason::ProcessExited { code, signal }).await;
    }
    let failed = rig.failed().await;
    let member = |at: usize, name: &str| failed[at].root.get(name).map(|v| v.to_bytes());
    assert_eq!(member(0, "exit_code").as_deref(), Some(&b"3"[..]));
    assert_eq!(member(0, "signal"), None);
    assert_eq!(member(1, "signal").as_deref(), Some(&b"9"[..]));
    assert_eq!(member(1, "reason").as_deref(), Some(&br#""process_exited""#[..]));
}

#[tokio::test]
async fn infer_failure_turns_it_off_for_a_source() {
    let yaml = "sources:\n  quiet: {type: http, listen: 127.0.0.1:0, infer_failure: false}\nconversations: {idle_timeout: 60s}\n";
    let mut rig = Rig::new(yaml).await;
    let stream = rig.ingest.open_stream();
    rig.heard("quiet", Some(stream), "conversation.begin", "a").await;
    rig.over("quiet", stream, EndReason::Disconnected).await;
    rig.clock.advance(HOUR);
    rig.look().await;
    let mut rig = rig.restart(SECOND, yaml).await;
    rig.look().await;
    rig.clock.advance(HOUR);
    rig.look().await;
    assert_eq!(rig.failed().await.len(), 0);
    assert_eq!(rig.open().await, 1);
    // By the generation in force then.
    let now_told = generation(rig.dir.path(), &yaml.replace(", infer_failure: false", ""), &rig.clock);
    rig.generations.send_replace(Arc::new(now_told));
    rig.clock.advance(HOUR);
    rig.look().await;
    assert_eq!(rig.reasons().await, pairs(&[("a", "idle_timeout")]));
}

#[tokio::test]
async fn what_a_run_left_open_fails_after_the_next_start_unless_it_is_heard_of_again() {
    let rig = Rig::new("").await;
    let old = Some(rig.ingest.open_stream());
    for id in ["again", "gone", "updated", "resumed", "posted", "ended"] {
        rig.heard("bot", old, "conversation.begin", id).await;
    }
    rig.heard("bot", old, "conversation.failed", "ended").await;
    // Begun by a stream and carried on without one after an end: it has no stream any more.
    rig.heard("bot", old, "conversation.completed", "resumed").await;
    rig.heard("events", None, "conversation.resume", "resumed").await;
    let before = rig.failed().await.len();
    let mut rig = rig.restart(HOUR, "").await;
    let until = rig.clock.now().plus(limits::HEARD_AGAIN);
    assert_eq!(rig.look().await, Some(until));
    assert_eq!(rig.failed().await.len(), before, "they may come back");
    let new = Some(rig.ingest.open_stream());
    assert!(new.map(|s| s.0) > old.map(|s| s.0));
    rig.heard("bot", new, "message.received", "again").await;
    rig.heard("bot", new, "conversation.update", "updated").await;
    rig.heard("events", None, "message.received", "posted").await;
    rig.clock.advance(limits::HEARD_AGAIN);
    assert_eq!(rig.look().await, None, "and that is all");
    let failed: Vec<_> = rig.reasons().await.into_iter().filter(|(id, _)| id != "ended").collect();
    assert_eq!(failed, pairs(&[("gone", "disconnected"), ("posted", "disconnected")]));
}

#[tokio::test]
async fn what_a_process_left_open_fails_at_the_next_start() {
    let rig = Rig::new("").await;
    let stream = Some(rig.ingest.open_stream());
    rig.heard("child", stream, "conversation.begin", "a").await;
    rig.heard("input", stream, "conversation.begin", "b").await;
    rig.heard("gone", stream, "conversation.begin", "c").await;
    let Rig { dir, clock, outbox, .. } = rig;
    outbox.close().await;
    let mut rig = Rig::at(dir, clock, "").await;
    // As the decoder makes them where these types are available.
    let mut with = generation(rig.dir.path(), "", &rig.clock);
    let source =
        |kind| config::model::Source { kind, namespace: "".into(), infer_failure: true, adapter: None, verify: None };
    let exec = config::model::Exec {
        command: vec!["bot".to_owned()],
        env: Vec::new(),
        cwd: None,
        on_overflow: config::model::Overflow::Drop,
    };
    with.settings.sources.insert("child".to_owned(), source(SourceKind::Exec(exec)));
    with.settings.sources.insert("input".to_owned(), source(SourceKind::Stdin));
    rig.generations.send_replace(Arc::new(with));
    rig.look().await;
    assert_eq!(rig.reasons().await, pairs(&[("a", "process_exited"), ("b", "disconnected")]));
    rig.clock.advance(limits::HEARD_AGAIN);
    rig.look().await;
    assert_eq!(rig.failed().await.len(), 3, "a source that is gone has its while, and no longer");
}

#[tokio::test]
async fn a_conversation_that_falls_silent_fails_when_it_is_due() {
    for state in ["durable", "memory"] {
        let mut rig = Rig::new(&format!("conversations: {{state: {state}, idle_timeout: 5m}}\n")).await;
        let five = Duration::from_secs(300);
        rig.clock.advance(limits::HEARD_AGAIN);
        assert_eq!(rig.look().await, Some(rig.clock.now().plus(five)), "nothing is open");
        rig.heard("events", None, "conversation.begin", "silent").await;
        rig.heard("events", None, "conversation.begin", "busy").await;
        rig.heard("events", None, "conversation.begin", "other").await;
        rig.heard("events", None, "conversation.begin", "done").await;
        rig.heard("events", None, "conversation.completed", "done").await;
        rig.heard("events", None, "conversation.update", "late").await;
        let opened = rig.clock.now();
        rig.clock.advance(200 * SECOND);
        rig.heard("events", None, "conversation.update", "busy").await;
        // An event of no known meaning shows life too.
        rig.heard("events", None, "tool.called", "other").await;
        rig.clock.advance(99 * SECOND);
        rig.look().await;
        assert_eq!(rig.failed().await.len(), 0, "{state}");
        rig.clock.advance(SECOND);
        let next = rig.look().await.expect("more is due");
        assert_eq!(rig.reasons().await, pairs(&[("silent", "idle_timeout")]), "{state}");
        assert_eq!(next, opened.plus(500 * SECOND), "the next one is due when the busy one was last heard of");
        rig.clock.advance(200 * SECOND);
        rig.look().await;
        let all = pairs(&[("busy", "idle_timeout"), ("other", "idle_timeout"), ("silent", "idle_timeout")]);
        assert_eq!(rig.reasons().await, all, "{state}");
        // Late analysis still counts, and an end is not told again.
        rig.send(
            "events",
            None,
            r#"{"type":"conversation.update","conversation":{"id":"silent"},"analysis":{"mood":1}}"#,
        )
        .await;
        rig.clock.advance(HOUR / 2);
        rig.look().await;
        assert_eq!(rig.failed().await.len(), 3);
        // A conversation that goes on is open again, and may fail again.
        rig.heard("events", None, "conversation.resume", "busy").await;
        rig.clock.advance(five);
        rig.look().await;
        assert_eq!(rig.failed().await.len(), 4, "{state}");
    }
}

#[tokio::test]
async fn time_that_sidehook_was_down_ends_nothing_at_once() {
    let yaml = "conversations: {idle_timeout: 5m}\n";
    let rig = Rig::new(yaml).await;
    rig.heard("events", None, "conversation.begin", "a").await;
    rig.heard("events", None, "conversation.begin", "b").await;
    let mut rig = rig.restart(HOUR, yaml).await;
    let earliest = rig.clock.now().plus(limits::HEARD_AGAIN);
    assert_eq!(rig.look().await, Some(earliest));
    rig.clock.advance(limits::HEARD_AGAIN.saturating_sub(SECOND));
    rig.heard("events", None, "message.received", "b").await;
    rig.look().await;
    assert_eq!(rig.failed().await.len(), 0);
    rig.clock.advance(SECOND);
    rig.look().await;
    assert_eq!(rig.reasons().await, pairs(&[("a", "idle_timeout")]));
    // The same where the outbox took nothing for a while.
    rig.clock.advance(HOUR);
    rig.watch.hears_again(rig.clock.now());
    rig.look().await;
    assert_eq!(rig.failed().await.len(), 1);
    rig.clock.advance(limits::HEARD_AGAIN);
    rig.look().await;
    assert_eq!(rig.failed().await.len(), 2);
}

#[tokio::test]
async fn an_idle_timeout_that_a_reload_brings_counts_at_once_and_one_that_it_takes_does_not() {
    let mut rig = Rig::new("").await;
    rig.heard("events", None, "conversation.begin", "a").await;
    rig.clock.advance(HOUR);
    assert_eq!(rig.look().await, None);
    let with = generation(rig.dir.path(), "conversations: {idle_timeout: 2h}\n", &rig.clock);
    rig.generations.send_replace(Arc::new(with));
    assert_eq!(rig.look().await, Some(rig.clock.now().plus(HOUR)));
    let with = generation(rig.dir.path(), "conversations: {idle_timeout: 1m}\n", &rig.clock);
    rig.generations.send_replace(Arc::new(with));
    rig.look().await;
    assert_eq!(rig.reasons().await, pairs(&[("a", "idle_timeout")]));
}

#[tokio::test]
async fn an_end_waits_for_an_outbox_that_takes_nothing_and_is_told_after_the_next_start() {
    let rig = Rig::new("").await;
    let stream = rig.ingest.open_stream();
    rig.heard("bot", Some(stream), "conversation.begin", "a").await;
    rig.outbox.set_options(options(1));
    let ingest = Arc::clone(&rig.ingest);
    let end = StreamEnd { source: "bot".into(), stream, reason: EndReason::Disconnected };
    let told = tokio::spawn(async move { ingest.ended(end).await });
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert!(!told.is_finished() && rig.failed().await.is_empty(), "it is tried until it is stored");
    rig.outbox.set_options(options(1 << 30));
    told.await.expect("told");
    assert_eq!(rig.failed().await.len(), 1);

    let stream = rig.ingest.open_stream();
    rig.heard("bot", Some(stream), "conversation.begin", "b").await;
    rig.outbox.set_options(options(1));
    let ingest = Arc::clone(&rig.ingest);
    let end = StreamEnd { source: "bot".into(), stream, reason: EndReason::Disconnected };
    let told = tokio::spawn(async move { ingest.ended(end).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    rig.closed.cancel();
    told.await.expect("intake is over");
    assert_eq!(rig.failed().await.len(), 1);
    let mut rig = rig.restart(SECOND, "").await;
    rig.look().await;
    rig.clock.advance(limits::HEARD_AGAIN);
    rig.look().await;
    assert_eq!(rig.reasons().await, pairs(&[("a", "disconnected"), ("b", "disconnected")]));
}

#[tokio::test]
async fn many_open_conversations_are_ended_page_by_page() {
    let yaml = "conversations: {idle_timeout: 5m}\n";
    let mut rig = Rig::new(yaml).await;
    let stream = rig.ingest.open_stream();
    let many = limits::OPEN_PAGE * 2 + 10;
    let items: Vec<_> = (0..many)
        .map(|n| format!(r#"{{"type":"conversation.begin","conversation":{{"id":"c{n}"}}}}"#))
        .map(|text| Incoming::read(&Json::parse(text).expect("JSON")).expect("an event"))
        .collect();
    for (part, stream) in items.chunks(many / 2).zip([Some(stream), None, None]) {
        let (source, namespace) = ("bot".into(), "".into());
        let items = Items { source, namespace, items: part.to_vec(), traceparent: None, stream, offset: None };
        rig.ingest.accept(items).await.expect("accepted");
    }
    rig.over("bot", stream, EndReason::Disconnected).await;
    assert_eq!(rig.failed().await.len(), many / 2);
    rig.clock.advance(HOUR);
    rig.look().await;
    assert_eq!(rig.failed().await.len(), many);
    assert_eq!(rig.open().await, 0);
    let page = rig.outbox.list(&Filter::default(), None, 1).await.expect("a page");
    assert_eq!(page.items.len(), 1);
}
