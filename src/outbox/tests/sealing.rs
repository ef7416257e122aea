//! A store whose contents are sealed: what is in its files, what its keys open, and what a damaged value costs.

use rusqlite::Connection;

use super::*;
use crate::secret::SecretKey;

const WORDS: &str = "the-caller-said-so";

fn secret(byte: u8) -> SecretKey {
    use base64::Engine as _;
    SecretKey::parse(&base64::engine::general_purpose::STANDARD.encode([byte; 32])).expect("a key")
}

fn keyed(keys: &[u8]) -> Options {
    Options { retain_bodies: true, encryption_keys: keys.iter().map(|byte| secret(*byte)).collect(), ..options() }
}

fn words(of: &str) -> Bytes {
    Bytes::from(format!("{{\"{of}\":\"{WORDS}\"}}"))
}

/// Something of everything that holds content: a delivery with headers, a dead letter, a wait, a kept event, a conversation.
async fn fill(rig: &Rig, n: u32) {
    let change = ConversationChange {
        append_messages: vec![words("one"), words("two")],
        maps: Some(words("maps")),
        ..ConversationChange::default()
    };
    let sent = NewDelivery {
        body: Some(words("payload")),
        headers: vec![("x-said".to_owned(), WORDS.to_owned())],
        ..delivery(&format!("d{n}"))
    };
    let dead = NewDelivery { body: None, dead: Some(format!("rule_error: {WORDS}")), ..delivery(&format!("dead{n}")) };
    let waits = Decision::Waiting { deadline: START.plus(HOUR), ordered: false };
    let all = vec![
        (Arc::from("crm"), Decision::Rendered(vec![sent])),
        (Arc::from("sad"), Decision::RuleFailed(vec![dead])),
        (Arc::from("slow"), waits),
    ];
    rig.accept(vec![Arrival {
        decisions: all,
        change: Some(change),
        analyses: false,
        waiting_body: Some(words("waits")),
        kept_body: Some(words("kept")),
        ..arrival(&format!("e{n}"), &format!("c{n}"))
    }])
    .await;
}

/// Everything that [`fill`] stored comes back.
async fn is_whole(rig: &Rig, n: u32) {
    let due = rig.due("crm").await;
    let ready = due.iter().find(|r| r.id == format!("d{n}")).expect("the delivery");
    assert_eq!((&ready.body, &ready.headers[0].1), (&words("payload"), &WORDS.to_owned()));
    assert_eq!(rig.view(&format!("dead{n}")).await.reason, Some(format!("rule_error: {WORDS}")));
    let waits = rig.outbox.waits_of(&key(&format!("c{n}"))).await.expect("waits");
    assert_eq!(waits.iter().map(|w| &w.body).collect::<Vec<_>>(), [&words("waits")]);
    let (overdue, _) = rig.outbox.waits_due(START.plus(HOUR), 100).await.expect("waits");
    assert!(!overdue.is_empty() && overdue.iter().all(|w| w.body == words("waits")), "{overdue:?}");
    assert!(rig.outbox.recent_events(100).await.expect("events").iter().all(|body| *body == words("kept")));
    let kept = rig.outbox.kept_event(&format!("dead{n}")).await.expect("a look").expect("an event");
    assert_eq!((kept.body, kept.reason), (words("kept"), Some(format!("rule_error: {WORDS}"))));
    let state = rig.outbox.conversation(&key(&format!("c{n}")), true).await.expect("a look").expect("it");
    assert_eq!((state.maps, state.messages), (words("maps"), vec![words("one"), words("two")]));
}

/// Whether any file of the store holds the words, or nothing at all.
fn shows(rig: &Rig) -> bool {
    let mut bytes = 0;
    let mut shown = false;
    for entry in std::fs::read_dir(rig.dir.path()).expect("a directory") {
        let found = std::fs::read(entry.expect("an entry").path()).expect("a file");
        bytes += found.len();
        shown |= found.windows(WORDS.len()).any(|w| w == WORDS.as_bytes());
    }
    assert!(bytes > 8192);
    shown
}

fn change(rig: &Rig, sql: &str) {
    let conn = Connection::open(rig.dir.path().join("outbox.db")).expect("the store");
    assert!(conn.execute(sql, []).expect(sql) > 0, "{sql}");
}

async fn answered(rig: &Rig, row: i64, verdict: Verdict, response: String) {
    let attempt = Some(Attempt { response: Some(response), ..attempt(rig.now(), "200") });
    let batch = Batch { settlements: vec![Settlement { row, attempt, verdict }], ..Batch::default() };
    rig.outbox.commit(batch).await.expect("a commit");
}

#[tokio::test]
async fn no_file_shows_what_was_said_and_everything_comes_back() {
    let rig = Rig::with(keyed(&[1]));
    fill(&rig, 1).await;
    is_whole(&rig, 1).await;
    assert!(!shows(&rig));
    let rig = rig.reopen(keyed(&[1])).await;
    is_whole(&rig, 1).await;
    // Answers, short and long, and over a retry that moves the payload and the short one.
    let row = rig.due("crm").await[0].row;
    answered(&rig, row, Verdict::Retry(rig.now()), WORDS.repeat(10)).await;
    answered(&rig, row, Verdict::Delivered, WORDS.to_owned()).await;
    assert!(!shows(&rig));
    let answers = |view: DeliveryView| view.attempts.into_iter().filter_map(|a| a.response).collect::<Vec<_>>();
    assert_eq!(answers(rig.view("d1").await), [WORDS.repeat(10), WORDS.to_owned()]);
    assert_eq!(rig.outbox.retry("d1").await.expect("a retry"), Retried::Yes);
    is_whole(&rig, 1).await;
    assert_eq!(answers(rig.view("d1").await), [WORDS.repeat(10), WORDS.to_owned()]);
    rig.outbox.close().await;
    assert!(!shows(&rig));
    // The test would see them.
    let plain = Rig::new();
    fill(&plain, 1).await;
    assert!(shows(&plain));
}

#[tokio::test]
async fn keys_change_without_a_gap() {
    let rig = Rig::with(options());
    fill(&rig, 1).await;
    // Switched on while it runs: what was plain stays and is read.
    rig.outbox.set_options(keyed(&[1]));
    fill(&rig, 2).await;
    rig.outbox.set_options(keyed(&[2, 1]));
    fill(&rig, 3).await;
    // One that was taken off the list too early opens until the end of the process.
    rig.outbox.set_options(keyed(&[2]));
    for n in 1..=3 {
        is_whole(&rig, n).await;
    }
    let inspected = crate::outbox::inspect(rig.dir.path(), true).expect("readable");
    assert_eq!((inspected.problems, inspected.keys.len()), (Vec::new(), 2));
    assert!(inspected.keys.iter().all(|(id, values)| id.len() == 16 && *values == 8), "{:?}", inspected.keys);
    rig.outbox.close().await;
    for keys in [&[2][..], &[1], &[3], &[]] {
        let refused = Outbox::open(rig.dir.path(), keyed(keys), rig.clock.clone()).expect_err("refused").to_string();
        assert!(refused.contains("outbox.db: it holds what key ") && refused.contains("encryption_key"), "{refused}");
    }
    let rig = rig.reopen(keyed(&[3, 1, 2])).await;
    for n in 1..=3 {
        is_whole(&rig, n).await;
    }
    // A key whose values are all gone may go.
    rig.outbox.close().await;
    for table in ["body", "kept_event", "waiting_event", "wait", "conversation", "message", "delivery"] {
        change(&rig, &format!("DELETE FROM {table}"));
    }
    let rig = rig.reopen(keyed(&[3])).await;
    rig.accept(vec![arrival("more", "more")]).await;
    let inspected = crate::outbox::inspect(rig.dir.path(), false).expect("readable");
    assert_eq!(inspected.keys.len(), 1, "{:?}", inspected.keys);
}

#[tokio::test]
async fn a_store_is_looked_at_without_its_key_as_far_as_that_goes() {
    let rig = Rig::with(keyed(&[1]));
    fill(&rig, 1).await;
    let row = rig.due("crm").await[0].row;
    answered(&rig, row, Verdict::Delivered, WORDS.to_owned()).await;
    let without = Outbox::open_read_only(rig.dir.path(), rig.clock.clone()).expect("a reader");
    assert!(without.ledger().await.expect("the ledger").balanced);
    let page = without.list(&Filter::default(), None, 10).await.expect("a page");
    assert_eq!(page.items.len(), 2);
    let answer = without.get("d1").await.expect("a look").expect("it").attempts[0].response.clone().expect("told");
    assert!(answer.starts_with("(sealed by key "), "{answer}");
    let with = without.with_keys(&[secret(1)]).expect("keys");
    let answer = with.get("d1").await.expect("a look").expect("it").attempts[0].response.clone();
    assert_eq!(answer.as_deref(), Some(WORDS));
}

#[tokio::test]
async fn a_damaged_value_costs_itself_and_no_more() {
    let rig = Rig::with(keyed(&[1]));
    for n in 1..=3 {
        fill(&rig, n).await;
    }
    // One payload damaged, two swapped headers: neither opens. The third delivery goes on.
    let row = |id: &str| rig.count(&format!("SELECT row FROM delivery WHERE id = '{id}'"));
    let (one, two, three) = (row("d1"), row("d2"), row("d3"));
    change(&rig, &format!("UPDATE body SET body = substr(body, 1, 50) WHERE key & 0xffffffffff = {one}"));
    change(
        &rig,
        &format!("UPDATE delivery SET headers = (SELECT headers FROM delivery WHERE row = {three}) WHERE row = {two}"),
    );
    change(&rig, "UPDATE waiting_event SET body = substr(body, 1, 50) WHERE event_id = 'e1'");
    change(&rig, "UPDATE kept_event SET body = substr(body, 1, 50) WHERE event_id = 'e1'");
    change(&rig, "UPDATE conversation SET maps = substr(maps, 1, 50) WHERE id = 'c1'");
    change(&rig, "UPDATE message SET body = substr(body, 1, 50) WHERE key = (SELECT min(key) FROM message)");
    assert_eq!(rig.due_ids("crm").await, ["d3"]);
    // What was found is given up behind the look, before anything that is asked later.
    rig.accept(vec![]).await;
    for id in ["d1", "d2"] {
        let view = rig.view(id).await;
        let reason = view.reason.expect("a reason");
        assert_eq!(view.state, State::Dead);
        assert!(reason.starts_with("payload_unreadable: it is damaged, or was moved"), "{reason}");
    }
    assert_eq!(rig.row("crm").await.dead, 2);
    // A wait and a kept event say that there is nothing; a conversation goes on with what is left of it.
    let first = key("c1");
    assert!(rig.outbox.waits_of(&first).await.expect("waits")[0].body.is_empty());
    assert_eq!(rig.outbox.kept_event("dead1").await.expect("a look"), None);
    let kept = rig.outbox.kept_events(START, START.plus(HOUR), 0, 10).await.expect("a page").bodies;
    assert_eq!(kept, [Bytes::new(), words("kept"), words("kept")]);
    let state = rig.outbox.conversation(&first, true).await.expect("a look").expect("it");
    assert_eq!((&state.maps[..], state.messages), (&b"{}"[..], vec![words("two")]));
    let rig = rig.reopen(keyed(&[1])).await;
    assert_eq!(rig.due_ids("crm").await, ["d3"]);
    let page = rig.outbox.list(&Filter::default(), None, 10).await.expect("a page");
    assert_eq!(page.items.len(), 6);
}

#[tokio::test]
async fn what_is_announced_and_cannot_be_read_gives_way_to_what_is_behind_it() {
    let rig = Rig::with(keyed(&[1]));
    rig.accept(vec![rendered("a", "c", "crm"), rendered("b", "c", "crm"), rendered("c", "c", "crm")]).await;
    let first = rig.due("crm").await[0].row;
    let mut ready = rig.outbox.ready().expect("the channel");
    let behind = rig.count("SELECT row FROM delivery WHERE id = 'b'");
    change(&rig, &format!("UPDATE body SET body = substr(body, 1, 41) WHERE key & 0xffffffffff = {behind}"));
    rig.settle(first, Verdict::Delivered).await;
    assert_eq!(ready.recv().await.map(|r| r.id), Some("c".to_owned()));
    assert_eq!(rig.view("b").await.state, State::Dead);
    assert_eq!(rig.row("crm").await.dead, 1);
}

#[tokio::test]
async fn a_damaged_marker_refuses_the_start() {
    let rig = Rig::with(keyed(&[1]));
    fill(&rig, 1).await;
    rig.outbox.close().await;
    change(&rig, "UPDATE sealing SET marker = substr(marker, 1, 41)");
    let refused = Outbox::open(rig.dir.path(), keyed(&[1]), rig.clock.clone()).expect_err("refused").to_string();
    assert!(refused.contains("outbox.db: what key ") && refused.contains("cannot be opened with it"), "{refused}");
}
