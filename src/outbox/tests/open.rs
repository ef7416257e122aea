//! Conversations by age and by stream, events whose analyses are due, and a store of the version before.

use super::*;

fn heard(source: &str, stream: Option<i64>) -> Heard {
    Heard { lives: true, origin: Some(Origin { source: source.into(), stream }) }
}

fn begun(id: &str, stream: Option<i64>) -> Arrival {
    let change =
        ConversationChange { heard: Some(heard("bot", stream)), ended: Some(None), ..ConversationChange::default() };
    Arrival { change: Some(change), ..arrival(id, id) }
}

fn ids(page: &OpenPage) -> Vec<&str> {
    page.items.iter().map(|open| &*open.key.id).collect()
}

#[tokio::test]
async fn open_conversations_are_found_by_age_and_by_stream() {
    let rig = Rig::new();
    for (n, id) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let stream = i64::try_from(n).ok().filter(|n| *n > 0).map(|n| n * 10);
        rig.accept(vec![begun(id, stream)]).await;
        rig.clock.advance(Duration::from_millis(1));
    }
    let page = rig.outbox.open_conversations(None, 3).await.expect("a page");
    assert_eq!(ids(&page), ["a", "b", "c"]);
    let rest = rig.outbox.open_conversations(page.next, 3).await.expect("a page");
    assert_eq!((ids(&rest), rest.next), (vec!["d"], None));
    assert_eq!(page.items[0].origin, Some(Origin { source: "bot".into(), stream: None }));
    assert_eq!(rig.outbox.last_stream().await.expect("a look"), Some(30));
    let page = rig.outbox.open_conversations_of(10..30, None, 1).await.expect("a page");
    assert_eq!(ids(&page), ["b"]);
    let rest = rig.outbox.open_conversations_of(10..30, page.next, 9).await.expect("a page");
    assert_eq!((ids(&rest), rest.next), (vec!["c"], None));
    // One that ends is in no list any more; one that moves is in that of its stream.
    let end = ConversationChange { expected_revision: 1, ended: Some(Some(START)), ..ConversationChange::default() };
    let moved = ConversationChange {
        expected_revision: 1,
        heard: Some(heard("bot", Some(40))),
        ..ConversationChange::default()
    };
    rig.accept(vec![
        Arrival { change: Some(end), ..arrival("b2", "b") },
        Arrival { change: Some(moved), ..arrival("c2", "c") },
    ])
    .await;
    assert_eq!(ids(&rig.outbox.open_conversations(None, 9).await.expect("a page")), ["a", "c", "d"]);
    assert_eq!(ids(&rig.outbox.open_conversations_of(i64::MIN..41, None, 9).await.expect("a page")), ["d", "c"]);
}

#[tokio::test]
async fn waits_are_seen_when_the_analyses_are_done() {
    let rig = Rig::new();
    let waiting = Arrival {
        decisions: vec![("crm".into(), Decision::Waiting { deadline: START, ordered: true })],
        analyses: true,
        waiting_body: Some(Bytes::from_static(b"\"before\"")),
        ..begun("e", None)
    };
    rig.accept(vec![waiting]).await;
    let due = rig.outbox.analyses_due(0, 9).await.expect("a look");
    assert_eq!((due.len(), &due[0].body[..]), (1, &b"\"before\""[..]));
    let seen = async |rig: &Rig| {
        let (due, next) = rig.outbox.waits_due(START.plus(HOUR), 9).await.expect("a look");
        let of = rig.outbox.waits_of(&key("e")).await.expect("a look");
        assert_eq!(due.len(), of.len());
        assert_eq!(next, None);
        due
    };
    assert_eq!(seen(&rig).await.len(), 0);
    let rig = rig.reopen(options()).await;
    assert_eq!(seen(&rig).await.len(), 0, "after a restart too");
    let analysed = |body: &'static [u8], maps: &'static [u8], revision| Analysed {
        event: due[0].event,
        body: Some(Bytes::from_static(body)),
        change: Some((
            key("e"),
            ConversationChange {
                expected_revision: revision,
                maps: Some(Bytes::from_static(maps)),
                ..ConversationChange::default()
            },
        )),
    };
    let commit = async |analysed| {
        rig.outbox.commit(Batch { analysed: vec![analysed], ..Batch::default() }).await.expect("a commit");
    };
    commit(analysed(b"\"after\"", b"{\"analysis\":{\"a\":1}}", 1)).await;
    // A second round is nobody's: it finds nothing to end.
    commit(analysed(b"\"again\"", b"{}", 2)).await;
    assert_eq!(rig.outbox.analyses_due(0, 9).await.expect("a look").len(), 0);
    assert_eq!(&seen(&rig).await[0].body[..], b"\"after\"");
    let stored = rig.outbox.conversation(&key("e"), false).await.expect("a look").expect("a conversation");
    assert_eq!((&stored.maps[..], stored.events), (&b"{\"analysis\":{\"a\":1}}"[..], 1), "no event made that change");
}

#[tokio::test]
async fn a_store_of_the_version_before_is_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data");
    std::fs::create_dir(&path).expect("a directory");
    let before = rusqlite::Connection::open(path.join("outbox.db")).expect("a store");
    for part in [
        include_str!("../schema/0001.sql"),
        include_str!("../schema/0002.sql"),
        include_str!("../schema/0003.sql"),
        "INSERT INTO conversation VALUES (5, 3, 100, NULL, 3, 1, '', 'open', X'7B2261223A317D');
         INSERT INTO conversation VALUES (6, 1, 200, 300, 1, 0, '', 'ended', X'7B7D');
         INSERT INTO message VALUES ((5 << 24), X'7B7D');
         UPDATE meta SET next = 7, conversations_open = 1;
         PRAGMA user_version = 3;",
    ] {
        before.execute_batch(part).expect("a migration");
    }
    drop(before);
    let outbox = Outbox::open(&path, options(), Clock::manual(START)).expect("an outbox");
    let open = outbox.conversation(&key("open"), true).await.expect("a look").expect("a conversation");
    assert_eq!((open.revision, open.events, open.messages.len(), &open.maps[..]), (3, 3, 1, &b"{\"a\":1}"[..]));
    assert_eq!((open.heard_at, open.origin), (Some(Timestamp::from_millis(100)), None));
    assert_eq!(ids(&outbox.open_conversations(None, 9).await.expect("a page")), ["open"]);
    assert!(outbox.conversation(&key("ended"), true).await.expect("a look").is_some_and(|c| c.ended_at.is_some()));
}
