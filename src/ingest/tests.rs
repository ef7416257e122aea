//! Copies of events that carry no id, by a clock that a test moves, and stored events that cannot be read.

use super::*;
use crate::config;
use crate::event::Json;
use crate::limits;
use crate::outbox::{Arrival, Batch, Decision, Filter, Options, Outbox, WhenFull};

const RAPIDA: &str = include_str!("../../tests/fixtures/rapida.completed.json");
const DAY: Duration = Duration::from_secs(24 * 3600);

fn options() -> Options {
    Options {
        max_bytes: 1 << 30,
        when_full: WhenFull::Reject,
        retain_delivered: DAY,
        retain_dead: DAY,
        retain_events: Duration::ZERO,
        retain_bodies: false,
        retain_conversations: DAY,
        max_open_age: DAY,
        encryption_keys: Vec::new(),
    }
}

struct Rig {
    _dir: tempfile::TempDir,
    clock: Clock,
    ingest: Ingest,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("sidehook.yaml"), "{}").expect("written");
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let generation = config::load(dir.path(), &|_| None, &clock).expect("a good configuration");
    let outbox = Outbox::open(&dir.path().join("data"), options(), clock.clone()).expect("an outbox");
    let (_, generations) = watch::channel(Arc::new(generation));
    let ingest = Ingest::new(outbox, generations, clock.clone(), Entropy::seeded(1), CancellationToken::new());
    Rig { _dir: dir, clock, ingest }
}

async fn sent(rig: &Rig, body: &str) -> Accepted {
    let item = Incoming::read(&Json::parse(body.to_owned()).expect("JSON")).expect("an event");
    let items = Items {
        source: "events".into(),
        namespace: "".into(),
        items: vec![item],
        traceparent: None,
        stream: None,
        offset: None,
    };
    rig.ingest.accept(items).await.expect("accepted")
}

#[tokio::test]
async fn the_same_bytes_without_an_id_are_one_event_for_a_minute() {
    let rig = rig();
    let first = sent(&rig, RAPIDA).await;
    assert_eq!((first.accepted, first.duplicates), (1, 0));
    rig.clock.advance(Duration::from_millis(59_999));
    let copy = sent(&rig, RAPIDA).await;
    assert_eq!((copy.accepted, copy.duplicates, &copy.ids), (0, 1, &first.ids), "the sender's retry");
    let other = sent(&rig, &RAPIDA.replace("a table", "two tables")).await;
    assert_eq!(other.accepted, 1, "other bytes are another event");
    rig.clock.advance(Duration::from_millis(1));
    let again = sent(&rig, RAPIDA).await;
    assert_eq!((again.accepted, again.duplicates), (1, 0), "the window is over, and a copy does not prolong it");
    assert_ne!(again.ids, first.ids);
}

#[tokio::test]
async fn an_id_is_remembered_for_the_whole_window() {
    let rig = rig();
    let event = r#"{"id":"e1","type":"a.b"}"#;
    sent(&rig, event).await;
    rig.clock.advance(Duration::from_millis(24 * 3600 * 1000 - 1));
    assert_eq!(sent(&rig, event).await.duplicates, 1);
    rig.clock.advance(Duration::from_millis(1));
    assert_eq!(sent(&rig, event).await.accepted, 1);
}

#[tokio::test]
async fn a_waiting_event_that_cannot_be_read_is_a_dead_letter() {
    let dir = tempfile::tempdir().expect("a directory");
    let yaml = "webhooks: {crm: {url: https://crm.example.com, events: [a.b], signing: {scheme: none}}}";
    std::fs::write(dir.path().join("sidehook.yaml"), yaml).expect("written");
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let generation = config::load(dir.path(), &|_| None, &clock).expect("a good configuration");
    let outbox = Outbox::open(&dir.path().join("data"), options(), clock.clone()).expect("an outbox");
    let (_keep, generations) = watch::channel(Arc::new(generation));
    let stop = CancellationToken::new();
    let ingest = Ingest::new(outbox.clone(), generations, clock.clone(), Entropy::seeded(1), stop.clone());
    let arrival = Arrival {
        namespace: "".into(),
        event_id: "e1".into(),
        event_type: "a.b".into(),
        conversation: None,
        arrived: clock.now(),
        traceparent: None,
        dedupe: None,
        change: None,
        decisions: vec![("crm".into(), Decision::Waiting { deadline: clock.now(), ordered: false })],
        // What the outbox hands out for a value that does not open.
        analyses: false,
        waiting_body: Some(bytes::Bytes::new()),
        kept_body: None,
    };
    outbox.commit(Batch { arrivals: vec![arrival], ..Batch::default() }).await.expect("a commit");
    let released = tokio::spawn(Arc::new(ingest).run_waits());
    let row = loop {
        let row = outbox.ledger().await.expect("the ledger").webhooks.remove(0);
        if row.waiting == 0 {
            break row;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((row.matched, row.rule_failed, row.dead), (1, 1, 1));
    let page = outbox.list(&Filter::default(), None, 10).await.expect("a page");
    assert_eq!(page.items[0].reason.as_deref(), Some("event_unreadable"));
    stop.cancel();
    released.await.expect("ended");
}

#[tokio::test]
async fn all_items_whose_id_is_taken_are_named() {
    let rig = rig();
    sent(&rig, r#"{"id":"D","type":"q.a"}"#).await;
    let refused = async |texts: Vec<String>| {
        let read = |text: &String| Incoming::read(&Json::parse(text.clone()).expect("JSON")).expect("an event");
        let items = texts.iter().map(read).collect();
        let items = Items {
            source: "events".into(),
            namespace: "".into(),
            items,
            traceparent: None,
            stream: None,
            offset: None,
        };
        match rig.ingest.accept(items).await {
            Err(Refusal::IdConflict { items, detail }) => (items, detail),
            other => panic!("{other:?}"),
        }
    };
    let event = |id: &str, kind: &str| format!(r#"{{"id":"{id}","type":"{kind}"}}"#);
    let (items, detail) =
        refused(vec![event("D", "q.z"), event("new", "q.a"), event("D", "q.y"), event("D", "q.a")]).await;
    assert_eq!(items, [0, 2]);
    assert!(detail.starts_with("item 0: the id \"D\" was") && detail.ends_with("(1 more item is like it)"), "{detail}");
    let (items, _) = refused(vec![event("n", "q.a"), event("n", "q.b"), event("n", "q.a"), event("n", "q.c")]).await;
    assert_eq!(items, [1, 3], "the first of a request is right");
    let (items, _) = refused((0..30).map(|i| event("D", &format!("q.{i}"))).collect()).await;
    assert_eq!(items.len(), limits::PROBLEM_ERRORS);
    assert_eq!(sent(&rig, &event("new", "q.b")).await.accepted, 1, "nothing of them was stored");
}
