//! Batches: atomic, deduplicated, conversations by revision, grouped, and kept over a restart.

use super::*;

#[tokio::test]
async fn a_copy_is_skipped_and_named() {
    let rig = Rig::new();
    let until = START.plus(HOUR);
    let first = Arrival { dedupe: dedupe(1, 1, until), ..rendered("a", "c", "crm") };
    let copy = Arrival { dedupe: dedupe(1, 1, until), ..rendered("b", "c", "crm") };
    let other = Arrival { dedupe: dedupe(2, 1, until), ..rendered("d", "c", "crm") };
    let receipt = rig.accept(vec![first, copy, other]).await;
    assert_eq!(receipt.duplicates, [None, Some("a".to_owned()), None]);
    let copy = Arrival { dedupe: dedupe(1, 1, until), ..rendered("e", "c", "crm") };
    assert_eq!(rig.accept(vec![copy]).await.duplicates, [Some("a".to_owned())]);
    assert_eq!(rig.row("crm").await.created, 2);
    let seen = rig.outbox.seen(vec![vec![1; 16], vec![9; 16]], START).await.expect("a look");
    assert_eq!(seen, [Some(Seen { event_id: "a".to_owned(), fingerprint: [1; 16] }), None]);
}

#[tokio::test]
async fn a_key_may_be_used_again_when_its_time_is_over() {
    let rig = Rig::new();
    rig.accept(vec![Arrival { dedupe: dedupe(1, 1, START.plus(HOUR)), ..rendered("a", "c", "crm") }]).await;
    let later = START.plus(HOUR);
    assert_eq!(rig.outbox.seen(vec![vec![1; 16]], later).await.expect("a look"), [None]);
    let again = Arrival { dedupe: dedupe(1, 2, later.plus(HOUR)), arrived: later, ..rendered("b", "c", "crm") };
    assert_eq!(rig.accept(vec![again]).await.duplicates, [None]);
    let seen = rig.outbox.seen(vec![vec![1; 16]], later).await.expect("a look");
    assert_eq!(seen[0].as_ref().map(|s| s.event_id.as_str()), Some("b"));
}

#[tokio::test]
async fn the_same_id_for_something_else_refuses_the_whole_batch() {
    let rig = Rig::new();
    let until = START.plus(HOUR);
    rig.accept(vec![Arrival { dedupe: dedupe(1, 1, until), ..rendered("a", "c", "crm") }]).await;
    let fresh = rendered("b", "c", "new");
    let clash = Arrival { dedupe: dedupe(1, 2, until), ..rendered("a", "x", "crm") };
    let batch = Batch { arrivals: vec![fresh, clash], ..Batch::default() };
    let error = rig.outbox.commit(batch).await.expect_err("a conflict");
    assert_eq!(error.to_string(), "event \"a\" (item 1) was already accepted with another type or conversation");
    assert_eq!(rig.row("crm").await.created, 1);
    assert_eq!(rig.row("new").await, LedgerRow::default(), "no trace of the webhook either");
    assert_eq!(rig.outbox.health().borrow().clone(), Health::Healthy);
    // A name that was rolled back can be entered again.
    rig.accept(vec![rendered("c", "c", "new")]).await;
    assert_eq!(rig.row("new").await.created, 1);
}

#[tokio::test]
async fn a_refused_batch_spoils_no_other_of_its_group() {
    let rig = Rig::new();
    let until = START.plus(HOUR);
    rig.accept(vec![Arrival { dedupe: dedupe(1, 1, until), ..rendered("a", "c", "crm") }]).await;
    let mut tasks = Vec::new();
    for n in 0..60 {
        let outbox = rig.outbox.clone();
        let mut one = rendered(&format!("m{n}"), &format!("c{n}"), "crm");
        if n % 3 == 0 {
            one.dedupe = dedupe(1, 9, until);
        }
        tasks.push(tokio::spawn(async move {
            outbox.commit(Batch { arrivals: vec![one], ..Batch::default() }).await.is_ok()
        }));
    }
    let mut good = 0;
    for task in tasks {
        good += u64::from(task.await.expect("a task"));
    }
    assert_eq!(good, 40);
    assert_eq!(rig.row("crm").await.created, 41);
}

#[tokio::test]
async fn a_delivery_id_that_is_taken_refuses_its_batch_only() {
    let rig = Rig::new();
    rig.accept(vec![rendered("a", "c", "crm")]).await;
    let batch = Batch { arrivals: vec![rendered("a", "d", "crm")], ..Batch::default() };
    let error = rig.outbox.commit(batch).await.expect_err("a refusal").to_string();
    assert!(error.contains("UNIQUE constraint failed: delivery.id"), "{error}");
    assert_eq!(rig.outbox.health().borrow().clone(), Health::Healthy);
    assert_eq!(rig.row("crm").await.created, 1);
}

fn change(expected_revision: u64) -> ConversationChange {
    ConversationChange {
        expected_revision,
        heard: Some(Heard { lives: true, origin: None }),
        ..ConversationChange::default()
    }
}

fn texts(conversation: &Conversation) -> Vec<&[u8]> {
    conversation.messages.iter().map(|m| &m[..]).collect()
}

#[tokio::test]
async fn changes_of_a_conversation_build_on_each_other() {
    let rig = Rig::new();
    let with = |change| Arrival { change: Some(change), ..arrival("e", "c") };
    let first = ConversationChange {
        append_messages: vec![Bytes::from_static(b"1"), Bytes::from_static(b"2")],
        maps: Some(Bytes::from_static(b"{\"a\":1}")),
        ..change(0)
    };
    let second = ConversationChange { append_messages: vec![Bytes::from_static(b"3")], ..change(1) };
    rig.accept(vec![with(first), with(second)]).await;
    let stored = rig.outbox.conversation(&key("c"), true).await.expect("a look").expect("a conversation");
    assert_eq!((stored.revision, stored.events, stored.opened_at, stored.ended_at), (2, 2, START, None));
    assert_eq!(texts(&stored), [b"1", b"2", b"3"]);
    assert_eq!(&stored.maps[..], b"{\"a\":1}");

    for stale in [0, 1, 3] {
        let batch = Batch { arrivals: vec![rendered("x", "c", "crm"), with(change(stale))], ..Batch::default() };
        let error = rig.outbox.commit(batch).await.expect_err("stale");
        assert!(matches!(error, CommitError::Stale), "{error}");
    }
    assert_eq!(rig.row("crm").await.created, 0);

    let third = ConversationChange {
        replace_messages: Some(vec![Bytes::from_static(b"9")]),
        append_messages: vec![Bytes::from_static(b"10")],
        ended: Some(Some(START)),
        ..change(2)
    };
    rig.accept(vec![with(third)]).await;
    let rig = rig.reopen(options()).await;
    let stored = rig.outbox.conversation(&key("c"), true).await.expect("a look").expect("a conversation");
    assert_eq!(texts(&stored), [&b"9"[..], b"10"]);
    assert_eq!((stored.revision, stored.ended_at), (3, Some(START)));
    let other = ConversationKey { namespace: Arc::from("n"), id: Arc::from("c") };
    assert!(rig.outbox.conversation(&other, true).await.expect("a look").is_none(), "namespaces are apart");
}

#[tokio::test]
async fn open_conversations_are_counted_and_dropped_by_age() {
    let rig = Rig::new();
    let with = |id: &str, change| Arrival { change: Some(change), ..arrival("e", id) };
    rig.accept(vec![with("open", change(0)), with("ended", change(0)), with("again", change(0))]).await;
    let ended = || ConversationChange { ended: Some(Some(START)), ..change(1) };
    rig.accept(vec![with("ended", ended()), with("again", ended())]).await;
    rig.accept(vec![with("again", ConversationChange { ended: Some(None), ..change(2) })]).await;
    let open = async || rig.outbox.gauges().await.expect("figures").conversations_open;
    let there = async |id: &str| rig.outbox.conversation(&key(id), true).await.expect("a look").is_some();
    assert_eq!(open().await, 2);
    rig.clock.advance(HOUR + Duration::from_secs(1));
    rig.outbox.maintain().await;
    assert_eq!((there("ended").await, there("open").await, there("again").await), (false, true, true));
    rig.clock.advance(7 * 24 * HOUR);
    rig.outbox.maintain().await;
    assert_eq!((there("open").await, open().await), (false, 0));
    assert_eq!(rig.count("SELECT count(*) FROM message"), 0);
}

#[tokio::test]
async fn offsets_are_kept() {
    let rig = Rig::new();
    let batch = |at: &str| Batch { offsets: vec![("log".to_owned(), at.to_owned())], ..Batch::default() };
    rig.outbox.commit(batch("1")).await.expect("a commit");
    rig.outbox.commit(batch("2")).await.expect("a commit");
    let rig = rig.reopen(options()).await;
    assert_eq!(rig.outbox.offset("log").await.expect("a look"), Some("2".to_owned()));
    assert_eq!(rig.outbox.offset("other").await.expect("a look"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_together_share_a_transaction() {
    let rig = Rig::new();
    let before = rig.outbox.transactions();
    let tasks: Vec<_> = (0..400)
        .map(|n| {
            let outbox = rig.outbox.clone();
            let arrivals = vec![rendered(&format!("m{n}"), &format!("c{n}"), "crm")];
            tokio::spawn(async move { outbox.commit(Batch { arrivals, ..Batch::default() }).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task").expect("a commit");
    }
    let transactions = rig.outbox.transactions() - before;
    assert!((1..200).contains(&transactions), "{transactions} transactions for 400 commits");
    assert_eq!(rig.row("crm").await.pending, 400);
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_crash() {
    let rig = Rig::new();
    for n in 0..20 {
        rig.accept(vec![rendered(&format!("m{n}"), "c", "crm")]).await;
    }
    let row = rig.due("crm").await[0].row;
    rig.settle(row, Verdict::Delivered).await;
    let copy = tempfile::tempdir().expect("a directory");
    snapshot(rig.dir.path(), copy.path());
    let outbox = Outbox::open(copy.path(), options(), rig.clock.clone()).expect("the copy");
    assert_eq!(outbox.ledger().await.expect("a ledger"), rig.outbox.ledger().await.expect("a ledger"));
    let due = outbox.due("crm", rig.now(), 10).await.expect("a look");
    assert_eq!(due.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["m1"]);
    // Numbers go on where they stopped.
    let arrivals = vec![rendered("later", "x", "crm")];
    outbox.commit(Batch { arrivals, ..Batch::default() }).await.expect("a commit");
    assert_eq!(outbox.ledger().await.expect("a ledger").webhooks[0].pending, 20);
}

#[tokio::test]
async fn closing_finishes_what_is_queued_and_refuses_the_rest() {
    let rig = Rig::new();
    let outbox = rig.outbox.clone();
    let (a, b) = (vec![rendered("a", "c", "crm")], vec![rendered("b", "c", "crm")]);
    let (first, ()) = tokio::join!(outbox.commit(Batch { arrivals: a, ..Batch::default() }), rig.outbox.close());
    first.expect("it was queued before");
    let error = outbox.commit(Batch { arrivals: b, ..Batch::default() }).await.expect_err("closed");
    assert_eq!(error.to_string(), "the outbox is closed");
    assert!(!rig.dir.path().join("outbox.db-wal").exists(), "the log is copied into the store");
    rig.outbox.close().await;
    let again = Outbox::open(rig.dir.path(), options(), rig.clock.clone()).expect("free again");
    assert_eq!(again.ledger().await.expect("a ledger").webhooks[0].pending, 1);
}

#[tokio::test]
async fn the_log_begins_anew_however_much_is_written() {
    let rig = Rig::new();
    let size = |name: &str| std::fs::metadata(rig.dir.path().join(name)).expect(name).len();
    let body = Bytes::from(vec![b'x'; 64 * 1024]);
    let mut longest = 0;
    for n in 0..1200 {
        let mut one = rendered(&format!("m{n}"), &format!("c{n}"), "crm");
        one.decisions[0].1 =
            Decision::Rendered(vec![NewDelivery { body: Some(body.clone()), ..delivery(&format!("m{n}")) }]);
        rig.accept(vec![one]).await;
        longest = longest.max(size("outbox.db-wal"));
    }
    let page = 8 * 1024;
    let most = u64::from(limits::LOG_PAGES.unsigned_abs()) * 2 * page + 64 * page;
    assert!(longest <= most, "the log grew to {longest} bytes");
    assert!(size("outbox.db") > 1000 * 64 * 1024, "{} bytes are in the store itself", size("outbox.db"));
    let rig = rig.reopen(options()).await;
    assert_eq!(rig.row("crm").await.pending, 1200);
    assert!(crate::outbox::inspect(rig.dir.path(), true).expect("readable").problems.is_empty());
}
